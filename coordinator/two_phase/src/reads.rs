//! Reads of several groups, and transactions that only read. Nothing is locked (rule 13).
//!
//! The first round takes values. The second begins after the last answer of the first, and asks every group whether versions are
//! unchanged and no intent lies on the keys: then all of it was true at the moment at which the second round began. An
//! intent is looked up at its home and resolved, or waited for while it is undecided, and the group is asked again. A value that changed makes a
//! read begin again; a client that commits what it read before is told instead.

use crate::contract::{AskId, Ended, Observation, Phase, Plan, PlannedRead, Reply, RequestId};
use crate::core::{Question, StepResult, TwoPhase, is_final, keep_reason, unfit};
use crate::timers::{Timer, Wait};
use bytes::Bytes;
use fulcrum_types::{
    AbortCause, Decision, IntentSeen, LogPosition, Mono, Observations, Participant, ReadCheck, Receipt, Refusal,
    Resolution, TransactionAnswer, TransactionId, TransactionOperation, TransactionState, Validation, Verdict,
};
use std::collections::BTreeSet;

/// A read under way.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) id: TransactionId,
    pub(crate) wanted: Wanted,
    pub(crate) parts: Vec<ReadPart>,
    /// How often it began again.
    times: u32,
    began: Mono,
    /// Since when the second round is under way.
    validating: Mono,
    /// The last reason to wait, for a client whose time runs out.
    last: Option<Refusal>,
}

/// What a client is told at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Values; of one moment, or as they come.
    Values { consistent: bool },
    /// That what it read before is of one moment.
    Validity,
}

/// One group's part.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadPart {
    participant: Participant,
    seen: Option<LogPosition>,
    keys: Vec<Bytes>,
    /// What the second round checks.
    checks: Vec<ReadCheck>,
    values: Observations,
    receipt: Option<Receipt>,
    second: bool,
    pub(crate) done: bool,
    pub(crate) wait: Wait,
    /// Questions about the intents that it met.
    pub(crate) clearing: BTreeSet<AskId>,
    /// One of them is undecided.
    undecided: bool,
}

impl Reading {
    pub(crate) fn of_values(id: TransactionId, parts: Vec<PlannedRead>, consistent: bool, now: Mono) -> Self {
        let part = |read: PlannedRead| ReadPart {
            participant: read.participant,
            seen: read.seen,
            keys: read.keys,
            ..ReadPart::default()
        };
        let parts = parts.into_iter().map(part).collect();
        Self::new(id, Wanted::Values { consistent }, parts, now)
    }

    pub(crate) fn of_commit(plan: Plan, now: Mono) -> Self {
        let part = |planned: crate::contract::PlannedPart| ReadPart {
            participant: planned.participant,
            seen: planned.seen,
            checks: planned.part.reads,
            second: true,
            ..ReadPart::default()
        };
        let parts = plan.parts.into_iter().map(part).collect();
        Self::new(plan.id, Wanted::Validity, parts, now)
    }

    fn new(id: TransactionId, wanted: Wanted, parts: Vec<ReadPart>, now: Mono) -> Self {
        Self {
            id,
            wanted,
            parts,
            times: 0,
            began: now,
            validating: now,
            last: None,
        }
    }

    /// Whether the first round is all that it takes.
    fn is_of_one_moment(&self) -> bool {
        match (self.wanted, self.parts.as_slice()) {
            (Wanted::Values { consistent: false }, _) => true,
            (Wanted::Values { .. }, [only]) => !only.values.met_intents,
            _ => false,
        }
    }
}

impl ReadPart {
    fn operation(&self, begun_at_ms: u64) -> TransactionOperation {
        if self.second {
            TransactionOperation::Validate {
                begun_at_ms,
                reads: self.checks.clone(),
            }
        } else {
            TransactionOperation::Read {
                begun_at_ms,
                seen: self.seen,
                keys: self.keys.clone(),
            }
        }
    }

    fn take_values(&mut self, values: Observations, receipt: Receipt) {
        let check = |(key, seen): (&Bytes, &fulcrum_types::Observed)| ReadCheck {
            key: key.clone(),
            version: seen.version,
            exists: seen.value.is_some(),
        };
        self.checks = self.keys.iter().zip(&values.observed).map(check).collect();
        self.values = values;
        self.receipt = Some(receipt);
        self.done = true;
    }
}

impl TwoPhase {
    pub(crate) fn begin_read(&mut self, request: RequestId, reading: Reading) {
        self.reads.insert(request, reading);
        self.ask_all(request);
        self.end_of_round(request);
    }

    fn ask_all(&mut self, request: RequestId) {
        let parts = self.reads.get(&request).map_or(0, |reading| reading.parts.len());
        for part in 0..parts {
            self.ask_read(request, part);
        }
    }

