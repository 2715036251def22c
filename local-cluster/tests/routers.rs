//! Several routers, and one that is dropped with its coordinator in the middle of its work.

use fulcrum_client::{Client, Config, Error, KeyspaceSpec, ListInDoubt};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;

/// Generous: a loaded machine is no bug.
const PATIENCE: Duration = Duration::from_secs(20);
const COUNTERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const CLIENTS: usize = 4;
const EACH: usize = 15;

async fn add_one(client: &Client, counters: [&str; 2]) -> Result<bool, Error> {
    let done = client
        .transaction(async |t| -> Result<_, Error> {
            for (counter, seen) in counters.iter().zip(t.get_many(counters.map(|name| ("k", name))).await?) {
                t.put("k", *counter, (number(seen.as_deref()) + 1).to_string());
            }
            Ok(())
        })
        .await?;
    Ok(done.committed())
}

fn number(value: Option<&[u8]>) -> usize {
    value.map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_on_at_another_router_and_no_transaction_is_lost_or_done_twice() {
    let mut cluster = LocalCluster::start(LocalClusterOptions::default()).await.unwrap();
    let first = cluster.router_address();
    let admin = Client::connect(Config::new(first.to_string()).deadline(PATIENCE))
        .await
        .unwrap();
    let groups = Some(4);
    let spec = KeyspaceSpec {
        groups,
        ..KeyspaceSpec::default()
    };
    admin.admin().create_keyspace("k", spec).await.unwrap();
    let second = cluster.add_router().await.unwrap();
    assert_ne!(first, second);

    let mut working = JoinSet::new();
    for client in 0..CLIENTS {
        let config = Config::new(second.to_string()).or(first.to_string()).deadline(PATIENCE);
        let connected = Client::connect(config).await.unwrap();
        working.spawn(async move {
            for turn in 0..EACH {
                let at = (client + turn) % COUNTERS.len();
                let two = [COUNTERS[at], COUNTERS[(at + 1 + turn % 3) % COUNTERS.len()]];
                assert!(add_one(&connected, two).await.unwrap(), "there is no condition");
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(cluster.crash_router(second).await);
    assert!(!cluster.crash_router(second).await, "it is gone");
    while let Some(ended) = working.join_next().await {
        ended.unwrap();
    }

    let seen = admin
        .transactions()
        .snapshot(COUNTERS.map(|name| ("k", name)))
        .await
        .unwrap();
    let values = seen
        .values
        .iter()
        .map(|found| number(found.as_ref().map(|found| found.value.as_ref())));
    let values: BTreeMap<&str, usize> = COUNTERS.into_iter().zip(values).collect();
    assert_eq!(values.values().sum::<usize>(), 2 * CLIENTS * EACH, "{values:?}");
    tokio::time::timeout(PATIENCE, nothing_is_pending(&admin))
        .await
        .expect("all is resolved in time");
    cluster.stop().await;
}

async fn nothing_is_pending(client: &Client) {
    loop {
        let all = ListInDoubt {
            unresolved: true,
            ..ListInDoubt::default()
        };
        let listed = client.admin().in_doubt(all).await.unwrap();
        if listed.transactions.is_empty() && listed.silent.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
