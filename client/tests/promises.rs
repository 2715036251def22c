//! What the client promises when servers refuse, lose answers or vanish.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use fulcrum_client::{Act, Client, Config, Error, Outcome, Range, Refusal, Session};
use fulcrum_common::sockets::ReservedPort;
use futures::TryStreamExt;
use std::time::Duration;
use support::{Fake, Reaction};

const SHORT: Duration = Duration::from_millis(150);

async fn connected() -> (Fake, Client) {
    let fake = Fake::new(1);
    let address = fake.start().await;
    let client = Client::connect(Config::new(address.to_string())).await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_repeated_under_the_same_key() {
    let (fake, client) = connected().await;
    fake.react([Reaction::Lose, Reaction::Refuse(Refusal::Overloaded)]);
    let written = client.keyspace("k").put("a", "1").await.unwrap();
    assert!(written.applied());
    fake.with(|state| {
        assert_eq!(state.writes.len(), 3);
        assert!(state.writes.iter().all(|key| *key == state.writes[0]));
        assert_eq!(state.index, 1, "applied once");
    });
}

#[tokio::test]
async fn an_unknown_outcome_can_be_looked_up() {
    let (fake, client) = connected().await;
    fake.react([Reaction::Hang]);
    let orders = client.keyspace("k");
    let error = orders.put("a", "1").within(SHORT).await.unwrap_err();
    assert_eq!(error.act(), Act::LookUp);
    assert!(!error.nothing_applied());
    let Error::Unknown { write, .. } = error else {
        panic!("{error}");
    };
    assert!(matches!(client.outcome(&write).await.unwrap(), Outcome::Known(outcomes) if outcomes.len() == 1));
    // As long as it is held, its outcome is kept: the low-water mark stays below it.
    let held = write.idempotency().sequence.0;
    orders.put("b", "2").await.unwrap();
    assert_eq!(fake.with(|state| state.writes.last().unwrap().low_water), held);
    drop(write);
    orders.put("b", "3").await.unwrap();
    let last = fake.with(|state| *state.writes.last().unwrap());
    assert_eq!(last.low_water, last.sequence);
}

#[tokio::test]
async fn a_refusal_says_who_must_act_and_is_not_repeated_in_vain() {
    let (fake, client) = connected().await;
    let refusal = Refusal::UnknownKeyspace { keyspace: "k".into() };
    fake.react([Reaction::Refuse(refusal.clone())]);
    let error = client.keyspace("k").get("a").await.unwrap_err();
    assert_eq!(error.refusal(), Some(&refusal));
    assert_eq!((error.act(), error.code()), (Act::Reject, "UNKNOWN_KEYSPACE"));
    assert!(error.nothing_applied());
    assert_eq!(fake.with(|state| state.requests), 1);
}

#[tokio::test]
async fn the_deadline_ends_all_retries() {
    let (fake, client) = connected().await;
    fake.react(std::iter::repeat_n(Reaction::Refuse(Refusal::NotReady), 10_000));
    let begun = tokio::time::Instant::now();
    let error = client.keyspace("k").get("a").within(SHORT).await.unwrap_err();
    assert_eq!(error.refusal(), Some(&Refusal::NotReady));
    assert!(begun.elapsed() < SHORT * 10, "{:?}", begun.elapsed());
    assert!(fake.with(|state| state.requests) > 1);
}

#[tokio::test]
async fn an_id_too_old_for_the_keyspace_is_renewed() {
    let (fake, client) = connected().await;
    fake.react([Reaction::Refuse(Refusal::TooOldToTell)]);
    client.keyspace("k").put("a", "1").await.unwrap();
    fake.with(|state| {
        assert_eq!(state.writes.len(), 2);
        assert_ne!(state.writes[0].client, state.writes[1].client);
    });
}

#[tokio::test]
async fn another_router_takes_over() {
    let fake = Fake::new(1);
    let address = fake.start().await;
    let port = ReservedPort::any().unwrap();
    let nobody = port.address().unwrap();
    let config = Config::new(nobody.to_string()).or(address.to_string());
    let client = Client::connect(config).await.unwrap();
    client.keyspace("k").put("a", "1").await.unwrap();
    assert_eq!(fake.with(|state| state.index), 1);
}

#[tokio::test]
async fn with_no_router_the_error_says_so() {
    let port = ReservedPort::any().unwrap();
    let nobody = port.address().unwrap();
    let connecting = Client::connect(Config::new(nobody.to_string()).deadline(SHORT));
    let error = connecting.await.err().expect("nobody listens");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("fulcrum dev"), "{error}");
}

#[tokio::test]
async fn a_session_carries_what_it_has_seen() {
    let (fake, client) = connected().await;
    let session = Session::new();
    let orders = client.keyspace("k").in_session(&session);
    for n in 0..3 {
        orders.put("a", format!("{n}")).await.unwrap();
    }
    orders.get("a").await.unwrap();
    let sent = fake.with(|state| state.sessions.last().unwrap().clone().unwrap());
    assert_eq!((sent.map_version, sent.groups[&1].index), (1, 3));
    assert_eq!(session.export(), "1;1;1=1.3");
}

#[tokio::test]
async fn a_scan_goes_on_where_its_stream_broke() {
    let (fake, client) = connected().await;
    let orders = client.keyspace("k");
    for key in ["a:1", "a:2", "a:3", "b:1"] {
        orders.put(key, "v").await.unwrap();
    }
    fake.react([Reaction::Lose, Reaction::Lose]);
    let rows: Vec<_> = orders.scan(Range::prefix("a:")).rows().try_collect().await.unwrap();
    let keys: Vec<_> = rows.iter().map(|row| row.key.as_ref()).collect();
    assert_eq!(keys, [b"a:1", b"a:2", b"a:3"]);

    let pages: Vec<_> = orders.scan(Range::all()).limit(2).pages().try_collect().await.unwrap();
    assert_eq!(pages.iter().map(|page| page.rows.len()).sum::<usize>(), 2);
    let none: Vec<_> = orders
        .scan(Range::prefix("c"))
        .rows()
        .try_collect()
        .await
        .unwrap_or_default();
    assert!(none.is_empty());
}
