//! After the decision: participants are told, then the home group may forget. Batched by group: a few questions at a time, and what comes
//! up meanwhile goes with the next. Until it is told a participant holds the locks, so the first do not wait for each other.

use crate::contract::{AskId, Observation, Phase};
use crate::core::{Question, StepResult, TwoPhase};
use crate::timers::{Timer, Wait};
use crate::transaction::{Key, Stage};
use fulcrum_types::{
    Mono, Participant, Receipt, Refusal, Resolution, TransactionAnswer, TransactionId, TransactionOperation, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};

/// Decisions in one question.
const BATCH: usize = 512;
/// Questions with decisions to a group at a time.
const TELLING_AT_ONCE: usize = 8;

/// What is on its way to a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    /// Decisions to tell.
    pub(crate) decisions: BTreeMap<Key, Verdict>,
    /// Questions that tell it some.
    pub(crate) telling: BTreeSet<AskId>,
    /// Told in vain: nothing is told before.
    pub(crate) tell_after: Option<Mono>,
    /// What it may forget, and until when it is told so.
    pub(crate) forgets: BTreeMap<TransactionId, Mono>,
    pub(crate) forgetting: Option<AskId>,
}

impl Group {
    fn is_idle(&self) -> bool {
        let silent = self.telling.is_empty() && self.tell_after.is_none() && self.forgetting.is_none();
        silent && self.decisions.is_empty() && self.forgets.is_empty()
    }
}

