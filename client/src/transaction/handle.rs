//! What a transaction's closure holds: reads with the versions they saw, and writes that nobody else has seen yet.

use super::answer::check_count;
use super::commit::Uncommitted;
use crate::client::Client;
use crate::error::Error;
use crate::keyspace::IntoBytes;
use crate::retry::Retries;
use crate::session::Session;
use bytes::Bytes;
use fulcrum_common::limits::LONGEST_TRANSACTION;
use fulcrum_common::wire::v1;
use fulcrum_types::{
    AbortCause, Act, CommitOutcome, CommitRequest, Committed, Condition, InKeyspace, KeyCondition, KeyWrite, Mutation,
    NamedKey, Observed, Priority, ReadCheck, Receipt, Refusal, SessionToken, TransactionId, TransactionRead,
    TransactionValues, Version,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// One attempt of a transaction, as its closure sees it. Its methods may be called at the same time.
///
/// It must not outlive the closure's future: a transaction of which somebody still holds this is not committed.
pub struct Transaction {
    ledger: Arc<Ledger>,
}

/// A put that may yet be given a time to live.
pub struct Put<'a> {
    ledger: &'a Ledger,
    key: NamedKey,
}

/// One attempt.
pub(super) struct Ledger {
    client: Client,
    id: TransactionId,
    begun: Instant,
    until: Instant,
    session: Option<Session>,
    contents: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    reads: BTreeMap<NamedKey, Observed>,
    receipts: Vec<Receipt>,
    conditions: Vec<InKeyspace<KeyCondition>>,
    writes: Vec<InKeyspace<KeyWrite>>,
    /// Where each written key is among the writes.
    written: BTreeMap<NamedKey, usize>,
    /// The first read that failed: what the closure went by since is not known to be true.
    failed: Option<Error>,
}

/// An attempt whose closure has returned.
pub(super) struct Closed {
    id: TransactionId,
    begun: Instant,
    session: SessionToken,
    contents: Contents,
}

impl Transaction {
    pub(super) fn of(ledger: &Arc<Ledger>) -> Self {
        Self { ledger: ledger.clone() }
    }

    /// This attempt's id: for logs.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.ledger.id
    }

    /// The value of a key: as this transaction wrote it, else as it first read it.
    ///
    /// # Errors
    /// See [`Error::act`]. A transaction of which a read failed is not committed, whatever the closure makes of it.
    pub async fn get(&self, keyspace: &str, key: impl IntoBytes) -> Result<Option<Bytes>, Error> {
        Ok(self.get_many([(keyspace, key)]).await?.pop().flatten())
    }

    /// The values of many keys in one round, in their order.
    ///
    /// # Errors
    /// As for [`Transaction::get`].
    pub async fn get_many<S: Into<String>, K: IntoBytes>(
        &self,
        keys: impl IntoIterator<Item = (S, K)>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let keys: Vec<NamedKey> = keys.into_iter().map(named).collect();
        let missing = self.ledger.with(|contents| contents.missing(&keys));
        if !missing.is_empty() {
            match self.ledger.read(missing.clone(), false).await {
                Ok(values) => self.ledger.with(|contents| contents.take(missing, values)),
                Err(error) => {
                    self.ledger.with(|contents| contents.fail(&error));
                    return Err(error);
                }
            }
        }
        Ok(self
            .ledger
            .with(|contents| keys.iter().map(|key| contents.value(key)).collect()))
    }

    /// Sets a key's value, if the transaction commits. The group of the first key written keeps the decision.
    pub fn put(&self, keyspace: &str, key: impl IntoBytes, value: impl IntoBytes) -> Put<'_> {
        let key = named((keyspace, key));
        let value = value.into_bytes();
        self.ledger.write(key.clone(), Mutation::Put { value, ttl: None });
        let ledger = &self.ledger;
        Put { ledger, key }
    }

    /// Removes a key's value, if the transaction commits.
    pub fn delete(&self, keyspace: &str, key: impl IntoBytes) {
        self.write(keyspace, key, Mutation::Delete);
    }

    pub(super) fn write(&self, keyspace: &str, key: impl IntoBytes, mutation: Mutation) {
        self.ledger.write(named((keyspace, key)), mutation);
    }

    /// Only if the key has a value. As all conditions: judged when the transaction commits, on what was there before its own
    /// writes; one that does not hold is an outcome ([`super::Transacted::outcome`]), no error.
    pub fn if_exists(&self, keyspace: &str, key: impl IntoBytes) {
        self.only_if(keyspace, key, Condition::Exists);
    }

    /// Only if the key has no value.
    pub fn if_absent(&self, keyspace: &str, key: impl IntoBytes) {
        self.only_if(keyspace, key, Condition::Absent);
    }

    /// Only if the key has this value.
    pub fn if_value_is(&self, keyspace: &str, key: impl IntoBytes, value: impl IntoBytes) {
        self.only_if(keyspace, key, Condition::ValueIs(value.into_bytes()));
    }

    /// Only if the key's value has this version.
    pub fn if_version_is(&self, keyspace: &str, key: impl IntoBytes, version: Version) {
        self.only_if(keyspace, key, Condition::VersionIs(version));
    }

    /// Only if this holds of the key.
    pub fn only_if(&self, keyspace: &str, key: impl IntoBytes, condition: Condition) {
        let InKeyspace { keyspace, what: key } = named((keyspace, key));
        let what = KeyCondition { key, condition };
        self.ledger
            .with(|contents| contents.conditions.push(InKeyspace { keyspace, what }));
    }
}

