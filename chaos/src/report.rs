//! The report: a line a run while it goes on, a table at the end, and files that say the same.
//!
//! Each scenario has a file of its own, that of its last time; the table is made of all of them, so that scenarios may be run one after the
//! other. A run that failed keeps its histories, the logs of all members, and the command that does it again.

use crate::args::Place;
use crate::measure::{Availability, Share};
use crate::run::{Evidence, Outcome};
use crate::scenario::{ALL, Scenario};
use anyhow::{Context, Result};
use fulcrum_cli::render::{Align, Paint, Table, percent, span};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All runs of a scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Its name.
    pub scenario: String,
    /// Where it ran.
    pub backend: String,
    /// Shard-nodes.
    pub nodes: u64,
    /// Its runs.
    pub runs: Vec<Outcome>,
}

/// A scenario in a line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Its name.
    pub scenario: String,
    /// All runs.
    pub runs: usize,
    /// Those in which everything held.
    pub passed: usize,
    /// Those that prove nothing.
    pub invalid: usize,
    /// Operations of all runs.
    pub operations: u64,
    /// Failovers of all runs.
    pub failovers: u64,
    /// First acknowledged write after the fault, of groups hit.
    pub failover_p50_ms: Option<u64>,
    /// The slowest.
    pub failover_worst_ms: Option<u64>,
    /// The longest time without an acknowledged write, of all runs.
    pub pause_worst_ms: u64,
    /// Shares of operations that succeeded.
    pub availability: Availability,
    /// Promises broken or not decided.
    pub violations: usize,
    /// Bars missed.
    pub missed: usize,
    /// Acknowledged writes lost in `sync`.
    pub lost_sync: usize,
    /// Acknowledged writes lost in `async`.
    pub lost_async: usize,
    /// The slowest end of doubt after healing.
    pub certain_worst_ms: u64,
}

impl Series {
    /// In a line.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let valid = || self.runs.iter().filter(|run| run.invalid.is_none());
        let mut acks: Vec<u64> = valid()
            .flat_map(|run| run.measured.first_acks_ms.iter().copied())
            .collect();
        acks.sort_unstable();
        Summary {
            scenario: self.scenario.clone(),
            runs: self.runs.len(),
            passed: self.runs.iter().filter(|run| run.holds()).count(),
            invalid: self.runs.iter().filter(|run| run.invalid.is_some()).count(),
            operations: valid().map(|run| run.measured.operations).sum(),
            failovers: valid().map(|run| run.failovers).sum(),
            failover_p50_ms: acks.get(acks.len().saturating_sub(1) / 2).copied(),
            failover_worst_ms: acks.last().copied(),
            pause_worst_ms: valid()
                .map(|run| run.measured.longest_pause_ms)
                .max()
                .unwrap_or_default(),
            availability: valid().fold(Availability::default(), |sum, run| sum.and(run.measured.availability)),
            violations: valid().map(Outcome::violations).sum(),
            missed: valid().map(|run| run.missed.len()).sum(),
            lost_sync: valid().map(|run| run.lost_sync).sum(),
            lost_async: valid().map(|run| run.lost_async).sum(),
            certain_worst_ms: valid().map(|run| run.certain_after_ms).max().unwrap_or_default(),
        }
    }
}

/// Where reports are.
pub struct Shelf {
    folder: PathBuf,
    place: Place,
}

impl Shelf {
    /// In this folder, of runs in this place.
    #[must_use]
    pub fn new(folder: PathBuf, place: Place) -> Self {
        Self { folder, place }
    }

    /// The command that does a run again.
    #[must_use]
    pub fn replay(&self, scenario: &Scenario, seed: u64) -> String {
        let place = self.place.flag();
        format!(
            "cargo xtask chaos{place} --scenario {} --runs 1 --seed {seed}",
            scenario.name
        )
    }

    fn series_folder(&self) -> PathBuf {
        self.folder.join("scenarios")
    }

