//! The records of the log, of the hard state and of certificates.

use super::certificates::{Opening, Unled};
use super::record::{Decoder, Malformed, put_bytes, put_varint, seal, unseal};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_replication::contract::{Divergence, HardState};
use fulcrum_types::{
    ConfigVersion, DataId, Entry, Epoch, GroupConfiguration, Index, LogPosition, Member, NodeId, Payload,
    ReplicatedTime,
};

const NOOP: u8 = 0;
const COMMAND: u8 = 1;

/// Entries that were appended together: one record.
pub(super) fn encode_run(entries: &[Entry]) -> Bytes {
    let size: usize = entries.iter().map(|entry| entry.payload.len() + ENTRY_HEAD + 5).sum();
    seal(size, |buffer| entries.iter().for_each(|entry| put_entry(buffer, entry)))
}

pub(super) fn decode_run(record: &Bytes) -> Result<Vec<Entry>, Malformed> {
    let mut decoder = Decoder::new(unseal(record)?);
    let mut entries = Vec::new();
    while decoder.remaining() > 0 {
        entries.push(get_entry(&mut decoder)?);
    }
    Ok(entries)
}

/// Bytes of an entry besides its command and the command's length.
const ENTRY_HEAD: usize = 3 * 8 + 1;

fn put_entry(buffer: &mut BytesMut, entry: &Entry) {
    buffer.put_u64(entry.position.epoch.0);
    buffer.put_u64(entry.position.index.0);
    buffer.put_u64(entry.time.0);
    match &entry.payload {
        Payload::Noop => buffer.put_u8(NOOP),
        Payload::Command(command) => {
            buffer.put_u8(COMMAND);
            put_bytes(buffer, command);
        }
    }
}

fn get_entry(decoder: &mut Decoder) -> Result<Entry, Malformed> {
    let position = LogPosition {
        epoch: Epoch(decoder.u64()?),
        index: Index(decoder.u64()?),
    };
    let time = ReplicatedTime(decoder.u64()?);
    let payload = match decoder.u8()? {
        NOOP => Payload::Noop,
        COMMAND => Payload::Command(decoder.bytes()?),
        other => return Err(Malformed::Tag(other)),
    };
    Ok(Entry {
        position,
        time,
        payload,
    })
}

fn put_position(buffer: &mut BytesMut, position: LogPosition) {
    put_varint(buffer, position.epoch.0);
    put_varint(buffer, position.index.0);
}

fn get_position(decoder: &mut Decoder) -> Result<LogPosition, Malformed> {
    Ok(LogPosition {
        epoch: Epoch(decoder.varint()?),
        index: Index(decoder.varint()?),
    })
}

pub(super) fn encode_base(position: LogPosition, time: ReplicatedTime) -> Bytes {
    seal(30, |buffer| {
        put_position(buffer, position);
        put_varint(buffer, time.0);
    })
}

pub(super) fn decode_base(record: &Bytes) -> Result<(LogPosition, ReplicatedTime), Malformed> {
    let mut decoder = Decoder::new(unseal(record)?);
    let base = (get_position(&mut decoder)?, ReplicatedTime(decoder.varint()?));
    decoder.finish()?;
    Ok(base)
}

pub(super) fn encode_number(number: u64) -> Bytes {
    seal(10, |buffer| put_varint(buffer, number))
}

pub(super) fn decode_number(record: &Bytes) -> Result<u64, Malformed> {
    let mut decoder = Decoder::new(unseal(record)?);
    let number = decoder.varint()?;
    decoder.finish()?;
    Ok(number)
}

pub(super) fn encode_hard_state(state: &HardState) -> Bytes {
    seal(64, |buffer| {
        put_varint(buffer, state.data.0);
        put_varint(buffer, state.epoch.0);
        put_varint(buffer, state.commit.0);
        put_varint(buffer, state.led.0);
        put_varint(buffer, state.forced.0);
        put_configuration(buffer, &state.configuration);
        put_varint(buffer, state.epoch_starts.len() as u64);
        for (epoch, index) in &state.epoch_starts {
            put_varint(buffer, epoch.0);
            put_varint(buffer, index.0);
        }
    })
}

