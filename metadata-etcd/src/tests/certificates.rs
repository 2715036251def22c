//! Encryption: what is checked, by whom, and what is said when it does not hold.

use super::put;
use crate::testing::{Authority, Etcd, Holds, Setup, Signed};
use crate::{EtcdConfig, EtcdMetadata};
use fulcrum_common::metadata::{Metadata, MetadataError, Op, Revision};
use futures::StreamExt;
use std::path::Path;
use std::time::Duration;

const HERE: &[&str] = &["localhost", "127.0.0.1"];

/// An etcd with this certificate that wants clients to have one, too.
async fn encrypted(authority: &Authority, certificate: Signed) -> Option<Etcd> {
    let setup = Setup {
        certificate: Some(certificate),
        clients_authority: Some(authority.file()),
        ..Setup::default()
    };
    Etcd::start_as(setup).await
}

fn reached(etcd: &Etcd, authority: &Path, own: Option<&Signed>) -> EtcdConfig {
    EtcdConfig {
        ca_file: Some(authority.to_owned()),
        certificate_file: own.map(|own| own.certificate.clone()),
        key_file: own.map(|own| own.key.clone()),
        ..etcd.config()
    }
}

/// No call is answered, none is taken for one about a lease, and the reason has these words.
async fn is_refused(config: EtcdConfig, words: &[&str]) {
    let store = EtcdMetadata::new(config).unwrap();
    let reason = match store.get("/a").await {
        Err(MetadataError::Unavailable(reason)) => reason,
        other => panic!("{other:?}"),
    };
    for word in words {
        assert!(reason.contains(word), "'{word}' is not in: {reason}");
    }
    let lease = store
        .keep_alive(fulcrum_common::metadata::LeaseId(7))
        .await
        .unwrap_err();
    assert!(!matches!(lease, MetadataError::NoSuchLease { .. }), "{lease}");
    assert!(store.txn(vec![], vec![Op::put("/a", "2")]).await.is_err());
}

#[tokio::test]
async fn both_sides_show_certificates_and_everything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let Some(mut etcd) = encrypted(&authority, authority.sign("etcd", HERE, Holds::Now)).await else {
        return;
    };
    let own = authority.sign("node", &["node"], Holds::Now);
    let store = EtcdMetadata::new(reached(&etcd, &authority.file(), Some(&own))).unwrap();
    let revision = put(&store, "/a", "1").await;
    let mut changes = store.watch("/", revision).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), changes.next()).await;
    assert_eq!(told.unwrap().unwrap().unwrap().revision(), revision);
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    store.keep_alive(lease).await.unwrap();

    etcd.stop();
    assert!(matches!(store.get("/a").await, Err(MetadataError::Unavailable(_))));
    etcd.start_again().await;
    let mut tries = 0;
    while store.keep_alive(lease).await.is_err() {
        tries += 1;
        assert!(tries < 100, "the lease is not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.get("/a").await.unwrap().unwrap().mod_revision, revision);
    assert!(store.watch("/", Revision(1)).await.is_ok());
}

#[tokio::test]
async fn strangers_are_told_apart_and_the_reason_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(&folder.path().join("authority"));
    let stranger = Authority::new(&folder.path().join("stranger"));
    let namesake = Authority::new(&folder.path().join("later/authority"));
    let Some(etcd) = encrypted(&authority, authority.sign("etcd", HERE, Holds::Now)).await else {
        return;
    };
    let own = authority.sign("node", &["node"], Holds::Now);
    let foreign = stranger.sign("foreign", &["node"], Holds::Now);
    for wrong in [&stranger, &namesake] {
        is_refused(reached(&etcd, &wrong.file(), Some(&own)), &["etcd.ca_file"]).await;
    }
    is_refused(
        reached(&etcd, &authority.file(), Some(&foreign)),
        &["etcd.certificate_file"],
    )
    .await;
    is_refused(reached(&etcd, &authority.file(), None), &["etcd.certificate_file"]).await;
    let plain = EtcdConfig {
        endpoints: vec![etcd.endpoint().replace("https", "http")],
        ..EtcdConfig::default()
    };
    is_refused(plain, &[]).await;
    let right = EtcdMetadata::new(reached(&etcd, &authority.file(), Some(&own))).unwrap();
    assert_eq!(right.get("/a").await, Ok(None));
}

