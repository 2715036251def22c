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
        report.violations.extend(broken.map(|v| v.on_key(&operation.key)));
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
        broken.push(format!("achieved {} though {asked} was asked", receipt.achieved));
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
    if !matches!(receipt.basis, StalenessBasis::Lease | StalenessBasis::ConfirmingRound) {
        broken.push(format!("a linearizable read on the basis {}", receipt.basis.name()));
    }
    broken
}

/// A linearizable read has applied every entry that its group had acknowledged before the read began.
fn check_freshness(history: &History) -> Vec<Violation> {
    let operations = history.operations();
    let mut acks: Vec<(u64, GroupId, Index, usize)> = Vec::new();
    for (place, operation) in operations.iter().enumerate() {
        if let (true, Some(end), Some((group, at))) = (operation.is_written(), operation.returned, operation.position())
        {
            acks.push((end, group, at.index, place));
        }
    }
    acks.sort_unstable();
    let mut ended = acks.into_iter().peekable();
    let mut newest: BTreeMap<GroupId, (Index, usize)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (place, operation) in operations.iter().enumerate() {
        while let Some((_, group, index, ack)) = ended.next_if(|(end, ..)| *end < operation.invoked) {
            let known = newest.entry(group).or_insert((index, ack));
            *known = (*known).max((index, ack));
        }
        let (Some(Level::Linearizable), Some((group, at))) = (operation.read_level(), operation.position()) else {
            continue;
        };
        let Some((index, ack)) = newest.get(&group).filter(|(index, _)| *index > at.index) else {
            continue;
        };
        let why = format!("a linearizable read of {group} at {at}, after {index} had been acknowledged");
        violations.push(Violation::new("receipts", vec![place, *ack], why).on_key(&operation.key));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Condition, Outcome, Seen};
    use crate::testing::*;
    use fulcrum_types::NodeId;
    use std::time::Duration;

    const PROMISE: Promise = Promise {
        mode: Mode::Sync,
        fsync: Fsync::Always,
        min_in_sync: 2,
        weaker_accepted: false,
    };

    const IN_ASYNC: Promise = Promise {
        mode: Mode::Async,
        ..PROMISE
    };

    fn broken(operation: Operation, promise: Promise) -> usize {
        check(&history([operation]), &promise).violations.len()
    }

    fn write() -> Operation {
        put((0, 10), 1, 5).receipt(1, 5)
    }

    fn read(level: Level) -> Operation {
        get_at(level, (0, 10), Seen::Absent).receipt(1, 5)
    }

    #[test]
    fn right_receipts_pass() {
        assert_eq!(broken(write(), PROMISE), 0);
        assert_eq!(broken(read(Level::Linearizable), PROMISE), 0);
        let mismatch = Outcome::Mismatch { seen: None };
        let refused = cas((0, 10), Condition::Exists, 1, mismatch).receipt(1, 5);
        assert_eq!(broken(refused, PROMISE), 0);
    }

    #[test]
    fn too_few_replicas_are_found() {
        let held_by = |nodes: &[u64]| {
            let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
            write().with(|r| r.acknowledged_by = nodes.into())
        };
        assert_eq!(broken(held_by(&[1]), PROMISE), 1);
        assert_eq!(broken(held_by(&[1]), IN_ASYNC), 0);
        assert_eq!(broken(held_by(&[1, 1, 2]), PROMISE), 1, "one is counted twice");
        assert_eq!(broken(held_by(&[2, 3]), PROMISE), 1, "not the primary itself");
    }

    #[test]
    fn overstated_durability_is_found() {
        for fsync in [Fsync::Interval, Fsync::Never] {
            let promise = Promise { fsync, ..PROMISE };
            assert_eq!(broken(write(), promise), 1);
            assert_eq!(broken(write().with(|r| r.durable = false), promise), 0);
        }
    }

    #[test]
    fn answers_of_the_wrong_role_are_found() {
        let by_backup = |o: Operation| o.with(|r| r.role = Role::Backup);
        assert_eq!(broken(by_backup(write()), PROMISE), 1);
        assert_eq!(broken(by_backup(read(Level::Linearizable)), PROMISE), 1);
        assert_eq!(broken(by_backup(read(Level::Eventual)), PROMISE), 0);
    }

    #[test]
    fn a_silent_downgrade_is_found() {
        let weaker = || read(Level::Linearizable).with(|r| r.achieved = Level::Eventual);
        let accepted = Promise {
            weaker_accepted: true,
            ..PROMISE
        };
        assert_eq!(broken(weaker(), PROMISE), 1);
        assert_eq!(broken(weaker(), accepted), 0);
    }

    #[test]
    fn claims_without_a_proof_are_found() {
        let echo = read(Level::Linearizable).with(|r| r.basis = StalenessBasis::Echo);
        assert_eq!(broken(echo, PROMISE), 1);
        assert_eq!(broken(read(Level::Linearizable), IN_ASYNC), 1);
        let no_basis = read(Level::Eventual).with(|r| {
            r.staleness = Some(Duration::ZERO);
            r.basis = StalenessBasis::None;
        });
        assert_eq!(broken(no_basis, PROMISE), 1);
    }

    #[test]
    fn a_linearizable_read_behind_an_acknowledged_write_of_its_group_is_found() {
        let behind = get((20, 30), Seen::Absent).on("other").receipt(1, 4);
        let report = check(&history([write(), behind.clone()]), &PROMISE);
        assert_eq!(report.violations[0].operations, [1, 0]);
        let overlapping = Operation { invoked: 10, ..behind };
        assert_eq!(check(&history([write(), overlapping]), &PROMISE).violations, []);
    }
}