    /// Writes a scenario's file, and the report of all anew.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn put(&self, series: &Series) -> Result<()> {
        let folder = self.series_folder();
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        write(
            &folder.join(format!("{}.json", series.scenario)),
            &serde_json::to_string_pretty(series)?,
        )?;
        let all = self.all()?;
        let summaries: Vec<Summary> = all.iter().map(Series::summary).collect();
        write(
            &self.folder.join("report.json"),
            &serde_json::to_string_pretty(&summaries)?,
        )?;
        write(&self.folder.join("report.md"), &markdown(&all, &summaries))
    }

    /// All scenarios that have a file, in the order of the list.
    fn all(&self) -> Result<Vec<Series>> {
        let mut all = Vec::new();
        for scenario in ALL {
            let file = self.series_folder().join(format!("{}.json", scenario.name));
            let Ok(bytes) = std::fs::read(&file) else { continue };
            let read = serde_json::from_slice(&bytes);
            all.push(read.with_context(|| format!("read {}: remove it to go on without", file.display()))?);
        }
        Ok(all)
    }

    /// Where a failed run leaves what it has.
    #[must_use]
    pub fn failed(&self, scenario: &Scenario, seed: u64) -> PathBuf {
        self.folder.join("failed").join(format!("{}-{seed}", scenario.name))
    }

    /// Keeps what a failed run has left, but for the logs.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn keep(&self, scenario: &Scenario, outcome: &Outcome, evidence: Option<&Evidence>) -> Result<PathBuf> {
        let folder = self.failed(scenario, outcome.seed);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        write(&folder.join("outcome.json"), &serde_json::to_string_pretty(outcome)?)?;
        write(
            &folder.join("replay.txt"),
            &format!("{}\n", self.replay(scenario, outcome.seed)),
        )?;
        for (keyspace, history) in evidence.iter().flat_map(|evidence| &evidence.histories) {
            write(&folder.join(format!("history-{keyspace}.txt")), history)?;
        }
        Ok(folder)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn of(time: Option<u64>) -> String {
    time.map_or("-".to_owned(), |time| span(Duration::from_millis(time)))
}

fn share(share: Share) -> String {
    share.ratio().map_or("-".to_owned(), percent)
}

fn cells(summary: &Summary) -> Vec<String> {
    let available = summary.availability;
    vec![
        summary.scenario.clone(),
        format!("{}/{}", summary.passed, summary.runs),
        summary.operations.to_string(),
        summary.failovers.to_string(),
        of(summary.failover_p50_ms),
        of(summary.failover_worst_ms),
        of(Some(summary.pause_worst_ms)),
        share(available.hit_reads),
        share(available.hit_writes),
        share(available.other_reads.and(available.other_writes)),
        summary.violations.to_string(),
        summary.missed.to_string(),
        summary.lost_sync.to_string(),
        summary.lost_async.to_string(),
        of(Some(summary.certain_worst_ms)),
    ]
}

const COLUMNS: [&str; 15] = [
    "scenario",
    "passed",
    "operations",
    "failovers",
    "failover p50",
    "worst",
    "pause",
    "reads hit",
    "writes hit",
    "not hit",
    "violations",
    "missed",
    "lost sync",
    "lost async",
    "in doubt",
];

/// What the columns mean.
const LEGEND: &str = "failover: from the fault to the first write that another than the one hit acknowledged, of every group that it led; \
                      pause: the longest time in which some group acknowledged no write; hit: share of operations that succeeded, from the first fault to \
                      the end, in groups whose primary was hit; lost async: acknowledged, gone, and named by a certificate; in doubt: after \
                      the load, until no transaction was.";

/// For the screen.
#[must_use]
pub fn table(summaries: &[Summary], paint: Paint) -> String {
    let align = |place| if place == 0 { Align::Left } else { Align::Right };
    let columns: Vec<(&str, Align)> = COLUMNS
        .iter()
        .enumerate()
        .map(|(at, name)| (*name, align(at)))
        .collect();
    let mut table = Table::new(&columns);
    for summary in summaries {
        table.row(cells(summary));
    }
    format!("{}{}\n", table.render(paint), paint.dim(LEGEND))
}

fn markdown(all: &[Series], summaries: &[Summary]) -> String {
    let histories: usize = summaries.iter().map(|summary| summary.runs - summary.invalid).sum();
    let mut text = format!("# Chaos report\n\n{histories} judged runs.\n\n");
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    text += &row(&COLUMNS.map(str::to_owned));
    text += &row(&COLUMNS.map(|_| "---".to_owned()));
    for summary in summaries {
        text += &row(&cells(summary));
    }
    let _ = writeln!(text, "\n{LEGEND}");
    for series in all {
        for run in series.runs.iter().filter(|run| !run.holds()) {
            let _ = writeln!(
                text,
                "\n## {} with seed {}\n\n{}",
                series.scenario,
                run.seed,
                reasons(run).join("\n")
            );
        }
    }
    text
}

