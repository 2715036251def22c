//! Where things stand in the spaces. Numbers are big endian, so that byte order is their order.

use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::{Epoch, GroupId, Index};

/// Which life of a group's state: a snapshot is installed beside the present state, and one small write makes it current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

impl Generation {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Generation(self.0 + 1)
    }
}

/// What a state record is. The order is that of snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StateKind {
    /// How far the state machine has come.
    Applied = 1,
    /// Key -> value or tombstone.
    Value = 2,
    /// Time and key -> version: what has to be looked at once replicated time gets there.
    Due = 3,
    /// Client and sequence -> outcome of a write.
    Outcome = 4,
    /// Client -> issue time and low-water mark.
    Client = 5,
    /// Key -> what a prepared transaction would make of it.
    Intent = 6,
    /// Transaction -> what is known of it here.
    Transaction = 7,
    /// Time and transaction: whose record has to be looked at once replicated time gets there.
    TransactionDue = 8,
    /// The last cut of the group.
    Cut = 9,
}

impl StateKind {
    /// All of them, in order.
    pub const ALL: [StateKind; 9] = [
        StateKind::Applied,
        StateKind::Value,
        StateKind::Due,
        StateKind::Outcome,
        StateKind::Client,
        StateKind::Intent,
        StateKind::Transaction,
        StateKind::TransactionDue,
        StateKind::Cut,
    ];

    /// The kind with this tag.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == tag)
    }
}

/// Length of what stands before the kind's own key.
pub(crate) const STATE_PREFIX: usize = 8 + 4 + 1;

/// Key of a state record.
#[must_use]
pub fn state_key(group: GroupId, generation: Generation, kind: StateKind, key: &[u8]) -> Bytes {
    let mut buffer = BytesMut::with_capacity(STATE_PREFIX + key.len());
    buffer.put_u64(group.0);
    buffer.put_u32(generation.0);
    buffer.put_u8(kind as u8);
    buffer.put_slice(key);
    buffer.freeze()
}

/// All records of a kind: the first key, and the first after the last.
#[must_use]
pub fn state_range(group: GroupId, generation: Generation, kind: StateKind) -> (Bytes, Bytes) {
    let start = state_key(group, generation, kind, &[]);
    let end = successor(&start);
    (start, end)
}

/// All records of a generation.
pub(super) fn generation_range(group: GroupId, generation: Generation) -> (Bytes, Bytes) {
    let mut start = BytesMut::with_capacity(12);
    start.put_u64(group.0);
    start.put_u32(generation.0);
    let start = start.freeze();
    let end = successor(&start);
    (start, end)
}

/// The first key after all that begin with `prefix`; empty (no end) if there is none.
pub(super) fn successor(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    Bytes::from(end)
}

/// All records of a group in a space: all spaces' keys begin with the group.
pub(super) fn group_range(group: GroupId) -> (Bytes, Bytes) {
    let start = Bytes::copy_from_slice(&group.0.to_be_bytes());
    let end = successor(&start);
    (start, end)
}

/// Key of a log entry.
pub(super) fn log_key(group: GroupId, index: Index) -> Bytes {
    let mut buffer = BytesMut::with_capacity(16);
    buffer.put_u64(group.0);
    buffer.put_u64(index.0);
    buffer.freeze()
}

/// What is kept of a group in [`Space::Meta`](super::Space::Meta).
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum MetaField {
    /// The replication core's own.
    HardState = 1,
    /// Generation of the current state.
    Generation = 2,
    /// What stands before the first entry of the log.
    LogBase = 3,
    /// What an entry did beside what its command says, by index.
    Footnote = 4,
    /// Through where entries were applied, whether or not the state that they made is written.
    AppliedThrough = 5,
}

/// Key of an entry's footnote.
pub(super) fn footnote_key(group: GroupId, index: Index) -> Bytes {
    let mut buffer = BytesMut::with_capacity(17);
    buffer.put_u64(group.0);
    buffer.put_u8(MetaField::Footnote as u8);
    buffer.put_u64(index.0);
    buffer.freeze()
}

/// Key of a group's meta record.
pub(super) fn meta_key(group: GroupId, field: MetaField) -> Bytes {
    let mut buffer = BytesMut::with_capacity(9);
    buffer.put_u64(group.0);
    buffer.put_u8(field as u8);
    buffer.freeze()
}

/// Key of a lost entry: the epoch that the promotion opened, then a running number.
pub(super) fn certificate_key(group: GroupId, epoch: Epoch, sequence: u64) -> Bytes {
    let mut buffer = BytesMut::with_capacity(24);
    buffer.put_u64(group.0);
    buffer.put_u64(epoch.0);
    buffer.put_u64(sequence);
    buffer.freeze()
}
