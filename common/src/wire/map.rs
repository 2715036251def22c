//! Conversions of the cluster map and of keyspaces: for operators and for smart clients.

use super::types::{fsync, millis, mode};
use super::{Malformed, v1};
use crate::keyspace::{Keyspace, KeyspaceOptions, KeyspaceSpec, Timing};
use crate::map::{ClusterId, ClusterMap, Group, NodeInfo, SlotTable};
use crate::routing::{Primary, View};
use fulcrum_types::{Epoch, GroupId, KeyspaceId, MapVersion, NodeId};
use std::sync::Arc;
use std::time::Duration;

impl From<&KeyspaceOptions> for v1::KeyspaceOptions {
    fn from(options: &KeyspaceOptions) -> Self {
        Self {
            mode: v1::Mode::from(options.mode).into(),
            replication_factor: options.replication_factor,
            groups: options.groups,
            default_consistency: Some(options.default_level.into()),
            fsync: v1::Fsync::from(options.fsync).into(),
            min_in_sync: options.min_in_sync,
            delimiter: options.delimiter.map(String::from).unwrap_or_default(),
            idempotency_retention_ms: millis(options.idempotency_retention),
            tombstone_retention_ms: millis(options.tombstone_retention),
            heartbeat_ms: millis(options.timing.heartbeat),
            lease_ms: millis(options.timing.lease),
            grace_ms: millis(options.timing.grace),
        }
    }
}

impl TryFrom<v1::KeyspaceOptions> for KeyspaceOptions {
    type Error = Malformed;
    fn try_from(wire: v1::KeyspaceOptions) -> Result<Self, Malformed> {
        let default_level = wire
            .default_consistency
            .ok_or_else(|| Malformed::missing("default_consistency"))?;
        Ok(Self {
            mode: mode(wire.mode)?,
            replication_factor: wire.replication_factor,
            groups: wire.groups,
            default_level: default_level.try_into()?,
            fsync: fsync(wire.fsync)?,
            min_in_sync: wire.min_in_sync,
            delimiter: wire.delimiter.chars().next(),
            idempotency_retention: Duration::from_millis(wire.idempotency_retention_ms),
            tombstone_retention: Duration::from_millis(wire.tombstone_retention_ms),
            timing: Timing {
                heartbeat: Duration::from_millis(wire.heartbeat_ms),
                lease: Duration::from_millis(wire.lease_ms),
                grace: Duration::from_millis(wire.grace_ms),
            },
        })
    }
}

impl From<KeyspaceSpec> for v1::KeyspaceSpec {
    fn from(spec: KeyspaceSpec) -> Self {
        Self {
            mode: spec.mode,
            replication_factor: spec.replication_factor,
            groups: spec.groups,
            default_level: spec.default_level,
            fsync: spec.fsync,
            min_in_sync: spec.min_in_sync,
            delimiter: spec.delimiter,
            idempotency_retention_ms: spec.idempotency_retention.map(millis),
            tombstone_retention_ms: spec.tombstone_retention.map(millis),
            heartbeat_ms: spec.heartbeat.map(millis),
            lease_ms: spec.lease.map(millis),
            grace_ms: spec.grace.map(millis),
        }
    }
}

impl From<v1::KeyspaceSpec> for KeyspaceSpec {
    fn from(wire: v1::KeyspaceSpec) -> Self {
        let ms = |value: Option<u64>| value.map(Duration::from_millis);
        Self {
            mode: wire.mode,
            replication_factor: wire.replication_factor,
            groups: wire.groups,
            default_level: wire.default_level,
            fsync: wire.fsync,
            min_in_sync: wire.min_in_sync,
            delimiter: wire.delimiter,
            idempotency_retention: ms(wire.idempotency_retention_ms),
            tombstone_retention: ms(wire.tombstone_retention_ms),
            heartbeat: ms(wire.heartbeat_ms),
            lease: ms(wire.lease_ms),
            grace: ms(wire.grace_ms),
        }
    }
}

/// A keyspace as operators see it.
#[must_use]
pub fn keyspace_to_wire(keyspace: &Keyspace, groups: impl Iterator<Item = fulcrum_types::GroupId>) -> v1::Keyspace {
    v1::Keyspace {
        id: keyspace.id.0,
        name: keyspace.name.clone(),
        options: Some((&keyspace.options).into()),
        groups: groups.map(|group| group.0).collect(),
    }
}

