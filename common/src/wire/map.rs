//! Conversions of the cluster map and of keyspaces: for operators and for smart clients.

use super::types::{fsync, millis, mode};
use super::{Malformed, v1};
use crate::keyspace::{Keyspace, KeyspaceOptions, KeyspaceSpec, Timing};
use crate::routing::View;
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
