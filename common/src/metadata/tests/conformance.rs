//! Written against the trait: another store takes the same tests.

use super::*;

/// Runs a test against each store, with a clock that it can move.
macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod in_memory {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let clock = Arc::new(ManualClock::default());
                super::$name(&EmbeddedMetadata::in_memory(cluster_id(), clock.clone()), &clock).await;
            })*
        }
        mod on_disk {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let clock = Arc::new(ManualClock::default());
                super::$name(&open(dir.path(), &clock), &clock).await;
            })*
        }
    };
}

conformance!(
    a_transaction_applies_all_or_nothing,
    of_many_that_swap_one_wins,
    listing_is_by_prefix_and_in_order,
    bad_transactions_are_refused,
    a_watch_tells_every_change_once_and_in_order,
    a_watch_of_the_past_begins_there,
    a_watcher_too_far_behind_is_told,
    a_lease_that_runs_out_takes_its_keys,
    a_lease_kept_alive_stays,
    a_key_taken_over_by_another_lease_stays,
);

async fn a_transaction_applies_all_or_nothing(store: &EmbeddedMetadata, _: &ManualClock) {
    assert_eq!(store.get("/a").await, Ok(None));
    let first = succeeded(
        store
            .txn(vec![absent("/a")], vec![Op::put("/a", "1"), Op::put("/b", "1")])
            .await,
    );
    let a = store.get("/a").await.unwrap().unwrap();
    assert_eq!((a.value.as_ref(), a.mod_revision, a.lease), (&b"1"[..], first, None));

    let both = vec![at("/a", first), absent("/b")];
    let lost = store.txn(both, vec![Op::put("/a", "2"), delete("/b")]).await;
    assert_eq!(lost, Ok(TxnOutcome::Failed { revision: first }));
    assert_eq!(store.get("/a").await.unwrap().unwrap(), a);

    let second = succeeded(
        store
            .txn(vec![at("/a", first)], vec![delete("/a"), Op::put("/c", "3")])
            .await,
    );
    assert_eq!(second, first.next());
    assert_eq!(store.get("/a").await, Ok(None));
    // A key that comes again does not have the revision of its first life.
    assert!(put(store, "/a", "4").await > second);
}

async fn of_many_that_swap_one_wins(store: &EmbeddedMetadata, _: &ManualClock) {
    let from = put(store, "/a", "0").await;
    let swaps = (0..20).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .txn(vec![at("/a", from)], vec![Op::put("/a", format!("{i}"))])
                .await
        })
    });
    let mut won = 0;
    for swap in swaps.collect::<Vec<_>>() {
        won += usize::from(matches!(swap.await.unwrap(), Ok(TxnOutcome::Succeeded { .. })));
    }
    assert_eq!(won, 1);
}

async fn listing_is_by_prefix_and_in_order(store: &EmbeddedMetadata, _: &ManualClock) {
    for key in ["/a/2", "/a/10", "/b", "/a", "/a/1"] {
        put(store, key, "x").await;
    }
    let listing = store.list("/a/").await.unwrap();
    let keys: Vec<&str> = listing.entries.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(keys, ["/a/1", "/a/10", "/a/2"]);
    assert_eq!(listing.revision, Revision(5));
    assert!(store.list("/c").await.unwrap().entries.is_empty());
}

async fn bad_transactions_are_refused(store: &EmbeddedMetadata, _: &ManualClock) {
    let refused = async |ops: Vec<Op>| match store.txn(vec![], ops).await {
        Err(MetadataError::Invalid(_)) => {}
        other => panic!("{other:?}"),
    };
    refused(vec![Op::put("/a", "1"), delete("/a")]).await;
    refused(vec![Op::put("", "1")]).await;
    refused(vec![Op::put("/a", vec![0; 2_000_000])]).await;
    refused((0..=MAX_TXN_OPS).map(|i| Op::put(format!("/{i}"), "x")).collect()).await;
    let lease = LeaseId(77);
    assert_eq!(
        store.txn(vec![], vec![leased("/a", lease)]).await,
        Err(MetadataError::NoSuchLease { lease })
    );
    // Nothing of it was applied, and a transaction without a change takes no revision.
    let untouched = TxnOutcome::Succeeded {
        revision: Revision::ABSENT,
    };
    assert_eq!(store.txn(vec![absent("/a")], vec![delete("/a")]).await, Ok(untouched));
}

