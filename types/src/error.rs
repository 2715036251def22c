//! Refusals, by who must act. A refusal says that nothing was applied, except [`Refusal::Unknown`].

use crate::entry::LogPosition;
use crate::ids::{GroupId, Index, MapVersion, NodeId};
use crate::mode::{Level, Mode};
use crate::right::Right;
use crate::transaction::{AbortCause, TransactionId};
use std::fmt;
use std::time::Duration;

/// Who must act on a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// Ask another node, or by a newer map: the router or smart client does it.
    Redirect,
    /// Try again after a pause; nothing was applied.
    Retry,
    /// Run the whole transaction again from its first read, after a pause; nothing of it was applied.
    Abort,
    /// The caller must change the request.
    Reject,
    /// The outcome is not known: look it up with the idempotency key, or with the transaction's id.
    LookUp,
    /// An operator must act.
    Operator,
}

/// Why a shard group did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node holds no replica of that group, or the group no longer owns the slot.
    WrongGroup {
        /// The map by which the node says so.
        map_version: MapVersion,
    },
    /// Only the primary can do that, and this is not it.
    NotPrimary {
        /// Who is, as far as known.
        hint: Option<NodeId>,
    },
    /// This replica cannot serve the level asked; another may.
    CannotServe {
        /// The level asked.
        level: Level,
        /// The bound that it could prove, if any.
        bound: Option<Duration>,
        /// Who surely can, as far as known.
        hint: Option<NodeId>,
    },
    /// The primary has not yet taken over (inherited entries or its no-op are not committed).
    NotReady,
    /// The primary's lease ran out and a confirming round did not succeed in time.
    Fenced,
    /// Fewer replicas in sync than the keyspace's `min_in_sync`.
    NotEnoughReplicas {
        /// In-sync replicas now.
        have: u32,
        /// Needed.
        need: u32,
    },
    /// Queues are full; nothing was applied.
    Overloaded,
    /// The deadline passed before anything was ordered.
    DeadlineExceeded,
    /// This replica's history lacks what the session has seen: it was lost in an `async` failover (rule 8).
    HistoryLost {
        /// The group.
        group: GroupId,
        /// What the session has seen.
        seen: LogPosition,
    },
    /// The log that a watch would have to read is no longer kept by any replica: changes would be missing.
    Compacted {
        /// The group.
        group: GroupId,
        /// Where the watch would have gone on.
        after: LogPosition,
        /// The log is kept behind this index.
        kept_after: Index,
    },
    /// The keyspace's mode cannot give that level.
    IllegalLevel {
        /// The level asked.
        level: Level,
        /// The keyspace's mode.
        mode: Mode,
    },
    /// No such keyspace.
    UnknownKeyspace {
        /// The name, or the id as text, by which it was asked for.
        keyspace: String,
    },
    /// The request breaks a limit or makes no sense.
    Invalid {
        /// What and why, and the limit.
        reason: String,
    },
    /// The outcome of an earlier request with this idempotency key is no longer kept: nothing was done now.
    TooOldToTell,
    /// It may or may not have been applied.
    Unknown {
        /// Why that is not known.
        reason: String,
    },
    /// The replica stopped: its disk failed or its data is corrupt.
    Stopped {
        /// What happened.
        reason: String,
    },
    /// The group cannot start without an operator's word: no listed data is left (rule 5).
    NoDataLeft,
    /// The transaction was aborted, for good: this attempt can never commit.
    Aborted {
        /// The attempt.
        id: TransactionId,
        /// Why.
        cause: AbortCause,
    },
    /// The key stayed locked by a transaction for as long as a node lets a request wait; nothing was applied.
    Locked {
        /// Who held the lock.
        by: TransactionId,
    },
    /// The group is held for a cut, for a moment: nothing new is promised or committed; nothing was applied.
    BeingCut,
    /// No replica asked has the state of that cut any more.
    CutGone {
        /// The group.
        group: GroupId,
    },
    /// The group keeps the states of as many cuts as it may: it was not held for another one.
    TooManyCuts {
        /// The group.
        group: GroupId,
        /// How many it keeps.
        most: u32,
    },
    /// A transaction with this id and other contents is known: an id is used once.
    TransactionIdReused {
        /// The id.
        id: TransactionId,
    },
    /// The keyspace's mode cannot keep the promises of a transaction.
    NoTransactions {
        /// The keyspace's name, or its id as text.
        keyspace: String,
        /// Its mode.
        mode: Mode,
    },
    /// Whoever asks has shown no token that is good here. Why not is only in the server's log.
    Unauthenticated,
    /// The token lacks a right. Says nothing of whether what was asked for exists.
    Denied {
        /// What was asked for: a keyspace's name, `*` for all, or a group.
        scope: String,
        /// What is needed there.
        right: Right,
    },
    /// A read was answered, and the answer withheld: its receipt does not hold what was asked. A write is then [`Refusal::Unknown`].
    ReceiptViolated {
        /// Who answered, and what does not hold.
        reason: String,
    },
    /// No node answered: the metadata store or the nodes cannot be reached.
    Unreachable {
        /// Who was tried and what they said.
        reason: String,
    },
}

