//! Watches through a real router and real nodes, held against what was acknowledged.

use fulcrum_client::{ChangeKind, Client, Condition, Config, KeyspaceSpec, WatchEvent, WatchEvents};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::time::Duration;

/// Generous: a loaded machine is no bug.
const WITHIN: Duration = Duration::from_secs(60);

async fn cluster(mode: &str, groups: u32) -> (LocalCluster, Client) {
    let cluster = LocalCluster::start(LocalClusterOptions::default()).await.unwrap();
    let config = Config::new(cluster.router_address().to_string()).deadline(Duration::from_secs(20));
    let client = Client::connect(config).await.unwrap();
    let spec = KeyspaceSpec {
        mode: Some(mode.parse().unwrap()),
        groups: Some(groups),
        ..KeyspaceSpec::default()
    };
    client.admin().create_keyspace("k", spec).await.unwrap();
    (cluster, client)
}

async fn next(events: &mut WatchEvents) -> WatchEvent {
    let next = tokio::time::timeout(WITHIN, events.try_next()).await;
    next.expect("an event in time").unwrap().expect("no end")
}

/// Waits until the watch has begun: its first sign of life.
async fn begin(events: &mut WatchEvents) {
    assert!(matches!(next(events).await, WatchEvent::Progress(_)));
}

