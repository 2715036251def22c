//! The participant's and the home group's side of transactions, as replicated state (DESIGN section 7, rules 10 to 16).
//!
//! **The promise.** What a group says of a transaction it has decided when it applied a command: every replica says the same,
//! after any failover, restart or snapshot. No transaction is both committed and aborted; none that was prepared is let go of
//! but by its decision; every command may come again, at any time, and is answered by what is known.
//!
//! **The protocol.** One record an id ([`record`]) leads from command to command; `docs/transactions.md` has the table. A
//! prepare takes all locks of its part or none ([`locks`]), and stores its writes as intents ([`intents`]): they become
//! values, with the prepare's index as version, when the commit is known. A command that meets a lock is *blocked*, or dies
//! if a holder is older; of "blocked" nothing is remembered (rule 16). Records go by one test of age ([`sweep`]), the same
//! that refuses what could come after them.
//!
//! Records and intents are in the store, under kinds of their own, and so in snapshots and checksums. Memory has what
//! every command needs ([`table`]): who is prepared, who holds which key, what is not resolved everywhere.
//!
//! **Left out.** Waiting, asking the home group, patience: that is the primary's (`node`), and nothing of it is replicated.

pub(super) mod codec;
mod decide;
mod intents;
mod locks;
pub(super) mod pinned;
mod planted;
pub(super) mod prepare;
mod record;
mod resolve;
mod sweep;
mod table;

pub use intents::Intent;
pub use record::{Committed, Prepared};
pub use table::TransactionEvent;

pub(super) use table::Table;

use super::{ApplyOutcome, StateMachine, damaged};
use crate::storage::{Generation, Reader, Space, StateKind, StorageError, Store, state_key};
use bytes::Bytes;
use fulcrum_types::{
    Decision, Epoch, GroupId, Index, ReplicatedTime, TransactionAnswer, TransactionId, TransactionState, Verdict, Vote,
};
use record::Record;
use std::sync::Arc;

/// The entry that is being applied.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) epoch: Epoch,
    pub(super) index: Index,
    pub(super) time: ReplicatedTime,
}

/// The one test of age, against the group's own replicated time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    /// It began longer ago than a transaction may last.
    Past,
    Now,
    /// It begins further ahead than a transaction may last.
    Future,
}

fn key(group: GroupId, generation: Generation, id: TransactionId) -> Bytes {
    state_key(group, generation, StateKind::Transaction, &codec::id_key(id))
}

/// The record of a transaction, in the present state or in a pinned one.
fn find(
    state: &impl Reader,
    group: GroupId,
    generation: Generation,
    id: TransactionId,
) -> Result<Option<Record>, StorageError> {
    let found = state.get(Space::State, &key(group, generation, id))?;
    found
        .map(Record::decode)
        .transpose()
        .map_err(|e| damaged("transaction", e))
}

impl StateMachine {
    fn age(&self, id: TransactionId, now: ReplicatedTime) -> Age {
        let horizon = self.limits.horizon_ms();
        if now.0 > id.begun_at_ms.saturating_add(horizon) {
            Age::Past
        } else if id.begun_at_ms > now.0.saturating_add(horizon) {
            Age::Future
        } else {
            Age::Now
        }
    }

    /// The first moment at which an id is past.
    fn past_at(&self, id: TransactionId) -> u64 {
        id.begun_at_ms
            .saturating_add(self.limits.horizon_ms())
            .saturating_add(1)
    }

    fn transaction_key(&self, id: TransactionId) -> Bytes {
        key(self.group, self.generation, id)
    }

    fn transaction(&self, reader: &impl Reader, id: TransactionId) -> Result<Option<Record>, StorageError> {
        find(reader, self.group, self.generation, id)
    }

    fn put_transaction(&self, store: &mut Store, id: TransactionId, record: Bytes) {
        store.put(Space::State, self.transaction_key(id), record);
    }

    fn drop_transaction(&self, store: &mut Store, id: TransactionId) {
        store.delete(Space::State, self.transaction_key(id));
    }

    /// What is known of a transaction here, as of the applied position. None if it was resolved here: its home group knows.
    pub fn state_of(&self, store: &Store, id: TransactionId) -> Result<Option<TransactionState>, StorageError> {
        Ok(Some(match self.transaction(store, id)? {
            Some(Record::Committed(committed)) => TransactionState::Decided(committed.decision()),
            Some(Record::Aborted(cause) | Record::Refused(cause)) => {
                TransactionState::Decided(Decision::Aborted(cause))
            }
            Some(Record::Prepared(prepared)) => TransactionState::Promised { home: prepared.home },
            Some(Record::Resolved { .. }) => return Ok(None),
            None if self.age(id, self.time()) == Age::Past => TransactionState::TooOld,
            None => TransactionState::NotSeen,
        }))
    }

    /// How a transaction ended here, by the record that is kept of it: in this home group, or in this participant.
    pub fn verdict_on(&self, store: &Store, id: TransactionId) -> Result<Option<Verdict>, StorageError> {
        Ok(match self.transaction(store, id)? {
            Some(Record::Committed(Committed { fingerprint, .. }) | Record::Resolved { fingerprint, .. }) => {
                Some(Verdict::Commit(fingerprint))
            }
            Some(Record::Aborted(cause) | Record::Refused(cause)) => Some(Verdict::Abort { of: None, cause }),
            Some(Record::Prepared(_)) | None => None,
        })
    }

    /// Whether a transaction that began then is out of time, as of `now`. The time of the last entry does for what is past; it
    /// stands still while nothing is written, so that what is in the future of it need not be in anybody's.
    #[must_use]
    pub fn out_of_time(&self, begun_at_ms: u64, now: ReplicatedTime) -> Option<super::ApplyRefusal> {
        let id = TransactionId {
            begun_at_ms,
            ..TransactionId::default()
        };
        match self.age(id, now) {
            Age::Past => Some(super::ApplyRefusal::TooOldToTell),
            Age::Future => Some(super::ApplyRefusal::TransactionOfTheFuture),
            Age::Now => None,
        }
    }

    /// Transactions that are prepared here, oldest first.
    pub fn prepared(&self) -> impl Iterator<Item = (TransactionId, &Arc<Prepared>)> {
        self.transactions.prepared.iter().map(|(id, prepared)| (*id, prepared))
    }

    /// What was promised to a transaction, if it is prepared here.
    #[must_use]
    pub fn promise_to(&self, id: TransactionId) -> Option<&Arc<Prepared>> {
        self.transactions.prepared.get(&id)
    }

    /// Commits recorded here that not every participant is known to have resolved, oldest first.
    pub fn unresolved(&self) -> impl Iterator<Item = (TransactionId, &Committed)> {
        self.transactions
            .unresolved
            .iter()
            .map(|(id, committed)| (*id, committed))
    }

    /// One of them.
    #[must_use]
    pub fn unresolved_one(&self, id: TransactionId) -> Option<&Committed> {
        self.transactions.unresolved.get(&id)
    }

    /// Keys that are locked.
    #[must_use]
    pub fn locked_keys(&self) -> usize {
        self.transactions.locks.len()
    }

    /// Takes out what the entries applied since the last time did to transactions, in order.
    pub fn take_events(&mut self) -> Vec<TransactionEvent> {
        std::mem::take(&mut self.transactions.events)
    }

    /// Whether there is anything to take out.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.transactions.events.is_empty()
    }
}

fn vote(vote: Vote) -> ApplyOutcome {
    ApplyOutcome::Transaction(TransactionAnswer::Vote(vote))
}

fn decided(decision: Decision) -> ApplyOutcome {
    vote(Vote::Decided(decision))
}
