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
    /// Why the attempt before came to nothing.
    refused: Option<Refusal>,
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
            refused: None,
            retries: BTreeMap::new(),
        }
    }

    /// The next attempt.
    pub(super) async fn begin(&mut self, client: &Client, choices: &Choices) -> Result<Arc<Ledger>, Error> {
        let id = client.shared.transaction_id(self.until).await;
        let id = id.map_err(|error| self.explained(error))?;
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
        let pause = client.shared.backoff.pause(self.attempts);
        if self.attempts >= self.attempts_max || Instant::now() + pause >= self.until {
            return Err(self.gave_up(refusal));
        }
        if refusal == Refusal::TooOldToTell {
            client.shared.identities.retire(self.last.client);
        }
        self.refuse(&refusal);
        tokio::time::sleep(pause).await;
        self.took.pausing += pause;
        Ok(())
    }

    pub(super) fn gave_up(&self, last: Refusal) -> Error {
        Error::GaveUp {
            attempts: self.attempts,
            last,
        }
    }

    pub(super) fn was_refused(&self) -> bool {
        self.refused.is_some()
    }

    fn refuse(&mut self, refusal: &Refusal) {
        *self.retries.entry(cause_of(refusal)).or_default() += 1;
        self.refused = Some(refusal.clone());
    }

    /// An error that ends it. Of one whose attempts were aborted until its time was up it says less that time was up.
    pub(super) fn explained(&self, error: Error) -> Error {
        match (&error, &self.refused) {
            (Error::Refused(Refusal::DeadlineExceeded), Some(last)) => self.gave_up(last.clone()),
            _ => error,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::AbortCause;

    #[test]
    fn what_was_aborted_until_its_time_was_up_says_why() {
        let late = || Error::Refused(Refusal::DeadlineExceeded);
        let mut course = Course::new(Instant::now(), 5);
        assert_eq!(course.explained(late()).refusal(), Some(&Refusal::DeadlineExceeded));
        let id = TransactionId::default();
        let cause = AbortCause::LockTimeout { by: id };
        let aborted = Refusal::Aborted { id, cause };
        course.refuse(&aborted);
        course.refuse(&Refusal::TooOldToTell);
        course.refuse(&aborted);
        let explained = course.explained(late());
        assert!(matches!(explained, Error::GaveUp { .. }), "{explained}");
        assert_eq!(explained.refusal(), Some(&aborted));
        let other = course.explained(Error::Refused(Refusal::Overloaded));
        assert_eq!(other.refusal(), Some(&Refusal::Overloaded));
        assert_eq!(course.retries, [("lock_timeout", 2), ("too_old", 1)].into());
    }
}
