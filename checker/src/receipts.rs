//! No receipt claims more than happened.
//!
//! Source: DESIGN sections 5 and 6. Each claim of a receipt is held against the keyspace's options and against what
//! other clients had been told before. Bounds of staleness have a checker of their own, [`crate::staleness`].

use crate::history::{Call, Facts, History, Operation};
use crate::violation::Violation;
use fulcrum_types::{Fsync, GroupId, Index, Level, Mode, Role, StalenessBasis};
use std::collections::{BTreeMap, BTreeSet};

/// What the keyspace promises.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// How it replicates.
    pub mode: Mode,
    /// When what was acknowledged is on disk.
    pub fsync: Fsync,
    /// Replicas that must hold a write of a `sync` keyspace before it is acknowledged.
    pub min_in_sync: usize,
    /// Whether requests listed weaker levels as acceptable.
    pub weaker_accepted: bool,
}

/// What was found, with the number of chances there were to find it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Receipts judged.
    pub receipts: usize,
    /// What is wrong.
    pub violations: Vec<Violation>,
}

/// Judges all receipts.
#[must_use]
pub fn check(history: &History, promise: &Promise) -> Report {
    let mut report = Report::default();
    for (place, operation) in history.operations().iter().enumerate() {
        let Some(receipt) = &operation.receipt else {
            continue;
        };
        report.receipts += 1;
        let broken = match operation.is_written() {
            true => write_claims(receipt, promise),
            false => read_claims(operation, receipt, promise),
        };
        let broken = broken
            .into_iter()
            .map(|why| Violation::new("receipts", vec![place], why));
        report
            .violations
            .extend(broken.map(|v| v.on_key(&operation.key)));
    }
    if promise.mode == Mode::Sync {
        report.violations.extend(check_freshness(history));
    }
    report
}

fn write_claims(receipt: &Facts, promise: &Promise) -> Vec<String> {
    let mut broken = Vec::new();
    let holders: BTreeSet<_> = receipt.acknowledged_by.iter().collect();
    if receipt.role != Role::Primary {
        broken.push(format!("a {} acknowledged a write", receipt.role));
    }
    if holders.len() < receipt.acknowledged_by.len() {
        broken.push("one replica is counted twice among those who acknowledged".to_owned());
    }
    if !holders.contains(&receipt.replica) {
        broken.push("the primary is not among those who acknowledged".to_owned());
    }
    if promise.mode == Mode::Sync && holders.len() < promise.min_in_sync {
        broken.push(format!(
            "acknowledged by {} replicas where {} are required",
            holders.len(),
            promise.min_in_sync
        ));
    }
    if receipt.durable && promise.fsync != Fsync::Always {
        broken.push(format!("says durable with fsync {}", promise.fsync));
    }
    if receipt.position.index == Index::ZERO {
        broken.push("a write without a position".to_owned());
    }
    broken
}

fn read_claims(operation: &Operation, receipt: &Facts, promise: &Promise) -> Vec<String> {
    let mut broken = Vec::new();
    if let Call::Get(asked) = operation.call
        && asked != receipt.achieved
        && !promise.weaker_accepted
    {
        broken.push(format!(
            "achieved {} though {asked} was asked",
            receipt.achieved
        ));
    }
    if receipt.basis == StalenessBasis::None && receipt.staleness.is_some() {
        broken.push("a bound of staleness without a basis".to_owned());
    }
    if receipt.achieved != Level::Linearizable || !matches!(operation.call, Call::Get(_)) {
        return broken;
    }
    if promise.mode == Mode::Async {
        broken.push("a linearizable read in an async keyspace".to_owned());
    }
    if receipt.role != Role::Primary {
        broken.push(format!("a {} served a linearizable read", receipt.role));
    }
    if !matches!(
        receipt.basis,
        StalenessBasis::Lease | StalenessBasis::ConfirmingRound
    ) {
        broken.push(format!(
            "a linearizable read on the basis {}",
            receipt.basis.name()
        ));
    }
    broken
}

/// A linearizable read has applied every entry that its group had acknowledged before the read began.
fn check_freshness(history: &History) -> Vec<Violation> {
    let operations = history.operations();
    let mut acks: Vec<(u64, GroupId, Index, usize)> = Vec::new();
    for (place, operation) in operations.iter().enumerate() {
        if let (true, Some(end), Some((group, at))) = (
            operation.is_written(),
            operation.returned,
            operation.position(),
        ) {
            acks.push((end, group, at.index, place));
        }
    }
    acks.sort_unstable();
    let mut ended = acks.into_iter().peekable();
    let mut newest: BTreeMap<GroupId, (Index, usize)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (place, operation) in operations.iter().enumerate() {
        while let Some((_, group, index, ack)) = ended.next_if(|(end, ..)| *end < operation.invoked)
        {
            let known = newest.entry(group).or_insert((index, ack));
            *known = (*known).max((index, ack));
        }
        let (Some(Level::Linearizable), Some((group, at))) =
            (operation.read_level(), operation.position())
        else {
            continue;
        };
        let Some((index, ack)) = newest.get(&group).filter(|(index, _)| *index > at.index) else {
            continue;
        };
        let why =
            format!("a linearizable read of {group} at {at}, after {index} had been acknowledged");
        violations.push(Violation::new("receipts", vec![place, *ack], why).on_key(&operation.key));
    }
    violations
}
