//! The second phase: the home group is asked for its part, which makes the commit; or to record an abort; or what it has recorded. The first
//! record wins, so whatever it answers is the decision, asked for here or by another.

use crate::contract::{Observation, Phase};
use crate::core::{Question, StepResult, TwoPhase};
use crate::timers::{Timer, Wait};
use crate::transaction::{Evidence, Key, Outcome, Stage, Transaction, Why};
use fulcrum_types::{
    AbortCause, CommittedPart, Decision, Receipt, Refusal, TransactionAnswer, TransactionState, Verdict,
};

impl TwoPhase {
    /// All others have said yes: the home group's yes makes the commit.
    pub(crate) fn decide(&mut self, key: Key) {
        let Some(home) = self.transactions.get(&key).and_then(Transaction::home_part) else {
            return;
        };
        if planted!(self, AnswerBeforeRecord)
            && let Some(transaction) = self.transactions.get_mut(&key)
        {
            transaction.outcome = transaction.votes_of_others().map(Outcome::Committed);
            self.answer(key);
        }
        self.enter(key, Stage::Deciding);
        self.ask_vote(key, home);
    }

    /// It cannot go on: an abort is to be recorded. Nobody is told of it before that.
    pub(crate) fn abort(&mut self, key: Key, cause: AbortCause, refusal: Option<Refusal>) {
        self.drop_votes(key);
        if planted!(self, TellAbortUnrecorded)
            && let Some(transaction) = self.transactions.get_mut(&key)
        {
            let refused = Refusal::Aborted { id: key.0, cause };
            transaction.outcome = Some(Outcome::Refused(refused));
            self.answer(key);
        }
        self.enter(key, Stage::Aborting { cause, refusal });
        self.ask_home(key);
    }

    /// A vote says that there may be a record: it is looked up before anything is done.
    pub(crate) fn find(&mut self, key: Key, why: Why) {
        self.drop_votes(key);
        self.enter(key, Stage::Finding(why));
        self.ask_home(key);
    }

    pub(crate) fn enter(&mut self, key: Key, stage: Stage) {
        let now = self.now;
        if let Some(transaction) = self.transactions.get_mut(&key) {
            transaction.stage = stage;
            transaction.since = now;
        }
    }

    pub(crate) fn ask_home(&mut self, key: Key) {
        let Some(transaction) = self.transactions.get(&key) else {
            return;
        };
        let Some(operation) = transaction.home_asked() else {
            return;
        };
        let (home, deadline) = (transaction.plan.home, self.patience());
        let ask = self.ask(home, operation, deadline, Question::Home(key));
        self.wait_for_home(key, Wait::Answer(ask));
    }

    fn wait_for_home(&mut self, key: Key, wait: Wait) {
        if let Some(transaction) = self.transactions.get_mut(&key) {
            transaction.home = wait;
        }
    }

    pub(crate) fn home_answered(&mut self, key: Key, result: StepResult) {
        self.wait_for_home(key, Wait::Nothing);
        match result {
            Ok((TransactionAnswer::Decision(decision), receipt)) => self.decided(key, decision, receipt),
            Ok((TransactionAnswer::State(state), receipt)) => self.found(key, state, receipt),
            Ok(_) => self.ask_home_again(key),
            Err(_) => {
                self.ask_home_again(key);
            }
        }
    }

    /// Whatever it said, it is asked until it answers: neither time nor the client change that.
    fn ask_home_again(&mut self, key: Key) {
        let at = self.now + self.options.pause;
        self.timers.set(at, Timer::Home(key));
        self.wait_for_home(key, Wait::Until(at));
    }

    fn found(&mut self, key: Key, state: TransactionState, receipt: Receipt) {
        let Some(Stage::Finding(why)) = self.transactions.get(&key).map(|known| known.stage.clone()) else {
            self.ask_home_again(key);
            return;
        };
        match (state, why) {
            (TransactionState::Decided(decision), _) => self.decided(key, decision, receipt),
            (TransactionState::TooOld, Why::TooOld(_)) => {
                self.decided(key, Decision::Aborted(AbortCause::TooOld), receipt);
            }
            // Committed, resolved everywhere and forgotten since: what its parts were is not known any more.
            (TransactionState::TooOld, Why::Resolved) => self.refuse(key, Refusal::TooOldToTell),
            (TransactionState::NotSeen, Why::TooOld(part)) => {
                let transaction = self.transactions.get(&key);
                let cause = transaction.map_or(AbortCause::OutOfTime, |known| known.not_prepared(part));
                self.abort(key, cause, None);
            }
            // A promise under this id is another's, whose home is elsewhere.
            (TransactionState::Promised { .. }, _) | (TransactionState::NotSeen, Why::Resolved) => {
                self.ask_home_again(key);
            }
        }
    }

    /// The home group has recorded a decision, or it makes none any more.
    pub(crate) fn decided(&mut self, key: Key, decision: Decision, receipt: Receipt) {
        self.drop_votes(key);
        let other_is_own = planted!(self, IgnoreFingerprint);
        let too_old_is_aborted = planted!(self, TooOldIsAborted);
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        if transaction.evidence == Some(Evidence::Marked) {
            // All are told already; only the home group's own part was open.
            self.enter(key, Stage::Resolving);
            self.end_if_done(key);
            return;
        }
        let took = self.now.since(transaction.since);
        let asked = matches!(transaction.stage, Stage::Deciding | Stage::Aborting { .. });
        if asked {
            transaction.rounds += 1;
        }
        match decision {
            Decision::Committed { fingerprint, parts } if fingerprint == transaction.fingerprint() || other_is_own => {
                self.committed(key, parts, receipt);
            }
            Decision::Committed { .. } => {
                let cause = transaction.refused_by_home();
                let refusal = Refusal::TransactionIdReused { id: key.0 };
                self.aborted(key, Evidence::OtherCommitted, cause, Outcome::Refused(refusal));
            }
            Decision::Aborted(AbortCause::TooOld) if !too_old_is_aborted => {
                let outcome = Outcome::Refused(Refusal::TooOldToTell);
                self.aborted(key, Evidence::PastHorizon, AbortCause::TooOld, outcome);
            }
            Decision::Aborted(cause) => {
                let outcome = outcome_of_abort(transaction, cause, receipt);
                self.aborted(key, Evidence::Recorded, cause, outcome);
            }
        }
        if asked {
            let phase = Phase::Decide;
            self.observe(Observation::Passed { phase, took });
        }
        self.enter(key, Stage::Resolving);
        self.end_if_done(key);
    }

    fn committed(&mut self, key: Key, parts: Vec<CommittedPart>, receipt: Receipt) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
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
        if transaction.answer().is_none() {
            // Another coordinator had some votes: the client waits for proof of those parts.
            transaction.rounds += 1;
        }
        self.answer(key);
        self.tell(key, verdict, others);
        if planted!(self, ForgetUnresolved) {
            self.may_forget(home, key.0);
        }
    }

    fn aborted(&mut self, key: Key, evidence: Evidence, cause: AbortCause, outcome: Outcome) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        transaction.evidence = Some(evidence);
        transaction.outcome.get_or_insert(outcome);
        let home = transaction.plan.home;
        let others = transaction.participants().filter(|participant| *participant != home);
        let others = others.collect();
        let of = Some(transaction.fingerprint());
        self.answer(key);
        self.tell(key, Verdict::Abort { of, cause }, others);
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
