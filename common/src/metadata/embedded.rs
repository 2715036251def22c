//! The metadata store of one process: state in memory, a journal on disk. For the one-process cluster and for tests.
//!
//! One writer at a time: it decides against the state, appends to the journal, waits for the disk, and only then changes
//! the state that readers and watchers see. What was read was so durable. Watchers pull from a bounded history: a slow one
//! costs nothing and is told that it has to list again.

use super::journal::{AppendError, Journal};
use super::record::Record;
use super::state::State;
use super::{
    Compare, KeyValue, LeaseId, Listing, Metadata, MetadataError, Op, Revision, TxnOutcome, WatchEvent, WatchStream,
    check_txn,
};
use crate::clock::Clock;
use crate::error::StartError;
use crate::map::ClusterId;
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// A journal that has grown to this is begun anew with a snapshot.
const COMPACT_AT_BYTES: u64 = 4 * 1024 * 1024;
/// Changes handed to a watcher under one lock.
const WATCH_BATCH: usize = 128;

/// The embedded metadata store. Clones share it.
#[derive(Clone)]
pub struct EmbeddedMetadata {
    inner: Arc<Inner>,
}

struct Inner {
    cluster_id: ClusterId,
    clock: Arc<dyn Clock>,
    durable: bool,
    /// Held while a change is decided, written and applied: changes are one after the other.
    writer: Mutex<Option<Journal>>,
    state: Mutex<State>,
    changed: watch::Sender<Revision>,
}

/// What a writer found: the record to be written and what is answered then, or the answer at once.
enum Decision<T> {
    Write(Record, T),
    Answer(Result<T, MetadataError>),
}

impl EmbeddedMetadata {
    /// Opens the store in a directory of its own, or begins one there. A directory of another cluster than `expected` is
    /// refused; without `expected`, whatever cluster is there is opened, and a new one takes a new id. Blocks on the disk.
    pub fn open(directory: &Path, expected: Option<&ClusterId>, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let (journal, payloads) = Journal::open(directory, expected, &State::new().snapshot().encode())?;
        let corrupt = |detail: String| StartError::Corrupt {
            path: journal.path(),
            offset: 0,
            detail,
            remedy: "restore the directory from a backup, or start the release that wrote it".to_owned(),
        };
        let records: Option<Vec<Record>> = payloads.iter().map(|payload| Record::decode(payload)).collect();
        let records = records.ok_or_else(|| corrupt("a record makes no sense to this release".to_owned()))?;
        let state = State::replay(records, clock.now().mono).map_err(corrupt)?;
        Ok(Self::with(journal.cluster_id().clone(), clock, Some(journal), state))
    }

    /// A store that lives in memory only.
    #[must_use]
    pub fn in_memory(cluster_id: ClusterId, clock: Arc<dyn Clock>) -> Self {
        Self::with(cluster_id, clock, None, State::new())
    }

