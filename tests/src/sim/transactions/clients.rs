//! Clients: each does one thing at a time, and writes down what it was told.
//!
//! A client reads through a coordinator, decides on its writes, and commits. When it hears nothing, or UNKNOWN, it sends the very same commit to
//! some coordinator again, or has the transaction settled; some vanish. An abort is run again under a new id, with fresh elements, in the
//! first attempt's rank. Some operations are plain ones of one key, without a coordinator: a read, then a write on condition of its version.
//!
//! A client is a state machine: the world carries its calls, answers and alarms.

use super::jobs::{Job, Wish, observed, plain_read, require, unchanged};
use super::plan::TransactionPlan;
use super::twins::Twin;
use super::workload::{Item, Want, Workload, balance, decode, encode, reads_of};
use crate::sim::client::Tally;
use crate::sim::rng::Rng;
use crate::sim::time::{MS, SEC, Time, WALL_ORIGIN_MS};
use bytes::Bytes;
use fulcrum_checker::bank::{BankLog, TransferTicket};
use fulcrum_checker::{Element, Step, TransactionLog, TransactionOutcome, TransactionTicket};
use fulcrum_coordinator::CommitRequest;
use fulcrum_two_phase::Reply;
use fulcrum_types::{
    AbortCause, Answer, Answered, ClientId, Decision, IdempotencyKey, LogPosition, Mutation, Observed, Operation,
    Participant, Priority, Receipt, Refusal, Sequence, SessionToken, TransactionId, TransactionState, WriteOp,
    WriteOutcome,
};

enum Ticket {
    Lists(TransactionTicket),
    Transfer(TransferTicket),
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    Committing,
    Settling,
}

pub(super) struct Open {
    job: Job,
    pub(super) id: TransactionId,
    pub(super) priority: Priority,
    began: Time,
    until: Time,
    ticket: Ticket,
    phase: Phase,
    pub(super) items: Vec<Item>,
    /// Where each answer of a read belongs.
    places: Vec<Vec<usize>>,
    commit: Option<Box<CommitRequest>>,
    write: Option<Operation>,
    /// Some commit may have taken effect.
    ambiguous: bool,
    sends: u32,
    pub(super) seen: Vec<Observed>,
    /// Its id was given to another transaction, too: a look-up says nothing of this one.
    pub(super) reused: bool,
}

/// A client.
pub struct Client {
    /// How its transactions ended.
    pub tally: Tally,
    /// What it knows for certain of its last transaction.
    pub last: Option<(TransactionId, TransactionOutcome)>,
    pub(super) number: usize,
    banker: bool,
    pub(super) chosen: TransactionPlan,
    pub(super) rng: Rng,
    pub(super) log: TransactionLog,
    bank: BankLog,
    session: SessionToken,
    ids: u64,
    pub(super) elements: u64,
    attempts: u64,
    awaited: Option<u64>,
    pub(super) open: Option<Open>,
    again: Option<(Job, Priority)>,
    /// Its try to open the bank found that it was open.
    found_open: bool,
    /// The commit of its last transaction.
    pub(super) last_commit: Option<Box<CommitRequest>>,
    pub(super) twin: Option<Twin>,
}

impl Client {
    pub(super) fn new(number: usize, chosen: &TransactionPlan, mut rng: Rng) -> Self {
        let id = ClientId(number as u64 + 1);
        Self {
            tally: Tally::default(),
            last: None,
            number,
            banker: number > 0 && rng.percent(chosen.bankers),
            chosen: chosen.clone(),
            rng,
            log: TransactionLog::new(id),
            bank: BankLog::new(id),
            session: SessionToken::default(),
            ids: 0,
            elements: 0,
            attempts: 0,
            awaited: None,
            open: None,
            again: None,
            found_open: false,
            last_commit: None,
            twin: None,
        }
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.open.is_some()
    }

