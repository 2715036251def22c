//! Replication messages on the wire: the envelope is protobuf, the body a compact encoding of our own.
//!
//! A body is `version, tag, fields`: numbers as little-endian base-128 varints, byte strings and lists behind their length.
//! Entries, the bulk of it, cost a few bytes each and their payloads are shared with the message that they came in, not
//! copied. A reader knows only its own version; a node that speaks another is refused and says so.
//!
//! Decoding never trusts: it fails by [`Malformed`] on anything odd, also on bytes left over, and never allocates more than
//! a small multiple of what it was given.

use super::{Malformed, internal};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_replication::primary_backup::{Beat, Body};
use fulcrum_replication::{Header, Message, SnapshotChunk, SnapshotMeta, TransferId};
use fulcrum_types::{
    BootId, ConfigVersion, DataId, Entry, Epoch, GroupConfiguration, GroupId, Index, LogPosition, Member, Mono, NodeId,
    Payload, ReplicatedTime,
};

const VERSION: u8 = 2;

const APPEND: u8 = 1;
const ACKNOWLEDGE: u8 = 2;
const MISMATCH: u8 = 3;
const STALE: u8 = 4;
const SNAPSHOT: u8 = 5;
const SNAPSHOT_PROGRESS: u8 = 6;
const PROBE: u8 = 7;
const PROBE_REPLY: u8 = 8;
const TAKE_OVER: u8 = 9;
const HISTORY: u8 = 10;

const NOOP: u8 = 0;
const COMMAND: u8 = 1;

/// A message as the wire has it.
#[must_use]
pub fn message_to_wire(group: GroupId, message: &Message) -> internal::PeerMessage {
    let mut body = BytesMut::with_capacity(size_hint(&message.body));
    put_body(&mut body, &message.body);
    internal::PeerMessage {
        group: group.0,
        epoch: message.header.epoch.0,
        config_version: message.header.version.0,
        boot: message.header.boot.0,
        data: message.header.data.0,
        body: body.freeze(),
        wall_ms: message.header.wall_ms,
        traced: Vec::new(),
    }
}

/// A message from the wire.
///
/// # Errors
/// What is wrong with it.
pub fn message_from_wire(wire: internal::PeerMessage) -> Result<(GroupId, Message), Malformed> {
    let header = Header {
        epoch: Epoch(wire.epoch),
        version: ConfigVersion(wire.config_version),
        boot: BootId(wire.boot),
        data: DataId(wire.data),
        wall_ms: wire.wall_ms,
    };
    let body = body_from_bytes(wire.body)?;
    Ok((GroupId(wire.group), Message { header, body }))
}

fn size_hint(body: &Body) -> usize {
    match body {
        Body::Append { entries, .. } => 64 + entries.iter().map(Entry::size).sum::<usize>(),
        Body::Snapshot { chunk, .. } => 64 + chunk.data.len(),
        _ => 64,
    }
}

fn put_body(to: &mut BytesMut, body: &Body) {
    to.put_u8(VERSION);
    match body {
        Body::Append {
            previous,
            entries,
            commit,
            held,
            beat,
        } => {
            to.put_u8(APPEND);
            put_position(to, *previous);
            put_varint(to, commit.0);
            put_varint(to, held.0);
            put_beat(to, beat);
            put_list(to, entries, put_entry);
        }
        Body::Acknowledge {
            persisted,
            matched,
            applied,
            echo,
            round,
            own_clock,
            leaving,
        } => {
            to.put_u8(ACKNOWLEDGE);
            for number in [persisted.0, matched.0, applied.0, echo.0, *round, own_clock.0] {
                put_varint(to, number);
            }
            to.put_u8(u8::from(*leaving));
        }
        Body::Mismatch {
            refused,
            try_next,
            echo,
        } => {
            to.put_u8(MISMATCH);
            put_position(to, *refused);
            put_position(to, *try_next);
            put_varint(to, echo.0);
        }
        Body::Stale { configuration } => {
            to.put_u8(STALE);
            put_configuration(to, configuration);
        }
        Body::Snapshot { transfer, chunk } => {
            to.put_u8(SNAPSHOT);
            put_varint(to, transfer.0);
            put_chunk(to, chunk);
        }
        Body::SnapshotProgress { transfer, next } => {
            to.put_u8(SNAPSHOT_PROGRESS);
            put_varint(to, transfer.0);
            put_varint(to, *next);
        }
        Body::Probe { last } => {
            to.put_u8(PROBE);
            put_position(to, *last);
        }
        Body::ProbeReply { last, eligible } => {
            to.put_u8(PROBE_REPLY);
            put_position(to, *last);
            to.put_u8(u8::from(*eligible));
        }
        Body::History {
            committed,
            epoch_starts,
        } => {
            to.put_u8(HISTORY);
            put_position(to, *committed);
            put_starts(to, epoch_starts);
        }
        Body::TakeOver { last, given_up_at } => {
            to.put_u8(TAKE_OVER);
            put_position(to, *last);
            put_varint(to, given_up_at.0);
        }
    }
}