impl TwoPhase {
    /// Tells participants the decision.
    pub(crate) fn tell(&mut self, key: Key, verdict: Verdict, others: BTreeSet<Participant>) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        transaction.verdict = Some(verdict);
        transaction.untold.clone_from(&others);
        for other in others {
            self.groups.entry(other).or_default().decisions.insert(key, verdict);
            self.tell_group(other);
        }
    }

    fn tell_group(&mut self, to: Participant) {
        while let Some(batch) = self.next_to_tell(to) {
            let resolution = |((id, _), verdict): &(Key, Verdict)| Resolution {
                id: *id,
                verdict: *verdict,
            };
            let operation = TransactionOperation::Resolve(batch.iter().map(resolution).collect());
            let ask = self.ask(to, operation, self.patience(), Question::Tell(to, batch));
            if let Some(group) = self.groups.get_mut(&to) {
                group.telling.insert(ask);
            }
        }
    }

    fn next_to_tell(&mut self, to: Participant) -> Option<Vec<(Key, Verdict)>> {
        let group = self.groups.get_mut(&to)?;
        let may = group.tell_after.is_none() && group.telling.len() < TELLING_AT_ONCE;
        if !may || group.decisions.is_empty() {
            return None;
        }
        // One id a question: of two transactions under it the second goes with the next.
        let mut batch: Vec<(Key, Verdict)> = Vec::new();
        while let Some(entry) = group.decisions.first_entry() {
            let same_id = batch.last().is_some_and(|((id, _), _)| *id == entry.key().0);
            if batch.len() == BATCH || same_id {
                break;
            }
            batch.push(entry.remove_entry());
        }
        Some(batch)
    }

    pub(crate) fn tell_again(&mut self, to: Participant) {
        if let Some(group) = self.groups.get_mut(&to) {
            group.tell_after = None;
        }
        self.tell_group(to);
        self.drop_idle(to);
    }

    pub(crate) fn told(&mut self, to: Participant, ask: AskId, batch: &[(Key, Verdict)], result: StepResult) {
        if let Some(group) = self.groups.get_mut(&to) {
            group.telling.remove(&ask);
        }
        match result {
            Ok((TransactionAnswer::Resolved(found), receipt)) if found.len() == batch.len() => {
                for (key, verdict) in batch {
                    self.confirmed(to, *key, *verdict, &receipt);
                }
                self.tell_group(to);
            }
            _ => self.told_in_vain(to, batch),
        }
        self.drop_idle(to);
    }

    fn told_in_vain(&mut self, to: Participant, batch: &[(Key, Verdict)]) {
        let again = self.now + self.options.pause;
        let wanted = |(key, verdict): &&(Key, Verdict)| {
            let transaction = self.transactions.get(key);
            transaction.is_some_and(|known| known.verdict == Some(*verdict) && known.untold.contains(&to))
        };
        let wanted: Vec<_> = batch.iter().filter(wanted).copied().collect();
        let Some(group) = self.groups.get_mut(&to) else { return };
        group.decisions.extend(wanted);
        if group.tell_after.is_none() {
            group.tell_after = Some(again);
            self.timers.set(again, Timer::Tell(to));
        }
    }

    fn confirmed(&mut self, by: Participant, key: Key, verdict: Verdict, receipt: &Receipt) {
        let Some(transaction) = self.transactions.get_mut(&key) else {
            return;
        };
        if transaction.verdict != Some(verdict) || !transaction.untold.remove(&by) {
            return;
        }
        // Its entry is behind that of the prepare, so a client that waits for proof of this part has it now.
        transaction.receipts.entry(by).or_insert_with(|| receipt.clone());
        self.answer(key);
        self.end_if_done(key);
    }

    /// A transaction is over when the home group has decided and all others have heard of it.
    pub(crate) fn end_if_done(&mut self, key: Key) {
        let Some(transaction) = self.transactions.get(&key) else {
            return;
        };
        if transaction.stage != Stage::Resolving || !transaction.untold.is_empty() {
            return;
        }
        let (home, forget) = (transaction.plan.home, transaction.forget);
        if transaction.plan.parts.len() > 1 {
            let took = self.now.since(transaction.since);
            let phase = Phase::Resolve;
            self.observe(Observation::Passed { phase, took });
        }
        self.remove(key);
        if forget {
            self.may_forget(home, key.0);
        }
    }

    /// Nothing is left of it here.
    pub(crate) fn remove(&mut self, key: Key) {
        self.drop_votes(key);
        let Some(transaction) = self.transactions.remove(&key) else {
            return;
        };
        match transaction.home {
            Wait::Nothing => {}
            Wait::Answer(ask) => {
                self.questions.remove(&ask);
            }
            Wait::Until(at) => self.timers.clear(at, Timer::Home(key)),
        }
        if let Some(at) = transaction.leave {
            self.timers.clear(at, Timer::Leave(key));
        }
        for other in &transaction.untold {
            if let Some(group) = self.groups.get_mut(other) {
                group.decisions.remove(&key);
            }
        }
        for request in transaction.callers {
            let reason = "the coordinator follows it no longer".into();
            self.reply(request, Err(Refusal::Unknown { reason }));
        }
    }

    /// It was followed for long enough: its groups finish it.
    pub(crate) fn leave(&mut self, key: Key) {
        let Some(transaction) = self.transactions.get(&key) else {
            return;
        };
        let unresolved = match transaction.stage {
            Stage::Resolving => transaction.untold.len(),
            _ => transaction.plan.parts.len(),
        };
        self.observe(Observation::LeftBehind { id: key.0, unresolved });
        self.remove(key);
    }

    /// All participants have resolved a commit.
    pub(crate) fn may_forget(&mut self, home: Participant, id: TransactionId) {
        let until = self.now + self.options.linger;
        let (batch, most) = (self.options.forget_batch, self.options.open_max);
        let group = self.groups.entry(home).or_default();
        if group.forgets.len() < most {
            group.forgets.insert(id, until);
        }
        if group.forgets.len() >= batch {
            self.forget(home);
        }
    }

    pub(crate) fn forget_all(&mut self) {
        let waiting = self.groups.iter().filter(|(_, group)| !group.forgets.is_empty());
        let homes: Vec<_> = waiting.map(|(home, _)| *home).collect();
        for home in homes {
            self.forget(home);
        }
    }

    fn forget(&mut self, home: Participant) {
        let Some(group) = self.groups.get_mut(&home) else {
            return;
        };
        if group.forgetting.is_some() {
            return;
        }
        let mut batch = Vec::new();
        while let Some(one) = group.forgets.pop_first() {
            batch.push(one);
            if batch.len() == BATCH {
                break;
            }
        }
        let operation = TransactionOperation::Forget(batch.iter().map(|(id, _)| *id).collect());
        let ask = self.ask(home, operation, self.patience(), Question::Forget(home, batch));
        if let Some(group) = self.groups.get_mut(&home) {
            group.forgetting = Some(ask);
        }
    }

    /// Not told: again with the next tick, for a while. Then the home group finds out by asking the participants.
    pub(crate) fn forgotten(&mut self, home: Participant, batch: Vec<(TransactionId, Mono)>, result: &StepResult) {
        let now = self.now;
        let Some(group) = self.groups.get_mut(&home) else {
            return;
        };
        group.forgetting = None;
        if !matches!(result, Ok((TransactionAnswer::Done, _))) {
            group
                .forgets
                .extend(batch.into_iter().filter(|(_, until)| *until > now));
        }
        self.drop_idle(home);
    }

    fn drop_idle(&mut self, group: Participant) {
        if self.groups.get(&group).is_some_and(Group::is_idle) {
            self.groups.remove(&group);
        }
    }
}
