//! The second phase: the home group is asked to record the decision, or what it has recorded. The first record wins, so whatever it
//! answers is the decision, asked for here or by another.

use crate::contract::{Observation, Phase};
use crate::core::{Question, StepResult, TwoPhase};
use crate::timers::{Timer, Wait};
use crate::transaction::{Evidence, Outcome, Stage, Transaction, Why};
use fulcrum_types::{
    AbortCause, CommittedPart, Decision, Receipt, Refusal, TransactionAnswer, TransactionId, TransactionState, Verdict,
};

impl TwoPhase {
    /// All votes are yes: the commit is to be recorded.
    pub(crate) fn decide(&mut self, id: TransactionId, parts: Vec<CommittedPart>) {
        if planted!(self, AnswerBeforeRecord)
            && let Some(transaction) = self.transactions.get_mut(&id)
        {
            transaction.outcome = Some(Outcome::Committed(parts.clone()));
            self.answer(id);
        }
        self.drop_votes(id);
        self.enter(id, Stage::Deciding(parts));
        self.ask_home(id);
    }

    /// It cannot go on: an abort is to be recorded. Nobody is told of it before that.
    pub(crate) fn abort(&mut self, id: TransactionId, cause: AbortCause, refusal: Option<Refusal>) {
        self.drop_votes(id);
        if planted!(self, TellAbortUnrecorded)
            && let Some(transaction) = self.transactions.get_mut(&id)
        {
            let refused = Refusal::Aborted { id, cause };
            transaction.outcome = Some(Outcome::Refused(refused));
            self.answer(id);
        }
        self.enter(id, Stage::Aborting { cause, refusal });
        self.ask_home(id);
    }

    /// A vote says that there may be a record: it is looked up before anything is done.
    pub(crate) fn find(&mut self, id: TransactionId, why: Why) {
        self.drop_votes(id);
        self.enter(id, Stage::Finding(why));
        self.ask_home(id);
    }

