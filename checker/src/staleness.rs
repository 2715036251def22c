//! No read is staler than its receipt says.
//!
//! Source: DESIGN section 6 and rule 9. A read that began at `t` and whose receipt states the bound `b` has to reflect
//! every write to its key that had been acknowledged before `t - b`; a read at `bounded(t)` has to state a bound of at
//! most `t`. Beside that it measures the staleness that was *served*: for how long, when the read began, the first
//! write that it missed had been acknowledged. In `async` keyspaces all this is relative to the surviving history:
//! writes that were lost are missed by nobody, and a read from a lost branch reflects what it shares with the survivor.

use crate::history::{History, Operation, Seen, ValueId};
use crate::removals::Removals;
use crate::survival::SurvivingLog;
use crate::violation::Violation;
use fulcrum_types::{GroupId, Index, Level};
use std::collections::BTreeMap;
use std::time::Duration;

/// What reads of one level were served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Reads judged.
    pub reads: usize,
    /// Reads that missed a write acknowledged before they began.
    pub stale: usize,
    /// Reads whose receipt states a bound.
    pub bounded: usize,
    /// Median staleness over all reads; zero for a read that missed nothing.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// The stalest read.
    pub max: Duration,
    /// Median of the bounds that receipts stated.
    pub bound_p50: Duration,
    /// The greatest of them.
    pub bound_max: Duration,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was served, by name of the level achieved.
    pub levels: BTreeMap<&'static str, Served>,
    /// Bounds that were understated, not kept, or missing.
    pub violations: Vec<Violation>,
}

/// Judges all reads. `logs` name the surviving log of each group; without one, its whole history has survived.
#[must_use]
pub fn check(history: &History, logs: &BTreeMap<GroupId, SurvivingLog>) -> Report {
    let mut report = Report::default();
    let mut samples: BTreeMap<&'static str, Samples> = BTreeMap::new();
    let removals = Removals::of(history);
    for (_, places) in history.by_key() {
        let checker = KeyChecker::new(history.operations(), &places, logs, &removals);
        for &place in &places {
            let operation = &history.operations()[place];
            let Some(level) = operation.read_level() else {
                continue;
            };
            let samples = samples.entry(level.name()).or_default();
            checker.check_read(place, operation, level, samples, &mut report.violations);
        }
    }
    report.levels = samples.into_iter().map(|(level, s)| (level, s.summary())).collect();
    report
}

/// An acknowledged write that survived.
struct Ack {
    version: Index,
    end: u64,
    place: usize,
}

/// One key's surviving acknowledged writes, ready for questions by time and by version.
struct KeyChecker<'a> {
    /// By end; beside each the place in `by_end` of the greatest version up to there.
    by_end: Vec<(Ack, usize)>,
    /// By version; beside each the earliest end from there on.
    by_version: Vec<(Index, u64)>,
    /// Values of lost writes by version, with the last index that their branch shares with the surviving log.
    lost: BTreeMap<(Index, Option<ValueId>), Index>,
    removals: &'a Removals<'a>,
}

impl<'a> KeyChecker<'a> {
    fn new(
        operations: &[Operation],
        places: &[usize],
        logs: &BTreeMap<GroupId, SurvivingLog>,
        removals: &'a Removals<'a>,
    ) -> Self {
        let mut acks = Vec::new();
        let mut lost = BTreeMap::new();
        for &place in places {
            let operation = &operations[place];
            let (Some(version), Some(end)) = (operation.written_version(), operation.returned) else {
                continue;
            };
            match shared_with_survivor(operation, logs) {
                Some(shared) => {
                    lost.insert((version, operation.call.writes().flatten()), shared);
                }
                None => acks.push(Ack { version, end, place }),
            }
        }
        let mut by_version: Vec<(Index, u64)> = acks.iter().map(|a| (a.version, a.end)).collect();
        by_version.sort_unstable();
        let mut earliest = u64::MAX;
        for (_, end) in by_version.iter_mut().rev() {
            earliest = earliest.min(*end);
            *end = earliest;
        }
        acks.sort_unstable_by_key(|a| (a.end, a.version));
        let mut by_end: Vec<(Ack, usize)> = Vec::with_capacity(acks.len());
        for ack in acks {
            let newest = match by_end.last() {
                Some((_, newest)) if by_end[*newest].0.version > ack.version => *newest,
                _ => by_end.len(),
            };
            by_end.push((ack, newest));
        }
        KeyChecker {
            by_end,
            by_version,
            lost,
            removals,
        }
    }

