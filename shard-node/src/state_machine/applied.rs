//! How far a state has come: written in the same batch as what the entry did.

use crate::storage::{
    Decoder, Generation, Malformed, Reader, Space, StateKind, StorageError, Store, put_varint, state_key,
};
use bytes::{Bytes, BytesMut};
use fulcrum_types::{Epoch, GroupId, Index, LogPosition, ReplicatedTime};

/// The last entry applied, and its replicated time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its position; all zero before the first.
    pub position: LogPosition,
    /// Its time.
    pub time: ReplicatedTime,
}

impl Applied {
    /// Reads it from a state; zero if the state is empty.
    pub fn read(reader: &impl Reader, group: GroupId, generation: Generation) -> Result<Self, StorageError> {
        let key = state_key(group, generation, StateKind::Applied, &[]);
        let Some(record) = reader.get(Space::State, &key)? else {
            return Ok(Applied::default());
        };
        decode(record).map_err(|e| StorageError::Damaged {
            space: Space::State,
            reason: format!("applied position: {e}"),
        })
    }

    /// Stages it.
    pub(super) fn stage(self, store: &mut Store, group: GroupId, generation: Generation) {
        let mut record = BytesMut::with_capacity(24);
        put_varint(&mut record, self.position.epoch.0);
        put_varint(&mut record, self.position.index.0);
        put_varint(&mut record, self.time.0);
        store.put(
            Space::State,
            state_key(group, generation, StateKind::Applied, &[]),
            record.freeze(),
        );
    }
}

fn decode(record: Bytes) -> Result<Applied, Malformed> {
    let mut decoder = Decoder::new(record);
    let position = LogPosition {
        epoch: Epoch(decoder.varint()?),
        index: Index(decoder.varint()?),
    };
    let time = ReplicatedTime(decoder.varint()?);
    decoder.finish()?;
    Ok(Applied { position, time })
}
