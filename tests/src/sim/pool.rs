//! Runs many seeds on a few threads, and adds up what they showed.

use super::client::Tally;
use super::faults::Fault;
use super::record::Counts;
use super::run::Report;
use super::time::{SEC, Time};
use super::transactions::rows::ROWS;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Runs `one` for each of the seeds and hands the reports over as they come, until that says to stop.
pub fn each(seeds: &[u64], threads: usize, one: impl Fn(u64) -> Report + Sync, mut take: impl FnMut(Report) -> bool) {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, reports) = mpsc::sync_channel(threads * 2);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (sender, next, stop, one) = (sender.clone(), &next, &stop, &one);
            scope.spawn(move || {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.load(Ordering::Relaxed) || sender.send(one(*seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for report in reports {
            if !stop.load(Ordering::Relaxed) && !take(report) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
}

/// What many seeds showed together.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// Virtual time.
    pub simulated: Time,
    /// Operations of clients.
    pub tally: Tally,
    /// Acknowledged writes lost in `async`, all certified.
    pub lost: u64,
    /// Faults that took effect.
    pub faults: BTreeMap<Fault, u64>,
    /// Where nodes were when they crashed.
    pub crash_points: Counts,
    /// Rare things that the system did.
    pub reached: Counts,
    /// Rows of the table of crash points of transactions that were hit.
    pub rows: Counts,
    /// What coordinators were about to do when they died.
    pub died_before: Counts,
    /// Seeds that failed: what and why.
    pub failed: Vec<Report>,
}

impl Summary {
    /// Takes in a report.
    pub fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.simulated += report.simulated;
        self.lost += report.lost;
        self.tally.ok += report.tally.ok;
        self.tally.failed += report.tally.failed;
        self.tally.unknown += report.tally.unknown;
        for (fault, count) in &report.record.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        let counts = [
            (&report.record.crash_points, &mut self.crash_points),
            (&report.record.reached, &mut self.reached),
            (&report.record.rows, &mut self.rows),
            (&report.record.died_before, &mut self.died_before),
        ];
        for (from, into) in counts {
            for (what, count) in from {
                *into.entry(what).or_default() += count;
            }
        }
        if report.failure.is_some() {
            self.failed.push(report);
        }
    }

    /// The summary for people, a fact a line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let hours = self.simulated as f64 / (3_600 * SEC) as f64;
        let Tally { ok, failed, unknown } = self.tally;
        let mut lines = vec![
            format!("{} seeds, {hours:.2} simulated hours", self.seeds),
            format!("operations: {ok} answered, {failed} failed, {unknown} unknown"),
            format!(
                "acknowledged writes lost in async keyspaces, all certified: {}",
                self.lost
            ),
        ];
        lines.push(format!("faults that took effect: {}", join(&self.faults)));
        lines.push(format!("nodes crashed: {}", join(&self.crash_points)));
        lines.push(format!("reached: {}", join(&self.reached)));
        if !self.rows.is_empty() {
            let hit = |row: &&str| format!("{row} {}", self.rows.get(row).unwrap_or(&0));
            let rows: Vec<String> = ROWS.iter().map(hit).collect();
            lines.push(format!("crash points of transactions: {}", rows.join("; ")));
            lines.push(format!("coordinators died before: {}", join(&self.died_before)));
        }
        lines
    }
}

fn join<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if parts.is_empty() {
        "none".into()
    } else {
        parts.join(", ")
    }
}