    /// Who reads what is written all the time must not make it worse.
    fn ask_all_later(&mut self, request: RequestId) {
        let at = self.now + self.options.pause;
        let parts = self.reads.get_mut(&request).map(|reading| &mut reading.parts);
        for (part, asked) in parts.into_iter().flatten().enumerate() {
            asked.wait = Wait::Until(at);
            self.timers.set(at, Timer::Read(request, part));
        }
    }

    fn read_part(&mut self, request: RequestId, part: usize) -> Option<&mut ReadPart> {
        self.reads.get_mut(&request)?.parts.get_mut(part)
    }

    pub(crate) fn ask_read(&mut self, request: RequestId, part: usize) {
        let Some(deadline) = self.requests.get(&request).map(|known| known.deadline) else {
            return;
        };
        let Some(reading) = self.reads.get(&request) else {
            return;
        };
        let Some(asked) = reading.parts.get(part) else { return };
        let (to, operation) = (asked.participant, asked.operation(reading.id.begun_at_ms));
        let ask = self.ask(to, operation, deadline, Question::Read(request, part));
        if let Some(asked) = self.read_part(request, part) {
            asked.wait = Wait::Answer(ask);
        }
    }

    pub(crate) fn read_answered(&mut self, request: RequestId, part: usize, result: StepResult) {
        let Some(asked) = self.read_part(request, part) else {
            return;
        };
        asked.wait = Wait::Nothing;
        match result {
            Ok((TransactionAnswer::Observations(values), receipt))
                if !asked.second && values.observed.len() == asked.keys.len() =>
            {
                asked.take_values(values, receipt);
            }
            Ok((TransactionAnswer::Validation(Validation::Valid), receipt)) if asked.second => {
                asked.receipt.get_or_insert(receipt);
                asked.done = true;
            }
            Ok((TransactionAnswer::Validation(Validation::Invalidated { read }), _)) if asked.second => {
                let group = asked.participant.group;
                self.invalidated(request, AbortCause::ReadInvalidated { group, read });
                return;
            }
            Ok((TransactionAnswer::Validation(Validation::Intents(intents)), _)) if asked.second => {
                self.clear_intents(request, part, intents);
                return;
            }
            Ok(_) => self.read_again(request, part, unfit()),
            Err(refusal) if is_final(&refusal) => {
                self.end_read(request, Err(refusal), Ended::Refused);
                return;
            }
            Err(refusal) => self.read_again(request, part, refusal),
        }
        self.end_of_round(request);
    }

    fn read_again(&mut self, request: RequestId, part: usize, why: Refusal) {
        let at = self.now + self.options.pause;
        let Some(reading) = self.reads.get_mut(&request) else {
            return;
        };
        keep_reason(&mut reading.last, why);
        if let Some(asked) = reading.parts.get_mut(part) {
            asked.wait = Wait::Until(at);
            self.timers.set(at, Timer::Read(request, part));
        }
    }

    fn end_of_round(&mut self, request: RequestId) {
        let one_round = planted!(self, SkipSecondRound);
        let now = self.now;
        let Some(reading) = self.reads.get_mut(&request) else {
            return;
        };
        if !reading.parts.iter().all(|part| part.done) {
            return;
        }
        let second = reading.parts.iter().all(|part| part.second);
        if second || reading.is_of_one_moment() || one_round {
            if second {
                let took = now.since(reading.validating);
                let phase = Phase::Validate;
                self.observe(Observation::Passed { phase, took });
            }
            self.read_is_done(request);
            return;
        }
        reading.validating = now;
        for part in &mut reading.parts {
            (part.second, part.done) = (true, false);
        }
        self.ask_all(request);
    }

    fn read_is_done(&mut self, request: RequestId) {
        let Some(reading) = self.reads.get_mut(&request) else {
            return;
        };
        let parts = reading.parts.iter_mut();
        let found = parts.map(|part| (std::mem::take(&mut part.values), part.receipt.take()));
        let (values, receipts): (Vec<_>, Vec<_>) = found.unzip();
        let receipts = receipts.into_iter().flatten().collect();
        let reply = match reading.wanted {
            Wanted::Values { .. } => Reply::Values {
                parts: values,
                receipts,
            },
            Wanted::Validity => Reply::Committed {
                parts: Vec::new(),
                receipts,
                rounds: 0,
            },
        };
        self.end_read(request, Ok(reply), Ended::Committed);
    }

    /// What was read is of more than one moment.
    fn invalidated(&mut self, request: RequestId, cause: AbortCause) {
        let Some(reading) = self.reads.get_mut(&request) else {
            return;
        };
        if reading.wanted == Wanted::Validity {
            let id = reading.id;
            self.end_read(request, Err(Refusal::Aborted { id, cause }), Ended::Aborted(cause));
            return;
        }
        reading.times += 1;
        let times = reading.times;
        self.observe(Observation::ReadAgain { times });
        self.drop_waits(request);
        let parts = self.reads.get_mut(&request).map(|reading| &mut reading.parts);
        for part in parts.into_iter().flatten() {
            (part.second, part.done) = (false, false);
        }
        if times == 1 {
            self.ask_all(request);
        } else {
            self.ask_all_later(request);
        }
    }

