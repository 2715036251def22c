//! The statistics of one line of the table: what the clients of one keyspace and read level saw.

use super::load::{Kind, Sample};
use super::plan::{AFTERMATH, SLOW, Series};
use std::collections::BTreeMap;
use std::time::Duration;

/// From when to when, in nanoseconds of the clients' clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Window {
    pub(super) fn length(self) -> Duration {
        Duration::from_nanos(self.to.saturating_sub(self.from))
    }

    /// The seconds after a crash, as far as the load lasts.
    pub(super) fn after(crashed_at: u64, until: u64) -> Self {
        let end = crashed_at.saturating_add(super::incident::nanos(AFTERMATH));
        Window {
            from: crashed_at,
            to: end.min(until),
        }
    }
}

/// Latencies of answered operations.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    pub(super) count: u64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// What the clients of a line saw.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) series: Series,
    pub(super) clients: usize,
    pub(super) answered: u64,
    pub(super) reads: Latencies,
    pub(super) writes: Latencies,
    /// Share of the clients' time not lost to operations that failed or were slow.
    pub(super) available: f64,
    pub(super) available_after: f64,
    pub(super) errors: BTreeMap<&'static str, u64>,
}

impl Seen {
    pub(super) fn of(series: Series, clients: &[&[Sample]], run: Window, after: Window) -> Self {
        let all = || clients.iter().flat_map(|samples| samples.iter());
        let mut errors = BTreeMap::new();
        for code in all().filter_map(|sample| sample.error) {
            *errors.entry(code).or_default() += 1;
        }
        Seen {
            series,
            clients: clients.len(),
            answered: all().filter(|sample| sample.error.is_none()).count() as u64,
            reads: latencies(all().filter(|sample| sample.kind == Kind::Read)),
            writes: latencies(all().filter(|sample| sample.kind == Kind::Write)),
            available: availability(clients, run),
            available_after: availability(clients, after),
            errors,
        }
    }
}

fn latencies<'a>(samples: impl Iterator<Item = &'a Sample>) -> Latencies {
    let answered = samples.filter(|sample| sample.error.is_none());
    Latencies::of(
        answered
            .map(|sample| sample.ended.saturating_sub(sample.began) / 1_000)
            .collect(),
    )
}

impl Latencies {
    /// From microseconds.
    pub(super) fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let quantile = |percent: usize| {
            let rank = (micros.len() * percent).div_ceil(100).saturating_sub(1);
            Duration::from_micros(micros.get(rank).copied().unwrap_or(0))
        };
        Latencies {
            count: micros.len() as u64,
            p50: quantile(50),
            p99: quantile(99),
        }
    }
}

/// Share of the clients' time within the window that was not spent in operations that failed or took longer than [`SLOW`].
///
/// Counting operations instead would flatter: a client that waits asks nothing meanwhile, and few failures stand beside
/// many quick answers.
fn availability(clients: &[&[Sample]], window: Window) -> f64 {
    let total = window.length().as_nanos() as f64 * clients.len() as f64;
    if total == 0.0 {
        return 1.0;
    }
    let lost: u64 = clients
        .iter()
        .flat_map(|samples| samples.iter())
        .map(|sample| lost_to(sample, window))
        .sum();
    1.0 - lost as f64 / total
}

fn lost_to(sample: &Sample, window: Window) -> u64 {
    let took = sample.ended.saturating_sub(sample.began);
    if sample.error.is_none() && Duration::from_nanos(took) <= SLOW {
        return 0;
    }
    let (from, to) = (sample.began.max(window.from), sample.ended.min(window.to));
    to.saturating_sub(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{Level, Mode};

    const MS: u64 = 1_000_000;

    fn sample(began: u64, ended: u64, error: Option<&'static str>) -> Sample {
        Sample {
            kind: Kind::Read,
            began: began * MS,
            ended: ended * MS,
            error,
        }
    }

    fn window(from: u64, to: u64) -> Window {
        Window {
            from: from * MS,
            to: to * MS,
        }
    }

    #[test]
    fn time_lost_counts_and_not_operations() {
        let quick: Vec<Sample> = (0..100).map(|n| sample(n * 10, n * 10 + 10, None)).collect();
        let blocked = [sample(0, 500, Some("NOT_READY")), sample(500, 1_000, None)];
        let run = window(0, 1_000);
        assert!((availability(&[&quick], run) - 1.0).abs() < 1e-9);
        assert!(availability(&[&blocked], run).abs() < 1e-9, "failed, then too slow");
        assert!((availability(&[&quick, &blocked], run) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn only_the_part_within_the_window_counts() {
        let samples = [sample(0, 1_000, Some("X"))];
        assert!((availability(&[&samples], window(500, 2_500)) - 0.75).abs() < 1e-9);
        assert!((availability(&[], window(0, 0)) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn statistics_of_a_line() {
        let series = Series {
            mode: Mode::Sync,
            level: Level::Eventual,
        };
        let samples = [
            sample(0, 10, None),
            sample(10, 30, None),
            sample(30, 40, Some("FENCED")),
        ];
        let run = window(0, 100);
        let seen = Seen::of(series, &[&samples], run, Window::after(50 * MS, 100 * MS));
        assert_eq!((seen.answered, seen.reads.count, seen.writes.count), (2, 2, 0));
        assert_eq!(seen.reads.p50.as_millis(), 10);
        assert_eq!(seen.errors, BTreeMap::from([("FENCED", 1)]));
        assert!((seen.available - 0.9).abs() < 1e-9);
        assert!((seen.available_after - 1.0).abs() < 1e-9);
    }
}
