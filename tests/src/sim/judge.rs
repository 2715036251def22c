//! The verdict on a finished run: every checker on what clients were told, and on what the disks hold.

use super::inspect::Inspection;
use super::plan::{Plan, Profile};
use super::watcher::Watcher;
use super::world::Failure;
use bytes::Bytes;
use fulcrum_checker::durability::Certificates;
use fulcrum_checker::{
    History, Operation, Seen, SurvivingLog, Violation, convergence, durability, epochs, linearizability, receipts,
    sessions, staleness,
};
use fulcrum_types::{GroupId, Mode, NodeId, StalenessBasis};
use std::collections::{BTreeMap, BTreeSet};

/// The property of a history that could not be judged: no pass, but nothing is known to be broken either.
pub const UNDECIDED: &str = "linearizability (undecided)";

/// What a run showed, once all has healed and settled.
pub struct Evidence<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// What clients asked and were told.
    pub history: History,
    /// What each key held at the end.
    pub finals: BTreeMap<Bytes, Seen>,
    /// What each replica's disk holds.
    pub disks: BTreeMap<(GroupId, NodeId), Inspection>,
    /// The primary of each group.
    pub primaries: BTreeMap<GroupId, NodeId>,
    /// Groups of which a replica's disk was lost: what it alone knew is gone.
    pub wiped: BTreeSet<GroupId>,
}

/// How many acknowledged writes were lost (and certified), if all is as promised.
///
/// # Errors
/// The first promise that was broken.
pub fn judge(evidence: &Evidence) -> Result<u64, Failure> {
    let Evidence {
        plan, history, disks, ..
    } = evidence;
    let logs: BTreeMap<GroupId, SurvivingLog> = (evidence.primaries.iter())
        .filter_map(|(group, node)| Some((*group, disks.get(&(*group, *node))?.surviving_log())))
        .collect();
    // Beyond the bound on clock rates nothing that rests on a lease is promised.
    let beyond = plan.profile == Profile::BeyondBound;
    let leaseless = beyond.then(|| {
        history
            .operations()
            .iter()
            .filter(|o| !rests_on_lease(o))
            .cloned()
            .collect::<History>()
    });
    let judged = leaseless.as_ref().unwrap_or(history);

    if plan.mode == Mode::Sync {
        let report = linearizability::check(judged);
        none(judged, "linearizability", report.violations)?;
        if let Some(why) = report.undecided.first() {
            return Err(broken(UNDECIDED, why.clone()));
        }
    }
    let lost = lost_writes(evidence, &logs)?;
    none(judged, "sessions", sessions::check(judged, &logs).violations)?;
    if !beyond {
        let mut violations = staleness::check(history, &logs).violations;
        violations.retain(|violation| survived(history, violation, &logs));
        none(history, "staleness", violations)?;
    }
    if !beyond || plan.mode == Mode::Sync {
        none(history, "epochs", epochs::check(history))?;
    }
    let promise = receipts::Promise {
        mode: plan.mode,
        fsync: plan.fsync,
        min_in_sync: plan.options.min_in_sync,
        weaker_accepted: false,
    };
    none(judged, "receipts", receipts::check(judged, &promise).violations)?;
    let states: Vec<_> = disks
        .iter()
        .map(|((group, node), disk)| disk.state(*group, *node))
        .collect();
    none(history, "convergence", convergence::check_settled(&states))?;
    Ok(lost)
}

/// Whether each watch was told all that survived, once, and nothing else.
///
/// # Errors
/// The first that was not.
pub fn watches_told_all(watchers: &[Watcher], evidence: &Evidence) -> Result<(), Failure> {
    for watcher in watchers {
        let primary = evidence.primaries.get(&watcher.group);
        let disk = primary.and_then(|node| evidence.disks.get(&(watcher.group, *node)));
        if let Some(disk) = disk {
            let told = watcher.judge(evidence, &disk.surviving_log());
            told.map_err(|reason| broken("watches", reason))?;
        }
    }
    Ok(())
}

/// Acknowledged writes that did not survive: none in `sync`, all certified in `async`.
fn lost_writes(evidence: &Evidence, logs: &BTreeMap<GroupId, SurvivingLog>) -> Result<u64, Failure> {
    let Evidence {
        plan,
        history,
        disks,
        finals,
        ..
    } = evidence;
    let mut certificates = Certificates::default();
    for ((group, _), disk) in disks {
        for (taken_by, at) in &disk.diverged {
            // A history that took their place and was lost itself may have been followed by one that has them.
            let final_word = logs.get(group).is_some_and(|log| log.starts.contains_key(taken_by));
            let survived = logs.get(group).is_some_and(|log| log.contains(*at));
            if final_word || !survived {
                certificates.lost.insert((*group, at.epoch, at.index));
            }
        }
    }
    certificates.open.clone_from(&evidence.wiped);
    let report = durability::check(history, plan.mode, logs, &certificates);
    none(history, "durability", report.violations)?;
    let known: BTreeSet<usize> = report.lost.iter().copied().collect();
    let last = durability::check_final(history, finals, |place| !known.contains(&place));
    none(history, "durability of values", last.altered)?;
    if let Some(place) = last.lost.first() {
        return Err(broken(
            "durability of values",
            format!("lost: {}", history.operations()[*place]),
        ));
    }
    Ok(report.lost.len() as u64)
}

/// Bounds are relative to the history that a replica is in. In `async` that history may be lost itself, and the one before it be
/// the one that goes on: what a read of it missed is no fault of its bound.
fn survived(history: &History, violation: &Violation, logs: &BTreeMap<GroupId, SurvivingLog>) -> bool {
    let read = violation
        .operations
        .first()
        .and_then(|place| history.operations().get(*place));
    let position = read.and_then(Operation::position);
    position.is_none_or(|(group, at)| logs.get(&group).is_none_or(|log| log.contains(at)))
}

fn rests_on_lease(operation: &Operation) -> bool {
    let basis = operation.receipt.as_ref().map(|r| r.basis);
    operation.seen().is_some() && matches!(basis, Some(StalenessBasis::Lease | StalenessBasis::Echo))
}

fn none(history: &History, property: &'static str, violations: Vec<Violation>) -> Result<(), Failure> {
    match violations.first() {
        None => Ok(()),
        Some(violation) => Err(broken(property, violation.describe(history))),
    }
}

pub(super) fn broken(property: &'static str, reason: String) -> Failure {
    Failure {
        at: 0,
        property,
        reason,
    }
}