pub(super) fn decode_hard_state(record: &Bytes) -> Result<HardState, Malformed> {
    let mut decoder = Decoder::new(unseal(record)?);
    let state = HardState {
        data: DataId(decoder.varint()?),
        epoch: Epoch(decoder.varint()?),
        commit: Index(decoder.varint()?),
        led: Epoch(decoder.varint()?),
        forced: Epoch(decoder.varint()?),
        configuration: get_configuration(&mut decoder)?,
        epoch_starts: get_list(&mut decoder, |d| Ok((Epoch(d.varint()?), Index(d.varint()?))))?,
    };
    decoder.finish()?;
    Ok(state)
}

fn put_configuration(buffer: &mut BytesMut, configuration: &GroupConfiguration) {
    put_varint(buffer, configuration.version.0);
    put_varint(buffer, configuration.epoch.0);
    match configuration.primary {
        None => buffer.put_u8(0),
        Some(node) => {
            buffer.put_u8(1);
            put_varint(buffer, node.0);
        }
    }
    put_varint(buffer, configuration.in_sync.len() as u64);
    configuration
        .in_sync
        .iter()
        .for_each(|member| put_member(buffer, *member));
    put_varint(buffer, configuration.replicas.len() as u64);
    for node in &configuration.replicas {
        put_varint(buffer, node.0);
    }
}

fn get_configuration(decoder: &mut Decoder) -> Result<GroupConfiguration, Malformed> {
    Ok(GroupConfiguration {
        version: ConfigVersion(decoder.varint()?),
        epoch: Epoch(decoder.varint()?),
        primary: match decoder.u8()? {
            0 => None,
            1 => Some(NodeId(decoder.varint()?)),
            other => return Err(Malformed::Tag(other)),
        },
        in_sync: get_list(decoder, get_member)?,
        replicas: get_list(decoder, |d| Ok(NodeId(d.varint()?)))?,
    })
}

fn put_member(buffer: &mut BytesMut, member: Member) {
    put_varint(buffer, member.node.0);
    put_varint(buffer, member.data.0);
}

fn get_member(decoder: &mut Decoder) -> Result<Member, Malformed> {
    Ok(Member {
        node: NodeId(decoder.varint()?),
        data: DataId(decoder.varint()?),
    })
}

fn put_who(buffer: &mut BytesMut, who: Option<Member>) {
    buffer.put_u8(u8::from(who.is_some()));
    who.iter().for_each(|member| put_member(buffer, *member));
}

fn get_who(decoder: &mut Decoder) -> Result<Option<Member>, Malformed> {
    Ok(match get_flag(decoder)? {
        true => Some(get_member(decoder)?),
        false => None,
    })
}

fn get_flag(decoder: &mut Decoder) -> Result<bool, Malformed> {
    match decoder.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Malformed::Tag(other)),
    }
}

fn get_list<T>(
    decoder: &mut Decoder,
    mut item: impl FnMut(&mut Decoder) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = decoder.varint()?;
    // Every item takes a byte at least: a count beyond that is not believed, let alone allocated for.
    if count > decoder.remaining() as u64 {
        return Err(Malformed::TooShort);
    }
    (0..count).map(|_| item(decoder)).collect()
}

pub(super) fn encode_divergence(divergence: &Divergence) -> Bytes {
    let size = divergence.entries.iter().map(Entry::size).sum::<usize>();
    seal(size + 64, |buffer| {
        put_varint(buffer, divergence.old_epoch.0);
        put_varint(buffer, divergence.new_epoch.0);
        put_position(buffer, divergence.common);
        put_varint(buffer, divergence.acknowledged_through.0);
        buffer.put_u8(u8::from(divergence.complete));
        put_varint(buffer, divergence.entries.len() as u64);
        divergence.entries.iter().for_each(|entry| put_entry(buffer, entry));
    })
}

pub(super) fn decode_divergence(record: &Bytes) -> Result<Divergence, Malformed> {
    let mut decoder = Decoder::new(unseal(record)?);
    let divergence = Divergence {
        old_epoch: Epoch(decoder.varint()?),
        new_epoch: Epoch(decoder.varint()?),
        common: get_position(&mut decoder)?,
        acknowledged_through: Index(decoder.varint()?),
        complete: get_flag(&mut decoder)?,
        entries: get_list(&mut decoder, get_entry)?,
    };
    decoder.finish()?;
    Ok(divergence)
}

pub(super) fn encode_opening(opening: &Opening) -> Bytes {
    seal(40, |buffer| {
        put_varint(buffer, opening.old_epoch.0);
        put_position(buffer, opening.promotion);
        put_who(buffer, opening.deposed);
    })
}

