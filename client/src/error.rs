//! What can go wrong, by who must act.

use crate::identity::Held;
use crate::transaction::UnfinishedTransaction;
use bytes::Bytes;
use fulcrum_common::wire::Malformed;
use fulcrum_types::{Act, IdempotencyKey, Refusal};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Why a request was not answered as asked. [`Error::act`] says who must act.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// Refused; surely nothing was applied.
    #[error("{0}")]
    Refused(Refusal),
    /// A write whose outcome is unknown when its time is up: look it up with [`crate::Client::outcome`].
    #[error("the outcome of the write is unknown ({reason}): look it up, or write again once you know")]
    Unknown {
        /// What happened last.
        reason: String,
        /// The write, to be looked up.
        write: UnfinishedWrite,
    },
    /// A transaction whose outcome is unknown when its time is up: look it up with [`crate::Client::transaction_outcome`].
    #[error("the outcome of transaction {} is unknown ({reason}): look it up, or run it again once you know", .transaction.id())]
    UnknownTransaction {
        /// What happened last.
        reason: String,
        /// The transaction, to be looked up.
        transaction: UnfinishedTransaction,
    },
    /// Every attempt of a transaction was aborted, and time or attempts are used up. Nothing of it was applied.
    #[error("gave up at attempt {attempts} ({last}): run it again later, or with more time")]
    GaveUp {
        /// How often it was tried.
        attempts: u32,
        /// What the last attempt was told.
        last: Refusal,
    },
    /// No router answered.
    #[error("no router could be reached ({reason}): is one running there? `fulcrum dev` starts one")]
    Unreachable {
        /// Who was tried, and what happened.
        reason: String,
    },
    /// The client is set up in a way that cannot work.
    #[error("{reason}")]
    Config {
        /// What, and how to set it right.
        reason: String,
    },
    /// A server answered what makes no sense here: it is of another release, or no Fulcrum server.
    #[error("the answer makes no sense ({0}): is the server of another release?")]
    Answer(#[from] Malformed),
}

impl Error {
    /// Who must act.
    #[must_use]
    pub fn act(&self) -> Act {
        match self {
            Error::Refused(refusal) => refusal.act(),
            Error::Unknown { .. } | Error::UnknownTransaction { .. } => Act::LookUp,
            Error::GaveUp { .. } => Act::Abort,
            Error::Unreachable { .. } => Act::Retry,
            Error::Config { .. } => Act::Reject,
            Error::Answer(_) => Act::Operator,
        }
    }

    /// Short stable name, as on the wire: for scripts and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Error::Refused(refusal) | Error::GaveUp { last: refusal, .. } => refusal.code(),
            Error::Unknown { .. } | Error::UnknownTransaction { .. } => "UNKNOWN",
            Error::Unreachable { .. } => "UNREACHABLE",
            Error::Config { .. } => "CONFIG",
            Error::Answer(_) => "ANSWER",
        }
    }

    /// The typed refusal, if a server gave one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Error::Refused(refusal) | Error::GaveUp { last: refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Whether nothing was applied, for sure.
    #[must_use]
    pub fn nothing_applied(&self) -> bool {
        match self {
            Error::Refused(refusal) => refusal.act() != Act::LookUp,
            Error::Unknown { .. } | Error::UnknownTransaction { .. } | Error::Answer(_) => false,
            Error::GaveUp { .. } | Error::Unreachable { .. } | Error::Config { .. } => true,
        }
    }
}

/// A write whose outcome is unknown. While it is kept, the servers keep its outcome for this client (within the
/// keyspace's retention).
#[derive(Clone)]
pub struct UnfinishedWrite {
    pub(crate) keyspace: String,
    pub(crate) key: Bytes,
    pub(crate) held: Arc<Held>,
}

impl UnfinishedWrite {
    /// A write of another process, from what that one wrote down. Nobody here holds its outcome: it may be too old to tell.
    #[must_use]
    pub fn of(keyspace: impl Into<String>, key: Bytes, idempotency: IdempotencyKey) -> Self {
        Self {
            keyspace: keyspace.into(),
            key,
            held: Arc::new(Held::elsewhere(idempotency)),
        }
    }

    /// The keyspace written to.
    #[must_use]
    pub fn keyspace(&self) -> &str {
        &self.keyspace
    }

    /// The key written, or the first one of a batch.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// What identifies the write to the servers.
    #[must_use]
    pub fn idempotency(&self) -> IdempotencyKey {
        self.held.key
    }
}

impl fmt::Debug for UnfinishedWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnfinishedWrite")
            .field("keyspace", &self.keyspace)
            .field("key", &self.key)
            .field("idempotency", &self.held.key)
            .finish()
    }
}
