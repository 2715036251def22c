//! Reads on their way: permitted by the core, evaluated once enough is applied, checked again, answered.
//!
//! A lease that held when a read was permitted may have run out when it is evaluated. The evaluation falls into
//! `Node::handle`, the check into `Node::end_turn`, whose clock was read later: what it releases was evaluated under a valid
//! lease. A read that fails the check asks the core again, a bounded number of times.
//!
//! A weaker level is tried only if the request lists it as acceptable, in its order; the receipt says which it became.

use super::bugs::Bug;
use super::group::Group;
use super::meeting::Met;
use super::shared::{Failure, Shared};
use crate::event::RequestId;
use bytes::Bytes;
use foldhash::fast::RandomState;
use fulcrum_common::limits::MAX_BATCH_BYTES;
use fulcrum_replication::{Answered as Permitted, Input, ReadId, ReadPermit, ReadRefusal, ReadWanted};
use fulcrum_types::{
    Answer, Answered, IdempotencyKey, Index, Level, LogPosition, Mode, Mono, Now, Query, ReadCheck, RecordedOutcome,
    Refusal, Role, StalenessBasis, TransactionId, WriteOutcome,
};
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What is to be evaluated.
#[derive(Debug)]
pub(super) enum Wanted {
    Query(Query),
    Outcome(IdempotencyKey),
    Transactional(TransactionRead),
}

/// What is to be read for a transaction.
#[derive(Debug)]
pub(super) enum TransactionRead {
    LookUp(TransactionId),
    Observe { begun_at_ms: u64, keys: Vec<Bytes> },
    Validate { begun_at_ms: u64, reads: Vec<ReadCheck> },
    List { limit: u32 },
}

/// A read that is not answered yet.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) arrived: Mono,
    pub(super) deadline: Mono,
    /// The level asked, then the acceptable ones.
    pub(super) level: Level,
    pub(super) acceptable: Vec<Level>,
    pub(super) seen: Option<LogPosition>,
    pub(super) wanted: Wanted,
    /// The level tried: 0 is the one asked.
    choice: usize,
    tries: u32,
    rounds: u32,
    permit: Option<ReadPermit>,
}

impl Read {
    pub(super) fn new(arrived: Mono, deadline: Mono, level: Level, acceptable: Vec<Level>, wanted: Wanted) -> Self {
        Self {
            arrived,
            deadline,
            level,
            acceptable,
            seen: None,
            wanted,
            choice: 0,
            tries: 0,
            rounds: 0,
            permit: None,
        }
    }

    pub(super) fn tried(&self) -> Level {
        match self.choice {
            0 => self.level,
            n => self.acceptable.get(n - 1).copied().unwrap_or(self.level),
        }
    }

    /// Goes on to the next level that is legal in `mode`; false if there is none.
    fn next_choice(&mut self, mode: Mode) -> bool {
        while self.choice < self.acceptable.len() {
            self.choice += 1;
            if is_legal(self.tried(), mode) {
                return true;
            }
        }
        false
    }
}

/// A read that was evaluated.
pub(super) struct Evaluated {
    pub(super) id: RequestId,
    pub(super) read: Read,
    permit: ReadPermit,
    pub(super) answer: Result<Answer, Refusal>,
    at: LogPosition,
    /// What this replica was when it was evaluated: it may have been deposed since.
    role: Role,
    /// Intents whose decisions are to be known first.
    pub(super) met: Met,
    /// The lease held when it was evaluated: that was checked, and other groups were asked since.
    pub(super) is_checked: bool,
}

/// Reads by request. The newest has a place of its own, which it has mostly left again when the next one comes.
#[derive(Default)]
struct Waiting {
    newest: Option<(RequestId, Read)>,
    others: HashMap<RequestId, Read, RandomState>,
}

impl Waiting {
    fn contains(&self, id: RequestId) -> bool {
        self.newest.as_ref().is_some_and(|(newest, _)| *newest == id) || self.others.contains_key(&id)
    }

    fn insert(&mut self, id: RequestId, read: Read) {
        if let Some((id, older)) = self.newest.replace((id, read)) {
            self.others.insert(id, older);
        }
    }

    fn remove(&mut self, id: RequestId) -> Option<Read> {
        match self.newest.take_if(|(newest, _)| *newest == id) {
            Some((_, read)) => Some(read),
            None => self.others.remove(&id),
        }
    }