    fn with(cluster_id: ClusterId, clock: Arc<dyn Clock>, journal: Option<Journal>, state: State) -> Self {
        let inner = Inner {
            cluster_id,
            clock,
            durable: journal.is_some(),
            changed: watch::Sender::new(state.revision()),
            writer: Mutex::new(journal),
            state: Mutex::new(state),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The cluster to which the store belongs.
    #[must_use]
    pub fn cluster_id(&self) -> &ClusterId {
        &self.inner.cluster_id
    }

    /// Ends the leases that have run out by the clock; says how many.
    pub async fn expire_leases(&self) -> Result<usize, MetadataError> {
        if lock(&self.inner.state).expired(self.inner.clock.now().mono).is_empty() {
            return Ok(0);
        }
        self.blocking(|inner| {
            let now = inner.clock.now().mono;
            inner.write(|state| match state.expired(now) {
                none if none.is_empty() => Decision::Answer(Ok(0)),
                expired => {
                    let count = expired.len();
                    Decision::Write(state.end_leases(expired), count)
                }
            })
        })
        .await
    }

    /// Lets leases run out by themselves: looks every `every` until the store is dropped. Must be called within a runtime.
    pub fn spawn_expiry(&self, every: Duration) {
        let weak: Weak<Inner> = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(inner) = weak.upgrade() else { return };
                if let Err(error) = (Self { inner }).expire_leases().await {
                    tracing::warn!(%error, "leases that have run out cannot be ended");
                }
            }
        });
    }

    /// Runs what may wait for the disk where waiting is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        if !self.inner.durable {
            return work(&self.inner);
        }
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(MetadataError::Unknown(error.to_string())))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn write<T>(&self, decide: impl FnOnce(&State) -> Decision<T>) -> Result<T, MetadataError> {
        let mut journal = lock(&self.writer);
        let (record, answer) = match decide(&lock(&self.state)) {
            Decision::Write(record, answer) => (record, answer),
            Decision::Answer(answer) => return answer,
        };
        if let Some(journal) = journal.as_mut() {
            journal.append(&record.encode()).map_err(|error| match error {
                AppendError::NotWritten(reason) => MetadataError::Unavailable(reason),
                AppendError::Unknown(reason) => MetadataError::Unknown(reason),
            })?;
        }
        let revision = {
            let mut state = lock(&self.state);
            state.apply(record, self.clock.now().mono);
            state.revision()
        };
        self.changed.send_replace(revision);
        if let Some(journal) = journal.as_mut().filter(|journal| journal.len() > COMPACT_AT_BYTES) {
            let snapshot = lock(&self.state).snapshot().encode();
            if let Err(error) = journal.rewrite(&snapshot) {
                tracing::warn!(%error, path = %journal.path().display(), "the metadata journal cannot be compacted");
            }
        }
        Ok(answer)
    }

    fn txn(&self, compare: &[Compare], ops: Vec<Op>) -> Result<TxnOutcome, MetadataError> {
        self.write(|state| {
            if let Some(lease) = ops.iter().filter_map(lease_of).find(|lease| !state.has_lease(*lease)) {
                return Decision::Answer(Err(MetadataError::NoSuchLease { lease }));
            }
            if !state.holds(compare) {
                return Decision::Answer(Ok(TxnOutcome::Failed {
                    revision: state.revision(),
                }));
            }
            match state.change(ops, Vec::new()) {
                Record::Change { revision, ops, .. } if ops.is_empty() => {
                    Decision::Answer(Ok(TxnOutcome::Succeeded { revision }))
                }
                record => {
                    let revision = state.revision().next();
                    Decision::Write(record, TxnOutcome::Succeeded { revision })
                }
            }
        })
    }
}

fn lease_of(op: &Op) -> Option<LeaseId> {
    match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete { .. } => None,
    }
}

#[async_trait]
impl Metadata for EmbeddedMetadata {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetadataError> {
        Ok(lock(&self.inner.state).get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Listing, MetadataError> {
        Ok(lock(&self.inner.state).list(prefix))
    }

    async fn txn(&self, compare: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, MetadataError> {
        check_txn(&compare, &ops)?;
        self.blocking(move |inner| inner.txn(&compare, ops)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetadataError> {
        let follower = Follower {
            store: Arc::downgrade(&self.inner),
            changed: self.inner.changed.subscribe(),
            prefix: prefix.to_owned(),
            from,
            ready: Vec::new().into_iter(),
            ended: false,
        };
        Ok(stream::unfold(follower, Follower::next).boxed())
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        if ttl.is_zero() {
            return Err(MetadataError::Invalid("a lease of no time".to_owned()));
        }
        self.blocking(move |inner| {
            inner.write(|state| {
                let lease = state.next_lease();
                Decision::Write(Record::Grant { lease, ttl }, lease)
            })
        })
        .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        let now = self.inner.clock.now().mono;
        if lock(&self.inner.state).keep_alive(lease, now) {
            return Ok(());
        }
        Err(MetadataError::NoSuchLease { lease })
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.blocking(move |inner| {
            inner.write(|state| match state.has_lease(lease) {
                true => Decision::Write(state.end_leases(vec![lease]), ()),
                false => Decision::Answer(Err(MetadataError::NoSuchLease { lease })),
            })
        })
        .await
    }
}

/// One watch: where it stands, and the changes it has fetched.
struct Follower {
    store: Weak<Inner>,
    changed: watch::Receiver<Revision>,
    prefix: String,
    from: Revision,
    ready: std::vec::IntoIter<WatchEvent>,
    ended: bool,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<WatchEvent, super::WatchError>, Self)> {
        loop {
            if let Some(event) = self.ready.next() {
                return Some((Ok(event), self));
            }
            if self.ended {
                return None;
            }
            // Seen before the state is read: a change in between wakes the wait below.
            self.changed.borrow_and_update();
            let fetched = {
                let store = self.store.upgrade()?;
                lock(&store.state).changes(&self.prefix, self.from, WATCH_BATCH)
            };
            match fetched {
                Err(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
                Ok((events, from)) => {
                    self.from = from;
                    self.ready = events.into_iter();
                }
            }
            if self.ready.len() == 0 {
                self.changed.changed().await.ok()?;
            }
        }
    }
}