fn body_from_bytes(bytes: Bytes) -> Result<Body, Malformed> {
    let mut from = Fields(bytes);
    let version = from.byte("version")?;
    if version != VERSION {
        return Err(Malformed(format!(
            "peer message of version {version}, this release speaks {VERSION}: run releases that go together"
        )));
    }
    let body = match from.byte("tag")? {
        APPEND => Body::Append {
            previous: from.position("append.previous")?,
            commit: Index(from.varint("append.commit")?),
            held: Index(from.varint("append.held")?),
            beat: from.beat()?,
            entries: from.list("append.entries", 4, Fields::entry)?,
        },
        ACKNOWLEDGE => Body::Acknowledge {
            persisted: Index(from.varint("acknowledge.persisted")?),
            matched: Index(from.varint("acknowledge.matched")?),
            applied: Index(from.varint("acknowledge.applied")?),
            echo: Mono(from.varint("acknowledge.echo")?),
            round: from.varint("acknowledge.round")?,
            own_clock: Mono(from.varint("acknowledge.own_clock")?),
            leaving: from.flag("acknowledge.leaving")?,
        },
        MISMATCH => Body::Mismatch {
            refused: from.position("mismatch.refused")?,
            try_next: from.position("mismatch.try_next")?,
            echo: Mono(from.varint("mismatch.echo")?),
        },
        STALE => Body::Stale {
            configuration: from.configuration()?,
        },
        SNAPSHOT => Body::Snapshot {
            transfer: TransferId(from.varint("snapshot.transfer")?),
            chunk: from.chunk()?,
        },
        SNAPSHOT_PROGRESS => Body::SnapshotProgress {
            transfer: TransferId(from.varint("snapshot_progress.transfer")?),
            next: from.varint("snapshot_progress.next")?,
        },
        PROBE => Body::Probe {
            last: from.position("probe.last")?,
        },
        PROBE_REPLY => Body::ProbeReply {
            last: from.position("probe_reply.last")?,
            eligible: from.flag("probe_reply.eligible")?,
        },
        HISTORY => Body::History {
            committed: from.position("history.committed")?,
            epoch_starts: from.starts("history.epoch_starts")?,
        },
        TAKE_OVER => Body::TakeOver {
            last: from.position("take_over.last")?,
            given_up_at: Mono(from.varint("take_over.given_up_at")?),
        },
        other => return Err(Malformed(format!("peer message with the unknown tag {other}"))),
    };
    from.end()?;
    Ok(body)
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

fn put_bytes(to: &mut BytesMut, bytes: &[u8]) {
    put_varint(to, bytes.len() as u64);
    to.put_slice(bytes);
}

fn put_list<T>(to: &mut BytesMut, items: &[T], put: impl Fn(&mut BytesMut, &T)) {
    put_varint(to, items.len() as u64);
    for item in items {
        put(to, item);
    }
}

fn put_position(to: &mut BytesMut, position: LogPosition) {
    put_varint(to, position.epoch.0);
    put_varint(to, position.index.0);
}

fn put_beat(to: &mut BytesMut, beat: &Beat) {
    put_varint(to, beat.primary_clock.0);
    put_varint(to, beat.round);
    put_varint(to, beat.echoed_boot.0);
    put_optional(to, beat.echoed_backup_clock.map(|clock| clock.0));
    put_optional(to, beat.time.map(|time| time.0));
}

fn put_optional(to: &mut BytesMut, value: Option<u64>) {
    to.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put_varint(to, value);
    }
}

