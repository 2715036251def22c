//! The retry table: outcomes of past writes by (client, sequence), so that no retry is applied twice (rule 10).
//!
//! One test drops an outcome and refuses its request: issue time + retention < replicated time. Since both use the time in
//! the log, no clock can make a request run twice. A client's requests overlap: all outcomes above its low-water mark are
//! kept, requests below it are refused. Outcomes live in the store; memory holds which there are, and how much that is: the
//! table has a bound in bytes, counted from its content so that all replicas, restarted or not, refuse the same request.

use super::{ApplyRefusal, Limits, damaged};
use crate::storage::{
    Decoder, Generation, Malformed, Reader, Space, StateKind, StorageError, Store, put_varint, state_key, state_range,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use fulcrum_types::{
    ClientId, GroupId, IdempotencyKey, RecordedOutcome, ReplicatedTime, Sequence, Version, WriteOutcome,
};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a request before it is applied.
pub(super) enum Seen {
    /// Not applied yet: apply it.
    New,
    /// Applied before, with these outcomes.
    Before(Vec<WriteOutcome>),
    /// Not to be applied.
    Refused(ApplyRefusal),
}

#[derive(Default)]
pub(super) struct RetryTable {
    clients: BTreeMap<ClientId, Client>,
    /// By issue time: who is to be forgotten next.
    by_age: BTreeSet<(u64, ClientId)>,
    /// What all of it takes, about.
    bytes: usize,
    /// Whose records are to be staged anew.
    changed: BTreeSet<ClientId>,
}

/// What a client takes, in memory and in the store, with nothing kept for it. Part of the replicated history, as
/// [`Limits`] are.
const CLIENT_BYTES: usize = 256;
/// What an outcome takes besides its record.
const OUTCOME_BYTES: usize = 64;

#[derive(Default)]
struct Client {
    issued_at_ms: u64,
    low_water: Sequence,
    /// Bytes of each outcome that is kept.
    kept: BTreeMap<Sequence, usize>,
}

impl Client {
    /// Bytes of the outcomes below a sequence.
    fn bytes_below(&self, sequence: Sequence) -> usize {
        self.kept.range(..sequence).map(|(_, bytes)| bytes).sum()
    }
}

/// Where the table's records are.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) group: GroupId,
    pub(super) generation: Generation,
}

impl Place {
    fn client(self, client: ClientId) -> Bytes {
        state_key(self.group, self.generation, StateKind::Client, &client.0.to_be_bytes())
    }

    fn outcome(self, client: ClientId, sequence: Sequence) -> Bytes {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&client.0.to_be_bytes());
        key[8..].copy_from_slice(&sequence.0.to_be_bytes());
        state_key(self.group, self.generation, StateKind::Outcome, &key)
    }
}

impl RetryTable {
    pub(super) fn load(reader: &impl Reader, place: Place) -> Result<Self, StorageError> {
        let mut table = RetryTable::default();
        let (start, end) = state_range(place.group, place.generation, StateKind::Client);
        for record in reader.range(Space::State, &start, &end) {
            let (key, value) = record?;
            let client = ClientId(own_key(&key, start.len(), 8)?.get_u64());
            let (issued_at_ms, low_water) = decode_client(value).map_err(|e| damaged("client", e))?;
            table.by_age.insert((issued_at_ms, client));
            table.clients.insert(
                client,
                Client {
                    issued_at_ms,
                    low_water,
                    kept: BTreeMap::new(),
                },
            );
            table.bytes += CLIENT_BYTES;
        }
        let (start, end) = state_range(place.group, place.generation, StateKind::Outcome);
        for record in reader.range(Space::State, &start, &end) {
            let (key, outcomes) = record?;
            let mut key = own_key(&key, start.len(), 16)?;
            let (client, sequence) = (ClientId(key.get_u64()), Sequence(key.get_u64()));
            let client = table
                .clients
                .get_mut(&client)
                .ok_or_else(|| damaged("outcome", "of no client"))?;
            let bytes = OUTCOME_BYTES + outcomes.len();
            client.kept.insert(sequence, bytes);
            table.bytes += bytes;
        }
        Ok(table)
    }

