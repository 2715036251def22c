//! What clients ask of transactions and what they are told, before and after anybody has looked at the cluster map.
//!
//! Keys are named by the keyspace's name here; [`transaction`](crate::transaction) has what becomes of them by group.

use crate::ids::GroupId;
use crate::operation::Version;
use crate::receipt::Receipt;
use crate::session::SessionToken;
use crate::transaction::{
    AbortCause, CommittedPart, Decision, KeyCondition, KeyWrite, Observed, Priority, ReadCheck, TransactionId,
    TransactionInfo, TransactionState,
};
use bytes::Bytes;

/// Something of a keyspace that is known by its name so far.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InKeyspace<T> {
    /// The keyspace's name.
    pub keyspace: String,
    /// What.
    pub what: T,
}

/// A read that must still hold.
pub type Checked = InKeyspace<ReadCheck>;

/// A key.
pub type NamedKey = InKeyspace<Bytes>;

/// Asks for values that a transaction may go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionRead {
    /// The transaction that reads: its age is judged.
    pub id: TransactionId,
    /// The keys.
    pub keys: Vec<NamedKey>,
    /// All values are to be of one moment.
    pub consistent: bool,
    /// What the client has seen (rule 8).
    pub session: SessionToken,
}

/// The values, as a client is told them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionValues {
    /// In the order of the keys asked.
    pub observed: Vec<Observed>,
    /// One a group.
    pub receipts: Vec<Receipt>,
}

/// A transaction to commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitRequest {
    /// The attempt.
    pub id: TransactionId,
    /// The first attempt.
    pub priority: Priority,
    /// Reads that must still hold.
    pub reads: Vec<Checked>,
    /// Conditions, those of the writes among them.
    pub conditions: Vec<InKeyspace<KeyCondition>>,
    /// Writes, each key once. The group of the first is the home group.
    pub writes: Vec<InKeyspace<KeyWrite>>,
    /// What the client has seen (rule 8).
    pub session: SessionToken,
}

/// What became of a transaction that was not aborted, and the proof. An abort is a [`Refusal`](crate::Refusal).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What.
    pub outcome: CommitOutcome,
    /// One a group: together they cover all that was written.
    pub receipts: Vec<Receipt>,
}

/// What became of a transaction that was not aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is committed; or, without writes, all its reads are of one moment.
    Committed {
        /// The version of each write, in their order.
        versions: Vec<Version>,
        /// Rounds of replication that the answer waited for.
        rounds: u32,
    },
    /// A condition did not hold, and nothing was written.
    ConditionFailed {
        /// Whose condition.
        key: NamedKey,
        /// The key's version then, if it had a value.
        current: Option<Version>,
    },
}

/// Asks what became of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutcomeRequest {
    /// The attempt.
    pub id: TransactionId,
    /// The first written key: tells the home group. Without it every group is asked.
    pub first_written: Option<NamedKey>,
    /// If it is not decided, abort it, so that the answer is definite.
    pub settle: bool,
}

/// What became of a transaction, and the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What.
    pub outcome: TransactionOutcome,
    /// Of the group that says so.
    pub receipt: Receipt,
}

/// What became of a transaction, to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// Committed; every group, and the version that the writes have there.
    Committed(Vec<CommittedPart>),
    /// Aborted, and why.
    Aborted(AbortCause),
    /// Prepared by some group and not decided, as of the answer.
    Undecided,
    /// Not heard of, as of the answer; it may be under way.
    NotSeen,
    /// No longer kept.
    TooOld,
}

impl From<TransactionState> for TransactionOutcome {
    fn from(state: TransactionState) -> Self {
        match state {
            TransactionState::Decided(Decision::Committed { parts, .. }) => TransactionOutcome::Committed(parts),
            TransactionState::Decided(Decision::Aborted(cause)) => TransactionOutcome::Aborted(cause),
            TransactionState::Promised { .. } => TransactionOutcome::Undecided,
            TransactionState::NotSeen => TransactionOutcome::NotSeen,
            TransactionState::TooOld => TransactionOutcome::TooOld,
        }
    }
}

/// Asks for transactions that are not finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListInDoubt {
    /// Of one keyspace; none: of all.
    pub keyspace: Option<String>,
    /// At most so many; 0: as many as the server gives.
    pub limit: u32,
    /// Also those that are committed and not yet known to be resolved everywhere.
    pub unresolved: bool,
}

/// Transactions that are not finished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InDoubt {
    /// The oldest first; one a transaction and group that says so.
    pub transactions: Vec<(GroupId, TransactionInfo)>,
    /// Groups that did not answer: what is in doubt there is not known.
    pub silent: Vec<GroupId>,
}

/// An operator's word: abort it, unless it is decided already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolveRequest {
    /// The attempt.
    pub id: TransactionId,
    /// Its home group.
    pub home: GroupId,
}