/// The whole view, as smart clients route by it.
#[must_use]
pub fn view_to_wire(view: &View) -> v1::ClusterMap {
    use v1::cluster_map as m;
    let map = &view.map;
    let nodes = map.nodes().iter().map(|(id, node)| m::Node {
        id: id.0,
        address: node.address.clone(),
        zone: node.zone.clone().unwrap_or_default(),
    });
    let keyspaces = map.keyspaces().values().map(|keyspace| m::Keyspace {
        id: keyspace.id.0,
        name: keyspace.name.clone(),
        options: Some((&keyspace.options).into()),
        slots: (0..fulcrum_types::SLOTS)
            .map(|slot| keyspace.slots.group_of(fulcrum_types::Slot(slot)).0)
            .collect(),
    });
    let groups = map.groups().iter().map(|(id, group)| {
        let primary = view.primary(*id);
        m::Group {
            id: id.0,
            keyspace: group.keyspace.0,
            replicas: group.replicas.iter().map(|node| node.0).collect(),
            primary: primary.map_or(0, |primary| primary.node.0),
            epoch: primary.map_or(0, |primary| primary.epoch.0),
        }
    });
    v1::ClusterMap {
        cluster_id: map.cluster_id().to_string(),
        version: map.version().0,
        nodes: nodes.collect(),
        keyspaces: keyspaces.collect(),
        groups: groups.collect(),
    }
}

/// A view from the wire. Only for routing: it does not know the ids that were never given out.
///
/// # Errors
/// The field that is missing or wrong, or a slot, group or primary that the map itself does not have.
pub fn view_from_wire(wire: v1::ClusterMap) -> Result<View, Malformed> {
    let cluster_id = ClusterId::new(wire.cluster_id).map_err(|error| Malformed(error.to_string()))?;
    let mut map = ClusterMap::new(cluster_id).with_version(MapVersion(wire.version));
    for node in wire.nodes {
        let info = NodeInfo {
            address: node.address,
            zone: Some(node.zone).filter(|zone| !zone.is_empty()),
        };
        map.set_node(NodeId(node.id), info);
    }
    let mut primaries = Vec::new();
    for group in wire.groups {
        let id = GroupId(group.id);
        if group.primary != 0 {
            let node = NodeId(group.primary);
            let epoch = Epoch(group.epoch);
            primaries.push((id, Primary { node, epoch }));
        }
        let replicas = group.replicas.into_iter().map(NodeId).collect();
        let keyspace = KeyspaceId(group.keyspace);
        map.groups.insert(id, Group { keyspace, replicas });
    }
    for wire in wire.keyspaces {
        let keyspace = keyspace_from_wire(wire)?;
        let slots = keyspace.slots.ranges();
        if let Some((_, _, group)) = slots.iter().find(|(_, _, group)| !map.groups.contains_key(group)) {
            return Err(Malformed(format!(
                "a slot of keyspace {} is in {group}, which is missing",
                keyspace.id
            )));
        }
        map.insert_keyspace(keyspace);
    }
    Ok(View::with_primaries(Arc::new(map), primaries))
}

fn keyspace_from_wire(wire: v1::cluster_map::Keyspace) -> Result<Keyspace, Malformed> {
    let options = wire.options.ok_or_else(|| Malformed::missing("keyspace.options"))?;
    let slots = SlotTable::new(wire.slots.into_iter().map(GroupId).collect());
    Ok(Keyspace {
        id: KeyspaceId(wire.id),
        name: wire.name,
        options: options.try_into()?,
        slots: slots.ok_or_else(|| Malformed("keyspace.slots does not name a group for each slot".into()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::Mode;

    fn view() -> View {
        let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
        for id in 1..=3 {
            let address = format!("127.0.0.1:{id}");
            map.set_node(NodeId(id), NodeInfo { address, zone: None });
        }
        map.add_keyspace("orders", KeyspaceOptions::of(Mode::Async, 2)).unwrap();
        let primary = Primary {
            node: NodeId(2),
            epoch: Epoch(5),
        };
        View::with_primaries(Arc::new(map.with_version(MapVersion(7))), vec![(GroupId(1), primary)])
    }

    #[test]
    fn a_view_survives_the_wire() {
        let sent = view();
        let got = view_from_wire(view_to_wire(&sent)).unwrap();
        assert_eq!(got.map.version(), sent.map.version());
        assert_eq!(got.map.nodes(), sent.map.nodes());
        assert_eq!(got.map.groups(), sent.map.groups());
        assert_eq!(got.map.keyspaces(), sent.map.keyspaces());
        assert_eq!(got.primary(GroupId(1)), sent.primary(GroupId(1)));
        assert_eq!(got.primary(GroupId(2)), None);
    }

    #[test]
    fn a_map_that_contradicts_itself_is_refused() {
        let mut few_slots = view_to_wire(&view());
        few_slots.keyspaces[0].slots.pop();
        assert!(view_from_wire(few_slots).is_err());
        let mut no_group = view_to_wire(&view());
        no_group.groups.pop();
        assert!(view_from_wire(no_group).is_err());
    }
}
