//! What the demo shows at its end: one table, the failovers, and whether every promise was kept.

use super::bank::Bank;
use super::incident::{Healed, Incident};
use super::judge::{Check, Judged};
use super::phases::{PHASES, Phases};
use super::plan::{AFTERMATH, BOUND, MODES, SLOW, keyspace_of};
use super::series::{Seen, Window};
use super::story::Story;
use crate::exit::Failure;
use crate::render::{Align, Paint, Table, count, latency, percent, rate, span};
use fulcrum_checker::staleness::Served;
use fulcrum_types::{GroupId, Level};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// One line of the table, with what the checkers found about it.
pub(super) struct Line {
    pub(super) seen: Seen,
    pub(super) served: Served,
    pub(super) lost: usize,
}

/// All that the demo has found out.
pub(super) struct Outcome {
    pub(super) seed: u64,
    pub(super) nodes: u64,
    pub(super) records: usize,
    pub(super) run: Window,
    pub(super) lines: Vec<Line>,
    pub(super) judged: Vec<Judged>,
    pub(super) incident: Incident,
    pub(super) recovered: BTreeMap<GroupId, Option<Duration>>,
    pub(super) before: Phases,
    pub(super) after: Phases,
    pub(super) healed: Healed,
    pub(super) bank: Bank,
}

impl Outcome {
    /// Whether every promise was kept, and nothing is left undecided or broken.
    pub(super) fn holds(&self) -> bool {
        self.problems().is_empty()
    }

