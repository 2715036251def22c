//! The decision table of one request sent through a router: what to do with what comes back. Pure.
//!
//! The router retries already, within the deadline that it is given. The client retries what the router cannot: a router
//! that cannot be reached, a connection that broke, a refusal for overload. A write carries the same idempotency key every
//! time. Once an attempt may have been applied, no later refusal can take that back: only an answer settles it, or the word that
//! a transaction is aborted.

use fulcrum_common::routing::Failure;
use fulcrum_types::{Act, Refusal};

/// What to do after a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try again after a pause; through another router if this one was not reached.
    Again {
        /// Whether to turn to another router.
        elsewhere: bool,
    },
    /// Give it up.
    Fail(Verdict),
}

/// What the caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was applied.
    Refused(Refusal),
    /// It may have been applied.
    Unknown(String),
    /// No router was reached.
    Unreachable(String),
}

/// One request under way.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    /// Whether it changes anything.
    write: bool,
    /// Whether the first word, or the first that got lost, is the last: to repeat it is for the caller.
    once: bool,
    /// Whether some attempt may have been applied.
    in_doubt: bool,
    failed: u32,
    last: Option<Failure>,
    /// Why nobody was reached, the last time that was so.
    not_sent: Option<String>,
}

impl Retries {
    pub(crate) fn new(write: bool) -> Self {
        Self {
            write,
            ..Self::default()
        }
    }

    /// A request that costs others something each time, and has a name that is used once: it is repeated only as long as nobody was
    /// reached.
    pub(crate) fn once() -> Self {
        Self {
            once: true,
            ..Self::default()
        }
    }

    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// Whether the last attempt reached nobody.
    pub(crate) fn not_reached(&self) -> bool {
        matches!(self.last, Some(Failure::NotSent(_)))
    }

    pub(crate) fn after(&mut self, failure: Failure) -> Next {
        self.failed += 1;
        let failure = match failure {
            Failure::Refused(Refusal::Unknown { reason }) => Failure::Lost(reason),
            other => other,
        };
        let next = match &failure {
            Failure::NotSent(reason) => {
                self.not_sent = Some(reason.clone());
                Next::Again { elsewhere: true }
            }
            Failure::Lost(reason) if self.once => Next::Fail(Verdict::Unknown(reason.clone())),
            Failure::Lost(_) => {
                self.in_doubt |= self.write;
                Next::Again { elsewhere: true }
            }
            Failure::Refused(refusal) if !self.once && worth_repeating(refusal) => Next::Again { elsewhere: false },
            Failure::Refused(refusal) => Next::Fail(self.verdict(refusal)),
        };
        self.last = Some(failure);
        next
    }

    /// What the caller is told when the time is up.
    pub(crate) fn out_of_time(&self) -> Verdict {
        match &self.last {
            Some(Failure::Refused(refusal)) => self.verdict(refusal),
            Some(Failure::Lost(reason)) if self.in_doubt => Verdict::Unknown(reason.clone()),
            Some(Failure::NotSent(reason)) if self.in_doubt => Verdict::Unknown(reason.clone()),
            Some(Failure::NotSent(reason)) => Verdict::Unreachable(reason.clone()),
            // The last attempt often has no time left to find out what those before it did.
            Some(Failure::Lost(reason)) => Verdict::Unreachable(match &self.not_sent {
                Some(before) => format!("{reason}; before that, {before}"),
                None => reason.clone(),
            }),
            None => Verdict::Refused(Refusal::DeadlineExceeded),
        }
    }

    fn verdict(&self, refusal: &Refusal) -> Verdict {
        // That an attempt of a transaction is aborted is a fact, however many answers got lost before.
        if self.in_doubt && !matches!(refusal, Refusal::Aborted { .. }) {
            return Verdict::Unknown(format!("an earlier attempt got lost; then: {}", refusal.why()));
        }
        Verdict::Refused(refusal.clone())
    }
}