impl Put<'_> {
    /// The value expires after so long, by the group's replicated time.
    pub fn expires_in(self, after: Duration) {
        self.ledger.with(|contents| {
            let at = contents.written.get(&self.key).copied();
            let write = at.and_then(|at| contents.writes.get_mut(at));
            if let Some(Mutation::Put { ttl, .. }) = write.map(|write| &mut write.what.mutation) {
                *ttl = Some(after);
            }
        });
    }
}

pub(super) fn named<S: Into<String>, K: IntoBytes>((keyspace, key): (S, K)) -> NamedKey {
    InKeyspace {
        keyspace: keyspace.into(),
        what: key.into_bytes(),
    }
}

/// Whether a refused read means that this attempt can only be run again.
pub(super) fn is_over(refusal: &Refusal) -> bool {
    refusal.act() == Act::Abort || *refusal == Refusal::TooOldToTell
}

impl Ledger {
    pub(super) fn new(client: Client, id: TransactionId, until: Instant, session: Option<Session>) -> Self {
        Self {
            client,
            id,
            begun: Instant::now(),
            until,
            session,
            contents: Mutex::default(),
        }
    }

    /// Reads, as of now, whatever was read before.
    pub(super) async fn read(&self, keys: Vec<NamedKey>, consistent: bool) -> Result<TransactionValues, Error> {
        let asked = keys.len();
        let request = v1::TransactionReadRequest::from(TransactionRead {
            id: self.id,
            keys,
            consistent,
            session: self.seen(),
        });
        let answer = self
            .client
            .shared
            .call_router(request, self.until, Retries::new(false))
            .await
            .map_err(|verdict| verdict.error())?;
        let values = TransactionValues::try_from(answer)?;
        check_count("values", values.observed.len(), asked)?;
        if let Some(session) = &self.session {
            values.receipts.iter().for_each(|receipt| session.observe(receipt));
        }
        Ok(values)
    }

    fn seen(&self) -> SessionToken {
        self.session.as_ref().map(Session::token).unwrap_or_default()
    }

    fn write(&self, key: NamedKey, mutation: Mutation) {
        self.with(|contents| contents.write(key, mutation));
    }

