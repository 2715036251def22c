//! What a core may know of time. All of it comes in as an argument.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A reading of one node's monotonic clock that counts through suspend (`CLOCK_BOOTTIME`), in nanoseconds.
///
/// Readings of different nodes are not comparable; only their *rates* are bounded against each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// Time passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, rhs: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;
    fn sub(self, rhs: Duration) -> Mono {
        Mono(self.0.saturating_sub(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0 / 1_000_000)
    }
}

/// The two clocks a core is shown at each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For promises and time-outs.
    pub mono: Mono,
    /// Milliseconds since the Unix epoch: only to stamp entries with replicated time, never for promises.
    pub wall_ms: u64,
}

/// Milliseconds since the Unix epoch as the group's log carries them. Never goes back along a log (rule 11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicatedTime(pub u64);

impl fmt::Display for ReplicatedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}
