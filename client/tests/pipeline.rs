//! A pipeline answers every request, whatever becomes of its stream.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use fulcrum_client::{Act, Client, Config, Refusal};
use std::time::Duration;
use support::{Fake, Reaction};

async fn connected() -> (Fake, Client) {
    let fake = Fake::new(1);
    let address = fake.start().await;
    let client = Client::connect(Config::new(address.to_string())).await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn answers_find_their_requests() {
    let (_fake, client) = connected().await;
    let (pipeline, orders) = (client.pipeline(), client.keyspace("k"));
    let mut pending = Vec::new();
    for n in 0..3_000 {
        pending.push(
            orders
                .put(format!("{n:04}"), format!("v{n}"))
                .submit(&pipeline)
                .await
                .unwrap(),
        );
    }
    for written in pending {
        assert!(written.await.unwrap().applied());
    }
    let mut pending = Vec::new();
    for n in 0..3_000 {
        pending.push((n, orders.get(format!("{n:04}")).submit(&pipeline).await.unwrap()));
    }
    for (n, got) in pending {
        assert_eq!(got.await.unwrap().value.unwrap().value, format!("v{n}"));
    }
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_and_nothing_is_applied_twice() {
    let (fake, client) = connected().await;
    let (pipeline, orders) = (client.pipeline(), client.keyspace("k"));
    let refusal = Refusal::NotReady;
    fake.react([
        Reaction::Answer,
        Reaction::Lose,
        Reaction::Refuse(refusal),
        Reaction::Lose,
    ]);
    let mut pending = Vec::new();
    for n in 0..20 {
        pending.push(orders.put(format!("{n}"), "v").submit(&pipeline).await.unwrap());
    }
    for written in pending {
        assert!(written.await.unwrap().applied());
    }
    fake.with(|state| {
        assert_eq!((state.index, state.applied.len()), (20, 20));
        assert!(state.writes.len() > 20, "some came twice");
    });
}

#[tokio::test]
async fn deadlines_are_kept_also_if_nothing_is_answered() {
    let (fake, client) = connected().await;
    let (pipeline, orders) = (client.pipeline(), client.keyspace("k"));
    fake.react([Reaction::Hang, Reaction::Hang]);
    let short = Duration::from_millis(100);
    let got = orders.get("a").within(short).submit(&pipeline).await.unwrap();
    let written = orders.put("a", "v").within(short).submit(&pipeline).await.unwrap();
    assert_eq!(got.await.unwrap_err().act(), Act::Retry);
    assert_eq!(written.await.unwrap_err().act(), Act::LookUp);
    assert!(
        orders.get("a").submit(&pipeline).await.unwrap().await.is_ok(),
        "the stream still works"
    );
}

#[tokio::test]
async fn what_was_submitted_is_answered_after_the_last_handle_is_gone() {
    let (_fake, client) = connected().await;
    let pipeline = client.pipeline();
    let written = client.keyspace("k").put("a", "v").submit(&pipeline).await.unwrap();
    drop(pipeline);
    assert!(written.await.unwrap().applied());
}
