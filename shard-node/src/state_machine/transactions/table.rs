//! What memory holds of a group's transactions: made again from the records when a state is opened.

use super::codec::id_from_key;
use super::locks::{Locks, Mode};
use super::record::{Committed, Prepared, Record};
use crate::state_machine::damaged;
use crate::state_machine::due::first_due;
use crate::state_machine::retry::Place;
use crate::storage::{Decoder, Reader, Space, StateKind, StorageError, state_range};
use fulcrum_types::{AbortCause, TransactionId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What applying an entry did to a transaction, for whoever waits or counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEvent {
    /// It holds locks here from now on.
    Prepared(TransactionId),
    /// It was refused and marked.
    Refused(TransactionId, AbortCause),
    /// Its locks are gone.
    Released {
        /// Which.
        id: TransactionId,
        /// Its writes took effect.
        committed: bool,
    },
    /// Committed, and recorded here; other groups have a part in it.
    Unresolved(TransactionId),
    /// A commit was recorded here.
    Committed(TransactionId),
    /// An abort was recorded here.
    Aborted(TransactionId, AbortCause),
    /// Every participant has resolved it.
    Forgotten(TransactionId),
    /// An abort was told of what is committed here: that cannot be.
    Contradicted(TransactionId),
}

#[derive(Default)]
pub(in crate::state_machine) struct Table {
    pub(super) prepared: BTreeMap<TransactionId, Arc<Prepared>>,
    pub(super) unresolved: BTreeMap<TransactionId, Committed>,
    /// Commits that every participant has resolved, by the time of the decision: who goes first.
    pub(super) decided: BTreeSet<(u64, TransactionId)>,
    pub(in crate::state_machine) locks: Locks,
    /// No record is due before.
    pub(super) next_due_ms: u64,
    pub(super) events: Vec<TransactionEvent>,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: super::planted::Planted,
}

impl Table {
    pub(in crate::state_machine) fn load(reader: &impl Reader, place: Place) -> Result<Self, StorageError> {
        let mut table = Table {
            next_due_ms: first_due(reader, place, StateKind::TransactionDue)?,
            ..Table::default()
        };
        let (start, end) = state_range(place.group, place.generation, StateKind::Transaction);
        for record in reader.range(Space::State, &start, &end) {
            let (key, value) = record?;
            let wrong = |e| damaged("transaction", e);
            let id = id_from_key(&mut Decoder::new(key.slice(start.len()..))).map_err(wrong)?;
            match Record::decode(value).map_err(wrong)? {
                Record::Prepared(prepared) => table.hold(id, Arc::new(prepared)),
                Record::Committed(committed) if committed.unresolved => {
                    table.unresolved.insert(id, committed);
                }
                Record::Committed(committed) => {
                    table.decided.insert((committed.at_ms, id));
                }
                Record::Refused(_) | Record::Resolved { .. } | Record::Aborted(_) => {}
            }
        }
        Ok(table)
    }

    /// Takes all locks of a prepared transaction.
    pub(super) fn hold(&mut self, id: TransactionId, prepared: Arc<Prepared>) {
        for key in &prepared.exclusive {
            self.locks.take(key, Mode::Exclusive, id);
        }
        for key in &prepared.shared {
            self.locks.take(key, Mode::Shared, id);
        }
        self.prepared.insert(id, prepared);
    }

    /// Lets its shared locks go.
    pub(super) fn release_shared(&mut self, id: TransactionId) {
        for key in self.prepared.get(&id).iter().flat_map(|prepared| &prepared.shared) {
            self.locks.release(key, id);
        }
    }

    /// Lets all its locks go.
    pub(super) fn release(&mut self, id: TransactionId) {
        let Some(prepared) = self.prepared.remove(&id) else {
            return;
        };
        for key in prepared.exclusive.iter().chain(&prepared.shared) {
            self.locks.release(key, id);
        }
    }
}
