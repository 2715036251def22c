//! What replicated time makes due: values that expire, tombstones that need not be kept any longer.
//!
//! An index of (time, key) -> version. Overwriting a value leaves its entry behind; a version that no longer matches says so
//! when its time comes. Each entry of the log does a bounded number of steps, the same on every replica. Until its turn an
//! expired value is merely invisible.

use super::value::{Content, Record};
use super::{StateMachine, damaged};
use crate::storage::{Decoder, Reader, Space, StateKind, StorageError, Store, put_varint, state_key, state_range};
use bytes::{Buf, Bytes, BytesMut};
use fulcrum_types::{GroupId, ReplicatedTime, Version};

/// Nothing is due.
pub(super) const NEVER: u64 = u64::MAX;

impl StateMachine {
    /// Enters a key to be looked at once the time is `at_ms`.
    pub(super) fn schedule(&mut self, store: &mut Store, at_ms: u64, key: &[u8], version: Version) {
        let mut own = Vec::with_capacity(8 + key.len());
        own.extend_from_slice(&at_ms.to_be_bytes());
        own.extend_from_slice(key);
        let mut record = BytesMut::with_capacity(10);
        put_varint(&mut record, version.0);
        let key = state_key(self.group, self.generation, StateKind::Due, &own);
        store.put(Space::State, key, record.freeze());
        self.next_due_ms = self.next_due_ms.min(at_ms);
    }

    /// Handles up to `most` of what is due at `now`.
    pub(super) fn sweep_due(
        &mut self,
        store: &mut Store,
        now: ReplicatedTime,
        most: usize,
    ) -> Result<(), StorageError> {
        if self.next_due_ms > now.0 {
            return Ok(());
        }
        let start = state_key(
            self.group,
            self.generation,
            StateKind::Due,
            &self.next_due_ms.to_be_bytes(),
        );
        let (_, end) = state_range(self.group, self.generation, StateKind::Due);
        // One more than is handled: it tells when to look again.
        let found: Vec<_> = store
            .range(Space::State, &start, &end)
            .take(most + 1)
            .collect::<Result<_, _>>()?;
        self.next_due_ms = NEVER;
        for (number, (index_key, version)) in found.into_iter().enumerate() {
            let (at_ms, key) = split(self.group, &index_key)?;
            if number == most || at_ms > now.0 {
                self.next_due_ms = self.next_due_ms.min(at_ms);
                break;
            }
            let version = Decoder::new(version).varint().map_err(|e| damaged("due", e))?;
            store.delete(Space::State, index_key);
            self.handle_due(store, at_ms, key, Version(version), now)?;
        }
        Ok(())
    }

    fn handle_due(
        &mut self,
        store: &mut Store,
        at_ms: u64,
        key: Bytes,
        version: Version,
        now: ReplicatedTime,
    ) -> Result<(), StorageError> {
        let Some(record) = self.read_record(store, &key)?.filter(|r| r.version == version) else {
            return Ok(());
        };
        match record.content {
            // The tombstone keeps the value's version: what a reader saw as absent before the sweep is the same after it.
            // An entry that writes a key twice gives both the same version: this may be the due time of the first.
            Content::Value { expires_at_ms, .. } if expires_at_ms != at_ms => {}
            Content::Value { .. } => {
                self.bury(store, &key, version, now);
                self.footnote.expired.push((key, version));
            }
            Content::Tombstone => {
                self.cache.forget(&key);
                store.delete(Space::State, self.value_key(&key));
            }
        }
        Ok(())
    }

    /// Puts a tombstone in a value's place.
    pub(super) fn bury(&mut self, store: &mut Store, key: &Bytes, version: Version, now: ReplicatedTime) {
        self.write_record(
            store,
            key,
            &Record {
                version,
                content: Content::Tombstone,
            },
        );
        self.schedule(store, now.0.saturating_add(self.limits.tombstone_ms()), key, version);
    }
}

/// The earliest time at which something is due.
pub(super) fn first_due(reader: &impl Reader, place: super::retry::Place) -> Result<u64, StorageError> {
    let (start, end) = state_range(place.group, place.generation, StateKind::Due);
    match reader.range(Space::State, &start, &end).next() {
        Some(record) => Ok(split(place.group, &record?.0)?.0),
        None => Ok(NEVER),
    }
}

fn split(group: GroupId, index_key: &Bytes) -> Result<(u64, Bytes), StorageError> {
    let prefix = state_range(group, Default::default(), StateKind::Due).0.len();
    if index_key.len() < prefix + 8 {
        return Err(damaged("due", "key length"));
    }
    let mut own = index_key.slice(prefix..);
    Ok((own.get_u64(), own))
}