fn put_entry(to: &mut BytesMut, entry: &Entry) {
    put_position(to, entry.position);
    put_varint(to, entry.time.0);
    match &entry.payload {
        Payload::Noop => to.put_u8(NOOP),
        Payload::Command(command) => {
            to.put_u8(COMMAND);
            put_bytes(to, command);
        }
    }
}

fn put_configuration(to: &mut BytesMut, configuration: &GroupConfiguration) {
    put_varint(to, configuration.version.0);
    put_varint(to, configuration.epoch.0);
    to.put_u8(u8::from(configuration.primary.is_some()));
    if let Some(primary) = configuration.primary {
        put_varint(to, primary.0);
    }
    put_list(to, &configuration.in_sync, |to, member| {
        put_varint(to, member.node.0);
        put_varint(to, member.data.0);
    });
    put_list(to, &configuration.replicas, |to, node| put_varint(to, node.0));
}

fn put_chunk(to: &mut BytesMut, chunk: &SnapshotChunk) {
    put_varint(to, chunk.number);
    put_bytes(to, &chunk.data);
    to.put_u8(u8::from(chunk.last.is_some()));
    if let Some(meta) = &chunk.last {
        put_position(to, meta.position);
        put_varint(to, meta.time.0);
        put_starts(to, &meta.epoch_starts);
    }
}

fn put_starts(to: &mut BytesMut, starts: &[(Epoch, Index)]) {
    put_list(to, starts, |to, (epoch, first)| {
        put_varint(to, epoch.0);
        put_varint(to, first.0);
    });
}

/// What is left to read.
struct Fields(Bytes);

impl Fields {
    fn byte(&mut self, field: &str) -> Result<u8, Malformed> {
        let (first, _) = self.0.split_first().ok_or_else(|| truncated(field))?;
        let first = *first;
        bytes::Buf::advance(&mut self.0, 1);
        Ok(first)
    }