    /// The attempt that it makes now.
    #[must_use]
    pub fn attempt(&self) -> u64 {
        self.attempts
    }

    /// Whether it waits for this attempt.
    #[must_use]
    pub fn awaits(&self, attempt: u64) -> bool {
        self.awaited == Some(attempt)
    }

    /// All that it wrote down.
    #[must_use]
    pub fn logs(&self) -> (TransactionLog, BankLog) {
        (self.log.clone(), self.bank.clone())
    }

    /// How long it rests.
    pub fn think(&mut self) -> Time {
        // At least a nanosecond: transactions of one client do not overlap.
        1 + self.rng.skewed(0, self.chosen.think_max)
    }

    /// One of so many coordinators.
    pub fn pick(&mut self, coordinators: usize) -> usize {
        self.rng.below(coordinators as u64) as usize
    }

    /// Begins something by the plan's mix; nothing while the bank is not open.
    pub fn begin(&mut self, now: Time, workload: &Workload) -> Wish {
        let (job, priority) = match self.again.take() {
            Some((job, priority)) => (job, Some(priority)),
            None => (self.choose(workload), None),
        };
        self.start(now, workload, job, priority)
    }

    fn choose(&mut self, workload: &Workload) -> Job {
        let plain = self.rng.percent(self.chosen.plain);
        if !self.banker {
            let list = self.rng.below(workload.lists.len() as u64) as usize;
            if plain {
                return Job::Plain {
                    list,
                    append: self.rng.percent(50),
                    scan: self.rng.percent(20),
                };
            }
            return self.choose_lists(workload);
        }
        if !workload.opened {
            return Job::Open;
        }
        let accounts = workload.accounts.len() as u64;
        if plain && self.rng.percent(50) {
            return Job::Rewrite(self.rng.below(accounts) as usize);
        }
        if self.rng.percent(25) {
            return Job::Statement;
        }
        let from = self.rng.below(accounts);
        let to = (from + 1 + self.rng.below(accounts - 1)) % accounts;
        Job::Transfer {
            from: from as usize,
            to: to as usize,
            amount: self.rng.range(1, 60) as i64,
        }
    }

    fn choose_lists(&mut self, workload: &Workload) -> Job {
        let mut all: Vec<usize> = (0..workload.lists.len()).collect();
        self.rng.shuffle(&mut all);
        all.truncate(self.rng.range(1, 4) as usize);
        let appends = self.rng.one_of(&[0, 50, 70, 100]);
        Job::Lists {
            touched: all.into_iter().map(|list| (list, self.rng.percent(appends))).collect(),
            tested: self.rng.percent(25),
            consistent: self.rng.percent(50),
        }
    }

    /// Begins a job.
    pub fn start(&mut self, now: Time, workload: &Workload, job: Job, priority: Option<Priority>) -> Wish {
        self.ids += 1;
        let before = self.rng.one_of(&self.chosen.issued_before_ms.clone());
        let id = TransactionId {
            begun_at_ms: WALL_ORIGIN_MS + now / MS - before,
            client: ClientId(self.number as u64 + 1),
            sequence: Sequence(self.ids),
        };
        let list = |place: &usize| workload.lists[*place].clone();
        let account = |place: &usize| workload.accounts[*place].clone();
        let items = match &job {
            Job::Lists { touched, .. } => touched.iter().map(|(place, _)| list(place)).collect(),
            Job::Plain { list: place, .. } => vec![list(place)],
            Job::Transfer { from, to, .. } => vec![account(from), account(to)],
            Job::Rewrite(place) => vec![account(place)],
            Job::Statement | Job::Open => workload.accounts.clone(),
        };
        let ticket = match &job {
            Job::Lists { .. } | Job::Plain { .. } => Ticket::Lists(self.log.begin(now)),
            Job::Transfer { from, to, amount } => Ticket::Transfer(self.bank.begin(now, *from, *to, *amount as u64)),
            _ => Ticket::None,
        };
        self.open = Some(Open {
            id,
            priority: priority.unwrap_or(Priority(id)),
            began: now,
            until: now + self.chosen.patience + 2 * SEC,
            ticket,
            phase: Phase::Reading,
            items,
            places: Vec::new(),
            commit: None,
            write: None,
            ambiguous: false,
            sends: 0,
            seen: Vec::new(),
            reused: false,
            job,
        });
        self.again(now)
    }