    /// What is wrong, each with its explanation.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (keyspace, check) in self.all_checks().iter().filter(|(_, check)| !check.holds()) {
            problems.push(format!("{keyspace}: {}: {} violations", check.name, check.violations));
            problems.extend(check.shown.iter().chain(&check.undecided).cloned());
        }
        if let Some(missing) = &self.healed.missing {
            let within = super::incident::HEAL_WITHIN.as_secs();
            problems.push(format!("the cluster is not whole {within} s after the load: {missing}"));
        }
        for (group, _) in self.recovered.iter().filter(|(_, took)| took.is_none()) {
            problems.push(format!("{group} acknowledged no write after the crash"));
        }
        problems
    }

    /// By keyspace; those of the bank are of several.
    fn all_checks(&self) -> Vec<(&'static str, Check)> {
        let of = |judged: &Judged| {
            let keyspace = keyspace_of(judged.mode);
            judged
                .checks
                .iter()
                .map(|check| (keyspace, check.clone()))
                .collect::<Vec<_>>()
        };
        let bank = self.bank.checks().map(|check| ("bank", check));
        self.judged.iter().flat_map(of).chain(bank).collect()
    }

    pub(super) fn tell(&self, story: Story) -> Result<(), Failure> {
        let paint = story.paint;
        story.say(&format!("\n{}", self.table(paint)))?;
        story.say(&legend(paint))?;
        story.say(&format!("\n{}", self.failovers(paint)))?;
        story.say(&format!("\n{}", self.bank.table(paint)))?;
        story.say(&format!("\n{}", self.checks(paint)))?;
        let problems = self.problems();
        if problems.is_empty() {
            return story.say(&paint.green("Every promise was kept."));
        }
        story.say(&paint.red("A promise was broken, or could not be judged:"))?;
        problems
            .iter()
            .try_for_each(|problem| story.say(&format!("  {problem}")))?;
        story.say(&format!(
            "Run again with the same load: fulcrum demo --seed {}",
            self.seed
        ))
    }

    fn table(&self, paint: Paint) -> String {
        let right = |name| (name, Align::Right);
        let mut table = Table::new(&[
            ("keyspace", Align::Left),
            ("reads at", Align::Left),
            right("op/s"),
            right("read p50"),
            right("p99"),
            right("write p50"),
            right("p99"),
            right("available"),
            right("after crash"),
            right("stale p50"),
            right("max"),
            right("proved p50"),
            right("stale reads"),
            right("writes lost"),
        ]);
        let mut mode = None;
        for line in &self.lines {
            let Seen {
                series, reads, writes, ..
            } = &line.seen;
            if mode.is_some_and(|mode| mode != series.mode) {
                table.rule();
            }
            mode = Some(series.mode);
            table.row([
                series.mode.to_string(),
                level_name(series.level),
                rate(line.seen.answered, self.run.length()),
                latency(reads.p50),
                latency(reads.p99),
                latency(writes.p50),
                latency(writes.p99),
                percent(line.seen.available),
                percent(line.seen.available_after),
                latency(line.served.p50),
                latency(line.served.max),
                latency(line.served.bound_p50),
                count(line.served.stale as u64),
                count(line.lost as u64),
            ]);
        }
        table.render(paint)
    }

    fn failovers(&self, paint: Paint) -> String {
        let mut table = Table::new(&[
            ("failover of", Align::Left),
            ("groups", Align::Right),
            ("detect", Align::Right),
            ("fence", Align::Right),
            ("catch up", Align::Right),
            ("first ack", Align::Right),
            ("crash to first ack", Align::Right),
            ("worst", Align::Right),
            ("lost, certified", Align::Right),
        ]);
        for mode in MODES {
            let keyspace = keyspace_of(mode);
            let times = self.recoveries(keyspace);
            let judged = self.judged.iter().find(|judged| judged.mode == mode);
            let mut cells = vec![keyspace.to_owned(), self.groups_led(keyspace).to_string()];
            cells.extend(PHASES.map(|phase| {
                let mean = self.after.mean_since(&self.before, keyspace, phase);
                mean.map_or("-".to_owned(), |(mean, _)| span(mean))
            }));
            cells.push(times.first().map_or("-".to_owned(), |first| span(*first)));
            cells.push(times.last().map_or("-".to_owned(), |last| span(*last)));
            cells.push(judged.map_or("-".to_owned(), |judged| count(judged.certified_lost)));
            table.row(cells);
        }
        let text = "detect: the silence until a backup may stand; fence: its compare-and-swap at the metadata store; catch up: until \
                    what it inherited is committed; first ack: until a client's write is. Means over the groups.";
        format!("{}{}", table.render(paint), wrapped(paint, text))
    }

    fn groups_led(&self, keyspace: &str) -> usize {
        self.incident.led.values().filter(|name| *name == keyspace).count()
    }

    /// From the crash to the first acknowledged write of each group, in order.
    fn recoveries(&self, keyspace: &str) -> Vec<Duration> {
        let of_keyspace = |group: &GroupId| self.incident.led.get(group).is_some_and(|name| name == keyspace);
        let times = self.recovered.iter().filter(|(group, _)| of_keyspace(group));
        let mut times: Vec<Duration> = times.filter_map(|(_, took)| *took).collect();
        times.sort_unstable();
        times
    }

    fn checks(&self, paint: Paint) -> String {
        let mut table = Table::new(&[
            ("keyspace", Align::Left),
            ("promise", Align::Left),
            ("judged", Align::Left),
            ("", Align::Left),
        ]);
        for (keyspace, check) in self.all_checks() {
            let verdict = match (check.violations, check.undecided.len()) {
                (0, 0) => paint.green("kept"),
                (0, _) => paint.yellow("not decided"),
                (broken, _) => paint.red(&format!("BROKEN {broken} times")),
            };
            table.row([keyspace.to_owned(), check.name.to_owned(), check.judged, verdict]);
        }
        table.render(paint)
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "seed": self.seed,
            "nodes": self.nodes,
            "records": self.records,
            "seconds": self.run.length().as_secs_f64(),
            "holds": self.holds(),
            "problems": self.problems(),
            "series": self.lines.iter().map(|line| line_json(line, self.run)).collect::<Vec<_>>(),
            "failovers": MODES.map(|mode| self.failover_json(keyspace_of(mode))),
            "crash": {
                "node": self.incident.victim.0,
                "at_seconds": seconds_since(self.run.from, self.incident.crashed_at),
                "restarted_at_seconds": self.incident.restarted_at.map(|at| seconds_since(self.run.from, at)),
                "groups": self.incident.led.keys().map(|group| group.0).collect::<Vec<_>>(),
            },
            "healed": {
                "seconds": self.healed.took.as_secs_f64(),
                "missing": self.healed.missing,
            },
            "bank": self.bank.as_json(),
            "checks": self.all_checks().iter().map(check_json).collect::<Vec<_>>(),
        })
    }

    fn failover_json(&self, keyspace: &str) -> Value {
        let phases = PHASES.map(|phase| {
            let mean = self.after.mean_since(&self.before, keyspace, phase);
            (
                phase.to_owned(),
                mean.map_or(Value::Null, |(mean, _)| mean.as_secs_f64().into()),
            )
        });
        let judged = self.judged.iter().find(|judged| keyspace_of(judged.mode) == keyspace);
        json!({
            "keyspace": keyspace,
            "groups": self.groups_led(keyspace),
            "mean_phase_seconds": Value::Object(phases.into_iter().collect()),
            "crash_to_first_acknowledgement_seconds": self.recoveries(keyspace).iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
            "certified_acknowledged_lost": judged.map(|judged| judged.certified_lost),
            "certified_never_acknowledged": judged.map(|judged| judged.never_acknowledged),
        })
    }
}

