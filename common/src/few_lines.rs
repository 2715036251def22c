//! Few lines a second for the log, of what others can make happen as often as they like, and a count of those left out.

use fulcrum_types::Mono;
use std::time::Duration;

/// Lines in a second.
const LINES: u64 = 5;
const SECOND: Duration = Duration::from_secs(1);

/// Lines of the second that began then.
#[derive(Clone, Copy, Debug, Default)]
pub struct FewLines {
    since: Mono,
    lines: u64,
}

impl FewLines {
    /// Whether one more is written, and how many were not in a second that is over.
    pub fn one_more(&mut self, now: Mono) -> (bool, u64) {
        let mut left_out = 0;
        if now.since(self.since) >= SECOND {
            left_out = self.lines.saturating_sub(LINES);
            *self = Self { since: now, lines: 0 };
        }
        self.lines += 1;
        (self.lines <= LINES, left_out)
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
}
