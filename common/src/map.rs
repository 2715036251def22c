//! The cluster map: what everyone routes by. One version is one consistent whole.
//!
//! The map says which keyspaces there are, which group holds which slot, and which nodes hold a group. Who is primary is not
//! in it: that is in each group's configuration, which changes far more often. Changes are made on a copy here, purely, and
//! put in force by [`crate::metadata::ClusterStore`].

use crate::keyspace::{Keyspace, KeyspaceOptions, OptionsError, validate_name};
use crate::ring::propose_slots;
use fulcrum_placement::{Load, place};
use fulcrum_types::{GroupId, KeyspaceId, MapVersion, Mode, NodeId, Participant, SLOTS, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Identity of a cluster. Data directories carry it, so that one is never opened by another cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(String);

impl ClusterId {
    /// Takes a name of the same form as a keyspace's.
    pub fn new(name: impl Into<String>) -> Result<Self, OptionsError> {
        let name = name.into();
        validate_name(&name)?;
        Ok(Self(name))
    }

    /// A new identity.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:016x}", crate::entropy::random_u64()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// `host:port` of its service.
    pub address: String,
    /// Its failure zone: replicas are kept apart by it.
    pub zone: Option<String>,
}

/// A shard group: who holds it and for which keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The keyspace whose slots it holds.
    pub keyspace: KeyspaceId,
    /// The nodes; the first one is the likely first primary.
    pub replicas: Vec<NodeId>,
}

/// Which group holds each of a keyspace's slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotTable(Arc<[GroupId]>);

impl SlotTable {
    /// The table with these groups, slot by slot; none unless there is one for each.
    #[must_use]
    pub fn new(groups: Vec<GroupId>) -> Option<Self> {
        (groups.len() == usize::from(SLOTS)).then(|| Self(groups.into()))
    }

    /// The table of these ranges `(first slot, number of slots, group)`; none unless they cover every slot once, in order.
    #[must_use]
    pub fn from_ranges(ranges: &[(u16, u16, GroupId)]) -> Option<Self> {
        let mut groups = Vec::with_capacity(usize::from(SLOTS));
        for (first, count, group) in ranges {
            if usize::from(*first) != groups.len() || *count > SLOTS {
                return None;
            }
            groups.extend(std::iter::repeat_n(*group, usize::from(*count)));
        }
        Self::new(groups)
    }

    /// The same in as few ranges as possible.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u16, u16, GroupId)> {
        let mut ranges: Vec<(u16, u16, GroupId)> = Vec::new();
        for (slot, group) in (0..SLOTS).zip(self.0.iter()) {
            match ranges.last_mut() {
                Some((_, count, last)) if last == group => *count += 1,
                _ => ranges.push((slot, 1, *group)),
            }
        }
        ranges
    }

    /// The group of a slot.
    ///
    /// # Panics
    /// If the slot is not below [`SLOTS`]; `slot_of` makes no such slot.
    #[must_use]
    pub fn group_of(&self, slot: Slot) -> GroupId {
        self.0[usize::from(slot.0)]
    }

    /// The slots of a group, in order.
    pub fn slots_of(&self, group: GroupId) -> impl Iterator<Item = Slot> {
        (0..SLOTS).map(Slot).filter(move |slot| self.group_of(*slot) == group)
    }
}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotTable({} ranges)", self.ranges().len())
    }
}

/// Why the map cannot be changed as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// The options contradict themselves or are out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The name is taken.
    #[error("a keyspace '{0}' exists already: choose another name or drop it first")]
    Exists(String),
    /// No keyspace of that name.
    #[error("no keyspace '{0}': see `fulcrum keyspace list`")]
    NoSuchKeyspace(String),
    /// No node of that number.
    #[error("{0} is not in the cluster map: see `fulcrum status`")]
    NoSuchNode(NodeId),
    /// Settings of placement that make no sense.
    #[error("{0}")]
    Placement(String),
    /// Fewer nodes than replicas.
    #[error(
        "replication_factor = {replication_factor} needs as many nodes, and {nodes} are registered: start more or ask for fewer"
    )]
    TooFewNodes {
        /// Asked.
        replication_factor: u32,
        /// There.
        nodes: usize,
    },
}

