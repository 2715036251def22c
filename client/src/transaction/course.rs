//! The course of a transaction over its attempts: whose turn it is, how old it is, and when to give up.
//!
//! Every attempt has an id of its own, for a refused one stays refused for ever. All carry the first one's as their age, so that
//! a transaction that is run again grows older than what it competes with, and wins in the end (wait-die).

use super::Choices;
use super::answer::{ConditionFailed, Took, Transacted};
use super::handle::Ledger;
use crate::client::Client;
use crate::error::Error;
use fulcrum_types::{CommitOutcome, Committed, Priority, Refusal, TransactionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

pub(super) struct Course {
    pub(super) until: Instant,
    pub(super) took: Took,
    attempts_max: u32,
    attempts: u32,
    first: Option<TransactionId>,
    last: TransactionId,
    retries: BTreeMap<&'static str, u32>,
}

impl Course {
    pub(super) fn new(until: Instant, attempts_max: u32) -> Self {
        Self {
            until,
            took: Took::default(),
            attempts_max,
            attempts: 0,
            first: None,
            last: TransactionId::default(),
            retries: BTreeMap::new(),
        }
    }

    /// The next attempt.
    pub(super) async fn begin(&mut self, client: &Client, choices: &Choices) -> Result<Arc<Ledger>, Error> {
        let id = client.shared.transaction_id(self.until).await?;
        self.attempts += 1;
        self.last = id;
        self.first.get_or_insert(id);
        let session = choices.session.clone();
        Ok(Arc::new(Ledger::new(client.clone(), id, self.until, session)))
    }

    pub(super) fn priority(&self) -> Priority {
        Priority(self.first.unwrap_or(self.last))
    }

    /// An attempt has come to nothing: pauses before the next one, or gives up.
    pub(super) async fn again(&mut self, client: &Client, refusal: Refusal) -> Result<(), Error> {
        *self.retries.entry(cause_of(&refusal)).or_default() += 1;
        let pause = client.shared.backoff.pause(self.attempts);
        if self.attempts >= self.attempts_max || Instant::now() + pause >= self.until {
            return Err(Error::GaveUp {
                attempts: self.attempts,
                last: refusal,
            });
        }
        tokio::time::sleep(pause).await;
        self.took.pausing += pause;
        Ok(())
    }

    pub(super) fn transacted<T>(self, value: T, committed: Committed) -> Result<Transacted<T>, Error> {
        let (outcome, versions, rounds) = match committed.outcome {
            CommitOutcome::Committed { versions, rounds } => (Ok(value), versions, rounds),
            CommitOutcome::ConditionFailed { key, current } => {
                let failed = ConditionFailed {
                    keyspace: key.keyspace,
                    key: key.what,
                    current,
                };
                (Err(failed), Vec::new(), 0)
            }
        };
        Ok(Transacted {
            outcome,
            versions,
            rounds,
            id: self.last,
            receipts: committed.receipts,
            attempts: self.attempts,
            retries: self.retries,
            took: self.took,
        })
    }
}

/// The name under which a retry is counted.
fn cause_of(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Aborted { cause, .. } => cause.name(),
        // Its reads found it too old.
        Refusal::TooOldToTell => fulcrum_types::AbortCause::TooOld.name(),
        other => other.code(),
    }
}
