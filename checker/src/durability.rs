//! Acknowledged writes survive, or a loss certificate names them.
//!
//! Source: DESIGN section 5: `sync` loses nothing; an `async` failover may lose the tail that was not replicated, and
//! nothing silently. A write is *lost* if it was acknowledged and its entry is not in the surviving log of its group:
//! its epoch no longer owns its index ([`SurvivingLog`]). Superseding it by a later write does not lose it, and a later
//! write that reuses its index does not save it.
//!
//! [`check_final`] asks the same of the data instead of the log: it reads every key after all has healed.

use crate::history::{History, Seen};
use crate::removals::Removals;
use crate::survival::SurvivingLog;
use crate::violation::Violation;
use bytes::Bytes;
use fulcrum_types::{Epoch, GroupId, Index, LogPosition, Mode};
use std::collections::{BTreeMap, BTreeSet};

/// What the certificates of all groups say together.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// Entries that they list as lost.
    pub lost: BTreeSet<(GroupId, Epoch, Index)>,
    /// Groups of which some certificate says "extent unknown": entries may be missing from its list.
    pub open: BTreeSet<GroupId>,
}

/// What was found, with the number of chances there were to find it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Acknowledged writes with a position.
    pub acknowledged: usize,
    /// Those that are not in the surviving log, as places in the history.
    pub lost: Vec<usize>,
    /// What is wrong: a loss in `sync`, one that no certificate names, or a certificate that names a survivor.
    pub violations: Vec<Violation>,
}

/// Compares what was acknowledged with what survived and with what the certificates say.
///
/// A group without a surviving log is itself a violation if it acknowledged anything: nobody could say what it lost.
#[must_use]
pub fn check(
    history: &History,
    mode: Mode,
    logs: &BTreeMap<GroupId, SurvivingLog>,
    certificates: &Certificates,
) -> Report {
    let mut report = Report::default();
    let mut without_log = BTreeSet::new();
    for (place, operation) in history.operations().iter().enumerate() {
        let Some((group, at)) = operation.position().filter(|_| operation.is_written()) else {
            continue;
        };
        report.acknowledged += 1;
        let Some(log) = logs.get(&group) else {
            if without_log.insert(group) {
                let why = format!(
                    "the surviving log of {group} is not known, though it acknowledged writes"
                );
                report
                    .violations
                    .push(Violation::new("durability", vec![place], why));
            }
            continue;
        };
        if log.contains(at) {
            continue;
        }
        report.lost.push(place);
        let named = certificates.lost.contains(&(group, at.epoch, at.index));
        let why = match mode {
            Mode::Sync => {
                format!("{at} of {group} was acknowledged in a sync keyspace and is lost")
            }
            Mode::Async if named || certificates.open.contains(&group) => continue,
            Mode::Async => {
                format!("{at} of {group} was acknowledged and is lost, and no certificate names it")
            }
        };
        report
            .violations
            .push(Violation::new("durability", vec![place], why).on_key(&operation.key));
    }
    report
        .violations
        .extend(certified_survivors(logs, certificates));
    report
}

fn certified_survivors<'a>(
    logs: &'a BTreeMap<GroupId, SurvivingLog>,
    certificates: &'a Certificates,
) -> impl Iterator<Item = Violation> + 'a {
    certificates
        .lost
        .iter()
        .filter_map(|&(group, epoch, index)| {
            let at = LogPosition { epoch, index };
            let survived = logs.get(&group)?.contains(at);
            let why = || format!("a certificate names {at} of {group}, which survived");
            survived.then(|| Violation::new("durability", Vec::new(), why()))
        })
}

/// What a final read of all keys showed.
#[derive(Clone, Debug, Default)]
pub struct FinalReport {
    /// Keys with acknowledged writes.
    pub keys: usize,
    /// Acknowledged writes that are newer than what their key holds now, as places in the history.
    pub lost: Vec<usize>,
    /// Keys whose value now is not the one that was acknowledged at its version.
    pub altered: Vec<Violation>,
}

/// Compares the acknowledged writes with what the keys hold once all has healed and no write is under way.
///
/// A key that is not in `finals` holds nothing. `still_stands` says of an acknowledged write, by its place, whether it
/// counts: in `async` those already known to be lost do not, as their versions may have been used again.
#[must_use]
pub fn check_final(
    history: &History,
    finals: &BTreeMap<Bytes, Seen>,
    still_stands: impl Fn(usize) -> bool,
) -> FinalReport {
    let removals = Removals::of(history);
    let mut report = FinalReport::default();
    for (key, places) in history.by_key() {
        let held = finals.get(key).copied().unwrap_or(Seen::Absent);
        let mut written = false;
        for place in places {
            let operation = &history.operations()[place];
            let Some(version) = operation.written_version().filter(|_| still_stands(place)) else {
                continue;
            };
            written = true;
            match held {
                Seen::Absent if !removals.could_hide(key, version) => report.lost.push(place),
                Seen::Present {
                    version: Some(now), ..
                } if now < version => report.lost.push(place),
                Seen::Present {
                    version: Some(now),
                    value,
                } if now == version => {
                    if operation.call.writes() != Some(Some(value)) {
                        let why = format!(
                            "holds {held}, which is not what was acknowledged at {version}"
                        );
                        report
                            .altered
                            .push(Violation::new("durability", vec![place], why).on_key(key));
                    }
                }
                _ => {}
            }
        }
        report.keys += usize::from(written);
    }
    report
}