    /// Judges a request that is about to be applied at `now`.
    pub(super) fn check(
        &self,
        reader: &impl Reader,
        place: Place,
        limits: &Limits,
        key: &IdempotencyKey,
        now: ReplicatedTime,
    ) -> Result<Seen, StorageError> {
        if too_old(key.issued_at_ms, limits, now) {
            return Ok(Seen::Refused(ApplyRefusal::TooOldToTell));
        }
        if key.issued_at_ms > now.0.saturating_add(limits.retention_ms()) {
            return Ok(Seen::Refused(ApplyRefusal::IssuedInTheFuture));
        }
        let Some(client) = self.known(key.client, limits, now) else {
            return Ok(if self.clients.len() >= limits.clients {
                Seen::Refused(ApplyRefusal::TooManyClients)
            } else if self.bytes >= limits.retry_bytes {
                Seen::Refused(ApplyRefusal::RetryTableFull)
            } else {
                Seen::New
            });
        };
        if client.issued_at_ms != key.issued_at_ms {
            return Ok(Seen::Refused(ApplyRefusal::IssueTimeChanged));
        }
        if key.sequence < client.low_water {
            return Ok(Seen::Refused(ApplyRefusal::TooOldToTell));
        }
        if client.kept.contains_key(&key.sequence) {
            return Ok(Seen::Before(read_outcome(reader, place, key)?));
        }
        // What this request itself declares finished makes room.
        let kept = if client.kept.len() < limits.outcomes_per_client {
            client.kept.len()
        } else {
            client.kept.range(key.low_water..).count()
        };
        if kept >= limits.outcomes_per_client {
            return Ok(Seen::Refused(ApplyRefusal::TooManyOutcomes));
        }
        let full = self.bytes - client.bytes_below(key.low_water) >= limits.retry_bytes;
        Ok(if full {
            Seen::Refused(ApplyRefusal::RetryTableFull)
        } else {
            Seen::New
        })
    }

    /// Keeps the outcome of a request judged new, and drops what lies below its low-water mark.
    pub(super) fn record(&mut self, store: &mut Store, place: Place, key: &IdempotencyKey, outcomes: &[WriteOutcome]) {
        let bytes = &mut self.bytes;
        let known = self.clients.entry(key.client).or_insert_with(|| {
            *bytes += CLIENT_BYTES;
            self.by_age.insert((0, key.client));
            Client::default()
        });
        let mut drop_one = |sequence, freed| {
            *bytes -= freed;
            store.delete(Space::State, place.outcome(key.client, sequence));
        };
        if known.issued_at_ms != key.issued_at_ms {
            // New, or so old that it counts as forgotten: what is left of it goes.
            self.by_age.remove(&(known.issued_at_ms, key.client));
            self.by_age.insert((key.issued_at_ms, key.client));
            let old = std::mem::replace(
                known,
                Client {
                    issued_at_ms: key.issued_at_ms,
                    ..Client::default()
                },
            );
            old.kept
                .into_iter()
                .for_each(|(sequence, freed)| drop_one(sequence, freed));
        }
        known.low_water = known.low_water.max(key.low_water);
        while let Some(first) = known.kept.first_entry().filter(|kept| *kept.key() < known.low_water) {
            let (sequence, freed) = first.remove_entry();
            drop_one(sequence, freed);
        }
        if key.sequence >= known.low_water {
            let record = encode_outcomes(outcomes);
            let taken = OUTCOME_BYTES + record.len();
            known.kept.insert(key.sequence, taken);
            self.bytes += taken;
            // New by the check before: most outcomes are dropped again before they are written.
            store.put_new(Space::State, place.outcome(key.client, key.sequence), record);
        }
        self.changed.insert(key.client);
    }

    /// Stages the records of the clients that have changed.
    pub(super) fn stage_clients(&mut self, store: &mut Store, place: Place) {
        while let Some(id) = self.changed.pop_first() {
            let Some(client) = self.clients.get(&id) else { continue };
            let mut record = BytesMut::with_capacity(20);
            put_varint(&mut record, client.issued_at_ms);
            put_varint(&mut record, client.low_water.0);
            store.put(Space::State, place.client(id), record.freeze());
        }
    }

    /// What is known of a request, for one who asks.
    pub(super) fn look_up(
        &self,
        reader: &impl Reader,
        place: Place,
        limits: &Limits,
        key: &IdempotencyKey,
        now: ReplicatedTime,
    ) -> Result<RecordedOutcome, StorageError> {
        if too_old(key.issued_at_ms, limits, now) {
            return Ok(RecordedOutcome::TooOld);
        }
        let Some(client) = self.known(key.client, limits, now) else {
            return Ok(RecordedOutcome::NotSeen);
        };
        if key.sequence < client.low_water || client.issued_at_ms != key.issued_at_ms {
            return Ok(RecordedOutcome::TooOld);
        }
        if !client.kept.contains_key(&key.sequence) {
            return Ok(RecordedOutcome::NotSeen);
        }
        Ok(RecordedOutcome::Known(read_outcome(reader, place, key)?))
    }

