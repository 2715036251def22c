//! One primary an epoch, epochs that only grow, and fencing.
//!
//! Source: DESIGN section 5: the CAS decides every race, messages of an older epoch are refused, `async` acknowledges
//! only under a lease so that two primaries never do at once. In what clients were told: of two acknowledgements of a
//! group of which one came before the other was asked for, the later one has the greater position; and nothing is
//! ordered in an epoch once two nodes have answered in it. Two nodes may: a new primary answers a retried request with
//! the position that its predecessor gave it. In what nodes report of themselves: an epoch never goes back, and has one
//! primary.

use crate::history::{History, Operation};
use crate::violation::Violation;
use fulcrum_types::{Epoch, GroupId, LogPosition, NodeId, Role};
use std::collections::BTreeMap;

/// What a node said of itself at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The node.
    pub node: NodeId,
    /// One of its groups.
    pub group: GroupId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its role.
    pub role: Role,
}

/// Judges what clients were told.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut groups: BTreeMap<GroupId, Vec<(usize, LogPosition)>> = BTreeMap::new();
    for (place, operation) in history.operations().iter().enumerate() {
        if let Some((group, position)) = operation.position().filter(|_| operation.is_written()) {
            groups.entry(group).or_default().push((place, position));
        }
    }
    let mut violations = Vec::new();
    for (group, acks) in &groups {
        check_primaries(history.operations(), *group, acks, &mut violations);
        check_fencing(history.operations(), *group, acks, &mut violations);
    }
    violations
}

/// Looks for three acknowledgements in one epoch, each asked for after the one before had come, of which the second
/// came from another node than the first. One of these two nodes did not order that epoch, so it answered as primary of
/// a later one (or as a second primary of this one): what comes after it can no longer be ordered in this epoch.
fn check_primaries(
    operations: &[Operation],
    group: GroupId,
    acks: &[(usize, LogPosition)],
    violations: &mut Vec<Violation>,
) {
    let mut epochs: BTreeMap<Epoch, Vec<Ack>> = BTreeMap::new();
    for &(place, position) in acks {
        let operation = &operations[place];
        if let (Some(end), Some(receipt)) = (operation.returned, &operation.receipt) {
            epochs.entry(position.epoch).or_default().push(Ack {
                begin: operation.invoked,
                end,
                node: receipt.replica,
                place,
            });
        }
    }
    for (epoch, acks) in epochs {
        if let Some([first, second, third]) = answered_after_two_nodes(&acks) {
            let why = format!(
                "{} and {} both acknowledged in {epoch} of {group}, and {} did after that",
                first.node, second.node, third.node
            );
            let places = vec![third.place, second.place, first.place];
            violations.push(Violation::new("one primary an epoch", places, why));
        }
    }
}

#[derive(Clone, Copy)]
struct Ack {
    begin: u64,
    end: u64,
    node: NodeId,
    place: usize,
}

/// Finds such three among acknowledgements of one epoch, which are in the order of their begins.
fn answered_after_two_nodes(acks: &[Ack]) -> Option<[Ack; 3]> {
    let mut by_end = acks.to_vec();
    by_end.sort_unstable_by_key(|a| (a.end, a.place));
    let mut ended = by_end.into_iter().peekable();
    let mut first: Option<Ack> = None;
    let mut from_another: Option<Ack> = None;
    // The pair whose second acknowledgement came earliest.
    let mut pair: Option<(Ack, Ack)> = None;
    for &ack in acks {
        while let Some(earlier) = ended.next_if(|e| e.end < ack.begin) {
            let first = *first.get_or_insert(earlier);
            if first.node != earlier.node {
                from_another.get_or_insert(earlier);
            }
        }
        if let Some((first, second)) = pair.filter(|(_, second)| second.end < ack.begin) {
            return Some([first, second, ack]);
        }
        let differs = [first, from_another].into_iter().flatten().find(|e| e.node != ack.node);
        if let Some(earlier) = differs
            && pair.is_none_or(|(_, second)| ack.end < second.end)
        {
            pair = Some((earlier, ack));
        }
    }
    None
}

/// Compares each acknowledgement with the greatest position acknowledged before it was asked for.
fn check_fencing(
    operations: &[Operation],
    group: GroupId,
    acks: &[(usize, LogPosition)],
    violations: &mut Vec<Violation>,
) {
    let order = |p: LogPosition| (p.epoch, p.index);
    let mut by_end: Vec<(u64, usize, LogPosition)> = acks
        .iter()
        .filter_map(|&(place, at)| operations[place].returned.map(|end| (end, place, at)))
        .collect();
    by_end.sort_unstable_by_key(|(end, place, _)| (*end, *place));
    let mut ended = by_end.into_iter().peekable();
    let mut greatest: Option<(LogPosition, usize)> = None;
    for &(place, position) in acks {
        let begin = operations[place].invoked;
        while let Some((_, earlier, at)) = ended.next_if(|(end, ..)| *end < begin) {
            if greatest.is_none_or(|(g, _)| order(g) < order(at)) {
                greatest = Some((at, earlier));
            }
        }
        let Some((known, earlier)) = greatest else {
            continue;
        };
        if order(position) < order(known) {
            let why = format!("{group} acknowledged {position} to a request made after it had acknowledged {known}");
            violations.push(Violation::new("fencing", vec![place, earlier], why));
        }
    }
}

