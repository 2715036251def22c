//! Who becomes the first primary of a new group: not the same node in every group.

use fulcrum_replication::primary_backup::PrimaryBackup;
use fulcrum_replication::{Effect, Input, Options, Replica, Restored};
use fulcrum_types::{
    BootId, ConfigVersion, DataId, GroupConfiguration, GroupId, Index, LogPosition, Mode, Mono, NodeId, Now,
    ReplicatedTime,
};
use std::collections::BTreeSet;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn new_replica(group: GroupId, node: NodeId) -> PrimaryBackup {
    let restored = Restored {
        boot: BootId(node.0),
        data: DataId(node.0),
        hard_state: None,
        compacted: LogPosition::default(),
        compacted_time: ReplicatedTime::default(),
        log: Vec::new(),
        applied: Index::ZERO,
    };
    let mut replica = PrimaryBackup::new(Options::new(group, node, Mode::Sync), restored, at(0));
    let configuration = GroupConfiguration {
        version: ConfigVersion(1),
        replicas: NODES.to_vec(),
        ..GroupConfiguration::default()
    };
    let mut effects = Vec::new();
    replica.step(at(0), Input::Configuration { configuration }, &mut effects);
    let writes = effects.iter().filter_map(|effect| match effect {
        Effect::Write { id, .. } => Some(*id),
        _ => None,
    });
    // Nobody proposes data that is not durable.
    let through = writes.max().expect("what it adopts is written");
    replica.step(at(0), Input::Persisted { through }, &mut Vec::new());
    replica
}

fn at(ms: u64) -> Now {
    Now {
        mono: Mono(ms * 1_000_000),
        wall_ms: 1_700_000_000_000 + ms,
    }
}

/// The first replica that asks the metadata store to be primary.
fn first_to_stand(group: GroupId) -> NodeId {
    let mut replicas = NODES.map(|node| (node, new_replica(group, node)));
    for ms in (0..10_000).step_by(25) {
        for (node, replica) in &mut replicas {
            let mut effects = Vec::new();
            replica.step(at(ms), Input::Tick { disk_healthy: true }, &mut effects);
            if effects.iter().any(|e| matches!(e, Effect::CompareAndSwap { .. })) {
                return *node;
            }
        }
    }
    panic!("nobody stands for {group}");
}

#[test]
fn new_groups_are_first_led_by_different_nodes() {
    let first: Vec<NodeId> = (1..=6).map(|group| first_to_stand(GroupId(group))).collect();
    let different: BTreeSet<NodeId> = first.iter().copied().collect();
    assert_eq!(different.len(), NODES.len(), "first primaries of six groups: {first:?}");
}
