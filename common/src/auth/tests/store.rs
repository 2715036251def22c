//! What the guard makes of a metadata store that was put back to an older state, or whose tokens cannot be read.

use super::*;
use crate::metadata::{
    ClusterStore, Compare, EmbeddedMetadata, KeyValue, LeaseId, Listing, Metadata, MetadataError, Op, TxnOutcome,
    WatchError, WatchStream,
};
use crate::routing::{RoutingTable, follow};
use crate::{ClusterId, ClusterMap};
use async_trait::async_trait;
use futures::StreamExt;
use std::sync::{PoisonError, RwLock};

/// A store in whose place another one comes, as an etcd that is restored from a snapshot: watches end, and revisions go back.
#[derive(Clone)]
struct Restorable {
    inner: Arc<RwLock<EmbeddedMetadata>>,
    restored: Arc<tokio::sync::watch::Sender<()>>,
    /// Comes in the place of the store when the next watch begins.
    at_next_watch: Arc<RwLock<Option<EmbeddedMetadata>>>,
}

impl Restorable {
    fn new(inner: EmbeddedMetadata) -> Self {
        Self {
            inner: Arc::new(RwLock::new(inner)),
            restored: Arc::default(),
            at_next_watch: Arc::default(),
        }
    }

    fn now(&self) -> EmbeddedMetadata {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn restore(&self, snapshot: EmbeddedMetadata) {
        *self.inner.write().unwrap() = snapshot;
        self.restored.send_replace(());
    }
}

#[async_trait]
impl Metadata for Restorable {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetadataError> {
        self.now().get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, MetadataError> {
        self.now().list(prefix).await
    }
    async fn txn(&self, compare: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, MetadataError> {
        self.now().txn(compare, ops).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetadataError> {
        if let Some(snapshot) = self.at_next_watch.write().unwrap().take() {
            *self.inner.write().unwrap() = snapshot;
        }
        let mut restored = self.restored.subscribe();
        let changes = self.now().watch(prefix, from).await?;
        let end = async move {
            let _ = restored.changed().await;
            Err(WatchError::Unavailable("it is restored".into()))
        };
        Ok(futures::stream::select(changes, futures::stream::once(end)).boxed())
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.now().grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.now().keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.now().revoke_lease(lease).await
    }
}

fn cluster() -> ClusterId {
    ClusterId::new("test").unwrap()
}

fn memory() -> EmbeddedMetadata {
    EmbeddedMetadata::in_memory(cluster(), Arc::new(ManualClock::default()))
}

async fn open(metadata: impl Metadata) -> ClusterStore {
    ClusterStore::open(Arc::new(metadata), cluster()).await.unwrap()
}

impl World {
    fn record(&self) -> TokenRecord {
        TokenRecord {
            name: "app".into(),
            hash: self.app.hash(),
            grants: vec!["orders:read".parse().unwrap()],
            created_ms: 0,
            expires_ms: None,
        }
    }

    /// A store with the token and a past that is longer than that of any snapshot here, followed by the guard.
    async fn followed(&self) -> (Restorable, ClusterStore) {
        let metadata = Restorable::new(memory());
        let store = open(metadata.clone()).await;
        store.create_token(APP, self.record(), 0).await.unwrap();
        for right in ["a:read", "b:read", "c:read", "orders:read"] {
            let rights = [right.parse().unwrap()];
            store.set_token_rights("app", &rights).await.unwrap();
        }
        let table = Arc::new(RoutingTable::new(Arc::new(ClusterMap::new(cluster()))));
        tokio::spawn(follow(store.clone(), table, Some(self.guard.clone()), |_| {}));
        self.until(true).await;
        (metadata, store)
    }

    /// Waits until the token is good, or is not.
    async fn until(&self, good: bool) {
        let waiting = async {
            while self.told(Some(&self.bearer())).await.is_none() != good {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.unwrap_or_else(|_| panic!("the token does not become {}", if good { "good" } else { "bad" }));
    }

    fn unreadable(&self) -> String {
        let families = self.metrics.registry().gather();
        let family = families
            .iter()
            .find(|family| family.name() == "fulcrum_auth_tokens_unreadable");
        let gauge = family.expect("it is told by a metric").get_metric()[0].get_gauge();
        gauge.get_value().to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_revoked_after_a_restore_is_good_for_nothing() {
    let world = World::new(true);
    let (metadata, store) = world.followed().await;
    let snapshot = memory();
    open(snapshot.clone())
        .await
        .create_token(APP, world.record(), 0)
        .await
        .unwrap();
    let before = store.tokens().await.unwrap().revision;
    metadata.restore(snapshot);
    let (_, left) = store.revoke_token("app").await.unwrap();
    assert!(
        left.revision < before,
        "the revocation is older than what was known, by its number"
    );
    world.until(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_a_restored_store_does_not_hold_is_good_for_nothing() {
    let world = World::new(true);
    let (metadata, _store) = world.followed().await;
    let snapshot = memory();
    open(snapshot.clone()).await;
    metadata.restore(snapshot);
    world.until(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_restored_between_listing_and_watching_is_listed_again() {
    let world = World::new(true);
    let (metadata, _store) = world.followed().await;
    let snapshot = memory();
    open(snapshot.clone()).await;
    *metadata.at_next_watch.write().unwrap() = Some(snapshot);
    metadata.restore(metadata.now());
    world.until(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_empty_before_it_was_restored_leaves_no_token_good_that_it_does_not_hold() {
    let world = World::new(true);
    let (metadata, _store) = world.followed().await;
    // It says nothing of tokens as long as it has not even a map.
    metadata.restore(memory());
    tokio::time::sleep(Duration::from_secs(30)).await;
    world.until(true).await;
    let snapshot = memory();
    open(snapshot.clone()).await;
    metadata.restore(snapshot);
    world.until(false).await;
}

#[tokio::test(start_paused = true)]
async fn what_repairs_the_unreadable_tokens_of_a_restored_store_counts_though_its_number_is_low() {
    let world = World::new(true);
    let (metadata, store) = world.followed().await;
    let before = store.tokens().await.unwrap().revision;
    let snapshot = memory();
    open(snapshot.clone()).await;
    let key = "/fulcrum/test/tokens".to_owned();
    let garbage = Op::put(key.clone(), Bytes::from_static(b"garbage"));
    snapshot.txn(vec![], vec![garbage]).await.unwrap();
    metadata.restore(snapshot);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.unreadable(), "1");
    let none = memory();
    let other = open(none.clone()).await;
    other.create_token(APP, world.record(), 0).await.unwrap();
    other.revoke_token("app").await.unwrap();
    let empty = none.get(&key).await.unwrap().unwrap().value;
    metadata.txn(vec![], vec![Op::put(key, empty)]).await.unwrap();
    assert!(store.tokens().await.unwrap().revision < before);
    world.until(false).await;
    assert_eq!(world.unreadable(), "0");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_cannot_be_read_leave_those_known_before_and_are_told_loudly() {
    let world = World::new(true);
    let (metadata, store) = world.followed().await;
    assert_eq!(world.unreadable(), "0");
    let key = "/fulcrum/test/tokens".to_owned();
    let readable = metadata.get(&key).await.unwrap().unwrap().value;
    let garbage = Op::put(key.clone(), Bytes::from_static(b"garbage"));
    metadata.txn(vec![], vec![garbage]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.unreadable(), "1");
    world.until(true).await;
    store
        .revoke_token("app")
        .await
        .expect_err("who cannot read them changes none");

    metadata.txn(vec![], vec![Op::put(key, readable)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.unreadable(), "0");
    store.revoke_token("app").await.unwrap();
    world.until(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_revocation_here_is_not_taken_back_by_what_was_asked_before() {
    let world = World::new(true);
    let mut table = TokenTable {
        revision: Revision(5),
        ..TokenTable::default()
    };
    table.tokens.insert(APP, world.record());
    let before = tokio::time::Instant::now();
    tokio::time::advance(Duration::from_millis(1)).await;
    let revoked = TokenTable {
        revision: Revision(6),
        ..TokenTable::default()
    };
    world.guard.learn(&revoked);
    world.guard.hear(&table, Some(before));
    world.guard.hear(&table, None);
    assert!(world.told(Some(&world.bearer())).await.is_some(), "it is older news");

    tokio::time::advance(Duration::from_millis(1)).await;
    world.guard.hear(&table, Some(tokio::time::Instant::now()));
    assert!(
        world.told(Some(&world.bearer())).await.is_none(),
        "asked after the revocation, the store has the token: it was restored"
    );
}
