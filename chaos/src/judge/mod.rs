//! Judges what the clients were told. The checkers believe clients, never the store.
//!
//! What survived is told by the loss certificates where there are some; elsewhere by the positions that clients were shown:
//! an epoch owns the indices from the first one seen in it. Reading every key after all has healed closes the gap. What is not decided is
//! no pass.

mod certificates;
#[cfg(test)]
mod tests;

pub use certificates::certified;

use crate::load::setup::spec;
use crate::load::{BOUND, seen};
use anyhow::{Context, Result};
use bytes::Bytes;
use fulcrum_checker::bank::{self, Ledger};
use fulcrum_checker::durability;
use fulcrum_checker::receipts::{self, Promise};
use fulcrum_checker::{History, Seen, TransactionHistory, Violation};
use fulcrum_checker::{epochs, linearizability, serializability, sessions, staleness};
use fulcrum_cli::evidence::{losses, surviving_logs};
use fulcrum_client::{Certificate, Client, ClusterStatus, Range};
use fulcrum_types::{Fsync, Level, Mode};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Violations of a kind that are written out.
const SHOWN: usize = 3;

/// One property, and whether it held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// Which, and of which keyspace.
    pub name: String,
    /// How many chances there were to find it broken.
    pub judged: usize,
    /// How often it was.
    pub violations: usize,
    /// Some of them, with the operations that show it.
    pub shown: Vec<String>,
    /// Where no decision was reached.
    pub undecided: usize,
}

impl Check {
    /// Broken nowhere, and decided everywhere.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violations == 0 && self.undecided == 0
    }

    fn new(name: String, judged: usize, violations: &[Violation], history: &History) -> Self {
        Check {
            name,
            judged,
            violations: violations.len(),
            shown: violations.iter().take(SHOWN).map(|v| v.describe(history)).collect(),
            undecided: 0,
        }
    }
}

/// What was found about one keyspace.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// All properties.
    pub checks: Vec<Check>,
    /// Acknowledged writes that are gone.
    pub lost: usize,
}

/// A keyspace as it is when all has healed.
#[derive(Clone, Debug)]
pub struct Healed<'a> {
    /// The cluster.
    pub status: &'a ClusterStatus,
    /// All loss certificates.
    pub certificates: &'a [Certificate],
    /// What every key holds.
    pub finals: BTreeMap<Bytes, Seen>,
}

/// What every key holds, read at the strongest level of the keyspace once all has healed.
///
/// # Errors
/// It could not be read to its end.
pub async fn final_reads(client: &Client, name: &str, mode: Mode) -> Result<BTreeMap<Bytes, Seen>> {
    let level = match mode {
        Mode::Sync => Level::Linearizable,
        Mode::Async => Level::Bounded(BOUND),
    };
    // Nothing is written any more: a bound that is shorter than the time since the last write makes the read a final one.
    tokio::time::sleep(BOUND).await;
    let mut finals = BTreeMap::new();
    let mut rows = std::pin::pin!(client.keyspace(name).scan(Range::all()).at(level).rows());
    while let Some(row) = rows
        .try_next()
        .await
        .with_context(|| format!("read {name} to its end"))?
    {
        finals.insert(row.key, seen(Some(&row.value)));
    }
    Ok(finals)
}

/// Judges the history of one keyspace.
#[must_use]
pub fn keyspace(name: &str, mode: Mode, history: &History, healed: &Healed<'_>) -> Judged {
    let ours: Vec<&Certificate> = healed.certificates.iter().filter(|c| c.keyspace == name).collect();
    let logs = surviving_logs(name, history, healed.status, &ours);
    let named = |what: &str| format!("{}: {what}", mode.name());
    let mut checks = Vec::new();
    if mode == Mode::Sync {
        let report = linearizability::check(history);
        let mut check = Check::new(named("linearizable"), report.operations, &report.violations, history);
        check.undecided = report.undecided.len();
        checks.push(check);
    }
    let report = sessions::check(history, &logs);
    let judged = report.reads + report.writes;
    checks.push(Check::new(
        named("session guarantees"),
        judged,
        &report.violations,
        history,
    ));

    let stale = staleness::check(history, &logs);
    let bounded = stale.levels.values().map(|served| served.bounded).sum();
    checks.push(Check::new(
        named("staleness bounds"),
        bounded,
        &stale.violations,
        history,
    ));

    let durable = durability::check(history, mode, &logs, &losses(&ours));
    let what = match mode {
        Mode::Sync => "nothing acknowledged is lost",
        Mode::Async => "every loss is certified",
    };
    checks.push(Check::new(
        named(what),
        durable.acknowledged,
        &durable.violations,
        history,
    ));

    let lost: BTreeSet<usize> = durable.lost.iter().copied().collect();
    // In `async` what is lost is lost; in `sync` it is missing at the end, too.
    let excused = match mode {
        Mode::Sync => BTreeSet::new(),
        Mode::Async => lost.clone(),
    };
    checks.push(final_check(
        named("what is read at the end"),
        history,
        &healed.finals,
        &excused,
    ));

    let report = receipts::check(history, &promise(mode));
    checks.push(Check::new(
        named("receipts"),
        report.receipts,
        &report.violations,
        history,
    ));

    let violations = epochs::check(history);
    checks.push(Check::new(
        named("one primary an epoch"),
        logs.len(),
        &violations,
        history,
    ));
    Judged {
        checks,
        lost: lost.len(),
    }
}

/// Judges the bank.
#[must_use]
pub fn money(ledger: &Ledger) -> Check {
    let report = bank::check(ledger);
    let shown = report.violations.iter().take(SHOWN);
    Check {
        name: "bank: money moves wholly and once".to_owned(),
        judged: report.statements + report.transfers,
        violations: report.violations.len() + report.more,
        shown: shown.map(|violation| ledger.describe(violation)).collect(),
        undecided: report.undecided.len(),
    }
}

/// Judges the lists.
#[must_use]
pub fn lists(history: &TransactionHistory) -> Check {
    let report = serializability::check(history);
    let found: usize = report.counts.values().sum();
    let shown = report.violations.iter().take(SHOWN);
    Check {
        name: "lists: strictly serializable".to_owned(),
        judged: report.transactions,
        violations: found.max(report.violations.len()),
        shown: shown.map(|violation| history.describe(violation)).collect(),
        undecided: report.undecided.len(),
    }
}

fn promise(mode: Mode) -> Promise {
    let options = spec(mode, 1).resolve().unwrap_or_default();
    Promise {
        mode,
        fsync: Fsync::Always,
        min_in_sync: usize::try_from(options.min_in_sync).unwrap_or(usize::MAX),
        weaker_accepted: false,
    }
}

/// Every key, read at the end, holds the newest acknowledged write that is not excused.
fn final_check(name: String, history: &History, finals: &BTreeMap<Bytes, Seen>, excused: &BTreeSet<usize>) -> Check {
    let report = durability::check_final(history, finals, |place| !excused.contains(&place));
    let mut check = Check::new(name, report.keys, &report.altered, history);
    check.violations += report.lost.len();
    let gone = report.lost.iter().filter_map(|place| history.operations().get(*place));
    let gone = gone.map(|operation| format!("key {} lacks {operation}", operation.key.escape_ascii()));
    check.shown.extend(gone.take(SHOWN));
    check
}
