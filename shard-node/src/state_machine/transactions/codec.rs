//! How what commands and records of transactions have in common is written.

use super::super::command::{get_condition, get_mutation, put_condition, put_mutation};
use crate::storage::{Decoder, Malformed, put_bytes, put_varint};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::{
    AbortCause, ClientId, CommittedPart, Fingerprint, GroupId, KeyCondition, KeyWrite, KeyspaceId, Part, Participant,
    ReadCheck, Resolution, Sequence, TransactionId, Verdict, Version,
};

/// Tags of [`AbortCause`].
mod cause {
    pub(super) const CONFLICT: u8 = 1;
    pub(super) const LOCK_TIMEOUT: u8 = 2;
    pub(super) const READ_INVALIDATED: u8 = 3;
    pub(super) const CONDITION_FAILED: u8 = 4;
    pub(super) const NOT_PREPARED: u8 = 5;
    pub(super) const OUT_OF_TIME: u8 = 6;
    pub(super) const ABANDONED: u8 = 7;
    pub(super) const CLIENT: u8 = 8;
    pub(super) const OPERATOR: u8 = 9;
    pub(super) const TOO_OLD: u8 = 10;
}

/// Tags of [`Verdict`].
mod verdict {
    pub(super) const COMMIT: u8 = 1;
    pub(super) const ABORT: u8 = 2;
}

/// Bytes of an id where order matters.
pub(super) const ID_BYTES: usize = 24;

/// An id as a part of a key: big endian, so that byte order is the order of age.
pub(super) fn id_key(id: TransactionId) -> [u8; ID_BYTES] {
    let mut key = [0; ID_BYTES];
    key[..8].copy_from_slice(&id.begun_at_ms.to_be_bytes());
    key[8..16].copy_from_slice(&id.client.0.to_be_bytes());
    key[16..].copy_from_slice(&id.sequence.0.to_be_bytes());
    key
}

/// Reads what [`id_key`] made.
pub(super) fn id_from_key(decoder: &mut Decoder) -> Result<TransactionId, Malformed> {
    Ok(TransactionId {
        begun_at_ms: decoder.u64()?,
        client: ClientId(decoder.u64()?),
        sequence: Sequence(decoder.u64()?),
    })
}

pub(in crate::state_machine) fn put_id(buffer: &mut BytesMut, id: TransactionId) {
    put_varint(buffer, id.begun_at_ms);
    put_varint(buffer, id.client.0);
    put_varint(buffer, id.sequence.0);
}

pub(in crate::state_machine) fn get_id(decoder: &mut Decoder) -> Result<TransactionId, Malformed> {
    Ok(TransactionId {
        begun_at_ms: decoder.varint()?,
        client: ClientId(decoder.varint()?),
        sequence: Sequence(decoder.varint()?),
    })
}

pub(in crate::state_machine) fn put_option<T>(
    buffer: &mut BytesMut,
    value: Option<T>,
    put: impl FnOnce(&mut BytesMut, T),
) {
    match value {
        None => buffer.put_u8(0),
        Some(value) => {
            buffer.put_u8(1);
            put(buffer, value);
        }
    }
}

pub(in crate::state_machine) fn get_option<T>(
    decoder: &mut Decoder,
    get: impl FnOnce(&mut Decoder) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    match decoder.u8()? {
        0 => Ok(None),
        1 => get(decoder).map(Some),
        other => Err(Malformed::Tag(other)),
    }
}

pub(in crate::state_machine) fn put_list<T>(buffer: &mut BytesMut, items: &[T], put: impl Fn(&mut BytesMut, &T)) {
    put_varint(buffer, items.len() as u64);
    for item in items {
        put(buffer, item);
    }
}

/// An item takes a byte at least: a larger count is not believed, let alone allocated for.
pub(in crate::state_machine) fn get_list<T>(
    decoder: &mut Decoder,
    get: impl Fn(&mut Decoder) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = decoder.varint()?;
    if count > decoder.remaining() as u64 {
        return Err(Malformed::TooShort);
    }
    (0..count).map(|_| get(decoder)).collect()
}

pub(in crate::state_machine) fn put_fingerprint(buffer: &mut BytesMut, fingerprint: Fingerprint) {
    buffer.put_u128(fingerprint.0);
}

pub(in crate::state_machine) fn get_fingerprint(decoder: &mut Decoder) -> Result<Fingerprint, Malformed> {
    let (high, low) = (decoder.u64()?, decoder.u64()?);
    Ok(Fingerprint(u128::from(high) << 64 | u128::from(low)))
}

pub(in crate::state_machine) fn put_participant(buffer: &mut BytesMut, participant: &Participant) {
    put_varint(buffer, participant.keyspace.0);
    put_varint(buffer, participant.group.0);
}

pub(in crate::state_machine) fn get_participant(decoder: &mut Decoder) -> Result<Participant, Malformed> {
    Ok(Participant {
        keyspace: KeyspaceId(decoder.varint()?),
        group: GroupId(decoder.varint()?),
    })
}

pub(in crate::state_machine) fn put_part(buffer: &mut BytesMut, part: &Part) {
    put_list(buffer, &part.reads, |buffer, read| {
        put_bytes(buffer, &read.key);
        put_varint(buffer, read.version.0);
        buffer.put_u8(read.exists.into());
    });
    put_list(buffer, &part.conditions, |buffer, condition| {
        put_bytes(buffer, &condition.key);
        put_condition(buffer, &condition.condition);
    });
    put_list(buffer, &part.writes, |buffer, write| {
        put_bytes(buffer, &write.key);
        put_mutation(buffer, &write.mutation);
    });
}