/// Why a run does not hold, one a line.
#[must_use]
pub fn reasons(run: &Outcome) -> Vec<String> {
    let invalid = run.invalid.iter().map(|why| format!("- invalid: {why}"));
    let like = run.failed_like.iter().filter(|_| !run.missed.is_empty());
    let like = like.map(|words| format!("- failed: {words}"));
    let missed = run.missed.iter().map(|what| format!("- missed: {what}")).chain(like);
    let broken = run.checks.iter().filter(|check| !check.holds()).map(|check| {
        let shown = check.shown.first().map_or(String::new(), |shown| format!(": {shown}"));
        format!(
            "- {}: {} violations, {} undecided{shown}",
            check.name, check.violations, check.undecided
        )
    });
    invalid.chain(missed).chain(broken).collect()
}

/// One line for one run.
#[must_use]
pub fn line(number: u64, runs: u64, outcome: &Outcome, paint: Paint) -> String {
    let verdict = match (&outcome.invalid, outcome.holds()) {
        (Some(_), _) => paint.yellow("INVALID"),
        (None, true) => paint.green("held"),
        (None, false) => paint.red("FAILED"),
    };
    let measured = &outcome.measured;
    format!(
        "  {number}/{runs}  seed {}  {} operations, {} transfers, available {}, failovers {}, worst first ack {}, pause {}, lost {} sync {} async, certified {}  {verdict}",
        outcome.seed,
        measured.operations,
        outcome.transfers,
        share(measured.availability.all()),
        outcome.failovers,
        of(measured.first_acks_ms.last().copied()),
        of(Some(measured.longest_pause_ms)),
        outcome.lost_sync,
        outcome.lost_async,
        outcome.certified,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Check;
    use crate::measure::Measured;

    fn run(seed: u64, acks: &[u64]) -> Outcome {
        let mut run = Outcome::invalid(seed, String::new());
        run.invalid = None;
        run.measured = Measured {
            operations: 6_000,
            first_acks_ms: acks.to_vec(),
            ..Measured::default()
        };
        run
    }

    fn series(runs: Vec<Outcome>) -> Series {
        Series {
            scenario: "kill-primary".to_owned(),
            backend: "process".to_owned(),
            nodes: 5,
            runs,
        }
    }

    #[test]
    fn a_series_is_summed_up_and_invalid_runs_are_no_pass() {
        let mut broken = run(2, &[900]);
        broken.checks.push(Check {
            name: "sync: linearizable".to_owned(),
            judged: 1,
            violations: 0,
            shown: Vec::new(),
            undecided: 1,
        });
        let runs = vec![
            run(1, &[1_000, 3_000]),
            broken,
            Outcome::invalid(3, "not seen".to_owned()),
        ];
        let summary = series(runs).summary();
        assert_eq!(
            (summary.runs, summary.passed, summary.invalid, summary.violations),
            (3, 1, 1, 1)
        );
        assert_eq!(
            (summary.failover_p50_ms, summary.failover_worst_ms),
            (Some(1_000), Some(3_000))
        );
        assert_eq!(summary.operations, 12_000);
    }

    #[test]
    fn scenarios_are_kept_beside_each_other_and_failed_runs_say_how_to_do_them_again() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().to_owned(), Place::Process);
        let failed = Outcome::invalid(7, "the link lets everything through".to_owned());
        shelf.put(&series(vec![failed.clone()])).unwrap();
        let other = Series {
            scenario: "drain".to_owned(),
            ..series(vec![run(1, &[])])
        };
        shelf.put(&other).unwrap();
        let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
        assert!(
            text.contains("| kill-primary | 0/1 |") && text.contains("| drain | 1/1 |"),
            "{text}"
        );
        assert!(text.contains("invalid: the link lets everything through"), "{text}");
        let scenario = Scenario::named("kill-primary").unwrap();
        let kept = shelf.keep(&scenario, &failed, None).unwrap();
        let replay = std::fs::read_to_string(kept.join("replay.txt")).unwrap();
        assert_eq!(
            replay.trim(),
            "cargo xtask chaos --scenario kill-primary --runs 1 --seed 7"
        );
        let in_containers = Shelf::new(folder.path().to_owned(), Place::Docker);
        assert_eq!(
            in_containers.replay(&scenario, 7),
            "cargo xtask chaos --backend docker --scenario kill-primary --runs 1 --seed 7"
        );
        assert!(table(&[other.summary()], Paint::plain()).contains("drain"));
    }
}
