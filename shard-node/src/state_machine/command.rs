//! What log entries carry: the commands of the state machine, encoded.
//!
//! A command begins with a format version and a kind. A kind that this program does not know stops the replica with a typed
//! error: to skip it would make replicas differ.

use super::transactions::codec::{
    get_cause, get_fingerprint, get_id, get_list, get_option, get_part, get_participant, get_parts, get_resolution,
    put_cause, put_fingerprint, put_id, put_list, put_option, put_part, put_participant, put_parts, put_resolution,
};
use super::transactions::prepare::ops;
use crate::storage::{Decoder, Malformed, put_bytes, put_varint};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_common::key::bytes_of;
use fulcrum_types::{
    ClientId, Condition, CutId, CutStep, Decide, IdempotencyKey, JoinedWrite, Mutation, Participant, PrepareRequest,
    Priority, Resolution, Sequence, Transact, TransactionId, Version, WriteOp,
};
use std::time::Duration;

const FORMAT: u8 = 1;

/// Tags of [`Command`].
mod kind {
    pub(super) const WRITE: u8 = 1;
    pub(super) const TRANSACT: u8 = 2;
    pub(super) const PREPARE: u8 = 3;
    pub(super) const DECIDE: u8 = 4;
    pub(super) const RESOLVE: u8 = 5;
    pub(super) const FORGET: u8 = 6;
    pub(super) const JOINT: u8 = 7;
    pub(super) const CUT: u8 = 8;
}

/// Tags of [`CutStep`].
mod cut_step {
    pub(super) const HOLD: u8 = 1;
    pub(super) const RELEASE: u8 = 2;
    pub(super) const KEEP: u8 = 3;
    pub(super) const END: u8 = 4;
}

/// Tags of [`Condition`].
mod condition {
    pub(super) const NONE: u8 = 0;
    pub(super) const ABSENT: u8 = 1;
    pub(super) const EXISTS: u8 = 2;
    pub(super) const VERSION_IS: u8 = 3;
    pub(super) const VALUE_IS: u8 = 4;
    pub(super) const UNCHANGED_SINCE: u8 = 5;
}

/// Tags of [`Mutation`].
mod mutation {
    pub(super) const PUT: u8 = 0;
    pub(super) const PUT_WITH_TTL: u8 = 1;
    pub(super) const DELETE: u8 = 2;
}

/// A command of the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Writes, each on its own condition, in this order.
    Write {
        /// What makes a retry safe.
        idempotency: Option<IdempotencyKey>,
        /// The writes.
        ops: Vec<WriteOp>,
    },
    /// Writes that were joined, no key twice: each is judged by itself. What their clients have seen was checked before: it is not
    /// carried.
    Joint(Vec<JoinedWrite>),
    /// A whole transaction of this group. What its client has seen was checked before: it is not carried.
    Transact {
        /// This group, as the decision names it.
        at: Participant,
        /// What to do.
        request: Box<Transact>,
    },
    /// Promise to commit. What its client has seen was checked before: it is not carried.
    Prepare {
        /// What to promise.
        request: Box<PrepareRequest>,
        /// An older transaction that waits for a lock which this one would overtake: give way to it.
        give_way: Option<TransactionId>,
    },
    /// Record an abort, where no decision is.
    Decide(Decide),
    /// Do as was decided.
    Resolve(Vec<Resolution>),
    /// Every participant has resolved these.
    Forget(Vec<TransactionId>),
    /// A step of a cut.
    Cut(CutStep),
}

/// Why a command could not be decoded. Fatal for the replica: it cannot apply what the group has committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Written by a newer program.
    #[error("command format {0} is not known: this node runs an older program than its primary, upgrade it")]
    UnknownFormat(u8),
    /// Written by a newer program.
    #[error("command kind {0} is not known: this node runs an older program than its primary, upgrade it")]
    UnknownKind(u8),
    /// Damaged.
    #[error("command is damaged: {0}")]
    Malformed(#[from] Malformed),
}

