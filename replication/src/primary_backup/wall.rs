//! Wall clocks: never for promises, only to anchor replicated time (rule 11).
//!
//! What a peer's clock showed is kept with the moment of *our monotonic* clock at which it came: our own wall clock may jump.

use super::core::PrimaryBackup;
use fulcrum_types::{Mono, NodeId, Now};
use std::time::Duration;

impl PrimaryBackup {
    pub(super) fn note_wall(&mut self, now: Now, from: NodeId, wall_ms: u64) {
        if self.peers().any(|peer| peer == from) {
            self.walls.insert(from, (wall_ms, now.mono));
        }
    }

    /// What the wall clocks of peers show by now. Only what was heard lately counts: clocks are set right, messages come late.
    fn peer_walls(&self, now: Mono) -> impl Iterator<Item = Duration> {
        let lately = self.options.grace * 4;
        let recent = self.walls.values().filter(move |(_, heard)| now.since(*heard) < lately);
        recent.map(move |(wall_ms, heard)| Duration::from_millis(*wall_ms).saturating_add(now.since(*heard)))
    }

    /// The newest moment that the clocks of a majority of the replicas have reached, if so many are known.
    pub(super) fn agreed_wall(&self, now: Now) -> Option<Duration> {
        let mut clocks: Vec<Duration> = self.peer_walls(now.mono).collect();
        clocks.push(Duration::from_millis(now.wall_ms));
        clocks.sort_unstable_by(|a, b| b.cmp(a));
        let replicas = self.peers().count() + 1;
        clocks.get(replicas / 2).copied()
    }

    /// The lowest clock at hand; of our own, also what it would show had nobody set it since the start.
    pub(super) fn lowest_wall(&self, now: Now) -> Duration {
        let undisturbed = Duration::from_millis(self.started.wall_ms) + now.mono.since(self.started.mono);
        let own = Duration::from_millis(now.wall_ms).min(undisturbed);
        self.peer_walls(now.mono).fold(own, Duration::min)
    }

    /// At least two peers are far from our wall clock, and more are than are not: the fault is ours. The last survivor must
    /// be able to stand.
    pub(super) fn wall_is_suspect(&self, now: Now) -> bool {
        let own = Duration::from_millis(now.wall_ms);
        let (mut far, mut all) = (0, 0);
        for theirs in self.peer_walls(now.mono) {
            all += 1;
            far += usize::from(own.abs_diff(theirs) > self.options.wall_skew_max);
        }
        far >= 2 && far * 2 > all
    }
}
