//! An etcd that asks who one is: users, and tokens that run out.

use super::{compact_as, plain_client, put};
use crate::testing::{Etcd, Setup};
use crate::{EtcdConfig, EtcdMetadata};
use fulcrum_common::metadata::{LeaseId, Metadata, MetadataError, Op, Revision};
use futures::StreamExt;
use std::time::Duration;

/// An etcd with a user `root`, whose tokens are as `arguments` say.
async fn guarded(arguments: &[&str]) -> Option<Etcd> {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let setup = Setup {
        arguments,
        ..Setup::default()
    };
    let etcd = Etcd::start_as(setup).await?;
    let mut client = plain_client(&etcd).await;
    client.user_add("root", "right", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    Some(etcd)
}

/// Tokens that etcd signs, and that it takes for `ttl`.
fn signed_tokens(folder: &std::path::Path, ttl: &str) -> String {
    let key = folder.join("token.key");
    std::fs::write(&key, "a key of these tests").unwrap();
    format!("jwt,priv-key={},sign-method=HS256,ttl={ttl}", key.display())
}

fn with(etcd: &Etcd, user: Option<(&str, &str)>) -> EtcdMetadata {
    EtcdMetadata::new(EtcdConfig {
        user: user.map(|(name, _)| name.to_owned()),
        password: user.map(|(_, password)| password.to_owned()),
        ..etcd.config()
    })
    .unwrap()
}

fn right(etcd: &Etcd) -> EtcdMetadata {
    with(etcd, Some(("root", "right")))
}

/// Every kind of call is answered, whatever has become of the token.
async fn everything_goes_on(store: &EtcdMetadata, etcd: &Etcd, lease: LeaseId, make_stale: impl AsyncFn()) {
    make_stale().await;
    let revision = put(store, "/a", "1").await;
    make_stale().await;
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1");
    make_stale().await;
    assert_eq!(store.list("/").await.unwrap().entries.len(), 1);
    make_stale().await;
    store.keep_alive(lease).await.unwrap();
    make_stale().await;
    let mut changes = store.watch("/", revision).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), changes.next()).await;
    assert_eq!(told.unwrap().unwrap().unwrap().revision(), revision);
    // A watch that is open goes on.
    make_stale().await;
    let revision = put(store, "/a", "2").await;
    let told = tokio::time::timeout(Duration::from_secs(20), changes.next()).await;
    assert_eq!(told.unwrap().unwrap().unwrap().revision(), revision);
    compact_as("root", "right", etcd, revision).await;
    make_stale().await;
    let other = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    make_stale().await;
    store.revoke_lease(other).await.unwrap();
}

#[tokio::test]
async fn a_user_is_needed_where_etcd_asks_for_one() {
    let Some(etcd) = guarded(&[]).await else { return };
    let right = right(&etcd);
    put(&right, "/a", "1").await;
    assert_eq!(right.get("/a").await.unwrap().unwrap().value, "1");
    for wrong in [with(&etcd, None), with(&etcd, Some(("root", "wrong")))] {
        let refused = wrong.txn(vec![], vec![Op::put("/a", "2")]).await;
        assert!(matches!(refused, Err(MetadataError::Unavailable(_))), "{refused:?}");
        assert!(matches!(wrong.get("/a").await, Err(MetadataError::Unavailable(_))));
        let refused = wrong.watch("/", Revision(1)).await.map(drop);
        assert!(matches!(refused, Err(MetadataError::Unavailable(_))), "{refused:?}");
    }
    assert_eq!(right.get("/a").await.unwrap().unwrap().value, "1");
}

#[tokio::test]
async fn a_token_that_has_expired_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = signed_tokens(folder.path(), "1s");
    let Some(etcd) = guarded(&["--auth-token", &tokens]).await else {
        return;
    };
    let store = right(&etcd);
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    // A signed token counts in whole seconds.
    everything_goes_on(&store, &etcd, lease, async || {
        tokio::time::sleep(Duration::from_millis(2100)).await;
    })
    .await;
}

#[tokio::test]
async fn a_token_older_than_the_last_change_of_users_is_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = signed_tokens(folder.path(), "10m");
    let Some(etcd) = guarded(&["--auth-token", &tokens]).await else {
        return;
    };
    let store = right(&etcd);
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let users = std::sync::atomic::AtomicUsize::new(0);
    everything_goes_on(&store, &etcd, lease, async || {
        let number = users.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let options = etcd_client::ConnectOptions::new().with_user("root", "right");
        let client = etcd_client::Client::connect([etcd.endpoint()], Some(options)).await;
        let added = client.unwrap().user_add(format!("user{number}"), "x", None).await;
        added.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_token_that_etcd_forgot_when_it_restarted_is_renewed() {
    let Some(mut etcd) = guarded(&[]).await else { return };
    let store = right(&etcd);
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    etcd.stop();
    etcd.start_again().await;
    let mut tries = 0;
    // The first calls may still meet the broken connection.
    while let Err(error) = store.keep_alive(lease).await {
        assert!(!matches!(error, MetadataError::NoSuchLease { .. }), "{error}");
        tries += 1;
        assert!(tries < 100, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    everything_goes_on(&store, &etcd, lease, async || {}).await;
}
