//! What the bank shows at its end: one line of a table, why attempts failed, and whether the promises were kept.

use super::clients::Told;
use super::conduct::{Incidents, Quiet};
use super::metrics::PHASES;
use crate::demo::judge::Check;
use crate::demo::series::Latencies;
use crate::render::{Align, Paint, Table, count, latency, rate, span};
use fulcrum_checker::bank::Report;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// All that was found out about the bank.
pub(in crate::demo) struct Bank {
    pub(super) accounts: usize,
    pub(super) groups: usize,
    pub(super) took: Duration,
    pub(super) told: Told,
    /// Statements, and those whose total differs.
    pub(super) totals: usize,
    pub(super) wrong_totals: usize,
    pub(super) report: Report,
    /// Violations, written out.
    pub(super) shown: Vec<String>,
    pub(super) incidents: Incidents,
    pub(super) quiet: Quiet,
}

impl Bank {
    /// Its promises, as rows of the table of checks.
    pub(in crate::demo) fn checks(&self) -> [Check; 2] {
        let told = &self.told;
        let money = Check {
            name: "money moves wholly and once",
            judged: format!(
                "{} statements, {} transfers",
                count(self.totals as u64),
                count(self.report.transfers as u64)
            ),
            violations: (self.report.violations.len() + self.report.more).max(self.wrong_totals),
            shown: self.shown.clone(),
            undecided: self.report.undecided.clone(),
        };
        let doubt = Check {
            name: "nothing stays in doubt",
            judged: format!("{} transactions", count(told.attempts)),
            violations: self.quiet.pending,
            shown: Vec::new(),
            undecided: Vec::new(),
        };
        [money, doubt]
    }

    pub(in crate::demo) fn table(&self, paint: Paint) -> String {
        let right = |name| (name, Align::Right);
        let mut table = Table::new(&[
            ("bank", Align::Left),
            right("transfers/s"),
            right("p50"),
            right("p99"),
            right("commit p50"),
            right("p99"),
            right("prepare"),
            right("decide"),
            right("resolve"),
            right("validate"),
            right("statement p50"),
            right("in doubt"),
            right("oldest"),
        ]);
        let told = &self.told;
        let [transfers, commits, statements] = self.latencies();
        let mut cells = vec![
            format!("{} accounts, {} groups", self.accounts, self.groups),
            rate(told.transfers.len() as u64, self.took),
            latency(transfers.p50),
            latency(transfers.p99),
            latency(commits.p50),
            latency(commits.p99),
        ];
        let phases = &self.incidents.phases;
        cells.extend(PHASES.map(|phase| phases.mean(phase).map_or("-".to_owned(), latency)));
        cells.push(latency(statements.p50));
        cells.push(self.incidents.in_doubt.most.to_string());
        cells.push(span(self.incidents.in_doubt.oldest));
        table.row(cells);
        let lines = [
            format!(
                "transfers: {} moved money, {} were declined for want of it; run again: {}; not done: {}; looked up: {}, {} stayed unknown",
                count(told.transfers.len() as u64),
                count(told.declined),
                listed(&told.retries),
                listed(&told.errors),
                count(told.looked_up),
                count(told.unknown),
            ),
            "prepare, decide, resolve, validate: means of the coordinators; in doubt: at once, and for how long, at most, as the groups told"
                .to_owned(),
        ];
        format!(
            "{}{}",
            table.render(paint),
            lines.map(|line| paint.dim(&line)).join("\n")
        )
    }

    fn latencies(&self) -> [Latencies; 3] {
        let told = &self.told;
        [&told.transfers, &told.commits, &told.statements].map(|micros| Latencies::of(micros.clone()))
    }

    pub(in crate::demo) fn as_json(&self) -> Value {
        let told = &self.told;
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let quantiles = |of: &Latencies| json!({"count": of.count, "p50": us(of.p50), "p99": us(of.p99)});
        let [transfers, commits, statements] = self.latencies().map(|of| quantiles(&of));
        let phases = &self.incidents.phases;
        let phase = |phase: &str| (phase.to_owned(), json!(phases.mean(phase).map(us)));
        json!({
            "accounts": self.accounts,
            "groups": self.groups,
            "seconds": self.took.as_secs_f64(),
            "transfer_us": transfers,
            "commit_us": commits,
            "statement_us": statements,
            "mean_phase_us": Value::Object(PHASES.map(phase).into_iter().collect()),
            "declined": told.declined,
            "attempts": told.attempts,
            "retries": told.retries,
            "errors": told.errors,
            "looked_up": told.looked_up,
            "unknown": told.unknown,
            "statements": self.totals,
            "wrong_totals": self.wrong_totals,
            "crashed_primary": {"node": self.incidents.node.0, "groups": self.incidents.led},
            "in_doubt": {
                "most": self.incidents.in_doubt.most,
                "oldest_ms": us(self.incidents.in_doubt.oldest) / 1_000,
                "pending_at_end": self.quiet.pending,
                "quiet_after_ms": us(self.quiet.took) / 1_000,
            },
        })
    }
}

fn listed(numbers: &BTreeMap<&'static str, u64>) -> String {
    if numbers.is_empty() {
        return "none".to_owned();
    }
    let one = |(name, number): (&&str, &u64)| format!("{} {name}", count(*number));
    numbers.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::conduct::Doubt;
    use super::super::metrics::Phases;
    use super::*;
    use fulcrum_types::NodeId;

    fn bank() -> Bank {
        Bank {
            accounts: 4,
            groups: 2,
            took: Duration::from_secs(1),
            told: Told {
                transfers: vec![3_000, 1_000, 2_000],
                retries: [("conflict", 2)].into(),
                ..Told::default()
            },
            totals: 5,
            wrong_totals: 0,
            report: Report::default(),
            shown: Vec::new(),
            incidents: Incidents {
                node: NodeId(1),
                led: 2,
                in_doubt: Doubt::default(),
                phases: Phases::default(),
            },
            quiet: Quiet {
                pending: 0,
                took: Duration::from_millis(7),
            },
        }
    }

    fn kept(bank: &Bank) -> [bool; 2] {
        bank.checks().map(|check| check.holds())
    }

    #[test]
    fn a_wrong_total_and_what_stays_in_doubt_are_broken_promises() {
        assert_eq!(kept(&bank()), [true, true]);
        let mut wrong = bank();
        wrong.wrong_totals = 1;
        assert_eq!(kept(&wrong), [false, true]);
        let mut undecided = bank();
        undecided.report.undecided.push("statement #3".to_owned());
        assert_eq!(kept(&undecided), [false, true]);
        let mut pending = bank();
        pending.quiet.pending = 1;
        assert_eq!(kept(&pending), [true, false]);
    }

    #[test]
    fn it_is_shown_to_people_and_to_scripts() {
        let json = bank().as_json();
        assert_eq!(
            (&json["transfer_us"]["p50"], &json["retries"]["conflict"]),
            (&json!(2_000), &json!(2))
        );
        assert_eq!(json["in_doubt"]["quiet_after_ms"], 7);
        let shown = bank().table(Paint::plain());
        assert!(
            shown.contains("4 accounts, 2 groups") && shown.contains("2 conflict"),
            "{shown}"
        );
    }
}
