//! Changes that become durable together, and how they are seen before they are.

use super::backend::{RangeIter, Space};
use super::error::StorageError;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::Bound;

/// Changes by key: a value, or none for a removal. The last change of a key stands.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    spaces: [BTreeMap<Bytes, Option<Bytes>>; Space::ALL.len()],
    bytes: usize,
}

impl Batch {
    /// Adds a change.
    pub fn set(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        let added = key.len() + value.as_ref().map_or(0, Bytes::len);
        self.bytes += added;
        if let Some(old) = self.spaces[space as usize].insert(key, value) {
            self.bytes = self.bytes.saturating_sub(old.as_ref().map_or(0, Bytes::len));
        }
    }

    /// The change of a key, if there is one.
    #[must_use]
    pub fn change(&self, space: Space, key: &[u8]) -> Option<&Option<Bytes>> {
        self.spaces[space as usize].get(key)
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spaces.iter().all(BTreeMap::is_empty)
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spaces.iter().map(BTreeMap::len).sum()
    }

    /// Bytes of keys and values, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All changes, by space and key.
    pub fn changes(&self) -> impl Iterator<Item = (Space, &Bytes, &Option<Bytes>)> {
        Space::ALL
            .into_iter()
            .flat_map(|space| self.spaces[space as usize].iter().map(move |(k, v)| (space, k, v)))
    }

    /// The changes of a range; an empty `end` means no end.
    fn range(&self, space: Space, start: &[u8], end: &[u8]) -> Changes<'_> {
        let upper = match end {
            [] => Bound::Unbounded,
            // An end before the start would be a panic in the map; it is an empty range.
            end => Bound::Excluded(end.max(start)),
        };
        self.spaces[space as usize].range::<[u8], _>((Bound::Included(start), upper))
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

type Changes<'a> = btree_map::Range<'a, Bytes, Option<Bytes>>;

struct Merge<'a> {
    changes: Peekable<Changes<'a>>,
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
            if let Some((key, Some(value))) = self.changes.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
