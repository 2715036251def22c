//! What clients do: a process has an id for idempotency keys and a few lanes; each lane is one session that does one
//! operation at a time, retries it under the same key, and writes down what it was told.
//!
//! A lane is a pure state machine: the world carries its requests, its answers and its alarms.

use super::plan::{GroupPlan, Load};
use super::rng::Rng;
use super::time::{MS, SEC, Time, WALL_ORIGIN_MS};
use bytes::Bytes;
use fulcrum_checker::history::Ticket;
use fulcrum_checker::{Call, ClientLog, Condition as Required, Facts, Outcome, Seen, ValueId};
use fulcrum_types::{
    Act, Answer, Answered, ClientId, Condition, GroupId, GroupRequest, IdempotencyKey, Index, KeyspaceId, Level,
    LogPosition, MapVersion, Mode, Mutation, NodeId, Operation, Query, ReadRequest, RecordedOutcome, Refusal, Sequence,
    Version, WriteOp, WriteOutcome,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the lanes of one process share.
#[derive(Clone, Debug)]
pub struct Process {
    /// Who it is in the retry table.
    pub id: ClientId,
    /// When a server issued that id.
    pub issued_at_ms: u64,
    /// Whether it sends idempotency keys.
    pub careful: bool,
    next: Sequence,
    open: BTreeSet<Sequence>,
}

impl Process {
    /// A process that has asked nothing yet.
    #[must_use]
    pub fn new(id: ClientId, issued_at_ms: u64, careful: bool) -> Self {
        Self {
            id,
            issued_at_ms,
            careful,
            next: Sequence(1),
            open: BTreeSet::new(),
        }
    }

    /// The idempotency key of a new operation.
    fn open(&mut self) -> Option<IdempotencyKey> {
        let sequence = self.next;
        self.next = sequence.next();
        if !self.careful {
            return None;
        }
        self.open.insert(sequence);
        let low_water = self.open.first().copied().unwrap_or(sequence);
        Some(IdempotencyKey {
            client: self.id,
            sequence,
            issued_at_ms: self.issued_at_ms,
            low_water,
        })
    }

    fn close(&mut self, key: IdempotencyKey) {
        if key.client == self.id {
            self.open.remove(&key.sequence);
        }
    }

    /// The id is too old: a server issues another one.
    fn renew(&mut self, now: Time) {
        self.id = ClientId(self.id.0 + 1_000);
        self.issued_at_ms = WALL_ORIGIN_MS + now / MS;
        self.open.clear();
    }
}

/// An operation under way.
struct Open {
    ticket: Ticket,
    group: GroupId,
    operation: Operation,
    key: Option<IdempotencyKey>,
    until: Time,
    /// Some attempt may have taken effect.
    ambiguous: bool,
    /// The next attempt asks what became of it instead of repeating it.
    look_up: bool,
}

/// One attempt of an operation, to be carried to a node.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its number; answers to earlier ones come too late.
    pub number: u64,
    /// To whom.
    pub to: NodeId,
    /// What.
    pub request: GroupRequest,
    /// The lane waits no longer than this.
    pub gives_up: Time,
}

/// What an answer says besides the outcome.
enum Told {
    Nothing,
    /// Its own receipt.
    Receipt(Facts),
    /// A look-up: where the write stands.
    Where(GroupId, LogPosition),
}

/// What a lane wants next.
#[derive(Debug)]
pub enum Next {
    /// Another attempt, at this time.
    Retry(Time),
    /// The operation is over; this is how it went.
    Done(Outcome),
}

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// With an answer.
    pub ok: u64,
    /// Surely without effect.
    pub failed: u64,
    /// Perhaps.
    pub unknown: u64,
}

impl Tally {
    /// Of several clients.
    #[must_use]
    pub fn sum(all: impl Iterator<Item = Tally>) -> Tally {
        all.fold(Tally::default(), |sum, one| Tally {
            ok: sum.ok + one.ok,
            failed: sum.failed + one.failed,
            unknown: sum.unknown + one.unknown,
        })
    }
}

/// One session.
pub struct Lane {
    /// Place of its process.
    pub process: usize,
    /// How its operations ended.
    pub tally: Tally,
    rng: Rng,
    log: ClientLog,
    finished: Vec<ClientLog>,
    seen: BTreeMap<GroupId, LogPosition>,
    known: BTreeMap<Bytes, (Version, Bytes)>,
    believed: BTreeMap<GroupId, NodeId>,
    attempts: u64,
    awaited: Option<u64>,
    open: Option<Open>,
    last: Option<Outcome>,
    names: Names,
}