    pub(crate) fn enter(&mut self, id: TransactionId, stage: Stage) {
        let now = self.now;
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.stage = stage;
            transaction.since = now;
        }
    }

    pub(crate) fn ask_home(&mut self, id: TransactionId) {
        let Some(transaction) = self.transactions.get(&id) else {
            return;
        };
        let Some(operation) = transaction.home_asked() else {
            return;
        };
        let (home, deadline) = (transaction.plan.home, self.patience());
        let ask = self.ask(home, operation, deadline, Question::Home(id));
        self.wait_for_home(id, Wait::Answer(ask));
    }

    fn wait_for_home(&mut self, id: TransactionId, wait: Wait) {
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.home = wait;
        }
    }

    pub(crate) fn home_answered(&mut self, id: TransactionId, result: StepResult) {
        self.wait_for_home(id, Wait::Nothing);
        match result {
            Ok((TransactionAnswer::Decision(decision), receipt)) => self.decided(id, decision, receipt),
            Ok((TransactionAnswer::State(state), receipt)) => self.found(id, state, receipt),
            Ok(_) => self.ask_home_again(id),
            Err(_) => {
                if planted!(self, DecideTwice) {
                    self.lose_a_part(id);
                }
                self.ask_home_again(id);
            }
        }
    }

    fn lose_a_part(&mut self, id: TransactionId) {
        if let Some(Stage::Deciding(parts)) = self.transactions.get_mut(&id).map(|known| &mut known.stage) {
            let home = parts.len().saturating_sub(1);
            parts.truncate(home.max(1));
        }
    }

    /// Whatever it said, it is asked until it answers: after a commit was asked for, neither time nor the client change that.
    fn ask_home_again(&mut self, id: TransactionId) {
        let at = self.now + self.options.pause;
        self.timers.set(at, Timer::Home(id));
        self.wait_for_home(id, Wait::Until(at));
    }

    fn found(&mut self, id: TransactionId, state: TransactionState, receipt: Receipt) {
        let Some(Stage::Finding(why)) = self.transactions.get(&id).map(|known| known.stage.clone()) else {
            self.ask_home_again(id);
            return;
        };
        match (state, why) {
            (TransactionState::Decided(decision), _) => self.decided(id, decision, receipt),
            (TransactionState::TooOld, Why::TooOld(_)) => {
                self.decided(id, Decision::Aborted(AbortCause::TooOld), receipt);
            }
            // Committed, resolved everywhere and forgotten since: what its parts were is not known any more.
            (TransactionState::TooOld, Why::Resolved) => self.refuse(id, Refusal::TooOldToTell),
            (TransactionState::Undecided | TransactionState::NotSeen, Why::TooOld(part)) => {
                let transaction = self.transactions.get(&id);
                let cause = transaction.map_or(AbortCause::OutOfTime, |known| known.not_prepared(part));
                self.abort(id, cause, None);
            }
            (TransactionState::Undecided | TransactionState::NotSeen, Why::Resolved) => self.ask_home_again(id),
        }
    }

    /// The home group has recorded a decision, or it makes none any more.
    pub(crate) fn decided(&mut self, id: TransactionId, decision: Decision, receipt: Receipt) {
        self.drop_votes(id);
        let other_is_own = planted!(self, IgnoreFingerprint);
        let too_old_is_aborted = planted!(self, TooOldIsAborted);
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        if transaction.evidence == Some(Evidence::Marked) {
            // All are told already; only the home group's own part was open.
            self.enter(id, Stage::Resolving);
            self.end_if_done(id);
            return;
        }
        let took = self.now.since(transaction.since);
        let asked = matches!(transaction.stage, Stage::Deciding(_) | Stage::Aborting { .. });
        if asked {
            transaction.rounds += 1;
        }
        match decision {
            Decision::Committed { fingerprint, parts } if fingerprint == transaction.fingerprint() || other_is_own => {
                self.committed(id, parts, receipt);
            }
            Decision::Committed { .. } => {
                let cause = transaction.refused_by_home();
                let refusal = Refusal::TransactionIdReused { id };
                self.aborted(id, Evidence::OtherCommitted, cause, Outcome::Refused(refusal));
            }
            Decision::Aborted(AbortCause::TooOld) if !too_old_is_aborted => {
                let outcome = Outcome::Refused(Refusal::TooOldToTell);
                self.aborted(id, Evidence::PastHorizon, AbortCause::TooOld, outcome);
            }
            Decision::Aborted(cause) => {
                let outcome = outcome_of_abort(transaction, cause, receipt);
                self.aborted(id, Evidence::Recorded, cause, outcome);
            }
        }
        if asked {
            let phase = Phase::Decide;
            self.observe(Observation::Passed { phase, took });
        }
        self.enter(id, Stage::Resolving);
        self.end_if_done(id);
    }

    fn committed(&mut self, id: TransactionId, parts: Vec<CommittedPart>, receipt: Receipt) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        let home = transaction.plan.home;
        // The decision's entry is behind the home group's prepare: its receipt covers both.
        transaction.receipts.insert(home, receipt);
        let others = parts.iter().map(|part| part.participant);
        let others: std::collections::BTreeSet<_> = others.filter(|participant| *participant != home).collect();
        transaction.forget = !others.is_empty();
        let verdict = Verdict::Commit(transaction.fingerprint());
        transaction.outcome = Some(Outcome::Committed(parts));
        self.answer(id);
        self.tell(id, verdict, others);
        if planted!(self, ForgetUnresolved) {
            self.may_forget(home, id);
        }
    }

    fn aborted(&mut self, id: TransactionId, evidence: Evidence, cause: AbortCause, outcome: Outcome) {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return;
        };
        transaction.evidence = Some(evidence);
        transaction.outcome.get_or_insert(outcome);
        let home = transaction.plan.home;
        let others = transaction.participants().filter(|participant| *participant != home);
        let others = others.collect();
        let of = Some(transaction.fingerprint());
        self.answer(id);
        self.tell(id, Verdict::Abort { of, cause }, others);
    }
}

/// The client hears the refusal that made this coordinator give up, if there was one; else what is recorded.
fn outcome_of_abort(transaction: &Transaction, cause: AbortCause, receipt: Receipt) -> Outcome {
    match &transaction.stage {
        Stage::Aborting {
            refusal: Some(refusal), ..
        } => Outcome::Refused(refusal.clone()),
        _ => Outcome::Aborted { cause, receipt },
    }
}
