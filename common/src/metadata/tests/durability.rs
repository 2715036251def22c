//! What was answered is there after a crash, and nothing else.

use super::*;
use crate::error::StartError;
use std::fs;
use std::path::PathBuf;

fn file(directory: &Path) -> PathBuf {
    directory.join("metadata.journal")
}

/// What a reader sees.
async fn seen(store: &EmbeddedMetadata) -> Listing {
    store.list("").await.unwrap()
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = open(dir.path(), &clock);
    put(&store, "/a", "1").await;
    put(&store, "/b", "2").await;
    succeeded(store.txn(vec![], vec![delete("/a")]).await);
    let lease = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n", lease)]).await);
    let before = seen(&store).await;
    drop(store);

    clock.advance(Duration::from_secs(60));
    let store = open(dir.path(), &clock);
    assert_eq!(seen(&store).await, before);
    // Nobody could keep the lease alive meanwhile: it starts anew.
    assert_eq!(store.expire_leases().await, Ok(0));
    store.keep_alive(lease).await.unwrap();
    clock.advance(Duration::from_secs(10));
    assert_eq!(store.expire_leases().await, Ok(1));
    assert_ne!(store.grant_lease(Duration::from_secs(1)).await.unwrap(), lease);
    // Watchers from before the restart list again.
    let mut changes = store.watch("/", Revision(1)).await.unwrap();
    assert!(matches!(next(&mut changes).await, Err(WatchError::Compacted { .. })));
}

/// A crash at every byte of the last transaction: it is there whole or not at all, all before it is, and the store goes on.
#[tokio::test]
async fn a_crash_at_any_byte_of_the_last_write_loses_nothing_answered() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = open(dir.path(), &clock);
    put(&store, "/a", "1").await;
    let answered = seen(&store).await;
    let answered_len = fs::metadata(file(dir.path())).unwrap().len() as usize;
    succeeded(store.txn(vec![], vec![Op::put("/a", "2"), Op::put("/b", "2")]).await);
    let last = seen(&store).await;
    drop(store);
    let content = fs::read(file(dir.path())).unwrap();
    for len in answered_len..=content.len() {
        fs::write(file(dir.path()), &content[..len]).unwrap();
        let store = open(dir.path(), &clock);
        let expected = if len == content.len() { &last } else { &answered };
        assert_eq!(seen(&store).await, *expected, "{len} of {} bytes", content.len());
        assert_eq!(put(&store, "/c", "3").await, expected.revision.next());
        drop(store);
        assert!(open(dir.path(), &clock).get("/c").await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_corrupt_middle_is_refused_with_its_place_and_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = open(dir.path(), &clock);
    let at = fs::metadata(file(dir.path())).unwrap().len() as usize;
    put(&store, "/a", "1").await;
    put(&store, "/a", "2").await;
    drop(store);
    let mut content = fs::read(file(dir.path())).unwrap();
    content[at + 20] ^= 1;
    fs::write(file(dir.path()), content).unwrap();
    let error = EmbeddedMetadata::open(dir.path(), None, clock).err().unwrap();
    assert!(
        matches!(error, StartError::Corrupt { offset, .. } if offset == at as u64),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("metadata.journal") && message.contains("backup"),
        "{message}"
    );
}

/// Whole records in the wrong order are corrupt too.
#[tokio::test]
async fn a_missing_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = open(dir.path(), &clock);
    let begin = fs::metadata(file(dir.path())).unwrap().len() as usize;
    put(&store, "/a", "1").await;
    let end = fs::metadata(file(dir.path())).unwrap().len() as usize;
    put(&store, "/a", "2").await;
    drop(store);
    let mut content = fs::read(file(dir.path())).unwrap();
    content.drain(begin..end);
    fs::write(file(dir.path()), content).unwrap();
    let error = EmbeddedMetadata::open(dir.path(), None, clock).err().unwrap();
    assert!(matches!(error, StartError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn compaction_keeps_everything_and_bounds_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = open(dir.path(), &clock);
    let lease = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n", lease)]).await);
    for i in 0..30u8 {
        succeeded(
            store
                .txn(vec![], vec![Op::put(format!("/{}", i % 3), vec![i; 400_000])])
                .await,
        );
    }
    let before = seen(&store).await;
    drop(store);
    let len = fs::metadata(file(dir.path())).unwrap().len();
    assert!(len < 6_000_000, "{len} bytes for 1.2 million");
    let store = open(dir.path(), &clock);
    assert_eq!(seen(&store).await, before);
    store.keep_alive(lease).await.unwrap();
}

#[tokio::test]
async fn a_directory_is_taken_by_one_process_and_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let store = EmbeddedMetadata::open(dir.path(), None, clock.clone()).unwrap();
    let id = store.cluster_id().clone();
    let again = EmbeddedMetadata::open(dir.path(), None, clock.clone()).err().unwrap();
    assert!(matches!(again, StartError::DirectoryLocked { .. }), "{again}");
    drop(store);
    let other = EmbeddedMetadata::open(dir.path(), Some(&cluster_id()), clock.clone())
        .err()
        .unwrap();
    assert!(
        other.to_string().contains(id.as_str()) && other.to_string().contains("'test'"),
        "{other}"
    );
    let same = EmbeddedMetadata::open(dir.path(), None, clock).unwrap();
    assert_eq!(*same.cluster_id(), id);
}

#[tokio::test(start_paused = true)]
async fn leases_run_out_by_themselves() {
    let clock = Arc::new(ManualClock::default());
    let store = EmbeddedMetadata::in_memory(cluster_id(), clock.clone());
    store.spawn_expiry(Duration::from_millis(100));
    let lease = store.grant_lease(Duration::from_secs(1)).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n", lease)]).await);
    let mut changes = store.watch("/", Revision(2)).await.unwrap();
    clock.advance(Duration::from_secs(2));
    assert_eq!(next(&mut changes).await.unwrap().revision(), Revision(2));
    // The task holds no store: a watch ends with the last handle.
    drop(store);
    assert!(changes.next().await.is_none());
}
