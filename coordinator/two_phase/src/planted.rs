//! Bugs on purpose: verification is only worth what it finds (DESIGN section 12.5).
//!
//! Compiled in by the feature `planted-bugs` alone; without it `planted!` is the constant `false`.

macro_rules! planted {
    ($core:expr, $bug:ident) => {{
        #[cfg(feature = "planted-bugs")]
        {
            $core.bug == Some($crate::planted::Bug::$bug)
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
    /// The client is told "committed" when all others have said yes, before the home group has recorded it.
    AnswerBeforeRecord,
    /// The home group is asked for the commit when all other votes but one are there.
    DecideWithoutAllVotes,
    /// When votes are not waited for any more, a commit that the home group was asked for is taken to have failed.
    AbortAfterCommitAsked,
    /// A read-only transaction trusts its first round.
    SkipSecondRound,
    /// The client is told "aborted" as soon as the abort is asked for, without a mark or a record.
    TellAbortUnrecorded,
    /// A participant that stays silent is taken to have refused: the others are told to let go.
    SilenceIsRefusal,
    /// The home group is told to forget as soon as it has decided.
    ForgetUnresolved,
    /// A home group that has no record any more is taken to have recorded an abort.
    TooOldIsAborted,
    /// A commit of another transaction under the same id is taken for the own one.
    IgnoreFingerprint,
    /// Intents in the way of a validation are taken for aborted while they are undecided.
    UndecidedIsAborted,
    /// Participants hear nothing while votes are collected.
    NoHeartbeats,
    /// A cut takes a hold that was over too early for one that lasted.
    TrustLapsedHolds,
}
