//! Wall clocks: never for promises, only to keep replicated time near the truth (rule 11).

use super::core::PrimaryBackup;
use fulcrum_types::{Mono, NodeId, Now};

impl PrimaryBackup {
    pub(super) fn note_wall(&mut self, now: Now, from: NodeId, wall_ms: u64) {
        if self.peers().any(|peer| peer == from) {
            let ahead = i128::from(wall_ms) - i128::from(now.wall_ms);
            let ahead = ahead.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
            self.walls.insert(from, (ahead, now.mono));
        }
    }

    /// At least two peers are far from our wall clock, and more are than are not: the fault is ours. Only what was heard lately
    /// counts: clocks are set right, messages come late, and the last survivor must be able to stand.
    pub(super) fn wall_is_suspect(&self, now: Mono) -> bool {
        let bound = self.options.wall_skew_max.as_millis();
        let lately = self.options.grace * 4;
        let recent = self.walls.values().filter(|(_, heard)| now.since(*heard) < lately);
        let (mut far, mut all) = (0, 0);
        for (ahead, _) in recent {
            all += 1;
            far += usize::from(u128::from(ahead.unsigned_abs()) > bound);
        }
        far >= 2 && far * 2 > all
    }
}