impl Command {
    /// The command as a log entry carries it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Command::Write { idempotency, ops } => encode_write(idempotency.as_ref(), ops),
            Command::Joint(writes) => encode_joint(writes),
            Command::Transact { at, request } => headed(kind::TRANSACT, |buffer| {
                put_participant(buffer, at);
                put_id(buffer, request.id);
                put_fingerprint(buffer, request.fingerprint);
                put_part(buffer, &request.part);
            }),
            Command::Prepare { request, give_way } => headed(kind::PREPARE, |buffer| {
                put_prepare(buffer, request);
                put_option(buffer, *give_way, put_id);
            }),
            Command::Decide(decide) => headed(kind::DECIDE, |buffer| {
                put_id(buffer, decide.id);
                put_option(buffer, decide.fingerprint, put_fingerprint);
                put_cause(buffer, decide.cause);
            }),
            Command::Resolve(all) => headed(kind::RESOLVE, |buffer| put_list(buffer, all, put_resolution)),
            Command::Forget(ids) => headed(kind::FORGET, |buffer| {
                put_list(buffer, ids, |buffer, id| put_id(buffer, *id));
            }),
            Command::Cut(step) => headed(kind::CUT, |buffer| put_cut(buffer, *step)),
        }
    }

    /// What it writes by itself, whatever is decided elsewhere.
    #[must_use]
    pub fn into_writes(self) -> Vec<WriteOp> {
        self.into_keyed_writes().into_iter().map(|(_, op)| op).collect()
    }

    /// The same, each write with what a retry of it is recognised by.
    #[must_use]
    pub fn into_keyed_writes(self) -> Vec<(Option<IdempotencyKey>, WriteOp)> {
        match self {
            Command::Write { idempotency, ops } => ops.into_iter().map(|op| (idempotency, op)).collect(),
            Command::Joint(writes) => writes.into_iter().map(|write| (write.idempotency, write.op)).collect(),
            Command::Transact { request, .. } => ops(&request.part).into_iter().map(|op| (None, op)).collect(),
            Command::Prepare { request, .. } if request.decides() => {
                ops(&request.part).into_iter().map(|op| (None, op)).collect()
            }
            Command::Prepare { .. }
            | Command::Decide(_)
            | Command::Resolve(_)
            | Command::Forget(_)
            | Command::Cut(_) => Vec::new(),
        }
    }

    /// Reads what [`Command::encode`] wrote. Byte strings share the memory of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self, CommandError> {
        let mut decoder = Decoder::new(bytes);
        let format = decoder.u8()?;
        if format != FORMAT {
            return Err(CommandError::UnknownFormat(format));
        }
        let command = match decoder.u8()? {
            kind::WRITE => Command::Write {
                idempotency: get_idempotency(&mut decoder)?,
                ops: get_ops(&mut decoder)?,
            },
            kind::JOINT => Command::Joint(get_joint(&mut decoder)?),
            kind::TRANSACT => Command::Transact {
                at: get_participant(&mut decoder)?,
                request: Box::new(get_transact(&mut decoder)?),
            },
            kind::PREPARE => Command::Prepare {
                request: Box::new(get_prepare(&mut decoder)?),
                give_way: get_option(&mut decoder, get_id)?,
            },
            kind::DECIDE => Command::Decide(Decide {
                id: get_id(&mut decoder)?,
                fingerprint: get_option(&mut decoder, get_fingerprint)?,
                cause: get_cause(&mut decoder)?,
            }),
            kind::RESOLVE => Command::Resolve(get_list(&mut decoder, get_resolution)?),
            kind::FORGET => Command::Forget(get_list(&mut decoder, get_id)?),
            kind::CUT => Command::Cut(get_cut(&mut decoder)?),
            other => return Err(CommandError::UnknownKind(other)),
        };
        decoder.finish()?;
        Ok(command)
    }
}