    fn take_all(&mut self) -> impl Iterator<Item = (RequestId, Read)> {
        self.newest.take().into_iter().chain(self.others.drain())
    }
}

/// The reads of a replica that are not answered yet.
#[derive(Default)]
pub(super) struct Reads {
    /// For the core, or for their index.
    waiting: Waiting,
    /// Permitted, and waiting for their index to be applied.
    due: BTreeSet<(Index, RequestId)>,
    /// Evaluated, and waiting for the turn's end.
    pub(super) evaluated: Vec<Evaluated>,
}

impl Reads {
    /// Whether a request still waits for the core or for its index.
    pub(super) fn is_waiting(&self, id: RequestId) -> bool {
        self.waiting.contains(id)
    }

    /// Whether some read waits for the check at a turn's end.
    pub(super) fn is_evaluated(&self) -> bool {
        !self.evaluated.is_empty()
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        if let Some(permit) = self.waiting.remove(id).and_then(|read| read.permit) {
            self.due.remove(&(permit.at, id));
        }
        self.evaluated.retain(|read| read.id != id);
    }

    pub(super) fn take_all(&mut self) -> Vec<RequestId> {
        self.due.clear();
        let mut ids: Vec<RequestId> = self.waiting.take_all().map(|(id, _)| id).collect();
        // The same order in every run of a simulation.
        ids.sort_unstable();
        ids.extend(self.evaluated.drain(..).map(|read| read.id));
        ids
    }
}

/// Whether a keyspace of that mode can serve that level (DESIGN section 6).
pub(super) const fn is_legal(level: Level, mode: Mode) -> bool {
    !matches!((level, mode), (Level::Linearizable, Mode::Async))
}

impl Group {
    /// Takes a read in: the core is asked at once, and often answers at once.
    pub(super) fn start_read(
        &mut self,
        shared: &mut Shared,
        now: Now,
        id: RequestId,
        mut read: Read,
    ) -> Result<(), Failure> {
        if !is_legal(read.level, self.mode()) && !read.next_choice(self.mode()) {
            shared.reply(
                id,
                Err(Refusal::IllegalLevel {
                    level: read.level,
                    mode: self.mode(),
                }),
            );
            return Ok(());
        }
        self.ask(id, read);
        self.drain(shared, now)
    }

    pub(super) fn ask(&mut self, id: RequestId, mut read: Read) {
        let wanted = match read.tried() {
            // Whoever tells that a write is there acknowledges it: in `async`, too, only a primary that nobody has replaced.
            _ if matches!(read.wanted, Wanted::Outcome(_)) => ReadWanted::Linearizable,
            Level::Linearizable => ReadWanted::Linearizable,
            Level::Bounded(bound) => ReadWanted::Bounded(bound),
            Level::Session => ReadWanted::Session(read.seen),
            Level::Eventual => ReadWanted::Eventual,
        };
        read.permit = None;
        self.reads.waiting.insert(id, read);
        self.inputs.push_back(Input::Read {
            id: ReadId(id.0),
            wanted,
        });
    }

    pub(super) fn answer_read(&mut self, shared: &mut Shared, id: RequestId, answer: Permitted) -> Result<(), Failure> {
        let Some(mut read) = self.reads.waiting.remove(id) else {
            return Ok(());
        };
        match answer {
            Permitted::Refused(reason) => self.fall_back(shared, id, read, &reason),
            Permitted::Permit(permit) => {
                read.rounds += permit.rounds;
                let ready = permit.at <= self.applied().index || shared.bugs.has(Bug::ReadBeforeApplied);
                if ready {
                    return self.evaluate(shared, id, read, permit);
                }
                self.reads.due.insert((permit.at, id));
                read.permit = Some(permit);
                self.reads.waiting.insert(id, read);
            }
        }
        Ok(())
    }

    fn fall_back(&mut self, shared: &mut Shared, id: RequestId, mut read: Read, reason: &ReadRefusal) {
        let level = read.tried();
        if read.next_choice(self.mode()) {
            self.ask(id, read);
            return;
        }
        let refusal = self.read_refusal(shared, level, read.seen, reason);
        shared.reply(id, Err(refusal));
    }

