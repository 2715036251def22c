//! Changes that become durable together, and how they are seen before they are.

use super::backend::{RangeIter, Space};
use super::error::StorageError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::btree_map::{self, Entry};
use std::iter::Peekable;
use std::ops::Bound;

/// Changes by key: a value, or none for a removal. The last change of a key stands.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    spaces: [Changes; Space::ALL.len()],
}

/// The changes of one space.
#[derive(Clone, Debug, Default)]
struct Changes {
    by_key: BTreeMap<Bytes, Change>,
    bytes: usize,
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
        self.spaces[space as usize].by_key.get(key).map(|change| &change.value)
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

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spaces.iter().all(|changes| changes.by_key.is_empty())
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spaces.iter().map(|changes| changes.by_key.len()).sum()
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.spaces.iter().map(|changes| changes.bytes).sum()
    }

    /// Bytes of keys and values in one space.
    #[must_use]
    pub fn bytes_in(&self, space: Space) -> usize {
        self.spaces[space as usize].bytes
    }

    /// All changes, by space and key.
    pub fn changes(&self) -> impl Iterator<Item = (Space, &Bytes, &Option<Bytes>)> {
        Space::ALL.into_iter().flat_map(|space| {
            let changes = self.spaces[space as usize].by_key.iter();
            changes.map(move |(key, change)| (space, key, &change.value))
        })
    }

    /// The changes of a range; an empty `end` means no end.
    fn range(&self, space: Space, start: &[u8], end: &[u8]) -> Range<'_> {
        let upper = match end {
            [] => Bound::Unbounded,
            // An end before the start would be a panic in the map; it is an empty range.
            end => Bound::Excluded(end.max(start)),
        };
        self.spaces[space as usize]
            .by_key
            .range::<[u8], _>((Bound::Included(start), upper))
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

type Range<'a> = btree_map::Range<'a, Bytes, Change>;

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
