//! What replicated time makes due: values that expire, tombstones that need not be kept any longer.
//!
//! An index of (time, key) -> version. Overwriting a value leaves its entry behind; a version that no longer matches says so
//! when its time comes. Each entry of the log does a bounded number of steps, the same on every replica. Until its turn an
//! expired value is merely invisible.

use super::retry::Place;
use super::value::{Content, Record};
use super::{StateMachine, damaged};
use crate::storage::{
    Decoder, Reader, STATE_PREFIX, Space, StateKind, StorageError, Store, put_varint, state_key, state_range,
};
use bytes::{Buf, Bytes, BytesMut};
use fulcrum_types::{ReplicatedTime, Version};

/// Nothing is due.
pub(super) const NEVER: u64 = u64::MAX;

impl StateMachine {
    /// When the next of it is due, if anything will be.
    #[must_use]
    pub fn next_due(&self) -> Option<ReplicatedTime> {
        (self.next_due_ms != NEVER).then_some(ReplicatedTime(self.next_due_ms))
    }

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
        let Due { entries, next_ms } = due(store, self.place(), StateKind::Due, self.next_due_ms, now, most)?;
        self.next_due_ms = next_ms;
        for entry in entries {
            let version = Decoder::new(entry.value).varint().map_err(|e| damaged("due", e))?;
            store.delete(Space::State, entry.index_key);
            self.handle_due(store, entry.at_ms, entry.own, Version(version), now)?;
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

/// What an index by time has that is due.
pub(super) struct Due {
    pub(super) entries: Vec<DueEntry>,
    /// The time of the next entry; [`NEVER`] if there is none.
    pub(super) next_ms: u64,
}

/// An entry of an index by time.
pub(super) struct DueEntry {
    pub(super) at_ms: u64,
    /// The whole of its key.
    pub(super) index_key: Bytes,
    /// What stands behind the time in it.
    pub(super) own: Bytes,
    pub(super) value: Bytes,
}

/// Up to `most` entries that are due at `now`, from `from_ms` on: before it there are none, only deleted ones, which would have to be skipped
/// one by one until the storage forgets them.
pub(super) fn due(
    reader: &impl Reader,
    place: Place,
    kind: StateKind,
    from_ms: u64,
    now: ReplicatedTime,
    most: usize,
) -> Result<Due, StorageError> {
    let start = state_key(place.group, place.generation, kind, &from_ms.to_be_bytes());
    let (_, end) = state_range(place.group, place.generation, kind);
    let mut due = Due {
        entries: Vec::new(),
        next_ms: NEVER,
    };
    for record in reader.range(Space::State, &start, &end) {
        let (index_key, value) = record?;
        let (at_ms, own) = split(&index_key)?;
        if due.entries.len() == most || at_ms > now.0 {
            due.next_ms = at_ms;
            break;
        }
        due.entries.push(DueEntry {
            at_ms,
            index_key,
            own,
            value,
        });
    }
    Ok(due)
}

/// The earliest time in an index by time.
pub(super) fn first_due(reader: &impl Reader, place: Place, kind: StateKind) -> Result<u64, StorageError> {
    let (start, end) = state_range(place.group, place.generation, kind);
    match reader.range(Space::State, &start, &end).next() {
        Some(record) => Ok(split(&record?.0)?.0),
        None => Ok(NEVER),
    }
}

/// The time, and what stands behind it.
fn split(index_key: &Bytes) -> Result<(u64, Bytes), StorageError> {
    if index_key.len() < STATE_PREFIX + 8 {
        return Err(damaged("due", "key length"));
    }
    let mut own = index_key.slice(STATE_PREFIX..);
    Ok((own.get_u64(), own))
}
