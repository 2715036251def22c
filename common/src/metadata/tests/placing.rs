//! What placement reads and changes.

use super::*;
use crate::keyspace::KeyspaceOptions;
use crate::map::{MapError, NodeInfo};
use fulcrum_placement::Settings;
use fulcrum_types::{ConfigVersion, GroupId, Mode, NodeId};

const TTL: Duration = Duration::from_secs(10);
const GROUP: GroupId = GroupId(1);

struct Here {
    store: ClusterStore,
    leases: Vec<cluster_store::NodeLease>,
    clock: Arc<ManualClock>,
    metadata: EmbeddedMetadata,
}

async fn cluster(nodes: u64) -> Here {
    let clock = Arc::new(ManualClock::default());
    let metadata = EmbeddedMetadata::in_memory(cluster_id(), clock.clone());
    let store = ClusterStore::open(Arc::new(metadata.clone()), cluster_id())
        .await
        .unwrap();
    let mut leases = Vec::new();
    for node in 1..=nodes {
        let info = NodeInfo {
            address: format!("127.0.0.1:{node}"),
            zone: Some(format!("z{node}")),
        };
        leases.push(store.register_node(NodeId(node), info, TTL).await.unwrap());
    }
    Here {
        store,
        leases,
        clock,
        metadata,
    }
}

fn one_group() -> KeyspaceOptions {
    KeyspaceOptions {
        groups: 1,
        ..KeyspaceOptions::of(Mode::Sync, 3)
    }
}

async fn led(here: &Here, node: u64) -> Leader {
    let lease = here.leases[node as usize - 1];
    here.store.lead_placement(NodeId(node), lease).await.unwrap();
    here.store.placement_view().await.unwrap().leader.unwrap()
}

fn with(replicas: &[NodeId], expected: ConfigVersion, more: u64) -> Replacement {
    let all: Vec<NodeId> = replicas.iter().copied().chain([NodeId(more)]).collect();
    Replacement {
        group: GROUP,
        expected,
        placed: all.clone(),
        replicas: all,
    }
}

#[tokio::test]
async fn one_acts_at_a_time_and_another_once_its_lease_is_gone() {
    let here = cluster(2).await;
    assert_eq!(led(&here, 1).await.node, NodeId(1));
    assert_eq!(led(&here, 2).await.node, NodeId(1), "it is taken");
    here.store.leave_node(here.leases[0]).await.unwrap();
    assert_eq!(here.store.placement_view().await.unwrap().leader, None);
    assert_eq!(led(&here, 2).await.node, NodeId(2));
}

#[tokio::test]
async fn a_view_shows_who_lives_where_and_what_is_drained() {
    let here = cluster(4).await;
    here.store.create_keyspace("a", one_group()).await.unwrap();
    here.store.set_drained(NodeId(2), true).await.unwrap();
    here.clock.advance(TTL + Duration::from_secs(1));
    here.metadata.expire_leases().await.unwrap();
    let census = here.store.placement_view().await.unwrap().census;
    assert!(census.nodes.values().all(|n| !n.alive));
    assert_eq!(census.zone(NodeId(3)), Some("z3"));
    assert!(census.nodes[&NodeId(2)].draining && !census.nodes[&NodeId(1)].draining);
    let group = &census.groups[&GROUP];
    assert_eq!((group.wanted, &group.placed), (3, &group.configuration.replicas));
    here.store.set_drained(NodeId(2), false).await.unwrap();
    assert!(!here.store.placement_view().await.unwrap().census.is_draining(NodeId(2)));
    let unknown = here.store.set_drained(NodeId(9), true).await.unwrap_err();
    assert_eq!(unknown, StoreError::Map(MapError::NoSuchNode(NodeId(9))));
}

#[tokio::test]
async fn a_node_that_only_a_group_names_counts_as_gone() {
    let here = cluster(3).await;
    here.store.create_keyspace("a", one_group()).await.unwrap();
    let leader = led(&here, 1).await;
    let before = here.store.configuration(GROUP).await.unwrap().unwrap();
    let change = with(&before.replicas[..2], before.version, 9);
    assert!(here.store.replace_replicas(leader, &change).await.unwrap());
    let census = here.store.placement_view().await.unwrap().census;
    assert_eq!(
        census.nodes.get(&NodeId(9)).map(|n| (n.alive, n.draining)),
        Some((false, false))
    );
    assert_eq!(census.nodes.len(), 4);
}