/// The cluster map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMap {
    pub(crate) version: MapVersion,
    pub(crate) cluster_id: ClusterId,
    pub(crate) nodes: BTreeMap<NodeId, NodeInfo>,
    pub(crate) keyspaces: BTreeMap<KeyspaceId, Arc<Keyspace>>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) next_keyspace: KeyspaceId,
    pub(crate) next_group: GroupId,
    by_name: BTreeMap<String, KeyspaceId>,
}

impl ClusterMap {
    /// A map with nothing in it.
    #[must_use]
    pub fn new(cluster_id: ClusterId) -> Self {
        Self {
            version: MapVersion::ZERO,
            cluster_id,
            nodes: BTreeMap::new(),
            keyspaces: BTreeMap::new(),
            groups: BTreeMap::new(),
            next_keyspace: KeyspaceId(1),
            next_group: GroupId(1),
            by_name: BTreeMap::new(),
        }
    }

    /// The version. Zero before the map was ever in force.
    #[must_use]
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// The same map under another version: for the store, and for tests.
    #[must_use]
    pub fn with_version(mut self, version: MapVersion) -> Self {
        self.version = version;
        self
    }

    /// The cluster.
    #[must_use]
    pub fn cluster_id(&self) -> &ClusterId {
        &self.cluster_id
    }