    /// Removes up to `most` records of clients that are too old.
    pub(super) fn sweep(&mut self, store: &mut Store, place: Place, limits: &Limits, now: ReplicatedTime, most: usize) {
        let mut left = most;
        while left > 0 {
            let Some(&(issued_at_ms, id)) = self.by_age.first() else {
                return;
            };
            if !too_old(issued_at_ms, limits, now) {
                return;
            }
            let Some(client) = self.clients.get_mut(&id) else {
                return;
            };
            while left > 0
                && let Some((sequence, freed)) = client.kept.pop_first()
            {
                self.bytes -= freed;
                store.delete(Space::State, place.outcome(id, sequence));
                left -= 1;
            }
            if left > 0 {
                store.delete(Space::State, place.client(id));
                self.clients.remove(&id);
                self.bytes -= CLIENT_BYTES;
                self.by_age.pop_first();
                left -= 1;
            }
        }
    }

    /// A client that is not too old. One that is counts as forgotten, swept or not.
    fn known(&self, client: ClientId, limits: &Limits, now: ReplicatedTime) -> Option<&Client> {
        self.clients
            .get(&client)
            .filter(|c| !too_old(c.issued_at_ms, limits, now))
    }
}

/// The one test of rule 10.
fn too_old(issued_at_ms: u64, limits: &Limits, now: ReplicatedTime) -> bool {
    issued_at_ms.saturating_add(limits.retention_ms()) < now.0
}

fn own_key(key: &Bytes, prefix: usize, length: usize) -> Result<Bytes, StorageError> {
    if key.len() == prefix + length {
        Ok(key.slice(prefix..))
    } else {
        Err(damaged("retry table", "key length"))
    }
}

fn read_outcome(reader: &impl Reader, place: Place, key: &IdempotencyKey) -> Result<Vec<WriteOutcome>, StorageError> {
    let record = reader.get(Space::State, &place.outcome(key.client, key.sequence))?;
    let record = record.ok_or_else(|| damaged("outcome", "missing"))?;
    decode_outcomes(record).map_err(|e| damaged("outcome", e))
}

fn decode_client(record: Bytes) -> Result<(u64, Sequence), Malformed> {
    let mut decoder = Decoder::new(record);
    let client = (decoder.varint()?, Sequence(decoder.varint()?));
    decoder.finish()?;
    Ok(client)
}

const APPLIED: u8 = 0;
const APPLIED_OVER_VALUE: u8 = 1;
const FAILED_ABSENT: u8 = 2;
const FAILED_AT_VERSION: u8 = 3;

fn encode_outcomes(outcomes: &[WriteOutcome]) -> Bytes {
    let mut buffer = BytesMut::with_capacity(outcomes.len() * 6);
    for outcome in outcomes {
        match outcome {
            WriteOutcome::Applied { version, existed } => {
                buffer.put_u8(if *existed { APPLIED_OVER_VALUE } else { APPLIED });
                put_varint(&mut buffer, version.0);
            }
            WriteOutcome::ConditionFailed { current: None } => buffer.put_u8(FAILED_ABSENT),
            WriteOutcome::ConditionFailed { current: Some(version) } => {
                buffer.put_u8(FAILED_AT_VERSION);
                put_varint(&mut buffer, version.0);
            }
        }
    }
    buffer.freeze()
}

fn decode_outcomes(record: Bytes) -> Result<Vec<WriteOutcome>, Malformed> {
    let mut decoder = Decoder::new(record);
    let mut outcomes = Vec::new();
    while decoder.remaining() > 0 {
        outcomes.push(match decoder.u8()? {
            tag @ (APPLIED | APPLIED_OVER_VALUE) => WriteOutcome::Applied {
                version: Version(decoder.varint()?),
                existed: tag == APPLIED_OVER_VALUE,
            },
            FAILED_ABSENT => WriteOutcome::ConditionFailed { current: None },
            FAILED_AT_VERSION => WriteOutcome::ConditionFailed {
                current: Some(Version(decoder.varint()?)),
            },
            other => return Err(Malformed::Tag(other)),
        });
    }
    Ok(outcomes)
}
