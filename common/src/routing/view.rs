//! What is known of the cluster at one moment.

use crate::map::ClusterMap;
use fulcrum_types::{Epoch, GroupConfiguration, GroupId, MapVersion, NodeId, Refusal};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// Who orders a group's writes, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Primary {
    /// The node.
    pub node: NodeId,
    /// Since which epoch.
    pub epoch: Epoch,
}

/// One consistent picture: the map, and each group's primary.
#[derive(Clone, Debug)]
pub struct View {
    /// The cluster map.
    pub map: Arc<ClusterMap>,
    primaries: BTreeMap<GroupId, Primary>,
}

impl View {
    /// A picture with no primary known yet.
    #[must_use]
    pub fn new(map: Arc<ClusterMap>) -> Self {
        Self {
            map,
            primaries: BTreeMap::new(),
        }
    }

    /// A picture with these primaries known.
    #[must_use]
    pub fn with_primaries(map: Arc<ClusterMap>, primaries: impl IntoIterator<Item = (GroupId, Primary)>) -> Self {
        Self {
            map,
            primaries: primaries.into_iter().collect(),
        }
    }

    /// The group's primary, as far as known.
    #[must_use]
    pub fn primary(&self, group: GroupId) -> Option<Primary> {
        self.primaries.get(&group).copied()
    }
}

/// The picture in force, for many readers and one or few writers.
#[derive(Debug)]
pub struct RoutingTable {
    view: RwLock<Arc<View>>,
    changed: tokio::sync::watch::Sender<u64>,
}

impl RoutingTable {
    /// Starts from a map.
    #[must_use]
    pub fn new(map: Arc<ClusterMap>) -> Self {
        Self {
            view: RwLock::new(Arc::new(View::new(map))),
            changed: tokio::sync::watch::Sender::new(0),
        }
    }

    /// The picture in force.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ticks with every change: for those who wait for a newer picture.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits, but not longer than until the picture changes.
    pub async fn wait(&self, pause: Duration) {
        let mut changes = self.changes();
        let _ = tokio::time::timeout(pause, changes.changed()).await;
    }

    /// Whether the map is not older than one that a session has seen.
    #[must_use]
    pub fn is_current(&self, seen: MapVersion) -> bool {
        self.view().map.version() >= seen
    }

    /// A session that has seen a newer map than ours waits until we have it, and is routed by that (rule 8).
    ///
    /// # Errors
    /// It has not come in time.
    pub async fn catch_up(&self, seen: MapVersion, until: Instant) -> Result<(), Refusal> {
        let mut changes = self.changes();
        while !self.is_current(seen) {
            if !matches!(tokio::time::timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                let reason = format!("the cluster map known here is older than the session's ({seen})");
                return Err(Refusal::Unreachable { reason });
            }
        }
        Ok(())
    }

    /// Takes in a map, unless it is older than the one known. Primaries of groups that are gone are forgotten.
    pub fn set_map(&self, map: Arc<ClusterMap>) {
        self.change(|view| {
            if map.version() < view.map.version() {
                return false;
            }
            view.primaries.retain(|group, _| map.groups().contains_key(group));
            view.map = map;
            true
        });
    }

    /// Takes in all that another picture knows better.
    pub fn merge(&self, newer: View) {
        self.set_map(newer.map);
        for (group, primary) in newer.primaries {
            self.set_primary(group, primary);
        }
    }

    /// Takes in a group's configuration, unless its epoch is older than the one known.
    pub fn set_configuration(&self, group: GroupId, configuration: &GroupConfiguration) {
        if let Some(node) = configuration.primary {
            self.set_primary(
                group,
                Primary {
                    node,
                    epoch: configuration.epoch,
                },
            );
        }
    }

    /// Takes in who a group's primary is, unless its epoch is older than the one known.
    pub fn set_primary(&self, group: GroupId, primary: Primary) {
        self.change(|view| match view.primaries.get(&group) {
            Some(known) if known.epoch >= primary.epoch => false,
            _ => {
                view.primaries.insert(group, primary);
                true
            }
        });
    }

    fn change(&self, with: impl FnOnce(&mut View) -> bool) {
        let mut guard = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if with(Arc::make_mut(&mut guard)) {
            drop(guard);
            self.changed.send_modify(|count| *count += 1);
        }
    }
}
