//! Staleness bounds, on one clock (DESIGN section 6).
//!
//! A backup's acknowledgement carries its own clock `t0`. The primary echoes the newest `t0` while its lease holds and its
//! no-op is committed. A message that echoes `t0` and carries commit index `i` proves: once `i` is applied, all that anyone acknowledged
//! before `t0` is in the state, if the state is a part of this primary's history at all: in `async` that is known only of what was
//! matched. Proofs end with the epoch (rule 9) and with the life of the backup (rule 4).

use super::body::Beat;
use super::core::PrimaryBackup;
use fulcrum_types::{Index, Mono};
use std::collections::VecDeque;
use std::time::Duration;

/// Proofs that wait for their index to be applied; the oldest is let go.
const MAX_PENDING: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Staleness {
    /// The state holds all that was acknowledged before this moment of our clock.
    applied: Option<Mono>,
    pending: VecDeque<(Mono, Index)>,
}

impl Staleness {
    fn prove(&mut self, t0: Mono, commit: Index, applied: Index) {
        if commit <= applied {
            self.applied = self.applied.max(Some(t0));
            return;
        }
        if self.pending.back().is_some_and(|(newest, _)| *newest >= t0) {
            return;
        }
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back((t0, commit));
    }

    pub(super) fn applied(&mut self, through: Index) {
        while let Some((t0, index)) = self.pending.front().copied() {
            if index > through {
                break;
            }
            self.applied = self.applied.max(Some(t0));
            self.pending.pop_front();
        }
    }

    /// What the state as it is proves.
    pub(super) fn now(&self) -> Option<Mono> {
        self.applied
    }

    /// The oldest proof still under way that is at least this fresh, and the index it waits for.
    pub(super) fn at_least(&self, fresh: Mono) -> Option<(Mono, Index)> {
        self.pending.iter().copied().find(|(t0, _)| *t0 >= fresh)
    }
}

impl PrimaryBackup {
    pub(super) fn note_proof(&mut self, now: Mono, commit: Index, beat: Beat) {
        if planted!(self, StalenessFromContact) {
            self.backup.staleness.prove(now, commit, self.applied);
        }
        if self.applied > self.backup.matched {
            return;
        }
        let same_life = beat.echoed_boot == self.boot || planted!(self, IgnoreBootId);
        let t0 = beat.echoed_backup_clock.filter(|_| same_life);
        if let Some(t0) = t0.filter(|t0| *t0 <= now) {
            self.backup.staleness.prove(t0, commit, self.applied);
        }
    }

    /// The bound that a read served now could state.
    pub(super) fn provable_staleness(&self, now: Mono) -> Option<Duration> {
        if self.primary.is_some() {
            return self.serving_lease(now).map(|_| Duration::ZERO);
        }
        let t0 = self.backup.staleness.now()?;
        Some(self.options.stretched(now.since(t0)))
    }
}
