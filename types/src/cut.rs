//! Cuts: one moment through several groups, of which a backup is made.
//!
//! A group that is **held** takes no new promises and no commits of transactions; all else goes on. Once all groups of a cut are held,
//! and were found to be held still when they are **released**, there was a moment at which all of them were: no transaction lies on
//! both sides of it. Each replica **pins** its state as the hold found it, and reads of the cut are answered from there.
//! `docs/backup.md` says what a backup promises, `docs/decisions/2026-11-28-backup-cut.md` why it is so.

use crate::entry::LogPosition;
use crate::operation::Versioned;
use crate::time::ReplicatedTime;
use crate::transaction::{Fingerprint, Participant, TransactionId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// One attempt at a cut; never used for another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CutId(pub u64);

impl fmt::Display for CutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cut-{:016x}", self.0)
    }
}

/// Where a cut goes through one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutPoint {
    /// The entry that held the group: the state is that of all entries up to it.
    pub position: LogPosition,
    /// Replicated time of that entry.
    pub time: ReplicatedTime,
}

/// A cut that was made: no transaction lies on both sides of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Which.
    pub id: CutId,
    /// Where it goes through each group.
    pub points: BTreeMap<Participant, CutPoint>,
}

/// A step of a cut that goes through the log. Every one may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutStep {
    /// Hold the group, and pin its state. Answered by [`CutAnswer::Held`].
    Hold {
        /// For which cut.
        id: CutId,
        /// By replicated time: then it is over by itself, released or not.
        hold: Duration,
    },
    /// Let go. Answered by [`CutAnswer::Held`] if it was held until now, else by [`CutAnswer::Lapsed`].
    Release {
        /// Of which cut.
        id: CutId,
    },
    /// The pinned state is still wanted, on every replica. Answered by [`CutAnswer::Done`].
    Keep {
        /// Of which cut.
        id: CutId,
    },
    /// The pinned state is not wanted any more, nor the hold. Answered by [`CutAnswer::Done`].
    End {
        /// Of which cut.
        id: CutId,
    },
}

/// What is asked of a group for a cut. Every one may be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CutOperation {
    /// Of the primary.
    Step(CutStep),
    /// Of any replica that has pinned it. Answered by [`CutAnswer::Page`].
    Read {
        /// Of which cut.
        id: CutId,
        /// The point of this group.
        at: LogPosition,
        /// The first key wanted.
        start: Bytes,
        /// About so many bytes at most.
        max_bytes: u32,
    },
    /// Of any replica of a home group that has pinned it: which of these transactions the cut has as committed. Answered by
    /// [`CutAnswer::Verdicts`], one for each.
    LookUp {
        /// Of which cut.
        id: CutId,
        /// The point of this group.
        at: LogPosition,
        /// Which transactions.
        transactions: Vec<TransactionId>,
    },
}

impl CutOperation {
    /// The name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            CutOperation::Step(CutStep::Hold { .. }) => "cut_hold",
            CutOperation::Step(CutStep::Release { .. }) => "cut_release",
            CutOperation::Step(CutStep::Keep { .. }) => "cut_keep",
            CutOperation::Step(CutStep::End { .. }) => "cut_end",
            CutOperation::Read { .. } => "cut_read",
            CutOperation::LookUp { .. } => "cut_look_up",
        }
    }
}

/// What a group answers to a [`CutOperation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CutAnswer {
    /// It is held, or was until it was released, since this point.
    Held(CutPoint),
    /// The hold was over, or another cut's.
    Lapsed,
    /// It is done.
    Done,
    /// Some keys, in order.
    Page(CutPage),
    /// One for each transaction, in order.
    Verdicts(Vec<CutVerdict>),
}

/// Keys of a pinned state, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutPage {
    /// Values, as they are without the intents.
    pub rows: Vec<(Bytes, Versioned)>,
    /// Intents on keys of the same range.
    pub intents: Vec<CutIntent>,
    /// Where the next page starts; none if this is the last one.
    pub next: Option<Bytes>,
}

/// An intent in a pinned state: whether it counts says the home group's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutIntent {
    /// The key.
    pub key: Bytes,
    /// Whose.
    pub id: TransactionId,
    /// Of that transaction.
    pub fingerprint: Fingerprint,
    /// Where it is decided.
    pub home: Participant,
    /// What the key holds if it is committed; none if it is deleted, or its time is over.
    pub becomes: Option<Versioned>,
}

/// What a home group's pinned state has of a transaction that another group's has an intent of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutVerdict {
    /// It was committed before the cut.
    Committed(Fingerprint),
    /// It was not, and whatever became of it later is behind the cut.
    NotCommitted,
    /// No record, and so old that there may have been one: this cut cannot tell.
    TooOld,
}
