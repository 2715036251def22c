//! What placement reads and changes: a census as of one revision, who acts, which nodes are drained, how patient the cluster is.
//!
//! Keys, beside those of [`ClusterStore`]: `placement/leader` (with the lease of the node that acts), `placement/settings`,
//! `placement/drained/<node>`. A group's replicas stand twice, in the map (who keeps its data) and in its configuration (who belongs
//! to it); both change in one transaction, which holds only if both and the leader are as they were seen.

use super::cluster_store::{ClusterStore, NodeLease, StoreError, configuration_from};
use super::format::{decode_settings, encode_configuration, encode_map, encode_settings};
use super::{Compare, KeyValue, Op, Revision, TxnOutcome};
use crate::map::{ClusterMap, MapError};
use bytes::Bytes;
use fulcrum_placement::{Census, GroupEntry, NodeEntry, Settings};
use fulcrum_types::{ConfigVersion, GroupConfiguration, GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// The node that places, and since which revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node.
    pub node: NodeId,
    revision: Revision,
}

/// What placement looks at, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementView {
    /// Nodes and groups.
    pub census: Census,
    /// Who acts, if anybody does.
    pub leader: Option<Leader>,
}

/// A change of a group's replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The group.
    pub group: GroupId,
    /// The configuration that it is made from.
    pub expected: ConfigVersion,
    /// Who keeps its data.
    pub placed: Vec<NodeId>,
    /// Who belongs to it.
    pub replicas: Vec<NodeId>,
}

impl ClusterStore {
    fn leader_key(&self) -> String {
        format!("{}placement/leader", self.prefix)
    }

    fn settings_key(&self) -> String {
        format!("{}placement/settings", self.prefix)
    }

    fn drained_prefix(&self) -> String {
        format!("{}placement/drained/", self.prefix)
    }

    /// Who acts, if anybody does.
    pub async fn placement_leader(&self) -> Result<Option<Leader>, StoreError> {
        let found = self.metadata.get(&self.leader_key()).await?;
        Ok(found.as_ref().and_then(leader))
    }

    /// Looks at everything at once.
    pub async fn placement_view(&self) -> Result<PlacementView, StoreError> {
        let listing = self.metadata.list(&self.prefix).await?;
        let (mut alive, mut drained) = (BTreeSet::new(), BTreeSet::new());
        let mut view = PlacementView::default();
        let mut map = None;
        let mut configurations = BTreeMap::new();
        for kv in &listing.entries {
            if kv.key == self.map_key() {
                map = Some(self.decode_map(kv)?);
            } else if kv.key == self.settings_key() {
                view.census.settings = decode_settings(&kv.key, &kv.value)?;
            } else if kv.key == self.leader_key() {
                view.leader = leader(kv);
            } else if let Some(group) = self.group_of_key(&kv.key) {
                configurations.insert(group, configuration_from(kv)?);
            } else if let Some(node) = numbered(kv, &format!("{}nodes/", self.prefix)) {
                alive.insert(node);
            } else if let Some(node) = numbered(kv, &self.drained_prefix()) {
                drained.insert(node);
            }
        }
        let map = map.ok_or_else(|| StoreError::Corrupt {
            key: self.map_key(),
            detail: "the cluster map is missing".to_owned(),
        })?;
        fill(&mut view.census, &map, configurations, (&alive, &drained));
        Ok(view)
    }

    /// Makes a node the one that places, if nobody is, for as long as its lease holds. Whether it won shows in the next view.
    pub async fn lead_placement(&self, node: NodeId, lease: NodeLease) -> Result<(), StoreError> {
        let key = self.leader_key();
        let absent = Compare {
            key: key.clone(),
            mod_revision: Revision::ABSENT,
        };
        let put = Op::Put {
            key,
            value: Bytes::from(node.0.to_string()),
            lease: Some(lease.lease),
        };
        self.metadata.txn(vec![absent], vec![put]).await?;
        Ok(())
    }

