//! Decisions: at the home group the first record wins (rule 14). A commit is recorded by its prepare, which comes last; who cannot
//! wait for that has an abort recorded. Elsewhere none is: a promise given there rests on what the home decides.

use super::record::{Committed, Record};
use super::table::TransactionEvent;
use super::{Age, Moment};
use crate::node::Bug;
use crate::state_machine::{ApplyOutcome, ApplyRefusal, StateMachine};
use crate::storage::{StorageError, Store};
use fulcrum_types::{AbortCause, Decide, Decision, Fingerprint, Participant, TransactionAnswer, TransactionId};

impl StateMachine {
    pub(in crate::state_machine) fn decide(
        &mut self,
        store: &mut Store,
        moment: Moment,
        asked: &Decide,
    ) -> Result<ApplyOutcome, StorageError> {
        let id = asked.id;
        let known = self.transaction(store, id)?;
        if let Some((home, held)) = known.as_ref().and_then(home_elsewhere) {
            return Ok(match asked.fingerprint {
                // That one is never prepared here: the id has another owner.
                Some(of) if of != held => recorded(Decision::Aborted(AbortCause::NotPrepared { group: self.group })),
                _ => ApplyOutcome::Refused(ApplyRefusal::NotTheHome { id, home }),
            });
        }
        match &known {
            Some(Record::Committed(committed)) => return Ok(recorded(committed.decision())),
            Some(Record::Aborted(cause) | Record::Refused(cause)) => return Ok(recorded(Decision::Aborted(*cause))),
            Some(Record::Prepared(_) | Record::Resolved { .. }) | None => {}
        }
        let cause = match self.age(id, moment.time) {
            // It may have been committed, and forgotten since: no other cause would be true.
            Age::Past => AbortCause::TooOld,
            Age::Now | Age::Future => asked.cause,
        };
        self.record_abort(store, moment, id, cause);
        Ok(recorded(Decision::Aborted(cause)))
    }

    /// Every participant has resolved these.
    pub(in crate::state_machine) fn forget(
        &mut self,
        store: &mut Store,
        ids: &[TransactionId],
    ) -> Result<ApplyOutcome, StorageError> {
        for id in ids {
            let Some(mut committed) = self.transactions.unresolved.remove(id) else {
                continue;
            };
            committed.unresolved = false;
            self.put_transaction(store, *id, Record::Committed(committed.clone()).encode());
            self.keep_decided(store, *id, &committed);
            self.transactions.events.push(TransactionEvent::Forgotten(*id));
        }
        Ok(ApplyOutcome::Transaction(TransactionAnswer::Done))
    }

    /// Records a commit.
    pub(super) fn record_commit(&mut self, store: &mut Store, id: TransactionId, committed: Committed) {
        self.put_transaction(store, id, Record::Committed(committed.clone()).encode());
        self.transactions.events.push(TransactionEvent::Committed(id));
        if committed.unresolved && self.has(Bug::DropUnresolvedCommits) {
            return self.drop_transaction(store, id);
        }
        if committed.unresolved {
            self.transactions.unresolved.insert(id, committed);
            self.transactions.events.push(TransactionEvent::Unresolved(id));
        } else {
            self.keep_decided(store, id, &committed);
        }
    }

    /// Records an abort: a tombstone, for an id never heard of, too. Past the horizon no commit can follow, and none is needed.
    pub(super) fn record_abort(&mut self, store: &mut Store, moment: Moment, id: TransactionId, cause: AbortCause) {
        self.transactions.events.push(TransactionEvent::Aborted(id, cause));
        if self.age(id, moment.time) == Age::Past {
            self.drop_transaction(store, id);
            return;
        }
        self.put_transaction(store, id, Record::Aborted(cause).encode());
        self.schedule_transaction(store, self.past_at(id), id);
    }
}

/// Where it is decided, if the group holds it as a participant of another home, and which transaction that is.
fn home_elsewhere(record: &Record) -> Option<(Participant, Fingerprint)> {
    match record {
        Record::Prepared(prepared) => Some((prepared.home, prepared.fingerprint)),
        Record::Resolved { home, fingerprint, .. } => Some((*home, *fingerprint)),
        Record::Refused(_) | Record::Committed(_) | Record::Aborted(_) => None,
    }
}

fn recorded(decision: Decision) -> ApplyOutcome {
    ApplyOutcome::Transaction(TransactionAnswer::Decision(decision))
}