/// A router has waited for in-sync replicas itself; what it says of them is its last word.
fn worth_repeating(refusal: &Refusal) -> bool {
    !matches!(refusal, Refusal::NotEnoughReplicas { .. }) && matches!(refusal.act(), Act::Retry | Act::Redirect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{AbortCause, TransactionId};

    const AGAIN: Next = Next::Again { elsewhere: false };
    const ELSEWHERE: Next = Next::Again { elsewhere: true };

    fn lost() -> Failure {
        Failure::Lost("reset".into())
    }

    #[test]
    fn what_has_a_name_of_its_own_is_not_repeated_once_it_was_sent() {
        let mut cut = Retries::once();
        assert_eq!(cut.after(Failure::NotSent("no route".into())), ELSEWHERE);
        let unknown = Verdict::Unknown("reset".into());
        assert_eq!(cut.after(lost()), Next::Fail(unknown));
        let mut cut = Retries::once();
        let refused = Verdict::Refused(Refusal::NotReady);
        assert_eq!(cut.after(Failure::Refused(Refusal::NotReady)), Next::Fail(refused));
    }

    #[test]
    fn a_lost_read_is_no_doubt() {
        let mut read = Retries::new(false);
        assert_eq!(read.after(lost()), ELSEWHERE);
        let refusal = Refusal::UnknownKeyspace { keyspace: "x".into() };
        assert_eq!(
            read.after(Failure::Refused(refusal.clone())),
            Next::Fail(Verdict::Refused(refusal))
        );
    }

    #[test]
    fn a_lost_write_stays_in_doubt_whatever_is_refused_later() {
        let mut write = Retries::new(true);
        assert_eq!(write.after(Failure::NotSent("refused".into())), ELSEWHERE);
        assert!(!write.in_doubt);
        assert_eq!(write.after(lost()), ELSEWHERE);
        assert_eq!(write.after(Failure::Refused(Refusal::Overloaded)), AGAIN);
        assert!(matches!(write.out_of_time(), Verdict::Unknown(_)));
        let next = write.after(Failure::Refused(Refusal::TooOldToTell));
        assert!(matches!(next, Next::Fail(Verdict::Unknown(_))), "{next:?}");
    }

    #[test]
    fn that_a_transaction_is_aborted_ends_all_doubt() {
        let mut commit = Retries::new(true);
        commit.after(lost());
        let aborted = Refusal::Aborted {
            id: TransactionId::default(),
            cause: AbortCause::Abandoned,
        };
        let next = commit.after(Failure::Refused(aborted.clone()));
        assert_eq!(next, Next::Fail(Verdict::Refused(aborted)));
    }

    #[test]
    fn who_must_act_decides() {
        let refused = |refusal| Retries::new(true).after(Failure::Refused(refusal));
        assert_eq!(refused(Refusal::NotReady), AGAIN);
        assert_eq!(refused(Refusal::DeadlineExceeded), AGAIN);
        assert_eq!(refused(Refusal::Unknown { reason: "r".into() }), ELSEWHERE);
        for last_word in [
            Refusal::NotEnoughReplicas { have: 1, need: 2 },
            Refusal::NoDataLeft,
            Refusal::Invalid { reason: "r".into() },
        ] {
            assert_eq!(refused(last_word.clone()), Next::Fail(Verdict::Refused(last_word)));
        }
    }

    #[test]
    fn what_costs_others_is_asked_again_only_of_who_has_not_answered() {
        let mut cut = Retries::once();
        assert_eq!(cut.after(Failure::NotSent("no route".into())), ELSEWHERE);
        let refusal = Refusal::Unreachable {
            reason: "group 1 was not held".into(),
        };
        let told = Next::Fail(Verdict::Refused(refusal.clone()));
        assert_eq!(cut.after(Failure::Refused(refusal)), told);
    }

    #[test]
    fn out_of_time_names_what_happened_last() {
        let mut read = Retries::new(false);
        assert_eq!(read.out_of_time(), Verdict::Refused(Refusal::DeadlineExceeded));
        read.after(Failure::NotSent("no route".into()));
        assert_eq!(read.out_of_time(), Verdict::Unreachable("no route".into()));
        read.after(Failure::Lost("no answer".into()));
        let told = "no answer; before that, no route";
        assert_eq!(
            read.out_of_time(),
            Verdict::Unreachable(told.into()),
            "and why nobody was reached"
        );
        read.after(Failure::Refused(Refusal::Fenced));
        assert_eq!(read.out_of_time(), Verdict::Refused(Refusal::Fenced));
    }
}
