//! What is going to happen, in order of time; ties in the order in which they were planned.

use super::time::Time;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

struct Planned<T> {
    at: Time,
    order: u64,
    what: T,
}

impl<T> PartialEq for Planned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Planned<T> {}
impl<T> PartialOrd for Planned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Planned<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// A queue of future happenings.
pub struct Queue<T> {
    heap: BinaryHeap<Planned<T>>,
    planned: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            planned: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Plans something.
    pub fn at(&mut self, at: Time, what: T) {
        self.planned += 1;
        self.heap.push(Planned {
            at,
            order: self.planned,
            what,
        });
    }

    /// How much is planned.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The next to happen, if it is due by `until`.
    pub fn next(&mut self, until: Time) -> Option<(Time, T)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|p| (p.at, p.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_of_time_then_of_planning() {
        let mut queue = Queue::default();
        queue.at(5, 'b');
        queue.at(3, 'a');
        queue.at(5, 'c');
        let order: Vec<_> = std::iter::from_fn(|| queue.next(5)).collect();
        assert_eq!(order, [(3, 'a'), (5, 'b'), (5, 'c')]);
        queue.at(9, 'd');
        assert_eq!(queue.next(8), None);
    }
}
