//! The metadata store: what may be decided only once, for the whole cluster.
//!
//! The promise: a small revisioned map from names to bytes. Every successful transaction takes the next revision; a key
//! remembers the revision that last changed it, and that is its compare-and-swap token. Keys can be tied to a lease and go
//! when it does. A watch tells every change in order from a revision on, or says that it no longer can, and then the
//! watcher lists again. This is the shape of etcd (its v3 API: revisions, `Txn`, `Watch`, `Lease`), so that etcd fits the
//! trait without change (`metadata-etcd/`); [`EmbeddedMetadata`] serves one process.
//!
//! An error tells whether a transaction was *surely not applied* ([`MetadataError::Unavailable`]) or *may have been*
//! ([`MetadataError::Unknown`]): primary/backup replication depends on the difference (rule 2).
//!
//! [`ClusterStore`] is the typed layer that everybody uses. Left out: ranges other than prefixes, histories of a key, users.

mod cluster_store;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod embedded;
mod format;
mod journal;
mod placing;
mod record;
mod state;
#[cfg(test)]
mod tests;
mod tokens;

pub use cluster_store::{CasResult, ClusterEvent, ClusterStore, NodeLease, StoreError};
pub use embedded::EmbeddedMetadata;
pub use placing::{Leader, PlacementView, Replacement};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Most operations, and most comparisons, of one transaction: etcd's default.
pub const MAX_TXN_OPS: usize = 128;
/// Most bytes of one transaction's keys and values: etcd's limit on requests.
const MAX_TXN_BYTES: usize = 1_572_864;

/// Counts successful transactions of the whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// As the revision of a key: it is absent.
    pub const ABSENT: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// A lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// The lease with which it goes.
    pub lease: Option<LeaseId>,
}

/// All keys with a prefix, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The store's revision: watch from the next one on to miss nothing.
    pub revision: Revision,
    /// In the order of keys.
    pub entries: Vec<KeyValue>,
}

/// What must hold for a transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// Its revision; [`Revision::ABSENT`] if it must not exist.
    pub mod_revision: Revision,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
        /// The lease with which it goes.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it exists.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// Sets a key that stays.
    pub fn put(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Op::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Every comparison held and every change is durable.
    Succeeded {
        /// The revision it took: that of every key it put.
        revision: Revision,
    },
    /// A comparison did not hold; nothing changed.
    Failed {
        /// The store's revision when that was found.
        revision: Revision,
    },
}

/// Refuses a transaction that no store takes. The limits are those of etcd, so that what works with one works with all.
pub fn check_txn(compare: &[Compare], ops: &[Op]) -> Result<(), MetadataError> {
    if ops.len().max(compare.len()) > MAX_TXN_OPS {
        return Err(MetadataError::Invalid(format!(
            "a transaction has at most {MAX_TXN_OPS} operations"
        )));
    }
    let mut keys = BTreeSet::new();
    let mut bytes = 0;
    for op in ops {
        let (key, value_len) = match op {
            Op::Put { key, value, .. } => (key, value.len()),
            Op::Delete { key } => (key, 0),
        };
        bytes += key.len() + value_len;
        if key.is_empty() {
            return Err(MetadataError::Invalid("a key is empty".to_owned()));
        }
        if !keys.insert(key) {
            return Err(MetadataError::Invalid(format!(
                "the transaction changes key {key} twice"
            )));
        }
    }
    if bytes > MAX_TXN_BYTES {
        return Err(MetadataError::Invalid(format!(
            "{bytes} bytes in one transaction, the limit is {MAX_TXN_BYTES}"
        )));
    }
    Ok(())
}

/// One change that a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was set.
    Put(KeyValue),
    /// A key was removed.
    Delete {
        /// The key.
        key: String,
        /// The revision that did it.
        revision: Revision,
    },
}

impl WatchEvent {
    /// The key changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            WatchEvent::Put(kv) => &kv.key,
            WatchEvent::Delete { key, .. } => key,
        }
    }

    /// The revision that changed it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            WatchEvent::Put(kv) => kv.mod_revision,
            WatchEvent::Delete { revision, .. } => *revision,
        }
    }
}

/// Why the store did not answer as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// It cannot be reached or does not work. Surely nothing was applied.
    #[error("the metadata store is unavailable, nothing was applied: {0}")]
    Unavailable(String),
    /// The answer was lost: it may or may not have been applied.
    #[error("the outcome at the metadata store is unknown: {0}")]
    Unknown(String),
    /// No such lease: it ran out or was revoked. Nothing was applied.
    #[error("lease {0:x} has run out", lease.0)]
    NoSuchLease {
        /// The lease.
        lease: LeaseId,
    },
    /// The request is not one. Nothing was applied.
    #[error("the metadata store refused the request: {0}")]
    Invalid(String),
}

/// Why a watch ended. The watcher lists again and watches from there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WatchError {
    /// The changes asked for are no longer kept.
    #[error("changes up to revision {0} are no longer kept", compacted.0)]
    Compacted {
        /// Changes up to and with this revision are gone.
        compacted: Revision,
    },
    /// The store cannot be reached.
    #[error("the watch was interrupted: {0}")]
    Unavailable(String),
}

/// Changes in order of revision; those of one transaction in the order of its operations. Ends after an error.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, WatchError>>;

/// A metadata store.
#[async_trait]
pub trait Metadata: Send + Sync + 'static {
    /// A key. Linearizable: sees every transaction that was answered before.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetadataError>;

    /// All keys with a prefix, as of one revision. Linearizable.
    async fn list(&self, prefix: &str) -> Result<Listing, MetadataError>;

    /// Applies all operations or none: all if every comparison holds. Durable when answered. No key twice in `ops`.
    async fn txn(&self, compare: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, MetadataError>;

    /// Changes of keys with a prefix, from a revision on (inclusive).
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetadataError>;

    /// A new lease that runs out unless it is kept alive.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetadataError>;

    /// Starts a lease's time anew.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError>;

    /// Ends a lease now; its keys go with it.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetadataError>;
}
