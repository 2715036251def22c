//! Snapshots: a group's whole state, cut into parts that can be sent, and put together again beside the present one.
//!
//! A part is a checksummed record of (kind, key, value) in the order of the keys, of about [`SNAPSHOT_PART_BYTES`]; only a
//! record that is larger by itself makes a larger part. The state is read from a store snapshot, so that what is sent is the
//! state at one applied index while writes go on. What arrives is written under a generation of its own: it becomes the
//! state by one small write, and counts for nothing if that never comes.

use super::backend::{Durability, Reader, Space};
use super::error::StorageError;
use super::group::LogBase;
use super::keys::{self, Generation, STATE_PREFIX, StateKind, generation_range, state_key};
use super::record::{Decoder, Malformed, put_bytes, seal, unseal};
use super::store::{Store, StoreSnapshot};
use crate::state_machine::Applied;
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_replication::contract::{SnapshotChunk, SnapshotMeta, TransferId};
use fulcrum_types::GroupId;

/// Size of a part, about.
pub const SNAPSHOT_PART_BYTES: usize = 256 * 1024;

/// Reads a group's state part by part. Holds a store snapshot: drop it when the transfer is over.
pub struct SnapshotSource {
    snapshot: StoreSnapshot,
    group: GroupId,
    /// First key not sent yet; none once all are.
    next: Option<Bytes>,
    end: Bytes,
    meta: SnapshotMeta,
    number: u64,
}

impl SnapshotSource {
    /// A snapshot of the state as it is now.
    pub fn new(store: &Store, group: GroupId, generation: Generation) -> Result<Self, StorageError> {
        let applied = Applied::read(store, group, generation)?;
        let (start, end) = generation_range(group, generation);
        Ok(SnapshotSource {
            snapshot: store.snapshot_of(group),
            group,
            next: Some(start),
            end,
            meta: SnapshotMeta {
                position: applied.position,
                time: applied.time,
                epoch_starts: Vec::new(),
            },
            number: 0,
        })
    }

    /// What the snapshot stands for.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The next part; none after the last. The last carries [`SnapshotSource::meta`].
    pub fn next_part(&mut self) -> Result<Option<SnapshotChunk>, StorageError> {
        let Some(start) = self.next.take() else {
            return Ok(None);
        };
        let mut content = BytesMut::new();
        for record in self.snapshot.range(Space::State, &start, &self.end) {
            let (key, value) = record?;
            let size = key.len() + value.len() + 8;
            if !content.is_empty() && content.len() + size > SNAPSHOT_PART_BYTES {
                self.next = Some(key);
                break;
            }
            content.put_u8(key[STATE_PREFIX - 1]);
            put_bytes(&mut content, &key[STATE_PREFIX..]);
            put_bytes(&mut content, &value);
        }
        let number = self.number;
        self.number += 1;
        let data = seal(content.len(), |buffer| buffer.put_slice(&content));
        let last = self.next.is_none().then(|| self.meta.clone());
        Ok(Some(SnapshotChunk { number, data, last }))
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(super) struct Staging {
    transfer: TransferId,
    generation: Generation,
    next: u64,
    complete: bool,
}

impl Staging {
    pub(super) fn new(transfer: TransferId, generation: Generation) -> Self {
        Staging {
            transfer,
            generation,
            next: 0,
            complete: false,
        }
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn add(
        &mut self,
        store: &mut Store,
        group: GroupId,
        transfer: TransferId,
        chunk: &SnapshotChunk,
    ) -> Result<(), StorageError> {
        if transfer == self.transfer && chunk.number < self.next {
            return Ok(());
        }
        if transfer != self.transfer || chunk.number != self.next || self.complete {
            return Err(bad(group, format!("part {} where {} was due", chunk.number, self.next)));
        }
        let records = parse(&chunk.data).map_err(|e| bad(group, format!("part {}: {e}", chunk.number)))?;
        for (kind, key, value) in records {
            store.put(Space::State, state_key(group, self.generation, kind, &key), value);
        }
        // Large: not to be gathered in memory for longer than a turn.
        store.anchor(group);
        store.require(Durability::Written);
        self.next += 1;
        self.complete = chunk.last.is_some();
        Ok(())
    }

    /// Checks that all is there and is what it says.
    pub(super) fn finish(
        staging: Option<Self>,
        store: &Store,
        group: GroupId,
        transfer: TransferId,
        base: LogBase,
    ) -> Result<Generation, StorageError> {
        let Some(staging) = staging.filter(|s| s.transfer == transfer && s.complete) else {
            return Err(bad(group, "parts are missing".into()));
        };
        let applied = Applied::read(store, group, staging.generation)?;
        if (applied.position, applied.time) != (base.position, base.time) {
            return Err(bad(
                group,
                format!("it holds {}, not {}", applied.position, base.position),
            ));
        }
        Ok(staging.generation)
    }
}

fn parse(part: &Bytes) -> Result<Vec<(StateKind, Bytes, Bytes)>, Malformed> {
    let mut decoder = Decoder::new(unseal(part)?);
    let mut records = Vec::new();
    while decoder.remaining() > 0 {
        let tag = decoder.u8()?;
        let kind = keys::StateKind::from_tag(tag).ok_or(Malformed::Tag(tag))?;
        records.push((kind, decoder.bytes()?, decoder.bytes()?));
    }
    Ok(records)
}

fn bad(group: GroupId, reason: String) -> StorageError {
    StorageError::BadSnapshot { group, reason }
}