pub(in crate::state_machine) fn get_part(decoder: &mut Decoder) -> Result<Part, Malformed> {
    Ok(Part {
        reads: get_list(decoder, |decoder| {
            Ok(ReadCheck {
                key: decoder.bytes()?,
                version: Version(decoder.varint()?),
                exists: get_bool(decoder)?,
            })
        })?,
        conditions: get_list(decoder, |decoder| {
            Ok(KeyCondition {
                key: decoder.bytes()?,
                condition: get_condition(decoder)?,
            })
        })?,
        writes: get_list(decoder, |decoder| {
            Ok(KeyWrite {
                key: decoder.bytes()?,
                mutation: get_mutation(decoder)?,
            })
        })?,
    })
}

pub(super) fn get_bool(decoder: &mut Decoder) -> Result<bool, Malformed> {
    match decoder.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Malformed::Tag(other)),
    }
}

pub(in crate::state_machine) fn put_parts(buffer: &mut BytesMut, parts: &[CommittedPart]) {
    put_list(buffer, parts, |buffer, part| {
        put_participant(buffer, &part.participant);
        put_varint(buffer, part.version.0);
    });
}

pub(in crate::state_machine) fn get_parts(decoder: &mut Decoder) -> Result<Vec<CommittedPart>, Malformed> {
    get_list(decoder, |decoder| {
        Ok(CommittedPart {
            participant: get_participant(decoder)?,
            version: Version(decoder.varint()?),
        })
    })
}

pub(in crate::state_machine) fn put_resolution(buffer: &mut BytesMut, resolution: &Resolution) {
    put_id(buffer, resolution.id);
    match resolution.verdict {
        Verdict::Commit(fingerprint) => {
            buffer.put_u8(verdict::COMMIT);
            put_fingerprint(buffer, fingerprint);
        }
        Verdict::Abort { of, cause } => {
            buffer.put_u8(verdict::ABORT);
            put_option(buffer, of, put_fingerprint);
            put_cause(buffer, cause);
        }
    }
}

pub(in crate::state_machine) fn get_resolution(decoder: &mut Decoder) -> Result<Resolution, Malformed> {
    let id = get_id(decoder)?;
    let verdict = match decoder.u8()? {
        verdict::COMMIT => Verdict::Commit(get_fingerprint(decoder)?),
        verdict::ABORT => Verdict::Abort {
            of: get_option(decoder, get_fingerprint)?,
            cause: get_cause(decoder)?,
        },
        other => return Err(Malformed::Tag(other)),
    };
    Ok(Resolution { id, verdict })
}

pub(in crate::state_machine) fn put_cause(buffer: &mut BytesMut, cause: AbortCause) {
    match cause {
        AbortCause::Conflict { with } => {
            buffer.put_u8(cause::CONFLICT);
            put_id(buffer, with);
        }
        AbortCause::LockTimeout { by } => {
            buffer.put_u8(cause::LOCK_TIMEOUT);
            put_id(buffer, by);
        }
        AbortCause::ReadInvalidated { group, read } => {
            buffer.put_u8(cause::READ_INVALIDATED);
            put_varint(buffer, group.0);
            put_varint(buffer, read.into());
        }
        AbortCause::ConditionFailed {
            group,
            condition,
            current,
        } => {
            buffer.put_u8(cause::CONDITION_FAILED);
            put_varint(buffer, group.0);
            put_varint(buffer, condition.into());
            put_option(buffer, current, |buffer, version| put_varint(buffer, version.0));
        }
        AbortCause::NotPrepared { group } => {
            buffer.put_u8(cause::NOT_PREPARED);
            put_varint(buffer, group.0);
        }
        AbortCause::OutOfTime => buffer.put_u8(cause::OUT_OF_TIME),
        AbortCause::Abandoned => buffer.put_u8(cause::ABANDONED),
        AbortCause::Client => buffer.put_u8(cause::CLIENT),
        AbortCause::Operator => buffer.put_u8(cause::OPERATOR),
        AbortCause::TooOld => buffer.put_u8(cause::TOO_OLD),
    }
}

pub(in crate::state_machine) fn get_cause(decoder: &mut Decoder) -> Result<AbortCause, Malformed> {
    Ok(match decoder.u8()? {
        cause::CONFLICT => AbortCause::Conflict { with: get_id(decoder)? },
        cause::LOCK_TIMEOUT => AbortCause::LockTimeout { by: get_id(decoder)? },
        cause::READ_INVALIDATED => AbortCause::ReadInvalidated {
            group: GroupId(decoder.varint()?),
            read: get_u32(decoder)?,
        },
        cause::CONDITION_FAILED => AbortCause::ConditionFailed {
            group: GroupId(decoder.varint()?),
            condition: get_u32(decoder)?,
            current: get_option(decoder, |decoder| decoder.varint().map(Version))?,
        },
        cause::NOT_PREPARED => AbortCause::NotPrepared {
            group: GroupId(decoder.varint()?),
        },
        cause::OUT_OF_TIME => AbortCause::OutOfTime,
        cause::ABANDONED => AbortCause::Abandoned,
        cause::CLIENT => AbortCause::Client,
        cause::OPERATOR => AbortCause::Operator,
        cause::TOO_OLD => AbortCause::TooOld,
        other => return Err(Malformed::Tag(other)),
    })
}

fn get_u32(decoder: &mut Decoder) -> Result<u32, Malformed> {
    u32::try_from(decoder.varint()?).map_err(|_| Malformed::Number)
}

/// Keys one after the other.
pub(super) fn put_keys(buffer: &mut BytesMut, keys: &[Bytes]) {
    put_list(buffer, keys, |buffer, key| put_bytes(buffer, key));
}

pub(super) fn get_keys(decoder: &mut Decoder) -> Result<Vec<Bytes>, Malformed> {
    get_list(decoder, Decoder::bytes)
}
