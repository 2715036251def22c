//! Reads that met intents: what they see depends on a decision that another group has recorded, or has not (rule 12).
//!
//! **The promise.** Whoever was told of a commit finds it in every read that promises to see what was acknowledged, resolved or
//! not. No read waits for an undecided transaction: "undecided", said linearizably after the read began, puts that commit
//! behind it. A read never guesses: without an answer of the home group it is refused at its deadline, as locked.
//!
//! **The protocol.** A read is evaluated on the values, and the intents on its keys are noted with what they would make of them.
//! Its lease is checked for that moment. If any matter at its level, it is put aside and the home groups are asked, one question
//! a transaction for all reads that are put aside before it leaves: a question that was asked before a read began cannot speak
//! for it. With the last answer the committed ones take the places of the old values. A decision that this primary was told already, and
//! is on its way through the log, needs no question: it is recorded, and stays.
//!
//! A joint is not put aside: it is refused as locked at once, so that gets which met nothing do not wait with one that did.

use super::asking::Purpose;
use super::bugs::Bug;
use super::group::Group;
use super::in_doubt::verdict_of;
use super::reads::{Evaluated, Read, TransactionRead, Wanted};
use super::shared::{Failure, Shared};
use crate::event::{AskId, RequestId};
use crate::state_machine::Intent;
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::{
    AbortCause, Answer, Answered, Level, Now, Query, Refusal, TransactionAnswer, TransactionId, TransactionOperation,
    TransactionState, Verdict, Versioned,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Intents that one scan takes into account; what lies behind the last of them is left to the next.
const INTENTS_A_SCAN: usize = 1_024;
/// How long a home group has to answer before it is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Where an intent matters.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Spot {
    /// The answer to a key, by its number.
    Key(usize),
    /// A row.
    Row(Bytes),
}

/// The intents that matter to a read.
#[derive(Debug, Default)]
pub(super) struct Met(Vec<(Spot, Intent)>);

impl Met {
    /// Whose intent it met, one of them.
    pub(super) fn first(&self) -> Option<TransactionId> {
        self.0.first().map(|(_, intent)| intent.id)
    }
}

/// A read that waits for home groups.
struct PutAside {
    evaluated: Evaluated,
    open: BTreeSet<TransactionId>,
    known: BTreeMap<TransactionId, Verdict>,
}

/// The reads of a replica that wait for home groups.
#[derive(Default)]
pub(super) struct Meetings {
    aside: BTreeMap<RequestId, PutAside>,
    /// Whose reads a question is for.
    asked: BTreeMap<AskId, BTreeSet<RequestId>>,
    /// Questions that have not left yet.
    fresh: BTreeMap<TransactionId, AskId>,
    /// Not answered: to be asked again with the next tick.
    again: BTreeSet<(RequestId, TransactionId)>,
}

impl Meetings {
    /// Which transaction's decision a read waits for.
    pub(super) fn waits_for(&self, id: RequestId) -> Option<TransactionId> {
        self.aside.get(&id)?.open.first().copied()
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        self.aside.remove(&id);
    }

    pub(super) fn take_all(&mut self) -> Vec<RequestId> {
        std::mem::take(self).aside.into_keys().collect()
    }

    /// What was asked leaves now: reads that are put aside from now on need questions of their own.
    pub(super) fn questions_leave(&mut self) {
        self.fresh.clear();
    }
}

impl Group {
    /// The intents that matter to a read which has just been evaluated. A scan that met too many ends before the next.
    pub(super) fn meet(&self, shared: &Shared, read: &Read, answer: &mut Answer) -> Result<Met, Failure> {
        if !self.machine.holds_locks() || shared.bugs.has(Bug::ReadPastIntents) {
            return Ok(Met::default());
        }
        let seen = match read.tried() {
            Level::Eventual => return Ok(Met::default()),
            Level::Session => read.seen.unwrap_or_default().index.0,
            Level::Linearizable | Level::Bounded(_) => u64::MAX,
        };
        let matters = |intent: &Intent| intent.becomes.version.0 <= seen;
        let met = match (&read.wanted, answer) {
            (
                Wanted::Query(Query::Get(keys) | Query::Joint(keys))
                | Wanted::Transactional(TransactionRead::Observe { keys, .. }),
                _,
            ) => self.intents_on(shared, keys)?,
            (Wanted::Query(Query::Scan { start, end, .. }), Answer::Rows { rows, complete }) => {
                self.intents_in(shared, start, end, rows, complete)?
            }
            _ => Vec::new(),
        };
        Ok(Met(met.into_iter().filter(|(_, intent)| matters(intent)).collect()))
    }