impl Refusal {
    /// Who must act.
    #[must_use]
    pub const fn act(&self) -> Act {
        match self {
            Refusal::WrongGroup { .. } | Refusal::NotPrimary { .. } | Refusal::CannotServe { .. } => Act::Redirect,
            Refusal::NotReady
            | Refusal::Fenced
            | Refusal::NotEnoughReplicas { .. }
            | Refusal::Overloaded
            | Refusal::DeadlineExceeded
            | Refusal::Locked { .. }
            | Refusal::BeingCut
            | Refusal::Stopped { .. }
            | Refusal::ReceiptViolated { .. }
            | Refusal::Unreachable { .. } => Act::Retry,
            Refusal::HistoryLost { .. }
            | Refusal::Compacted { .. }
            | Refusal::CutGone { .. }
            | Refusal::TooManyCuts { .. }
            | Refusal::IllegalLevel { .. }
            | Refusal::UnknownKeyspace { .. }
            | Refusal::Invalid { .. }
            | Refusal::TransactionIdReused { .. }
            | Refusal::NoTransactions { .. }
            | Refusal::Unauthenticated
            | Refusal::Denied { .. }
            | Refusal::TooOldToTell => Act::Reject,
            Refusal::Aborted { cause, .. } if cause.is_worth_a_retry() => Act::Abort,
            Refusal::Aborted { .. } => Act::Reject,
            Refusal::Unknown { .. } => Act::LookUp,
            Refusal::NoDataLeft => Act::Operator,
        }
    }

    /// Short stable name: for metrics, scripts and the wire.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Refusal::WrongGroup { .. } => "WRONG_GROUP",
            Refusal::NotPrimary { .. } => "NOT_PRIMARY",
            Refusal::CannotServe { .. } => "CANNOT_SERVE",
            Refusal::NotReady => "NOT_READY",
            Refusal::Fenced => "FENCED",
            Refusal::NotEnoughReplicas { .. } => "NOT_ENOUGH_REPLICAS",
            Refusal::Overloaded => "OVERLOADED",
            Refusal::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Refusal::HistoryLost { .. } => "HISTORY_LOST",
            Refusal::Compacted { .. } => "COMPACTED",
            Refusal::IllegalLevel { .. } => "ILLEGAL_LEVEL",
            Refusal::UnknownKeyspace { .. } => "UNKNOWN_KEYSPACE",
            Refusal::Invalid { .. } => "INVALID",
            Refusal::TooOldToTell => "TOO_OLD_TO_TELL",
            Refusal::Unknown { .. } => "UNKNOWN",
            Refusal::Stopped { .. } => "STOPPED",
            Refusal::NoDataLeft => "NO_DATA_LEFT",
            Refusal::Aborted { .. } => "ABORTED",
            Refusal::Locked { .. } => "LOCKED",
            Refusal::BeingCut => "BEING_CUT",
            Refusal::CutGone { .. } => "CUT_GONE",
            Refusal::TooManyCuts { .. } => "TOO_MANY_CUTS",
            Refusal::TransactionIdReused { .. } => "TRANSACTION_ID_REUSED",
            Refusal::NoTransactions { .. } => "NO_TRANSACTIONS",
            Refusal::Unauthenticated => "UNAUTHENTICATED",
            Refusal::Denied { .. } => "PERMISSION_DENIED",
            Refusal::ReceiptViolated { .. } => "RECEIPT_VIOLATED",
            Refusal::Unreachable { .. } => "UNREACHABLE",
        }
    }
}

