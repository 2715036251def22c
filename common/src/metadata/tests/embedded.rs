//! The embedded store keeps the promises of all stores, in memory and on disk; and what it promises beyond them: leases run
//! out at their time to the tick, and a watcher that is too slow costs nothing and is told.

use super::*;
use crate::clock::Clock;
use crate::metadata::conformance::Subject;
use fulcrum_types::Mono;
use tempfile::TempDir;

struct Embedded {
    store: EmbeddedMetadata,
    clock: Arc<ManualClock>,
    _directory: Option<TempDir>,
}

#[async_trait]
impl Subject for Embedded {
    fn store(&self) -> Arc<dyn Metadata> {
        Arc::new(self.store.clone())
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn now(&self) -> Mono {
        self.clock.now().mono
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.store.expire_leases().await.unwrap();
    }

    async fn forget_changes(&self) {
        fill(&self.store, "/forgotten/").await;
    }
}

/// 45 revisions of 128 changes are more than are kept.
async fn fill(store: &EmbeddedMetadata, prefix: &str) {
    for round in 0..45 {
        let ops = (0..MAX_TXN_OPS)
            .map(|i| Op::put(format!("{prefix}{i}"), format!("{round}")))
            .collect();
        succeeded(store.txn(vec![], ops).await);
    }
}

async fn in_memory() -> Option<Embedded> {
    let clock = Arc::new(ManualClock::default());
    Some(Embedded {
        store: EmbeddedMetadata::in_memory(cluster_id(), clock.clone()),
        clock,
        _directory: None,
    })
}

async fn on_disk() -> Option<Embedded> {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    Some(Embedded {
        store: open(directory.path(), &clock),
        clock,
        _directory: Some(directory),
    })
}

mod kept_in_memory {
    use super::in_memory;
    crate::metadata_conformance!(in_memory);
}

mod kept_on_disk {
    use super::on_disk;
    crate::metadata_conformance!(on_disk);
}

#[tokio::test]
async fn a_watcher_too_far_behind_is_told() {
    let Embedded { store, .. } = in_memory().await.unwrap();
    let mut slow = store.watch("/", Revision(1)).await.unwrap();
    fill(&store, "/").await;
    let Err(WatchError::Compacted { compacted }) = next(&mut slow).await else {
        panic!("not told")
    };
    assert!(slow.next().await.is_none(), "a watch ends after an error");
    // From the next revision on nothing is missing.
    let mut changes = store.watch("/", compacted.next()).await.unwrap();
    for _ in 0..MAX_TXN_OPS {
        assert_eq!(next(&mut changes).await.unwrap().revision(), compacted.next());
    }
}

#[tokio::test]
async fn leases_run_out_at_their_time_and_not_before() {
    let Embedded { store, clock, .. } = in_memory().await.unwrap();
    let lease = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n/1", lease)]).await);
    for _ in 0..5 {
        clock.advance(Duration::from_secs(8));
        store.keep_alive(lease).await.unwrap();
        assert_eq!(store.expire_leases().await, Ok(0));
    }
    clock.advance(Duration::from_secs(9));
    assert_eq!(store.expire_leases().await, Ok(0));
    clock.advance(Duration::from_secs(1));
    assert_eq!(store.expire_leases().await, Ok(1));
    assert_eq!(store.get("/n/1").await, Ok(None));
}
