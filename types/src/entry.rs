//! One position of a group's log.

use crate::ids::{Epoch, Index};
use crate::time::ReplicatedTime;
use bytes::Bytes;
use std::fmt;

/// Which entry: its epoch and index. Two logs that agree on a position agree on everything before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogPosition {
    /// Epoch in which the entry was ordered.
    pub epoch: Epoch,
    /// Where it stands.
    pub index: Index,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.epoch)
    }
}

/// What an entry asks the state machine to do. Cores do not look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new primary's first entry.
    Noop,
    /// An encoded command.
    Command(Bytes),
}

impl Payload {
    /// Bytes that it takes in a message or in the log, about.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Payload::Noop => 0,
            Payload::Command(b) => b.len(),
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands and in which epoch it was ordered.
    pub position: LogPosition,
    /// The primary's time when it was ordered; never less than that of the entry before.
    pub time: ReplicatedTime,
    /// What it asks.
    pub payload: Payload,
}

impl Entry {
    /// Bytes that it takes in a message or in the log, about.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len() + 32
    }
}