    /// Asks for what it wants now, for the first time or again.
    pub fn again(&mut self, now: Time) -> Wish {
        self.attempts += 1;
        self.awaited = Some(self.attempts);
        let patience = self.rng.range(self.chosen.patience / 4, self.chosen.patience);
        let Some(open) = &mut self.open else {
            return Wish::Done;
        };
        match open.phase {
            Phase::Reading if open.job.is_plain() => plain_read(&open.items[0], &open.job, patience),
            Phase::Reading if open.job == Job::Open => self.open_accounts(now),
            Phase::Reading => {
                let (parts, places) = reads_of(&open.items, &self.session);
                open.places = places;
                let consistent = match &open.job {
                    Job::Lists {
                        touched, consistent, ..
                    } => *consistent && touched.iter().all(|(_, append)| !append),
                    job => *job == Job::Statement,
                };
                let want = Want::Read {
                    id: open.id,
                    parts,
                    consistent,
                };
                let copies = 1;
                Wish::Call { copies, want, patience }
            }
            Phase::Committing => self.send(now, patience),
            Phase::Settling => self.settle(patience),
        }
    }

    /// Sends the commit, or the plain write.
    fn send(&mut self, now: Time, patience: Time) -> Wish {
        let Some(open) = &mut self.open else {
            return Wish::Done;
        };
        open.sends += 1;
        if let Some(operation) = open.write.clone() {
            let to = open.items[0].at;
            return Wish::Ask {
                to,
                operation,
                patience,
            };
        }
        let Some(commit) = open.commit.clone() else {
            return Wish::Done;
        };
        let writes = !commit.writes.is_empty();
        if writes && open.sends == 1 && matches!(open.job, Job::Lists { .. }) && self.rng.percent(self.chosen.reused) {
            self.use_id_twice(now);
        }
        let Some(open) = &mut self.open else {
            return Wish::Done;
        };
        if writes && self.rng.percent(self.chosen.vanishing) {
            let want = Want::Commit(commit);
            self.awaited = None;
            self.end(now, TransactionOutcome::Unknown);
            return Wish::Vanish(want);
        }
        let copies = if writes && self.rng.percent(self.chosen.doubled) {
            2
        } else {
            1
        };
        open.ambiguous |= copies > 1;
        Wish::Call {
            copies,
            want: Want::Commit(commit),
            patience,
        }
    }

    fn settle(&mut self, patience: Time) -> Wish {
        let Some(open) = &self.open else {
            return Wish::Done;
        };
        let home = open.commit.as_ref().and_then(|commit| commit.writes.first());
        let home = home.and_then(|write| open.items.iter().find(|item| item.key.key == write.what.key));
        let (places, settle) = if self.rng.percent(25) {
            let mut all: Vec<Participant> = open.items.iter().map(|item| item.at).collect();
            all.sort();
            all.dedup();
            (all, None)
        } else {
            (home.map(|item| item.at).into_iter().collect(), Some(AbortCause::Client))
        };
        let want = Want::LookUp {
            id: open.id,
            places,
            settle,
        };
        let copies = 1;
        Wish::Call { copies, want, patience }
    }

    /// No answer came.
    pub fn silence(&mut self, now: Time) -> Wish {
        self.awaited = None;
        self.unsure(now)
    }

