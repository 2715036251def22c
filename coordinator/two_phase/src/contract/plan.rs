//! What is to be done, split by group: made by the runner from a client's request and the cluster map.

use bytes::Bytes;
use fulcrum_types::{Fingerprint, LogPosition, Part, Participant, Priority, TransactionId};

/// A transaction to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The attempt.
    pub id: TransactionId,
    /// Kept over attempts.
    pub priority: Priority,
    /// Of everything that is asked.
    pub fingerprint: Fingerprint,
    /// The group of the first written key; without writes, of the first condition. A read-only plan has no decision, and it
    /// means nothing there.
    pub home: Participant,
    /// One for each group, in the order of groups; not empty. The home group's is one of them.
    pub parts: Vec<PlannedPart>,
}

/// What one group has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPart {
    /// The group.
    pub participant: Participant,
    /// The newest position of the group that the client has seen (rule 8).
    pub seen: Option<LogPosition>,
    /// What to do.
    pub part: Part,
}

/// What one group has to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRead {
    /// The group.
    pub participant: Participant,
    /// The newest position of the group that the client has seen (rule 8).
    pub seen: Option<LogPosition>,
    /// The keys.
    pub keys: Vec<Bytes>,
}

/// How a plan is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// No writes and no conditions: its reads are validated, nothing is locked.
    ReadOnly,
    /// One group: one entry of its log.
    OneGroup,
    /// Several groups: two phases.
    Spanning,
}

impl Plan {
    /// Whether it locks and writes nothing.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.shape() == Shape::ReadOnly
    }

    pub(crate) fn key(&self) -> (TransactionId, Fingerprint) {
        (self.id, self.fingerprint)
    }

    /// How it is carried out.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let asks_more = |part: &Part| !part.writes.is_empty() || !part.conditions.is_empty();
        if !self.parts.iter().any(|planned| asks_more(&planned.part)) {
            Shape::ReadOnly
        } else if self.parts.len() == 1 {
            Shape::OneGroup
        } else {
            Shape::Spanning
        }
    }
}