    fn check_read(
        &self,
        place: usize,
        read: &Operation,
        level: Level,
        samples: &mut Samples,
        violations: &mut Vec<Violation>,
    ) {
        let Some(reflected) = self.reflected(read) else {
            return;
        };
        let stale_since = self.first_missed(reflected).filter(|end| *end < read.invoked);
        samples.served.push(stale_since.map_or(0, |end| read.invoked - end));
        let bound = read.receipt.as_ref().and_then(|r| r.staleness);
        if let Level::Bounded(limit) = level
            && bound.is_none_or(|b| b > limit)
        {
            let why = match bound {
                Some(bound) => format!("served with bound {bound:?} at {level}"),
                None => format!("served without a bound at {level}"),
            };
            violations.push(Violation::new("staleness", vec![place], why).on_key(&read.key));
        }
        let Some(bound) = bound.map(nanos) else {
            return;
        };
        samples.bounds.push(bound);
        let limit = read.invoked.saturating_sub(bound);
        let Some(missed) = self.newest_before(limit).filter(|ack| ack.version > reflected) else {
            return;
        };
        let why = format!(
            "the receipt bounds staleness by {:?}, but version {} had been acknowledged {:?} before the read began",
            Duration::from_nanos(bound),
            missed.version,
            Duration::from_nanos(read.invoked - missed.end),
        );
        violations.push(Violation::new("staleness", vec![place, missed.place], why).on_key(&read.key));
    }

    /// The newest version that the read can have reflected; none if its answer does not tell.
    fn reflected(&self, read: &Operation) -> Option<Index> {
        match read.seen()? {
            Seen::Present { value, version } => {
                let version = version?;
                Some(self.lost.get(&(version, Some(value))).copied().unwrap_or(version))
            }
            Seen::Absent => {
                let removed = self.removals.newest_for(read);
                let applied = read.receipt.as_ref().map_or(Index(u64::MAX), |r| r.position.index);
                Some(removed.min(applied))
            }
        }
    }

    /// When the first of the writes after `version` was acknowledged.
    fn first_missed(&self, version: Index) -> Option<u64> {
        let from = self.by_version.partition_point(|(v, _)| *v <= version);
        self.by_version.get(from).map(|(_, end)| *end)
    }

    /// The greatest version acknowledged before `time`.
    fn newest_before(&self, time: u64) -> Option<&Ack> {
        let count = self.by_end.partition_point(|(ack, _)| ack.end < time);
        let (_, newest) = self.by_end.get(count.checked_sub(1)?)?;
        Some(&self.by_end[*newest].0)
    }
}

/// For a write that was lost: the last index before the surviving log left its branch.
fn shared_with_survivor(operation: &Operation, logs: &BTreeMap<GroupId, SurvivingLog>) -> Option<Index> {
    let (group, at) = operation.position()?;
    let log = logs.get(&group).filter(|log| !log.contains(at))?;
    let later = log.starts.iter().filter(|(epoch, _)| **epoch > at.epoch);
    later.map(|(_, start)| start.prev()).min().or(Some(log.last))
}

#[derive(Default)]
struct Samples {
    served: Vec<u64>,
    bounds: Vec<u64>,
}

impl Samples {
    fn summary(mut self) -> Served {
        self.served.sort_unstable();
        self.bounds.sort_unstable();
        Served {
            reads: self.served.len(),
            stale: self.served.iter().filter(|s| **s > 0).count(),
            bounded: self.bounds.len(),
            p50: quantile(&self.served, 50),
            p99: quantile(&self.served, 99),
            max: quantile(&self.served, 100),
            bound_p50: quantile(&self.bounds, 50),
            bound_max: quantile(&self.bounds, 100),
        }
    }
}

