//! The typed layer over etcd: what the services use.

use super::compact;
use crate::testing::Etcd;
use fulcrum_common::metadata::{CasResult, ClusterEvent, ClusterStore, Metadata};
use fulcrum_common::{ClusterId, KeyspaceOptions, NodeInfo};
use fulcrum_types::{DataId, GroupConfiguration, GroupId, Member, Mode, NodeId};
use futures::StreamExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(30);

async fn cluster(metadata: impl Metadata) -> ClusterStore {
    let id = ClusterId::new("test").unwrap();
    let store = ClusterStore::open(Arc::new(metadata), id).await.unwrap();
    for node in 1..=3 {
        let info = NodeInfo {
            address: format!("127.0.0.1:{}", 7000 + node),
            zone: Some(format!("zone-{node}")),
        };
        store.register_node(NodeId(node), info, TTL).await.unwrap();
    }
    store
}

fn taken_over(by: u64, current: &GroupConfiguration) -> GroupConfiguration {
    let node = NodeId(by);
    GroupConfiguration {
        epoch: current.epoch.next(),
        primary: Some(node),
        in_sync: vec![Member { node, data: DataId(by) }],
        ..current.clone()
    }
}

async fn next<T>(stream: &mut (impl futures::Stream<Item = T> + Unpin)) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    waited.expect("nothing came in 20 s").expect("the stream has ended")
}

async fn swap(store: &ClusterStore, by: u64) -> GroupConfiguration {
    let current = store.configuration(GroupId(1)).await.unwrap().unwrap();
    let swapped = store.compare_and_swap(GroupId(1), current.version, taken_over(by, &current));
    match swapped.await.unwrap() {
        CasResult::Won(won) => won,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keyspaces_swaps_and_nodes() {
    let Some(etcd) = Etcd::start().await else { return };
    let store = cluster(etcd.metadata()).await;
    let largest = KeyspaceOptions {
        groups: fulcrum_common::keyspace::MAX_GROUPS,
        ..KeyspaceOptions::of(Mode::Sync, 3)
    };
    let (id, map) = store.create_keyspace("large", largest).await.unwrap();
    assert_eq!(store.load_map().await.unwrap(), map);
    assert_eq!(map.groups_of(id).count(), store.configurations().await.unwrap().len());
    let first = store.configuration(GroupId(1)).await.unwrap().unwrap();
    let won = swap(&store, 1).await;
    let late = store
        .compare_and_swap(GroupId(1), first.version, taken_over(2, &first))
        .await;
    assert_eq!(late, Ok(CasResult::Lost(won)));
    assert_eq!(store.live_nodes().await.unwrap(), BTreeSet::from([1, 2, 3].map(NodeId)));
    store.drop_keyspace("large").await.unwrap();
    let dropped = store
        .compare_and_swap(GroupId(1), first.version, taken_over(2, &first))
        .await;
    assert_eq!(dropped, Ok(CasResult::Dropped));
}

/// The watch of the typed layer goes on through an outage and through a compaction of what it has not seen.
#[tokio::test]
async fn a_watch_goes_on_after_an_outage_and_a_compaction() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let store = cluster(etcd.metadata()).await;
    let one = KeyspaceOptions {
        groups: 1,
        ..KeyspaceOptions::of(Mode::Sync, 3)
    };
    let (_, map) = store.create_keyspace("a", one).await.unwrap();
    let mut events = store.watch();
    assert_eq!(next(&mut events).await, ClusterEvent::Map(map));
    assert!(matches!(
        next(&mut events).await,
        ClusterEvent::Configuration(GroupId(1), _)
    ));
    let won = swap(&store, 1).await;
    assert_eq!(next(&mut events).await, ClusterEvent::Configuration(GroupId(1), won));

    etcd.stop();
    etcd.start_again().await;
    // Others change things and compact them before the watcher is back, if they are quick; it must not matter.
    let others = ClusterStore::open(Arc::new(etcd.metadata()), store.cluster_id().clone())
        .await
        .unwrap();
    swap(&others, 2).await;
    let won = swap(&others, 3).await;
    compact(&etcd, fulcrum_common::metadata::Revision(won.version.0)).await;
    loop {
        let ClusterEvent::Configuration(group, told) = next(&mut events).await else {
            panic!("the map again")
        };
        assert_eq!(group, GroupId(1));
        if told == won {
            break;
        }
    }
    let won = swap(&others, 1).await;
    assert_eq!(next(&mut events).await, ClusterEvent::Configuration(GroupId(1), won));
}
