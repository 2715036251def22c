//! The primary's lease, on monotonic clocks (DESIGN section 5).
//!
//! A beat carries the primary's clock. Who echoes it has promised not to take over for `grace` after receipt. The lease runs
//! from the oldest echo over the in-sync set, for `lease` on the primary's clock; since `grace > lease x (1 + drift)`, it is over
//! before any member's promise is. Every member that might be promoted is counted: while a change is unsettled, those of
//! both sets (rule 2). A primary that is alone in sync needs nobody's echo: no compare-and-swap but its own can promote another.

use super::core::PrimaryBackup;
use fulcrum_types::{Member, Mono};

impl PrimaryBackup {
    /// Calls `f` for every other member of the in-sync set and of any that may have taken, or may yet take, its place.
    pub(super) fn each_counted(&self, mut f: impl FnMut(Member)) {
        let c = &self.hard.configuration;
        let proposed = self.changes.proposals();
        if planted!(self, CommitBeforeEviction)
            && let Some(next) = self.changes.proposals().next()
        {
            next.in_sync
                .iter()
                .copied()
                .filter(|m| m.node != self.me.node)
                .for_each(f);
            return;
        }
        for member in &c.in_sync {
            if member.node != self.me.node {
                f(*member);
            }
        }
        for member in proposed.flat_map(|p| &p.in_sync) {
            if member.node != self.me.node && !c.in_sync.contains(member) {
                f(*member);
            }
        }
    }

    /// The end of the lease, if it holds now.
    pub(super) fn lease_until(&self, now: Mono) -> Option<Mono> {
        let primary = self.primary.as_ref()?;
        if planted!(self, NoLease) {
            return Some(now + self.options.lease);
        }
        let given_up = primary.hand_over.as_ref().is_some_and(|h| h.given_up_at.is_some());
        if (given_up && !planted!(self, KeepLeaseAtHandOver)) || !self.is_healthy(now) {
            return None;
        }
        let mut oldest = Some(now);
        self.each_counted(|member| {
            let peer = primary.peers.get(&member.node).filter(|p| p.is(member));
            oldest = oldest.min(peer.and_then(|p| p.echo));
        });
        let until = oldest? + self.options.lease;
        (until > now).then_some(until)
    }

    /// The lease of a primary that has taken over: what reads and staleness proofs rest on (rules 3 and 9).
    pub(super) fn serving_lease(&self, now: Mono) -> Option<Mono> {
        let ready = self.primary.as_ref().is_some_and(|p| p.ready) || planted!(self, ServeBeforeNoop);
        if ready { self.lease_until(now) } else { None }
    }

    /// The newest round that every counted member has confirmed.
    pub(super) fn confirmed_round(&self) -> u64 {
        let Some(primary) = &self.primary else { return 0 };
        let mut confirmed = primary.round;
        self.each_counted(|member| {
            let peer = primary.peers.get(&member.node).filter(|p| p.is(member));
            confirmed = confirmed.min(peer.map_or(0, |p| p.round));
        });
        confirmed
    }
}