/// A command's format and kind, and what `fill` writes.
fn headed(kind: u8, fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(128);
    buffer.put_u8(FORMAT);
    buffer.put_u8(kind);
    fill(&mut buffer);
    buffer.freeze()
}

fn put_cut(buffer: &mut BytesMut, step: CutStep) {
    let (tag, id) = match step {
        CutStep::Hold { id, .. } => (cut_step::HOLD, id),
        CutStep::Release { id } => (cut_step::RELEASE, id),
        CutStep::Keep { id } => (cut_step::KEEP, id),
        CutStep::End { id } => (cut_step::END, id),
    };
    buffer.put_u8(tag);
    put_varint(buffer, id.0);
    if let CutStep::Hold { hold, .. } = step {
        put_varint(buffer, millis(hold));
    }
}

fn get_cut(decoder: &mut Decoder) -> Result<CutStep, Malformed> {
    let tag = decoder.u8()?;
    let id = CutId(decoder.varint()?);
    Ok(match tag {
        cut_step::HOLD => CutStep::Hold {
            id,
            hold: Duration::from_millis(decoder.varint()?),
        },
        cut_step::RELEASE => CutStep::Release { id },
        cut_step::KEEP => CutStep::Keep { id },
        cut_step::END => CutStep::End { id },
        other => return Err(Malformed::Tag(other)),
    })
}

fn put_prepare(buffer: &mut BytesMut, request: &PrepareRequest) {
    put_id(buffer, request.id);
    put_id(buffer, request.priority.0);
    put_fingerprint(buffer, request.fingerprint);
    put_participant(buffer, &request.home);
    put_list(buffer, &request.participants, put_participant);
    put_parts(buffer, &request.votes);
    put_part(buffer, &request.part);
}

fn get_transact(decoder: &mut Decoder) -> Result<Transact, Malformed> {
    Ok(Transact {
        id: get_id(decoder)?,
        fingerprint: get_fingerprint(decoder)?,
        seen: None,
        part: get_part(decoder)?,
    })
}

fn get_prepare(decoder: &mut Decoder) -> Result<PrepareRequest, Malformed> {
    Ok(PrepareRequest {
        id: get_id(decoder)?,
        priority: Priority(get_id(decoder)?),
        fingerprint: get_fingerprint(decoder)?,
        home: get_participant(decoder)?,
        participants: get_list(decoder, get_participant)?,
        seen: None,
        votes: get_parts(decoder)?,
        part: get_part(decoder)?,
    })
}

/// Encodes a write without taking it apart first: the path of every request.
#[must_use]
pub fn encode_write(idempotency: Option<&IdempotencyKey>, ops: &[WriteOp]) -> Bytes {
    let size = ops.iter().map(op_size).sum::<usize>();
    let mut buffer = BytesMut::with_capacity(size + 64);
    buffer.put_u8(FORMAT);
    buffer.put_u8(kind::WRITE);
    put_idempotency(&mut buffer, idempotency);
    put_varint(&mut buffer, ops.len() as u64);
    for op in ops {
        put_op(&mut buffer, op);
    }
    buffer.freeze()
}

/// The same for writes that were joined.
#[must_use]
pub fn encode_joint(writes: &[JoinedWrite]) -> Bytes {
    let size = writes.iter().map(|write| 32 + op_size(&write.op)).sum::<usize>();
    let mut buffer = BytesMut::with_capacity(size + 16);
    buffer.put_u8(FORMAT);
    buffer.put_u8(kind::JOINT);
    put_varint(&mut buffer, writes.len() as u64);
    for write in writes {
        put_idempotency(&mut buffer, write.idempotency.as_ref());
        put_op(&mut buffer, &write.op);
    }
    buffer.freeze()
}

fn get_joint(decoder: &mut Decoder) -> Result<Vec<JoinedWrite>, Malformed> {
    let count = counted(decoder)?;
    let one = |_| {
        Ok(JoinedWrite {
            idempotency: get_idempotency(decoder)?,
            seen: None,
            op: get_op(decoder)?,
        })
    };
    (0..count).map(one).collect()
}