    fn flag(&mut self, field: &str) -> Result<bool, Malformed> {
        match self.byte(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed(format!("{field} is {other}, neither 0 nor 1"))),
        }
    }

    fn varint(&mut self, field: &str) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds the last bit only.
            if at == 9 && *byte > 1 {
                return Err(Malformed(format!("{field} is larger than a number can be")));
            }
            value |= bits << (7 * at);
            if byte & 0x80 == 0 {
                bytes::Buf::advance(&mut self.0, at + 1);
                return Ok(value);
            }
        }
        Err(truncated(field))
    }

    fn bytes(&mut self, field: &str) -> Result<Bytes, Malformed> {
        let len = usize::try_from(self.varint(field)?).unwrap_or(usize::MAX);
        if len > self.0.len() {
            return Err(truncated(field));
        }
        Ok(self.0.split_to(len))
    }

    /// A list whose items take at least `least` bytes each: more than fit in what is left are refused at once.
    fn list<T>(
        &mut self,
        field: &str,
        least: usize,
        read: impl Fn(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let len = usize::try_from(self.varint(field)?).unwrap_or(usize::MAX);
        if len > self.0.len() / least {
            return Err(truncated(field));
        }
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn position(&mut self, field: &str) -> Result<LogPosition, Malformed> {
        Ok(LogPosition {
            epoch: Epoch(self.varint(field)?),
            index: Index(self.varint(field)?),
        })
    }

    fn beat(&mut self) -> Result<Beat, Malformed> {
        let primary_clock = Mono(self.varint("beat.primary_clock")?);
        let round = self.varint("beat.round")?;
        let echoed_boot = BootId(self.varint("beat.echoed_boot")?);
        let echoed_backup_clock = self.optional("beat.echoed_backup_clock")?.map(Mono);
        let time = self.optional("beat.time")?.map(ReplicatedTime);
        Ok(Beat {
            primary_clock,
            round,
            echoed_backup_clock,
            echoed_boot,
            time,
        })
    }

    fn optional(&mut self, field: &str) -> Result<Option<u64>, Malformed> {
        Ok(match self.flag(field)? {
            true => Some(self.varint(field)?),
            false => None,
        })
    }

    fn entry(&mut self) -> Result<Entry, Malformed> {
        let position = self.position("entry.position")?;
        let time = ReplicatedTime(self.varint("entry.time")?);
        let payload = match self.byte("entry.payload")? {
            NOOP => Payload::Noop,
            COMMAND => Payload::Command(self.bytes("entry.payload")?),
            other => return Err(Malformed(format!("entry.payload has the unknown kind {other}"))),
        };
        Ok(Entry {
            position,
            time,
            payload,
        })
    }

    fn configuration(&mut self) -> Result<GroupConfiguration, Malformed> {
        let version = ConfigVersion(self.varint("configuration.version")?);
        let epoch = Epoch(self.varint("configuration.epoch")?);
        let primary = match self.flag("configuration.primary")? {
            true => Some(NodeId(self.varint("configuration.primary")?)),
            false => None,
        };
        let in_sync = self.list("configuration.in_sync", 2, |from| {
            let node = NodeId(from.varint("configuration.in_sync")?);
            Ok(Member {
                node,
                data: DataId(from.varint("configuration.in_sync")?),
            })
        })?;
        let replicas = self.list("configuration.replicas", 1, |from| {
            from.varint("configuration.replicas").map(NodeId)
        })?;
        Ok(GroupConfiguration {
            version,
            epoch,
            primary,
            in_sync,
            replicas,
        })
    }

    fn chunk(&mut self) -> Result<SnapshotChunk, Malformed> {
        let number = self.varint("snapshot.number")?;
        let data = self.bytes("snapshot.data")?;
        let last = match self.flag("snapshot.last")? {
            true => Some(self.snapshot_meta()?),
            false => None,
        };
        Ok(SnapshotChunk { number, data, last })
    }

    fn snapshot_meta(&mut self) -> Result<SnapshotMeta, Malformed> {
        let position = self.position("snapshot.position")?;
        let time = ReplicatedTime(self.varint("snapshot.time")?);
        Ok(SnapshotMeta {
            position,
            time,
            epoch_starts: self.starts("snapshot.epoch_starts")?,
        })
    }

    fn starts(&mut self, name: &'static str) -> Result<Vec<(Epoch, Index)>, Malformed> {
        self.list(name, 2, |from| {
            let epoch = Epoch(from.varint(name)?);
            Ok((epoch, Index(from.varint(name)?)))
        })
    }

    fn end(&self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(Malformed(format!("{left} bytes left over behind a peer message"))),
        }
    }
}

