//! What a client may ask of one shard group, and what it is answered.

use crate::cut::{CutAnswer, CutOperation};
use crate::entry::LogPosition;
use crate::error::Refusal;
use crate::ids::{ClientId, GroupId, KeyspaceId, MapVersion, Sequence};
use crate::mode::Level;
use crate::receipt::Receipt;
use crate::time::ReplicatedTime;
use crate::transaction::{TransactionAnswer, TransactionOperation};
use crate::watch::{Change, Cursor, Selection};
use bytes::Bytes;
use std::time::Duration;

/// A key's version: the index of the log entry that wrote it. Grows with every write of the key and never recurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A value as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// Version of the write that made it.
    pub version: Version,
    /// When it expires, in replicated time (milliseconds since the Unix epoch); 0 means never.
    pub expires_at_ms: u64,
}

/// What must hold for a write to take effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// The key has no value.
    Absent,
    /// The key has a value.
    Exists,
    /// The key's value has this version.
    VersionIs(Version),
    /// The key has exactly this value.
    ValueIs(Bytes),
    /// The key was neither set nor deleted after this version, as far as its value or tombstone tells.
    UnchangedSince(Version),
}

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Sets the value; with a time to live it expires by replicated time.
    Put {
        /// The new value.
        value: Bytes,
        /// Time to live; none means for ever.
        ttl: Option<Duration>,
    },
    /// Removes the value. A versioned tombstone stays for a while.
    Delete,
}

/// One conditional write of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOp {
    /// The key.
    pub key: Bytes,
    /// What must hold.
    pub condition: Condition,
    /// What is done.
    pub mutation: Mutation,
}

/// What became of one conditional write. Decided when the command is applied, the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It took effect, as this version.
    Applied {
        /// Version of the key now. For a delete: of the tombstone.
        version: Version,
        /// Whether the key had a value before.
        existed: bool,
    },
    /// Its condition did not hold; nothing changed.
    ConditionFailed {
        /// The key's present version, if it has a value.
        current: Option<Version>,
    },
}

/// Makes a retry of a write safe: the state machine keeps the outcome (rule 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// Who asks.
    pub client: ClientId,
    /// The client's number for this request.
    pub sequence: Sequence,
    /// When a server issued the client's id, milliseconds since the Unix epoch. With the retention it bounds how long
    /// the outcome is kept: later the request is refused as too old to tell.
    pub issued_at_ms: u64,
    /// Every request of this client below it is finished: outcomes below are dropped and such requests refused.
    pub low_water: Sequence,
}

/// What a read asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The level wanted.
    pub level: Level,
    /// Weaker levels that the client accepts, best first. No other downgrade happens.
    pub acceptable: Vec<Level>,
    /// The newest position of this group that the client has seen. [`Level::Session`] waits for it or is redirected; at no level
    /// is a history shown that contradicts it (rule 8).
    pub seen: Option<LogPosition>,
    /// What to read.
    pub query: Query,
}

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Values of these keys, in this order.
    Get(Vec<Bytes>),
    /// The same for gets of one key each that were joined: each could go alone, so none waits for another. Where one would have
    /// to wait for a transaction's decision, all are refused as locked at once.
    Joint(Vec<Bytes>),
    /// Keys in order from `start` (inclusive) to `end` (exclusive; empty means no end).
    Scan {
        /// First key.
        start: Bytes,
        /// End, exclusive; empty means none.
        end: Bytes,
        /// At most so many rows.
        limit: u32,
        /// At most about so many bytes.
        max_bytes: u32,
    },
    /// What applied entries changed.
    Changes(ChangesQuery),
}

/// Asks for changes behind a cursor: one step of a watch, which takes the next when it is done with this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesQuery {
    /// Behind what; none asks for nothing but where the log is applied to.
    pub after: Option<Cursor>,
    /// Of which keys.
    pub selection: Selection,
    /// Changes of about so many bytes, in whole entries, at least one if there is any.
    pub max_bytes: u32,
    /// Without any change, wait so long for one. What is answered then tells how far there was none.
    pub wait: Duration,
}

