//! Judges what the clients were told. The checkers believe clients, never the store.
//!
//! What survived is told by the loss certificates where there are some; elsewhere by the positions that clients were shown:
//! an epoch owns the indices from the first one seen in it. Reading every key after all has healed closes the gap.

use super::incident::Healed;
use super::load::seen;
use super::plan::{BOUND, keyspace_of, spec_of};
use crate::evidence::{losses, surviving_logs};
use crate::exit::Failure;
use crate::render::count;
use bytes::Bytes;
use fulcrum_checker::durability;
use fulcrum_checker::receipts::{self, Promise};
use fulcrum_checker::staleness::{self, Served};
use fulcrum_checker::{History, Seen, Violation, epochs, linearizability, sessions};
use fulcrum_client::{Certificate, Client, Range};
use fulcrum_types::{ClientId, Fsync, Level, Mode};
use futures::TryStreamExt;
use std::collections::{BTreeMap, BTreeSet};

/// Violations that are written out.
const SHOWN: usize = 3;

/// One property, and whether it held.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    /// How many chances there were to find it broken.
    pub(super) judged: String,
    pub(super) violations: usize,
    /// Some of them, with the operations that show it.
    pub(super) shown: Vec<String>,
    /// Where no decision was reached: no pass.
    pub(super) undecided: Vec<String>,
}

impl Check {
    pub(super) fn holds(&self) -> bool {
        self.violations == 0 && self.undecided.is_empty()
    }

    fn new(name: &'static str, judged: String, violations: &[Violation], history: &History) -> Self {
        Check {
            name,
            judged,
            violations: violations.len(),
            shown: violations.iter().take(SHOWN).map(|v| v.describe(history)).collect(),
            undecided: Vec::new(),
        }
    }
}

/// What was found out about one keyspace.
pub(super) struct Judged {
    pub(super) mode: Mode,
    pub(super) checks: Vec<Check>,
    pub(super) served: BTreeMap<&'static str, Served>,
    /// Acknowledged writes lost, by client.
    pub(super) lost: BTreeMap<ClientId, usize>,
    pub(super) certified_lost: u64,
    pub(super) never_acknowledged: u64,
}

/// What every key holds, read at the strongest level of the keyspace once all has healed.
pub(super) async fn final_reads(client: &Client, mode: Mode) -> Result<BTreeMap<Bytes, Seen>, Failure> {
    let name = keyspace_of(mode);
    let level = match mode {
        Mode::Sync => Level::Linearizable,
        Mode::Async => Level::Bounded(BOUND),
    };
    // Nothing is written any more: a bound that is shorter than the time since the last write makes the read a final one.
    tokio::time::sleep(BOUND).await;
    let mut finals = BTreeMap::new();
    let mut rows = std::pin::pin!(client.keyspace(name).scan(Range::all()).at(level).rows());
    let refused = |error| Failure::client(format!("cannot read '{name}' to its end"), &error);
    while let Some(row) = rows.try_next().await.map_err(refused)? {
        finals.insert(row.key, seen(Some(&row.value)));
    }
    Ok(finals)
}

/// Judges the history of one keyspace.
pub(super) fn judge(mode: Mode, history: &History, finals: &BTreeMap<Bytes, Seen>, healed: &Healed) -> Judged {
    let ours: Vec<&Certificate> = healed
        .report
        .certificates
        .iter()
        .filter(|certificate| certificate.keyspace == keyspace_of(mode))
        .collect();
    let logs = surviving_logs(keyspace_of(mode), history, &healed.status, &ours);
    let certificates = losses(&ours);
    let mut checks = Vec::new();
    if mode == Mode::Sync {
        let report = linearizability::check(history);
        let judged = format!(
            "{} operations on {} keys",
            count(report.operations as u64),
            count(report.keys as u64)
        );
        let mut check = Check::new("linearizable", judged, &report.violations, history);
        check.undecided = report.undecided;
        checks.push(check);
    }
    let report = sessions::check(history, &logs);
    let judged = format!(
        "{} sessions, {} reads, {} writes",
        count(report.sessions as u64),
        count(report.reads as u64),
        count(report.writes as u64)
    );
    checks.push(Check::new("session guarantees", judged, &report.violations, history));

    let stale = staleness::check(history, &logs);
    let bounded: usize = stale.levels.values().map(|served| served.bounded).sum();
    let judged = format!("{} reads with a proved bound", count(bounded as u64));
    checks.push(Check::new("staleness bounds", judged, &stale.violations, history));

    let durable = durability::check(history, mode, &logs, &certificates);
    let lost_places: BTreeSet<usize> = durable.lost.iter().copied().collect();
    let judged = format!("{} acknowledged writes", count(durable.acknowledged as u64));
    let name = match mode {
        Mode::Sync => "nothing acknowledged is lost",
        Mode::Async => "every loss is certified",
    };
    checks.push(Check::new(name, judged, &durable.violations, history));
    checks.push(final_check(history, finals, &lost_places));

    let report = receipts::check(history, &promise(mode));
    let judged = format!("{} receipts", count(report.receipts as u64));
    checks.push(Check::new(
        "receipts claim no more",
        judged,
        &report.violations,
        history,
    ));
    let violations = epochs::check(history);
    let judged = format!("{} groups", count(logs.len() as u64));
    checks.push(Check::new("one primary an epoch", judged, &violations, history));

    let mut lost: BTreeMap<ClientId, usize> = BTreeMap::new();
    for place in lost_places {
        if let Some(operation) = history.operations().get(place) {
            *lost.entry(operation.client).or_default() += 1;
        }
    }
    let ours = || {
        healed
            .report
            .certificates
            .iter()
            .filter(|c| c.keyspace == keyspace_of(mode))
    };
    Judged {
        mode,
        checks,
        served: stale.levels,
        lost,
        certified_lost: ours().map(|certificate| certificate.acknowledged_lost).sum(),
        never_acknowledged: ours().map(|certificate| certificate.never_acknowledged).sum(),
    }
}

fn promise(mode: Mode) -> Promise {
    let options = spec_of(mode).resolve().unwrap_or_default();
    Promise {
        mode,
        fsync: Fsync::Always,
        min_in_sync: usize::try_from(options.min_in_sync).unwrap_or(usize::MAX),
        weaker_accepted: false,
    }
}

/// Every key, read at the end, holds the newest acknowledged write that was not lost.
fn final_check(history: &History, finals: &BTreeMap<Bytes, Seen>, lost: &BTreeSet<usize>) -> Check {
    let report = durability::check_final(history, finals, |place| !lost.contains(&place));
    let judged = format!("{} keys read at the end", count(report.keys as u64));
    let mut check = Check::new("what is read at the end", judged, &report.altered, history);
    check.violations += report.lost.len();
    let gone = report.lost.iter().filter_map(|place| history.operations().get(*place));
    let gone = gone.map(|operation| format!("key {} lacks {operation}", operation.key.escape_ascii()));
    check.shown.extend(gone.take(SHOWN));
    check
}