fn seconds_since(began: u64, at: u64) -> f64 {
    Duration::from_nanos(at.saturating_sub(began)).as_secs_f64()
}

fn level_name(level: Level) -> String {
    match level {
        Level::Bounded(bound) => format!("bounded {}", span(bound)),
        other => other.name().to_owned(),
    }
}

fn check_json((keyspace, check): &(&'static str, Check)) -> Value {
    json!({
        "keyspace": keyspace,
        "promise": check.name,
        "judged": check.judged,
        "violations": check.violations,
        "undecided": check.undecided.len(),
        "examples": check.shown,
    })
}

fn line_json(line: &Line, run: Window) -> Value {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let Seen {
        series, reads, writes, ..
    } = &line.seen;
    json!({
        "mode": series.mode.name(),
        "level": series.level.to_string(),
        "clients": line.seen.clients,
        "operations": line.seen.answered,
        "operations_per_second": line.seen.answered as f64 / run.length().as_secs_f64().max(f64::MIN_POSITIVE),
        "read_us": {"count": reads.count, "p50": us(reads.p50), "p99": us(reads.p99)},
        "write_us": {"count": writes.count, "p50": us(writes.p50), "p99": us(writes.p99)},
        "available": line.seen.available,
        "available_after_crash": line.seen.available_after,
        "served_staleness_us": {"p50": us(line.served.p50), "p99": us(line.served.p99), "max": us(line.served.max)},
        "proved_staleness_us": {"p50": us(line.served.bound_p50), "max": us(line.served.bound_max)},
        "stale_reads": line.served.stale,
        "acknowledged_writes_lost": line.lost,
        "errors": line.seen.errors,
    })
}

/// What each column means.
fn legend(paint: Paint) -> String {
    let lines = [
        format!(
            "available: share of the clients' time not lost to operations that failed or took over {}; after crash: in the {} after it",
            span(SLOW),
            span(AFTERMATH)
        ),
        "stale: for how long, when a read began, the first write that it missed had been acknowledged (as all clients saw it)".to_owned(),
        format!("proved: the bound that the receipts stated; bounded reads ask for at most {}", span(BOUND)),
        "writes lost: acknowledged, and gone after the failover; async may lose some and certifies each, sync never does".to_owned(),
    ];
    lines.map(|line| paint.dim(&line)).join("\n")
}

fn wrapped(paint: Paint, text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].len() + word.len() > 130 {
            lines.push(word.to_owned());
        } else {
            let space = if lines[last].is_empty() { "" } else { " " };
            lines[last] = format!("{}{space}{word}", lines[last]);
        }
    }
    lines.iter().map(|line| paint.dim(line)).collect::<Vec<_>>().join("\n")
}