async fn a_watch_tells_every_change_once_and_in_order(store: &EmbeddedMetadata, _: &ManualClock) {
    let mut changes = store.watch("/w/", Revision(1)).await.unwrap();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for i in 0..200 {
            let ops = vec![
                Op::put("/w/x", format!("{i}")),
                Op::put("/else", "x"),
                Op::put("/w/y", format!("{i}")),
            ];
            succeeded(writer.txn(vec![], ops).await);
        }
        succeeded(writer.txn(vec![], vec![delete("/w/x")]).await);
    });
    for i in 0..200u64 {
        for key in ["/w/x", "/w/y"] {
            let WatchEvent::Put(kv) = next(&mut changes).await.unwrap() else {
                panic!("a delete")
            };
            assert_eq!((kv.key.as_str(), kv.mod_revision), (key, Revision(i + 1)));
            assert_eq!(kv.value, format!("{i}"));
        }
    }
    let gone = WatchEvent::Delete {
        key: "/w/x".into(),
        revision: Revision(201),
    };
    assert_eq!(next(&mut changes).await, Ok(gone));
    writing.await.unwrap();
}

async fn a_watch_of_the_past_begins_there(store: &EmbeddedMetadata, _: &ManualClock) {
    for value in ["1", "2", "3"] {
        put(store, "/a", value).await;
    }
    let mut changes = store.watch("/", Revision(2)).await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().revision(), Revision(2));
    assert_eq!(next(&mut changes).await.unwrap().revision(), Revision(3));
    // One of the future tells nothing of the present.
    let mut later = store.watch("/", Revision(6)).await.unwrap();
    for value in ["4", "5", "6"] {
        put(store, "/a", value).await;
    }
    assert_eq!(next(&mut later).await.unwrap().revision(), Revision(6));
}

async fn a_watcher_too_far_behind_is_told(store: &EmbeddedMetadata, _: &ManualClock) {
    let mut slow = store.watch("/", Revision(1)).await.unwrap();
    // 45 revisions of 128 changes are more than are kept.
    for round in 0..45 {
        let ops = (0..MAX_TXN_OPS)
            .map(|i| Op::put(format!("/{i}"), format!("{round}")))
            .collect();
        succeeded(store.txn(vec![], ops).await);
    }
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

async fn a_lease_that_runs_out_takes_its_keys(store: &EmbeddedMetadata, clock: &ManualClock) {
    let lease = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    succeeded(
        store
            .txn(
                vec![],
                vec![leased("/n/1", lease), leased("/n/2", lease), Op::put("/n/3", "x")],
            )
            .await,
    );
    let mut changes = store.watch("/n/", Revision(2)).await.unwrap();
    clock.advance(Duration::from_secs(9));
    assert_eq!(store.expire_leases().await, Ok(0));
    clock.advance(Duration::from_secs(1));
    assert_eq!(store.expire_leases().await, Ok(1));
    assert_eq!(store.list("/n/").await.unwrap().entries.len(), 1);
    for key in ["/n/1", "/n/2"] {
        let gone = WatchEvent::Delete {
            key: key.into(),
            revision: Revision(2),
        };
        assert_eq!(next(&mut changes).await, Ok(gone));
    }
    assert_eq!(store.keep_alive(lease).await, Err(MetadataError::NoSuchLease { lease }));
    assert_eq!(
        store.revoke_lease(lease).await,
        Err(MetadataError::NoSuchLease { lease })
    );
    assert_ne!(store.grant_lease(Duration::from_secs(1)).await.unwrap(), lease);
}

async fn a_lease_kept_alive_stays(store: &EmbeddedMetadata, clock: &ManualClock) {
    let lease = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n/1", lease)]).await);
    for _ in 0..5 {
        clock.advance(Duration::from_secs(8));
        store.keep_alive(lease).await.unwrap();
        assert_eq!(store.expire_leases().await, Ok(0));
    }
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(store.get("/n/1").await, Ok(None));
}

async fn a_key_taken_over_by_another_lease_stays(store: &EmbeddedMetadata, clock: &ManualClock) {
    let old = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n/1", old)]).await);
    clock.advance(Duration::from_secs(5));
    let new = store.grant_lease(Duration::from_secs(10)).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n/1", new)]).await);
    clock.advance(Duration::from_secs(6));
    assert_eq!(store.expire_leases().await, Ok(1));
    assert_eq!(store.get("/n/1").await.unwrap().unwrap().lease, Some(new));
}
