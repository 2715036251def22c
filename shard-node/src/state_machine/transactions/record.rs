//! What is kept of a transaction: one record an id, in each group that it touched.

use super::codec::{
    get_bool, get_cause, get_fingerprint, get_id, get_keys, get_list, get_participant, get_parts, put_cause,
    put_fingerprint, put_id, put_keys, put_list, put_participant, put_parts,
};
use crate::storage::{Decoder, Malformed, put_varint};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::{AbortCause, CommittedPart, Decision, Fingerprint, Participant, Priority, Version};

/// What is known of a transaction here. Decided records are the home group's; the others are participants'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Promised: locks are held, intents stored, until the decision is known.
    Prepared(Prepared),
    /// This attempt can never commit: refused here, or told of the abort.
    Refused(AbortCause),
    /// Was prepared here; its writes are values now.
    Resolved {
        version: Version,
        fingerprint: Fingerprint,
        home: Participant,
    },
    /// The decision.
    Committed(Committed),
    /// The decision.
    Aborted(AbortCause),
}

/// A promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The version that its writes get: the index of the prepare.
    pub version: Version,
    /// Who waits and who dies.
    pub priority: Priority,
    /// Of the whole transaction.
    pub fingerprint: Fingerprint,
    /// Where the decision is, or will be.
    pub home: Participant,
    /// All who take part.
    pub participants: Vec<Participant>,
    /// Replicated time of the prepare.
    pub at_ms: u64,
    /// Bytes of what it would write.
    pub bytes: u64,
    /// Keys that it writes, in order.
    pub(in crate::state_machine) exclusive: Vec<Bytes>,
    /// Keys that it read or tested only, in order.
    pub(in crate::state_machine) shared: Vec<Bytes>,
}

impl Prepared {
    /// Keys that it locks.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.exclusive.len() + self.shared.len()
    }
}

/// A recorded commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Of the whole transaction.
    pub fingerprint: Fingerprint,
    /// All who took part.
    pub parts: Vec<CommittedPart>,
    /// Replicated time of the decision.
    pub at_ms: u64,
    /// Not every participant is known to have resolved it.
    pub unresolved: bool,
}

impl Committed {
    /// The decision as it is told.
    #[must_use]
    pub fn decision(&self) -> Decision {
        Decision::Committed {
            fingerprint: self.fingerprint,
            parts: self.parts.clone(),
        }
    }
}

const PREPARED: u8 = 1;
const REFUSED: u8 = 2;
const RESOLVED: u8 = 3;
const COMMITTED: u8 = 4;
const ABORTED: u8 = 5;

impl Record {
    pub(super) fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(64);
        match self {
            Record::Prepared(prepared) => {
                buffer.put_u8(PREPARED);
                put_prepared(&mut buffer, prepared);
            }
            Record::Refused(cause) => {
                buffer.put_u8(REFUSED);
                put_cause(&mut buffer, *cause);
            }
            Record::Resolved {
                version,
                fingerprint,
                home,
            } => {
                buffer.put_u8(RESOLVED);
                put_varint(&mut buffer, version.0);
                put_fingerprint(&mut buffer, *fingerprint);
                put_participant(&mut buffer, home);
            }
            Record::Committed(committed) => {
                buffer.put_u8(COMMITTED);
                put_fingerprint(&mut buffer, committed.fingerprint);
                put_parts(&mut buffer, &committed.parts);
                put_varint(&mut buffer, committed.at_ms);
                buffer.put_u8(committed.unresolved.into());
            }
            Record::Aborted(cause) => {
                buffer.put_u8(ABORTED);
                put_cause(&mut buffer, *cause);
            }
        }
        buffer.freeze()
    }

    /// Reads what [`Record::encode`] wrote. Keys share the memory of `bytes`.
    pub(super) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let record = match decoder.u8()? {
            PREPARED => Record::Prepared(get_prepared(&mut decoder)?),
            REFUSED => Record::Refused(get_cause(&mut decoder)?),
            RESOLVED => Record::Resolved {
                version: Version(decoder.varint()?),
                fingerprint: get_fingerprint(&mut decoder)?,
                home: get_participant(&mut decoder)?,
            },
            COMMITTED => Record::Committed(Committed {
                fingerprint: get_fingerprint(&mut decoder)?,
                parts: get_parts(&mut decoder)?,
                at_ms: decoder.varint()?,
                unresolved: get_bool(&mut decoder)?,
            }),
            ABORTED => Record::Aborted(get_cause(&mut decoder)?),
            other => return Err(Malformed::Tag(other)),
        };
        decoder.finish()?;
        Ok(record)
    }
}

fn put_prepared(buffer: &mut BytesMut, prepared: &Prepared) {
    put_varint(buffer, prepared.version.0);
    put_id(buffer, prepared.priority.0);
    put_fingerprint(buffer, prepared.fingerprint);
    put_participant(buffer, &prepared.home);
    put_list(buffer, &prepared.participants, put_participant);
    put_varint(buffer, prepared.at_ms);
    put_varint(buffer, prepared.bytes);
    put_keys(buffer, &prepared.exclusive);
    put_keys(buffer, &prepared.shared);
}

fn get_prepared(decoder: &mut Decoder) -> Result<Prepared, Malformed> {
    Ok(Prepared {
        version: Version(decoder.varint()?),
        priority: Priority(get_id(decoder)?),
        fingerprint: get_fingerprint(decoder)?,
        home: get_participant(decoder)?,
        participants: get_list(decoder, get_participant)?,
        at_ms: decoder.varint()?,
        bytes: decoder.varint()?,
        exclusive: get_keys(decoder)?,
        shared: get_keys(decoder)?,
    })
}