    fn with<T>(&self, run: impl FnOnce(&mut Contents) -> T) -> T {
        run(&mut self.contents.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Contents {
    fn missing(&self, keys: &[NamedKey]) -> Vec<NamedKey> {
        let unknown = |key: &&NamedKey| !self.written.contains_key(*key) && !self.reads.contains_key(*key);
        let missing: BTreeSet<&NamedKey> = keys.iter().filter(unknown).collect();
        missing.into_iter().cloned().collect()
    }

    /// Two reads of a key at the same time may see different values: the first one counts, and the commit tells whether it holds.
    fn take(&mut self, keys: Vec<NamedKey>, values: TransactionValues) {
        for (key, observed) in keys.into_iter().zip(values.observed) {
            self.reads.entry(key).or_insert(observed);
        }
        self.receipts.extend(values.receipts);
    }

    fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone());
    }

    fn value(&self, key: &NamedKey) -> Option<Bytes> {
        let Some(at) = self.written.get(key) else {
            return self.reads.get(key)?.value.as_ref().map(|found| found.value.clone());
        };
        match &self.writes.get(*at)?.what.mutation {
            Mutation::Put { value, .. } => Some(value.clone()),
            Mutation::Delete => None,
        }
    }

    fn write(&mut self, key: NamedKey, mutation: Mutation) {
        if let Some(write) = self.written.get(&key).and_then(|at| self.writes.get_mut(*at)) {
            write.what.mutation = mutation;
            return;
        }
        self.written.insert(key.clone(), self.writes.len());
        let InKeyspace { keyspace, what: key } = key;
        let what = KeyWrite { key, mutation };
        self.writes.push(InKeyspace { keyspace, what });
    }

    /// A single read is of one moment by itself: a commit has nothing to add.
    fn asks_nothing(&self) -> bool {
        self.writes.is_empty() && self.conditions.is_empty() && self.reads.len() <= 1
    }
}

/// Takes what the closure has left.
///
/// # Errors
/// Somebody still holds the transaction: what they write from now on would be lost.
pub(super) fn close(ledger: Arc<Ledger>) -> Result<Closed, Error> {
    let Some(ledger) = Arc::into_inner(ledger) else {
        return Err(Error::Config {
            reason: "the transaction is still held when its closure has returned: await what uses it in there".into(),
        });
    };
    Ok(Closed {
        id: ledger.id,
        begun: ledger.begun,
        session: ledger.seen(),
        contents: ledger.contents.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

impl Closed {
    /// Why it can only be run again, if a read said so.
    pub(super) fn over(&self) -> Option<Refusal> {
        let refusal = self.contents.failed.as_ref()?.refusal()?;
        is_over(refusal).then(|| refusal.clone())
    }

    /// Whether time was up for one of its reads.
    pub(super) fn is_late(&self) -> bool {
        let failed = self.contents.failed.as_ref().and_then(Error::refusal);
        failed == Some(&Refusal::DeadlineExceeded)
    }

    /// Why it need not be sent: no group would commit it any more, and the answer would be that its outcome cannot be told.
    pub(super) fn past_the_horizon(&self, now: Instant) -> Option<Refusal> {
        let past = now.saturating_duration_since(self.begun) > LONGEST_TRANSACTION;
        past.then_some(Refusal::Aborted {
            id: self.id,
            cause: AbortCause::TooOld,
        })
    }

    /// What to commit; none if there is nothing to ask for, or if it must not be.
    pub(super) fn request(&self, priority: Priority) -> Option<CommitRequest> {
        let Contents {
            reads,
            conditions,
            writes,
            failed,
            ..
        } = &self.contents;
        if failed.is_some() || self.contents.asks_nothing() {
            return None;
        }
        let checked = |(key, observed): (&NamedKey, &Observed)| InKeyspace {
            keyspace: key.keyspace.clone(),
            what: ReadCheck {
                key: key.what.clone(),
                version: observed.version,
                exists: observed.value.is_some(),
            },
        };
        Some(CommitRequest {
            id: self.id,
            priority,
            reads: reads.iter().map(checked).collect(),
            conditions: conditions.clone(),
            writes: writes.clone(),
            session: self.session.clone(),
        })
    }

    /// The end of one without a request.
    pub(super) fn nothing_to_ask(self) -> Result<Committed, Uncommitted> {
        match self.contents.failed {
            Some(error) => Err(Uncommitted::Final(error)),
            None => Ok(Committed {
                outcome: CommitOutcome::Committed {
                    versions: Vec::new(),
                    rounds: 0,
                },
                receipts: self.contents.receipts,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_group_would_commit_any_more_is_not_sent() {
        let closed = Closed {
            id: TransactionId::default(),
            begun: Instant::now(),
            session: SessionToken::default(),
            contents: Contents::default(),
        };
        assert_eq!(closed.past_the_horizon(closed.begun + LONGEST_TRANSACTION), None);
        let later = closed.begun + LONGEST_TRANSACTION + Duration::from_millis(1);
        let refusal = closed.past_the_horizon(later).unwrap();
        assert_eq!(refusal.act(), Act::Abort, "{refusal}");
    }
}
