//! Tokens in the store, and in what a watcher is told.

use super::*;
use crate::auth::{Grant, NotAToken, TokenId, TokenRecord, TokenTable, text::Secret};

fn record(name: &str, grants: &[&str], expires_ms: Option<u64>) -> TokenRecord {
    TokenRecord {
        name: name.to_owned(),
        hash: Secret::random().unwrap().hash(),
        grants: grants.iter().map(|grant| grant.parse::<Grant>().unwrap()).collect(),
        created_ms: 5,
        expires_ms,
    }
}

async fn open() -> (Arc<dyn Metadata>, ClusterStore) {
    let metadata: Arc<dyn Metadata> = Arc::new(EmbeddedMetadata::in_memory(
        cluster_id(),
        Arc::new(ManualClock::default()),
    ));
    let store = ClusterStore::open(metadata.clone(), cluster_id()).await.unwrap();
    (metadata, store)
}

#[tokio::test]
async fn a_token_is_made_changed_and_revoked() {
    let (_, store) = open().await;
    assert_eq!(*store.tokens().await.unwrap(), TokenTable::default());
    let app = record("app", &["orders:read", "*:write"], Some(9));
    let made = store.create_token(TokenId(7), app.clone(), 6).await.unwrap();
    assert_eq!(made.tokens[&TokenId(7)], app);
    assert_eq!(store.tokens().await.unwrap(), made, "as it was told");

    let grants = ["orders:admin".parse().unwrap()];
    let (id, changed) = store.set_token_rights("app", &grants).await.unwrap();
    assert_eq!((id, &changed.tokens[&id].grants[..]), (TokenId(7), &grants[..]));
    assert!(changed.revision > made.revision);

    let by_id = TokenId(7).to_string();
    let (id, left) = store.revoke_token(&by_id).await.unwrap();
    assert_eq!((id, left.tokens.len()), (TokenId(7), 0));
    let gone = store.revoke_token("app").await.unwrap_err();
    assert_eq!(gone, StoreError::Token(NotAToken::Unknown("app".into())));
}

#[tokio::test]
async fn what_is_no_token_is_refused_and_changes_nothing() {
    let (_, store) = open().await;
    store
        .create_token(TokenId(1), record("a", &["k:read"], None), 0)
        .await
        .unwrap();
    let refused = async |record| store.create_token(TokenId(2), record, 0).await.unwrap_err().to_string();
    assert!(refused(record("a", &["k:read"], None)).await.contains("named 'a'"));
    assert!(
        refused(record("no spaces", &["k:read"], None))
            .await
            .contains("no name")
    );
    assert!(refused(record("b", &[], None)).await.contains("rights"));
    assert!(
        refused(record("b", &["No Keyspace:read"], None))
            .await
            .contains("no keyspace")
    );
    assert!(store.set_token_rights("a", &[]).await.is_err());
    let kept = store.tokens().await.unwrap();
    assert_eq!(kept.tokens.len(), 1);
    assert_eq!(kept.tokens[&TokenId(1)].grants, ["k:read".parse().unwrap()]);
}

#[tokio::test]
async fn what_has_expired_makes_room() {
    let (_, store) = open().await;
    store
        .create_token(TokenId(1), record("a", &["k:read"], Some(10)), 0)
        .await
        .unwrap();
    let again = store.create_token(TokenId(2), record("a", &["k:read"], None), 10).await;
    assert_eq!(again.unwrap().tokens.keys().collect::<Vec<_>>(), [&TokenId(2)]);
}

#[tokio::test]
async fn a_watcher_is_told_of_every_change() {
    let (_, store) = open().await;
    let mut events = store.watch();
    let mut next = async || {
        loop {
            if let ClusterEvent::Tokens { table, .. } = events.next().await.unwrap() {
                return table;
            }
        }
    };
    let made = store
        .create_token(TokenId(1), record("a", &["k:read"], None), 0)
        .await
        .unwrap();
    assert_eq!(next().await, made);
    let (_, revoked) = store.revoke_token("a").await.unwrap();
    assert_eq!(next().await, revoked);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_were_removed_by_hand_are_good_for_nothing() {
    let (metadata, store) = open().await;
    let mut events = store.watch();
    let mut next = async || {
        loop {
            if let ClusterEvent::Tokens { table, .. } = events.next().await.unwrap() {
                return table;
            }
        }
    };
    let made = store
        .create_token(TokenId(1), record("a", &["k:read"], None), 0)
        .await
        .unwrap();
    assert_eq!(next().await, made);
    metadata.txn(vec![], vec![delete(&store.tokens_key())]).await.unwrap();
    let told = tokio::time::timeout(std::time::Duration::from_secs(60), next());
    let told = told.await.expect("the watcher is told of it");
    assert!(told.tokens.is_empty() && told.revision > made.revision);
    let again = store
        .create_token(TokenId(2), record("a", &["k:read"], None), 0)
        .await
        .unwrap();
    assert_eq!(next().await, again);
}

#[tokio::test]
async fn the_secret_is_not_in_the_store() {
    let (metadata, store) = open().await;
    let secret = Secret::random().unwrap();
    let kept = TokenRecord {
        hash: secret.hash(),
        ..record("a", &["k:read"], None)
    };
    store.create_token(TokenId(1), kept, 0).await.unwrap();
    let text = secret.to_text(&TokenId(1).to_string());
    let digits = text.rsplit('_').next().unwrap();
    for entry in metadata.list("").await.unwrap().entries {
        let value = String::from_utf8_lossy(&entry.value).into_owned();
        assert!(!value.contains(digits), "{}", entry.key);
    }
}
