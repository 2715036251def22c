//! Who holds which key. In memory only: made again from the prepared records when a state is opened.

use bytes::Bytes;
use foldhash::fast::RandomState;
use fulcrum_types::TransactionId;
use std::collections::{BTreeSet, HashMap};

/// How a key is wanted, or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// To be written: by one transaction at a time.
    Exclusive,
    /// To stay as it was read.
    Shared,
}

#[derive(Debug)]
enum Lock {
    Exclusive(TransactionId),
    Shared(BTreeSet<TransactionId>),
}

/// The locks of a group. Keys are hashed with a seed of this process and never walked through.
#[derive(Debug, Default)]
pub(in crate::state_machine) struct Locks {
    by_key: HashMap<Bytes, Lock, RandomState>,
}

impl Locks {
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Keys that are locked.
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Who stands in the way of taking a key, oldest first.
    pub(super) fn in_the_way(&self, key: &[u8], mode: Mode) -> Vec<TransactionId> {
        match (self.by_key.get(key), mode) {
            (None, _) | (Some(Lock::Shared(_)), Mode::Shared) => Vec::new(),
            (Some(Lock::Exclusive(holder)), _) => vec![*holder],
            (Some(Lock::Shared(holders)), Mode::Exclusive) => holders.iter().copied().collect(),
        }
    }

    /// Who will perhaps write a key.
    pub(in crate::state_machine) fn writer(&self, key: &[u8]) -> Option<TransactionId> {
        match self.by_key.get(key)? {
            Lock::Exclusive(holder) => Some(*holder),
            Lock::Shared(_) => None,
        }
    }

    /// Takes a key that nobody stands in the way of.
    pub(super) fn take(&mut self, key: &Bytes, mode: Mode, id: TransactionId) {
        match (self.by_key.get_mut(key), mode) {
            (Some(Lock::Shared(holders)), Mode::Shared) => {
                holders.insert(id);
            }
            (None, Mode::Shared) => {
                self.by_key.insert(key.clone(), Lock::Shared(BTreeSet::from([id])));
            }
            (_, Mode::Exclusive) | (Some(Lock::Exclusive(_)), _) => {
                self.by_key.insert(key.clone(), Lock::Exclusive(id));
            }
        }
    }

    /// Lets a key go.
    pub(super) fn release(&mut self, key: &[u8], id: TransactionId) {
        let free = match self.by_key.get_mut(key) {
            None => return,
            Some(Lock::Exclusive(holder)) => *holder == id,
            Some(Lock::Shared(holders)) => {
                holders.remove(&id);
                holders.is_empty()
            }
        };
        if free {
            self.by_key.remove(key);
        }
    }
}
