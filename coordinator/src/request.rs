//! What a client asks to commit, before anybody has looked at the cluster map.

use fulcrum_types::{KeyCondition, KeyWrite, Priority, ReadCheck, SessionToken, TransactionId};

/// Something of a keyspace that is known by its name so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InKeyspace<T> {
    /// The keyspace's name.
    pub keyspace: String,
    /// What.
    pub what: T,
}

/// A read that must still hold.
pub type Checked = InKeyspace<ReadCheck>;

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
