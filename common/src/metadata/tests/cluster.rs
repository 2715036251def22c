//! The typed layer, over the embedded store.

use super::*;
use crate::keyspace::KeyspaceOptions;
use crate::map::{MapError, NodeInfo};
use fulcrum_types::{ConfigVersion, DataId, Epoch, GroupConfiguration, GroupId, Member, Mode, NodeId};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const TTL: Duration = Duration::from_secs(10);

fn info(node: u64) -> NodeInfo {
    NodeInfo {
        address: format!("127.0.0.1:{}", 7000 + node),
        zone: None,
    }
}

fn memory() -> (EmbeddedMetadata, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    (EmbeddedMetadata::in_memory(cluster_id(), clock.clone()), clock)
}

async fn cluster(metadata: impl Metadata, nodes: u64) -> ClusterStore {
    let store = ClusterStore::open(Arc::new(metadata), cluster_id()).await.unwrap();
    for node in 1..=nodes {
        store.register_node(NodeId(node), info(node), TTL).await.unwrap();
    }
    store
}

fn small() -> KeyspaceOptions {
    KeyspaceOptions {
        groups: 2,
        ..KeyspaceOptions::of(Mode::Sync, 3)
    }
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

#[tokio::test]
async fn a_keyspace_appears_with_its_first_configurations() {
    let (metadata, _) = memory();
    let store = cluster(metadata, 5).await;
    let (id, map) = store
        .create_keyspace("users", KeyspaceOptions::default())
        .await
        .unwrap();
    assert_eq!(store.load_map().await.unwrap(), map);
    assert_eq!(map.keyspace_by_name("users").unwrap().id, id);
    let configurations = store.configurations().await.unwrap();
    assert_eq!(configurations.len(), 8);
    for (group, config) in configurations {
        // In the same transaction as the map.
        assert_eq!(config.version.0, map.version().0);
        assert_eq!(
            (config.epoch, config.primary, config.in_sync.len()),
            (Epoch::ZERO, None, 0)
        );
        // Who is first in the map stands first: new groups begin to count at the place that their number gives.
        let first = config.replicas[(group.0 - 1) as usize % 3];
        assert_eq!(first, map.replicas(group)[0]);
        let replicas: BTreeSet<NodeId> = config.replicas.iter().copied().collect();
        assert_eq!(replicas, map.replicas(group).iter().copied().collect());
        assert_eq!(store.configuration(group).await.unwrap(), Some(config));
    }
}

#[tokio::test]
async fn keyspaces_come_and_go_and_ids_do_not_recur() {
    let (metadata, _) = memory();
    let store = cluster(metadata, 3).await;
    let (first, map) = store.create_keyspace("a", small()).await.unwrap();
    let groups: Vec<GroupId> = map.groups_of(first).collect();
    let taken = store.create_keyspace("a", small()).await.unwrap_err();
    assert_eq!(taken, StoreError::Map(MapError::Exists("a".into())));
    let map = store.drop_keyspace("a").await.unwrap();
    assert!(map.keyspaces().is_empty() && map.groups().is_empty());
    assert!(store.configurations().await.unwrap().is_empty());
    assert!(matches!(
        store.drop_keyspace("a").await,
        Err(StoreError::Map(MapError::NoSuchKeyspace(_)))
    ));
    let (second, map) = store.create_keyspace("a", small()).await.unwrap();
    assert!(second > first && map.groups_of(second).all(|group| !groups.contains(&group)));
}

#[tokio::test]
async fn the_largest_keyspace_fits_one_transaction() {
    let (metadata, _) = memory();
    let store = cluster(metadata, 3).await;
    let largest = KeyspaceOptions {
        groups: crate::keyspace::MAX_GROUPS,
        ..small()
    };
    let (id, map) = store.create_keyspace("large", largest).await.unwrap();
    assert_eq!(map.groups_of(id).count(), 127);
    store.drop_keyspace("large").await.unwrap();
}

#[tokio::test]
async fn too_few_nodes_are_named() {
    let (metadata, _) = memory();
    let store = cluster(metadata, 2).await;
    let message = store.create_keyspace("a", small()).await.unwrap_err().to_string();
    assert!(
        message.contains("replication_factor = 3") && message.contains('2'),
        "{message}"
    );
}

#[tokio::test]
async fn many_change_the_map_at_once() {
    let (metadata, _) = memory();
    let store = cluster(metadata, 3).await;
    let creating: Vec<_> = (0..8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move { store.create_keyspace(&format!("k{i}"), small()).await.map(|_| ()) })
        })
        .collect();
    for created in creating {
        created.await.unwrap().unwrap();
    }
    let map = store.load_map().await.unwrap();
    assert_eq!((map.keyspaces().len(), map.groups().len()), (8, 16));
}

