//! All that a coordinator's core may ask of the world.

use super::input::RequestId;
use fulcrum_types::{
    AbortCause, CommittedPart, GroupId, Mono, Observations, Participant, Receipt, Refusal, TransactionId,
    TransactionOperation, TransactionState, Version,
};
use std::time::Duration;

/// The core's name for a question. Never used twice in one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// The closed list of effects. They are run in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a group. The runner finds who can answer, follows redirects, and sends again what got lost: every step may be
    /// repeated. Ends with [`Input::Answered`](super::Input), at the deadline at the latest.
    Ask {
        /// The core's name for it.
        ask: AskId,
        /// Whom.
        to: Participant,
        /// What.
        operation: TransactionOperation,
        /// When an answer is of no use any more.
        deadline: Mono,
        /// The request that it is asked for, of a read or a look-up. What belongs to a transaction names that itself.
        request: Option<RequestId>,
    },
    /// Answer a client: once for each request that was not cancelled.
    Reply {
        /// Which request.
        request: RequestId,
        /// The answer, or why there is none: [`Refusal::Aborted`] for an abort, [`Refusal::Unknown`] when it may yet commit.
        result: Result<Reply, Refusal>,
    },
    /// A fact for metrics and logs.
    Observed(Observation),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Committed; or, without writes, all reads are of one moment.
    Committed {
        /// Every group and the version of the writes there; empty without writes.
        parts: Vec<CommittedPart>,
        /// Of the decision and of every prepare: together they cover all that was written.
        receipts: Vec<Receipt>,
        /// Rounds of replication that the answer waited for.
        rounds: u32,
    },
    /// A condition did not hold, and the attempt can never commit.
    ConditionFailed {
        /// The group that says so.
        group: GroupId,
        /// Which condition of its part.
        condition: u32,
        /// The key's version then, if it had a value.
        current: Option<Version>,
        /// Of that group's answer.
        receipts: Vec<Receipt>,
    },
    /// Values, by group, in the order of the request's parts.
    Values {
        /// One for each part.
        parts: Vec<Observations>,
        /// One for each part.
        receipts: Vec<Receipt>,
    },
    /// What is known of a transaction.
    State {
        /// It.
        state: TransactionState,
        /// Of the group that says so.
        receipt: Receipt,
    },
}

/// A part of a transaction's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// From the client's request to the last vote.
    Prepare,
    /// From then to the recorded decision.
    Decide,
    /// From then until every participant has resolved.
    Resolve,
    /// A validation of reads.
    Validate,
}

impl Phase {
    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::Decide => "decide",
            Phase::Resolve => "resolve",
            Phase::Validate => "validate",
        }
    }
}

/// How a transaction ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Committed.
    Committed,
    /// Aborted.
    Aborted(AbortCause),
    /// Its client was told UNKNOWN.
    Unknown,
    /// Its client was told a refusal that is no abort.
    Refused,
    /// Its client went away.
    Cancelled,
}

/// Facts, for metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A phase is over.
    Passed {
        /// Which.
        phase: Phase,
        /// How long it took.
        took: Duration,
    },
    /// A transaction is over for its client.
    Ended {
        /// Which.
        id: TransactionId,
        /// How.
        how: Ended,
        /// Groups.
        participants: usize,
        /// Rounds of replication that it waited for.
        rounds: u32,
        /// Since the client's request.
        took: Duration,
    },
    /// A consistent read had to begin again.
    ReadAgain {
        /// How often so far.
        times: u32,
    },
    /// Left to the groups to finish: participants do not answer.
    LeftBehind {
        /// Which.
        id: TransactionId,
        /// Participants that have not resolved it, as far as known here.
        unresolved: usize,
    },
}
