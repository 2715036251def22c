//! The coordinator: its fields, the dispatch of inputs, and what every kind of request shares.

use crate::contract::{AskId, Coordinate, Effect, Ended, Input, Observation, Options, Plan, Reply, RequestId, Status};
use crate::look_up::LookingUp;
use crate::reads::Reading;
use crate::tell::Group;
use crate::timers::{Timer, Timers};
use crate::transaction::{Key, Stage, Transaction};
use fulcrum_types::{
    Act, Answer, Answered, Mono, Participant, Receipt, Refusal, TransactionAnswer, TransactionId, TransactionOperation,
    Verdict,
};
use std::collections::{BTreeMap, BTreeSet};

/// A coordinator by two-phase commit.
#[derive(Clone, Debug)]
pub struct TwoPhase {
    pub(crate) options: Options,
    pub(crate) now: Mono,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) transactions: BTreeMap<Key, Transaction>,
    pub(crate) reads: BTreeMap<RequestId, Reading>,
    pub(crate) look_ups: BTreeMap<RequestId, LookingUp>,
    /// Decisions and permissions to forget, on their way to each group.
    pub(crate) groups: BTreeMap<Participant, Group>,
    /// Every question whose answer is still of use.
    pub(crate) questions: BTreeMap<AskId, Question>,
    pub(crate) timers: Timers,
    pub(crate) next_heartbeat: Mono,
    next_ask: u64,
    /// The effects of this step.
    pub(crate) effects: Vec<Effect>,
    #[cfg(feature = "planted-bugs")]
    pub(crate) bug: Option<crate::planted::Bug>,
}

/// A request that has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) deadline: Mono,
    pub(crate) of: Of,
}

/// What a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// A transaction, which it shares with all requests for the same attempt.
    Transaction(Key),
    /// A read of its own.
    Read,
    /// A look-up of its own.
    LookUp,
}

/// What a question was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// A participant's vote, or the one group's decision.
    Vote(Key, usize),
    /// The home group's record.
    Home(Key),
    /// That a group takes note of decisions.
    Tell(Participant, Vec<(Key, Verdict)>),
    /// That a home group forgets; each until it is left to find out for itself.
    Forget(Participant, Vec<(TransactionId, Mono)>),
    /// That a participant stays patient.
    Heartbeat(Participant),
    /// Values, or whether they still hold.
    Read(RequestId, usize),
    /// The decision of an intent that a part of a read met, and where its home is.
    Intent(RequestId, usize, TransactionId),
    /// That the group of that part takes note of it.
    Cleared(RequestId, usize),
    /// What a place knows of a transaction.
    LookUp(RequestId, usize),
}

impl Question {
    /// The one request that it is asked for, unless it is asked for a transaction.
    fn request(&self) -> Option<RequestId> {
        match self {
            Question::Read(request, _)
            | Question::Intent(request, ..)
            | Question::Cleared(request, _)
            | Question::LookUp(request, _) => Some(*request),
            Question::Vote(..)
            | Question::Home(_)
            | Question::Tell(..)
            | Question::Forget(..)
            | Question::Heartbeat(_) => None,
        }
    }
}

