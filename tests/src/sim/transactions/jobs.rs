//! What clients set out to do, what they want of the world for it, and what goes into a commit.

use super::workload::{Item, Want};
use crate::sim::time::Time;
use bytes::Bytes;
use fulcrum_coordinator::{CommitRequest, InKeyspace};
use fulcrum_types::{
    Condition, KeyCondition, KeyWrite, Level, Mutation, Observed, Operation, Participant, Query, ReadCheck,
    ReadRequest, Version,
};

/// What a client sets out to do. Items are named by their places in the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Read lists and append to some of them.
    Lists {
        /// Which, and whether to append.
        touched: Vec<(usize, bool)>,
        /// What is appended to is tested by conditions, not by reads.
        tested: bool,
        /// A transaction that only reads asks for one moment in its read, and needs no commit.
        consistent: bool,
    },
    /// Move money.
    Transfer {
        /// From this account,
        from: usize,
        /// to this one.
        to: usize,
        /// How much.
        amount: i64,
    },
    /// Read all accounts.
    Statement,
    /// Give all accounts their opening balances, once.
    Open,
    /// One list, without a coordinator.
    Plain {
        /// Which.
        list: usize,
        /// Whether to append.
        append: bool,
        /// Read by a scan.
        scan: bool,
    },
    /// Write an account's balance again as it is, without a coordinator.
    Rewrite(usize),
}

impl Job {
    /// Whether it goes without a coordinator.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Job::Plain { .. } | Job::Rewrite(_))
    }
}

/// What a client wants next.
#[derive(Debug)]
pub enum Wish {
    /// Call these coordinators.
    Call {
        /// How many.
        copies: usize,
        /// What.
        want: Want,
        /// How long it waits.
        patience: Time,
    },
    /// Call one, and do not wait.
    Vanish(Want),
    /// Ask a group without a coordinator.
    Ask {
        /// Whom.
        to: Participant,
        /// What.
        operation: Operation,
        /// How long it waits.
        patience: Time,
    },
    /// Ask again at this time.
    Again(Time),
    /// It is over.
    Done,
    /// The client saw what nobody has written.
    Broken(String),
}

/// Adds a key to a commit: it must be as it was seen, and may be written.
pub(super) fn require(commit: &mut CommitRequest, item: &Item, seen: &Observed, value: Option<Bytes>, tested: bool) {
    let (keyspace, key) = (item.keyspace.clone(), item.key.key.clone());
    if tested && value.is_some() {
        let what = KeyCondition {
            key: key.clone(),
            condition: unchanged(seen),
        };
        let keyspace = keyspace.clone();
        commit.conditions.push(InKeyspace { keyspace, what });
    } else {
        let what = ReadCheck {
            key: key.clone(),
            version: seen.version,
            exists: seen.value.is_some(),
        };
        let keyspace = keyspace.clone();
        commit.reads.push(InKeyspace { keyspace, what });
    }
    if let Some(value) = value {
        let mutation = Mutation::Put { value, ttl: None };
        let what = KeyWrite { key, mutation };
        commit.writes.push(InKeyspace { keyspace, what });
    }
}

/// The read of a plain operation.
pub(super) fn plain_read(item: &Item, job: &Job, patience: Time) -> Wish {
    let key = item.key.key.clone();
    let query = match job {
        Job::Plain { scan: true, .. } => Query::Scan {
            start: Bytes::new(),
            end: Bytes::new(),
            limit: 100,
            max_bytes: 1 << 20,
        },
        _ => Query::Get(vec![key]),
    };
    Wish::Ask {
        to: item.at,
        operation: Operation::Read(ReadRequest {
            level: Level::Linearizable,
            acceptable: Vec::new(),
            seen: None,
            query,
        }),
        patience,
    }
}

/// A value as a transaction would see it.
pub(super) fn observed(value: Option<fulcrum_types::Versioned>) -> Observed {
    let version = value.as_ref().map_or(Version::default(), |value| value.version);
    Observed { version, value }
}

/// The condition that a key is as it was seen. Nothing is ever deleted here.
pub(super) fn unchanged(seen: &Observed) -> Condition {
    match seen.value {
        Some(_) => Condition::VersionIs(seen.version),
        None => Condition::Absent,
    }
}
