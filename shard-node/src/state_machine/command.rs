//! What log entries carry: the commands of the state machine, encoded.
//!
//! A command begins with a format version and a kind. A kind that this program does not know stops the replica with a typed
//! error: to skip it would make replicas differ. Commands of transactions will be further kinds.

use crate::storage::{Decoder, Malformed, put_bytes, put_varint};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::{ClientId, Condition, IdempotencyKey, Mutation, Sequence, Version, WriteOp};
use std::time::Duration;

const FORMAT: u8 = 1;

/// Tags of [`Command`].
mod kind {
    pub(super) const WRITE: u8 = 1;
}

/// Tags of [`Condition`].
mod condition {
    pub(super) const NONE: u8 = 0;
    pub(super) const ABSENT: u8 = 1;
    pub(super) const EXISTS: u8 = 2;
    pub(super) const VERSION_IS: u8 = 3;
    pub(super) const VALUE_IS: u8 = 4;
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
            other => return Err(CommandError::UnknownKind(other)),
        };
        decoder.finish()?;
        Ok(command)
    }
}

/// Encodes a write without taking it apart first: the path of every request.
#[must_use]
pub fn encode_write(idempotency: Option<&IdempotencyKey>, ops: &[WriteOp]) -> Bytes {
    let size = ops.iter().map(op_size).sum::<usize>();
    let mut buffer = BytesMut::with_capacity(size + 64);
    buffer.put_u8(FORMAT);
    buffer.put_u8(kind::WRITE);
    match idempotency {
        None => buffer.put_u8(0),
        Some(key) => {
            buffer.put_u8(1);
            put_varint(&mut buffer, key.client.0);
            put_varint(&mut buffer, key.sequence.0);
            put_varint(&mut buffer, key.issued_at_ms);
            put_varint(&mut buffer, key.low_water.0);
        }
    }
    put_varint(&mut buffer, ops.len() as u64);
    for op in ops {
        put_op(&mut buffer, op);
    }
    buffer.freeze()
}

fn op_size(op: &WriteOp) -> usize {
    let value = match &op.mutation {
        Mutation::Put { value, .. } => value.len(),
        Mutation::Delete => 0,
    };
    let expected = match &op.condition {
        Condition::ValueIs(value) => value.len(),
        _ => 0,
    };
    op.key.len() + value + expected + 32
}

fn put_op(buffer: &mut BytesMut, op: &WriteOp) {
    put_bytes(buffer, &op.key);
    match &op.condition {
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
    }
    match &op.mutation {
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
    let count = decoder.varint()?;
    // An operation takes three bytes at least: a larger count is not believed, let alone allocated for.
    if count > decoder.remaining() as u64 / 3 {
        return Err(Malformed::TooShort);
    }
    (0..count).map(|_| get_op(decoder)).collect()
}

fn get_op(decoder: &mut Decoder) -> Result<WriteOp, Malformed> {
    let key = decoder.bytes()?;
    let condition = match decoder.u8()? {
        condition::NONE => Condition::None,
        condition::ABSENT => Condition::Absent,
        condition::EXISTS => Condition::Exists,
        condition::VERSION_IS => Condition::VersionIs(Version(decoder.varint()?)),
        condition::VALUE_IS => Condition::ValueIs(decoder.bytes()?),
        other => return Err(Malformed::Tag(other)),
    };
    let mutation = match decoder.u8()? {
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
    };
    Ok(WriteOp {
        key,
        condition,
        mutation,
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
            ],
        }
    }

    #[test]
    fn commands_come_back_as_they_were() {
        let command = sample();
        assert_eq!(Command::decode(command.encode()), Ok(command));
        let empty = Command::Write {
            idempotency: None,
            ops: vec![],
        };
        assert_eq!(Command::decode(empty.encode()), Ok(empty));
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
        let whole = sample().encode();
        for length in 0..whole.len() {
            assert!(Command::decode(whole.slice(..length)).is_err(), "cut to {length}");
        }
        let mut random = Random::new(2);
        for _ in 0..20_000 {
            let mut damaged = whole.to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(damaged.len() as u64) as usize;
                damaged[at] = random.below(256) as u8;
            }
            let _ = Command::decode(Bytes::from(damaged));
        }
    }
}
