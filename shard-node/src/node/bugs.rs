//! Bugs that can be planted, so that verification proves that it would find them. Without the feature `planted-bugs` none
//! exists and [`Bugs::has`] is a constant.

/// A bug of the node itself; those of the core are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// Answers a write as soon as it is ordered.
    ReplyBeforeAcknowledged,
    /// Releases a read although its lease ran out while it was evaluated.
    SkipLeaseRecheck,
    /// Answers an `async` write although the lease ran out before the answer could leave.
    SkipWriteRecheck,
    /// Sends at once what has to wait for the disk.
    SendBeforePersisted,
    /// Applies a retry a second time.
    SkipRetryTable,
    /// Applies a retry of a write that was joined with others a second time.
    JoinedWithoutKeys,
    /// Answers a write of a joint that met a lock as if it had been applied.
    JoinedPastLocks,
    /// Installs snapshots without the retry table.
    SnapshotWithoutRetryTable,
    /// Keeps the data id although what was acknowledged may be lost (rule 5).
    KeepDataId,
    /// Serves keys that it does not own.
    SkipOwnershipCheck,
    /// Answers a read before the index that it was promised is applied.
    ReadBeforeApplied,
    /// A new primary knows of no lock that was taken before.
    ForgetLocksOnFailover,
    /// Answers a commit as soon as the home group has ordered it.
    AnswerBeforeDecided,
    /// Takes no locks on what was only read.
    ReleaseReadLocksEarly,
    /// Does a commit again when it is told of it again.
    ApplyIntentsTwice,
    /// Prepares an attempt that was refused or resolved before.
    PrepareAfterTheMark,
    /// Records a commit although an abort is recorded.
    CommitAfterTheAbort,
    /// A home group commits although somebody holds locks in its way.
    CommitPastLocks,
    /// Drops the record of a commit that not every participant has resolved.
    DropUnresolvedCommits,
    /// Gives writes the version of the resolve instead of the prepare's.
    VersionOfTheResolve,
    /// A group's time stands still while nobody writes.
    TimeStandsStill,
    /// Reads the old value under an intent, decided or not.
    ReadPastIntents,
    /// Promises and commits although the group is held for a cut.
    PromiseWhileHeld,
    /// Takes what is not resolved at a cut for aborted.
    CutWithoutIntents,
}

/// The bugs planted in a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bugs {
    #[cfg(feature = "planted-bugs")]
    planted: std::collections::BTreeSet<Bug>,
}

impl Bugs {
    #[cfg(all(test, feature = "planted-bugs"))]
    pub(crate) fn of(bug: Bug) -> Self {
        let planted = std::collections::BTreeSet::from([bug]);
        Self { planted }
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn plant(&mut self, bug: Bug) {
        self.planted.insert(bug);
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.planted.contains(&bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) const fn has(&self, _bug: Bug) -> bool {
        false
    }
}
