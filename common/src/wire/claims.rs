//! What a receipt claims, read where it lies: in an encoded answer that is passed on and decoded by nobody here.
//!
//! Whoever passes answers on can hold their receipts against what was asked, at the cost of a few numbers each: nothing is
//! allocated, and values are skipped. Sources: `fulcrum/v1/types.proto` (`Receipt`, `Consistency`) and the encoding of protocol
//! buffers. Left out is what no such check needs: levels asked, durability, map version, rounds and times.

use super::types::{basis_from_wire, role};
use super::{Malformed, v1};
use crate::keyspace::MAX_REPLICATION_FACTOR;
use fulcrum_types::{Epoch, GroupId, Index, Level, LogPosition, NodeId, Receipt, Role, StalenessBasis};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::time::Duration;

const HOLDERS: usize = MAX_REPLICATION_FACTOR as usize;

/// What a receipt says of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The group that answered.
    pub group: GroupId,
    /// The node that answered.
    pub replica: NodeId,
    /// What it was to the group.
    pub role: Role,
    /// The entry that a read saw last, or that a write is.
    pub position: LogPosition,
    /// Level achieved.
    pub achieved: Level,
    /// Upper bound of staleness.
    pub staleness: Option<Duration>,
    /// Why that bound holds.
    pub basis: StalenessBasis,
    /// Who had a write durable.
    pub acknowledged_by: Holders,
}

/// Nodes, each once. No more than a group can have: what is named beyond that counts for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    nodes: [NodeId; HOLDERS],
    count: usize,
}

impl Holders {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether this node is one of them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes[..self.count].contains(&node)
    }

    fn add(&mut self, node: NodeId) {
        if self.count < HOLDERS && !self.contains(node) {
            self.nodes[self.count] = node;
            self.count += 1;
        }
    }
}

impl From<&Receipt> for Claims {
    fn from(receipt: &Receipt) -> Self {
        let mut acknowledged_by = Holders::default();
        receipt
            .acknowledged_by
            .iter()
            .for_each(|node| acknowledged_by.add(*node));
        Self {
            group: receipt.group,
            replica: receipt.replica,
            role: receipt.role,
            position: LogPosition {
                epoch: receipt.epoch,
                index: receipt.index,
            },
            achieved: receipt.achieved,
            staleness: receipt.staleness,
            basis: receipt.basis,
            acknowledged_by,
        }
    }
}

impl Claims {
    /// From an encoded [`v1::Receipt`].
    ///
    /// # Errors
    /// The field that is missing or wrong.
    pub fn read(mut receipt: &[u8]) -> Result<Self, Malformed> {
        let (mut group, mut replica, mut role_of, mut basis, mut position) = (0, 0, 0, 0, LogPosition::default());
        let (mut achieved, mut staleness, mut acknowledged_by) = (None, None, Holders::default());
        while let Some((tag, value)) = next_field(&mut receipt)? {
            match (tag, value) {
                (3, Value::Bytes(level)) => achieved = read_level(level)?,
                (4, Value::Number(number)) => group = number,
                (5, Value::Number(number)) => replica = number,
                (6, Value::Number(number)) => role_of = number,
                (7, Value::Number(number)) => position.epoch = Epoch(number),
                (8, Value::Number(number)) => position.index = Index(number),
                (9, Value::Number(number)) => acknowledged_by.add(NodeId(number)),
                (9, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        acknowledged_by.add(NodeId(decode_varint(&mut packed).map_err(malformed)?));
                    }
                }
                (11, Value::Number(number)) => staleness = Some(Duration::from_micros(number)),
                (12, Value::Number(number)) => basis = number,
                _ => {}
            }
        }
        Ok(Self {
            group: GroupId(group),
            replica: NodeId(replica),
            role: role(i32::try_from(role_of).unwrap_or(i32::MAX))?,
            position,
            achieved: achieved.ok_or_else(|| Malformed::missing("receipt.achieved"))?,
            staleness,
            basis: basis_from_wire(i32::try_from(basis).unwrap_or(i32::MAX)),
            acknowledged_by,
        })
    }
}

/// The encoded receipt of an encoded [`v1::GetResponse`] or [`v1::WriteResponse`], which have it in the same place.
///
/// # Errors
/// There is none, or more than one, or it is no such message.
pub fn receipt_of(mut message: &[u8]) -> Result<&[u8], Malformed> {
    const RECEIPT: u32 = 2;
    let mut found = None;
    while let Some((tag, value)) = next_field(&mut message)? {
        let (RECEIPT, Value::Bytes(receipt)) = (tag, value) else {
            continue;
        };
        if found.replace(receipt).is_some() {
            return Err(Malformed("receipt is there twice".into()));
        }
    }
    found.ok_or_else(|| Malformed::missing("receipt"))
}