impl Refusal {
    /// Why, to be told within another refusal: of an unknown outcome only the reason, for that one says itself that it is unknown.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Refusal::Unknown { reason } => reason.clone(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::WrongGroup { map_version } => {
                write!(
                    f,
                    "this node does not own that key by map {map_version}: refresh the cluster map and ask again"
                )
            }
            Refusal::NotPrimary { hint: Some(n) } => write!(f, "not the primary; ask node {n}"),
            Refusal::NotPrimary { hint: None } => {
                write!(f, "not the primary, and none is known yet: try again shortly")
            }
            Refusal::CannotServe { level, bound, .. } => match bound {
                Some(b) => write!(
                    f,
                    "this replica can prove only {} ms of staleness, not {level}",
                    b.as_millis()
                ),
                None => write!(f, "this replica cannot prove what {level} asks for: ask the primary"),
            },
            Refusal::NotReady => {
                write!(f, "the new primary is still taking over: try again shortly")
            }
            Refusal::Fenced => write!(
                f,
                "the primary could not confirm that it still is one: try again shortly"
            ),
            Refusal::NotEnoughReplicas { have, need } => write!(
                f,
                "{have} replicas in sync, min_in_sync is {need}: nothing was applied; bring replicas back or lower min_in_sync"
            ),
            Refusal::Overloaded => write!(f, "overloaded, nothing was applied: slow down and try again"),
            Refusal::DeadlineExceeded => write!(
                f,
                "the deadline passed and nothing was applied: try again with more time"
            ),
            Refusal::HistoryLost { group, seen } => write!(
                f,
                "group {group} lost entry {seen}, which this session or watch has seen, in a failover: start a new one; see `fulcrum failover report`"
            ),
            Refusal::Compacted {
                group,
                after,
                kept_after,
            } => write!(
                f,
                "group {group} no longer keeps its log behind entry {after}, only behind index {kept_after}: changes would be missing; watch anew, with the current state first"
            ),
            Refusal::IllegalLevel { level, mode } => write!(
                f,
                "a {mode} keyspace cannot serve {level} reads: use bounded, session or eventual, or a sync keyspace"
            ),
            Refusal::UnknownKeyspace { keyspace } => {
                write!(f, "no keyspace '{keyspace}': see `fulcrum keyspace list`")
            }
            Refusal::Invalid { reason } => f.write_str(reason),
            Refusal::TooOldToTell => {
                write!(
                    f,
                    "the request is too old to tell whether it was applied before; nothing was done now"
                )
            }
            Refusal::Unknown { reason } => {
                write!(
                    f,
                    "the outcome is unknown ({reason}): look it up, a write by its idempotency key, a transaction by its id"
                )
            }
            Refusal::Stopped { reason } => write!(f, "the replica has stopped: {reason}"),
            Refusal::NoDataLeft => write!(
                f,
                "no replica with the group's data is left: an operator must decide (`fulcrum failover force`)"
            ),
            Refusal::Aborted { id, cause } => {
                write!(f, "transaction {id} was aborted, nothing of it was applied: {cause}")
            }
            Refusal::Locked { by } => write!(
                f,
                "the key is locked by transaction {by}, nothing was applied: try again; see `fulcrum txn show {by}`"
            ),
            Refusal::BeingCut => write!(
                f,
                "the group takes no new transactions for a moment, while a backup makes its cut; nothing was applied: try again shortly"
            ),
            Refusal::CutGone { group } => write!(
                f,
                "no replica of group {group} that answers has the state of that cut any more: begin the backup again"
            ),
            Refusal::TooManyCuts { group, most } => write!(
                f,
                "group {group} keeps the states of {most} backups already, nothing was applied: wait until one of them has ended; what a backup that was killed has left goes within a minute"
            ),
            Refusal::TransactionIdReused { id } => write!(
                f,
                "transaction id {id} was used for another transaction: take a new id for each attempt"
            ),
            Refusal::NoTransactions { keyspace, mode } => write!(
                f,
                "keyspace '{keyspace}' is {mode}: a failover may lose what was acknowledged there, a prepared transaction and its locks among it, so it takes part in none; use a sync keyspace"
            ),
            Refusal::Unauthenticated => write!(
                f,
                "no valid token was shown, nothing was applied: send one as `authorization: Bearer ...`"
            ),
            Refusal::Denied { scope, right } => {
                write!(
                    f,
                    "this needs the right '{scope}:{right}', nothing was applied: ask an operator for it"
                )
            }
            Refusal::ReceiptViolated { reason } => write!(
                f,
                "the answer was withheld, for its receipt does not hold what was asked ({reason}): try again, and tell an operator"
            ),
            Refusal::Unreachable { reason } => {
                write!(f, "no replica could be reached ({reason}): try again")
            }
        }
    }
}

impl std::error::Error for Refusal {}
