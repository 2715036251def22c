//! What transactions asked, when, and what they were told: list-append histories.
//!
//! Every key holds a list. A transaction appends elements and reads whole lists, so that what a read has seen names every
//! append before it, in order: that turns the search for a serial order, which is exponential for registers, into a
//! search for cycles (Kingsbury and Alvaro, *Elle*, 2020). An element is appended to a key at most once in a whole
//! history, also by attempts that failed: an attempt that is run again takes new elements and is recorded as a
//! transaction of its own. A commit that is only *sent* again is the same transaction.
//!
//! Each client keeps a [`TransactionLog`] of its own; [`TransactionHistory::merge`] joins them at the end. All times are
//! nanoseconds on one clock that all clients share.

use crate::violation::Violation;
use bytes::Bytes;
use fulcrum_types::{ClientId, KeyspaceId};
use std::fmt;

/// Elements of a list that are written out for people.
const SHOWN: usize = 8;

/// A key of any keyspace: transactions cross them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey {
    /// The keyspace.
    pub keyspace: KeyspaceId,
    /// The key in it.
    pub key: Bytes,
}

impl fmt::Display for TransactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.keyspace, self.key.escape_ascii())
    }
}

/// What is appended to a list; never twice to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(pub u64);

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One thing that a transaction did, in its own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It appended to the list.
    Append {
        /// Where.
        key: TransactionKey,
        /// What.
        element: Element,
    },
    /// It read the list. What it had appended before belongs to that.
    Read {
        /// Which.
        key: TransactionKey,
        /// All of the list; nothing if the key was absent.
        seen: Vec<Element>,
    },
}

impl Step {
    /// The key concerned.
    #[must_use]
    pub const fn key(&self) -> &TransactionKey {
        match self {
            Step::Append { key, .. } | Step::Read { key, .. } => key,
        }
    }
}

/// How it ended, as far as its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// All of it took effect, and what it read held at that moment.
    Committed,
    /// None of it has taken effect, and none ever will: aborted, refused, or a condition failed.
    Failed,
    /// It may have taken effect, may at any later time, or never.
    Unknown,
}

/// One attempt of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Whose it is.
    pub client: ClientId,
    /// What it did, in its own order.
    pub steps: Vec<Step>,
    /// When its first request was sent.
    pub invoked: u64,
    /// When its client was told the outcome, if it was.
    pub returned: Option<u64>,
    /// The outcome.
    pub outcome: TransactionOutcome,
}

impl Transaction {
    /// Whether this one had ended before `other` began. Ends and begins at the same instant count as overlapping.
    #[must_use]
    pub fn precedes(&self, other: &Transaction) -> bool {
        self.returned.is_some_and(|end| end < other.invoked)
    }
}

/// One client's transactions, written by that client alone.
#[derive(Clone, Debug)]
pub struct TransactionLog {
    client: ClientId,
    transactions: Vec<Transaction>,
}

/// Names a transaction that has begun, until its outcome is written down.
#[derive(Debug)]
#[must_use = "a transaction whose outcome is not written down counts as unknown"]
pub struct TransactionTicket(usize);

impl TransactionLog {
    /// An empty log.
    #[must_use]
    pub const fn new(client: ClientId) -> Self {
        TransactionLog {
            client,
            transactions: Vec::new(),
        }
    }

    /// Writes down that a transaction begins.
    pub fn begin(&mut self, now: u64) -> TransactionTicket {
        self.transactions.push(Transaction {
            client: self.client,
            steps: Vec::new(),
            invoked: now,
            returned: None,
            outcome: TransactionOutcome::Unknown,
        });
        TransactionTicket(self.transactions.len() - 1)
    }

    /// Writes down what it did: an append before the commit is sent, a read when it was answered.
    pub fn step(&mut self, ticket: &TransactionTicket, step: Step) {
        self.transactions[ticket.0].steps.push(step);
    }

    /// Writes down how it ended.
    pub fn end(&mut self, ticket: TransactionTicket, now: u64, outcome: TransactionOutcome) {
        let transaction = &mut self.transactions[ticket.0];
        transaction.returned = (outcome != TransactionOutcome::Unknown).then_some(now);
        transaction.outcome = outcome;
    }

    /// How many transactions have begun.
    #[must_use]
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    /// Whether none has begun.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }
}

/// All transactions of all clients, over all keyspaces, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub struct TransactionHistory {
    transactions: Vec<Transaction>,
}

impl TransactionHistory {
    /// Joins what the clients wrote down.
    #[must_use]
    pub fn merge(logs: impl IntoIterator<Item = TransactionLog>) -> Self {
        logs.into_iter().flat_map(|log| log.transactions).collect()
    }

    /// The transactions, in the order in which they began.
    #[must_use]
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// The violation with its transactions written out, one a line.
    #[must_use]
    pub fn describe(&self, violation: &Violation) -> String {
        let line = |place| self.transactions.get(place).map(ToString::to_string);
        violation.with_lines(line)
    }
}

impl FromIterator<Transaction> for TransactionHistory {
    fn from_iter<T: IntoIterator<Item = Transaction>>(iter: T) -> Self {
        let mut transactions: Vec<Transaction> = iter.into_iter().collect();
        transactions.sort_by_key(|t| (t.invoked, t.returned.unwrap_or(u64::MAX), t.client));
        TransactionHistory { transactions }
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}..", self.client, self.invoked)?;
        match self.returned {
            Some(end) => write!(f, "{end}]")?,
            None => f.write_str("?]")?,
        }
        for (n, step) in self.steps.iter().enumerate() {
            f.write_str(if n == 0 { " " } else { ", " })?;
            match step {
                Step::Append { key, element } => write!(f, "append {element} to {key}")?,
                Step::Read { key, seen } => write!(f, "read {key}: {}", List(seen))?,
            }
        }
        f.write_str(match self.outcome {
            TransactionOutcome::Committed => " -> committed",
            TransactionOutcome::Failed => " -> failed",
            TransactionOutcome::Unknown => " -> unknown",
        })
    }
}

/// A list for people: its end, if it is long.
pub(crate) struct List<'a>(pub(crate) &'a [Element]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left_out = self.0.len().saturating_sub(SHOWN);
        f.write_str("[")?;
        if left_out > 0 {
            write!(f, "{left_out} before, ")?;
        }
        for (n, element) in self.0[left_out..].iter().enumerate() {
            write!(f, "{}{element}", if n == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}
