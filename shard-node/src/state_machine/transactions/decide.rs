//! Decisions: at the home group the first record wins (rule 14).

use super::record::{Committed, Record};
use super::table::TransactionEvent;
use super::{Age, Moment};
use crate::node::Bug;
use crate::state_machine::{ApplyOutcome, ApplyRefusal, StateMachine};
use crate::storage::{StorageError, Store};
use fulcrum_types::{AbortCause, Decide, Decision, TransactionAnswer, TransactionId};

impl StateMachine {
    pub(in crate::state_machine) fn decide(
        &mut self,
        store: &mut Store,
        moment: Moment,
        asked: &Decide,
    ) -> Result<ApplyOutcome, StorageError> {
        let id = asked.id;
        let known = self.transaction(store, id)?;
        match &known {
            Some(Record::Aborted(_) | Record::Refused(_))
                if self.has(Bug::CommitAfterTheAbort) && matches!(asked.decision, Decision::Committed { .. }) =>
            {
                let Decision::Committed { fingerprint, parts } = asked.decision.clone() else {
                    return Ok(recorded(asked.decision.clone()));
                };
                let (at_ms, unresolved) = (moment.time.0, true);
                let committed = Committed {
                    fingerprint,
                    parts,
                    at_ms,
                    unresolved,
                };
                self.record_commit(store, id, committed);
                return Ok(recorded(asked.decision.clone()));
            }
            Some(Record::Committed(committed)) => return Ok(recorded(committed.decision())),
            Some(Record::Aborted(cause) | Record::Refused(cause)) => return Ok(recorded(Decision::Aborted(*cause))),
            // A promise given here rests on what another group decides: to let go of it would part them.
            Some(Record::Prepared(prepared)) if prepared.home.group != self.group => {
                let home = prepared.home;
                return Ok(ApplyOutcome::Refused(ApplyRefusal::NotTheHome { id, home }));
            }
            Some(Record::Prepared(_) | Record::Resolved { .. }) | None => {}
        }
        let cause = match &asked.decision {
            Decision::Aborted(cause) => *cause,
            Decision::Committed { .. } if self.age(id, moment.time) == Age::Past => AbortCause::TooOld,
            Decision::Committed { fingerprint, parts } => match &known {
                Some(Record::Prepared(prepared)) if prepared.fingerprint == *fingerprint => {
                    let committed = Committed {
                        fingerprint: *fingerprint,
                        parts: parts.clone(),
                        at_ms: moment.time.0,
                        unresolved: parts.iter().any(|part| part.participant.group != self.group),
                    };
                    self.release(store, moment, id, true)?;
                    self.record_commit(store, id, committed);
                    return Ok(recorded(asked.decision.clone()));
                }
                _ => AbortCause::NotPrepared { group: self.group },
            },
        };
        self.release(store, moment, id, false)?;
        // Under this id another transaction was resolved here, as a mere participant: its mark does for this one, too.
        if !matches!(known, Some(Record::Resolved { .. })) {
            self.record_abort(store, moment, id, cause);
        }
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

fn recorded(decision: Decision) -> ApplyOutcome {
    ApplyOutcome::Transaction(TransactionAnswer::Decision(decision))
}