fn put_idempotency(buffer: &mut BytesMut, idempotency: Option<&IdempotencyKey>) {
    let Some(key) = idempotency else {
        return buffer.put_u8(0);
    };
    buffer.put_u8(1);
    put_varint(buffer, key.client.0);
    put_varint(buffer, key.sequence.0);
    put_varint(buffer, key.issued_at_ms);
    put_varint(buffer, key.low_water.0);
}

fn op_size(op: &WriteOp) -> usize {
    bytes_of(op) + 32
}

fn put_op(buffer: &mut BytesMut, op: &WriteOp) {
    put_bytes(buffer, &op.key);
    put_condition(buffer, &op.condition);
    put_mutation(buffer, &op.mutation);
}

pub(super) fn put_condition(buffer: &mut BytesMut, condition: &Condition) {
    match condition {
        Condition::None => buffer.put_u8(condition::NONE),
        Condition::Absent => buffer.put_u8(condition::ABSENT),
        Condition::Exists => buffer.put_u8(condition::EXISTS),
        Condition::VersionIs(version) => {
            buffer.put_u8(condition::VERSION_IS);
            put_varint(buffer, version.0);
        }
        Condition::ValueIs(value) => {
            buffer.put_u8(condition::VALUE_IS);
            put_bytes(buffer, value);
        }
        Condition::UnchangedSince(version) => {
            buffer.put_u8(condition::UNCHANGED_SINCE);
            put_varint(buffer, version.0);
        }
    }
}

pub(super) fn put_mutation(buffer: &mut BytesMut, mutation: &Mutation) {
    match mutation {
        Mutation::Put { value, ttl: None } => {
            buffer.put_u8(mutation::PUT);
            put_bytes(buffer, value);
        }
        Mutation::Put { value, ttl: Some(ttl) } => {
            buffer.put_u8(mutation::PUT_WITH_TTL);
            put_varint(buffer, millis(*ttl));
            put_bytes(buffer, value);
        }
        Mutation::Delete => buffer.put_u8(mutation::DELETE),
    }
}

/// Whole milliseconds, rounded up: a time to live never shrinks to nothing.
fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn get_idempotency(decoder: &mut Decoder) -> Result<Option<IdempotencyKey>, Malformed> {
    match decoder.u8()? {
        0 => Ok(None),
        1 => Ok(Some(IdempotencyKey {
            client: ClientId(decoder.varint()?),
            sequence: Sequence(decoder.varint()?),
            issued_at_ms: decoder.varint()?,
            low_water: Sequence(decoder.varint()?),
        })),
        other => Err(Malformed::Tag(other)),
    }
}

fn get_ops(decoder: &mut Decoder) -> Result<Vec<WriteOp>, Malformed> {
    let count = counted(decoder)?;
    (0..count).map(|_| get_op(decoder)).collect()
}

/// How many operations follow. One takes three bytes at least: a larger count is not believed, let alone allocated for.
fn counted(decoder: &mut Decoder) -> Result<u64, Malformed> {
    let count = decoder.varint()?;
    if count > decoder.remaining() as u64 / 3 {
        return Err(Malformed::TooShort);
    }
    Ok(count)
}

fn get_op(decoder: &mut Decoder) -> Result<WriteOp, Malformed> {
    Ok(WriteOp {
        key: decoder.bytes()?,
        condition: get_condition(decoder)?,
        mutation: get_mutation(decoder)?,
    })
}

pub(super) fn get_condition(decoder: &mut Decoder) -> Result<Condition, Malformed> {
    Ok(match decoder.u8()? {
        condition::NONE => Condition::None,
        condition::ABSENT => Condition::Absent,
        condition::EXISTS => Condition::Exists,
        condition::VERSION_IS => Condition::VersionIs(Version(decoder.varint()?)),
        condition::VALUE_IS => Condition::ValueIs(decoder.bytes()?),
        condition::UNCHANGED_SINCE => Condition::UnchangedSince(Version(decoder.varint()?)),
        other => return Err(Malformed::Tag(other)),
    })
}

