//! A node dies for good, another is emptied: groups stay whole, their data is there, and primaries are spread.

use fulcrum_client::{Client, Config, KeyspaceSpec};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions};
use fulcrum_placement::{Census, Settings, assess};
use fulcrum_shard_node::config::TimesConfig;
use fulcrum_types::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
const KEYS: u32 = 400;

async fn start() -> LocalCluster {
    let times = TimesConfig {
        node_lease: Duration::from_millis(1500),
        placement_check: Duration::from_millis(100),
        ..TimesConfig::default()
    };
    let options = LocalClusterOptions {
        nodes: 4,
        zones: 3,
        times,
        ..LocalClusterOptions::default()
    };
    let cluster = LocalCluster::start(options).await.unwrap();
    let hasty = Settings {
        rebuild_after: Duration::from_secs(1),
        balance_pause: Duration::from_millis(200),
        calm: Duration::from_secs(1),
        ..Settings::default()
    };
    cluster.store().set_placement_settings(&hasty).await.unwrap();
    cluster
}

async fn client(cluster: &LocalCluster) -> Client {
    let config = Config::new(cluster.router_address().to_string()).deadline(Duration::from_secs(20));
    Client::connect(config).await.unwrap()
}

async fn census(cluster: &LocalCluster) -> Census {
    cluster.store().placement_view().await.unwrap().census
}

/// Waits until the census is as wanted, and answers it.
async fn until(cluster: &LocalCluster, what: &str, wanted: impl Fn(&Census) -> bool) -> Census {
    let began = Instant::now();
    loop {
        let census = census(cluster).await;
        if wanted(&census) {
            return census;
        }
        assert!(began.elapsed() < PATIENCE, "not {what} in time: {census:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_whole(census: &Census) -> bool {
    let exact = census.groups.values().all(|g| {
        let c = &g.configuration;
        c.replicas.len() == g.wanted && c.in_sync.len() == g.wanted && g.placed.len() == g.wanted
    });
    exact && assess(census).under_replicated.is_empty()
}

fn primaries(census: &Census) -> BTreeMap<NodeId, usize> {
    let alive = census.nodes.iter().filter(|(_, n)| n.alive && !n.draining);
    let led = |node: &NodeId| {
        let groups = census.groups.values();
        groups.filter(|g| g.configuration.primary == Some(*node)).count()
    };
    alive.map(|(node, _)| (*node, led(node))).collect()
}

fn are_even(census: &Census) -> bool {
    let led = primaries(census);
    let (least, most) = (led.values().min().unwrap(), led.values().max().unwrap());
    most - least <= 1
}

fn holds(census: &Census, node: NodeId) -> usize {
    census.groups.values().filter(|g| g.involves(node)).count()
}

fn key(i: u32) -> String {
    format!("key/{i}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_for_good_is_replaced_and_all_data_is_there() {
    let mut cluster = start().await;
    let client = client(&cluster).await;
    let spec = KeyspaceSpec {
        groups: Some(8),
        ..KeyspaceSpec::default()
    };
    client.admin().create_keyspace("users", spec).await.unwrap();
    let users = client.keyspace("users");
    for i in 0..KEYS {
        users.put(key(i), i.to_string()).await.unwrap();
    }
    let before = until(&cluster, "in sync", |c| is_whole(c) && are_even(c)).await;
    assert_eq!(assess(&before).narrow, [], "three zones for three replicas");

    // n4 shares its zone with n1: what n1 held can only go there, without crowding another zone.
    let victim = NodeId(1);
    assert!(cluster.crash_node(victim).await);
    let rebuilt = until(&cluster, "rebuilt", |c| is_whole(c) && holds(c, victim) == 0).await;
    assert_eq!(assess(&rebuilt).narrow, []);
    until(&cluster, "balanced", are_even).await;
    for i in 0..KEYS {
        let found = users.get(key(i)).await.unwrap().value.unwrap();
        assert_eq!(found.value, i.to_string());
    }

    // It comes back, learns that it is no member any more, and gets nothing.
    cluster.restart_node(victim).await.unwrap();
    until(&cluster, "back", |c| c.is_alive(victim)).await;
    let began = Instant::now();
    loop {
        let status = client.admin().status(None).await.unwrap();
        let back = status.nodes.iter().find(|n| n.id == victim).unwrap();
        if back.unreachable.is_none() && back.replicas == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{back:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let settled = census(&cluster).await;
    assert!(is_whole(&settled) && holds(&settled, victim) == 0, "{settled:#?}");

    // n2 is emptied; n1 takes what it held.
    cluster.store().set_drained(NodeId(2), true).await.unwrap();
    let drained = until(&cluster, "drained", |c| is_whole(c) && holds(c, NodeId(2)) == 0).await;
    assert!(holds(&drained, victim) > 0);
    users.put("after", "all").await.unwrap();
    for i in 0..KEYS {
        assert!(users.get(key(i)).await.unwrap().value.is_some(), "{}", key(i));
    }
    assert_eq!(cluster.stop().await, []);
}