#[tokio::test]
async fn replicas_change_in_map_and_configuration_at_once_or_not_at_all() {
    let here = cluster(4).await;
    let (_, map) = here.store.create_keyspace("a", one_group()).await.unwrap();
    let leader = led(&here, 1).await;
    let before = here.store.configuration(GROUP).await.unwrap().unwrap();
    let missing = (1..=4).find(|n| !before.replicas.contains(&NodeId(*n))).unwrap();
    let change = with(&before.replicas, before.version, missing);
    assert!(here.store.replace_replicas(leader, &change).await.unwrap());
    let (map_now, now) = (
        here.store.load_map().await.unwrap(),
        here.store.configuration(GROUP).await.unwrap().unwrap(),
    );
    assert_eq!(
        (map_now.replicas(GROUP), &now.replicas),
        (&change.placed[..], &change.replicas)
    );
    assert_eq!(map_now.version().0, now.version.0, "one transaction");
    assert_eq!(
        (now.epoch, now.primary, &now.in_sync),
        (before.epoch, before.primary, &before.in_sync)
    );
    assert!(map_now.version() > map.version());
    // From what was seen before, nothing more can be changed.
    assert!(!here.store.replace_replicas(leader, &change).await.unwrap());
    // Nor by who acts no more.
    here.store.leave_node(here.leases[0]).await.unwrap();
    let back = Replacement {
        expected: now.version,
        placed: before.replicas.clone(),
        replicas: before.replicas,
        ..change
    };
    assert!(!here.store.replace_replicas(leader, &back).await.unwrap());
    assert_eq!(here.store.configuration(GROUP).await.unwrap(), Some(now));
}

#[tokio::test]
async fn a_node_that_is_new_in_the_map_is_alive_in_it() {
    let here = cluster(1).await;
    let mut changes = here.metadata.watch("/", Revision(1)).await.unwrap();
    let map_and_lease = async {
        loop {
            let event = changes.next().await.unwrap().unwrap();
            let WatchEvent::Put(found) = event else { continue };
            if found.key.ends_with("/map") && String::from_utf8_lossy(&found.value).contains("127.0.0.1:1") {
                return found.mod_revision;
            }
        }
    };
    let in_map = map_and_lease.await;
    let registered = here.metadata.get("/fulcrum/test/nodes/1").await.unwrap().unwrap();
    assert_eq!(registered.mod_revision, in_map);
}

#[tokio::test]
async fn new_groups_avoid_the_dead_and_the_drained() {
    let here = cluster(5).await;
    here.store.leave_node(here.leases[1]).await.unwrap();
    here.store.set_drained(NodeId(4), true).await.unwrap();
    let options = KeyspaceOptions {
        groups: 6,
        ..one_group()
    };
    let (_, map) = here.store.create_keyspace("a", options).await.unwrap();
    for group in map.groups().values() {
        assert!(!group.replicas.contains(&NodeId(2)) && !group.replicas.contains(&NodeId(4)));
    }
}

#[tokio::test]
async fn settings_are_kept_and_nonsense_is_refused() {
    let here = cluster(1).await;
    assert_eq!(here.store.placement_settings().await.unwrap(), Settings::default());
    let patient = Settings {
        rebuild_after: Duration::from_secs(3600),
        ..Settings::default()
    };
    here.store.set_placement_settings(&patient).await.unwrap();
    assert_eq!(here.store.placement_view().await.unwrap().census.settings, patient);
    let hasty = Settings {
        rebuild_after: Duration::ZERO,
        ..Settings::default()
    };
    let refused = here.store.set_placement_settings(&hasty).await.unwrap_err();
    assert!(refused.to_string().contains("rebuild_after"), "{refused}");
    assert_eq!(here.store.placement_settings().await.unwrap(), patient);
}
