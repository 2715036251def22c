//! What a group's log means: a deterministic machine from entries to state.
//!
//! **The promise.** The same entries make the same state and the same outcomes on every replica, whenever it restarts and
//! whether it came by the log or by a snapshot. Nothing is judged by a clock: time is that of the entry (rule 11).
//!
//! **The protocol.** [`StateMachine::apply`] takes the next entry and stages, in the store's open batch, what it changes
//! together with the applied position, so that a crash never parts them. A write is applied at most once: its idempotency
//! key is looked up in the retry table first (rule 10). A key's version is the index of the entry that wrote it; a delete
//! leaves a tombstone with a version, so that versions never recur (rule 13). Expired values are invisible at once and
//! removed in bounded steps as entries are applied. What an entry did that its command does not tell is noted beside it
//! ([`changes_of`] reads both): a condition that did not hold, a retry, an expiry. Transactions have a chapter of their own
//! (`transactions`), and so have the cuts that backups are made of (`cut`); a write of a key that one of them holds is *blocked*, as a whole, and leaves nothing behind.
//!
//! **Left out**: who may read when (the replication core says), admission limits on keys and values (checked before a command
//! is proposed).

mod applied;
mod cache;
mod changes;
mod command;
mod cut;
mod due;
mod footnote;
mod joint;
mod read;
mod retry;
#[cfg(test)]
mod tests;
mod transactions;
mod value;

pub use applied::Applied;
pub use changes::changes_of;
pub use command::{Command, CommandError, encode_joint, encode_write};
pub(crate) use cut::page;
pub use read::Rows;
pub(crate) use transactions::pinned::verdicts;
pub use transactions::{Committed, Intent, Prepared, TransactionEvent};

use crate::node::Bug;
use crate::storage::{Generation, Reader, Space, StateKind, StorageError, Store, put_footnote, state_key};
use bytes::Bytes;
use cache::Cache;
use footnote::Footnote;
use fulcrum_common::limits::LONGEST_TRANSACTION;
use fulcrum_types::{
    Condition, CutAnswer, Entry, GroupId, IdempotencyKey, Index, Mutation, Participant, Payload, RecordedOutcome,
    Refusal, ReplicatedTime, TransactionAnswer, TransactionId, Version, Versioned, WriteOp, WriteOutcome,
};
use retry::{Place, RetryTable, Seen};
use std::time::Duration;
use transactions::{Moment, Table};
use value::{Content, Record};

/// Records swept per applied entry: enough to outrun what a few writes add, little enough not to be felt. An entry of many writes
/// sweeps twice as many as it may have added.
const SWEEP_PER_ENTRY: usize = 64;

/// Bounds of the state machine. Part of the group's replicated history: the same on all its replicas, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an outcome is kept after its client's id was issued, in replicated time.
    pub retention: Duration,
    /// How long a tombstone is kept: as long as the longest transaction.
    pub tombstones: Duration,
    /// Outcomes kept for one client.
    pub outcomes_per_client: usize,
    /// Clients in the retry table.
    pub clients: usize,
    /// Bytes that the retry table may take, about: one request may go beyond.
    pub retry_bytes: usize,
    /// The longest transaction, from its begin to its decision: the horizon.
    pub horizon: Duration,
    /// Transactions that are prepared and not resolved.
    pub prepared: usize,
    /// Commits kept beyond the horizon for those who ask.
    pub decided: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            retention: Duration::from_secs(3600),
            tombstones: Duration::from_secs(60),
            outcomes_per_client: 16_384,
            clients: 100_000,
            retry_bytes: 16 * 1024 * 1024,
            horizon: LONGEST_TRANSACTION,
            prepared: 10_000,
            decided: 200_000,
        }
    }
}

impl Limits {
    fn retention_ms(&self) -> u64 {
        millis(self.retention)
    }

    fn tombstone_ms(&self) -> u64 {
        millis(self.tombstones)
    }

