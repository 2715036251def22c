//! Changes that become durable together, and how they are seen before they are.

use super::backend::{RangeIter, Space};
use super::error::StorageError;
use bytes::Bytes;
use fulcrum_types::GroupId;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::iter::Peekable;
use std::ops::Bound;

/// Changes by key: a value, or none for a removal. The last change of a key stands.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    spaces: [Parts; Space::ALL.len()],
}

/// The changes of one space, by what its keys begin with: the group. Parts are in the order of their keys.
#[derive(Clone, Debug, Default)]
struct Parts {
    by_start: BTreeMap<u64, Changes>,
    bytes: usize,
}

/// The changes of one group in one space.
#[derive(Clone, Debug, Default)]
struct Changes {
    by_key: BTreeMap<Bytes, Change>,
    bytes: usize,
}

/// The first eight bytes of a key, as a number of the same order.
fn start_of(key: &[u8]) -> u64 {
    let mut start = [0; 8];
    let length = key.len().min(8);
    start[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(start)
}

impl Parts {
    fn set(&mut self, key: Bytes, value: Option<Bytes>, fresh: bool) {
        let part = self.by_start.entry(start_of(&key)).or_default();
        self.bytes -= part.bytes;
        part.set(key, value, fresh);
        self.bytes += part.bytes;
    }

    fn change(&self, key: &[u8]) -> Option<&Change> {
        self.by_start.get(&start_of(key))?.by_key.get(key)
    }

    fn take(&mut self, start: u64) -> Option<Changes> {
        let part = self.by_start.remove(&start)?;
        self.bytes -= part.bytes;
        Some(part)
    }

    fn all(&self) -> impl Iterator<Item = (&Bytes, &Change)> {
        self.by_start.values().flat_map(|part| &part.by_key)
    }

    fn len(&self) -> usize {
        self.by_start.values().map(|part| part.by_key.len()).sum()
    }
}

#[derive(Clone, Debug)]
struct Change {
    value: Option<Bytes>,
    /// Nothing below this batch has the key: removed before the batch leaves, it leaves no trace.
    fresh: bool,
}

impl Changes {
    fn set(&mut self, key: Bytes, value: Option<Bytes>, fresh: bool) {
        self.bytes += value.as_ref().map_or(0, Bytes::len);
        match self.by_key.entry(key) {
            Entry::Vacant(new) => {
                self.bytes += new.key().len();
                new.insert(Change { value, fresh });
            }
            Entry::Occupied(mut known) => {
                self.bytes -= known.get().value.as_ref().map_or(0, Bytes::len);
                if known.get().fresh && value.is_none() {
                    self.bytes -= known.key().len();
                    known.remove();
                } else {
                    known.get_mut().value = value;
                }
            }
        }
    }
}

impl Batch {
    /// Adds a change.
    pub fn set(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        self.spaces[space as usize].set(key, value, false);
    }

    /// Adds the value of a key that nothing below this batch has.
    pub fn set_new(&mut self, space: Space, key: Bytes, value: Bytes) {
        self.spaces[space as usize].set(key, Some(value), true);
    }

    /// The change of a key, if there is one.
    #[must_use]
    pub fn change(&self, space: Space, key: &[u8]) -> Option<&Option<Bytes>> {
        self.spaces[space as usize].change(key).map(|change| &change.value)
    }

    /// Takes out what cannot wait: all but the changes of [`Space::State`].
    pub fn take_urgent(&mut self) -> Batch {
        let mut urgent = std::mem::take(self);
        std::mem::swap(
            &mut self.spaces[Space::State as usize],
            &mut urgent.spaces[Space::State as usize],
        );
        urgent
    }

    /// Moves the changes of one group's state over from another batch, which is newer where they meet.
    pub fn take_state(&mut self, from: &mut Batch, group: GroupId) {
        let Some(part) = from.spaces[Space::State as usize].take(group.0) else {
            return;
        };
        let state = &mut self.spaces[Space::State as usize];
        state.bytes += part.bytes;
        let before = state.by_start.insert(group.0, part);
        debug_assert!(before.is_none(), "a state is taken once");
    }

    /// The changes of one group.
    #[must_use]
    pub fn of(&self, group: GroupId) -> Batch {
        let part = |parts: &Parts| {
            let part = parts.by_start.get(&group.0).cloned();
            Parts {
                bytes: part.as_ref().map_or(0, |part| part.bytes),
                by_start: part.map(|part| (group.0, part)).into_iter().collect(),
            }
        };
        Batch {
            spaces: self.spaces.each_ref().map(part),
        }
    }

    /// The group with the most changes of state, in bytes.
    #[must_use]
    pub fn largest_state(&self) -> Option<GroupId> {
        let parts = &self.spaces[Space::State as usize].by_start;
        let largest = parts.iter().max_by_key(|(_, part)| part.bytes);
        largest.map(|(start, _)| GroupId(*start))
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spaces.iter().map(Parts::len).sum()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.spaces.iter().map(|parts| parts.bytes).sum()
    }

    /// Bytes of keys and values in one space.
    #[must_use]
    pub fn bytes_in(&self, space: Space) -> usize {
        self.spaces[space as usize].bytes
    }

    /// All changes, by space and key.
    pub fn changes(&self) -> impl Iterator<Item = (Space, &Bytes, &Option<Bytes>)> {
        Space::ALL.into_iter().flat_map(|space| {
            let changes = self.spaces[space as usize].all();
            changes.map(move |(key, change)| (space, key, &change.value))
        })
    }

    /// The changes of a range; an empty `end` means no end.
    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> Range<'a> {
        let (lower, upper) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        let last = if end.is_empty() { u64::MAX } else { start_of(end) };
        let first = start_of(start);
        // An end before the start would be a panic in the map; it is an empty range.
        let parts = self.spaces[space as usize].by_start.range(first..=last.max(first));
        Box::new(parts.flat_map(move |(_, part)| {
            let upper = match &upper[..] {
                [] => Bound::Unbounded,
                end => Bound::Excluded(end.max(&lower)),
            };
            part.by_key.range::<[u8], _>((Bound::Included(&lower[..]), upper))
        }))
    }

    /// `below` as it looks with this batch's changes on top.
    pub(super) fn over<'a>(&'a self, space: Space, start: &[u8], end: &[u8], below: RangeIter<'a>) -> RangeIter<'a> {
        let mut changes = self.range(space, start, end).peekable();
        if changes.peek().is_none() {
            return below;
        }
        Box::new(Merge {
            changes,
            below: below.peekable(),
        })
    }
}

type Range<'a> = Box<dyn Iterator<Item = (&'a Bytes, &'a Change)> + 'a>;

struct Merge<'a> {
    changes: Peekable<Range<'a>>,
    below: Peekable<RangeIter<'a>>,
}

impl Iterator for Merge<'_> {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((changed, _)) = self.changes.peek() else {
                return self.below.next();
            };
            match self.below.peek() {
                Some(Err(_)) => return self.below.next(),
                Some(Ok((key, _))) if key < changed => return self.below.next(),
                Some(Ok((key, _))) if key == *changed => {
                    self.below.next();
                }
                _ => {}
            }
            // A removal hides the record below it, which is skipped by now.
            if let Some((key, change)) = self.changes.next()
                && let Some(value) = &change.value
            {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
