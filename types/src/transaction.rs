//! Transactions across shard groups: their names, what each group is asked, and what it answers (DESIGN section 7).
//!
//! A transaction is optimistic: its client reads (versions noted), keeps its writes to itself, and commits all at once. What
//! one group has to do for it is a [`Part`]. One part alone is a [`Transact`]: one entry of that group's log. Several are
//! prepared ([`PrepareRequest`], a [`Vote`] each), the **home group** last, whose yes is the decision, and
//! resolved ([`Resolution`]). `docs/transactions.md` has the tables of what each command requires and leaves behind.

use crate::entry::LogPosition;
use crate::ids::{ClientId, GroupId, KeyspaceId, Sequence};
use crate::operation::{Condition, Mutation, Version, Versioned};
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One attempt of a transaction. A client that runs a transaction again takes a new one; a request that is sent again because
/// its answer was lost carries the same one, and with it the same contents.
///
/// The order is that of age: what began earlier comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// When it began, before its first read, in milliseconds since the Unix epoch, by the clock of a server: the issue time of
    /// the client's id and what has passed since. Every test of age goes by it.
    pub begun_at_ms: u64,
    /// Whose it is.
    pub client: ClientId,
    /// The client's number for this attempt; shared with no other of its transactions.
    pub sequence: Sequence,
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.begun_at_ms, self.client.0, self.sequence.0)
    }
}

impl FromStr for TransactionId {
    type Err = String;

    /// Reads what `Display` writes.
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("'{s}' is no transaction id: it has three numbers, as in 1764073860123-7-42");
        let mut numbers = s.split('-').map(|part| part.parse::<u64>().map_err(|_| wrong()));
        let mut next = || numbers.next().unwrap_or_else(|| Err(wrong()));
        let id = TransactionId {
            begun_at_ms: next()?,
            client: ClientId(next()?),
            sequence: Sequence(next()?),
        };
        if numbers.next().is_some() {
            return Err(wrong());
        }
        Ok(id)
    }
}

/// Decides who waits and who dies: the id of the *first* attempt, kept over retries, so that a transaction that is run again
/// grows older than what it competes with. The smaller one is older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub TransactionId);

/// A hash of everything that a transaction asks, in all its groups: tells a repetition from another transaction that was given
/// the same id. Depends neither on the cluster map nor on how often it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

/// A group that a transaction touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Participant {
    /// The keyspace that it belongs to.
    pub keyspace: KeyspaceId,
    /// The group.
    pub group: GroupId,
}

/// What a transaction saw of a key. Both fields together never recur: a value that goes by a delete or by expiry leaves a
/// versioned tombstone for longer than any transaction lasts (rule 13).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Version of the last write of the key, deletes included; 0 if none is remembered.
    pub version: Version,
    /// The value, if there is one.
    pub value: Option<Versioned>,
}

/// A read that must still hold when the transaction commits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadCheck {
    /// The key.
    pub key: Bytes,
    /// [`Observed::version`].
    pub version: Version,
    /// Whether there was a value.
    pub exists: bool,
}

/// A condition on a key, whether the transaction writes it or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCondition {
    /// The key.
    pub key: Bytes,
    /// What must hold.
    pub condition: Condition,
}

/// A write of one key. A transaction writes a key once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The key.
    pub key: Bytes,
    /// What is done.
    pub mutation: Mutation,
}

/// What one group has to do for a transaction. Written keys are locked exclusively, the others shared; a key that is both is
/// locked once, exclusively. All its locks are taken at once or none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Reads that must still hold.
    pub reads: Vec<ReadCheck>,
    /// Conditions that must hold.
    pub conditions: Vec<KeyCondition>,
    /// Writes.
    pub writes: Vec<KeyWrite>,
}

/// A transaction that lies in one group: one entry of its log. It holds nothing while it waits, and never dies (rule 16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transact {
    /// The attempt.
    pub id: TransactionId,
    /// Of the whole transaction.
    pub fingerprint: Fingerprint,
    /// The newest position of this group that the client has seen (rule 8).
    pub seen: Option<LogPosition>,
    /// What to do.
    pub part: Part,
}