fn truncated(field: &str) -> Malformed {
    Malformed(format!("a peer message ends within {field}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, index: u64) -> LogPosition {
        LogPosition {
            epoch: Epoch(epoch),
            index: Index(index),
        }
    }

    fn entry(index: u64, payload: Payload) -> Entry {
        Entry {
            position: at(3, index),
            time: ReplicatedTime(1_700_000_000_000 + index),
            payload,
        }
    }

    fn chunk(last: Option<SnapshotMeta>) -> SnapshotChunk {
        SnapshotChunk {
            number: 300,
            data: Bytes::from_static(b"rows"),
            last,
        }
    }

    /// One of each body, and of each form that a body can have.
    fn bodies() -> Vec<Body> {
        let beat = Beat {
            primary_clock: Mono(u64::MAX),
            round: 9,
            echoed_backup_clock: None,
            echoed_boot: BootId(7),
            time: None,
        };
        let echo = Beat {
            echoed_backup_clock: Some(Mono(5_000_000_000)),
            time: Some(ReplicatedTime(1_790_000_000_000)),
            ..beat
        };
        let entries = vec![
            entry(8, Payload::Noop),
            entry(9, Payload::Command(Bytes::new())),
            entry(10, Payload::Command(Bytes::from(vec![0xa5; 1000]))),
        ];
        let configuration = GroupConfiguration {
            version: ConfigVersion(12),
            epoch: Epoch(4),
            primary: Some(NodeId(2)),
            in_sync: vec![member(2, u64::MAX), member(3, 5)],
            replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        };
        let meta = SnapshotMeta {
            position: at(2, 70),
            time: ReplicatedTime(8),
            epoch_starts: vec![(Epoch(1), Index(1))],
        };
        let transfer = TransferId(6);
        vec![
            Body::Append {
                previous: at(0, 0),
                entries: Vec::new(),
                commit: Index(0),
                held: Index(0),
                beat,
            },
            Body::Append {
                previous: at(3, 7),
                entries,
                commit: Index(6),
                held: Index(5),
                beat: echo,
            },
            Body::Acknowledge {
                persisted: Index(1),
                matched: Index(200),
                applied: Index(3),
                echo: Mono(4),
                round: 5,
                own_clock: Mono(6),
                leaving: true,
            },
            Body::Mismatch {
                refused: at(9, 900),
                try_next: at(8, 5),
                echo: Mono(77),
            },
            Body::Stale {
                configuration: GroupConfiguration::default(),
            },
            Body::Stale { configuration },
            Body::Snapshot {
                transfer,
                chunk: chunk(None),
            },
            Body::Snapshot {
                transfer,
                chunk: chunk(Some(meta)),
            },
            Body::SnapshotProgress {
                transfer,
                next: u64::MAX,
            },
            Body::Probe { last: at(1, 1) },
            Body::ProbeReply {
                last: at(1, 128),
                eligible: true,
            },
            Body::History {
                committed: at(2, 300),
                epoch_starts: vec![(Epoch(1), Index(1)), (Epoch(2), Index(200))],
            },
            Body::TakeOver {
                last: at(1, 2),
                given_up_at: Mono(3),
            },
        ]
    }

    fn member(node: u64, data: u64) -> Member {
        Member {
            node: NodeId(node),
            data: DataId(data),
        }
    }

    fn message(body: Body) -> Message {
        let header = Header {
            epoch: Epoch(3),
            version: ConfigVersion(8),
            boot: BootId(1),
            data: DataId(2),
            wall_ms: 99,
        };
        Message { header, body }
    }

    #[test]
    fn every_body_reads_back() {
        for body in bodies() {
            let message = message(body);
            let wire = message_to_wire(GroupId(44), &message);
            assert_eq!(message_from_wire(wire), Ok((GroupId(44), message)));
        }
    }

    #[test]
    fn no_prefix_and_no_continuation_is_a_message() {
        for body in bodies() {
            let whole = message_to_wire(GroupId(1), &message(body.clone())).body;
            for len in 0..whole.len() {
                assert!(body_from_bytes(whole.slice(..len)).is_err(), "{len} bytes of {body:?}");
            }
            let longer = [&whole[..], &[0]].concat();
            assert!(body_from_bytes(longer.into()).is_err(), "{body:?}");
        }
    }

    #[test]
    fn random_and_damaged_bytes_do_no_harm() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let bodies = bodies();
        for round in 0..20_000usize {
            let mut bytes = if round % 2 == 0 {
                (0..random() % 64).map(|_| random() as u8).collect()
            } else {
                let body = bodies[round % bodies.len()].clone();
                message_to_wire(GroupId(1), &message(body)).body.to_vec()
            };
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            for _ in 0..3 {
                let len = bytes.len().max(1) as u64;
                if let Some(byte) = bytes.get_mut((random() % len) as usize) {
                    *byte = random() as u8;
                }
            }
            // Whatever it makes of it, it makes it without a panic and can write it again.
            if let Ok(body) = body_from_bytes(bytes.into()) {
                assert!(!message_to_wire(GroupId(1), &message(body)).body.is_empty());
            }
        }
    }

    #[test]
    fn a_length_out_of_nowhere_allocates_nothing() {
        let mut append = BytesMut::from(&[VERSION, APPEND][..]);
        for _ in 0..9 {
            put_varint(&mut append, 0);
        }
        put_varint(&mut append, u64::MAX);
        let error = body_from_bytes(append.freeze()).unwrap_err();
        assert!(error.to_string().contains("append.entries"), "{error}");
    }

    #[test]
    fn another_version_is_named() {
        let error = body_from_bytes(Bytes::from_static(&[1, PROBE, 0, 0])).unwrap_err();
        assert!(error.to_string().contains("version 1"), "{error}");
    }
}