impl TwoPhase {
    /// A coordinator with nothing under way: a restarted one has forgotten everything.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            now: Mono::default(),
            requests: BTreeMap::new(),
            transactions: BTreeMap::new(),
            reads: BTreeMap::new(),
            look_ups: BTreeMap::new(),
            groups: BTreeMap::new(),
            questions: BTreeMap::new(),
            timers: Timers::default(),
            next_heartbeat: Mono::default(),
            next_ask: 0,
            effects: Vec::new(),
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }

    /// Plants a bug that verification must find.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn with_bug(mut self, bug: crate::planted::Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => self.tick(),
            Input::Commit {
                request,
                plan,
                deadline,
            } => self.commit(request, plan, deadline),
            Input::Read {
                request,
                id,
                parts,
                consistent,
                deadline,
            } => {
                if self.admit(request, Of::Read, deadline) {
                    self.begin_read(request, Reading::of_values(id, parts, consistent, self.now));
                }
            }
            Input::LookUp {
                request,
                id,
                places,
                settle,
                deadline,
            } => {
                if self.admit(request, Of::LookUp, deadline) {
                    self.begin_look_up(request, LookingUp::new(id, places, settle));
                }
            }
            Input::Answered { ask, result } => self.answered(ask, result),
            Input::Cancelled { request } => self.cancelled(request),
        }
    }

    fn commit(&mut self, request: RequestId, plan: Plan, deadline: Mono) {
        if let Err(refusal) = check_plan(&plan) {
            self.effects.push(Effect::Reply {
                request,
                result: Err(refusal),
            });
        } else if plan.is_read_only() {
            if self.admit(request, Of::Read, deadline) {
                self.begin_read(request, Reading::of_commit(plan, self.now));
            }
        } else if self.admit(request, Of::Transaction(plan.key()), deadline) {
            self.begin_commit(request, plan, deadline);
        }
    }

    /// Takes a request on, or says why not.
    fn admit(&mut self, request: RequestId, of: Of, deadline: Mono) -> bool {
        let joins = matches!(of, Of::Transaction(id) if self.transactions.contains_key(&id));
        let full = self.requests.len() >= self.options.open_max
            || (!joins && self.transactions.len() >= self.options.open_max);
        let refusal = if deadline <= self.now {
            Refusal::DeadlineExceeded
        } else if full {
            Refusal::Overloaded
        } else {
            self.requests.insert(request, Request { deadline, of });
            self.timers.set(deadline, Timer::Deadline(request));
            return true;
        };
        self.effects.push(Effect::Reply {
            request,
            result: Err(refusal),
        });
        false
    }

    /// Asks a group.
    pub(crate) fn ask(
        &mut self,
        to: Participant,
        operation: TransactionOperation,
        deadline: Mono,
        question: Question,
    ) -> AskId {
        let ask = AskId(self.next_ask);
        self.next_ask += 1;
        let request = question.request();
        self.questions.insert(ask, question);
        self.effects.push(Effect::Ask {
            ask,
            to,
            operation,
            deadline,
            request,
        });
        ask
    }

    /// Answers a client, once.
    pub(crate) fn reply(&mut self, request: RequestId, result: Result<Reply, Refusal>) {
        if self.close(request).is_some() {
            self.effects.push(Effect::Reply { request, result });
        }
    }

    /// Nobody waits for this request any more.
    pub(crate) fn close(&mut self, request: RequestId) -> Option<Request> {
        let closed = self.requests.remove(&request)?;
        self.timers.clear(closed.deadline, Timer::Deadline(request));
        Some(closed)
    }

    pub(crate) fn observe(&mut self, observation: Observation) {
        self.effects.push(Effect::Observed(observation));
    }

    /// Until when a question that no client waits for is asked.
    pub(crate) fn patience(&self) -> Mono {
        self.now + self.options.prepare_max
    }

    fn answered(&mut self, ask: AskId, result: Result<Answered, Refusal>) {
        // What nobody waits for any more was superseded: by a decision, by time, by a client that went away.
        let Some(question) = self.questions.remove(&ask) else {
            return;
        };
        let result = of_a_transaction(result);
        match question {
            Question::Vote(key, part) => self.voted(key, part, result),
            Question::Home(key) => self.home_answered(key, result),
            Question::Tell(to, batch) => self.told(to, ask, &batch, result),
            Question::Forget(to, batch) => self.forgotten(to, batch, &result),
            Question::Heartbeat(_) => {}
            Question::Read(request, part) => self.read_answered(request, part, result),
            Question::Intent(request, part, id) => self.intent_answered(request, part, ask, id, result),
            Question::Cleared(request, part) => self.intent_cleared(request, part, ask),
            Question::LookUp(request, place) => self.place_answered(request, place, result),
        }
    }

    fn cancelled(&mut self, request: RequestId) {
        let Some(closed) = self.close(request) else { return };
        match closed.of {
            Of::Transaction(id) => self.caller_left(id, request, Ended::Cancelled),
            Of::Read => self.drop_read(request),
            Of::LookUp => self.drop_look_up(request),
        }
    }

    fn tick(&mut self) {
        while let Some(timer) = self.timers.due(self.now) {
            match timer {
                Timer::Deadline(request) => self.deadline_passed(request),
                Timer::Votes(id) => self.votes_are_late(id),
                Timer::Vote(id, part) => self.ask_vote(id, part),
                Timer::Home(id) => self.ask_home(id),
                Timer::Leave(id) => self.leave(id),
                Timer::Tell(group) => self.tell_again(group),
                Timer::Read(request, part) => self.ask_read(request, part),
                Timer::LookUp(request, place) => self.ask_place(request, place),
            }
        }
        if self.now >= self.next_heartbeat {
            self.next_heartbeat = self.now + self.options.heartbeat;
            self.send_heartbeats();
        }
        self.forget_all();
    }

    fn deadline_passed(&mut self, request: RequestId) {
        let Some(of) = self.requests.get(&request).map(|known| known.of) else {
            return;
        };
        match of {
            Of::Transaction(id) => self.time_is_up(id, request),
            Of::Read => self.give_read_up(request),
            Of::LookUp => self.give_look_up_up(request),
        }
    }

    /// Tells those that hold locks that their transaction is being worked on.
    fn send_heartbeats(&mut self) {
        if planted!(self, NoHeartbeats) {
            return;
        }
        let mut alive: BTreeMap<Participant, BTreeSet<TransactionId>> = BTreeMap::new();
        for ((id, _), transaction) in &self.transactions {
            if !matches!(transaction.stage, Stage::Preparing | Stage::Deciding) {
                continue;
            }
            for (participant, standing) in transaction.participants().zip(&transaction.votes) {
                if standing.yes.is_some() {
                    alive.entry(participant).or_default().insert(*id);
                }
            }
        }
        for (to, ids) in alive {
            let deadline = self.now + self.options.heartbeat;
            let operation = TransactionOperation::Heartbeat(ids.into_iter().collect());
            self.ask(to, operation, deadline, Question::Heartbeat(to));
        }
    }
}

