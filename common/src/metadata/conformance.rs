//! What every implementation of [`Metadata`] must do, written against the trait: another store takes the same tests.
//!
//! A store brings a [`Subject`], and [`metadata_conformance!`](crate::metadata_conformance) makes one test of each promise.
//! Every test takes a store of its own that nobody else changes, so that revisions can be foretold. Stores differ in how
//! time passes: one has a clock that a test moves, the other takes real seconds, and then a test believes "not yet" only if
//! it looked before the time was up.

use super::{Compare, LeaseId, MAX_TXN_OPS, Metadata, MetadataError, Op, Revision, TxnOutcome, WatchError, WatchEvent};
use async_trait::async_trait;
use fulcrum_types::Mono;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;

/// A store under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store. Nobody else changes it.
    fn store(&self) -> Arc<dyn Metadata>;

    /// A lease's time to live that a test can wait for.
    fn ttl(&self) -> Duration;

    /// The time by which leases run out.
    fn now(&self) -> Mono;

    /// Lets time pass; what has run out by then ends within a moment.
    async fn pass(&self, time: Duration);

    /// Makes the store forget the changes so far.
    async fn forget_changes(&self);
}

/// One test of each promise, against the stores that an async function makes; if it makes none, where a test was told to do
/// without one, there is nothing to test.
#[macro_export]
macro_rules! metadata_conformance {
    ($make:ident) => {
        $crate::metadata_conformance!(
            $make:
            a_transaction_applies_all_or_nothing,
            of_many_that_swap_one_wins,
            listing_is_by_prefix_and_in_order,
            bad_transactions_are_refused,
            a_watch_tells_every_change_once_and_in_order,
            a_watch_of_the_past_begins_there,
            a_watch_of_what_is_forgotten_says_so,
            a_lease_that_runs_out_takes_its_keys,
            a_lease_kept_alive_stays,
            a_lease_revoked_takes_its_keys,
            a_key_taken_over_by_another_lease_stays,
        );
    };
    ($make:ident: $($name:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            let Some(subject) = $make().await else { return };
            $crate::metadata::conformance::$name(&subject).await;
        })*
    };
}

pub(super) fn absent(key: &str) -> Compare {
    at(key, Revision::ABSENT)
}

pub(super) fn at(key: &str, mod_revision: Revision) -> Compare {
    Compare {
        key: key.to_owned(),
        mod_revision,
    }
}

pub(super) fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

pub(super) fn leased(key: &str, lease: LeaseId) -> Op {
    Op::Put {
        key: key.to_owned(),
        value: "x".into(),
        lease: Some(lease),
    }
}

/// Puts a key without condition; its revision.
pub(super) async fn put(store: &dyn Metadata, key: &str, value: &'static str) -> Revision {
    succeeded(store.txn(vec![], vec![Op::put(key, value)]).await)
}

pub(super) fn succeeded(outcome: Result<TxnOutcome, MetadataError>) -> Revision {
    match outcome {
        Ok(TxnOutcome::Succeeded { revision }) => revision,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn next<T>(stream: &mut (impl futures::Stream<Item = T> + Unpin)) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    waited.expect("nothing came in 20 s").expect("the stream has ended")
}

/// The revision of a store that nobody has changed yet; those that follow are counted from it.
async fn start_of(store: &dyn Metadata) -> Revision {
    let listing = store.list("").await.unwrap();
    assert_eq!(listing.entries, [], "the store is not new");
    listing.revision
}

fn after(start: Revision, changes: u64) -> Revision {
    Revision(start.0 + changes)
}

/// A transaction changes everything or nothing, and its revision is that of every key it put.
pub async fn a_transaction_applies_all_or_nothing(subject: &dyn Subject) {
    let store = subject.store();
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
    assert!(put(&*store, "/a", "4").await > second);
}

/// A compare-and-swap decides every race.
pub async fn of_many_that_swap_one_wins(subject: &dyn Subject) {
    let store = subject.store();
    let from = put(&*store, "/a", "0").await;
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

/// A prefix, and nothing beside it.
pub async fn listing_is_by_prefix_and_in_order(subject: &dyn Subject) {
    let store = subject.store();
    let start = start_of(&*store).await;
    for key in ["/a/2", "/a/10", "/b", "/a", "/a/1"] {
        put(&*store, key, "x").await;
    }
    let listing = store.list("/a/").await.unwrap();
    let keys: Vec<&str> = listing.entries.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(keys, ["/a/1", "/a/10", "/a/2"]);
    assert_eq!(listing.revision, after(start, 5));
    assert!(store.list("/c").await.unwrap().entries.is_empty());
    assert_eq!(store.list("").await.unwrap().entries.len(), 5);
}

/// What makes no sense is refused, and nothing of it applied.
pub async fn bad_transactions_are_refused(subject: &dyn Subject) {
    let store = subject.store();
    let start = start_of(&*store).await;
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
    let untouched = TxnOutcome::Succeeded { revision: start };
    assert_eq!(store.txn(vec![absent("/a")], vec![delete("/a")]).await, Ok(untouched));
}

/// Nothing is missing from a watch, nothing comes twice, and a transaction's changes come together.
pub async fn a_watch_tells_every_change_once_and_in_order(subject: &dyn Subject) {
    const ROUNDS: u64 = 200;
    let store = subject.store();
    let start = start_of(&*store).await;
    let mut changes = store.watch("/w/", start.next()).await.unwrap();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for i in 0..ROUNDS {
            let ops = vec![
                Op::put("/w/x", format!("{i}")),
                Op::put("/else", "x"),
                Op::put("/w/y", format!("{i}")),
            ];
            succeeded(writer.txn(vec![], ops).await);
        }
        succeeded(writer.txn(vec![], vec![delete("/w/x")]).await);
    });
    for i in 0..ROUNDS {
        for key in ["/w/x", "/w/y"] {
            let WatchEvent::Put(kv) = next(&mut changes).await.unwrap() else {
                panic!("a delete")
            };
            assert_eq!((kv.key.as_str(), kv.mod_revision), (key, after(start, i + 1)));
            assert_eq!(kv.value, format!("{i}"));
        }
    }
    let gone = WatchEvent::Delete {
        key: "/w/x".into(),
        revision: after(start, ROUNDS + 1),
    };
    assert_eq!(next(&mut changes).await, Ok(gone));
    writing.await.unwrap();
}

