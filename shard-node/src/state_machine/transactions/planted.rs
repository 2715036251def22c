//! Bugs that are planted here, for the proof that verification finds them. Without the feature there is none.

use super::{Moment, StateMachine};
use crate::node::Bug;
#[cfg(feature = "planted-bugs")]
use crate::node::Bugs;
use crate::state_machine::value::Record;
use crate::storage::{StorageError, Store};
use bytes::Bytes;
use fulcrum_types::TransactionId;

/// What a bug needs to do its harm.
#[cfg(feature = "planted-bugs")]
#[derive(Default)]
pub(super) struct Planted {
    applied: std::collections::BTreeMap<TransactionId, Vec<(Bytes, Record)>>,
}

#[cfg(not(feature = "planted-bugs"))]
impl StateMachine {
    pub(in crate::state_machine) const fn has(&self, _bug: Bug) -> bool {
        false
    }

    pub(super) const fn keep_applied(&mut self, _id: TransactionId, _key: &Bytes, _record: &Record) {}

    pub(super) const fn apply_again(
        &mut self,
        _store: &mut Store,
        _moment: Moment,
        _id: TransactionId,
    ) -> Result<(), StorageError> {
        Ok(())
    }
}

#[cfg(feature = "planted-bugs")]
impl StateMachine {
    pub(crate) fn plant(&mut self, bugs: Bugs) {
        self.bugs = bugs;
    }

    pub(in crate::state_machine) fn has(&self, bug: Bug) -> bool {
        self.bugs.has(bug)
    }

    /// This replica becomes primary.
    pub(crate) fn take_over(&mut self) {
        if self.has(Bug::ForgetLocksOnFailover) {
            self.transactions.locks = Default::default();
        }
    }

    pub(super) fn keep_applied(&mut self, id: TransactionId, key: &Bytes, record: &Record) {
        if self.has(Bug::ApplyIntentsTwice) {
            let applied = self.transactions.planted.applied.entry(id).or_default();
            applied.push((key.clone(), record.clone()));
        }
    }

    pub(super) fn apply_again(
        &mut self,
        store: &mut Store,
        moment: Moment,
        id: TransactionId,
    ) -> Result<(), StorageError> {
        let applied = self.transactions.planted.applied.remove(&id).unwrap_or_default();
        for (key, record) in applied {
            self.become_value(store, &key, record, moment.time)?;
        }
        Ok(())
    }
}