#[tokio::test]
async fn of_two_that_swap_one_wins_and_the_other_sees_what_is_in_force() {
    let (metadata, _) = memory();
    let store = cluster(metadata, 3).await;
    store.create_keyspace("a", small()).await.unwrap();
    let group = GroupId(1);
    let first = store.configuration(group).await.unwrap().unwrap();
    let CasResult::Won(won) = store
        .compare_and_swap(group, first.version, taken_over(1, &first))
        .await
        .unwrap()
    else {
        panic!("nobody else swapped")
    };
    assert!(won.version > first.version);
    assert_eq!(store.configuration(group).await.unwrap(), Some(won.clone()));
    let lost = store
        .compare_and_swap(group, first.version, taken_over(2, &first))
        .await
        .unwrap();
    assert_eq!(lost, CasResult::Lost(won.clone()));
    // A version of nothing does not match a dropped group.
    assert_eq!(
        store
            .compare_and_swap(group, ConfigVersion::ZERO, taken_over(2, &first))
            .await,
        Ok(CasResult::Lost(won.clone()))
    );
    store.drop_keyspace("a").await.unwrap();
    for expected in [won.version, ConfigVersion::ZERO] {
        assert_eq!(
            store.compare_and_swap(group, expected, taken_over(2, &won)).await,
            Ok(CasResult::Dropped)
        );
    }
    assert_eq!(store.configuration(group).await, Ok(None));
}

#[tokio::test]
async fn nodes_live_as_long_as_their_leases_and_stay_in_the_map() {
    let (metadata, clock) = memory();
    let store = cluster(metadata.clone(), 2).await;
    let lease = store.register_node(NodeId(3), info(3), TTL).await.unwrap();
    let before = store.load_map().await.unwrap();
    // Known already, at the same place: the map stays as it is.
    store.register_node(NodeId(1), info(1), TTL).await.unwrap();
    assert_eq!(store.load_map().await.unwrap(), before);
    clock.advance(TTL / 2);
    assert_eq!(store.keep_node_alive(lease).await, Ok(true));
    clock.advance(TTL / 2);
    metadata.expire_leases().await.unwrap();
    assert_eq!(store.live_nodes().await.unwrap(), BTreeSet::from([NodeId(3)]));
    store.leave_node(lease).await.unwrap();
    store.leave_node(lease).await.unwrap();
    assert_eq!(store.keep_node_alive(lease).await, Ok(false));
    assert!(store.live_nodes().await.unwrap().is_empty());
    assert_eq!(store.load_map().await.unwrap().nodes().len(), 3);
}

