//! Time comes in here and nowhere else; everything below is shown [`Now`] as an argument or through [`Clock`].

use fulcrum_types::{Mono, Now};
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where a service takes its time from.
pub trait Clock: Send + Sync + 'static {
    /// Both clocks, now.
    fn now(&self) -> Now;
}

/// The machine's clocks: `CLOCK_BOOTTIME`, which counts through suspend, and `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let mono = clock_gettime(ClockId::Boottime);
        let wall = clock_gettime(ClockId::Realtime);
        Now {
            mono: Mono(nanos(mono.tv_sec, mono.tv_nsec)),
            wall_ms: nanos(wall.tv_sec, wall.tv_nsec) / 1_000_000,
        }
    }
}

/// A clock set before 1970 reads as 1970.
fn nanos(seconds: i64, nanos: i64) -> u64 {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(nanos).unwrap_or(0))
}

/// A clock that moves only when told to: for tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    mono_ns: AtomicU64,
    wall_ms: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self {
            mono_ns: AtomicU64::new(now.mono.0),
            wall_ms: AtomicU64::new(now.wall_ms),
        }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.mono_ns
            .fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
        self.wall_ms
            .fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        Now {
            mono: Mono(self.mono_ns.load(Ordering::SeqCst)),
            wall_ms: self.wall_ms.load(Ordering::SeqCst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_does_not_go_back() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(second.mono >= first.mono);
        assert!(first.wall_ms > 1_700_000_000_000);
    }

    #[test]
    fn a_manual_clock_moves_when_told() {
        let clock = ManualClock::new(Now {
            mono: Mono(5),
            wall_ms: 7,
        });
        clock.advance(Duration::from_millis(2));
        assert_eq!(
            clock.now(),
            Now {
                mono: Mono(2_000_005),
                wall_ms: 9
            }
        );
    }
}
