//! Shard-nodes end to end: real sockets, real disks, one process.

mod support;

use fulcrum_common::KeyspaceOptions;
use fulcrum_common::wire::v1;
use fulcrum_types::Mode;
use std::time::Duration;
use support::{Cluster, get, put, wait_for};
use tokio::time::Instant;

fn sync() -> KeyspaceOptions {
    KeyspaceOptions::of(Mode::Sync, 3)
}

fn value(answer: &v1::GetResponse) -> Option<&[u8]> {
    answer.value.as_ref().map(|value| &*value.value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_replicated_and_read_back_with_its_proof() {
    let cluster = Cluster::start(3).await;
    cluster.create("users", sync()).await;
    cluster.all_in_sync().await;
    let primary = cluster.write("users", "k", "v").await;
    let answer = cluster
        .kv(primary)
        .await
        .put(put("users", "k", "w"))
        .await
        .unwrap()
        .into_inner();
    let receipt = answer.receipt.unwrap();
    assert!(receipt.durable, "{receipt:?}");
    assert_eq!((receipt.replica, receipt.acknowledged_by), (primary, vec![1, 2, 3]));

    let (node, answer) = cluster.read("users", "k").await;
    assert_eq!((node, value(&answer)), (primary, Some(&b"w"[..])));
    let receipt = answer.receipt.unwrap();
    assert_eq!(receipt.basis(), v1::StalenessBasis::Lease);
    let missing = cluster
        .kv(primary)
        .await
        .get(get("users", "none"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(value(&missing), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_crashes_is_replaced_and_comes_back() {
    let mut cluster = Cluster::start(3).await;
    cluster.create("users", sync()).await;
    cluster.all_in_sync().await;
    let mut primary = 0;
    for i in 0..50 {
        primary = cluster.write("users", &format!("k{i}"), &format!("v{i}")).await;
    }
    let crashed = Instant::now();
    cluster.nodes.remove(&primary).unwrap().crash().await;
    let successor = cluster.write("users", "after", "crash").await;
    let took = crashed.elapsed();
    assert_ne!(successor, primary);
    assert!(took < Duration::from_secs(3), "failover took {took:?}");
    for i in 0..50 {
        let (_, answer) = cluster.read("users", &format!("k{i}")).await;
        assert_eq!(value(&answer), Some(format!("v{i}").as_bytes()));
    }
    cluster.start_node(primary).await;
    cluster.all_in_sync().await;
    let (_, answer) = cluster.read("users", "after").await;
    assert_eq!(value(&answer), Some(&b"crash"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_hands_over_before_it_ends() {
    let mut cluster = Cluster::start(3).await;
    cluster.create("users", sync()).await;
    cluster.all_in_sync().await;
    let primary = cluster.write("users", "k", "v").await;
    let asked = Instant::now();
    cluster.nodes.remove(&primary).unwrap().shutdown().await.unwrap();
    let successor = cluster.write("users", "k", "w").await;
    assert_ne!(successor, primary);
    // No grace had to run out: that alone takes 1.5 s, behind the lease.
    assert!(
        asked.elapsed() < Duration::from_millis(1400),
        "hand-over took {:?}",
        asked.elapsed()
    );
    let left = cluster.store.live_nodes().await.unwrap();
    assert!(!left.contains(&fulcrum_types::NodeId(primary)), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_cut_off_is_removed_and_comes_back_when_it_is_heard_again() {
    let cluster = Cluster::start(3).await;
    cluster.create("users", sync()).await;
    cluster.all_in_sync().await;
    let primary = cluster.write("users", "k", "old").await;
    let backup = primary % 3 + 1;
    cluster.network.cut_between(primary.into(), backup.into());
    let acknowledged_by = wait_for("a write without the backup", || async {
        let written = cluster.kv(primary).await.put(put("users", "k", "new")).await.ok()?;
        Some(written.into_inner().receipt?.acknowledged_by)
    })
    .await;
    assert!(
        !acknowledged_by.contains(&backup) && acknowledged_by.len() == 2,
        "{acknowledged_by:?}"
    );
    cluster.network.heal();
    cluster.all_in_sync().await;
    let (_, answer) = cluster.read("users", "k").await;
    assert_eq!(value(&answer), Some(&b"new"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_the_crash_of_all_nodes_and_a_restart_in_order() {
    let mut cluster = Cluster::start(3).await;
    cluster.create("users", sync()).await;
    cluster.all_in_sync().await;
    cluster.write("users", "k", "v").await;
    for node in std::mem::take(&mut cluster.nodes).into_values() {
        node.crash().await;
    }
    for node in 1..=3 {
        cluster.start_node(node).await;
    }
    let (_, answer) = cluster.read("users", "k").await;
    assert_eq!(value(&answer), Some(&b"v"[..]));
    cluster.write("users", "k", "w").await;
    for node in std::mem::take(&mut cluster.nodes).into_values() {
        node.shutdown().await.unwrap();
    }
    for node in 1..=3 {
        cluster.start_node(node).await;
    }
    let (_, answer) = cluster.read("users", "k").await;
    assert_eq!(value(&answer), Some(&b"w"[..]));
    cluster.all_in_sync().await;
}