/// Asks a participant to promise that it can commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareRequest {
    /// The attempt.
    pub id: TransactionId,
    /// Who waits and who dies.
    pub priority: Priority,
    /// Of the whole transaction.
    pub fingerprint: Fingerprint,
    /// Where the decision is recorded. The home group is a participant, too: that of the first written key.
    pub home: Participant,
    /// All participants, the home group and this one among them.
    pub participants: Vec<Participant>,
    /// The newest position of this group that the client has seen (rule 8).
    pub seen: Option<LogPosition>,
    /// The yes of every other participant, in their order: for the home group, which is asked last. Its own yes makes the commit, and it
    /// records it in the same step. Empty for the others.
    pub votes: Vec<CommittedPart>,
    /// What this one has to do.
    pub part: Part,
}

impl PrepareRequest {
    /// Whether it is the home group's, whose yes is the decision.
    #[must_use]
    pub fn decides(&self) -> bool {
        !self.votes.is_empty()
    }
}

/// Why a transaction was aborted. Nothing of it was applied anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AbortCause {
    /// It met a lock of an older transaction and died (wait-die).
    Conflict {
        /// Who holds the lock, or waits for it and is older.
        with: TransactionId,
    },
    /// It waited for a lock for as long as it might.
    LockTimeout {
        /// Who held it.
        by: TransactionId,
    },
    /// Something that it read had changed.
    ReadInvalidated {
        /// The group that says so.
        group: GroupId,
        /// Which of the reads of that group's part, from 0.
        read: u32,
    },
    /// A condition did not hold. An outcome to the client, not an error: running it again changes nothing by itself.
    ConditionFailed {
        /// The group that says so.
        group: GroupId,
        /// Which of the conditions of that group's part, from 0.
        condition: u32,
        /// The key's version then, if it had a value.
        current: Option<Version>,
    },
    /// A participant could not be reached or refused to prepare.
    NotPrepared {
        /// Which.
        group: GroupId,
    },
    /// The deadline passed before it was decided.
    OutOfTime,
    /// Its coordinator fell silent before it was decided: a participant had the abort recorded.
    Abandoned,
    /// Its client went away before it was decided, or asked for a definite outcome.
    Client,
    /// An operator had the abort recorded.
    Operator,
    /// It began longer ago than a transaction may last.
    TooOld,
}

impl AbortCause {
    /// The name in API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            AbortCause::Conflict { .. } => "conflict",
            AbortCause::LockTimeout { .. } => "lock_timeout",
            AbortCause::ReadInvalidated { .. } => "read_invalidated",
            AbortCause::ConditionFailed { .. } => "condition_failed",
            AbortCause::NotPrepared { .. } => "not_prepared",
            AbortCause::OutOfTime => "out_of_time",
            AbortCause::Abandoned => "abandoned",
            AbortCause::Client => "client",
            AbortCause::Operator => "operator",
            AbortCause::TooOld => "too_old",
        }
    }

    /// Whether the same transaction, run again from its first read, may well commit.
    #[must_use]
    pub const fn is_worth_a_retry(self) -> bool {
        !matches!(
            self,
            AbortCause::ConditionFailed { .. } | AbortCause::Client | AbortCause::Operator
        )
    }
}

impl fmt::Display for AbortCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AbortCause::Conflict { with } => write!(f, "it met the older transaction {with}"),
            AbortCause::LockTimeout { by } => write!(f, "transaction {by} held a lock for too long"),
            AbortCause::ReadInvalidated { group, .. } => write!(f, "what it read in group {group} has changed"),
            AbortCause::ConditionFailed { group, .. } => write!(f, "a condition did not hold in group {group}"),
            AbortCause::NotPrepared { group } => write!(f, "group {group} could not prepare it"),
            AbortCause::OutOfTime => write!(f, "its deadline passed"),
            AbortCause::Abandoned => write!(f, "its coordinator fell silent"),
            AbortCause::Client => write!(f, "its client gave it up"),
            AbortCause::Operator => write!(f, "an operator aborted it"),
            AbortCause::TooOld => write!(f, "it began longer ago than a transaction may last"),
        }
    }
}

/// What a participant has promised or done. Decided when the command is applied, the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vote {
    /// Yes: locks are held and intents stored until the decision is known. Also to a repetition.
    Prepared {
        /// The version that its writes get if it commits: the index of the prepare that took the locks.
        version: Version,
    },
    /// No, for ever: this attempt is marked here and can never commit.
    Refused(AbortCause),
    /// It was prepared, committed and resolved here before: the decision is a commit.
    Resolved {
        /// The version of its writes.
        version: Version,
    },
    /// The decision is recorded in this very group. The answer to every [`Transact`] that was not refused.
    Decided(Decision),
}

