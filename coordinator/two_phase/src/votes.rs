//! The first phase: every participant is asked for its vote, the home group after all others; what each vote does is a table in
//! `docs/transactions.md`.
//!
//! A transaction of one group has the same first phase and no second: the group's answer is the decision.

use crate::contract::{Effect, Ended, Observation, Phase, Plan, RequestId};
use crate::core::{Question, StepResult, TwoPhase, is_final, keep_reason, unfit};
use crate::timers::{Timer, Wait};
use crate::transaction::{Evidence, Key, Outcome, Stage, Transaction, Why};
use fulcrum_types::{AbortCause, Mono, Receipt, Refusal, TransactionAnswer, Verdict, Version, Vote};

impl TwoPhase {
    /// Begins a transaction, or joins the request to the same attempt.
    pub(crate) fn begin_commit(&mut self, request: RequestId, plan: Plan, deadline: Mono) {
        let key = plan.key();
        let votes_until = self.votes_until(&plan, deadline);
        if self.transactions.contains_key(&key) {
            self.join(key, request, deadline);
            return;
        }
        let parts = plan.parts.len();
        let mut transaction = Transaction::new(plan, self.now, votes_until);
        transaction.callers.insert(request);
        let home = transaction.home_part();
        self.transactions.insert(key, transaction);
        self.timers.set(votes_until, Timer::Votes(key));
        for part in (0..parts).filter(|part| home != Some(*part)) {
            self.ask_vote(key, part);
        }
    }

    /// Others wait for the locks meanwhile, so votes have their own bound; a transaction of one group holds nothing.
    fn votes_until(&self, plan: &Plan, deadline: Mono) -> Mono {
        let half = self.now + deadline.since(self.now) / 2;
        let until = half.max(deadline - self.options.decide_reserve);
        if plan.parts.len() == 1 {
            return until;
        }
        until.min(self.now + self.options.prepare_max)
    }

