//! What a census means, whoever looks at it: for status and metrics.

use crate::census::{Census, GroupEntry};
use fulcrum_types::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// What a census means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assessment {
    /// Groups with fewer living members in sync than their keyspace wants.
    pub under_replicated: Vec<GroupId>,
    /// Replicas that are brought up in others' place.
    pub rebuilds: Vec<Rebuild>,
    /// Groups that could be spread over more zones than they are.
    pub narrow: Vec<GroupId>,
    /// Zones that nodes name; none if none does.
    pub zones: usize,
    /// The most replicas that a keyspace wants.
    pub wanted: usize,
    /// Nodes that are to be empty, and what is left on them.
    pub draining: BTreeMap<NodeId, Draining>,
}

/// A replica that is brought up in another's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rebuild {
    /// The group.
    pub group: GroupId,
    /// Who receives.
    pub node: NodeId,
}

/// What is left on a node that is to be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draining {
    /// Replicas, and data of such.
    pub replicas: usize,
    /// Groups that it leads.
    pub primaries: usize,
}

/// Says what a census means.
#[must_use]
pub fn assess(census: &Census) -> Assessment {
    let zones: BTreeSet<&str> = census.nodes.values().filter_map(|n| n.zone.as_deref()).collect();
    let mut found = Assessment {
        zones: zones.len(),
        wanted: census.groups.values().map(|g| g.wanted).max().unwrap_or(0),
        ..Assessment::default()
    };
    let drained = census.nodes.iter().filter(|(_, n)| n.draining);
    found.draining = drained.map(|(id, _)| (*id, Draining::default())).collect();
    for (id, group) in &census.groups {
        if living_members(census, group).count() < group.wanted {
            found.under_replicated.push(*id);
        }
        let rebuilt = rebuilds_of(census, group).map(|node| Rebuild { group: *id, node });
        found.rebuilds.extend(rebuilt);
        if is_narrow(census, group, zones.len()) {
            found.narrow.push(*id);
        }
        for (node, left) in &mut found.draining {
            left.replicas += usize::from(group.involves(*node));
            left.primaries += usize::from(group.configuration.primary == Some(*node));
        }
    }
    found
}

/// Members in sync whose leases hold.
pub(crate) fn living_members(census: &Census, group: &GroupEntry) -> impl Iterator<Item = NodeId> {
    let members = group.configuration.in_sync.iter().map(|m| m.node);
    members.filter(|node| census.is_alive(*node) && group.configuration.replicas.contains(node))
}

/// Living replicas that are not in sync.
pub(crate) fn learners(census: &Census, group: &GroupEntry) -> impl Iterator<Item = NodeId> {
    let c = &group.configuration;
    c.replicas
        .iter()
        .copied()
        .filter(|node| !c.is_in_sync(*node) && census.is_alive(*node))
}

/// Learners of a group that has more replicas than it wants: one takes another's place.
pub(crate) fn rebuilds_of(census: &Census, group: &GroupEntry) -> impl Iterator<Item = NodeId> {
    let more = group.configuration.replicas.len() > group.wanted;
    learners(census, group).filter(move |node| more && !census.is_draining(*node))
}

fn is_narrow(census: &Census, group: &GroupEntry, zones: usize) -> bool {
    let replicas = &group.configuration.replicas;
    let named: Vec<&str> = replicas.iter().filter_map(|node| census.zone(*node)).collect();
    let used: BTreeSet<&str> = named.iter().copied().collect();
    // A node without a zone stands for itself.
    used.len() + (replicas.len() - named.len()) < zones.min(replicas.len())
}
