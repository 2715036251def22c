//! What applying an entry did beyond, or short of, what its command says.
//!
//! A watch is shown the log, not the state: by the time it comes, the state that decided a condition is gone. So what was
//! decided at apply and cannot be told from the entry is noted beside it: writes without effect, retries, values whose time
//! ran out. Most entries have nothing to note, and cost nothing.

use super::transactions::codec::{get_option, put_option};
use super::value::Record;
use crate::storage::{Decoder, Malformed, put_bytes, put_varint};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::Version;

/// What is noted of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Footnote {
    /// The command did nothing: a retry, or refused.
    pub(super) nothing: bool,
    /// Numbers of the writes that changed nothing: their condition did not hold, or there was nothing to delete.
    pub(super) idle: Vec<u32>,
    /// Writes that came upon a value whose time had run out, and that value's version.
    pub(super) upon_expired: Vec<(u32, Version)>,
    /// Keys whose values were removed after the writes because their time had run out, and those values' versions.
    pub(super) expired: Vec<(Bytes, Version)>,
    /// What became of keys when a transaction was committed here: the entry that resolves it does not say.
    pub(super) became: Vec<Became>,
}

/// What a key became by a transaction's commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Became {
    pub(super) key: Bytes,
    /// Version of the value that it came upon, if that value's time had run out.
    pub(super) upon_expired: Option<Version>,
    /// Its record; none if there was nothing to delete.
    pub(super) record: Option<Record>,
}

/// Tags of what is noted.
mod tag {
    pub(super) const NOTHING: u8 = 1;
    pub(super) const IDLE: u8 = 2;
    pub(super) const UPON_EXPIRED: u8 = 3;
    pub(super) const EXPIRED: u8 = 4;
    pub(super) const BECAME: u8 = 5;
}

impl Footnote {
    pub(super) fn is_empty(&self) -> bool {
        !self.nothing
            && self.idle.is_empty()
            && self.upon_expired.is_empty()
            && self.expired.is_empty()
            && self.became.is_empty()
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        if self.nothing {
            buffer.put_u8(tag::NOTHING);
        }
        for op in &self.idle {
            buffer.put_u8(tag::IDLE);
            put_varint(&mut buffer, u64::from(*op));
        }
        for (op, version) in &self.upon_expired {
            buffer.put_u8(tag::UPON_EXPIRED);
            put_varint(&mut buffer, u64::from(*op));
            put_varint(&mut buffer, version.0);
        }
        for (key, version) in &self.expired {
            buffer.put_u8(tag::EXPIRED);
            put_bytes(&mut buffer, key);
            put_varint(&mut buffer, version.0);
        }
        for became in &self.became {
            buffer.put_u8(tag::BECAME);
            put_bytes(&mut buffer, &became.key);
            put_option(&mut buffer, became.upon_expired, |buffer, version| {
                put_varint(buffer, version.0);
            });
            put_option(&mut buffer, became.record.as_ref(), |buffer, record| {
                put_bytes(buffer, &record.encode());
            });
        }
        buffer.freeze()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let mut footnote = Footnote::default();
        while decoder.remaining() > 0 {
            match decoder.u8()? {
                tag::NOTHING => footnote.nothing = true,
                tag::IDLE => footnote.idle.push(number(&mut decoder)?),
                tag::UPON_EXPIRED => {
                    let op = number(&mut decoder)?;
                    footnote.upon_expired.push((op, Version(decoder.varint()?)));
                }
                tag::EXPIRED => {
                    let key = decoder.bytes()?;
                    footnote.expired.push((key, Version(decoder.varint()?)));
                }
                tag::BECAME => footnote.became.push(Became {
                    key: decoder.bytes()?,
                    upon_expired: get_option(&mut decoder, |decoder| decoder.varint().map(Version))?,
                    record: get_option(&mut decoder, |decoder| Record::decode(decoder.bytes()?))?,
                }),
                other => return Err(Malformed::Tag(other)),
            }
        }
        Ok(footnote)
    }
}

fn number(decoder: &mut Decoder) -> Result<u32, Malformed> {
    u32::try_from(decoder.varint()?).map_err(|_| Malformed::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_machine::value::Content;
    use crate::storage::testing::Random;

    fn sample() -> Footnote {
        Footnote {
            nothing: true,
            idle: vec![0, 1023],
            upon_expired: vec![(3, Version(u64::MAX))],
            expired: vec![(Bytes::from_static(b"k"), Version(7)), (Bytes::new(), Version(0))],
            became: vec![
                Became {
                    key: Bytes::from_static(b"k"),
                    upon_expired: Some(Version(8)),
                    record: Some(Record {
                        version: Version(9),
                        content: Content::Tombstone,
                    }),
                },
                Became {
                    key: Bytes::new(),
                    upon_expired: None,
                    record: None,
                },
            ],
        }
    }

    #[test]
    fn footnotes_come_back_as_they_were() {
        for footnote in [sample(), Footnote::default()] {
            assert_eq!(Footnote::decode(footnote.encode()), Ok(footnote));
        }
    }

    #[test]
    fn damaged_footnotes_are_refused_without_harm() {
        let whole = sample().encode();
        let mut random = Random::new(3);
        for _ in 0..20_000 {
            let mut damaged = whole.to_vec();
            let at = random.below(damaged.len() as u64) as usize;
            damaged[at] = random.below(256) as u8;
            damaged.truncate(random.below(damaged.len() as u64 + 1) as usize);
            let _ = Footnote::decode(Bytes::from(damaged));
        }
        assert!(Footnote::decode(Bytes::from_static(&[9])).is_err());
    }
}
