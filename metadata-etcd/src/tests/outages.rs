//! Etcd goes away, comes back, answers late, or was never there: what is told, and what is not.

use super::{compact, put};
use crate::testing::Etcd;
use crate::{EtcdConfig, EtcdMetadata};
use fulcrum_common::metadata::{LeaseId, Metadata, MetadataError, Op, Revision, WatchError};
use fulcrum_common::sockets::ReservedPort;
use futures::StreamExt;
use std::time::Duration;
use tokio::io::AsyncReadExt;

fn at(endpoints: &[String]) -> EtcdMetadata {
    EtcdMetadata::new(EtcdConfig {
        endpoints: endpoints.to_vec(),
        connect_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_millis(1500),
        ..EtcdConfig::default()
    })
    .unwrap()
}

/// Nobody listens there for as long as it lives.
fn nobody() -> (ReservedPort, String) {
    let port = ReservedPort::any().unwrap();
    let endpoint = format!("http://{}", port.address().unwrap());
    (port, endpoint)
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, MetadataError>) -> String {
    match result {
        Err(MetadataError::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn unknown<T: std::fmt::Debug>(result: Result<T, MetadataError>) {
    assert!(matches!(result, Err(MetadataError::Unknown(_))), "{result:?}");
}

#[tokio::test]
async fn where_nobody_listens_nothing_was_applied_and_the_reason_is_told() {
    let (_port, nobody) = nobody();
    let store = at(&[nobody]);
    let reason = unavailable(store.txn(vec![], vec![Op::put("/a", "1")]).await);
    assert!(reason.to_lowercase().contains("refused"), "{reason}");
    unavailable(store.get("/a").await);
    unavailable(store.list("/").await);
    unavailable(store.watch("/", Revision(1)).await.map(|_| ()));
    unavailable(store.grant_lease(Duration::from_secs(1)).await);
    // Not "no such lease": nobody said so.
    unavailable(store.keep_alive(LeaseId(7)).await);
    unavailable(store.revoke_lease(LeaseId(7)).await);
}

/// Takes connections and what comes on them, and never answers.
async fn silent() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(tokio::spawn(swallow(stream)));
        }
    });
    format!("http://{address}")
}

async fn swallow(mut stream: tokio::net::TcpStream) {
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

/// Takes a connection and breaks it once something has come: the request may have arrived.
async fn breaking() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                let mut came = 0;
                // The preface alone is no request.
                while came < 200 {
                    match stream.read(&mut bytes).await {
                        Ok(read) if read > 0 => came += read,
                        _ => return,
                    }
                }
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn what_may_have_arrived_is_unknown() {
    for endpoint in [silent().await, breaking().await] {
        let store = at(&[endpoint]);
        unknown(store.txn(vec![], vec![Op::put("/a", "1")]).await);
        unknown(store.grant_lease(Duration::from_secs(1)).await);
        unknown(store.keep_alive(LeaseId(7)).await);
        unknown(store.revoke_lease(LeaseId(7)).await);
        unavailable(store.get("/a").await);
    }
}

#[tokio::test]
async fn a_dead_endpoint_among_living_ones_is_not_noticed() {
    let Some(etcd) = Etcd::start().await else { return };
    let (_port, nobody) = nobody();
    let store = at(&[nobody.clone(), etcd.endpoint(), nobody]);
    for _ in 0..20 {
        put(&store, "/a", "1").await;
        store.get("/a").await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_endpoint_is_asked_once() {
    let Some(etcd) = Etcd::start().await else { return };
    let store = at(&[silent().await, etcd.endpoint()]);
    unknown(store.txn(vec![], vec![Op::put("/a", "1")]).await);
    for _ in 0..5 {
        put(&store, "/a", "2").await;
    }
}

#[tokio::test]
async fn a_silent_endpoint_is_asked_once_by_callers_with_less_patience_too() {
    let Some(etcd) = Etcd::start().await else { return };
    let store = at(&[silent().await, etcd.endpoint()]);
    let dropped = tokio::time::timeout(Duration::from_millis(200), store.get("/a")).await;
    assert!(dropped.is_err(), "{dropped:?}");
    put(&store, "/a", "1").await;
}

#[tokio::test]
async fn after_an_outage_everything_goes_on_and_a_lease_that_could_not_be_renewed_is_still_there() {
    let Some(mut etcd) = Etcd::start().await else { return };
    let store = etcd.metadata();
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let held = Op::Put {
        key: "/n".to_owned(),
        value: "x".into(),
        lease: Some(lease),
    };
    store.txn(vec![], vec![held]).await.unwrap();
    let before = put(&store, "/a", "1").await;
    let mut changes = store.watch("/", before.next()).await.unwrap();
    etcd.stop();
    let told = tokio::time::timeout(Duration::from_secs(20), changes.next())
        .await
        .unwrap();
    assert!(matches!(told, Some(Err(WatchError::Unavailable(_)))), "{told:?}");
    assert!(changes.next().await.is_none());
    let lost = store.keep_alive(lease).await.unwrap_err();
    assert!(!matches!(lost, MetadataError::NoSuchLease { .. }), "{lost}");
    unavailable(store.get("/a").await);

    etcd.start_again().await;
    // The first calls may still meet the broken connection.
    let mut tries = 0;
    while store.keep_alive(lease).await.is_err() {
        tries += 1;
        assert!(tries < 100, "the lease is not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut changes = store.watch("/", before.next()).await.unwrap();
    let after = put(&store, "/a", "2").await;
    let told = tokio::time::timeout(Duration::from_secs(20), changes.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(told.revision(), after);
    assert_eq!(store.get("/n").await.unwrap().unwrap().lease, Some(lease));
    compact(&etcd, after).await;
}