/// What is asked of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads.
    Read(ReadRequest),
    /// Writes, each on its own condition, in this order, in one log entry.
    Write {
        /// What makes a retry safe; without it a lost answer is an unknown outcome.
        idempotency: Option<IdempotencyKey>,
        /// The newest position of this group that the client has seen: a replica without that history refuses (rule 8).
        seen: Option<LogPosition>,
        /// The writes.
        ops: Vec<WriteOp>,
    },
    /// Writes of one key each that were joined: each could go alone, so none waits for another, and each is judged and answered
    /// by itself. In one log entry, so no key comes twice.
    Joint(Vec<JoinedWrite>),
    /// Asks what became of a write.
    Outcome(IdempotencyKey),
    /// A step of a transaction.
    Transaction(TransactionOperation),
    /// A step of a cut.
    Cut(CutOperation),
}

/// One write of a joint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedWrite {
    /// What makes a retry of it safe, alone or in another joint.
    pub idempotency: Option<IdempotencyKey>,
    /// As of [`Operation::Write`].
    pub seen: Option<LogPosition>,
    /// The write.
    pub op: WriteOp,
}

impl Operation {
    /// How many requests of clients it serves: more than one if it is a joint.
    #[must_use]
    pub fn requests(&self) -> usize {
        match self {
            Operation::Read(ReadRequest {
                query: Query::Joint(keys),
                ..
            }) => keys.len(),
            Operation::Joint(writes) => writes.len(),
            _ => 1,
        }
    }
}

/// One request to one group. `O` is the operation, or a reference to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRequest<O = Operation> {
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// The group that the sender takes to own the keys.
    pub group: GroupId,
    /// The map that the sender went by.
    pub map_version: MapVersion,
    /// Time left before the client gives up.
    pub deadline: Duration,
    /// What is asked.
    pub operation: O,
}

impl GroupRequest {
    /// The same, its operation borrowed.
    #[must_use]
    pub fn as_ref(&self) -> GroupRequest<&Operation> {
        GroupRequest {
            keyspace: self.keyspace,
            group: self.group,
            map_version: self.map_version,
            deadline: self.deadline,
            operation: &self.operation,
        }
    }
}

impl GroupRequest<&Operation> {
    /// The same, with an operation of its own.
    #[must_use]
    pub fn owned(&self) -> GroupRequest {
        GroupRequest {
            keyspace: self.keyspace,
            group: self.group,
            map_version: self.map_version,
            deadline: self.deadline,
            operation: self.operation.clone(),
        }
    }
}

/// What a group answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Query::Get`] and [`Query::Joint`]: a value or none for each key.
    Values(Vec<Option<Versioned>>),
    /// To [`Query::Scan`].
    Rows {
        /// In key order.
        rows: Vec<(Bytes, Versioned)>,
        /// Whether the range has been read to its end.
        complete: bool,
    },
    /// To [`Query::Changes`].
    Changes {
        /// In the order in which they were made.
        changes: Vec<Change>,
        /// Through here all was said. Never behind the cursor asked from.
        reached: Cursor,
        /// Replicated time of the last entry looked at.
        time: ReplicatedTime,
    },
    /// To [`Operation::Write`]: an outcome for each write.
    Written(Vec<WriteOutcome>),
    /// To [`Operation::Joint`]: for each write its outcome, or why it was not applied.
    Joint(Vec<Result<WriteOutcome, Refusal>>),
    /// To [`Operation::Outcome`].
    Outcome(RecordedOutcome),
    /// To [`Operation::Transaction`].
    Transaction(TransactionAnswer),
    /// To [`Operation::Cut`].
    Cut(CutAnswer),
}

/// What is known of an earlier write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedOutcome {
    /// It was applied, with these outcomes.
    Known(Vec<WriteOutcome>),
    /// It was not applied, as of the answer. It may yet be, if it is still under way.
    NotSeen,
    /// Too old: the outcome is no longer kept.
    TooOld,
}

/// An answer with its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// The proof.
    pub receipt: Receipt,
}
