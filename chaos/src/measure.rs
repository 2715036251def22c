//! What is counted: first acknowledged writes after faults, pauses, availability, failures.

use crate::backend::Member;
use crate::faults::Struck;
use crate::load::{Kind, Sample};
use fulcrum_types::GroupId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Operations that succeeded within their deadline, and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Those that did.
    pub succeeded: u64,
    /// All.
    pub all: u64,
}

impl Share {
    fn add(&mut self, succeeded: bool) {
        self.all += 1;
        self.succeeded += u64::from(succeeded);
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Share) -> Share {
        Share {
            succeeded: self.succeeded + other.succeeded,
            all: self.all + other.all,
        }
    }

    /// From 0 to 1; none if there was nothing to succeed.
    #[must_use]
    pub fn ratio(self) -> Option<f64> {
        (self.all > 0).then(|| self.succeeded as f64 / self.all as f64)
    }
}

/// Availability from the first fault to the end of the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Availability {
    /// Reads of groups whose primary was hit.
    pub hit_reads: Share,
    /// Writes of them.
    pub hit_writes: Share,
    /// Reads of the other groups.
    pub other_reads: Share,
    /// Writes of them.
    pub other_writes: Share,
}

impl Availability {
    /// Of everything.
    #[must_use]
    pub fn all(self) -> Share {
        self.hit_reads
            .and(self.hit_writes)
            .and(self.other_reads)
            .and(self.other_writes)
    }

    /// Of several runs.
    #[must_use]
    pub fn and(self, other: Availability) -> Availability {
        Availability {
            hit_reads: self.hit_reads.and(other.hit_reads),
            hit_writes: self.hit_writes.and(other.hit_writes),
            other_reads: self.other_reads.and(other.other_reads),
            other_writes: self.other_writes.and(other.other_writes),
        }
    }
}

/// What was counted in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Operations of probes and clients.
    pub operations: u64,
    /// From a fault to the first acknowledged write, in milliseconds; one for each group whose primary could not serve any more.
    pub first_acks_ms: Vec<u64>,
    /// Groups of which no write was acknowledged any more after a fault.
    pub never_again: Vec<u64>,
    /// The longest time in which a group acknowledged no write, in milliseconds.
    pub longest_pause_ms: u64,
    /// Which group that was.
    #[serde(default)]
    pub paused_group: u64,
    /// From the beginning of the load until then, in milliseconds.
    #[serde(default)]
    pub paused_at_ms: u64,
    /// Shares of operations that succeeded.
    pub availability: Availability,
    /// Operations that failed, by code.
    pub failures: BTreeMap<String, u64>,
    /// Transactions that were not answered as asked, by code.
    #[serde(default)]
    pub transaction_failures: BTreeMap<String, u64>,
}

/// Counts. The load lasted from `from` to `to`.
#[must_use]
pub fn measure(samples: &[Sample], struck: &[Struck], from: u64, to: u64) -> Measured {
    let hit: BTreeSet<GroupId> = struck.iter().flat_map(|struck| struck.led.iter().copied()).collect();
    let first_fault = struck.iter().map(|struck| struck.at).min().unwrap_or(from);
    let pause = longest_pause(samples, from, to);
    let mut measured = Measured {
        operations: samples.len() as u64,
        longest_pause_ms: millis(pause.length),
        paused_group: pause.group.0,
        paused_at_ms: millis(pause.at.saturating_sub(from)),
        ..Measured::default()
    };
    for sample in samples {
        if let Some(error) = sample.error {
            *measured.failures.entry(error.to_owned()).or_default() += 1;
        }
        if sample.ended < first_fault {
            continue;
        }
        let availability = &mut measured.availability;
        let share = match (hit.contains(&sample.group), sample.kind) {
            (true, Kind::Read) => &mut availability.hit_reads,
            (true, Kind::Write) => &mut availability.hit_writes,
            (false, Kind::Read) => &mut availability.other_reads,
            (false, Kind::Write) => &mut availability.other_writes,
        };
        share.add(sample.error.is_none());
    }
    // Groups of the bank alone have no probes.
    let asked: BTreeSet<GroupId> = samples.iter().map(|sample| sample.group).collect();
    for struck in struck.iter().filter(|struck| struck.fault.replaces()) {
        for group in struck.led.intersection(&asked) {
            match first_ack(samples, struck, *group) {
                Some(after) => measured.first_acks_ms.push(after),
                None => measured.never_again.push(group.0),
            }
        }
    }
    measured.first_acks_ms.sort_unstable();
    measured
}