#[tokio::test]
async fn two_clusters_share_a_store_and_see_nothing_of_each_other() {
    let (metadata, _) = memory();
    let one = cluster(metadata.clone(), 3).await;
    let other = ClusterStore::open(Arc::new(metadata), ClusterId::new("test2").unwrap())
        .await
        .unwrap();
    one.create_keyspace("a", small()).await.unwrap();
    assert!(other.load_map().await.unwrap().nodes().is_empty());
    assert!(other.configurations().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_watch_tells_what_is_in_force_and_then_every_change() {
    let (metadata, _) = memory();
    let store = cluster(metadata, 3).await;
    let (_, map) = store.create_keyspace("a", small()).await.unwrap();
    let mut events = store.watch();
    assert_eq!(next(&mut events).await, ClusterEvent::Map(map));
    let mut first = None;
    for group in [GroupId(1), GroupId(2)] {
        let ClusterEvent::Configuration(told, config) = next(&mut events).await else {
            panic!("the map again")
        };
        assert_eq!(told, group);
        first = Some(config);
    }
    let first = first.unwrap();
    let CasResult::Won(won) = store
        .compare_and_swap(GroupId(2), first.version, taken_over(2, &first))
        .await
        .unwrap()
    else {
        panic!("nobody else swapped")
    };
    assert_eq!(next(&mut events).await, ClusterEvent::Configuration(GroupId(2), won));
    let map = store.drop_keyspace("a").await.unwrap();
    assert_eq!(next(&mut events).await, ClusterEvent::Map(map));
}

/// A store whose watches break when told to, and which fails as told.
#[derive(Clone)]
struct Flaky {
    inner: EmbeddedMetadata,
    listed: Arc<AtomicUsize>,
    /// Ends all watches that are open, with this error.
    broken: Arc<tokio::sync::watch::Sender<Option<WatchError>>>,
    /// The next transaction is applied, or not, and fails so.
    next_txn: Arc<Mutex<Option<(bool, MetadataError)>>>,
}

impl Flaky {
    fn new(inner: EmbeddedMetadata) -> Self {
        let broken = Arc::new(tokio::sync::watch::Sender::new(None));
        Self {
            inner,
            listed: Arc::default(),
            broken,
            next_txn: Arc::default(),
        }
    }
}

#[async_trait]
impl Metadata for Flaky {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetadataError> {
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, MetadataError> {
        // Every other one fails: the watcher has to try again.
        if self.listed.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
            return Err(MetadataError::Unavailable("no leader".into()));
        }
        self.inner.list(prefix).await
    }
    async fn txn(&self, compare: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, MetadataError> {
        let fault = self.next_txn.lock().unwrap().take();
        match fault {
            None => self.inner.txn(compare, ops).await,
            Some((applied, error)) => {
                if applied {
                    self.inner.txn(compare, ops).await?;
                }
                Err(error)
            }
        }
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetadataError> {
        let mut broken = self.broken.subscribe();
        let changes = self.inner.watch(prefix, from).await?;
        let end = async move {
            // Before the subscription does not count.
            let told = broken.changed().await.map(|()| broken.borrow().clone());
            told.ok().flatten().unwrap_or(WatchError::Unavailable("closed".into()))
        };
        Ok(futures::stream::select(changes, futures::stream::once(end).map(Err)).boxed())
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.inner.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.inner.revoke_lease(lease).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_survives_interruption_and_compaction_and_tells_nothing_twice() {
    let flaky = Flaky::new(memory().0);
    let store = cluster(flaky.clone(), 3).await;
    let (_, map) = store.create_keyspace("a", small()).await.unwrap();
    let mut events = store.watch();
    assert_eq!(next(&mut events).await, ClusterEvent::Map(map));
    next(&mut events).await;
    next(&mut events).await;
    let mut current = store.configuration(GroupId(1)).await.unwrap().unwrap();
    let errors = [
        WatchError::Unavailable("gone".into()),
        WatchError::Compacted { compacted: Revision(1) },
    ];
    for (by, error) in (1..=6).zip(errors.into_iter().cycle()) {
        flaky.broken.send_replace(Some(error));
        let swapped = store
            .compare_and_swap(GroupId(1), current.version, taken_over(by, &current))
            .await;
        let Ok(CasResult::Won(won)) = swapped else {
            panic!("{swapped:?}")
        };
        assert_eq!(
            next(&mut events).await,
            ClusterEvent::Configuration(GroupId(1), won.clone())
        );
        current = won;
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_not_taken_for_a_refusal() {
    let flaky = Flaky::new(memory().0);
    let store = cluster(flaky.clone(), 3).await;
    store.create_keyspace("a", small()).await.unwrap();
    let group = GroupId(1);
    let first = store.configuration(group).await.unwrap().unwrap();
    let proposal = taken_over(1, &first);

    *flaky.next_txn.lock().unwrap() = Some((false, MetadataError::Unavailable("no leader".into())));
    let error = store
        .compare_and_swap(group, first.version, proposal.clone())
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");

    *flaky.next_txn.lock().unwrap() = Some((true, MetadataError::Unknown("timed out".into())));
    let error = store
        .compare_and_swap(group, first.version, proposal)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error}");
    assert_eq!(
        store.configuration(group).await.unwrap().unwrap().primary,
        Some(NodeId(1))
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_passed_over_by_a_watch_and_told_to_who_asks() {
    let (metadata, _) = memory();
    let store = cluster(metadata.clone(), 3).await;
    store.create_keyspace("a", small()).await.unwrap();
    put(&metadata, "/fulcrum/test/groups/1/configuration", r#"{"format":9}"#).await;
    let mut events = store.watch();
    assert!(matches!(next(&mut events).await, ClusterEvent::Map(_)));
    assert!(matches!(
        next(&mut events).await,
        ClusterEvent::Configuration(GroupId(2), _)
    ));
    let error = store.configuration(GroupId(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerFormat { found: 9, .. }), "{error}");
    put(&metadata, "/fulcrum/test/map", "garbage").await;
    assert!(matches!(store.load_map().await, Err(StoreError::Corrupt { .. })));
}