/// The next thing that happened, in words.
async fn told(events: &mut WatchEvents) -> String {
    loop {
        match next(events).await {
            WatchEvent::Progress(_) => {}
            WatchEvent::Current { row, .. } => return format!("{} is {}", text(&row.key), text(&row.value.value)),
            WatchEvent::Change { change, .. } => {
                let key = text(&change.key);
                return match change.kind {
                    ChangeKind::Put(value) => format!("{key} = {}", text(&value.value)),
                    ChangeKind::Delete { .. } => format!("{key} deleted"),
                    ChangeKind::Expire { .. } => format!("{key} expired"),
                };
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn what_is_watched_is_told_and_nothing_else() {
    let (_cluster, client) = cluster("sync", 2).await;
    let keys = client.keyspace("k");
    keys.put("a/early", "1").await.unwrap();
    let mut all = keys.watch().events();
    let mut prefix = keys.watch().prefix("a/").events();
    let mut one = keys.watch().key("b").events();
    for events in [&mut all, &mut prefix, &mut one] {
        begin(events).await;
    }
    keys.put("a/1", "x").await.unwrap();
    assert_eq!(told(&mut all).await, "a/1 = x");
    let denied = keys.put("a/1", "y").only_if(Condition::Absent).await.unwrap();
    assert!(!denied.applied());
    keys.put("b", "1").await.unwrap();
    assert_eq!(told(&mut all).await, "b = 1");
    keys.delete("a/1").await.unwrap();
    assert_eq!(told(&mut all).await, "a/1 deleted");
    keys.put("a/2", "soon")
        .expires_in(Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(told(&mut all).await, "a/2 = soon");
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Replicated time moves with the group's entries: this one goes to the same group.
    keys.put("{a/2}", "later").await.unwrap();
    let mut last = [told(&mut all).await, told(&mut all).await];
    last.sort();
    assert_eq!(last, ["a/2 expired", "{a/2} = later"]);
    for expected in ["a/1 = x", "a/1 deleted", "a/2 = soon", "a/2 expired"] {
        assert_eq!(told(&mut prefix).await, expected);
    }
    assert_eq!(told(&mut one).await, "b = 1");
}

#[tokio::test]
async fn a_token_goes_on_without_gap_or_repetition() {
    let (_cluster, client) = cluster("async", 3).await;
    let keys = client.keyspace("k");
    let mut events = keys.watch().events();
    begin(&mut events).await;
    for n in 0..20 {
        keys.put(format!("key{n}"), format!("{n}")).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 20 {
        // Dropped and taken up again after every few events, in the middle of whatever came.
        for _ in 0..3 {
            if let WatchEvent::Change { change, .. } = next(&mut events).await {
                seen.push(text(&change.key));
            }
        }
        let token = events.token().unwrap();
        let token = token.to_string().parse().unwrap();
        events = keys.watch().from(token).events();
    }
    seen.sort();
    let mut expected: Vec<String> = (0..20).map(|n| format!("key{n}")).collect();
    expected.sort();
    assert_eq!(seen, expected);
    let stranger = client.keyspace("k").watch().key("x");
    let error = stranger.from("w1;0;999=1.1".parse().unwrap()).events().try_next().await;
    assert_eq!(error.unwrap_err().code(), "INVALID");
}

/// Whoever plays back the initial state and the changes has, in the end, what a scan finds.
#[tokio::test]
async fn the_current_state_and_what_changes_it_make_the_state() {
    let (_cluster, client) = cluster("sync", 2).await;
    let keys = client.keyspace("k");
    let written = |n: u32, round: u32| keys.put(format!("key{n:04}"), format!("{round}"));
    // More than a page a group.
    for n in (0..1500).step_by(100) {
        let ops = (n..n + 100).map(|n| fulcrum_client::WriteOp {
            key: format!("key{n:04}").into(),
            condition: Condition::None,
            mutation: fulcrum_client::Mutation::Put {
                value: "0".into(),
                ttl: None,
            },
        });
        keys.batch_write(ops).await.unwrap();
    }
    let mut events = keys.watch().with_current().events();
    let mut state: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut play = |event: WatchEvent| match event {
        WatchEvent::Current { row, .. } => {
            let known = state.insert(text(&row.key), (row.value.version.0, text(&row.value.value)));
            assert_eq!(known, None, "told twice");
            false
        }
        WatchEvent::Change { change, .. } => {
            let key = text(&change.key);
            match change.kind {
                ChangeKind::Put(value) => {
                    let known = state.insert(key.clone(), (value.version.0, text(&value.value)));
                    assert!(
                        known.is_none_or(|(version, _)| version < value.version.0),
                        "{key}: back in time"
                    );
                }
                _ => assert!(state.remove(&key).is_some(), "{key}: of nothing"),
            }
            key == "zzz"
        }
        WatchEvent::Progress(_) => false,
    };
    let writer = async {
        for round in 1..200 {
            let n = (round * 577) % 1600;
            if round % 5 == 0 {
                keys.delete(format!("key{n:04}")).await.unwrap();
            } else {
                written(n, round).await.unwrap();
            }
        }
    };
    let mut ends = 0;
    let reader = async {
        while ends < 1 {
            ends += u32::from(play(next(&mut events).await));
        }
    };
    let finish = async {
        writer.await;
        // The last entry of one group; the other has said all by the progress that follows.
        keys.put("zzz", "end").await.unwrap();
    };
    tokio::join!(reader, finish);
    let mut rows = std::pin::pin!(keys.scan(fulcrum_client::Range::all()).rows());
    let mut expected = BTreeMap::new();
    while let Some(row) = rows.try_next().await.unwrap() {
        expected.insert(text(&row.key), (row.value.version.0, text(&row.value.value)));
    }
    let deadline = tokio::time::Instant::now() + WITHIN;
    while state != expected {
        assert!(tokio::time::Instant::now() < deadline, "the states never met");
        let mut play_on = |event: WatchEvent| match event {
            WatchEvent::Change { change, .. } => match change.kind {
                ChangeKind::Put(value) => {
                    state.insert(text(&change.key), (value.version.0, text(&value.value)));
                }
                _ => {
                    state.remove(&text(&change.key));
                }
            },
            WatchEvent::Current { row, .. } => {
                state.insert(text(&row.key), (row.value.version.0, text(&row.value.value)));
            }
            WatchEvent::Progress(_) => {}
        };
        play_on(next(&mut events).await);
    }
}

#[tokio::test]
async fn a_watch_survives_failovers_and_misses_nothing() {
    let (mut cluster, client) = cluster("sync", 2).await;
    let keys = client.keyspace("k");
    let mut events = keys.watch().events();
    begin(&mut events).await;
    let mut acknowledged = Vec::new();
    let mut seen: Vec<(String, u64)> = Vec::new();
    for round in 0..3 {
        for n in 0..10 {
            let key = format!("key{n}");
            let written = keys.put(key.as_str(), format!("{round}")).await.unwrap();
            acknowledged.push((key, written.version().unwrap().0));
        }
        let status = client.admin().status(None).await.unwrap();
        let victim = status.groups[round % 2].primary.unwrap();
        assert!(cluster.crash_node(victim).await);
        let key = format!("after{round}");
        let written = keys.put(key.as_str(), "x").await.unwrap();
        acknowledged.push((key, written.version().unwrap().0));
        cluster.restart_node(victim).await.unwrap();
    }
    while seen.len() < acknowledged.len() {
        if let WatchEvent::Change { change, .. } = next(&mut events).await {
            seen.push((text(&change.key), change.position.index.0));
        }
    }
    seen.sort();
    acknowledged.sort();
    assert_eq!(seen, acknowledged, "each once");
}

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_and_misses_nothing() {
    let (_cluster, client) = cluster("async", 1).await;
    let keys = client.keyspace("k");
    let mut slow = keys.watch().events();
    let mut quick = keys.watch().events();
    begin(&mut slow).await;
    begin(&mut quick).await;
    // More than all buffers on the way hold together.
    let value = "x".repeat(1024);
    for batch in 0..40 {
        let ops = (0..50).map(|n| fulcrum_client::WriteOp {
            key: format!("{batch:03}/{n:03}").into(),
            condition: Condition::None,
            mutation: fulcrum_client::Mutation::Put {
                value: value.clone().into(),
                ttl: None,
            },
        });
        keys.batch_write(ops).await.unwrap();
    }
    for events in [&mut quick, &mut slow] {
        let mut seen = Vec::new();
        while seen.len() < 2_000 {
            if let WatchEvent::Change { change, .. } = next(events).await {
                seen.push(text(&change.key));
            }
        }
        let in_order = |pair: &[String]| pair[0] < pair[1];
        assert!(seen.windows(2).all(in_order), "each once, in order");
    }
    client.admin().drop_keyspace("k").await.unwrap();
    let ended = async {
        loop {
            match slow.try_next().await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    let ended = tokio::time::timeout(WITHIN, ended).await.expect("an end in time");
    assert_eq!(ended.code(), "UNKNOWN_KEYSPACE");
}
