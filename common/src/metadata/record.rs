//! What the embedded store's journal says, record by record: a tag, then fields in order; numbers are little-endian, bytes
//! and text carry their length.

use super::{KeyValue, LeaseId, Op, Revision};
use bytes::Bytes;
use std::time::Duration;

const SNAPSHOT: u8 = 1;
const CHANGE: u8 = 2;
const GRANT: u8 = 3;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// One step of the store's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Everything, as of a revision: the first record of a journal.
    Snapshot {
        revision: Revision,
        next_lease: LeaseId,
        leases: Vec<(LeaseId, Duration)>,
        entries: Vec<KeyValue>,
    },
    /// A transaction: its revision, its operations, the leases that it ended.
    Change {
        revision: Revision,
        ops: Vec<Op>,
        ended: Vec<LeaseId>,
    },
    /// A new lease.
    Grant { lease: LeaseId, ttl: Duration },
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(256));
        match self {
            Record::Snapshot {
                revision,
                next_lease,
                leases,
                entries,
            } => {
                out.tag(SNAPSHOT);
                out.number(revision.0);
                out.number(next_lease.0);
                out.number(leases.len() as u64);
                for (lease, ttl) in leases {
                    out.number(lease.0);
                    out.duration(*ttl);
                }
                out.number(entries.len() as u64);
                for entry in entries {
                    out.bytes(entry.key.as_bytes());
                    out.bytes(&entry.value);
                    out.number(entry.mod_revision.0);
                    out.lease(entry.lease);
                }
            }
            Record::Change { revision, ops, ended } => {
                out.tag(CHANGE);
                out.number(revision.0);
                out.number(ops.len() as u64);
                for op in ops {
                    out.op(op);
                }
                out.number(ended.len() as u64);
                for lease in ended {
                    out.number(lease.0);
                }
            }
            Record::Grant { lease, ttl } => {
                out.tag(GRANT);
                out.number(lease.0);
                out.duration(*ttl);
            }
        }
        out.0
    }

    /// None if these bytes are no record, the whole record and nothing but it.
    pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
        let mut input = Reader(bytes);
        let record = match input.tag()? {
            SNAPSHOT => Record::Snapshot {
                revision: Revision(input.number()?),
                next_lease: LeaseId(input.number()?),
                leases: input.many(|i| Some((LeaseId(i.number()?), i.duration()?)))?,
                entries: input.many(|i| {
                    Some(KeyValue {
                        key: i.text()?,
                        value: i.bytes()?,
                        mod_revision: Revision(i.number()?),
                        lease: i.lease()?,
                    })
                })?,
            },
            CHANGE => Record::Change {
                revision: Revision(input.number()?),
                ops: input.many(Reader::op)?,
                ended: input.many(|i| i.number().map(LeaseId))?,
            },
            GRANT => Record::Grant {
                lease: LeaseId(input.number()?),
                ttl: input.duration()?,
            },
            _ => return None,
        };
        input.0.is_empty().then_some(record)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn duration(&mut self, time: Duration) {
        self.number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// No lease has id 0.
    fn lease(&mut self, lease: Option<LeaseId>) {
        self.number(lease.unwrap_or_default().0);
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Put { key, value, lease } => {
                self.tag(PUT);
                self.bytes(key.as_bytes());
                self.bytes(value);
                self.lease(*lease);
            }
            Op::Delete { key } => {
                self.tag(DELETE);
                self.bytes(key.as_bytes());
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn tag(&mut self) -> Option<u8> {
        let (tag, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*tag)
    }

    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn duration(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(Bytes::copy_from_slice(bytes))
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn lease(&mut self) -> Option<Option<LeaseId>> {
        let id = self.number()?;
        Some((id != 0).then_some(LeaseId(id)))
    }

    /// Every item takes at least a byte: a false count ends with the input, not with the memory.
    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.number()?;
        (0..count).map(|_| one(self)).collect()
    }

    fn op(&mut self) -> Option<Op> {
        match self.tag()? {
            PUT => Some(Op::Put {
                key: self.text()?,
                value: self.bytes()?,
                lease: self.lease()?,
            }),
            DELETE => Some(Op::Delete { key: self.text()? }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record> {
        let entry = KeyValue {
            key: "/a".into(),
            value: Bytes::from_static(b"\x00\xff"),
            mod_revision: Revision(3),
            lease: Some(LeaseId(2)),
        };
        let put = Op::Put {
            key: "/b".into(),
            value: Bytes::new(),
            lease: None,
        };
        vec![
            Record::Snapshot {
                revision: Revision(7),
                next_lease: LeaseId(3),
                leases: vec![(LeaseId(2), Duration::from_secs(5))],
                entries: vec![entry],
            },
            Record::Change {
                revision: Revision(8),
                ops: vec![put, Op::Delete { key: "/c".into() }],
                ended: vec![LeaseId(2)],
            },
            Record::Grant {
                lease: LeaseId(9),
                ttl: Duration::from_millis(1500),
            },
        ]
    }

    #[test]
    fn records_read_back() {
        for record in samples() {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for record in samples() {
            let whole = record.encode();
            for len in 0..whole.len() {
                assert_eq!(Record::decode(&whole[..len]), None, "{len} bytes of {record:?}");
            }
            for at in 0..whole.len() {
                // It may be another record, but it is not read past its end.
                let mut other = whole.clone();
                other[at] = 0xff;
                let _ = Record::decode(&other);
            }
            let mut longer = whole.clone();
            longer.push(0);
            assert_eq!(Record::decode(&longer), None);
        }
        assert_eq!(
            Record::decode(&[CHANGE, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]),
            None
        );
    }
}