    fn horizon_ms(&self) -> u64 {
        millis(self.horizon)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What applying an entry did. The same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// It asked nothing.
    Noop,
    /// It was applied now.
    Written(Vec<WriteOutcome>),
    /// It had been applied by an earlier entry, with these outcomes; nothing changed now.
    Repeated(Vec<WriteOutcome>),
    /// What became of each write of a joint.
    Joint(Vec<Result<WriteOutcome, Refusal>>),
    /// It was not applied, and nothing changed.
    Refused(ApplyRefusal),
    /// A command of a transaction was answered.
    Transaction(TransactionAnswer),
    /// A step of a cut was answered.
    Cut(CutAnswer),
    /// A key that it needs is locked. Nothing changed, and nothing is remembered: propose it again (rule 16).
    Blocked {
        /// By whom.
        by: TransactionId,
    },
}

impl ApplyOutcome {
    /// How many writes it is about.
    fn writes(&self) -> usize {
        match self {
            ApplyOutcome::Written(outcomes) => outcomes.len(),
            ApplyOutcome::Joint(results) => results.len(),
            _ => 0,
        }
    }
}

/// Why a committed command was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ApplyRefusal {
    /// Older than the retention, or below the client's own low-water mark.
    #[error("too old to tell whether it was applied before")]
    TooOldToTell,
    /// Issued further ahead than the retention.
    #[error("the client's id was issued far in the future: take a new one")]
    IssuedInTheFuture,
    /// The client's id came with another issue time before.
    #[error("the client's id came with another issue time before: take a new one")]
    IssueTimeChanged,
    /// The client has not said of enough requests that they are finished.
    #[error("too many unfinished requests of this client: raise its low-water mark or take a new client id")]
    TooManyOutcomes,
    /// No room in the retry table.
    #[error("too many clients in the retry table of this group: try again later, or reuse client ids")]
    TooManyClients,
    /// No room in the retry table, in bytes.
    #[error("the retry table of this group is full: raise the low-water marks of its clients, or try again later")]
    RetryTableFull,
    /// Begun further ahead than a transaction may last.
    #[error("the transaction's id says that it begins far in the future: take a new client id, and a new attempt")]
    TransactionOfTheFuture,
    /// Another transaction has the id.
    #[error("transaction id {0} was used for another transaction")]
    TransactionIdReused(TransactionId),
    /// No room for another promise.
    #[error("too many transactions are prepared in this group")]
    TooManyPrepared,
    /// The group is held for a cut.
    #[error("the group is held for a cut")]
    BeingCut,
    /// The decision belongs elsewhere.
    #[error("the decision on transaction {id} is recorded in group {} of keyspace {}, not here: ask there", home.group, home.keyspace)]
    NotTheHome {
        /// Which.
        id: TransactionId,
        /// Where.
        home: Participant,
    },
}

impl From<ApplyRefusal> for Refusal {
    fn from(refusal: ApplyRefusal) -> Self {
        match refusal {
            ApplyRefusal::TooOldToTell => Refusal::TooOldToTell,
            ApplyRefusal::TooManyClients | ApplyRefusal::RetryTableFull | ApplyRefusal::TooManyPrepared => {
                Refusal::Overloaded
            }
            ApplyRefusal::BeingCut => Refusal::BeingCut,
            ApplyRefusal::TransactionIdReused(id) => Refusal::TransactionIdReused { id },
            other => Refusal::Invalid {
                reason: other.to_string(),
            },
        }
    }
}

/// Why an entry could not be applied. The replica stops: to go on would make it differ from its peers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The command cannot be understood.
    #[error("entry {index}: {error}")]
    Command {
        /// The entry.
        index: Index,
        /// What is wrong.
        error: CommandError,
    },
    /// Not the entry that is due.
    #[error("entry {found} was to be applied where {due} was due")]
    OutOfOrder {
        /// The one due.
        due: Index,
        /// The one given.
        found: Index,
    },
}

/// One group's state.
pub struct StateMachine {
    group: GroupId,
    generation: Generation,
    limits: Limits,
    applied: Applied,
    retries: RetryTable,
    /// Nothing is due before.
    next_due_ms: u64,
    cache: Cache,
    /// Of the entry that is being applied.
    footnote: Footnote,
    transactions: Table,
    /// The last cut.
    hold: Option<cut::Hold>,
    #[cfg(feature = "planted-bugs")]
    bugs: crate::node::Bugs,
}