/// Judges what nodes said of themselves, in the order in which they said it. Restarts count as the same node.
#[must_use]
pub fn check_observations(observations: &[Observation]) -> Vec<Violation> {
    let mut epochs: BTreeMap<(NodeId, GroupId), Epoch> = BTreeMap::new();
    let mut primaries: BTreeMap<(GroupId, Epoch), NodeId> = BTreeMap::new();
    let mut violations = Vec::new();
    for o in observations {
        let known = epochs.entry((o.node, o.group)).or_default();
        if o.epoch < *known {
            let why = format!("{} of {} went back from {known} to {}", o.node, o.group, o.epoch);
            violations.push(Violation::new("growing epochs", Vec::new(), why));
        }
        *known = (*known).max(o.epoch);
        if o.role != Role::Primary {
            continue;
        }
        let primary = *primaries.entry((o.group, o.epoch)).or_insert(o.node);
        if primary != o.node {
            let why = format!(
                "{primary} and {} were both primary of {} in {}",
                o.node, o.group, o.epoch
            );
            violations.push(Violation::new("one primary an epoch", Vec::new(), why));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn broken(operations: impl IntoIterator<Item = Operation>) -> Vec<&'static str> {
        let violations = check(&history(operations));
        violations.iter().map(|v| v.property).collect()
    }

    fn ack(begin: u64, index: u64, node: u64) -> Operation {
        let put = put((begin, begin + 5), index, index).by(begin).receipt(2, index);
        put.with(|r| r.replica = NodeId(node))
    }

    #[test]
    fn two_primaries_that_take_turns_in_one_epoch_are_found() {
        let turns = [ack(0, 5, 1), ack(10, 6, 2), ack(20, 7, 1)];
        assert_eq!(broken(turns.clone()), ["one primary an epoch"]);
        assert!(broken([ack(0, 5, 1), ack(10, 6, 1), ack(20, 7, 1)]).is_empty());
        let [first, second, third] = turns;
        let elsewhere = second.with(|r| r.group = GroupId(2));
        assert!(broken([first, elsewhere, third]).is_empty());
    }

    #[test]
    fn a_retry_answered_by_the_next_primary_is_no_second_primary() {
        let next_epoch = ack(30, 8, 2).with(|r| r.position = at(3, 8));
        let retried = [ack(0, 5, 1), ack(10, 6, 2), next_epoch];
        assert!(broken(retried).is_empty());
        let overlapping = Operation {
            invoked: 12,
            ..ack(20, 7, 1)
        };
        assert!(broken([ack(0, 5, 1), ack(10, 6, 2), overlapping]).is_empty());
    }

    #[test]
    fn an_acknowledgement_of_a_deposed_primary_is_found() {
        let by_new = put((0, 10), 1, 5).receipt(2, 5).with(|r| r.replica = NodeId(2));
        let by_old = put((20, 30), 2, 9).by(2).receipt(1, 9);
        assert_eq!(broken([by_new.clone(), by_old.clone()]), ["fencing"]);
        let overlapping = Operation { invoked: 10, ..by_old };
        assert!(broken([by_new, overlapping]).is_empty());
    }

    #[test]
    fn an_index_that_goes_back_within_an_epoch_is_found() {
        let first = put((0, 10), 1, 5).receipt(1, 5);
        let second = put((20, 30), 2, 4).on("other").receipt(1, 4);
        assert_eq!(broken([first.clone(), second]), ["fencing"]);
        let used_again = put((20, 30), 2, 4).on("other").receipt(2, 4);
        let after_a_loss = used_again.with(|r| r.replica = NodeId(2));
        assert!(broken([first, after_a_loss]).is_empty(), "async may lose the tail");
    }

    #[test]
    fn nodes_that_contradict_themselves_or_each_other_are_found() {
        let says = |node, epoch, role| Observation {
            node: NodeId(node),
            group: GroupId(1),
            epoch: Epoch(epoch),
            role,
        };
        let one_after_the_other = [
            says(1, 1, Role::Primary),
            says(2, 1, Role::Backup),
            says(2, 2, Role::Primary),
            says(1, 1, Role::Primary),
        ];
        assert_eq!(check_observations(&one_after_the_other), []);
        let back = [says(1, 2, Role::Backup), says(1, 1, Role::Backup)];
        assert_eq!(check_observations(&back)[0].property, "growing epochs");
        let two = [says(1, 2, Role::Primary), says(2, 2, Role::Primary)];
        assert_eq!(check_observations(&two)[0].property, "one primary an epoch");
    }
}