    /// Nothing certain is known: it tries on, or gives up.
    fn unsure(&mut self, now: Time) -> Wish {
        let at = now + self.rng.skewed(MS, 50 * MS);
        let Some(open) = &mut self.open else {
            return Wish::Done;
        };
        let reads_only = open.commit.as_ref().is_none_or(|commit| commit.writes.is_empty()) && open.write.is_none();
        if reads_only {
            if now < open.until {
                return Wish::Again(at);
            }
            return self.end(now, TransactionOutcome::Failed);
        }
        open.ambiguous = true;
        let plain = open.write.is_some();
        // Who can find out does not give up early: the fewer unknown outcomes, the more can be judged.
        if plain || open.reused && open.sends > 3 || now > open.until + 4 * SEC || self.rng.percent(4) {
            return self.end(now, TransactionOutcome::Unknown);
        }
        let settles = open.phase == Phase::Settling || open.sends > 3 || self.rng.percent(35);
        if settles && !open.reused {
            open.phase = Phase::Settling;
        }
        Wish::Again(at)
    }

    /// A coordinator answers.
    pub fn hears(&mut self, now: Time, result: Result<Reply, Refusal>) -> Wish {
        self.awaited = None;
        match result {
            Ok(Reply::Values { parts, receipts }) => {
                self.observe(&receipts);
                let Some(open) = &self.open else {
                    return Wish::Done;
                };
                let mut seen = vec![Observed::default(); open.items.len()];
                for (places, part) in open.places.iter().zip(parts) {
                    for (place, observed) in places.iter().zip(part.observed) {
                        seen[*place] = observed;
                    }
                }
                self.has_read(now, &seen)
            }
            Ok(Reply::Committed { receipts, .. }) => {
                self.observe(&receipts);
                self.end(now, TransactionOutcome::Committed)
            }
            Ok(Reply::ConditionFailed { receipts, .. }) => {
                self.observe(&receipts);
                self.found_open |= self.job() == Some(&Job::Open);
                self.end(now, TransactionOutcome::Failed)
            }
            Ok(Reply::State { state, .. }) => match state {
                TransactionState::Decided(Decision::Committed { .. }) => self.end(now, TransactionOutcome::Committed),
                TransactionState::Decided(Decision::Aborted(_)) => self.end(now, TransactionOutcome::Failed),
                TransactionState::TooOld => self.end(now, TransactionOutcome::Unknown),
                TransactionState::Promised { .. } | TransactionState::NotSeen => self.unsure(now),
            },
            Err(refusal) => self.refused(now, &refusal),
        }
    }

    fn refused(&mut self, now: Time, refusal: &Refusal) -> Wish {
        let Some(open) = &self.open else {
            return Wish::Done;
        };
        let definite = match refusal {
            Refusal::Aborted { cause, .. } => {
                if cause.is_worth_a_retry() && self.rng.percent(70) {
                    self.again = Some((open.job.clone(), open.priority));
                }
                open.phase == Phase::Committing
            }
            Refusal::Unknown { .. } => false,
            Refusal::TooOldToTell if open.phase == Phase::Reading => true,
            Refusal::TooOldToTell => {
                let reads_only = open.commit.as_ref().is_some_and(|commit| commit.writes.is_empty());
                let outcome = if reads_only {
                    TransactionOutcome::Failed
                } else {
                    TransactionOutcome::Unknown
                };
                return self.end(now, outcome);
            }
            _ => !open.ambiguous && open.phase == Phase::Committing,
        };
        if definite {
            return self.end(now, TransactionOutcome::Failed);
        }
        self.unsure(now)
    }