fn is_ack(sample: &Sample) -> bool {
    sample.kind == Kind::Write && sample.error.is_none()
}

/// Milliseconds from a fault to the first write that was acknowledged by another than the one that was hit.
fn first_ack(samples: &[Sample], struck: &Struck, group: GroupId) -> Option<u64> {
    let by_another = |sample: &&Sample| sample.replica.map(Member::Node) != Some(struck.member);
    let acks = samples.iter().filter(|sample| is_ack(sample) && sample.group == group);
    let after = acks.filter(by_another).filter(|sample| sample.ended >= struck.at);
    after.map(|sample| millis(sample.ended - struck.at)).min()
}

/// A time in which a group acknowledged no write.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Pause {
    length: u64,
    at: u64,
    group: GroupId,
}

/// The longest of any group that clients wrote to.
fn longest_pause(samples: &[Sample], from: u64, to: u64) -> Pause {
    let mut acks: BTreeMap<GroupId, Vec<u64>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.kind == Kind::Write) {
        let acks = acks.entry(sample.group).or_default();
        if is_ack(sample) {
            acks.push(sample.ended);
        }
    }
    let longest = acks.into_iter().filter_map(|(group, mut acks)| {
        acks.extend([from, to]);
        acks.retain(|at| (from..=to).contains(at));
        acks.sort_unstable();
        let pause = |pair: &[u64]| Pause {
            length: pair[1] - pair[0],
            at: pair[0],
            group,
        };
        acks.windows(2).map(pause).max()
    });
    longest.max().unwrap_or_default()
}

fn millis(nanos: u64) -> u64 {
    u64::try_from(Duration::from_nanos(nanos).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Fault;
    use fulcrum_types::NodeId;

    const MS: u64 = 1_000_000;

    fn write(began: u64, ended: u64, replica: u64, error: Option<&'static str>) -> Sample {
        Sample {
            kind: Kind::Write,
            group: GroupId(1),
            began: began * MS,
            ended: ended * MS,
            replica: error.is_none().then_some(NodeId(replica)),
            error,
        }
    }

    fn struck(fault: Fault, at: u64) -> Struck {
        Struck {
            fault,
            member: Member::Node(NodeId(1)),
            at: at * MS,
            led: [GroupId(1), GroupId(2), GroupId(3)].into(),
            links: Vec::new(),
        }
    }

    #[test]
    fn only_another_than_the_one_that_was_hit_ends_a_failover() {
        let samples = [
            write(80, 90, 1, None),
            // It was on its way when the fault struck.
            write(99, 101, 1, None),
            write(110, 2_110, 1, Some("UNAVAILABLE")),
            write(2_120, 2_130, 2, None),
            write(2_140, 2_150, 2, None),
            Sample {
                group: GroupId(2),
                ..write(110, 1_110, 1, Some("UNAVAILABLE"))
            },
        ];
        let measured = measure(&samples, &[struck(Fault::Kill, 100)], 0, 2_200 * MS);
        assert_eq!(measured.first_acks_ms, [2_030]);
        assert_eq!(measured.never_again, [2]);
        assert_eq!(
            measured.longest_pause_ms, 2_200,
            "the second group is silent all the time"
        );
        assert_eq!(measured.failures, BTreeMap::from([("UNAVAILABLE".to_owned(), 2)]));
        let writes = measured.availability.hit_writes;
        assert_eq!(
            (writes.succeeded, writes.all),
            (3, 5),
            "what ended before the fault does not count"
        );
        let drained = measure(&samples, &[struck(Fault::Drain, 100)], 0, 2_200 * MS);
        assert!(drained.first_acks_ms.is_empty() && drained.never_again.is_empty());
    }

    #[test]
    fn a_group_that_falls_silent_until_the_end_pauses() {
        let measured = measure(&[write(0, 10, 1, None)], &[], 0, 500 * MS);
        assert_eq!(measured.longest_pause_ms, 490);
        assert_eq!(Share::default().ratio(), None);
    }
}