/// A [`v1::Consistency`]: of several levels the last counts, as for every reader of protocol buffers.
fn read_level(mut level: &[u8]) -> Result<Option<Level>, Malformed> {
    use v1::consistency as c;
    let mut found = None;
    while let Some((tag, value)) = next_field(&mut level)? {
        found = match (tag, value) {
            (1, _) => Some(c::Level::Linearizable(c::Linearizable {})),
            (2, Value::Number(ms)) => Some(c::Level::BoundedMs(ms)),
            (3, _) => Some(c::Level::Session(c::Session {})),
            (4, _) => Some(c::Level::Eventual(c::Eventual {})),
            _ => found,
        };
    }
    match found {
        Some(level) => v1::Consistency { level: Some(level) }.try_into().map(Some),
        None => Ok(None),
    }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that none of these messages has.
    Other,
}

/// The next field and its tag.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, Value<'a>)>, Malformed> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (tag, kind) = decode_key(rest).map_err(malformed)?;
    let value = match kind {
        WireType::Varint => Value::Number(decode_varint(rest).map_err(malformed)?),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(rest).map_err(malformed)?).unwrap_or(usize::MAX);
            let (bytes, behind) = rest
                .split_at_checked(length)
                .ok_or_else(|| Malformed("it is cut short".into()))?;
            *rest = behind;
            Value::Bytes(bytes)
        }
        other => {
            skip_field(other, tag, rest, DecodeContext::default()).map_err(malformed)?;
            Value::Other
        }
    };
    Ok(Some((tag, value)))
}

fn malformed(error: DecodeError) -> Malformed {
    Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{MapVersion, Mode};
    use prost::Message;

    fn receipt(level: Level, by: impl IntoIterator<Item = u64>) -> Receipt {
        Receipt {
            mode: Mode::Sync,
            asked: Level::Eventual,
            achieved: level,
            group: GroupId(300),
            replica: NodeId(2),
            role: Role::Backup,
            epoch: Epoch(7),
            index: Index(70_000),
            acknowledged_by: by.into_iter().map(NodeId).collect(),
            durable: true,
            staleness: Some(Duration::from_micros(250)),
            basis: StalenessBasis::Echo,
            map_version: MapVersion(3),
            rounds: 1,
            elapsed: Duration::from_micros(31),
        }
    }

    fn levels() -> [Level; 4] {
        let bounded = Level::Bounded(Duration::from_millis(500));
        [Level::Linearizable, bounded, Level::Session, Level::Eventual]
    }

    fn answer(receipt: Receipt) -> Vec<u8> {
        let value = Some(v1::Value {
            value: vec![18; 500].into(),
            version: 9,
            expires_at_ms: 0,
        });
        let receipt = Some(receipt.into());
        v1::GetResponse { value, receipt }.encode_to_vec()
    }

    #[test]
    fn what_is_read_from_the_bytes_is_what_the_receipt_says() {
        for level in levels() {
            for by in [vec![], vec![2], vec![1, 2, 300]] {
                let receipt = receipt(level, by);
                let message = answer(receipt.clone());
                let read = Claims::read(receipt_of(&message).unwrap());
                assert_eq!(read, Ok(Claims::from(&receipt)));
            }
        }
        let bare = Receipt {
            staleness: None,
            basis: StalenessBasis::None,
            ..receipt(Level::Eventual, [])
        };
        let wire: v1::Receipt = bare.clone().into();
        assert_eq!(Claims::read(&wire.encode_to_vec()), Ok(Claims::from(&bare)));
    }

    #[test]
    fn a_holder_counts_once_and_no_more_of_them_than_a_group_can_have() {
        let of = |by: &[u64]| Claims::from(&receipt(Level::Eventual, by.iter().copied())).acknowledged_by;
        let twice = of(&[3, 1, 3, 1]);
        assert_eq!(twice.count(), 2);
        assert!(twice.contains(NodeId(3)) && !twice.contains(NodeId(0)));
        assert_eq!(of(&(1..100).collect::<Vec<_>>()).count(), HOLDERS);
    }

    #[test]
    fn what_makes_no_sense_is_malformed_and_never_a_panic() {
        let none = v1::GetResponse::default().encode_to_vec();
        assert!(receipt_of(&none).is_err());
        let mut twice = answer(receipt(Level::Session, []));
        twice.extend_from_slice(&answer(receipt(Level::Session, [])));
        assert!(receipt_of(&twice).is_err());
        let without_level = v1::Receipt {
            achieved: None,
            ..receipt(Level::Session, []).into()
        };
        assert!(Claims::read(&without_level.encode_to_vec()).is_err());
        assert!(Claims::read(&[]).is_err(), "no role, no level");

        let whole = answer(receipt(Level::Linearizable, [1, 2]));
        for end in 0..whole.len() {
            assert!(receipt_of(&whole[..end]).is_err(), "cut at {end}");
        }
        let encoded = receipt_of(&whole).unwrap();
        for place in 0..encoded.len() {
            let mut broken = encoded.to_vec();
            broken[place] = 0xff;
            // Whatever it says then.
            let _ = Claims::read(&broken);
        }
    }
}
