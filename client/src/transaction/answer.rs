//! What a transaction ends with.

use crate::error::Error;
use bytes::Bytes;
use fulcrum_types::{Observed, Receipt, TransactionId, TransactionValues, Version, Versioned};
use std::collections::BTreeMap;
use std::time::Duration;

/// A transaction that has ended, and what it cost. No abort ends as one: aborts are errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transacted<T> {
    /// What the closure returned, if it is committed; else the condition that did not hold: then nothing was written, and running
    /// it again changes nothing by itself.
    pub outcome: Result<T, ConditionFailed>,
    /// The version of each write, in the order in which keys were first written. Empty, too, if it is known only from a look-up
    /// that it is committed.
    pub versions: Vec<Version>,
    /// Rounds of replication that the last answer waited for: 1 in one group, 2 in several, 0 without writes.
    pub rounds: u32,
    /// The attempt that ended it.
    pub id: TransactionId,
    /// The proof, one a group; the home group's alone if it is known only from a look-up. A session has taken them in.
    pub receipts: Vec<Receipt>,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it was tried again, by the name of the cause, and how often.
    pub retries: BTreeMap<&'static str, u32>,
    /// Where the time went.
    pub took: Took,
}

impl<T> Transacted<T> {
    /// Whether it is committed.
    #[must_use]
    pub fn committed(&self) -> bool {
        self.outcome.is_ok()
    }
}

/// A condition that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionFailed {
    /// Of which keyspace.
    pub keyspace: String,
    /// Of which key.
    pub key: Bytes,
    /// The key's version then, if it had a value.
    pub current: Option<Version>,
}

/// Where a transaction's time went, all attempts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// In the closure: its reads, mostly.
    pub running: Duration,
    /// From a commit to its answer.
    pub committing: Duration,
    /// In pauses between attempts.
    pub pausing: Duration,
}

/// Values of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order of the keys asked; none if the key had no value.
    pub values: Vec<Option<Versioned>>,
    /// The proof, one a group.
    pub receipts: Vec<Receipt>,
}

impl Snapshot {
    pub(super) fn new(values: TransactionValues) -> Self {
        let value = |observed: Observed| observed.value;
        Self {
            values: values.observed.into_iter().map(value).collect(),
            receipts: values.receipts,
        }
    }
}

/// The answer has as many items as were asked for.
pub(super) fn check_count(what: &str, answered: usize, asked: usize) -> Result<(), Error> {
    if answered != asked {
        let reason = format!("{answered} {what} answer {asked}");
        return Err(fulcrum_common::wire::Malformed(reason).into());
    }
    Ok(())
}
