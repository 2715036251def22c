//! Replicated time: a line that runs by the monotonic clock and is anchored to wall clocks (rule 11).
//!
//! A wall clock may jump by hours, so no single one moves the group's time. The primary's line advances with its monotonic
//! clock. Each beat carries the reading, and a backup goes on from it by its own: a failover needs no wall clock at all.
//! Wall clocks only say where the line should be. The *agreed* time is what the clocks of a majority of the replicas have
//! reached (own one, and those heard lately):
//!
//! - *Anchor*: a primary that has heard of no line in this life starts from the agreed time, never below its log. It orders
//!   no command before that: time to live would count from a moment long gone. If no majority is heard within four times `grace`, the
//!   lowest clock at hand must do: too low is put right as soon as a majority speaks, too high never is.
//! - *Drift*: a line that is behind is raised to the agreed time at once, since a majority vouches for it; where one replica is
//!   the whole group, nobody does, and the line only runs faster by one part in [`SLEW`]. One that is ahead runs slower by that
//!   much, more than any clock drifts; it never goes back.

use super::core::PrimaryBackup;
use fulcrum_types::{Mono, Now, ReplicatedTime};
use std::time::Duration;

/// Corrections change the rate of the line by one part in so many: 5 %.
const SLEW: u32 = 20;

/// The group's time since the Unix epoch, as far as this life knows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GroupTime {
    /// A reading, and when our clock showed it.
    line: Option<(Duration, Mono)>,
}

impl GroupTime {
    pub(super) fn is_anchored(&self) -> bool {
        self.line.is_some()
    }

    pub(super) fn at(&self, now: Mono) -> Option<ReplicatedTime> {
        let (time, since) = self.line?;
        let reading = time.saturating_add(now.since(since)).as_millis();
        Some(ReplicatedTime(u64::try_from(reading).unwrap_or(u64::MAX)))
    }

    /// The primary said so just now.
    pub(super) fn set(&mut self, time: ReplicatedTime, now: Mono) {
        self.line = Some((Duration::from_millis(time.0), now));
    }

    /// Lets the line run up to now, a little faster or slower towards the agreed time.
    fn run(&mut self, now: Mono, agreed: Option<Duration>, at_once: bool) {
        let Some((time, since)) = self.line else { return };
        let passed = now.since(since);
        let reading = time.saturating_add(passed);
        let reading = match agreed {
            Some(agreed) if agreed > reading && at_once => agreed,
            Some(agreed) if agreed > reading => agreed.min(reading.saturating_add(passed / SLEW)),
            Some(agreed) if agreed < reading => agreed.max(reading.saturating_sub(passed / SLEW)),
            _ => reading,
        };
        self.line = Some((reading, now));
    }
}

impl PrimaryBackup {
    /// As primary: anchors the line, or keeps it near the agreed time.
    pub(super) fn tend_time(&mut self, now: Now) {
        let agreed = self.agreed_wall(now);
        if self.time.is_anchored() {
            let alone = self.peers().next().is_none();
            return self.time.run(now.mono, agreed, !alone);
        }
        let Some(primary) = &self.primary else { return };
        let overdue = now.mono.since(primary.since) > self.options.grace * 4;
        let anchor = agreed.or_else(|| overdue.then(|| self.lowest_wall(now)));
        if let Some(anchor) = anchor {
            let anchor = u64::try_from(anchor.as_millis()).unwrap_or(u64::MAX);
            let time = ReplicatedTime(anchor).max(self.log.last_time());
            self.time.set(time, now.mono);
        }
    }

    /// What an entry ordered now is stamped with: never less than the last one.
    pub(super) fn time_of_entry(&self, now: Now) -> ReplicatedTime {
        let wall = ReplicatedTime(now.wall_ms);
        if planted!(self, TimeGoesBack) {
            return wall;
        }
        if planted!(self, FollowWallClock) {
            return wall.max(self.log.last_time());
        }
        let reading = self.time.at(now.mono).unwrap_or_default();
        reading.max(self.log.last_time())
    }

    /// What a beat tells of it.
    pub(super) fn time_to_tell(&self, now: Mono) -> Option<ReplicatedTime> {
        self.time.at(now).map(|time| time.max(self.log.last_time()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    fn agreed(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    fn line() -> GroupTime {
        let mut time = GroupTime::default();
        time.set(ReplicatedTime(1_000_000), at(5));
        time
    }

    #[test]
    fn it_runs_by_the_monotonic_clock() {
        let mut time = line();
        assert_eq!(time.at(at(7)), Some(ReplicatedTime(1_002_000)));
        time.run(at(9), None, true);
        assert_eq!(time.at(at(10)), Some(ReplicatedTime(1_005_000)));
        assert_eq!(GroupTime::default().at(at(7)), None);
    }

    #[test]
    fn a_majority_raises_it_at_once_and_one_clock_only_slowly() {
        let mut time = line();
        time.run(at(25), agreed(9_000), false);
        assert_eq!(time.at(at(25)), Some(ReplicatedTime(1_021_000)), "20 s and 5 %");
        time.run(at(45), agreed(9_000), true);
        assert_eq!(time.at(at(45)), Some(ReplicatedTime(9_000_000)));
    }

    #[test]
    fn ahead_it_runs_slower_and_never_back() {
        let mut time = line();
        time.run(at(25), agreed(500), true);
        assert_eq!(time.at(at(25)), Some(ReplicatedTime(1_019_000)), "20 s less 5 %");
        time.run(at(25), agreed(500), true);
        assert_eq!(time.at(at(25)), Some(ReplicatedTime(1_019_000)));
    }
}