impl StateMachine {
    /// Opens a group's state as it stands in the store. `cache_bytes` bounds the records kept in memory.
    pub fn open(
        store: &Store,
        group: GroupId,
        generation: Generation,
        limits: Limits,
        cache_bytes: usize,
    ) -> Result<Self, StorageError> {
        let place = Place { group, generation };
        Ok(StateMachine {
            group,
            generation,
            limits,
            applied: Applied::read(store, group, generation)?,
            retries: RetryTable::load(store, place)?,
            next_due_ms: due::first_due(store, place, StateKind::Due)?,
            cache: Cache::new(cache_bytes),
            footnote: Footnote::default(),
            transactions: Table::load(store, place)?,
            hold: cut::Hold::load(store, group, generation)?,
            #[cfg(feature = "planted-bugs")]
            bugs: Default::default(),
        })
    }

    /// The longest transaction, from its begin to its decision, in milliseconds of replicated time.
    #[must_use]
    pub fn horizon_ms(&self) -> u64 {
        self.limits.horizon_ms()
    }

    /// Bounds the records kept in memory anew.
    pub fn resize_cache(&mut self, bytes: usize) {
        self.cache.resize(bytes);
    }

    /// The last entry applied, and its time.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// Applies the next entry, and stages that it was.
    pub fn apply(&mut self, store: &mut Store, entry: &Entry) -> Result<ApplyOutcome, ApplyError> {
        let outcome = self.apply_next(store, entry);
        self.stage_applied(store);
        outcome
    }

    /// Applies the next entry. [`StateMachine::stage_applied`] must follow, after one or many, before the store's turn ends:
    /// also after an error, which changed nothing of the entry that it is about but leaves those before it.
    pub fn apply_next(&mut self, store: &mut Store, entry: &Entry) -> Result<ApplyOutcome, ApplyError> {
        let index = entry.position.index;
        let due = self.applied.position.index.next();
        if index != due {
            return Err(ApplyError::OutOfOrder { due, found: index });
        }
        let moment = Moment {
            epoch: entry.position.epoch,
            index,
            time: entry.time,
        };
        let outcome = match &entry.payload {
            Payload::Noop => ApplyOutcome::Noop,
            Payload::Command(bytes) => {
                let command = Command::decode(bytes.clone()).map_err(|error| ApplyError::Command { index, error })?;
                self.execute(store, moment, &command)?
            }
        };
        let sweep = SWEEP_PER_ENTRY.max(2 * outcome.writes());
        self.sweep_due(store, entry.time, sweep)?;
        self.sweep_transactions(store, moment, SWEEP_PER_ENTRY)?;
        self.retries.sweep(store, self.place(), &self.limits, entry.time, sweep);
        if !self.footnote.is_empty() {
            let footnote = std::mem::take(&mut self.footnote);
            put_footnote(store, self.group, index, &footnote.encode());
        }
        self.applied = Applied {
            position: entry.position,
            time: entry.time,
        };
        Ok(outcome)
    }

    /// Stages how far the entries are applied, and what changes with nearly each of them: once for many.
    pub fn stage_applied(&mut self, store: &mut Store) {
        self.retries.stage_clients(store, self.place());
        self.applied.stage(store, self.group, self.generation);
    }

    fn execute(&mut self, store: &mut Store, moment: Moment, command: &Command) -> Result<ApplyOutcome, StorageError> {
        match command {
            Command::Write { idempotency, ops } => {
                let outcome = self.write(store, moment, idempotency.as_ref(), 0, ops)?;
                self.footnote.nothing = !matches!(outcome, ApplyOutcome::Written(_));
                Ok(outcome)
            }
            Command::Joint(writes) => self.joint(store, moment, writes),
            Command::Transact { at, request } => self.transact(store, moment, *at, request),
            Command::Prepare { request, give_way } => self.prepare(store, moment, request, *give_way),
            Command::Decide(decide) => self.decide(store, moment, decide),
            Command::Resolve(resolutions) => self.resolve(store, moment, resolutions),
            Command::Forget(ids) => self.forget(store, ids),
            Command::Cut(step) => Ok(self.cut(store, moment, *step)),
        }
    }

