//! A cluster's life: it serves, loses a node, gets it back, stops, and goes on from its directory.

use fulcrum_client::{Client, Config, KeyspaceSpec};
use fulcrum_common::error::StartError;
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions, MetricsPorts};
use fulcrum_types::NodeId;
use std::path::Path;
use std::time::Duration;

fn options(nodes: u64, data_dir: &Path) -> LocalClusterOptions {
    LocalClusterOptions {
        nodes,
        data_dir: Some(data_dir.to_owned()),
        metrics: MetricsPorts::Any,
        ..LocalClusterOptions::default()
    }
}

/// Generous: a loaded machine is no bug.
async fn client(cluster: &LocalCluster) -> Client {
    let config = Config::new(cluster.router_address().to_string()).deadline(Duration::from_secs(20));
    Client::connect(config).await.unwrap()
}

#[tokio::test]
async fn a_cluster_survives_a_crash_and_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(options(3, folder.path())).await.unwrap();
    let client_one = client(&cluster).await;
    let spec = KeyspaceSpec {
        groups: Some(2),
        ..KeyspaceSpec::default()
    };
    client_one.admin().create_keyspace("users", spec).await.unwrap();
    let users = client_one.keyspace("users");
    users.put("before", "1").await.unwrap();

    let status = client_one.admin().status(None).await.unwrap();
    let victim = status.groups[0].primary.unwrap();
    assert!(cluster.crash_node(victim).await);
    assert!(!cluster.crash_node(victim).await, "it is down already");
    assert!(cluster.node_address(victim).is_none());
    users.put("meanwhile", "2").await.unwrap();
    cluster.restart_node(victim).await.unwrap();
    assert!(cluster.node_metrics_address(victim).is_some());
    assert!(cluster.restart_node(NodeId(9)).await.is_err(), "there is no such node");

    let second = LocalCluster::start(options(3, folder.path())).await;
    assert!(matches!(second.err(), Some(StartError::DirectoryLocked { .. })));
    assert_eq!(cluster.stop().await, []);

    let fewer = LocalCluster::start(options(2, folder.path())).await;
    let why = fewer.err().unwrap().to_string();
    assert!(why.contains("holds a cluster of 3 nodes"), "{why}");

    let cluster = LocalCluster::start(options(3, folder.path())).await.unwrap();
    let users = client(&cluster).await.keyspace("users");
    for (key, value) in [("before", "1"), ("meanwhile", "2")] {
        assert_eq!(users.get(key).await.unwrap().value.unwrap().value, value);
    }
    assert_eq!(cluster.stop().await, []);
}

#[tokio::test]
async fn a_cluster_without_a_directory_leaves_nothing_behind() {
    let cluster = LocalCluster::start(LocalClusterOptions {
        nodes: 1,
        ..LocalClusterOptions::default()
    })
    .await
    .unwrap();
    let data = cluster.data_dir().to_owned();
    assert!(data.exists());
    cluster.stop().await;
    assert!(!data.exists());
    let none = LocalClusterOptions {
        nodes: 0,
        ..LocalClusterOptions::default()
    };
    assert!(LocalCluster::start(none).await.is_err());
}

/// "Promoted" means that it has happened: the answer names who leads, and every node agrees.
#[tokio::test]
async fn a_promotion_is_answered_when_it_has_happened() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(options(3, folder.path())).await.unwrap();
    let client = client(&cluster).await;
    let spec = KeyspaceSpec {
        groups: Some(1),
        ..KeyspaceSpec::default()
    };
    let keyspace = client.admin().create_keyspace("users", spec).await.unwrap();
    let group = keyspace.groups[0];
    let users = client.keyspace("users");
    let mut led = None;
    for round in 0..4 {
        users.put("k", round.to_string()).await.unwrap();
        let before = client.admin().status(None).await.unwrap().groups[0].clone();
        let now = match client.admin().promote(group, None).await {
            Ok(now) => now,
            // Its backups are learners still.
            Err(error) if round == 0 => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                client
                    .admin()
                    .promote(group, None)
                    .await
                    .unwrap_or_else(|again| panic!("{error}, then {again}"))
            }
            Err(error) => panic!("{error}"),
        };
        assert_ne!(Some(now.node), before.primary);
        assert!(now.epoch > before.epoch);
        let after = client.admin().status(None).await.unwrap().groups[0].clone();
        assert_eq!((after.primary, after.epoch), (Some(now.node), now.epoch));
        assert!(after.ready, "it has taken over");
        led = Some(now);
    }
    let same = client.admin().promote(group, led.map(|led| led.node)).await.unwrap();
    assert_eq!(Some(same), led, "it leads already");
    assert_eq!(cluster.stop().await, []);
}

/// A planned hand-over loses nothing and opens no certificate: the report says so, whatever the old primary has written down.
#[tokio::test]
async fn a_planned_hand_over_of_an_async_group_leaves_a_report_without_losses() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(options(3, folder.path())).await.unwrap();
    let client = client(&cluster).await;
    let spec = KeyspaceSpec {
        mode: Some("async".to_owned()),
        groups: Some(1),
        ..KeyspaceSpec::default()
    };
    let admin = client.admin();
    let group = admin.create_keyspace("events", spec).await.unwrap().groups[0];
    client.keyspace("events").put("k", "1").await.unwrap();
    let all_in_sync = async || admin.status(None).await.unwrap().groups[0].in_sync.len() == 3;
    while !all_in_sync().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    admin.promote(group, None).await.unwrap();
    client.keyspace("events").put("k", "2").await.unwrap();
    // The old primary writes down that it has lost nothing as soon as it hears of the new epoch.
    for _ in 0..20 {
        let report = admin.failover_report(None, true).await.unwrap();
        assert_eq!(report.certificates, []);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.stop().await, []);
}