#[tokio::test]
async fn an_etcd_whose_certificate_has_expired_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let Some(etcd) = encrypted(&authority, authority.sign("etcd", HERE, Holds::Expired)).await else {
        return;
    };
    let own = authority.sign("node", &["node"], Holds::Now);
    let config = reached(&etcd, &authority.file(), Some(&own));
    let (endpoint, advice) = (etcd.endpoint(), "has expired: renew it on etcd's members");
    is_refused(config, &[&endpoint, advice]).await;
}

#[tokio::test]
async fn a_name_that_is_in_no_endpoint_can_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let Some(etcd) = encrypted(&authority, authority.sign("etcd", &["etcd.example"], Holds::Now)).await else {
        return;
    };
    let own = authority.sign("node", &["node"], Holds::Now);
    let config = reached(&etcd, &authority.file(), Some(&own));
    is_refused(config.clone(), &["etcd.server_name"]).await;
    let named = EtcdConfig {
        server_name: Some("etcd.example".to_owned()),
        ..config
    };
    put(&EtcdMetadata::new(named).unwrap(), "/a", "1").await;
}

#[tokio::test]
async fn a_certificate_that_was_renewed_in_place_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let Some(etcd) = encrypted(&authority, authority.sign("etcd", HERE, Holds::Now)).await else {
        return;
    };
    let strangers = Authority::new(&folder.path().join("strangers")).sign("node", &["node"], Holds::Now);
    let own = authority.sign("node", &["node"], Holds::Now);
    std::fs::rename(&strangers.certificate, &own.certificate).unwrap();
    std::fs::rename(&strangers.key, &own.key).unwrap();
    let store = EtcdMetadata::new(reached(&etcd, &authority.file(), Some(&own))).unwrap();
    assert!(store.get("/a").await.is_err());
    let _ = authority.sign("node", &["node"], Holds::Now);
    put(&store, "/a", "1").await;
}

#[test]
fn files_that_cannot_be_used_are_refused_by_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let own = authority.sign("node", &["node"], Holds::Now);
    let other = authority.sign("other", &["node"], Holds::Now);
    let expired = authority.sign("expired", &["node"], Holds::Expired);
    let garbage = folder.path().join("garbage.pem");
    std::fs::write(&garbage, "no certificate").unwrap();
    let good = EtcdConfig {
        endpoints: vec!["https://127.0.0.1:1".to_owned()],
        ca_file: Some(authority.file()),
        certificate_file: Some(own.certificate.clone()),
        key_file: Some(own.key.clone()),
        ..EtcdConfig::default()
    };
    assert!(EtcdMetadata::new(good.clone()).is_ok());
    let refused = |change: &dyn Fn(&mut EtcdConfig), words: &[&str]| {
        let mut config = good.clone();
        change(&mut config);
        let message = EtcdMetadata::new(config).err().unwrap().to_string();
        for word in words {
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
    };
    refused(
        &|c| c.ca_file = Some("/no/such.pem".into()),
        &["etcd.ca_file", "/no/such.pem"],
    );
    refused(&|c| c.ca_file = Some(garbage.clone()), &["etcd.ca_file", "garbage.pem"]);
    refused(
        &|c| c.key_file = Some(garbage.clone()),
        &["etcd.key_file", "garbage.pem"],
    );
    refused(&|c| c.key_file = Some(other.key.clone()), &["etcd.certificate_file"]);
    let use_expired = |c: &mut EtcdConfig| {
        c.certificate_file = Some(expired.certificate.clone());
        c.key_file = Some(expired.key.clone());
    };
    refused(
        &use_expired,
        &["etcd.certificate_file", "expired.pem", "has expired: renew it"],
    );
    refused(&|c| c.server_name = Some("not a name".into()), &["server name"]);
}