/// Gives each session and each value of one lane a name of its own.
#[derive(Clone, Copy, Debug)]
struct Names {
    lane: u64,
    sessions: u64,
    values: u64,
}

impl Names {
    fn session(&mut self) -> ClientId {
        self.sessions += 1;
        ClientId(self.lane * 1_000 + self.sessions)
    }

    fn value(&mut self, padding: u64) -> Bytes {
        self.values += 1;
        let mut value = format!("{}.{}", self.lane, self.values).into_bytes();
        value.resize(value.len() + padding as usize, b'.');
        Bytes::from(value)
    }
}

impl Lane {
    /// The lane of this number.
    #[must_use]
    pub fn new(number: u64, process: usize, rng: Rng) -> Self {
        let mut names = Names {
            lane: number,
            sessions: 0,
            values: 0,
        };
        Self {
            process,
            tally: Tally::default(),
            rng,
            log: ClientLog::new(names.session()),
            finished: Vec::new(),
            seen: BTreeMap::new(),
            known: BTreeMap::new(),
            believed: BTreeMap::new(),
            attempts: 0,
            awaited: None,
            open: None,
            last: None,
            names,
        }
    }

    /// All that its sessions wrote down. An operation still under way counts as unknown.
    pub fn take_logs(&mut self) -> Vec<ClientLog> {
        self.new_session();
        std::mem::take(&mut self.finished)
    }

    /// How its last operation ended.
    #[must_use]
    pub fn last_outcome(&self) -> Option<Outcome> {
        self.last
    }

