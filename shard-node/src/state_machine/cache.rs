//! Hot records in memory, so that reading one costs no descent into the store.
//!
//! Two generations: what is found in the old one moves to the young one; when the young one is full it becomes the old one,
//! and what was not asked for meanwhile is forgotten. The cache changes no answer, only its cost.

use super::value::{Content, Record};
use bytes::Bytes;
use foldhash::fast::RandomState;
use std::collections::HashMap;

/// What is kept for a key: its record, or that there is none.
type Cached = Option<Record>;

/// Keys are hashed with a seed of this process: fast, and not to be guessed.
type Generation = HashMap<Bytes, Cached, RandomState>;

pub(super) struct Cache {
    young: Generation,
    old: Generation,
    young_bytes: usize,
    /// Most bytes of one generation.
    budget: usize,
}

impl Cache {
    /// A cache of at most about `bytes`; none at all if that is zero.
    pub(super) fn new(bytes: usize) -> Self {
        Cache {
            young: Generation::default(),
            old: Generation::default(),
            young_bytes: 0,
            budget: bytes / 2,
        }
    }

    /// Sets the bound anew; what is over it goes as it would have gone.
    pub(super) fn resize(&mut self, bytes: usize) {
        self.budget = bytes / 2;
        if self.young_bytes > self.budget {
            self.age();
        }
    }

    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.young_bytes = 0;
    }

    pub(super) fn get(&mut self, key: &[u8]) -> Option<Cached> {
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let (key, found) = self.old.remove_entry(key)?;
        self.insert(key, found.clone());
        Some(found)
    }

    /// Keeps what a read found.
    pub(super) fn insert(&mut self, key: Bytes, record: Cached) {
        let size = size(&key, &record);
        if size > self.budget / 8 {
            return;
        }
        if self.young_bytes + size > self.budget {
            self.age();
        }
        self.young_bytes += size;
        let (key, record) = side_by_side(&key, record);
        if let Some(replaced) = self.young.insert(key.clone(), record) {
            self.young_bytes -= self::size(&key, &replaced);
        }
    }

    /// A write changes the key: keeps what it is now if it was known before.
    pub(super) fn update(&mut self, key: &[u8], record: impl FnOnce() -> Record) {
        let in_young = self.young.remove_entry(key);
        if let Some((key, replaced)) = &in_young {
            self.young_bytes -= size(key, replaced);
        }
        let known = in_young.or_else(|| self.old.remove_entry(key));
        if let Some((key, _)) = known {
            self.insert(key, Some(record()));
        }
    }

    /// The key's record is gone.
    pub(super) fn forget(&mut self, key: &[u8]) {
        if let Some((key, replaced)) = self.young.remove_entry(key) {
            self.young_bytes -= size(&key, &replaced);
        }
        self.old.remove(key);
    }
}

/// Larger values are shared with whoever has them: copying would cost more than it saves.
const SMALL: usize = 1024;

/// The same with key and value in one piece of memory: whoever compares the one has half fetched the other.
fn side_by_side(key: &Bytes, record: Cached) -> (Bytes, Cached) {
    let (version, value, expires_at_ms) = match record {
        Some(Record {
            version,
            content: Content::Value { value, expires_at_ms },
        }) if value.len() <= SMALL => (version, value, expires_at_ms),
        record => return (key.clone(), record),
    };
    let mut both = Vec::with_capacity(key.len() + value.len());
    both.extend_from_slice(key);
    both.extend_from_slice(&value);
    let mut key_and_value = Bytes::from(both);
    let key = key_and_value.split_to(key.len());
    let content = Content::Value {
        value: key_and_value,
        expires_at_ms,
    };
    (key, Some(Record { version, content }))
}

/// What the map (its slots are never all taken) and the allocator (key, record and what shares it) add to an entry.
const ENTRY_BYTES: usize = 260;

/// Bytes that an entry takes.
fn size(key: &Bytes, record: &Cached) -> usize {
    let value = match record {
        Some(Record {
            content: Content::Value { value, .. },
            ..
        }) => value.len(),
        _ => 0,
    };
    key.len() + value + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::Version;

    fn record(version: u64) -> Record {
        let content = Content::Value {
            value: Bytes::from_static(b"v"),
            expires_at_ms: 0,
        };
        Record {
            version: Version(version),
            content,
        }
    }

    fn key(n: u32) -> Bytes {
        Bytes::from(n.to_be_bytes().to_vec())
    }

    #[test]
    fn it_stays_within_its_budget_and_keeps_what_is_hot() {
        let mut cache = Cache::new(100_000);
        cache.insert(key(0), Some(record(1)));
        for n in 1..10_000 {
            cache.insert(key(n), Some(record(1)));
            assert!(cache.get(&key(0)).is_some(), "hot key forgotten at {n}");
        }
        assert!(cache.young.len() + cache.old.len() <= 100_000 / ENTRY_BYTES);
    }

    #[test]
    fn a_write_is_seen_in_either_generation() {
        let mut cache = Cache::new(10_000);
        cache.insert(key(0), Some(record(1)));
        cache.old = std::mem::take(&mut cache.young);
        cache.young_bytes = 0;
        cache.update(&key(0), || record(2));
        assert_eq!(cache.get(&key(0)), Some(Some(record(2))));
        cache.update(&key(0), || record(3));
        assert_eq!(cache.get(&key(0)), Some(Some(record(3))));
        cache.forget(&key(0));
        assert_eq!(cache.get(&key(0)), None);
        cache.update(&key(0), || record(4));
        assert_eq!(cache.get(&key(0)), None, "a write alone makes nothing hot");
    }
}
