//! What goes wrong outside of Fulcrum: a data directory that cannot be written, certificates that have expired, a map that names a node
//! that is not there. Each has a message that names it, and a refused start or service that goes on; nothing diverges in silence.
//! Two processes of one number, namesakes and an etcd that lost its data are in `end_to_end.rs`.

mod support;

use fulcrum_common::metadata::{Replacement, StoreError};
use fulcrum_common::{ClusterId, ClusterStore};
use fulcrum_metadata_etcd::testing::{Authority, Holds};
use fulcrum_types::{GroupId, NodeId};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use support::{World, now, until};

const NODE: &str = env!("CARGO_BIN_EXE_fulcrum-shard-node");
const ROUTER: &str = env!("CARGO_BIN_EXE_fulcrum-router");
const COORDINATOR: &str = env!("CARGO_BIN_EXE_fulcrum-coordinator");
/// In no map.
const MISSING: NodeId = NodeId(9);

/// It must not start, says so with exit code 1, and names what is wrong.
fn is_refused(ended: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert_eq!(ended.stdout, b"", "it has never said that it serves");
    let last = said.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "'{word}' is not in: {said}");
    }
}

/// A node that nobody shall ever meet: its etcd is nowhere.
fn node_in(data_dir: &Path) -> Vec<String> {
    let data_dir = data_dir.display().to_string();
    let arguments = [
        "--node",
        "1",
        "--data-dir",
        &data_dir,
        "--listen",
        "127.0.0.1:0",
        "--etcd",
        "http://127.0.0.1:1",
    ];
    arguments.map(str::to_owned).to_vec()
}

#[test]
fn a_data_directory_that_cannot_be_made_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    // Not even root can make a folder in these.
    for place in [file.clone(), file.join("data"), "/proc/self/data".into()] {
        let ended = Command::new(NODE).args(node_in(&place)).output().unwrap();
        is_refused(&ended, &[&place.display().to_string(), "make it readable and writable"]);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"in the way");
}

/// Runs what follows with a folder that can only be read: in a mount namespace of its own.
const READ_ONLY: &str = r#"mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@""#;

#[test]
fn a_data_directory_on_a_read_only_disk_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let read_only = |command: &[String]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", READ_ONLY]);
        unshare.arg(folder.path()).args(command).stdin(Stdio::null());
        unshare.output()
    };
    if !read_only(&["true".to_owned()]).is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no mount namespace can be had here");
        return;
    }
    let start = |data_dir: &Path| {
        let mut command = vec![NODE.to_owned()];
        command.extend(node_in(data_dir));
        read_only(&command).unwrap()
    };
    // One that is empty, and one that is not there.
    for place in [folder.path().to_owned(), folder.path().join("data")] {
        is_refused(&start(&place), &[&place.display().to_string(), "Read-only"]);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_process_whose_certificate_has_expired_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let expired = authority.sign("node", &["node"], Holds::Expired);
    let data = folder.path().join("data");
    for program in [NODE, ROUTER, COORDINATOR] {
        let mut command = Command::new(program);
        command
            .env("FULCRUM__ETCD__ENDPOINTS", "https://127.0.0.1:1")
            .env("FULCRUM__ETCD__CA_FILE", authority.file())
            .env("FULCRUM__ETCD__CERTIFICATE_FILE", &expired.certificate)
            .env("FULCRUM__ETCD__KEY_FILE", &expired.key)
            .args(["--listen", "127.0.0.1:0"]);
        if program == NODE {
            command.args(["--node", "1", "--data-dir"]).arg(&data);
        }
        let ended = command.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        for word in ["etcd.certificate_file", "node.pem", "has expired: renew it"] {
            assert!(said.contains(word), "'{word}' is not in: {said}");
        }
    }
    assert!(!data.exists(), "it has not come so far");
}

#[tokio::test]
async fn a_map_that_names_a_missing_node_is_served_and_set_right() {
    let Some(mut world) = World::new().await else { return };
    world.settings = vec![
        ("FULCRUM__SHARD_NODE__TIMES__NODE_LEASE", "2s"),
        ("FULCRUM__SHARD_NODE__TIMES__PLACEMENT_CHECK", "200ms"),
    ];
    world.add_router();
    for _ in 0..4 {
        world.add_node();
    }
    world.wait_for_router();
    until("four nodes are known", || {
        let nodes = world.ok(&["status"])["nodes"].clone();
        nodes.as_array().is_some_and(|nodes| nodes.len() == 4)
    })
    .await;
    world.ok(&["keyspace", "create", "users", "--groups", "1"]);
    world.ok(&["--deadline", "20s", "put", "users", "alice", "1"]);
    until("three replicas are in sync", || is_whole(&world)).await;

    name_the_missing_one(&world).await;
    world.ok(&["--deadline", "2s", "put", "users", "alice", "2"]);
    let primary = world.primary().unwrap();
    until("the primary names the node that is missing", || {
        let log = world.nodes[primary - 1].log();
        log.contains("is not in the cluster map") && log.contains("n9")
    })
    .await;
    assert!(short(&world), "{}", world.group());
    assert!(replicas(&world).contains(&MISSING.0), "its time is not up");
    let got = world.ok(&["--deadline", "2s", "get", "users", "alice"]);
    assert_eq!(
        (&got["value"], &got["receipt"]["achieved"]),
        (&"2".into(), &"linearizable".into())
    );

    world.ok(&["placement", "set", "--rebuild-after", "2s"]);
    until("another node is in its place", || {
        is_whole(&world) && !replicas(&world).contains(&MISSING.0)
    })
    .await;
    world.ok(&["--deadline", "2s", "put", "users", "alice", "3"]);
    assert!(!short(&world));
}

/// In place of a backup, in the map and in the configuration, as nothing of Fulcrum ever would.
async fn name_the_missing_one(world: &World) {
    let id = ClusterId::new("test").unwrap();
    let store = ClusterStore::open(Arc::new(world.etcd.metadata()), id).await.unwrap();
    let begun = now();
    while !replaced(&store).await.unwrap() {
        assert!(now().since(begun) < support::PATIENCE, "others change it all the time");
    }
}

async fn replaced(store: &ClusterStore) -> Result<bool, StoreError> {
    let group = *store.load_map().await?.groups().keys().next().unwrap();
    let configuration = store.configuration(group).await?.unwrap();
    let leader = store.placement_leader().await?.unwrap();
    let backup = |node: &&NodeId| Some(**node) != configuration.primary;
    let replaced = *configuration.replicas.iter().find(backup).unwrap();
    let kept = configuration.replicas.iter().copied().filter(|node| *node != replaced);
    let replicas: Vec<NodeId> = kept.chain([MISSING]).collect();
    let change = Replacement {
        group: GroupId(group.0),
        expected: configuration.version,
        placed: replicas.clone(),
        replicas,
    };
    store.replace_replicas(leader, &change).await
}

fn replicas(world: &World) -> Vec<u64> {
    let group = world.group();
    let nodes = group["replicas"].as_array().into_iter().flatten();
    nodes.filter_map(|replica| replica["node"].as_u64()).collect()
}

fn is_whole(world: &World) -> bool {
    let in_sync = world.group()["in_sync"].as_array().map_or(0, Vec::len);
    in_sync == 3 && replicas(world).len() == 3
}

fn short(world: &World) -> bool {
    let status = world.ok(&["status"]);
    let short = status["placement"]["under_replicated"].as_array();
    short.is_some_and(|groups: &Vec<Value>| !groups.is_empty())
}
