//! Time comes in here and nowhere else; everything below is shown [`Now`] as an argument or through [`Clock`].

use fulcrum_types::{Mono, Now};
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Two readings so close to each other pass for one.
const CLOSE: Duration = Duration::from_micros(2);

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
        let mono = mono();
        let wall = clock_gettime(ClockId::Realtime);
        Now {
            mono,
            wall_ms: nanos(wall.tv_sec, wall.tv_nsec) / 1_000_000,
        }
    }
}

/// One moment on both of the machine's clocks: what the one has shown since is told by the other. For what people see, never for
/// what anything depends on.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    mono: Mono,
    wall: SystemTime,
}

impl Anchor {
    /// Reads both clocks, close to each other.
    #[must_use]
    pub fn now() -> Self {
        let read = || {
            let before = mono();
            let wall = clock_gettime(ClockId::Realtime);
            let after = mono();
            let since_1970 = Duration::from_nanos(nanos(wall.tv_sec, wall.tv_nsec));
            let anchor = Self {
                mono: before,
                wall: SystemTime::UNIX_EPOCH + since_1970,
            };
            (after.since(before), anchor)
        };
        // Whoever is interrupted in between reads again.
        let (mut took, mut best) = read();
        for _ in 0..3 {
            if took <= CLOSE {
                break;
            }
            let (again, other) = read();
            if again < took {
                (took, best) = (again, other);
            }
        }
        best
    }

    /// The wall time of the anchor.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        self.wall
    }

    /// The wall time now, without a step that its clock may have made since.
    #[must_use]
    pub fn later(&self) -> SystemTime {
        self.at(mono())
    }

    /// The wall time of a moment, before or after the anchor.
    #[must_use]
    pub fn at(&self, moment: Mono) -> SystemTime {
        if moment >= self.mono {
            self.wall + moment.since(self.mono)
        } else {
            self.wall - self.mono.since(moment)
        }
    }
}

fn mono() -> Mono {
    let mono = clock_gettime(ClockId::Boottime);
    Mono(nanos(mono.tv_sec, mono.tv_nsec))
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

    /// Sets the wall clock, to wherever: as a correction of the system's does.
    pub fn set_wall(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
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
    fn an_anchor_tells_the_wall_time_of_moments_before_and_after() {
        let anchor = Anchor::now();
        let moment = SystemClock.now().mono;
        assert!(anchor.at(moment) >= anchor.wall() && anchor.later() >= anchor.at(moment));
        let second = Duration::from_secs(1);
        assert_eq!(anchor.at(anchor.mono + second), anchor.wall() + second);
        let before = Mono(anchor.mono.0 - 1_000_000_000);
        assert_eq!(anchor.at(before), anchor.wall() - second);
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
