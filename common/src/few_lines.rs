//! Few lines for the log in some time, of what others can make happen as often as they like, and a count of those left out.

use fulcrum_types::Mono;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// So many lines in so much time, and how many there were in the one that began then.
#[derive(Clone, Copy, Debug)]
pub struct FewLines {
    most: u64,
    within: Duration,
    since: Mono,
    lines: u64,
}

/// Five in a second.
impl Default for FewLines {
    fn default() -> Self {
        Self::new(5, Duration::from_secs(1))
    }
}

impl FewLines {
    /// So many in so much time.
    #[must_use]
    pub const fn new(most: u64, within: Duration) -> Self {
        Self {
            most,
            within,
            since: Mono(0),
            lines: 0,
        }
    }

    /// Whether one more is written, and how many were not in a time that is over.
    pub fn one_more(&mut self, now: Mono) -> (bool, u64) {
        let mut left_out = 0;
        if now.since(self.since) >= self.within {
            left_out = self.lines.saturating_sub(self.most);
            (self.since, self.lines) = (now, 0);
        }
        self.lines += 1;
        (self.lines <= self.most, left_out)
    }
}

/// The same of several kinds, where there is no clock: twenty of each in ten seconds.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    kinds: Mutex<BTreeMap<&'static str, FewLines>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            kinds: Mutex::default(),
        }
    }
}

impl Pace {
    const EACH: FewLines = FewLines::new(20, Duration::from_secs(10));

    /// Whether one more line of a kind may be written, and how many were not before.
    pub fn admits(&self, kind: &'static str) -> Option<u64> {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let (shown, left_out) = kinds.entry(kind).or_insert(Self::EACH).one_more(Mono(now));
        shown.then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lines_a_second_and_the_rest_is_counted() {
        let mut lines = FewLines::default();
        let at = |ms: u64| Mono(ms * 1_000_000);
        let shown = (0..20).filter(|ms| lines.one_more(at(5_000 + ms)).0).count();
        assert_eq!(shown, 5);
        assert_eq!(lines.one_more(at(6_100)), (true, 15));
        assert_eq!(lines.one_more(at(7_200)), (true, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_told_in_few_lines_of_each_kind() {
        let pace = Pace::default();
        let said = (0..1000).filter(|_| pace.admits("flood").is_some());
        assert_eq!(said.count(), 20);
        assert_eq!(pace.admits("another kind"), Some(0));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(pace.admits("flood"), Some(980), "what was left out is told");
        assert_eq!(pace.admits("flood"), Some(0));
    }
}