    fn intents_on(&self, shared: &Shared, keys: &[Bytes]) -> Result<Vec<(Spot, Intent)>, Failure> {
        let mut met = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            if let Some(intent) = self.machine.intent_on(&shared.store, key)? {
                met.push((Spot::Key(number), intent));
            }
        }
        Ok(met)
    }

    fn intents_in(
        &self,
        shared: &Shared,
        start: &Bytes,
        end: &Bytes,
        rows: &mut Vec<(Bytes, Versioned)>,
        complete: &mut bool,
    ) -> Result<Vec<(Spot, Intent)>, Failure> {
        let end = match rows.last() {
            _ if *complete => end.clone(),
            Some((last, _)) => behind(last),
            None => return Ok(Vec::new()),
        };
        let found = self
            .machine
            .intents_between(&shared.store, start, &end, INTENTS_A_SCAN)?;
        if let Some((last, _)) = found.get(INTENTS_A_SCAN - 1) {
            rows.retain(|(key, _)| key <= last);
            *complete = false;
        }
        let spot = |(key, intent)| (Spot::Row(key), intent);
        Ok(found.into_iter().map(spot).collect())
    }

    /// Completes a read that met intents if their decisions are known here, else puts it aside until the home groups have answered.
    pub(super) fn settle(&mut self, shared: &mut Shared, evaluated: Evaluated) -> Option<Evaluated> {
        let (mut open, mut known) = (BTreeSet::new(), BTreeMap::new());
        for (_, intent) in &evaluated.met.0 {
            match self.known.get(&intent.id) {
                Some(verdict) => {
                    known.insert(intent.id, *verdict);
                }
                None => {
                    open.insert(intent.id);
                }
            }
        }
        if open.is_empty() {
            return self.complete(evaluated, &known);
        }
        let id = evaluated.id;
        shared.requests.insert(id, self.id, evaluated.read.deadline);
        let to_ask = open.clone();
        let aside = PutAside { evaluated, open, known };
        self.meetings.aside.insert(id, aside);
        for transaction in to_ask {
            self.ask_home(shared, id, transaction);
        }
        None
    }

    fn ask_home(&mut self, shared: &mut Shared, id: RequestId, transaction: TransactionId) {
        let Some(aside) = self.meetings.aside.get(&id) else {
            return;
        };
        let met = aside.evaluated.met.0.iter().find(|(_, met)| met.id == transaction);
        let Some(home) = met.map(|(_, met)| met.home) else {
            return;
        };
        let ask = match self.meetings.fresh.get(&transaction) {
            Some(ask) => *ask,
            None => {
                let operation = TransactionOperation::LookUp(transaction);
                let ask = self.ask_group(shared, home, operation, ANSWER_WITHIN, Purpose::Read(transaction));
                self.meetings.fresh.insert(transaction, ask);
                ask
            }
        };
        self.meetings.asked.entry(ask).or_default().insert(id);
    }

    /// Asks again what was not answered.
    pub(super) fn ask_homes_again(&mut self, shared: &mut Shared) {
        for (id, transaction) in std::mem::take(&mut self.meetings.again) {
            self.ask_home(shared, id, transaction);
        }
    }

    /// A home group has said what it knows of a transaction, or did not answer.
    pub(super) fn intent_looked_up(
        &mut self,
        shared: &mut Shared,
        now: Now,
        ask: AskId,
        transaction: TransactionId,
        result: Result<Answered, Refusal>,
    ) -> Result<(), Failure> {
        let reads = self.meetings.asked.remove(&ask).unwrap_or_default();
        let state = match result {
            // Who has only promised does not know: it is not the home that this promise names.
            Ok(Answered {
                answer: Answer::Transaction(TransactionAnswer::State(state)),
                ..
            }) if !matches!(state, TransactionState::Promised { .. }) => state,
            _ => {
                let again = reads.into_iter().map(|id| (id, transaction));
                self.meetings.again.extend(again);
                return Ok(());
            }
        };
        let verdict = match state {
            TransactionState::Decided(decision) => Some(verdict_of(&decision)),
            TransactionState::TooOld => Some(Verdict::Abort {
                of: None,
                cause: AbortCause::TooOld,
            }),
            TransactionState::Promised { .. } | TransactionState::NotSeen => None,
        };
        if let Some(verdict) = verdict {
            self.learn(transaction, verdict);
        }
        for id in reads {
            self.take_in(id, transaction, verdict);
        }
        self.drain(shared, now)
    }

    /// A read knows one decision more. With the last it can be answered.
    fn take_in(&mut self, id: RequestId, transaction: TransactionId, verdict: Option<Verdict>) {
        let Some(aside) = self.meetings.aside.get_mut(&id) else {
            return;
        };
        aside.open.remove(&transaction);
        if let Some(verdict) = verdict {
            aside.known.insert(transaction, verdict);
        }
        if !aside.open.is_empty() {
            return;
        }
        let Some(PutAside { evaluated, known, .. }) = self.meetings.aside.remove(&id) else {
            return;
        };
        if let Some(complete) = self.complete(evaluated, &known) {
            self.reads.evaluated.push(complete);
        }
    }

    /// Committed intents take the places of the old values. None if the read has to begin again.
    fn complete(&mut self, mut evaluated: Evaluated, known: &BTreeMap<TransactionId, Verdict>) -> Option<Evaluated> {
        let met = std::mem::take(&mut evaluated.met).0;
        let committed = |intent: &Intent| known.get(&intent.id) == Some(&Verdict::Commit(intent.fingerprint));
        let committed = met.into_iter().filter(|(_, intent)| committed(intent));
        match &mut evaluated.answer {
            Ok(Answer::Values(values)) => {
                for (spot, intent) in committed {
                    if let Spot::Key(number) = spot {
                        values[number] = intent.becomes.value;
                    }
                }
            }
            Ok(Answer::Transaction(TransactionAnswer::Observations(observations))) => {
                observations.met_intents = true;
                for (spot, intent) in committed {
                    if let Spot::Key(number) = spot {
                        observations.observed[number] = intent.becomes;
                    }
                }
            }
            Ok(Answer::Rows { rows, complete }) => {
                let limit = match &evaluated.read.wanted {
                    Wanted::Query(Query::Scan { limit, .. }) => *limit as usize,
                    _ => usize::MAX,
                };
                overlay(rows, complete, limit, committed);
                if rows.is_empty() && !*complete {
                    // There is nothing to go on from. What was met is being resolved by now.
                    self.ask(evaluated.id, evaluated.read);
                    return None;
                }
            }
            _ => {}
        }
        evaluated.is_checked = true;
        Some(evaluated)
    }
}

fn overlay(
    rows: &mut Vec<(Bytes, Versioned)>,
    complete: &mut bool,
    limit: usize,
    committed: impl Iterator<Item = (Spot, Intent)>,
) {
    let mut merged: BTreeMap<Bytes, Versioned> = std::mem::take(rows).into_iter().collect();
    for (spot, intent) in committed {
        let Spot::Row(key) = spot else { continue };
        match intent.becomes.value {
            Some(value) => merged.insert(key, value),
            None => merged.remove(&key),
        };
    }
    *complete &= merged.len() <= limit;
    *rows = merged.into_iter().take(limit).collect();
}

/// The first key behind a key.
fn behind(key: &Bytes) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}
