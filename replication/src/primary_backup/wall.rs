//! Wall clocks: never for promises, only to keep replicated time near the truth (rule 11).

use super::core::PrimaryBackup;
use fulcrum_types::{NodeId, Now};

impl PrimaryBackup {
    pub(super) fn note_wall(&mut self, now: Now, from: NodeId, wall_ms: u64) {
        if self.peers().any(|peer| peer == from) {
            let ahead = i128::from(wall_ms) - i128::from(now.wall_ms);
            let ahead = ahead.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
            self.walls.insert(from, ahead);
        }
    }

    /// At least two peers are far from our wall clock, and more are than are not: the fault is ours.
    pub(super) fn wall_is_suspect(&self) -> bool {
        let bound = self.options.wall_skew_max.as_millis();
        let far = self
            .walls
            .values()
            .filter(|ahead| u128::from(ahead.unsigned_abs()) > bound)
            .count();
        far >= 2 && far * 2 > self.walls.len()
    }
}