    fn read_refusal(&self, shared: &Shared, level: Level, seen: Option<LogPosition>, reason: &ReadRefusal) -> Refusal {
        let hint = self.hint(shared);
        match reason {
            ReadRefusal::NotPrimary if self.view.stranded => Refusal::NoDataLeft,
            ReadRefusal::NotPrimary => Refusal::NotPrimary { hint },
            ReadRefusal::NotReady if self.view.role == Role::Primary => Refusal::NotReady,
            // A learner that holds nothing yet.
            ReadRefusal::NotReady => Refusal::CannotServe {
                level,
                bound: None,
                hint,
            },
            ReadRefusal::Fenced => Refusal::Fenced,
            ReadRefusal::TooStale(bound) => Refusal::CannotServe {
                level,
                bound: *bound,
                hint,
            },
            ReadRefusal::Behind => Refusal::CannotServe {
                level,
                bound: None,
                hint,
            },
            ReadRefusal::HistoryLost => Refusal::HistoryLost {
                group: self.id,
                seen: seen.unwrap_or_default(),
            },
            ReadRefusal::Overloaded => Refusal::Overloaded,
        }
    }

    /// Evaluates the reads whose index has been applied.
    pub(super) fn evaluate_due(&mut self, shared: &mut Shared) -> Result<(), Failure> {
        while let Some((at, id)) = self
            .reads
            .due
            .first()
            .copied()
            .filter(|(at, _)| *at <= self.applied().index)
        {
            self.reads.due.remove(&(at, id));
            let Some(mut read) = self.reads.waiting.remove(id) else {
                continue;
            };
            let Some(permit) = read.permit.take() else { continue };
            self.evaluate(shared, id, read, permit)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, shared: &mut Shared, id: RequestId, read: Read, permit: ReadPermit) -> Result<(), Failure> {
        let mut answer = match self.contradiction(shared, &read) {
            Some(refusal) => Err(refusal),
            None => self.look_up(shared, &read)?,
        };
        let met = match &mut answer {
            Ok(answer) => self.meet(shared, &read, answer)?,
            Err(_) => Met::default(),
        };
        let index = match &answer {
            Ok(Answer::Outcome(RecordedOutcome::Known(outcomes))) => place_of(outcomes),
            _ => None,
        };
        let index = index.unwrap_or(self.applied().index);
        let at = LogPosition {
            epoch: self.history.epoch_of(index),
            index,
        };
        self.reads.evaluated.push(Evaluated {
            id,
            read,
            permit,
            answer,
            at,
            role: self.view.role,
            met,
            is_checked: false,
        });
        Ok(())
    }

    fn look_up(&mut self, shared: &Shared, read: &Read) -> Result<Result<Answer, Refusal>, Failure> {
        Ok(match &read.wanted {
            Wanted::Transactional(wanted) => self.read_for_transaction(shared, read.arrived, wanted)?,
            Wanted::Outcome(key) => Ok(Answer::Outcome(self.machine.outcome(&shared.store, key)?)),
            Wanted::Query(Query::Get(keys) | Query::Joint(keys)) => self.get(shared, keys)?,
            Wanted::Query(Query::Changes(query)) => self.changes(shared, query)?,
            Wanted::Query(Query::Scan {
                start,
                end,
                limit,
                max_bytes,
            }) => {
                let found = self
                    .machine
                    .scan(&shared.store, start, end, *limit as usize, *max_bytes as usize)?;
                Ok(Answer::Rows {
                    rows: found.rows,
                    complete: found.complete,
                })
            }
        })
    }

    /// At no level is a session shown a history that contradicts what it has seen: its token would move to that history, and
    /// nobody could tell it any more that it had lost something (rule 8). To be behind in the same epoch is no contradiction;
    /// whether a log that ends in an older one is part of the newer epoch's history, its replica cannot say.
    fn contradiction(&self, shared: &Shared, read: &Read) -> Option<Refusal> {
        let seen = read.seen.filter(|seen| seen.index > Index::ZERO)?;
        let ours = self.history.epoch_of(seen.index.min(self.history.last()));
        match ours.cmp(&seen.epoch) {
            Ordering::Equal => None,
            Ordering::Greater => Some(Refusal::HistoryLost { group: self.id, seen }),
            Ordering::Less => Some(Refusal::CannotServe {
                level: read.tried(),
                bound: None,
                hint: self.hint(shared),
            }),
        }
    }

    fn get(&mut self, shared: &Shared, keys: &[Bytes]) -> Result<Result<Answer, Refusal>, Failure> {
        let mut values = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for key in keys {
            let value = self.machine.get(&shared.store, key)?;
            bytes += value.as_ref().map_or(0, |v| v.value.len());
            if bytes > MAX_BATCH_BYTES {
                let reason = format!("the values have more than {MAX_BATCH_BYTES} bytes: ask for fewer keys at once");
                return Ok(Err(Refusal::Invalid { reason }));
            }
            values.push(value);
        }
        Ok(Ok(Answer::Values(values)))
    }

    /// Releases what was evaluated before `now` and still holds; asks again for what does not.
    pub(super) fn release_reads(&mut self, shared: &mut Shared, now: Now) -> Result<(), Failure> {
        if self.reads.evaluated.is_empty() {
            return Ok(());
        }
        let mut evaluated = std::mem::take(&mut self.reads.evaluated);
        for read in evaluated.drain(..) {
            self.release(shared, now, read);
        }
        if self.reads.evaluated.is_empty() {
            self.reads.evaluated = evaluated;
        }
        self.drain(shared, now)
    }

    fn release(&mut self, shared: &mut Shared, now: Now, mut evaluated: Evaluated) {
        let permit = &evaluated.permit;
        let lapsed = !evaluated.is_checked && permit.recheck_before.is_some_and(|before| now.mono >= before);
        let lapsed = lapsed && !shared.bugs.has(Bug::SkipLeaseRecheck);
        if !lapsed && let Some(by) = evaluated.met.first() {
            if matches!(evaluated.read.wanted, Wanted::Query(Query::Joint(_))) {
                // The others have nothing to wait for: each is to come by itself.
                return shared.reply(evaluated.id, Err(Refusal::Locked { by }));
            }
            match self.settle(shared, evaluated) {
                Some(settled) => evaluated = settled,
                None => return,
            }
        }
        let Evaluated {
            id,
            mut read,
            permit,
            answer,
            at,
            role,
            ..
        } = evaluated;
        let staleness = staleness(&permit, now.mono);
        let too_stale = match read.tried() {
            Level::Bounded(bound) => staleness.is_none_or(|s| s > bound),
            _ => false,
        };
        if lapsed || too_stale {
            read.tries += 1;
            if read.tries < shared.settings.read_tries {
                shared.requests.insert(id, self.id, read.deadline);
                self.ask(id, read);
            } else {
                let reason = if lapsed {
                    ReadRefusal::Fenced
                } else {
                    ReadRefusal::TooStale(staleness)
                };
                self.fall_back(shared, id, read, &reason);
            }
            return;
        }
        let result = answer.map(|answer| {
            let mut receipt = self.receipt(shared, at, read.arrived, now.mono);
            receipt.role = role;
            receipt.asked = read.level;
            receipt.achieved = read.tried();
            receipt.staleness = staleness;
            receipt.basis = if staleness.is_some() {
                permit.basis
            } else {
                StalenessBasis::None
            };
            receipt.rounds = read.rounds;
            Answered { answer, receipt }
        });
        shared.reply(id, result);
    }

    /// Refuses every read that waits here.
    pub(super) fn refuse_reads(&mut self, shared: &mut Shared, refusal: &Refusal) {
        for id in self.reads.take_all() {
            shared.reply(id, Err(refusal.clone()));
        }
    }

    /// The level that a write, or word of its outcome, counts as.
    pub(super) fn level_of_writes(&self) -> Level {
        match self.mode() {
            Mode::Sync => Level::Linearizable,
            Mode::Async => Level::Eventual,
        }
    }
}

/// Where the write stands that these are the outcomes of: its own answer would have named that. None if it changed nothing.
fn place_of(outcomes: &[WriteOutcome]) -> Option<Index> {
    let versions = outcomes.iter().filter_map(|outcome| match outcome {
        WriteOutcome::Applied { version, .. } => Some(Index(version.0)),
        WriteOutcome::ConditionFailed { .. } => None,
    });
    versions.max()
}

/// The bound that a permit proves at `now`.
fn staleness(permit: &ReadPermit, now: Mono) -> Option<Duration> {
    let since = now.since(permit.fresh_as_of?);
    Some(since + since * permit.drift_ppm / 1_000_000)
}
