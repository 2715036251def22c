//! Against a real etcd: the promises of all stores, then what only a store in another process can get wrong.

mod certificates;
mod cluster;
mod outages;
mod users;

use crate::testing::Etcd;
use crate::{EtcdConfig, EtcdMetadata};
use async_trait::async_trait;
use fulcrum_common::metadata::conformance::Subject;
use fulcrum_common::metadata::{Metadata, Op, Revision, TxnOutcome, WatchError};
use fulcrum_common::{Clock, SystemClock};
use fulcrum_types::Mono;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;

struct OverEtcd {
    etcd: Etcd,
    store: Arc<EtcdMetadata>,
}

async fn over_etcd() -> Option<OverEtcd> {
    let etcd = Etcd::start().await?;
    let store = Arc::new(etcd.metadata());
    Some(OverEtcd { etcd, store })
}

#[async_trait]
impl Subject for OverEtcd {
    fn store(&self) -> Arc<dyn Metadata> {
        self.store.clone()
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn now(&self) -> Mono {
        SystemClock.now().mono
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn forget_changes(&self) {
        let revision = self.store.list("").await.unwrap().revision;
        compact(&self.etcd, revision).await;
    }
}

mod conformance {
    use super::over_etcd;
    fulcrum_common::metadata_conformance!(over_etcd);
}

/// A client of etcd's own interface.
async fn plain_client(etcd: &Etcd) -> etcd_client::Client {
    etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap()
}

async fn compact(etcd: &Etcd, revision: Revision) {
    let revision = i64::try_from(revision.0).unwrap();
    plain_client(etcd).await.compact(revision, None).await.unwrap();
}

async fn compact_as(user: &str, password: &str, etcd: &Etcd, revision: Revision) {
    let options = etcd_client::ConnectOptions::new().with_user(user, password);
    let client = etcd_client::Client::connect([etcd.endpoint()], Some(options)).await;
    let revision = i64::try_from(revision.0).unwrap();
    client.unwrap().compact(revision, None).await.unwrap();
}

async fn put(store: &dyn Metadata, key: &str, value: &'static str) -> Revision {
    match store.txn(vec![], vec![Op::put(key, value)]).await {
        Ok(TxnOutcome::Succeeded { revision }) => revision,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn two_prefixes_share_an_etcd_and_see_nothing_of_each_other() {
    let Some(etcd) = Etcd::start().await else { return };
    let prefixed = |prefix: &str| {
        EtcdMetadata::new(EtcdConfig {
            prefix: prefix.to_owned(),
            ..etcd.config()
        })
        .unwrap()
    };
    let (one, other) = (prefixed("one"), prefixed("other"));
    let mut seen = one.watch("/", Revision(1)).await.unwrap();
    put(&other, "/a", "theirs").await;
    let revision = put(&one, "/a", "ours").await;
    let told = tokio::time::timeout(Duration::from_secs(20), seen.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!((told.key(), told.revision()), ("/a", revision));
    assert_eq!(one.list("").await.unwrap().entries.len(), 1);
    assert_eq!(one.get("/a").await.unwrap().unwrap().value, "ours");
    assert_eq!(etcd.metadata().list("").await.unwrap().entries.len(), 2);
}

#[tokio::test]
async fn a_delete_at_the_very_revision_of_a_compaction_is_not_left_out_silently() {
    let Some(etcd) = Etcd::start().await else { return };
    let store = etcd.metadata();
    put(&store, "/a", "1").await;
    let deleted = match store.txn(vec![], vec![Op::Delete { key: "/a".to_owned() }]).await {
        Ok(TxnOutcome::Succeeded { revision }) => revision,
        other => panic!("{other:?}"),
    };
    compact(&etcd, deleted).await;
    let mut earlier = store.watch("/", Revision(deleted.0 - 1)).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), earlier.next())
        .await
        .unwrap();
    assert_eq!(told, Some(Err(WatchError::Compacted { compacted: deleted })));
    let mut changes = store.watch("/", deleted).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), changes.next())
        .await
        .unwrap();
    assert_eq!(told, Some(Err(WatchError::Compacted { compacted: deleted })));
    assert_eq!(changes.next().await, None);
}
