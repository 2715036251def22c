//! Pauses between attempts: doubling, with jitter, so that clients that failed together do not come back together.

use fulcrum_common::entropy::random_u64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(200);

/// Draws pauses. One a client.
#[derive(Debug)]
pub(crate) struct Backoff {
    state: AtomicU64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU64::new(random_u64()),
        }
    }

    /// The pause after so many failed attempts: between half of and all of a doubling length.
    pub(crate) fn pause(&self, failed: u32) -> Duration {
        let longest = FIRST.saturating_mul(1 << failed.saturating_sub(1).min(10)).min(LONGEST);
        let half = longest / 2;
        half + half.mul_f64(self.fraction())
    }

    /// Uniform in `[0, 1)`: splitmix64.
    fn fraction(&self) -> f64 {
        let mut z = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 53 bits fit an f64 exactly.
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        let backoff = Backoff::new();
        for failed in 1..100 {
            let pause = backoff.pause(failed);
            assert!(pause >= FIRST / 2 && pause <= LONGEST, "{failed}: {pause:?}");
        }
        assert!(backoff.pause(10) >= LONGEST / 2);
        let drawn: std::collections::BTreeSet<_> = (0..50).map(|_| backoff.pause(10)).collect();
        assert!(drawn.len() > 40);
    }
}
