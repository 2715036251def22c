//! What is looked at: who is there and who holds what, as of one revision of the metadata store.

use crate::choose::Load;
use fulcrum_types::{GroupConfiguration, GroupId, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everybody and everything, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All nodes of the cluster map, and those that only a group names: they are not alive.
    pub nodes: BTreeMap<NodeId, NodeEntry>,
    /// All groups.
    pub groups: BTreeMap<GroupId, GroupEntry>,
    /// How patient the cluster is.
    pub settings: Settings,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its failure zone, if named.
    pub zone: Option<String>,
    /// Its lease holds.
    pub alive: bool,
    /// An operator wants it empty.
    pub draining: bool,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupEntry {
    /// How many replicas its keyspace wants.
    pub wanted: usize,
    /// The nodes that host it by the cluster map: they keep its data.
    pub placed: Vec<NodeId>,
    /// What is in force.
    pub configuration: GroupConfiguration,
}

/// How patient the cluster is: the same for all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A node without a lease for so long has lost its replicas to others.
    pub rebuild_after: Duration,
    /// Most rebuilds at a time in the cluster. A receiver has one.
    pub rebuilds: usize,
    /// Between two hand-overs that balance primaries. Zero: primaries stay where they are.
    pub balance_pause: Duration,
    /// No group is handed over for so long after a failover of any.
    pub calm: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rebuild_after: Duration::from_secs(300),
            rebuilds: 3,
            balance_pause: Duration::from_secs(10),
            calm: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Whether they make sense.
    ///
    /// # Errors
    /// Which does not, and what to use.
    pub fn validate(&self) -> Result<(), String> {
        if self.rebuild_after < Duration::from_secs(1) {
            return Err("rebuild_after: under 1s a restart would cost a copy of all data: use 1s or more".into());
        }
        if self.rebuilds == 0 {
            return Err("rebuilds: 0 would leave groups short for ever: use 1 or more".into());
        }
        Ok(())
    }
}

impl GroupEntry {
    /// Whether a node may not be given a replica: it has one, or the data of one.
    #[must_use]
    pub fn involves(&self, node: NodeId) -> bool {
        self.configuration.replicas.contains(&node)
            || self.placed.contains(&node)
            || self.configuration.is_in_sync(node)
    }
}

impl Census {
    /// Whether a node is known and its lease holds.
    #[must_use]
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.alive)
    }

    /// Whether a node is known and an operator wants it empty.
    #[must_use]
    pub fn is_draining(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.draining)
    }

    /// A node's zone.
    #[must_use]
    pub fn zone(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node)?.zone.as_deref()
    }

    /// How much each node holds and leads.
    #[must_use]
    pub fn loads(&self) -> BTreeMap<NodeId, Load> {
        let fresh = |n: &NodeEntry| Load {
            zone: n.zone.clone(),
            unfit: !n.alive || n.draining,
            ..Load::default()
        };
        let mut loads: BTreeMap<NodeId, Load> = self.nodes.iter().map(|(id, n)| (*id, fresh(n))).collect();
        for group in self.groups.values() {
            for node in &group.configuration.replicas {
                if let Some(load) = loads.get_mut(node) {
                    load.replicas += 1;
                    load.firsts += usize::from(group.configuration.primary == Some(*node));
                }
            }
        }
        loads
    }
}