impl Coordinate for TwoPhase {
    fn step(&mut self, now: Mono, input: Input, effects: &mut Vec<Effect>) {
        debug_assert!(now >= self.now, "time went back from {} to {now}", self.now);
        self.now = self.now.max(now);
        self.take(input);
        #[cfg(debug_assertions)]
        if let Err(broken) = self.check_invariants() {
            panic!("an invariant of the coordinator is broken: {broken}");
        }
        effects.append(&mut self.effects);
    }

    fn status(&self) -> Status {
        let mut status = Status {
            reading: self.reads.len() + self.look_ups.len(),
            ..Status::default()
        };
        for transaction in self.transactions.values() {
            match transaction.stage {
                Stage::Preparing | Stage::Finding(_) => status.preparing += 1,
                Stage::Deciding | Stage::Aborting { .. } => status.deciding += 1,
                Stage::Resolving => status.resolving += 1,
            }
            if transaction.is_undecided() {
                status.oldest_undecided = status.oldest_undecided.max(self.now.since(transaction.began));
            }
        }
        status
    }

    fn check_invariants(&self) -> Result<(), String> {
        crate::invariants::check(self)
    }
}

/// A group's answer to a step of a transaction, with its proof.
pub(crate) type StepResult = Result<(TransactionAnswer, Receipt), Refusal>;

fn of_a_transaction(result: Result<Answered, Refusal>) -> StepResult {
    let Answered { answer, receipt } = result?;
    match answer {
        Answer::Transaction(answer) => Ok((answer, receipt)),
        _ => Err(unfit()),
    }
}

/// An answer that does not fit its question: of a group that cannot be understood nothing is known.
pub(crate) fn unfit() -> Refusal {
    Refusal::Unknown {
        reason: "the group's answer does not fit the question".into(),
    }
}

/// Keeps the last reason to wait. That a question found no answer in time says less than any refusal before it.
pub(crate) fn keep_reason(last: &mut Option<Refusal>, refusal: Refusal) {
    let says_little = matches!(refusal, Refusal::Unknown { .. } | Refusal::DeadlineExceeded);
    if last.is_none() || !says_little {
        *last = Some(refusal);
    }
}

/// Whether asking the same group again cannot help.
pub(crate) fn is_final(refusal: &Refusal) -> bool {
    match refusal {
        // A group answers with its vote or its record, never so.
        Refusal::Aborted { .. } => false,
        Refusal::WrongGroup { .. } => true,
        refusal => refusal.act() == Act::Reject,
    }
}

fn check_plan(plan: &Plan) -> Result<(), Refusal> {
    let has_home = plan.parts.iter().any(|planned| planned.participant == plan.home);
    if has_home || plan.is_read_only() {
        return Ok(());
    }
    let group = plan.home.group;
    Err(Refusal::Invalid {
        reason: format!("group {group} is home, but has no part in the transaction"),
    })
}
