//! A cluster of processes in which every connection is encrypted, and both sides of it have shown a certificate.

mod support;

use fulcrum_metadata_etcd::testing::{Authority, Holds};
use rustls::version::TLS13;
use support::greeting::greet;
use support::{Encrypted, World, until};

#[tokio::test]
async fn a_cluster_in_which_everything_is_encrypted() {
    let Some(mut world) = World::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let names = ["fulcrum-service", "127.0.0.1"];
    let processes = authority.sign("processes", &names, Holds::Now);
    let client = authority.sign_for_clients("client", &["somebody"], Holds::Now);
    world.encrypted = Some(Encrypted {
        authority: authority.file(),
        processes: processes.clone(),
        client: client.clone(),
    });
    world.add_router();
    for _ in 0..3 {
        world.add_node();
    }
    let mut coordinator = world.coordinator();
    world.wait_for_router();
    until("three nodes are known", || {
        world.ok(&["status"])["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == 3)
    })
    .await;

    world.ok(&["keyspace", "create", "users", "--groups", "1"]);
    world.ok(&["--deadline", "20s", "put", "users", "alice", "1"]);
    until("backups hear their primary", || world.all_in_sync()).await;
    assert_eq!(world.ok(&["get", "users", "alice"])["value"], "1");
    world.ok(&["keyspace", "create", "orders", "--groups", "1"]);
    let script = ["txn", "run", "-e", "put users bob 1", "-e", "put orders first bob"];
    world.ok(&[&["--deadline", "20s"], script.as_slice()].concat());
    assert_eq!(world.ok(&["get", "orders", "first"])["value"], "bob");

    let victim = world.primary().unwrap();
    world.nodes[victim - 1].kill();
    world.ok(&["--deadline", "20s", "put", "users", "alice", "2"]);
    world.restart_node(victim);
    until("who comes back is let in again", || world.all_in_sync()).await;

    // Clients come in at the router, and nowhere else.
    let own = coordinator.address();
    assert!(greet(&world.router_address, Some(&client), &TLS13).await.is_ok());
    assert!(greet(&world.router_address, None, &TLS13).await.is_err());
    assert!(greet(&own, Some(&client), &TLS13).await.is_err());
    assert!(greet(&own, Some(&processes), &TLS13).await.is_ok());
    until("the coordinator says why", || coordinator.log().contains("wrong_role")).await;
    let flags = [
        "--router",
        &world.router_address,
        "--deadline",
        "2s",
        "get",
        "users",
        "alice",
    ];
    let services = std::path::Path::new(env!("CARGO_BIN_EXE_fulcrum-router"))
        .parent()
        .unwrap();
    let plain = std::process::Command::new(services.join("examples/fulcrum"))
        .args(flags)
        .output()
        .unwrap();
    assert_eq!(plain.status.code(), Some(6), "{plain:?}");

    coordinator.ask_to_stop();
    assert!(coordinator.ended().await.success(), "{}", coordinator.log());
}