    /// A group answers a plain operation.
    pub fn is_answered(&mut self, now: Time, result: Result<Answered, Refusal>) -> Wish {
        self.awaited = None;
        let Some(open) = &self.open else {
            return Wish::Done;
        };
        match result {
            Ok(Answered {
                answer: Answer::Values(values),
                receipt,
            }) => {
                self.observe(&[receipt]);
                self.has_read(now, &[observed(values.into_iter().next().flatten())])
            }
            Ok(Answered {
                answer: Answer::Rows { rows, .. },
                receipt,
            }) => {
                let key = open.items[0].key.key.clone();
                self.observe(&[receipt]);
                let row = rows.into_iter().find(|(found, _)| *found == key);
                self.has_read(now, &[observed(row.map(|(_, value)| value))])
            }
            Ok(Answered {
                answer: Answer::Written(outcomes),
                receipt,
            }) => {
                self.observe(&[receipt]);
                let applied = matches!(outcomes.first(), Some(WriteOutcome::Applied { .. }));
                let outcome = if applied {
                    TransactionOutcome::Committed
                } else {
                    TransactionOutcome::Failed
                };
                self.end(now, outcome)
            }
            Ok(_) | Err(Refusal::Unknown { .. }) => self.unsure(now),
            Err(_) => self.end(now, TransactionOutcome::Failed),
        }
    }

    fn observe(&mut self, receipts: &[Receipt]) {
        for receipt in receipts {
            let position = LogPosition {
                epoch: receipt.epoch,
                index: receipt.index,
            };
            self.session.observe(receipt.group, position);
        }
    }

    /// Its reads are answered: it decides what to write.
    fn has_read(&mut self, now: Time, seen: &[Observed]) -> Wish {
        let Some(open) = &self.open else {
            return Wish::Done;
        };
        match open.job.clone() {
            Job::Lists {
                touched,
                tested,
                consistent,
            } => {
                let appends: Vec<bool> = touched.iter().map(|(_, append)| *append).collect();
                self.has_read_lists(now, seen, &appends, tested, consistent)
            }
            Job::Plain { append, .. } => self.has_read_lists(now, seen, &[append], true, true),
            Job::Transfer { amount, .. } => self.has_read_balances(now, seen, amount),
            Job::Statement => {
                let balances = seen.iter().map(balance).collect();
                self.bank.statement(open.began, now, balances);
                self.end(now, TransactionOutcome::Committed)
            }
            Job::Rewrite(_) => match &seen[0].value {
                None => self.end(now, TransactionOutcome::Failed),
                Some(value) => self.write_plainly(now, &seen[0], value.value.clone()),
            },
            Job::Open => Wish::Done,
        }
    }

    fn has_read_lists(
        &mut self,
        now: Time,
        seen: &[Observed],
        appends: &[bool],
        tested: bool,
        consistent: bool,
    ) -> Wish {
        let mut lists = Vec::new();
        for observed in seen {
            match decode(observed) {
                Ok(list) => lists.push(list),
                Err(reason) => return Wish::Broken(reason),
            }
        }
        let Some(Open {
            ticket: Ticket::Lists(ticket),
            items,
            job,
            ..
        }) = &self.open
        else {
            return Wish::Done;
        };
        for (item, list) in items.iter().zip(&lists) {
            let (key, seen) = (item.key.clone(), list.clone());
            self.log.step(ticket, Step::Read { key, seen });
        }
        let mut values: Vec<Option<Bytes>> = Vec::new();
        for ((item, list), append) in items.iter().zip(&mut lists).zip(appends) {
            if !append {
                values.push(None);
                continue;
            }
            self.elements += 1;
            let element = Element(self.number as u64 * 100_000 + self.elements);
            let key = item.key.clone();
            self.log.step(ticket, Step::Append { key, element });
            list.push(element);
            values.push(Some(encode(list)));
        }
        let reads_only = values.iter().all(Option::is_none);
        if reads_only && consistent {
            return self.end(now, TransactionOutcome::Committed);
        }
        match values.as_slice() {
            [Some(value)] if job.is_plain() => self.write_plainly(now, &seen[0], value.clone()),
            _ => self.commit(now, seen, values, tested),
        }
    }

