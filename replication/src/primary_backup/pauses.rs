//! Failovers of one group do not follow each other faster and faster: recovery must not feed on itself.
//!
//! A primary that is slow because it has just taken over, or because the machine is overloaded, is no reason for the next failover at once. So who stands because
//! the primary is silent waits a pause from the last failover on, twice as long after each that came within twice
//! the last pause. The wait ends early if the primary is truly gone: its node's lease at the metadata store has run out,
//! which is asked while waiting. Nothing rests on any of this but calm: promises and compare-and-swap decide as ever.

use super::core::PrimaryBackup;
use crate::contract::{Effect, Options};
use fulcrum_types::{Epoch, GroupConfiguration, Mono, NodeId, Now};
use std::time::Duration;

/// More doublings make no difference.
const MAX_DOUBLINGS: u32 = 16;

#[derive(Clone, Debug, Default)]
pub(super) struct Pauses {
    /// Failovers that came soon after another, the last one included.
    streak: u32,
    last: Mono,
    /// The primary of that epoch is known to be without a lease.
    gone: Option<(Epoch, NodeId)>,
    next_ask: Mono,
}

impl Pauses {
    fn pause(&self, options: &Options) -> Duration {
        let Some(doublings) = self.streak.checked_sub(1) else {
            return Duration::ZERO;
        };
        let grown = options.failover_pause.saturating_mul(1 << doublings.min(MAX_DOUBLINGS));
        grown.min(options.failover_pause_max)
    }

    fn failed_over(&mut self, now: Mono, options: &Options) {
        let soon = now.since(self.last) < self.pause(options) * 2;
        self.streak = if soon { self.streak + 1 } else { 1 };
        self.last = now;
    }
}

impl PrimaryBackup {
    /// A failover is a change of primary that leaves the old one out; a planned one and a restart keep it.
    pub(super) fn note_failover(&mut self, now: Now, next: &GroupConfiguration) {
        let current = &self.hard.configuration;
        let left_out = current.primary.is_some_and(|old| !next.is_in_sync(old));
        if next.epoch > current.epoch && left_out {
            self.pauses.failed_over(now.mono, &self.options);
        }
    }

    pub(super) fn on_lease_gone(&mut self, node: NodeId) {
        let c = &self.hard.configuration;
        if c.primary == Some(node) {
            self.pauses.gone = Some((c.epoch, node));
        }
    }

    /// Whether a failover may follow the last one by now. If not, it is asked whether the primary has a lease at all.
    pub(super) fn pause_is_over(&mut self, now: Now, effects: &mut Vec<Effect>) -> bool {
        let pause = self.pauses.pause(&self.options);
        let c = &self.hard.configuration;
        let gone = c.primary.map(|primary| (c.epoch, primary));
        if now.mono >= self.pauses.last + pause || (gone.is_some() && self.pauses.gone == gone) {
            return true;
        }
        let silent = now.mono >= self.backup.patience_until && now.mono >= self.pauses.next_ask;
        if let Some(node) = c.primary.filter(|_| silent) {
            self.pauses.next_ask = now.mono + self.options.retry_after;
            effects.push(Effect::ReadLease { node });
        }
        false
    }
}
