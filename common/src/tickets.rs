//! What is waited for, under numbers that are given out in order.
//!
//! Most of it is over soon, in about the order in which it began: so it is kept in a queue, where it is found by counting,
//! at the cost of neither a hash nor a look into far memory. What lasts longer moves to a map, so that one straggler does not
//! keep the room of all that came after it.

use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};

/// Places of the queue. What many requests at once need, and little memory.
const QUEUE: usize = 16 * 1024;

/// Things under rising numbers.
#[derive(Debug)]
pub struct Tickets<T> {
    recent: VecDeque<Option<T>>,
    /// Number of the first place of the queue.
    first: u64,
    stragglers: HashMap<u64, T, RandomState>,
    count: usize,
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self {
            recent: VecDeque::new(),
            first: 0,
            stragglers: HashMap::default(),
            count: 0,
        }
    }
}

impl<T> Tickets<T> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one. Its number must be above all that were added before; numbers may be left out.
    pub fn insert(&mut self, number: u64, thing: T) {
        let next = self.first + self.recent.len() as u64;
        assert!(number >= next, "number {number} was given out before {next}");
        self.count += 1;
        let Ok(skipped @ 0..QUEUE) = usize::try_from(number - next) else {
            self.all_straggle();
            self.first = number;
            return self.recent.push_back(Some(thing));
        };
        if self.recent.is_empty() {
            self.first = number;
        } else {
            self.recent.extend(std::iter::repeat_with(|| None).take(skipped));
        }
        self.recent.push_back(Some(thing));
        while self.recent.len() > QUEUE {
            self.first_straggles();
        }
    }

    fn first_straggles(&mut self) {
        if let Some(thing) = self.recent.pop_front().flatten() {
            self.stragglers.insert(self.first, thing);
        }
        self.first += 1;
    }

    fn all_straggle(&mut self) {
        while !self.recent.is_empty() {
            self.first_straggles();
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, number: u64) -> Option<T> {
        let removed = match number.checked_sub(self.first) {
            Some(place) => self.recent.get_mut(usize::try_from(place).ok()?)?.take(),
            None => self.stragglers.remove(&number),
        }?;
        self.count -= 1;
        while let Some(None) = self.recent.front() {
            self.recent.pop_front();
            self.first += 1;
        }
        Some(removed)
    }

    /// Takes out those that are chosen, in the order of their numbers.
    pub fn extract(&mut self, mut chosen: impl FnMut(u64, &T) -> bool) -> Vec<(u64, T)> {
        let stragglers = self.stragglers.extract_if(|number, thing| chosen(*number, thing));
        let mut out: Vec<(u64, T)> = stragglers.collect();
        out.sort_unstable_by_key(|(number, _)| *number);
        for (number, place) in (self.first..).zip(&mut self.recent) {
            if let Some(thing) = place.take_if(|thing| chosen(number, thing)) {
                out.push((number, thing));
            }
        }
        self.count -= out.len();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn it_holds_what_a_map_would_hold() {
        let (mut tickets, mut map) = (Tickets::default(), BTreeMap::new());
        let (mut noise, mut last) = (1u64, 0);
        let mut draw = |below: u64| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (noise >> 33) % below
        };
        for step in 0..200_000 {
            match draw(100) {
                0..48 => {
                    last += match draw(5_000) {
                        0 => 1 + draw(3 * QUEUE as u64),
                        other => 1 + other % 2,
                    };
                    tickets.insert(last, step);
                    map.insert(last, step);
                }
                // Mostly the oldest, sometimes any, sometimes what is not there.
                other => {
                    let oldest = map.keys().next().copied().unwrap_or(0);
                    let number = match other {
                        48..90 => oldest + draw(40),
                        _ => draw(last + 10),
                    };
                    assert_eq!(tickets.remove(number), map.remove(&number));
                }
            }
            if step % 10_000 == 9_999 {
                let chosen = |number: u64, _: &i32| number.is_multiple_of(7);
                let expected: Vec<(u64, i32)> = map.extract_if(.., |number, thing| chosen(*number, thing)).collect();
                assert_eq!(tickets.extract(chosen), expected);
            }
            assert_eq!((tickets.len(), tickets.is_empty()), (map.len(), map.is_empty()));
        }
        assert_eq!(tickets.extract(|_, _| true), map.into_iter().collect::<Vec<_>>());
        assert!(tickets.is_empty());
    }

    #[test]
    fn a_straggler_does_not_keep_the_room_of_what_came_after_it() {
        let mut tickets = Tickets::default();
        tickets.insert(1, "first");
        for number in 2..10 * QUEUE as u64 {
            tickets.insert(number, "later");
            tickets.remove(number);
        }
        assert!(tickets.recent.len() <= QUEUE && tickets.recent.capacity() <= 4 * QUEUE);
        assert_eq!((tickets.len(), tickets.remove(1)), (1, Some("first")));
    }

    #[test]
    #[should_panic(expected = "was given out before")]
    fn numbers_rise() {
        let mut tickets = Tickets::default();
        tickets.insert(2, ());
        tickets.insert(2, ());
    }
}