    fn join(&mut self, key: Key, request: RequestId, deadline: Mono) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        transaction.callers.insert(request);
        if let Some(at) = transaction.leave.take() {
            self.timers.clear(at, Timer::Leave(key));
        }
        if transaction.collects_votes() {
            let longest = transaction.began + self.options.prepare_max;
            let mut until = deadline - self.options.decide_reserve;
            if !transaction.is_of_one_group() {
                until = until.min(longest);
            }
            if until > transaction.votes_until {
                self.timers.clear(transaction.votes_until, Timer::Votes(key));
                transaction.votes_until = until;
                self.timers.set(until, Timer::Votes(key));
            }
        }
        self.answer(key);
    }

    pub(crate) fn ask_vote(&mut self, key: Key, part: usize) {
        let Some(transaction) = self.transactions.get(&key) else {
            return;
        };
        let Some((to, operation)) = transaction.vote_asked(part) else {
            return;
        };
        let deadline = transaction.votes_until;
        let ask = self.ask(to, operation, deadline, Question::Vote(key, part));
        self.wait_for_vote(key, part, Wait::Answer(ask));
    }

    fn wait_for_vote(&mut self, key: Key, part: usize, wait: Wait) {
        let transaction = self.transactions.get_mut(&key);
        if let Some(standing) = transaction.and_then(|known| known.votes.get_mut(part)) {
            standing.wait = wait;
        }
    }

    /// Votes that are still out are of no use any more.
    pub(crate) fn drop_votes(&mut self, key: Key) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        self.timers.clear(transaction.votes_until, Timer::Votes(key));
        transaction.drop_parts();
        for (part, standing) in transaction.votes.iter_mut().enumerate() {
            match std::mem::take(&mut standing.wait) {
                Wait::Nothing => {}
                Wait::Answer(ask) => {
                    self.questions.remove(&ask);
                }
                Wait::Until(at) => self.timers.clear(at, Timer::Vote(key, part)),
            }
        }
    }

    pub(crate) fn voted(&mut self, key: Key, part: usize, result: StepResult) {
        self.wait_for_vote(key, part, Wait::Nothing);
        match result {
            Ok((TransactionAnswer::Vote(vote), receipt)) => self.count(key, part, vote, receipt),
            Ok(_) => self.vote_refused(key, part, unfit()),
            Err(refusal) => self.vote_refused(key, part, refusal),
        }
    }

    fn count(&mut self, key: Key, part: usize, vote: Vote, receipt: Receipt) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        let Some(participant) = transaction.plan.parts.get(part).map(|planned| planned.participant) else {
            return;
        };
        let (one_group, home) = (transaction.is_of_one_group(), transaction.plan.home);
        match vote {
            Vote::Refused(cause) => self.marked(key, part, cause, receipt),
            Vote::Decided(decision) => self.decided(key, decision, receipt),
            Vote::Prepared { .. } | Vote::Resolved { .. } if one_group || participant == home => {
                self.vote_refused(key, part, unfit())
            }
            Vote::Prepared { version } => {
                transaction.receipts.insert(participant, receipt);
                self.prepared(key, part, version);
            }
            Vote::Resolved { .. } => {
                transaction.receipts.insert(participant, receipt);
                self.find(key, Why::Resolved);
            }
        }
    }

    fn prepared(&mut self, key: Key, part: usize, version: Version) {
        let early = planted!(self, DecideWithoutAllVotes);
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        if let Some(standing) = transaction.votes.get_mut(part) {
            standing.yes = Some(version);
        }
        if early {
            transaction.take_the_last_for_granted();
        }
        if transaction.votes_of_others().is_some() {
            let took = self.now.since(transaction.began);
            let phase = Phase::Prepare;
            self.observe(Observation::Passed { phase, took });
            self.decide(key);
        }
    }

    /// A no that the participant has marked: nobody can have all votes, now or ever.
    fn marked(&mut self, key: Key, part: usize, cause: AbortCause, receipt: Receipt) {
        self.drop_votes(key);
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        transaction.evidence = Some(Evidence::Marked);
        transaction.outcome = Some(Outcome::Aborted { cause, receipt });
        let home = transaction.plan.home;
        let refused = transaction.plan.parts.get(part).map(|planned| planned.participant);
        let others = transaction.participants();
        let others = others.filter(|participant| *participant != home && Some(*participant) != refused);
        let others = others.collect();
        let verdict = Verdict::Abort {
            of: Some(transaction.fingerprint()),
            cause,
        };
        self.answer(key);
        self.tell(key, verdict, others);
        if refused == Some(home) {
            self.enter(key, Stage::Resolving);
        } else {
            let refusal = None;
            self.enter(key, Stage::Aborting { cause, refusal });
            self.ask_home(key);
        }
        self.end_if_done(key);
    }

    fn vote_refused(&mut self, key: Key, part: usize, refusal: Refusal) {
        let hasty = planted!(self, SilenceIsRefusal);
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        let (one_group, sure) = (transaction.is_of_one_group(), transaction.is_sure(part));
        let cause = transaction.not_prepared(part);
        let Some(standing) = transaction.votes.get_mut(part) else {
            return;
        };
        if refusal == Refusal::TooOldToTell && !one_group {
            self.find(key, Why::TooOld(part));
        } else if is_final(&refusal) && one_group && sure {
            self.refuse(key, refusal);
        } else if is_final(&refusal) {
            self.abort(key, cause, Some(refusal));
        } else if hasty && matches!(refusal, Refusal::Unknown { .. }) {
            let of = Some(transaction.fingerprint());
            let others = transaction.participants().collect();
            self.tell(key, Verdict::Abort { of, cause }, others);
            self.abort(key, cause, None);
        } else {
            standing.unsure |= matches!(refusal, Refusal::Unknown { .. });
            let locked = matches!(refusal, Refusal::Locked { .. });
            keep_reason(&mut standing.last, refusal);
            self.vote_again(key, part, locked);
        }
    }

    /// A locked key was waited for already; all else is asked after a pause.
    fn vote_again(&mut self, key: Key, part: usize, at_once: bool) {
        if at_once {
            self.ask_vote(key, part);
            return;
        }
        let at = self.now + self.options.pause;
        self.timers.set(at, Timer::Vote(key, part));
        self.wait_for_vote(key, part, Wait::Until(at));
    }

    pub(crate) fn votes_are_late(&mut self, key: Key) {
        let Some(transaction) = self.transactions.get(&key) else {
            return;
        };
        if !transaction.collects_votes() {
            return;
        }
        let cause = transaction.missing_vote();
        if planted!(self, AbortAfterCommitAsked) {
            self.take_commit_for_failed(key);
        }
        self.abort(key, cause, None);
    }

    /// The answer is a refusal that leaves nothing to be told to anybody.
    pub(crate) fn refuse(&mut self, key: Key, refusal: Refusal) {
        if let Some(transaction) = self.transactions.get_mut(&key) {
            transaction.outcome = Some(Outcome::Refused(refusal));
            self.answer(key);
            self.remove(key);
        }
    }

    /// Tells all callers the outcome if it is known and complete.
    pub(crate) fn answer(&mut self, key: Key) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        let Some(result) = transaction.answer() else { return };
        let how = match &transaction.outcome {
            Some(Outcome::Committed(_)) => Ended::Committed,
            Some(Outcome::Aborted { cause, .. }) => Ended::Aborted(*cause),
            Some(Outcome::Refused(_)) | None => Ended::Refused,
        };
        let callers = std::mem::take(&mut transaction.callers);
        if callers.is_empty() {
            return;
        }
        for request in callers {
            self.reply(request, result.clone());
        }
        self.no_callers_left(key, how);
    }

    /// One caller's time is up before the outcome is known.
    pub(crate) fn time_is_up(&mut self, key: Key, request: RequestId) {
        let reason = "its deadline passed before the home group's record was known".into();
        self.reply(request, Err(Refusal::Unknown { reason }));
        self.caller_left(key, request, Ended::Unknown);
    }

    fn take_commit_for_failed(&mut self, key: Key) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        let Some(receipt) = transaction.receipts.values().next().cloned() else {
            return;
        };
        if transaction.stage == Stage::Deciding {
            let cause = AbortCause::OutOfTime;
            transaction.outcome = Some(Outcome::Aborted { cause, receipt });
            let of = Some(transaction.fingerprint());
            let others = transaction.participants().collect();
            self.answer(key);
            self.tell(key, Verdict::Abort { of, cause }, others);
        }
    }

    /// A caller went away. Without any, what no commit was asked for is aborted; the rest is followed for a while.
    pub(crate) fn caller_left(&mut self, key: Key, request: RequestId, how: Ended) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        transaction.callers.remove(&request);
        if !transaction.callers.is_empty() {
            return;
        }
        self.no_callers_left(key, how);
        let Some(transaction) = self.transactions.get(&key) else {
            return;
        };
        match transaction.stage {
            // Its one question may commit it. There is nothing to let go of, and nobody to tell.
            Stage::Preparing if transaction.is_of_one_group() => {
                self.remove(key);
            }
            Stage::Preparing => self.abort(key, AbortCause::Client, None),
            _ => {}
        }
    }

    fn no_callers_left(&mut self, key: Key, how: Ended) {
        let leave = self.now + self.options.linger;
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        if transaction.leave.is_none() {
            transaction.leave = Some(leave);
            self.timers.set(leave, Timer::Leave(key));
        }
        if std::mem::replace(&mut transaction.ended, true) {
            return;
        }
        let ended = Observation::Ended {
            id: key.0,
            how,
            participants: transaction.plan.parts.len(),
            rounds: transaction.rounds,
            took: self.now.since(transaction.began),
        };
        self.effects.push(Effect::Observed(ended));
    }
}
