//! Reads of the state at its applied position.

use super::value::Record;
use super::{StateMachine, damaged};
use crate::storage::{Reader, Space, StateKind, StorageError, Store, state_key, state_range};
use bytes::Bytes;
use fulcrum_types::{ReplicatedTime, Versioned};
use xxhash_rust::xxh3::Xxh3;

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// In key order.
    pub rows: Vec<(Bytes, Versioned)>,
    /// Whether the range has been read to its end.
    pub complete: bool,
}

impl StateMachine {
    /// The time at which expiry is judged: that of the last entry applied.
    #[must_use]
    pub fn time(&self) -> ReplicatedTime {
        self.applied.time
    }

    /// The value of a key.
    pub fn get(&mut self, store: &Store, key: &Bytes) -> Result<Option<Versioned>, StorageError> {
        let at = self.time();
        Ok(self.read_record(store, key)?.and_then(|record| record.visible(at)))
    }

    /// The rows from `start` (inclusive) to `end` (exclusive; empty means no end), at most `limit` of them and about
    /// `max_bytes` in all; at least one if there is any and `limit` allows it.
    pub fn scan(
        &self,
        store: &Store,
        start: &[u8],
        end: &[u8],
        limit: usize,
        max_bytes: usize,
    ) -> Result<Rows, StorageError> {
        let (first, after) = state_range(self.group, self.generation, StateKind::Value);
        let from = state_key(self.group, self.generation, StateKind::Value, start);
        let to = if end.is_empty() {
            after
        } else {
            state_key(self.group, self.generation, StateKind::Value, end)
        };
        let mut rows = Vec::new();
        let mut bytes = 0;
        for record in store.range(Space::State, &from, &to) {
            let (key, value) = record?;
            let Some(found) = Record::decode(value)
                .map_err(|e| damaged("value", e))?
                .visible(self.time())
            else {
                continue;
            };
            let key = key.slice(first.len()..);
            bytes += key.len() + found.value.len();
            if rows.len() == limit || (bytes > max_bytes && !rows.is_empty()) {
                return Ok(Rows { rows, complete: false });
            }
            rows.push((key, found));
        }
        Ok(Rows { rows, complete: true })
    }

    /// A hash of the whole state, retry table and tombstones included: equal on replicas that applied the same entries.
    /// Reads everything; for tests and for checks on request.
    pub fn checksum(&self, store: &Store) -> Result<u64, StorageError> {
        let mut hash = Xxh3::new();
        for kind in StateKind::ALL {
            let (start, end) = state_range(self.group, self.generation, kind);
            for record in store.range(Space::State, &start, &end) {
                let (key, value) = record?;
                // Not the group nor the generation: a snapshot installs the same state under another.
                let own = &key[start.len() - 1..];
                hash.update(&(own.len() as u64).to_be_bytes());
                hash.update(own);
                hash.update(&(value.len() as u64).to_be_bytes());
                hash.update(&value);
            }
        }
        Ok(hash.digest())
    }
}