    fn has_read_balances(&mut self, now: Time, seen: &[Observed], amount: i64) -> Wish {
        let (Some(from), Some(to)) = (balance(&seen[0]), balance(&seen[1])) else {
            return Wish::Broken("an account that was opened has no balance".into());
        };
        if from < amount {
            return self.end(now, TransactionOutcome::Failed);
        }
        let value = |balance: i64| Some(Bytes::from(balance.to_string()));
        self.commit(now, seen, vec![value(from - amount), value(to + amount)], false)
    }

    /// Only if none of them is there: a late one does no harm.
    fn open_accounts(&mut self, now: Time) -> Wish {
        let Some(open) = &self.open else {
            return Wish::Done;
        };
        let absent = vec![Observed::default(); open.items.len()];
        let value = Bytes::from(super::workload::OPENING.to_string());
        let values = vec![Some(value); open.items.len()];
        self.commit(now, &absent, values, true)
    }

    /// Commits: what was read must still hold, by reads or, where a key is written and `tested`, by conditions.
    fn commit(&mut self, now: Time, seen: &[Observed], values: Vec<Option<Bytes>>, tested: bool) -> Wish {
        let Some(open) = &mut self.open else {
            return Wish::Done;
        };
        let mut commit = CommitRequest {
            id: open.id,
            priority: open.priority,
            session: self.session.clone(),
            ..CommitRequest::default()
        };
        for ((item, observed), value) in open.items.iter().zip(seen).zip(values) {
            require(&mut commit, item, observed, value, tested);
        }
        open.seen = seen.to_vec();
        open.commit = Some(Box::new(commit));
        open.phase = Phase::Committing;
        self.again(now)
    }

    fn write_plainly(&mut self, now: Time, seen: &Observed, value: Bytes) -> Wish {
        let Some(open) = &mut self.open else {
            return Wish::Done;
        };
        let item = &open.items[0];
        let op = WriteOp {
            key: item.key.key.clone(),
            condition: unchanged(seen),
            mutation: Mutation::Put { value, ttl: None },
        };
        // A client id for each: its issue time is never too old.
        let idempotency = IdempotencyKey {
            client: ClientId((self.number as u64 + 1) * 1_000_000 + self.ids),
            sequence: Sequence(1),
            issued_at_ms: WALL_ORIGIN_MS + now / MS,
            low_water: Sequence(1),
        };
        open.write = Some(Operation::Write {
            idempotency: Some(idempotency),
            seen: self.session.groups.get(&item.at.group).copied(),
            ops: vec![op],
        });
        open.phase = Phase::Committing;
        self.again(now)
    }

    fn end(&mut self, now: Time, outcome: TransactionOutcome) -> Wish {
        let Some(open) = self.open.take() else {
            return Wish::Done;
        };
        match outcome {
            TransactionOutcome::Committed => self.tally.ok += 1,
            TransactionOutcome::Failed => self.tally.failed += 1,
            TransactionOutcome::Unknown => self.tally.unknown += 1,
        }
        if outcome == TransactionOutcome::Unknown || self.again.as_ref().is_some_and(|(job, _)| *job != open.job) {
            self.again = None;
        }
        match open.ticket {
            Ticket::Lists(ticket) => self.log.end(ticket, now, outcome),
            Ticket::Transfer(ticket) => self.bank.end(ticket, now, outcome),
            Ticket::None => {}
        }
        self.last = Some((open.id, outcome));
        let repeatable = outcome == TransactionOutcome::Committed && !open.reused;
        self.last_commit = open.commit.filter(|commit| repeatable && !commit.writes.is_empty());
        Wish::Done
    }

    /// Whether the job that ended last opened the bank, or found it open.
    #[must_use]
    pub fn has_opened(&self, job: &Job) -> bool {
        self.found_open || (*job == Job::Open && matches!(self.last, Some((_, TransactionOutcome::Committed))))
    }

    /// What it is doing.
    #[must_use]
    pub fn job(&self) -> Option<&Job> {
        self.open.as_ref().map(|open| &open.job)
    }
}