    /// Whether an operation is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.open.is_some()
    }

    /// The group that its operation concerns.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        self.open.as_ref().map(|open| open.group)
    }

    /// How long it rests before its next operation.
    pub fn think(&mut self, load: &Load) -> Time {
        self.rng.skewed(0, load.think_max)
    }

    /// Begins an operation by the plan's mix.
    pub fn begin(&mut self, now: Time, load: &Load, mode: Mode, groups: &[GroupPlan], process: &mut Process) {
        let group = &groups[self.rng.below(groups.len() as u64) as usize];
        let hot = self.rng.percent(50);
        let key = if hot {
            group.keys[0].clone()
        } else {
            group.keys[self.rng.below(group.keys.len() as u64) as usize].clone()
        };
        if self.rng.percent(load.reads) {
            let level = self.level(mode, load);
            return self.begin_read(now, now + load.patience, group.group, key, level);
        }
        let value = self.names.value(self.rng.skewed(0, load.value_max));
        let careful = process.careful;
        let (mutation, new) = if careful && self.rng.percent(15) {
            (Mutation::Delete, None)
        } else {
            let new = ValueId::of(&value);
            (Mutation::Put { value, ttl: None }, Some(new))
        };
        // Whether a conditional write without a key took effect may never be known, and many such cannot be judged.
        let (condition, call) = match new {
            Some(new) if !careful => (Condition::None, Call::Put(new)),
            new => self.conditional(&key, new),
        };
        let op = WriteOp {
            key,
            condition,
            mutation,
        };
        self.begin_write(now, now + load.patience, group.group, op, call, process);
    }

    fn level(&mut self, mode: Mode, load: &Load) -> Level {
        let bound = Duration::from_nanos(self.rng.range(load.patience / 16, load.patience));
        match (mode, self.rng.below(100)) {
            (Mode::Sync, 0..50) | (Mode::Async, 0..2) => Level::Linearizable,
            (_, 0..70) => Level::Bounded(bound),
            (_, 70..85) => Level::Session,
            _ => Level::Eventual,
        }
    }

    fn conditional(&mut self, key: &Bytes, new: Option<ValueId>) -> (Condition, Call) {
        let cas = |condition| Call::CompareAndSet { condition, value: new };
        let known = self.known.get(key).cloned();
        match (self.rng.below(10), known) {
            (0..2, Some((version, _))) => (
                Condition::VersionIs(version),
                cas(Required::VersionIs(Index(version.0))),
            ),
            (2, Some((_, value))) => {
                let required = Required::ValueIs(ValueId::of(&value));
                (Condition::ValueIs(value), cas(required))
            }
            (3, _) => (Condition::Absent, cas(Required::Absent)),
            (4, _) => (Condition::Exists, cas(Required::Exists)),
            _ => (Condition::None, new.map_or(Call::Delete, Call::Put)),
        }
    }

    /// Begins a read.
    pub fn begin_read(&mut self, now: Time, until: Time, group: GroupId, key: Bytes, level: Level) {
        let ticket = self.log.begin(now, key.clone(), Call::Get(level));
        let seen = self.seen.get(&group).copied();
        let query = Query::Get(vec![key]);
        let operation = Operation::Read(ReadRequest {
            level,
            acceptable: Vec::new(),
            seen,
            query,
        });
        self.open = Some(Open {
            ticket,
            group,
            operation,
            key: None,
            until,
            ambiguous: false,
            look_up: false,
        });
    }

    /// Begins a write of a value of this lane's own, for ever or for a time.
    pub fn begin_put(
        &mut self,
        now: Time,
        until: Time,
        (group, key): (GroupId, Bytes),
        ttl: Option<Duration>,
        process: &mut Process,
    ) {
        let value = self.names.value(0);
        let call = Call::Put(ValueId::of(&value));
        let op = WriteOp {
            key,
            condition: Condition::None,
            mutation: Mutation::Put { value, ttl },
        };
        self.begin_write(now, until, group, op, call, process);
    }

    fn begin_write(&mut self, now: Time, until: Time, group: GroupId, op: WriteOp, call: Call, process: &mut Process) {
        let ticket = self.log.begin(now, op.key.clone(), call);
        let idempotency = process.open();
        let seen = self.seen.get(&group).copied();
        let operation = Operation::Write {
            idempotency,
            seen,
            ops: vec![op],
        };
        self.open = Some(Open {
            ticket,
            group,
            operation,
            key: idempotency,
            until,
            ambiguous: false,
            look_up: false,
        });
    }

    /// The next attempt of the operation under way.
    pub fn attempt(&mut self, now: Time, patience: Time, replicas: &[NodeId]) -> Option<Attempt> {
        let open = self.open.as_ref()?;
        self.attempts += 1;
        self.awaited = Some(self.attempts);
        let operation = match open.key.filter(|_| open.look_up) {
            Some(key) => Operation::Outcome(key),
            None => open.operation.clone(),
        };
        let any = self.rng.one_of(replicas);
        let wants_primary = !matches!(&operation, Operation::Read(r) if r.level != Level::Linearizable);
        let believed = self
            .believed
            .get(&open.group)
            .copied()
            .filter(|_| wants_primary && !self.rng.percent(5));
        let wait = self.rng.range(patience / 8, patience / 2);
        Some(Attempt {
            number: self.attempts,
            to: believed.unwrap_or(any),
            request: GroupRequest {
                keyspace: KeyspaceId(1),
                group: open.group,
                map_version: MapVersion(1),
                deadline: Duration::from_nanos(wait),
                operation,
            },
            gives_up: now + wait,
        })
    }

    /// Whether this attempt is the one that the lane waits for.
    #[must_use]
    pub fn awaits(&self, attempt: u64) -> bool {
        self.awaited == Some(attempt)
    }

    /// The attempt has got no answer in time.
    pub fn silence(&mut self, now: Time, process: &mut Process) -> Next {
        self.awaited = None;
        let Some(open) = &mut self.open else {
            return Next::Done(Outcome::Unknown);
        };
        self.believed.remove(&open.group);
        open.ambiguous = true;
        self.again(now, now, process)
    }

    /// An answer to the attempt.
    pub fn answer(
        &mut self,
        now: Time,
        from: NodeId,
        answer: &Result<Answered, Refusal>,
        process: &mut Process,
    ) -> Next {
        self.awaited = None;
        match answer {
            Ok(answered) => self.accept(now, from, answered, process),
            Err(refusal) => self.refused(now, refusal, process),
        }
    }

    fn accept(&mut self, now: Time, from: NodeId, answered: &Answered, process: &mut Process) -> Next {
        let Some(open) = &mut self.open else {
            return Next::Done(Outcome::Unknown);
        };
        let position = LogPosition {
            epoch: answered.receipt.epoch,
            index: answered.receipt.index,
        };
        let told = match &answered.answer {
            Answer::Outcome(_) => Told::Where(answered.receipt.group, position),
            _ => Told::Receipt(Facts::from(&answered.receipt)),
        };
        let outcome = match &answered.answer {
            Answer::Values(values) => {
                let value = values.first().cloned().flatten();
                if let (
                    Some(v),
                    Operation::Read(ReadRequest {
                        query: Query::Get(keys),
                        ..
                    }),
                ) = (&value, &open.operation)
                {
                    self.known.insert(keys[0].clone(), (v.version, v.value.clone()));
                }
                Outcome::Read(value.map_or(Seen::Absent, |v| Seen::Present {
                    value: ValueId::of(&v.value),
                    version: Some(Index(v.version.0)),
                }))
            }
            Answer::Written(outcomes) => written(outcomes),
            Answer::Outcome(RecordedOutcome::Known(outcomes)) => written(outcomes),
            Answer::Outcome(RecordedOutcome::NotSeen) => {
                open.look_up = false;
                return self.again(now, now, process);
            }
            Answer::Outcome(RecordedOutcome::TooOld)
            | Answer::Joint(_)
            | Answer::Rows { .. }
            | Answer::Changes { .. }
            | Answer::Transaction(_)
            | Answer::Cut(_) => {
                return self.end(now, Outcome::Unknown, Told::Nothing, process);
            }
        };
        let seen = self.seen.entry(answered.receipt.group).or_default();
        if (position.epoch, position.index) > (seen.epoch, seen.index) {
            *seen = position;
        }
        if !matches!(outcome, Outcome::Read(_)) {
            self.believed.insert(answered.receipt.group, from);
        }
        self.end(now, outcome, told, process)
    }

    fn refused(&mut self, now: Time, refusal: &Refusal, process: &mut Process) -> Next {
        let Some(open) = &mut self.open else {
            return Next::Done(Outcome::Unknown);
        };
        match refusal.act() {
            Act::Redirect => {
                let hint = match refusal {
                    Refusal::NotPrimary { hint } | Refusal::CannotServe { hint, .. } => *hint,
                    _ => None,
                };
                match hint {
                    Some(node) => self.believed.insert(open.group, node),
                    None => self.believed.remove(&open.group),
                };
            }
            Act::Retry | Act::Abort | Act::Operator => {
                if self.rng.percent(30) {
                    self.believed.remove(&open.group);
                }
            }
            Act::LookUp => {
                open.ambiguous = true;
                open.look_up = self.rng.percent(30);
            }
            Act::Reject => {
                let lost = matches!(refusal, Refusal::HistoryLost { .. });
                if matches!(refusal, Refusal::TooOldToTell) {
                    process.renew(now);
                }
                let outcome = self.verdict();
                let next = self.end(now, outcome, Told::Nothing, process);
                if lost {
                    self.new_session();
                }
                return next;
            }
        }
        let backoff = self.rng.skewed(100_000, 20_000_000);
        self.again(now, now + backoff, process)
    }

    /// Tries again at a time, unless the operation's time is up or a repetition might do it twice.
    fn again(&mut self, now: Time, at: Time, process: &mut Process) -> Next {
        let Some(open) = &self.open else {
            return Next::Done(Outcome::Unknown);
        };
        let write = matches!(open.operation, Operation::Write { .. });
        let unsafe_to_repeat = write && open.ambiguous && open.key.is_none();
        // Who can find out what became of a write does not give up: the fewer unknown outcomes, the more can be judged.
        let until = if write && open.ambiguous {
            open.until + 30 * SEC
        } else {
            open.until
        };
        if at < until && !unsafe_to_repeat {
            return Next::Retry(at);
        }
        let outcome = self.verdict();
        self.end(now, outcome, Told::Nothing, process)
    }

    /// What may be said of an operation that ends without an answer.
    fn verdict(&self) -> Outcome {
        match &self.open {
            Some(Open {
                ambiguous: true,
                operation: Operation::Write { .. },
                ..
            }) => Outcome::Unknown,
            _ => Outcome::Failed,
        }
    }

    fn end(&mut self, now: Time, outcome: Outcome, told: Told, process: &mut Process) -> Next {
        let Some(open) = self.open.take() else {
            return Next::Done(outcome);
        };
        if let Some(key) = open.key {
            process.close(key);
        }
        match outcome {
            Outcome::Failed => self.tally.failed += 1,
            Outcome::Unknown => self.tally.unknown += 1,
            _ => self.tally.ok += 1,
        }
        match told {
            Told::Nothing => self.log.end(open.ticket, now, outcome, None),
            Told::Receipt(receipt) => self.log.end(open.ticket, now, outcome, Some(receipt)),
            Told::Where(group, at) => self.log.find(open.ticket, now, outcome, (group, at)),
        }
        self.last = Some(outcome);
        Next::Done(outcome)
    }

    /// The session has seen what is lost: it begins anew.
    fn new_session(&mut self) {
        let log = ClientLog::new(self.names.session());
        self.finished.push(std::mem::replace(&mut self.log, log));
        self.seen.clear();
        self.known.clear();
    }
}

fn written(outcomes: &[WriteOutcome]) -> Outcome {
    match outcomes.first() {
        Some(WriteOutcome::Applied { version, .. }) => Outcome::Written {
            version: Some(Index(version.0)),
        },
        Some(WriteOutcome::ConditionFailed { .. }) => Outcome::Mismatch { seen: None },
        None => Outcome::Unknown,
    }
}
