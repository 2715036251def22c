//! What participants do when they are told the decision. Each is marked, so that a late prepare is refused (rule 15).

use super::record::{Committed, Record};
use super::table::TransactionEvent;
use super::{Age, Moment};
use crate::node::Bug;
use crate::state_machine::{ApplyOutcome, StateMachine};
use crate::storage::{StorageError, Store};
use fulcrum_types::{AbortCause, Resolution, Resolved, TransactionAnswer, TransactionId, Verdict};

impl StateMachine {
    pub(in crate::state_machine) fn resolve(
        &mut self,
        store: &mut Store,
        moment: Moment,
        resolutions: &[Resolution],
    ) -> Result<ApplyOutcome, StorageError> {
        let mut found = Vec::with_capacity(resolutions.len());
        for resolution in resolutions {
            found.push(self.resolve_one(store, moment, *resolution)?);
        }
        Ok(ApplyOutcome::Transaction(TransactionAnswer::Resolved(found)))
    }

    fn resolve_one(
        &mut self,
        store: &mut Store,
        moment: Moment,
        resolution: Resolution,
    ) -> Result<Resolved, StorageError> {
        let Resolution { id, verdict } = resolution;
        let known = self.transaction(store, id)?;
        match (known, verdict) {
            (Some(Record::Prepared(prepared)), Verdict::Commit(fingerprint)) => {
                if prepared.fingerprint != fingerprint {
                    self.let_go(store, moment, id, AbortCause::NotPrepared { group: self.group })?;
                    return Ok(Resolved::Now);
                }
                self.release(store, moment, id, true)?;
                let resolved = Record::Resolved {
                    version: prepared.version,
                    fingerprint,
                    home: prepared.home,
                };
                self.put_transaction(store, id, resolved.encode());
                self.schedule_transaction(store, self.past_at(id), id);
                Ok(Resolved::Now)
            }
            (Some(Record::Prepared(prepared)), Verdict::Abort { of, .. })
                if of.is_some_and(|of| of != prepared.fingerprint) =>
            {
                // The other one under this id was aborted: this one may be committed.
                Ok(Resolved::Nothing)
            }
            (Some(Record::Prepared(_)), Verdict::Abort { cause, .. }) => {
                self.let_go(store, moment, id, cause)?;
                Ok(Resolved::Now)
            }
            (
                Some(Record::Resolved { fingerprint, .. } | Record::Committed(Committed { fingerprint, .. })),
                Verdict::Abort { of, .. },
            ) if of.is_none_or(|of| of == fingerprint) => {
                self.transactions.events.push(TransactionEvent::Contradicted(id));
                Ok(Resolved::Before)
            }
            (Some(Record::Resolved { .. }), Verdict::Commit(_)) if self.has(Bug::ApplyIntentsTwice) => {
                self.apply_again(store, moment, id)?;
                Ok(Resolved::Before)
            }
            (Some(_), _) => Ok(Resolved::Before),
            (None, Verdict::Commit(_)) => Ok(Resolved::Nothing),
            (None, Verdict::Abort { cause, .. }) => {
                self.mark(store, moment, id, cause);
                Ok(Resolved::Nothing)
            }
        }
    }

    /// Drops a promise: it can never be kept.
    fn let_go(
        &mut self,
        store: &mut Store,
        moment: Moment,
        id: TransactionId,
        cause: AbortCause,
    ) -> Result<(), StorageError> {
        self.release(store, moment, id, false)?;
        self.drop_transaction(store, id);
        self.mark(store, moment, id, cause);
        Ok(())
    }

    /// Marks an attempt as one that can never commit. Past the horizon its age says so.
    pub(super) fn mark(&mut self, store: &mut Store, moment: Moment, id: TransactionId, cause: AbortCause) {
        if self.age(id, moment.time) == Age::Past {
            return;
        }
        self.put_transaction(store, id, Record::Refused(cause).encode());
        self.schedule_transaction(store, self.past_at(id), id);
    }

    /// Lets the locks and intents of a transaction go, if it holds any; with a commit the intents become values.
    pub(super) fn release(
        &mut self,
        store: &mut Store,
        moment: Moment,
        id: TransactionId,
        committed: bool,
    ) -> Result<(), StorageError> {
        let Some(prepared) = self.transactions.prepared.get(&id).cloned() else {
            return Ok(());
        };
        self.settle_intents(store, moment, id, &prepared, committed)?;
        self.transactions.release(id);
        self.transactions
            .events
            .push(TransactionEvent::Released { id, committed });
        Ok(())
    }
}
