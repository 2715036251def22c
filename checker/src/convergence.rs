//! Replicas of a group that have applied the same entries hold the same data.
//!
//! Source: DESIGN section 8 (deterministic state machine, snapshots whole or not at all).

use crate::violation::Violation;
use fulcrum_types::{GroupId, Index, NodeId};
use std::collections::BTreeMap;

/// One replica's data at one applied index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    /// Its group.
    pub group: GroupId,
    /// Its node.
    pub node: NodeId,
    /// How far it has applied the log.
    pub applied: Index,
    /// Checksum over all its data.
    pub checksum: u64,
}

/// Judges states taken at any time, as long as all are of one surviving history: equal index, equal checksum.
#[must_use]
pub fn check(states: &[ReplicaState]) -> Vec<Violation> {
    let mut first: BTreeMap<(GroupId, Index), &ReplicaState> = BTreeMap::new();
    let mut violations = Vec::new();
    for state in states {
        let other = *first.entry((state.group, state.applied)).or_insert(state);
        if other.checksum != state.checksum {
            let why = format!(
                "{} of {} at index {} holds {:x}, {} holds {:x}",
                state.node, state.group, state.applied, state.checksum, other.node, other.checksum
            );
            violations.push(Violation::new("convergence", Vec::new(), why));
        }
    }
    violations
}

/// Judges states taken after load and faults have ended: all replicas of a group have applied the same.
#[must_use]
pub fn check_settled(states: &[ReplicaState]) -> Vec<Violation> {
    let mut newest: BTreeMap<GroupId, &ReplicaState> = BTreeMap::new();
    for state in states {
        let newest = newest.entry(state.group).or_insert(state);
        if newest.applied < state.applied {
            *newest = state;
        }
    }
    let mut violations = check(states);
    for state in states {
        let ahead = newest[&state.group];
        if state.applied < ahead.applied {
            let why = format!(
                "{} of {} stopped at index {}, {} is at {}",
                state.node, state.group, state.applied, ahead.node, ahead.applied
            );
            violations.push(Violation::new("convergence", Vec::new(), why));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(node: u64, applied: u64, checksum: u64) -> ReplicaState {
        ReplicaState {
            group: GroupId(1),
            node: NodeId(node),
            applied: Index(applied),
            checksum,
        }
    }

    #[test]
    fn a_laggard_is_fine_until_all_should_have_settled() {
        let states = [state(1, 7, 0xa), state(2, 7, 0xa), state(3, 5, 0xb)];
        assert_eq!(check(&states), []);
        assert_eq!(check_settled(&states).len(), 1);
    }

    #[test]
    fn different_data_at_one_index_is_found() {
        let states = [state(1, 7, 0xa), state(2, 7, 0xb)];
        assert_eq!(check(&states).len(), 1);
    }

    #[test]
    fn groups_are_not_compared_with_each_other() {
        let mut states = [state(1, 7, 0xa), state(2, 7, 0xb)];
        states[1].group = GroupId(2);
        assert_eq!(check_settled(&states), []);
    }
}
