//! Where a replica goes.
//!
//! A new group takes fit nodes first, then zones in which it has fewest, then the nodes with fewest replicas so far; ties go by
//! rendezvous hash, so that neighbours of one group are not always the same. The first replica is the one that is to become primary:
//! it is the one with the fewest first places. A replica that is to be replaced goes by the same order.

use fulcrum_types::{GroupId, NodeId};
use std::collections::BTreeMap;

/// How much a node holds already, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Failure zone, if named.
    pub zone: Option<String>,
    /// It is dead or to be emptied: it is taken only where there is no other.
    pub unfit: bool,
    /// Replicas that it holds.
    pub replicas: usize,
    /// Groups in which it comes first, or that it leads.
    pub firsts: usize,
}

/// Chooses `count` nodes for `group` and counts them in `loads`. None if there are fewer nodes.
#[must_use]
pub fn place(group: GroupId, count: usize, loads: &mut BTreeMap<NodeId, Load>) -> Option<Vec<NodeId>> {
    if count == 0 || loads.len() < count {
        return None;
    }
    let mut chosen: Vec<NodeId> = Vec::with_capacity(count);
    for _ in 0..count {
        let node = best(group, loads, &chosen, |node| !chosen.contains(&node))?;
        chosen.push(node);
    }
    let first = (0..count).min_by_key(|at| {
        let load = &loads[&chosen[*at]];
        (load.unfit, load.firsts, *at)
    })?;
    chosen.swap(0, first);
    for (at, node) in chosen.iter().enumerate() {
        let load = loads.entry(*node).or_default();
        load.replicas += 1;
        load.firsts += usize::from(at == 0);
    }
    Some(chosen)
}

/// The best node for one more replica of a group that has `beside` already, among those that `may` take it.
pub(crate) fn best(
    group: GroupId,
    loads: &BTreeMap<NodeId, Load>,
    beside: &[NodeId],
    may: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let candidates = loads.iter().filter(|(node, _)| may(**node));
    let best = candidates.min_by_key(|(node, load)| {
        let crowding = crowding(loads, beside, **node);
        (load.unfit, crowding, load.replicas, load.firsts, weight(group, **node))
    });
    best.map(|(node, _)| *node)
}

/// How many of `beside` are in the zone of `node`; a node without a zone is alone in its own.
pub(crate) fn crowding(loads: &BTreeMap<NodeId, Load>, beside: &[NodeId], node: NodeId) -> usize {
    let zone = |node: &NodeId| loads.get(node)?.zone.as_deref();
    let Some(own) = zone(&node) else { return 0 };
    beside.iter().filter(|other| zone(other) == Some(own)).count()
}

/// How often each zone occurs.
pub(crate) fn zone_counts<'a>(zones: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for zone in zones {
        *counts.entry(zone).or_insert(0) += 1;
    }
    counts
}

/// Rendezvous hash.
fn weight(group: GroupId, node: NodeId) -> u64 {
    let mut hash = 0;
    for word in [group.0, node.0] {
        hash = mix(u64::wrapping_add(hash, 0x9e37_79b9_7f4a_7c15) ^ word ^ (8 << 59));
    }
    mix(hash)
}

/// A bijection that mixes well also for neighbouring numbers (Stafford's variant 13 of the MurmurHash3 finaliser).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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
    fn fewer_zones_than_replicas_are_used_evenly() {
        let mut loads = nodes(8, 2);
        for group in 1..=20 {
            let chosen = place(GroupId(group), 4, &mut loads).unwrap();
            assert_eq!(chosen.iter().filter(|n| n.0 % 2 == 0).count(), 2, "{chosen:?}");
        }
    }

    #[test]
    fn dead_and_drained_nodes_are_a_last_resort() {
        let mut loads = nodes(4, 0);
        loads.get_mut(&NodeId(2)).unwrap().unfit = true;
        for group in 1..=8 {
            assert!(!place(GroupId(group), 3, &mut loads).unwrap().contains(&NodeId(2)));
        }
        let all = place(GroupId(9), 4, &mut loads).unwrap();
        assert!(all.contains(&NodeId(2)) && all[0] != NodeId(2), "{all:?}");
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