/// The smallest value that at least `percent` of the sorted samples do not exceed.
fn quantile(sorted: &[u64], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    Duration::from_nanos(sorted.get(rank).copied().unwrap_or(0))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, Outcome};
    use crate::testing::*;
    use fulcrum_types::Epoch;

    fn judge(operations: impl IntoIterator<Item = Operation>) -> Report {
        check(&history(operations), &BTreeMap::new())
    }

    /// An eventual read of version 5 that began at 100 with this bound.
    fn old_read(bound: u64) -> Operation {
        let read = get_at(Level::Eventual, (100, 110), present(1, 5)).receipt(1, 5);
        read.with(|r| r.staleness = Some(Duration::from_nanos(bound)))
    }

    fn two_writes() -> [Operation; 2] {
        [put((0, 10), 1, 5), put((20, 40), 2, 6)]
    }

    #[test]
    fn an_understated_bound_is_found() {
        let with_bound = |bound| judge(two_writes().into_iter().chain([old_read(bound)]));
        assert!(with_bound(60).violations.is_empty(), "acknowledged at 40, read at 100");
        let report = with_bound(59);
        assert_eq!(report.violations[0].operations, [2, 1]);
        assert!(with_bound(1_000).violations.is_empty());
    }

    #[test]
    fn served_staleness_counts_from_the_first_missed_acknowledgement() {
        let third = put((50, 90), 3, 7);
        let fresh = get_at(Level::Eventual, (100, 110), present(3, 7));
        let report = judge(two_writes().into_iter().chain([third, old_read(70), fresh]));
        let served = &report.levels["eventual"];
        assert_eq!((served.reads, served.stale, served.bounded), (2, 1, 1));
        assert_eq!(served.max, Duration::from_nanos(60));
        assert_eq!(served.p50, Duration::ZERO);
        assert_eq!(served.bound_max, Duration::from_nanos(70));
    }

    #[test]
    fn a_write_that_was_acknowledged_late_is_not_missed() {
        let open = [put((0, 10), 1, 5), put((20, 200), 2, 6), put_unknown(20, 3)];
        let report = judge(open.into_iter().chain([old_read(0)]));
        assert!(report.violations.is_empty());
        assert_eq!(report.levels["eventual"].stale, 0);
    }

    #[test]
    fn acknowledgements_may_come_in_another_order_than_versions() {
        let newer_first = [put((0, 10), 2, 6), put((0, 50), 1, 5)];
        let report = judge(newer_first.into_iter().chain([old_read(40)]));
        assert_eq!(
            report.violations[0].operations,
            [2, 0],
            "version 6 was acknowledged at 10"
        );
    }

    #[test]
    fn a_bounded_read_keeps_its_limit() {
        let level = Level::Bounded(Duration::from_nanos(50));
        let read = get_at(level, (100, 110), present(2, 6)).receipt(1, 6);
        let with = |bound: Option<u64>| {
            let read = read.clone().with(|r| r.staleness = bound.map(Duration::from_nanos));
            judge(two_writes().into_iter().chain([read])).violations.len()
        };
        assert_eq!(with(Some(50)), 0);
        assert_eq!(with(Some(51)), 1, "beyond the limit");
        assert_eq!(with(None), 1, "without proof");
    }

    #[test]
    fn absence_is_as_new_as_the_newest_removal_it_can_have_seen() {
        let read = |index| {
            let read = get_at(Level::Eventual, (100, 110), Seen::Absent).receipt(1, index);
            read.with(|r| r.staleness = Some(Duration::ZERO))
        };
        let removed = [put((0, 10), 1, 5), delete((20, 40), 6)];
        let with = |index| judge(removed.iter().cloned().chain([read(index)])).violations.len();
        assert_eq!(with(6), 0);
        assert_eq!(with(5), 1, "it had not applied the removal");
        assert_eq!(
            judge([put((0, 10), 1, 5), read(9)]).violations.len(),
            1,
            "nobody removed it"
        );
        let unknown = op((20, 0), Call::Delete, Outcome::Unknown);
        assert_eq!(judge([put((0, 10), 1, 5), unknown, read(9)]).violations.len(), 0);
    }

    #[test]
    fn lost_writes_are_missed_by_nobody_and_their_readers_are_held_to_the_shared_part() {
        let log = SurvivingLog {
            starts: [(Epoch(1), Index(1)), (Epoch(2), Index(6))].into(),
            last: Index(20),
        };
        let operations = [
            put((0, 10), 1, 5).receipt(1, 5),
            put((20, 30), 2, 8).receipt(1, 8),
            put((50, 60), 3, 6).receipt(2, 6),
        ];
        let judge = |read: Operation| {
            let history = history(operations.iter().cloned().chain([read]));
            check(&history, &[(GroupId(1), log.clone())].into()).violations
        };
        let before = Operation {
            invoked: 45,
            ..old_read(0)
        };
        assert_eq!(judge(before), [], "8 of epoch 1 was lost");
        let looked_up = put((20, 30), 2, 8).found(1, 8);
        let others = operations
            .iter()
            .filter(|o| o.written_version() != Some(Index(8)))
            .cloned();
        let later = Operation {
            invoked: 45,
            ..old_read(0)
        };
        let found = check(
            &history(others.chain([looked_up, later])),
            &[(GroupId(1), log.clone())].into(),
        );
        assert_eq!(found.violations, [], "the same, told by a look-up");
        let outcome = Outcome::Read(present(2, 8));
        let zombie = Operation { outcome, ..old_read(0) };
        assert_eq!(judge(zombie)[0].operations, [3, 2], "it misses 6 of epoch 2");
    }
}
