//! What is kept of a key: its value, or the tombstone that keeps its version from recurring (rule 13).

use crate::storage::{Decoder, Malformed, put_varint};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::{ReplicatedTime, Version, Versioned};

const VALUE: u8 = 1;
const EXPIRING: u8 = 2;
const TOMBSTONE: u8 = 3;

/// A key's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Version of the write that made it.
    pub(super) version: Version,
    /// What the key holds.
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A value; `expires_at_ms` of 0 means never.
    Value { value: Bytes, expires_at_ms: u64 },
    /// None any more.
    Tombstone,
}

impl Record {
    /// The value, if there is one at that time.
    pub(super) fn visible(self, at: ReplicatedTime) -> Option<Versioned> {
        match self.content {
            Content::Value { value, expires_at_ms } if expires_at_ms == 0 || expires_at_ms > at.0 => Some(Versioned {
                value,
                version: self.version,
                expires_at_ms,
            }),
            _ => None,
        }
    }

    /// Version of the value, if there is one and its time has run out by then.
    pub(super) fn expired(&self, at: ReplicatedTime) -> Option<Version> {
        match self.content {
            Content::Value { expires_at_ms, .. } if expires_at_ms != 0 && expires_at_ms <= at.0 => Some(self.version),
            _ => None,
        }
    }

    /// The same record in the memory of its encoding: what it was made of may be a slice of a large message.
    pub(super) fn backed_by(&self, encoded: &Bytes) -> Self {
        let content = match &self.content {
            Content::Value { value, expires_at_ms } => {
                let value = encoded.slice(encoded.len() - value.len()..);
                Content::Value {
                    value,
                    expires_at_ms: *expires_at_ms,
                }
            }
            Content::Tombstone => Content::Tombstone,
        };
        Record {
            version: self.version,
            content,
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        match &self.content {
            Content::Value { value, expires_at_ms } => {
                let mut buffer = BytesMut::with_capacity(value.len() + 21);
                buffer.put_u8(if *expires_at_ms == 0 { VALUE } else { EXPIRING });
                put_varint(&mut buffer, self.version.0);
                if *expires_at_ms != 0 {
                    put_varint(&mut buffer, *expires_at_ms);
                }
                buffer.put_slice(value);
                buffer.freeze()
            }
            Content::Tombstone => {
                let mut buffer = BytesMut::with_capacity(11);
                buffer.put_u8(TOMBSTONE);
                put_varint(&mut buffer, self.version.0);
                buffer.freeze()
            }
        }
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let tag = decoder.u8()?;
        let version = Version(decoder.varint()?);
        let content = match tag {
            VALUE => Content::Value {
                value: decoder.rest(),
                expires_at_ms: 0,
            },
            EXPIRING => {
                let expires_at_ms = decoder.varint()?;
                Content::Value {
                    value: decoder.rest(),
                    expires_at_ms,
                }
            }
            TOMBSTONE => Content::Tombstone,
            other => return Err(Malformed::Tag(other)),
        };
        decoder.finish()?;
        Ok(Record { version, content })
    }
}