    /// Each is looked up where its decision is.
    fn clear_intents(&mut self, request: RequestId, part: usize, intents: Vec<IntentSeen>) {
        let Some(deadline) = self.requests.get(&request).map(|known| known.deadline) else {
            return;
        };
        for IntentSeen { id, home } in intents {
            let operation = TransactionOperation::LookUp(id);
            let ask = self.ask(home, operation, deadline, Question::Intent(request, part, id));
            self.read_part(request, part).map(|asked| asked.clearing.insert(ask));
        }
        self.check_again(request, part);
    }

    pub(crate) fn intent_answered(
        &mut self,
        request: RequestId,
        part: usize,
        ask: AskId,
        id: TransactionId,
        result: StepResult,
    ) {
        let verdict = match result {
            Ok((TransactionAnswer::State(state), _)) => verdict_of(state),
            _ => None,
        };
        let hasty = planted!(self, UndecidedIsAborted).then_some(Verdict::Abort {
            of: None,
            cause: AbortCause::Abandoned,
        });
        let verdict = verdict.or(hasty);
        let deadline = self.patience();
        let Some(reading) = self.reads.get_mut(&request) else {
            return;
        };
        let Some(asked) = reading.parts.get_mut(part) else {
            return;
        };
        asked.clearing.remove(&ask);
        let to = asked.participant;
        if let Some(verdict) = verdict {
            let operation = TransactionOperation::Resolve(vec![Resolution { id, verdict }]);
            let ask = self.ask(to, operation, deadline, Question::Cleared(request, part));
            self.read_part(request, part).map(|asked| asked.clearing.insert(ask));
        } else {
            asked.undecided = true;
            reading.last = Some(Refusal::Locked { by: id });
        }
        self.check_again(request, part);
    }

    pub(crate) fn intent_cleared(&mut self, request: RequestId, part: usize, ask: AskId) {
        if let Some(asked) = self.read_part(request, part) {
            asked.clearing.remove(&ask);
        }
        self.check_again(request, part);
    }

    /// Once nothing is known to be in the way the group is asked again; after a pause if something still is.
    fn check_again(&mut self, request: RequestId, part: usize) {
        let at = self.now + self.options.pause;
        let Some(asked) = self.read_part(request, part).filter(|asked| asked.clearing.is_empty()) else {
            return;
        };
        if std::mem::take(&mut asked.undecided) {
            asked.wait = Wait::Until(at);
            self.timers.set(at, Timer::Read(request, part));
        } else {
            self.ask_read(request, part);
        }
    }

    fn end_read(&mut self, request: RequestId, result: Result<Reply, Refusal>, how: Ended) {
        self.drop_waits(request);
        let Some(reading) = self.reads.remove(&request) else {
            return;
        };
        if reading.wanted == Wanted::Validity {
            self.observe(Observation::Ended {
                id: reading.id,
                how,
                participants: reading.parts.len(),
                rounds: 0,
                took: self.now.since(reading.began),
            });
        }
        self.reply(request, result);
    }

    /// Its time is up. Nothing is held anywhere.
    pub(crate) fn give_read_up(&mut self, request: RequestId) {
        let last = self.reads.get(&request).and_then(|reading| reading.last.clone());
        let refusal = last.filter(|last| !matches!(last, Refusal::Unknown { .. }));
        let refusal = refusal.unwrap_or(Refusal::DeadlineExceeded);
        self.end_read(request, Err(refusal), Ended::Refused);
    }

    pub(crate) fn drop_read(&mut self, request: RequestId) {
        self.drop_waits(request);
        self.reads.remove(&request);
    }

    fn drop_waits(&mut self, request: RequestId) {
        let Some(reading) = self.reads.get_mut(&request) else {
            return;
        };
        for (part, asked) in reading.parts.iter_mut().enumerate() {
            for ask in std::mem::take(&mut asked.clearing) {
                self.questions.remove(&ask);
            }
            match std::mem::take(&mut asked.wait) {
                Wait::Nothing => {}
                Wait::Answer(ask) => {
                    self.questions.remove(&ask);
                }
                Wait::Until(at) => self.timers.clear(at, Timer::Read(request, part)),
            }
        }
    }
}

/// What the group of an intent is told, if its home has decided.
fn verdict_of(state: TransactionState) -> Option<Verdict> {
    let abort = |cause| Verdict::Abort { of: None, cause };
    match state {
        TransactionState::Decided(Decision::Committed { fingerprint, .. }) => Some(Verdict::Commit(fingerprint)),
        TransactionState::Decided(Decision::Aborted(cause)) => Some(abort(cause)),
        TransactionState::TooOld => Some(abort(AbortCause::TooOld)),
        TransactionState::Promised { .. } | TransactionState::NotSeen => None,
    }
}