    /// Changes a group's replicas in map and configuration at once, if everything is as it was seen and `leader` still acts. False
    /// if not: look again.
    pub async fn replace_replicas(&self, leader: Leader, change: &Replacement) -> Result<bool, StoreError> {
        let Some(current) = self.configuration(change.group).await? else {
            return Ok(false);
        };
        let map = self.load_map().await?;
        let (mut changed, unchanged) = (ClusterMap::clone(&map), Revision(map.version().0));
        if current.version != change.expected || !changed.set_replicas(change.group, change.placed.clone()) {
            return Ok(false);
        }
        let (map_key, key) = (self.map_key(), self.configuration_key(change.group));
        let configuration = GroupConfiguration {
            replicas: change.replicas.clone(),
            ..current
        };
        let ops = vec![
            Op::put(map_key.clone(), encode_map(&map_key, &changed)?),
            Op::put(key.clone(), encode_configuration(&key, &configuration)?),
        ];
        let compare = [
            (map_key, unchanged),
            (key, Revision(change.expected.0)),
            (self.leader_key(), leader.revision),
        ];
        let compare = compare.map(|(key, mod_revision)| Compare { key, mod_revision });
        let outcome = self.metadata.txn(compare.to_vec(), ops).await?;
        Ok(matches!(outcome, TxnOutcome::Succeeded { .. }))
    }

    /// How patient the cluster is.
    pub async fn placement_settings(&self) -> Result<Settings, StoreError> {
        let key = self.settings_key();
        match self.metadata.get(&key).await? {
            Some(found) => decode_settings(&key, &found.value),
            None => Ok(Settings::default()),
        }
    }

    /// Says how patient the cluster is to be. The last word counts.
    pub async fn set_placement_settings(&self, settings: &Settings) -> Result<(), StoreError> {
        settings.validate().map_err(MapError::Placement)?;
        let key = self.settings_key();
        let value = encode_settings(&key, settings)?;
        self.metadata.txn(Vec::new(), vec![Op::put(key, value)]).await?;
        Ok(())
    }

    /// Says that a node is to be empty, or no more.
    pub async fn set_drained(&self, node: NodeId, drained: bool) -> Result<(), StoreError> {
        if !self.load_map().await?.nodes().contains_key(&node) {
            return Err(MapError::NoSuchNode(node).into());
        }
        let key = format!("{}{}", self.drained_prefix(), node.0);
        let op = match drained {
            true => Op::put(key, Bytes::from_static(b"{}")),
            false => Op::Delete { key },
        };
        self.metadata.txn(Vec::new(), vec![op]).await?;
        Ok(())
    }

    /// Nodes on which no new group should be placed while there are others: without a lease, or drained.
    pub(super) async fn unfit_nodes(&self) -> Result<BTreeSet<NodeId>, StoreError> {
        let census = self.placement_view().await?.census;
        let unfit = census.nodes.iter().filter(|(_, node)| !node.alive || node.draining);
        Ok(unfit.map(|(id, _)| *id).collect())
    }
}

fn numbered(kv: &KeyValue, prefix: &str) -> Option<NodeId> {
    kv.key.strip_prefix(prefix)?.parse().ok().map(NodeId)
}

fn leader(kv: &KeyValue) -> Option<Leader> {
    let node = std::str::from_utf8(&kv.value).ok()?.parse().ok().map(NodeId)?;
    Some(Leader {
        node,
        revision: kv.mod_revision,
    })
}

fn fill(
    census: &mut Census,
    map: &ClusterMap,
    mut configurations: BTreeMap<GroupId, GroupConfiguration>,
    (alive, drained): (&BTreeSet<NodeId>, &BTreeSet<NodeId>),
) {
    for (id, info) in map.nodes() {
        let entry = NodeEntry {
            zone: info.zone.clone(),
            alive: alive.contains(id),
            draining: drained.contains(id),
        };
        census.nodes.insert(*id, entry);
    }
    for (id, group) in map.groups() {
        let (Some(keyspace), Some(configuration)) = (map.keyspace_of(*id), configurations.remove(id)) else {
            continue;
        };
        // A node that groups name and the map does not register is mostly one that is gone: its replicas are to be replaced, too.
        for node in group.replicas.iter().chain(&configuration.replicas) {
            census.nodes.entry(*node).or_insert_with(|| NodeEntry {
                zone: None,
                alive: alive.contains(node),
                draining: drained.contains(node),
            });
        }
        let entry = GroupEntry {
            wanted: keyspace.options.replication_factor as usize,
            placed: group.replicas.clone(),
            configuration,
        };
        census.groups.insert(*id, entry);
    }
}