    /// All nodes ever registered and not removed, alive or not.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeInfo> {
        &self.nodes
    }

    /// All keyspaces.
    #[must_use]
    pub fn keyspaces(&self) -> &BTreeMap<KeyspaceId, Arc<Keyspace>> {
        &self.keyspaces
    }

    /// All groups.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<GroupId, Group> {
        &self.groups
    }

    /// A keyspace by id.
    #[must_use]
    pub fn keyspace(&self, id: KeyspaceId) -> Option<&Arc<Keyspace>> {
        self.keyspaces.get(&id)
    }

    /// A keyspace by name.
    #[must_use]
    pub fn keyspace_by_name(&self, name: &str) -> Option<&Arc<Keyspace>> {
        self.keyspaces.get(self.by_name.get(name)?)
    }

    /// The group of a key, by this map.
    #[must_use]
    pub fn group_of(&self, keyspace: KeyspaceId, key: &[u8]) -> Option<GroupId> {
        Some(self.keyspace(keyspace)?.group_of(key))
    }

    /// The keyspace whose slots a group holds.
    #[must_use]
    pub fn keyspace_of(&self, group: GroupId) -> Option<&Arc<Keyspace>> {
        self.keyspace(self.groups.get(&group)?.keyspace)
    }

    /// The nodes that hold a group; empty if there is no such group.
    #[must_use]
    pub fn replicas(&self, group: GroupId) -> &[NodeId] {
        self.groups.get(&group).map_or(&[], |g| &g.replicas)
    }

    /// Where a node is.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(|info| info.address.as_str())
    }

    /// The groups of a keyspace, in order.
    pub fn groups_of(&self, keyspace: KeyspaceId) -> impl Iterator<Item = GroupId> {
        self.groups
            .iter()
            .filter(move |(_, group)| group.keyspace == keyspace)
            .map(|(id, _)| *id)
    }

    /// The groups that take part in transactions: those of `sync` keyspaces.
    pub fn transactional_groups(&self) -> impl Iterator<Item = Participant> {
        let keyspaces = self.keyspaces.values();
        let sync = keyspaces.filter(|keyspace| keyspace.options.mode == Mode::Sync);
        sync.flat_map(|keyspace| self.participants_of(keyspace.id))
    }

    /// The groups of a keyspace, with its id, in order.
    pub fn participants_of(&self, keyspace: KeyspaceId) -> impl Iterator<Item = Participant> {
        self.groups_of(keyspace)
            .map(move |group| Participant { keyspace, group })
    }

    /// The groups of which a node holds a replica, in order.
    pub fn groups_on(&self, node: NodeId) -> impl Iterator<Item = GroupId> {
        self.groups
            .iter()
            .filter(move |(_, group)| group.replicas.contains(&node))
            .map(|(id, _)| *id)
    }

    /// Adds a node or changes where it is. Whether that changed anything.
    pub fn set_node(&mut self, id: NodeId, info: NodeInfo) -> bool {
        self.nodes.insert(id, info.clone()) != Some(info)
    }

    /// Says who keeps a group's data. False if there is no such group.
    pub fn set_replicas(&mut self, group: GroupId, replicas: Vec<NodeId>) -> bool {
        let Some(group) = self.groups.get_mut(&group) else {
            return false;
        };
        group.replicas = replicas;
        true
    }

    /// Adds a keyspace: allocates ids that were never used, assigns slots, places replicas.
    pub fn add_keyspace(&mut self, name: &str, options: KeyspaceOptions) -> Result<KeyspaceId, MapError> {
        self.add_keyspace_beside(name, options, &BTreeSet::new())
    }

    /// The same, on nodes that are not `unfit`, as far as there are enough others.
    pub fn add_keyspace_beside(
        &mut self,
        name: &str,
        options: KeyspaceOptions,
        unfit: &BTreeSet<NodeId>,
    ) -> Result<KeyspaceId, MapError> {
        validate_name(name)?;
        options.validate()?;
        if self.by_name.contains_key(name) {
            return Err(MapError::Exists(name.to_owned()));
        }
        let keyspace = self.next_keyspace;
        let groups: Vec<GroupId> = (0..u64::from(options.groups))
            .map(|i| GroupId(self.next_group.0 + i))
            .collect();
        let too_few = || MapError::TooFewNodes {
            replication_factor: options.replication_factor,
            nodes: self.nodes.len(),
        };
        let mut loads = self.loads(unfit);
        let mut placed = Vec::with_capacity(groups.len());
        for group in &groups {
            let replicas = place(*group, options.replication_factor as usize, &mut loads).ok_or_else(too_few)?;
            placed.push((*group, Group { keyspace, replicas }));
        }
        let slots = propose_slots(&groups).and_then(SlotTable::new).ok_or_else(too_few)?;
        self.next_group = GroupId(self.next_group.0 + groups.len() as u64);
        self.next_keyspace = keyspace.next();
        self.groups.extend(placed);
        self.insert_keyspace(Keyspace {
            id: keyspace,
            name: name.to_owned(),
            options,
            slots,
        });
        Ok(keyspace)
    }

    /// Removes a keyspace and its groups, which are returned.
    pub fn remove_keyspace(&mut self, name: &str) -> Result<(KeyspaceId, Vec<GroupId>), MapError> {
        let id = self
            .by_name
            .remove(name)
            .ok_or_else(|| MapError::NoSuchKeyspace(name.to_owned()))?;
        self.keyspaces.remove(&id);
        let groups: Vec<GroupId> = self.groups_of(id).collect();
        self.groups.retain(|_, group| group.keyspace != id);
        Ok((id, groups))
    }

    /// Puts a keyspace in as it is: for decoding.
    pub(crate) fn insert_keyspace(&mut self, keyspace: Keyspace) {
        self.by_name.insert(keyspace.name.clone(), keyspace.id);
        self.keyspaces.insert(keyspace.id, Arc::new(keyspace));
    }

    fn loads(&self, unfit: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Load> {
        let mut loads: BTreeMap<NodeId, Load> = self
            .nodes
            .iter()
            .map(|(id, info)| {
                (
                    *id,
                    Load {
                        zone: info.zone.clone(),
                        unfit: unfit.contains(id),
                        ..Load::default()
                    },
                )
            })
            .collect();
        for group in self.groups.values() {
            for (at, node) in group.replicas.iter().enumerate() {
                if let Some(load) = loads.get_mut(node) {
                    load.replicas += 1;
                    load.firsts += usize::from(at == 0);
                }
            }
        }
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::Mode;

    fn map(nodes: u64) -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
        for i in 1..=nodes {
            assert!(map.set_node(
                NodeId(i),
                NodeInfo {
                    address: format!("127.0.0.1:{}", 7000 + i),
                    zone: None
                }
            ));
        }
        map
    }

    #[test]
    fn a_keyspace_is_found_and_every_key_has_a_group() {
        let mut map = map(5);
        let id = map.add_keyspace("users", KeyspaceOptions::default()).unwrap();
        let keyspace = map.keyspace_by_name("users").unwrap();
        assert_eq!(keyspace.id, id);
        assert_eq!(map.groups_of(id).count(), 8);
        for i in 0..1000 {
            let key = format!("user{i}");
            let group = map.group_of(id, key.as_bytes()).unwrap();
            assert_eq!(map.replicas(group).len(), 3);
            assert_eq!(map.keyspace_of(group).unwrap().id, id);
            assert!(map.replicas(group).iter().all(|n| map.address(*n).is_some()));
        }
        assert_eq!(map.groups_on(NodeId(1)).count() + map.groups_on(NodeId(2)).count(), 10);
        assert_eq!(map.group_of(KeyspaceId(9), b"k"), None);
        assert_eq!(map.replicas(GroupId(999)), &[]);
    }

    #[test]
    fn ids_are_never_reused() {
        let mut map = map(3);
        let first = map.add_keyspace("a", KeyspaceOptions::default()).unwrap();
        let (dropped, groups) = map.remove_keyspace("a").unwrap();
        assert_eq!((dropped, groups.len()), (first, 8));
        assert!(map.groups().is_empty() && map.keyspace_by_name("a").is_none());
        let second = map.add_keyspace("a", KeyspaceOptions::of(Mode::Async, 2)).unwrap();
        assert_ne!(first, second);
        assert!(map.groups_of(second).all(|g| !groups.contains(&g)));
    }

    #[test]
    fn refusals_leave_the_map_as_it_was() {
        let mut map = map(2);
        let before = map.clone();
        let error = map.add_keyspace("a", KeyspaceOptions::default()).unwrap_err();
        assert!(error.to_string().contains("replication_factor = 3"), "{error}");
        assert!(matches!(
            map.add_keyspace("A", KeyspaceOptions::of(Mode::Sync, 1)),
            Err(MapError::Options(_))
        ));
        assert!(matches!(map.remove_keyspace("a"), Err(MapError::NoSuchKeyspace(_))));
        assert_eq!(map, before);
        map.add_keyspace("a", KeyspaceOptions::of(Mode::Sync, 1)).unwrap();
        assert!(matches!(
            map.add_keyspace("a", KeyspaceOptions::of(Mode::Sync, 1)),
            Err(MapError::Exists(_))
        ));
    }

    #[test]
    fn slot_tables_read_back_from_ranges() {
        let table = SlotTable::new(propose_slots(&[GroupId(1), GroupId(2)]).unwrap()).unwrap();
        assert_eq!(SlotTable::from_ranges(&table.ranges()), Some(table.clone()));
        assert_eq!(
            table.slots_of(GroupId(1)).count() + table.slots_of(GroupId(2)).count(),
            1024
        );
        let one = SlotTable::new(vec![GroupId(7); 1024]).unwrap();
        assert_eq!(one.ranges(), [(0, 1024, GroupId(7))]);
        for bad in [
            vec![],
            vec![(0, 1023, GroupId(1))],
            vec![(0, 1000, GroupId(1)), (999, 24, GroupId(2))],
        ] {
            assert_eq!(SlotTable::from_ranges(&bad), None, "{bad:?}");
        }
        assert_eq!(
            SlotTable::from_ranges(&[(0, 1024, GroupId(1)), (1024, u16::MAX, GroupId(2))]),
            None
        );
    }
}