/// A participant of a committed transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommittedPart {
    /// Who.
    pub participant: Participant,
    /// The version that its writes have.
    pub version: Version,
}

/// What was recorded in the home group. There is one at most, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Committed.
    Committed {
        /// Of what: a participant that holds something else under this id drops it.
        fingerprint: Fingerprint,
        /// All participants.
        parts: Vec<CommittedPart>,
    },
    /// Aborted.
    Aborted(AbortCause),
}

/// Asks the home group for its decision: the one that is recorded there. Where there is none this abort is recorded, and is it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decide {
    /// The attempt. The group need never have heard of it.
    pub id: TransactionId,
    /// Of which transaction under that id, for a party to it. Who only knows the id has none, and may have an abort recorded
    /// only where that is the business of the group: see `docs/transactions.md`.
    pub fingerprint: Option<Fingerprint>,
    /// Why it is aborted.
    pub cause: AbortCause,
}

/// Tells a participant the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The attempt.
    pub id: TransactionId,
    /// The decision.
    pub verdict: Verdict,
}

/// A decision, as far as one participant needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Intents become values if they belong to this transaction; those of another one under its id are dropped.
    Commit(Fingerprint),
    /// Intents are dropped; the attempt is marked, so that a late prepare is refused.
    Abort {
        /// Of this transaction alone: one that was given the same id is left in peace. Without it, of whatever is there: for
        /// who learned of the abort from the home group of the very intents that it found.
        of: Option<Fingerprint>,
        /// Why.
        cause: AbortCause,
    },
}

/// What a [`Resolution`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// It was prepared here, and is resolved now.
    Now,
    /// It was resolved before.
    Before,
    /// Nothing of it was here. An abort leaves a mark; of a commit it means that the mark's time has passed.
    Nothing,
}

/// What the home group knows of a transaction, to one who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// It is decided. Any replica may say so.
    Decided(Decision),
    /// This group has promised its part, and does not know what the home group has decided, if anything. Only the primary says so,
    /// linearizably, as of the answer.
    Promised {
        /// Who knows.
        home: Participant,
    },
    /// The home group has not heard of it. Only the primary says so, linearizably, as of the answer; it may be under way.
    NotSeen,
    /// No record, and too old for a new one. To a participant that still holds it: aborted. To a client: too old to tell.
    TooOld,
}

/// Values for a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observations {
    /// One for each key asked, in order.
    pub observed: Vec<Observed>,
    /// An intent was met whose decision was asked for: these observations belong to more than one moment (rule 13).
    pub met_intents: bool,
}

/// An intent in the way of a validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IntentSeen {
    /// Whose.
    pub id: TransactionId,
    /// Where its decision is, or will be.
    pub home: Participant,
}

/// Whether reads still hold, with no intent on their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validation {
    /// They do.
    Valid,
    /// One does not.
    Invalidated {
        /// Which of them, from 0.
        read: u32,
    },
    /// Intents lie on the keys: to be resolved first.
    Intents(Vec<IntentSeen>),
}

/// Why a transaction is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pending {
    /// Prepared here, and the decision is not known here.
    InDoubt,
    /// Committed in this home group, and not yet known to be resolved everywhere.
    Unresolved,
}

/// A transaction that is not finished, as one group sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionInfo {
    /// The attempt.
    pub id: TransactionId,
    /// Why it is listed.
    pub pending: Pending,
    /// Its home.
    pub home: Participant,
    /// All its participants.
    pub participants: Vec<Participant>,
    /// Since it was prepared (or decided) here, in replicated time.
    pub age: Duration,
    /// Since its coordinator was last heard of by this primary, if ever.
    pub silent: Option<Duration>,
    /// Keys locked here.
    pub keys: u32,
}

