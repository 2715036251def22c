//! When records go: by the group's own replicated time, a bounded number with each entry of the log.

use super::codec::{ID_BYTES, id_from_key, id_key};
use super::record::{Committed, Record};
use super::{Age, Moment};
use crate::state_machine::due::{Due, due};
use crate::state_machine::{StateMachine, damaged};
use crate::storage::{Decoder, Space, StateKind, StorageError, Store, state_key};
use bytes::Bytes;
use fulcrum_types::{ReplicatedTime, TransactionId};

impl StateMachine {
    /// Enters a record to be looked at once the time is `at_ms`.
    pub(super) fn schedule_transaction(&mut self, store: &mut Store, at_ms: u64, id: TransactionId) {
        store.put(Space::State, self.due_key(at_ms, id), Bytes::new());
        let next = &mut self.transactions.next_due_ms;
        *next = (*next).min(at_ms);
    }

    fn due_key(&self, at_ms: u64, id: TransactionId) -> Bytes {
        let mut own = [0; 8 + ID_BYTES];
        own[..8].copy_from_slice(&at_ms.to_be_bytes());
        own[8..].copy_from_slice(&id_key(id));
        state_key(self.group, self.generation, StateKind::TransactionDue, &own)
    }

    /// Keeps a commit that every participant has resolved for those who ask for its outcome.
    pub(super) fn keep_decided(&mut self, store: &mut Store, id: TransactionId, committed: &Committed) {
        self.transactions.decided.insert((committed.at_ms, id));
        self.schedule_transaction(store, self.outlived_at(id, committed.at_ms), id);
    }

    /// When a resolved commit goes, if there is room for it as long.
    fn outlived_at(&self, id: TransactionId, decided_at_ms: u64) -> u64 {
        let retained = decided_at_ms
            .saturating_add(self.limits.retention_ms())
            .saturating_add(1);
        self.past_at(id).max(retained)
    }

    /// Removes up to `most` records whose time has come.
    pub(in crate::state_machine) fn sweep_transactions(
        &mut self,
        store: &mut Store,
        moment: Moment,
        most: usize,
    ) -> Result<(), StorageError> {
        if self.transactions.next_due_ms <= moment.time.0 {
            self.sweep_due_transactions(store, moment.time, most)?;
        }
        self.drop_surplus(store, moment.time, most);
        Ok(())
    }

    fn sweep_due_transactions(
        &mut self,
        store: &mut Store,
        now: ReplicatedTime,
        most: usize,
    ) -> Result<(), StorageError> {
        let from_ms = self.transactions.next_due_ms;
        let Due { entries, next_ms } = due(store, self.place(), StateKind::TransactionDue, from_ms, now, most)?;
        self.transactions.next_due_ms = next_ms;
        for entry in entries {
            let id = id_from_key(&mut Decoder::new(entry.own)).map_err(|e| damaged("transaction due", e))?;
            store.delete(Space::State, entry.index_key);
            self.outlive(store, id)?;
        }
        Ok(())
    }

    /// Removes a record whose time has come.
    fn outlive(&mut self, store: &mut Store, id: TransactionId) -> Result<(), StorageError> {
        match self.transaction(store, id)? {
            Some(Record::Refused(_) | Record::Resolved { .. } | Record::Aborted(_)) => self.drop_transaction(store, id),
            Some(Record::Committed(committed)) if !committed.unresolved => {
                self.transactions.decided.remove(&(committed.at_ms, id));
                self.drop_transaction(store, id);
            }
            Some(Record::Prepared(_) | Record::Committed(_)) | None => {}
        }
        Ok(())
    }

    /// Too many commits are kept for those who ask: the oldest go, but none before the horizon.
    fn drop_surplus(&mut self, store: &mut Store, now: ReplicatedTime, most: usize) {
        for _ in 0..most {
            if self.transactions.decided.len() <= self.limits.decided {
                return;
            }
            let Some(&(at_ms, id)) = self.transactions.decided.first() else {
                return;
            };
            if self.age(id, now) != Age::Past {
                return;
            }
            self.transactions.decided.pop_first();
            store.delete(Space::State, self.due_key(self.outlived_at(id, at_ms), id));
            self.drop_transaction(store, id);
        }
    }
}