pub(super) fn decode_opening(record: &Bytes) -> Result<Opening, Malformed> {
    let mut decoder = Decoder::new(unseal(record)?);
    let opening = Opening {
        old_epoch: Epoch(decoder.varint()?),
        promotion: get_position(&mut decoder)?,
        deposed: get_who(&mut decoder)?,
    };
    decoder.finish()?;
    Ok(opening)
}

pub(super) fn encode_unled(unled: &Unled) -> Bytes {
    seal(40, |buffer| {
        put_member(buffer, unled.who);
        put_varint(buffer, unled.first.0);
        put_who(buffer, unled.before);
    })
}

pub(super) fn decode_unled(record: &Bytes) -> Result<Unled, Malformed> {
    let mut decoder = Decoder::new(unseal(record)?);
    let unled = Unled {
        who: get_member(&mut decoder)?,
        first: Epoch(decoder.varint()?),
        before: get_who(&mut decoder)?,
    };
    decoder.finish()?;
    Ok(unled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::Random;

    fn entry(index: u64, payload: Payload) -> Entry {
        Entry {
            position: LogPosition {
                epoch: Epoch(3),
                index: Index(index),
            },
            time: ReplicatedTime(99),
            payload,
        }
    }

    #[test]
    fn entries_come_back_as_they_were() {
        for payload in [
            Payload::Noop,
            Payload::Command(Bytes::new()),
            Payload::Command(Bytes::from_static(b"xyz")),
        ] {
            let entry = entry(7, payload);
            assert_eq!(decode_run(&encode_run(std::slice::from_ref(&entry))), Ok(vec![entry]));
        }
    }

    #[test]
    fn hard_state_comes_back_as_it_was() {
        let state = HardState {
            data: DataId(u64::MAX),
            configuration: GroupConfiguration {
                version: ConfigVersion(300),
                epoch: Epoch(4),
                primary: Some(NodeId(2)),
                in_sync: vec![
                    Member {
                        node: NodeId(2),
                        data: DataId(9),
                    },
                    Member {
                        node: NodeId(3),
                        data: DataId(1),
                    },
                ],
                replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
            },
            epoch: Epoch(5),
            commit: Index(1 << 40),
            epoch_starts: vec![(Epoch(1), Index(1)), (Epoch(4), Index(70))],
            led: Epoch(4),
            forced: Epoch(2),
        };
        assert_eq!(decode_hard_state(&encode_hard_state(&state)), Ok(state));
        assert_eq!(
            decode_hard_state(&encode_hard_state(&HardState::default())),
            Ok(HardState::default())
        );
    }

    #[test]
    fn divergences_come_back_as_they_were() {
        let divergence = Divergence {
            old_epoch: Epoch(1),
            new_epoch: Epoch(2),
            common: LogPosition {
                epoch: Epoch(1),
                index: Index(4),
            },
            entries: vec![
                entry(5, Payload::Noop),
                entry(6, Payload::Command(Bytes::from_static(b"lost"))),
            ],
            acknowledged_through: Index(5),
            complete: true,
        };
        assert_eq!(decode_divergence(&encode_divergence(&divergence)), Ok(divergence));
    }

    #[test]
    fn what_is_known_of_an_epoch_comes_back_as_it_was() {
        let who = Member {
            node: NodeId(3),
            data: DataId(u64::MAX),
        };
        for known in [None, Some(who)] {
            let opening = Opening {
                old_epoch: Epoch(7),
                promotion: entry(5, Payload::Noop).position,
                deposed: known,
            };
            assert_eq!(decode_opening(&encode_opening(&opening)), Ok(opening));
            let unled = Unled {
                who,
                first: Epoch(6),
                before: known,
            };
            assert_eq!(decode_unled(&encode_unled(&unled)), Ok(unled));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_noticed() {
        let record = encode_run(&[entry(7, Payload::Command(Bytes::from_static(b"some command")))]);
        for bit in 0..record.len() * 8 {
            let mut damaged = record.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_run(&Bytes::from(damaged)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn random_bytes_are_refused_without_harm() {
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let length = random.below(80);
            let noise: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
            // With a right checksum, so that the content is what is tried.
            let record = seal(noise.len(), |buffer| buffer.put_slice(&noise));
            let _ = (
                decode_run(&record),
                decode_hard_state(&record),
                decode_divergence(&record),
            );
            let _ = (decode_base(&record), decode_number(&record));
            let _ = (decode_opening(&record), decode_unled(&record));
            assert!(unseal(&Bytes::from(noise)).is_err());
        }
    }
}
