//! Virtual time, and what each node's clocks make of it.

use fulcrum_types::{Mono, Now};

/// Nanoseconds since the simulation began: the true time that no node can see.
pub type Time = u64;
/// A microsecond.
pub const US: Time = 1_000;
/// A millisecond.
pub const MS: Time = 1_000_000;
/// A second.
pub const SEC: Time = 1_000_000_000;

/// One node's clocks: monotonic time at a rate of its own from an origin of its own, and a wall clock that can jump.
#[derive(Clone, Debug)]
pub struct NodeClock {
    /// Where the present rate began: true time and what the monotonic clock showed then.
    since: Time,
    shown: u64,
    /// Parts per million by which the clock is fast.
    rate_ppm: i64,
    /// Wall clock minus true time.
    wall_offset_ms: i64,
}

/// The wall clock at true time 0: some day in 2026.
pub const WALL_ORIGIN_MS: u64 = 1_790_000_000_000;

impl NodeClock {
    /// A clock that shows `origin` at time 0.
    #[must_use]
    pub fn new(origin: u64, rate_ppm: i64) -> Self {
        Self {
            since: 0,
            shown: origin,
            rate_ppm,
            wall_offset_ms: 0,
        }
    }

    fn mono(&self, at: Time) -> u64 {
        let passed = i128::from(at.saturating_sub(self.since));
        let stretched = passed + passed * i128::from(self.rate_ppm) / 1_000_000;
        self.shown + stretched as u64
    }

    /// What the clocks show.
    #[must_use]
    pub fn read(&self, at: Time) -> Now {
        let wall = WALL_ORIGIN_MS as i64 + (at / MS) as i64 + self.wall_offset_ms;
        Now {
            mono: Mono(self.mono(at)),
            wall_ms: wall.max(0) as u64,
        }
    }

    /// The clock runs at another rate from now on. It never jumps.
    pub fn set_rate(&mut self, at: Time, rate_ppm: i64) {
        self.shown = self.mono(at);
        self.since = at;
        self.rate_ppm = rate_ppm;
    }

    /// The machine boots: its monotonic clock begins anew, behind what it showed by at most this much.
    pub fn reboot(&mut self, at: Time, behind: u64) {
        self.shown = self.mono(at).saturating_sub(behind);
        self.since = at;
    }

    /// The wall clock is so far off from now on.
    pub fn set_wall_offset(&mut self, offset_ms: i64) {
        self.wall_offset_ms = offset_ms;
    }

    /// True time that passes while this clock shows `span` more.
    #[must_use]
    pub fn true_span(&self, span: u64) -> Time {
        (i128::from(span) * 1_000_000 / (1_000_000 + i128::from(self.rate_ppm)).max(1)) as Time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_rate_does_not_jump() {
        let mut clock = NodeClock::new(500, 10_000);
        let before = clock.read(100 * MS).mono;
        clock.set_rate(100 * MS, -10_000);
        assert_eq!(clock.read(100 * MS).mono, before);
        assert_eq!(clock.read(200 * MS).mono.0 - before.0, 99 * MS);
    }
}
