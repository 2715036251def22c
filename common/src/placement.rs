//! Which nodes hold a new group's replicas.
//!
//! Each group takes the nodes with the fewest replicas so far, in zones that it does not use yet where possible; ties go by
//! rendezvous hash, so that neighbours of one group are not always the same. The first replica is the one that is likely to
//! become primary: it is the one with the fewest first places.

use crate::ring::StableBuildHasher;
use fulcrum_types::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

/// How much a node holds already, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Failure zone, if named.
    pub zone: Option<String>,
    /// Replicas that it holds.
    pub replicas: usize,
    /// Groups in which it comes first.
    pub firsts: usize,
}

/// Chooses `count` nodes for `group` and counts them in `loads`. None if there are fewer nodes.
#[must_use]
pub fn place(group: GroupId, count: usize, loads: &mut BTreeMap<NodeId, Load>) -> Option<Vec<NodeId>> {
    if count == 0 || loads.len() < count {
        return None;
    }
    let mut chosen: Vec<NodeId> = Vec::with_capacity(count);
    let mut zones: BTreeSet<&str> = BTreeSet::new();
    for _ in 0..count {
        let candidates = loads.iter().filter(|(node, _)| !chosen.contains(node));
        let (node, load) = candidates.min_by_key(|(node, load)| {
            let zone_taken = load.zone.as_deref().is_some_and(|z| zones.contains(z));
            (zone_taken, load.replicas, load.firsts, weight(group, **node))
        })?;
        chosen.push(*node);
        zones.extend(load.zone.as_deref());
    }
    let first = (0..count).min_by_key(|at| (loads[&chosen[*at]].firsts, *at))?;
    chosen.swap(0, first);
    for (at, node) in chosen.iter().enumerate() {
        let load = loads.entry(*node).or_default();
        load.replicas += 1;
        load.firsts += usize::from(at == 0);
    }
    Some(chosen)
}

fn weight(group: GroupId, node: NodeId) -> u64 {
    StableBuildHasher.hash_one((group.0, node.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(n: u64, zones: u64) -> BTreeMap<NodeId, Load> {
        (1..=n)
            .map(|i| {
                let zone = (zones > 0).then(|| format!("z{}", i % zones));
                (
                    NodeId(i),
                    Load {
                        zone,
                        ..Load::default()
                    },
                )
            })
            .collect()
    }

    #[test]
    fn replicas_and_firsts_are_even() {
        for (n, groups) in [(5, 8), (5, 16), (3, 8), (7, 64)] {
            let mut loads = nodes(n, 0);
            for group in 1..=groups {
                let chosen = place(GroupId(group), 3, &mut loads).unwrap();
                assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 3);
            }
            let spread = |count: fn(&Load) -> usize| {
                let (least, most) = (
                    loads.values().map(count).min().unwrap(),
                    loads.values().map(count).max().unwrap(),
                );
                most - least
            };
            assert!(spread(|l| l.replicas) <= 1, "{n} nodes, {groups} groups: {loads:?}");
            assert!(spread(|l| l.firsts) <= 1, "{n} nodes, {groups} groups: {loads:?}");
        }
    }

    #[test]
    fn zones_are_kept_apart_while_there_are_enough() {
        let mut loads = nodes(9, 3);
        for group in 1..=20 {
            let chosen = place(GroupId(group), 3, &mut loads).unwrap();
            let zones: BTreeSet<u64> = chosen.iter().map(|n| n.0 % 3).collect();
            assert_eq!(zones.len(), 3, "{chosen:?}");
        }
    }

    #[test]
    fn too_few_nodes() {
        assert_eq!(place(GroupId(1), 3, &mut nodes(2, 0)), None);
        assert_eq!(place(GroupId(1), 0, &mut nodes(2, 0)), None);
    }

    #[test]
    fn golden() {
        let mut loads = nodes(5, 0);
        let placed: Vec<Vec<u64>> = (1..=4)
            .map(|g| place(GroupId(g), 3, &mut loads).unwrap().iter().map(|n| n.0).collect())
            .collect();
        assert_eq!(placed, [[5, 3, 1], [4, 2, 1], [2, 3, 5], [1, 4, 3]]);
    }
}