/// What is asked of a group for transactions. Every one may be sent again: a group recognises a repetition by the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionOperation {
    /// A whole transaction. Answered by [`TransactionAnswer::Vote`].
    Transact(Box<Transact>),
    /// Answered by [`TransactionAnswer::Vote`].
    Prepare(Box<PrepareRequest>),
    /// To the home group. Answered by [`TransactionAnswer::Decision`].
    Decide(Decide),
    /// To a participant. Answered by [`TransactionAnswer::Resolved`], one for each.
    Resolve(Vec<Resolution>),
    /// To the home group: every participant has durably resolved these. Answered by [`TransactionAnswer::Done`].
    Forget(Vec<TransactionId>),
    /// To a participant's primary, not replicated: these are still being worked on. Answered by [`TransactionAnswer::Done`].
    Heartbeat(Vec<TransactionId>),
    /// To the home group. Answered by [`TransactionAnswer::State`].
    LookUp(TransactionId),
    /// Linearizable. Answered by [`TransactionAnswer::Observations`].
    Read {
        /// When the transaction began: refused if that is in the future of this group, or too long ago.
        begun_at_ms: u64,
        /// The newest position of this group that the client has seen (rule 8).
        seen: Option<LogPosition>,
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Linearizable: the second round of a read-only transaction. Answered by [`TransactionAnswer::Validation`].
    Validate {
        /// When the transaction began.
        begun_at_ms: u64,
        /// What must still hold.
        reads: Vec<ReadCheck>,
    },
    /// Linearizable: what is pending here, oldest first. Answered by [`TransactionAnswer::List`].
    List {
        /// At most so many.
        limit: u32,
    },
}

impl TransactionOperation {
    /// Whether it changes nothing that is replicated.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        match self {
            TransactionOperation::Heartbeat(_)
            | TransactionOperation::LookUp(_)
            | TransactionOperation::Read { .. }
            | TransactionOperation::Validate { .. }
            | TransactionOperation::List { .. } => true,
            TransactionOperation::Transact(_)
            | TransactionOperation::Prepare(_)
            | TransactionOperation::Decide(_)
            | TransactionOperation::Resolve(_)
            | TransactionOperation::Forget(_) => false,
        }
    }

    /// Whether it ends what is in doubt, and so is served below `min_in_sync`, too (rule 6).
    #[must_use]
    pub const fn ends_doubt(&self) -> bool {
        matches!(
            self,
            TransactionOperation::Decide(_) | TransactionOperation::Resolve(_) | TransactionOperation::Forget(_)
        )
    }

    /// The name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            TransactionOperation::Transact(_) => "transact",
            TransactionOperation::Prepare(request) if request.decides() => "commit",
            TransactionOperation::Prepare(_) => "prepare",
            TransactionOperation::Decide(_) => "decide",
            TransactionOperation::Resolve(_) => "resolve",
            TransactionOperation::Forget(_) => "forget",
            TransactionOperation::Heartbeat(_) => "heartbeat",
            TransactionOperation::LookUp(_) => "look_up",
            TransactionOperation::Read { .. } => "transaction_read",
            TransactionOperation::Validate { .. } => "validate",
            TransactionOperation::List { .. } => "list_pending",
        }
    }
}

/// What a group answers to a [`TransactionOperation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionAnswer {
    /// To a transaction or a prepare.
    Vote(Vote),
    /// The decision that is recorded.
    Decision(Decision),
    /// One for each resolution, in order.
    Resolved(Vec<Resolved>),
    /// It is done.
    Done,
    /// What is known.
    State(TransactionState),
    /// Values.
    Observations(Observations),
    /// Whether reads still hold.
    Validation(Validation),
    /// What is pending.
    List(Vec<TransactionInfo>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_are_ordered_by_age() {
        let id = TransactionId {
            begun_at_ms: 1_764_073_860_123,
            client: ClientId(7),
            sequence: Sequence(42),
        };
        assert_eq!(id.to_string(), "1764073860123-7-42");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1", "1-2", "1-2-3-4", "1-2-x", "-1-2-3"] {
            assert!(bad.parse::<TransactionId>().is_err(), "{bad}");
        }
        let later = TransactionId {
            begun_at_ms: id.begun_at_ms + 1,
            client: ClientId(1),
            ..id
        };
        assert!(Priority(id) < Priority(later));
    }

    #[test]
    fn only_what_ends_doubt_is_served_below_min_in_sync() {
        let id = TransactionId::default();
        let decide = TransactionOperation::Decide(Decide {
            id,
            fingerprint: Some(Fingerprint(1)),
            cause: AbortCause::Abandoned,
        });
        assert!(decide.ends_doubt());
        let home = Participant::default();
        let commit = TransactionOperation::Prepare(Box::new(PrepareRequest {
            id,
            priority: Priority(id),
            fingerprint: Fingerprint(1),
            home,
            participants: vec![home],
            seen: None,
            votes: Vec::new(),
            part: Part::default(),
        }));
        assert!(!commit.ends_doubt());
    }
}