pub(super) fn get_mutation(decoder: &mut Decoder) -> Result<Mutation, Malformed> {
    Ok(match decoder.u8()? {
        mutation::PUT => Mutation::Put {
            value: decoder.bytes()?,
            ttl: None,
        },
        mutation::PUT_WITH_TTL => {
            let ttl = Some(Duration::from_millis(decoder.varint()?));
            Mutation::Put {
                value: decoder.bytes()?,
                ttl,
            }
        }
        mutation::DELETE => Mutation::Delete,
        other => return Err(Malformed::Tag(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::Random;

    fn sample() -> Command {
        let op = |condition, mutation| WriteOp {
            key: Bytes::from_static(b"k"),
            condition,
            mutation,
        };
        let value = Bytes::from_static(b"value");
        let ttl = Some(Duration::from_millis(1500));
        Command::Write {
            idempotency: Some(IdempotencyKey {
                client: ClientId(u64::MAX),
                sequence: Sequence(7),
                issued_at_ms: 1_700_000_000_000,
                low_water: Sequence(5),
            }),
            ops: vec![
                op(
                    Condition::None,
                    Mutation::Put {
                        value: value.clone(),
                        ttl: None,
                    },
                ),
                op(
                    Condition::Absent,
                    Mutation::Put {
                        value: Bytes::new(),
                        ttl,
                    },
                ),
                op(Condition::Exists, Mutation::Delete),
                op(Condition::VersionIs(Version(300)), Mutation::Delete),
                op(Condition::ValueIs(value), Mutation::Delete),
                op(Condition::UnchangedSince(Version(7)), Mutation::Delete),
            ],
        }
    }

    /// Each with a key of its own, or none.
    fn joint() -> Command {
        let Command::Write { idempotency, ops } = sample() else {
            unreachable!()
        };
        let joined = |(number, op): (usize, WriteOp)| JoinedWrite {
            idempotency: idempotency.filter(|_| number % 2 == 0),
            seen: None,
            op,
        };
        Command::Joint(ops.into_iter().enumerate().map(joined).collect())
    }

    /// Commands of transactions, with everything in them that can be.
    fn transactional() -> Vec<Command> {
        use fulcrum_types::{
            AbortCause, CommittedPart, Fingerprint, GroupId, KeyCondition, KeyWrite, KeyspaceId, Part, ReadCheck,
            Verdict,
        };
        let id = |n| TransactionId {
            begun_at_ms: 1_700_000_000_000,
            client: ClientId(u64::MAX),
            sequence: Sequence(n),
        };
        let at = Participant {
            keyspace: KeyspaceId(3),
            group: GroupId(300),
        };
        let fingerprint = Fingerprint(u128::MAX - 5);
        let Command::Write { ops, .. } = sample() else {
            unreachable!()
        };
        let part = Part {
            reads: vec![ReadCheck {
                key: "r".into(),
                version: Version(9),
                exists: true,
            }],
            conditions: ops
                .iter()
                .map(|op| KeyCondition {
                    key: op.key.clone(),
                    condition: op.condition.clone(),
                })
                .collect(),
            writes: ops
                .into_iter()
                .map(|op| KeyWrite {
                    key: op.key,
                    mutation: op.mutation,
                })
                .collect(),
        };
        let group = at.group;
        let causes = [
            AbortCause::Conflict { with: id(1) },
            AbortCause::LockTimeout { by: id(2) },
            AbortCause::ReadInvalidated { group, read: 7 },
            AbortCause::ConditionFailed {
                group,
                condition: 1,
                current: Some(Version(5)),
            },
            AbortCause::ConditionFailed {
                group,
                condition: 1,
                current: None,
            },
            AbortCause::NotPrepared { group },
            AbortCause::OutOfTime,
            AbortCause::Abandoned,
            AbortCause::Client,
            AbortCause::Operator,
            AbortCause::TooOld,
        ];
        let aborts = causes.map(|cause| Resolution {
            id: id(4),
            verdict: Verdict::Abort {
                of: Some(fingerprint),
                cause,
            },
        });
        let abort_of_any = Resolution {
            id: id(4),
            verdict: Verdict::Abort {
                of: None,
                cause: AbortCause::Abandoned,
            },
        };
        let commit = Resolution {
            id: id(5),
            verdict: Verdict::Commit(fingerprint),
        };
        let parts = vec![CommittedPart {
            participant: at,
            version: Version(8),
        }];
        vec![
            Command::Transact {
                at,
                request: Box::new(Transact {
                    id: id(6),
                    fingerprint,
                    seen: None,
                    part: part.clone(),
                }),
            },
            Command::Prepare {
                request: Box::new(PrepareRequest {
                    id: id(7),
                    priority: Priority(id(1)),
                    fingerprint,
                    home: at,
                    participants: vec![at, Participant::default()],
                    seen: None,
                    votes: parts,
                    part,
                }),
                give_way: Some(id(3)),
            },
            Command::Decide(Decide {
                id: id(8),
                fingerprint: Some(fingerprint),
                cause: AbortCause::Client,
            }),
            Command::Decide(Decide {
                id: id(9),
                fingerprint: None,
                cause: AbortCause::TooOld,
            }),
            Command::Resolve(aborts.into_iter().chain([abort_of_any, commit]).collect()),
            Command::Forget(vec![id(10), id(11)]),
            Command::Cut(CutStep::Hold {
                id: CutId(u64::MAX),
                hold: Duration::from_millis(2_000),
            }),
            Command::Cut(CutStep::Release { id: CutId(12) }),
            Command::Cut(CutStep::Keep { id: CutId(12) }),
            Command::Cut(CutStep::End { id: CutId(12) }),
        ]
    }

    #[test]
    fn commands_come_back_as_they_were() {
        let command = sample();
        assert_eq!(Command::decode(command.encode()), Ok(command));
        let empty = Command::Write {
            idempotency: None,
            ops: vec![],
        };
        for command in transactional().into_iter().chain([empty, joint()]) {
            assert_eq!(Command::decode(command.encode()), Ok(command));
        }
    }

    #[test]
    fn a_part_of_a_millisecond_is_not_lost() {
        let ttl = |d| Mutation::Put {
            value: Bytes::new(),
            ttl: Some(d),
        };
        let op = |mutation| WriteOp {
            key: Bytes::from_static(b"k"),
            condition: Condition::None,
            mutation,
        };
        let command = Command::Write {
            idempotency: None,
            ops: vec![op(ttl(Duration::from_nanos(1)))],
        };
        let rounded = Command::Write {
            idempotency: None,
            ops: vec![op(ttl(Duration::from_millis(1)))],
        };
        assert_eq!(Command::decode(command.encode()), Ok(rounded));
    }

    #[test]
    fn commands_of_a_newer_program_are_named() {
        assert_eq!(
            Command::decode(Bytes::from_static(&[9, 1])),
            Err(CommandError::UnknownFormat(9))
        );
        assert_eq!(
            Command::decode(Bytes::from_static(&[1, 77])),
            Err(CommandError::UnknownKind(77))
        );
    }

    #[test]
    fn damaged_commands_are_refused_without_harm() {
        let mut random = Random::new(2);
        for command in transactional().into_iter().chain([sample(), joint()]) {
            let whole = command.encode();
            for length in 0..whole.len() {
                assert!(Command::decode(whole.slice(..length)).is_err(), "cut to {length}");
            }
            for _ in 0..5_000 {
                let mut damaged = whole.to_vec();
                for _ in 0..=random.below(3) {
                    let at = random.below(damaged.len() as u64) as usize;
                    damaged[at] = random.below(256) as u8;
                }
                let _ = Command::decode(Bytes::from(damaged));
            }
        }
    }
}