/// A watch begins where it was told to, before or after the present.
pub async fn a_watch_of_the_past_begins_there(subject: &dyn Subject) {
    let store = subject.store();
    let start = start_of(&*store).await;
    for value in ["1", "2", "3"] {
        put(&*store, "/a", value).await;
    }
    let mut changes = store.watch("/", after(start, 2)).await.unwrap();
    assert_eq!(next(&mut changes).await.unwrap().revision(), after(start, 2));
    assert_eq!(next(&mut changes).await.unwrap().revision(), after(start, 3));
    // One of the future tells nothing of the present.
    let mut later = store.watch("/", after(start, 6)).await.unwrap();
    for value in ["4", "5", "6"] {
        put(&*store, "/a", value).await;
    }
    assert_eq!(next(&mut later).await.unwrap().revision(), after(start, 6));
}

/// A watch never leaves out what it can no longer tell: it says so and ends.
pub async fn a_watch_of_what_is_forgotten_says_so(subject: &dyn Subject) {
    let store = subject.store();
    let start = start_of(&*store).await;
    for value in ["1", "2", "3"] {
        put(&*store, "/a", value).await;
    }
    subject.forget_changes().await;
    let mut old = store.watch("/", start.next()).await.unwrap();
    let Err(WatchError::Compacted { compacted }) = next(&mut old).await else {
        panic!("not told")
    };
    assert!(old.next().await.is_none(), "a watch ends after an error");
    let now = store.list("").await.unwrap().revision;
    assert!(start < compacted && compacted <= now, "{compacted} of {now}");
    // Who lists again and watches from there misses nothing.
    let mut changes = store.watch("/a", now.next()).await.unwrap();
    let fourth = put(&*store, "/a", "4").await;
    assert_eq!(next(&mut changes).await.unwrap().revision(), fourth);
}

/// What hangs on a lease goes with it, all at once, and watchers are told.
pub async fn a_lease_that_runs_out_takes_its_keys(subject: &dyn Subject) {
    let (store, ttl, granted) = (subject.store(), subject.ttl(), subject.now());
    let lease = store.grant_lease(ttl).await.unwrap();
    let three = vec![leased("/n/1", lease), leased("/n/2", lease), Op::put("/n/3", "x")];
    let put = succeeded(store.txn(vec![], three).await);
    let mut changes = store.watch("/n/", put.next()).await.unwrap();
    subject.pass(ttl / 2).await;
    let listing = store.list("/n/").await.unwrap();
    assert!(
        listing.entries.len() == 3 || subject.now() >= granted + ttl,
        "gone before its time"
    );
    subject.pass(ttl / 2).await;
    for key in ["/n/1", "/n/2"] {
        let gone = WatchEvent::Delete {
            key: key.into(),
            revision: put.next(),
        };
        assert_eq!(next(&mut changes).await, Ok(gone));
    }
    assert_eq!(store.list("/n/").await.unwrap().entries.len(), 1);
    assert_eq!(store.keep_alive(lease).await, Err(MetadataError::NoSuchLease { lease }));
    assert_eq!(
        store.revoke_lease(lease).await,
        Err(MetadataError::NoSuchLease { lease })
    );
    assert_ne!(store.grant_lease(ttl).await.unwrap(), lease);
}

/// A lease's time starts anew with every sign of life.
pub async fn a_lease_kept_alive_stays(subject: &dyn Subject) {
    let store = subject.store();
    let lease = store.grant_lease(subject.ttl()).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n/1", lease)]).await);
    for _ in 0..3 {
        subject.pass(subject.ttl() / 2).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert!(store.get("/n/1").await.unwrap().is_some());
}

/// A lease can be ended before its time.
pub async fn a_lease_revoked_takes_its_keys(subject: &dyn Subject) {
    let store = subject.store();
    let lease = store.grant_lease(subject.ttl()).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n/1", lease)]).await);
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(store.get("/n/1").await, Ok(None));
    assert_eq!(store.keep_alive(lease).await, Err(MetadataError::NoSuchLease { lease }));
}

/// A key belongs to the lease with which it was put last.
pub async fn a_key_taken_over_by_another_lease_stays(subject: &dyn Subject) {
    let (store, ttl) = (subject.store(), subject.ttl());
    let old = store.grant_lease(ttl).await.unwrap();
    let both = vec![leased("/n/1", old), leased("/n/2", old)];
    let mut changes = store
        .watch("/n/2", succeeded(store.txn(vec![], both).await).next())
        .await
        .unwrap();
    subject.pass(ttl / 2).await;
    let granted = subject.now();
    let new = store.grant_lease(ttl).await.unwrap();
    succeeded(store.txn(vec![], vec![leased("/n/1", new)]).await);
    subject.pass(ttl / 2).await;
    assert!(matches!(next(&mut changes).await, Ok(WatchEvent::Delete { .. })));
    let found = store.get("/n/1").await.unwrap();
    assert!(
        found.is_some_and(|kv| kv.lease == Some(new)) || subject.now() >= granted + ttl,
        "it went with the lease that it no longer has"
    );
}
