//! Bugs on purpose: verification is only worth what it finds (DESIGN section 12.5).
//!
//! Compiled in by the feature `planted-bugs` alone; without it `planted!` is the constant `false`.

macro_rules! planted {
    ($core:expr, $bug:ident) => {{
        #[cfg(feature = "planted-bugs")]
        {
            $core.bug == Some($crate::primary_backup::planted::Bug::$bug)
        }
        #[cfg(not(feature = "planted-bugs"))]
        {
            false
        }
    }};
}

#[cfg(feature = "planted-bugs")]
macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What can be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug { $($(#[$doc])* $name,)* }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Bug] = &[$(Bug::$name,)*];

            /// The name by which commands ask for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Bug::$name => stringify!($name),)* }
            }
        }
    };
}

#[cfg(feature = "planted-bugs")]
bugs! {
    /// Messages of an older epoch are taken as if they were of this one.
    DropFencing,
    /// A backup acknowledges entries before they are on its disk.
    AcknowledgeBeforePersist,
    /// A primary counts its own entries as durable when it has appended them.
    CommitBeforePersist,
    /// Reads under the lease are not checked again after they were evaluated.
    SkipLeaseRecheck,
    /// A replica outside the in-sync set stands for primary.
    PromoteFromOutside,
    /// A backup to be removed no longer counts as soon as the removal is proposed.
    CommitBeforeEviction,
    /// A restarted primary goes on in the epoch of its earlier life.
    ReuseEpoch,
    /// A reading of a backup's clock from an earlier life is taken as one of this life.
    IgnoreBootId,
    /// A backup acknowledges its whole log, matched in this epoch or not.
    AcknowledgeUnmatched,
    /// A conflict below the commit index is truncated like any other.
    TruncateBelowCommit,
    /// A restarted backup stands for primary at once.
    ForgetGrace,
    /// A compare-and-swap whose outcome is unknown is taken to have failed.
    UnknownIsLost,
    /// A backup measures staleness from the last contact, not from the echo of its clock.
    StalenessFromContact,
    /// A new primary serves reads before its no-op is committed.
    ServeBeforeNoop,
    /// A session's position is checked by index alone.
    SessionIndexOnly,
    /// A primary serves reads locally without any lease.
    NoLease,
    /// A confirming round counts answers to beats sent before it began.
    OldRoundCounts,
    /// A backup that promised not to take over does so all the same.
    BreakPromise,
    /// A learner is added as soon as it answers, caught up or not.
    AdmitEarly,
    /// A replica with new data takes the place of the one listed.
    IgnoreDataId,
    /// A diverged tail is truncated without a record of it.
    ForgetDivergence,
    /// A primary that hands over keeps its lease.
    KeepLeaseAtHandOver,
    /// Commit waits no longer for a member that is leaving, before it has left.
    ForgetLeaving,
    /// Writes are acknowledged although fewer than `min_in_sync` are in sync.
    IgnoreMinInSync,
    /// An `async` primary acknowledges without its lease.
    AcknowledgeWithoutLease,
    /// Entries are stamped with the wall clock, whatever the log says.
    TimeGoesBack,
    /// Entries are stamped with the primary's wall clock, however far it jumps.
    FollowWallClock,
}