    /// Writes that are judged together, of which the first has this number in the entry.
    fn write(
        &mut self,
        store: &mut Store,
        moment: Moment,
        idempotency: Option<&IdempotencyKey>,
        first: u32,
        ops: &[WriteOp],
    ) -> Result<ApplyOutcome, StorageError> {
        let Moment { index, time, .. } = moment;
        if let Some(key) = idempotency {
            match self.retries.check(store, self.place(), &self.limits, key, time)? {
                Seen::New => {}
                Seen::Before(outcomes) => return Ok(ApplyOutcome::Repeated(outcomes)),
                Seen::Refused(refusal) => return Ok(ApplyOutcome::Refused(refusal)),
            }
        }
        if let Some(by) = self.writes_blocked_by(ops) {
            return Ok(ApplyOutcome::Blocked { by });
        }
        let mut outcomes = Vec::with_capacity(ops.len());
        for (number, op) in (first..).zip(ops) {
            outcomes.push(self.write_one(store, Version(index.0), time, number, op)?);
        }
        if let Some(key) = idempotency {
            self.retries.record(store, self.place(), key, &outcomes);
        }
        Ok(ApplyOutcome::Written(outcomes))
    }

    fn write_one(
        &mut self,
        store: &mut Store,
        version: Version,
        now: ReplicatedTime,
        number: u32,
        op: &WriteOp,
    ) -> Result<WriteOutcome, StorageError> {
        let found = self.read_record(store, &op.key)?;
        let expired = found.as_ref().and_then(|record| record.expired(now));
        let changed = found.as_ref().map(|record| record.version);
        let current = found.and_then(|record| record.visible(now));
        if !holds(&op.condition, current.as_ref(), changed) {
            self.footnote.idle.push(number);
            return Ok(WriteOutcome::ConditionFailed {
                current: current.map(|v| v.version),
            });
        }
        if let Some(version) = expired {
            // Its turn to be removed had not come yet, and now never will.
            self.footnote.upon_expired.push((number, version));
        }
        if current.is_none() && op.mutation == Mutation::Delete {
            self.footnote.idle.push(number);
        }
        match &op.mutation {
            Mutation::Put { value, ttl } => {
                let expires_at_ms = ttl.map_or(0, |ttl| expiry(now, ttl));
                let content = Content::Value {
                    value: value.clone(),
                    expires_at_ms,
                };
                self.write_record(store, &op.key, &Record { version, content });
                if expires_at_ms != 0 {
                    self.schedule(store, expires_at_ms, &op.key, version);
                }
            }
            Mutation::Delete => self.bury(store, &op.key, version, now),
        }
        Ok(WriteOutcome::Applied {
            version,
            existed: current.is_some(),
        })
    }

    /// What became of a request, as of the applied position.
    pub fn outcome(&self, store: &Store, key: &IdempotencyKey) -> Result<RecordedOutcome, StorageError> {
        self.retries
            .look_up(store, self.place(), &self.limits, key, self.applied.time)
    }

    fn place(&self) -> Place {
        Place {
            group: self.group,
            generation: self.generation,
        }
    }

    fn value_key(&self, key: &[u8]) -> Bytes {
        state_key(self.group, self.generation, StateKind::Value, key)
    }

    fn read_record(&mut self, reader: &impl Reader, key: &Bytes) -> Result<Option<Record>, StorageError> {
        if let Some(known) = self.cache.get(key) {
            return Ok(known);
        }
        let found = reader.get(Space::State, &self.value_key(key))?;
        let record = found.map(Record::decode).transpose().map_err(|e| damaged("value", e))?;
        // A copy: what was read may be a slice of something far larger.
        self.cache.insert(Bytes::copy_from_slice(key), record.clone());
        Ok(record)
    }

    fn write_record(&mut self, store: &mut Store, key: &Bytes, record: &Record) {
        let encoded = record.encode();
        self.cache.update(key, || record.backed_by(&encoded));
        store.put(Space::State, self.value_key(key), encoded);
    }
}

/// Whether a condition holds of a key's value, which was last set or deleted by that version.
fn holds(condition: &Condition, current: Option<&Versioned>, changed: Option<Version>) -> bool {
    match condition {
        Condition::None => true,
        Condition::Absent => current.is_none(),
        Condition::Exists => current.is_some(),
        Condition::VersionIs(version) => current.is_some_and(|v| v.version == *version),
        Condition::ValueIs(value) => current.is_some_and(|v| v.value == *value),
        Condition::UnchangedSince(version) => changed.is_none_or(|changed| changed <= *version),
    }
}

/// Never 0, which would mean for ever.
fn expiry(now: ReplicatedTime, ttl: Duration) -> u64 {
    now.0.saturating_add(millis(ttl)).max(1)
}

fn damaged(what: &str, reason: impl ToString) -> StorageError {
    StorageError::Damaged {
        space: Space::State,
        reason: format!("{what}: {}", reason.to_string()),
    }
}
