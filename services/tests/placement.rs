//! Four real nodes in three zones around a real etcd: one is killed for good, and another is emptied.

mod support;

use serde_json::Value;
use support::{World, until};

const KEYS: u32 = 60;

#[tokio::test]
async fn a_node_killed_for_good_is_replaced_and_another_is_emptied() {
    let Some(mut world) = World::new().await else { return };
    world.zones = 3;
    world.settings = vec![
        ("FULCRUM__SHARD_NODE__TIMES__NODE_LEASE", "2s"),
        ("FULCRUM__SHARD_NODE__TIMES__PLACEMENT_CHECK", "200ms"),
    ];
    found(&mut world).await;
    let victim = 1;
    world.nodes[victim - 1].kill();
    until("short groups are shown", || !short(&world).is_empty()).await;
    until("what n1 held is elsewhere", || {
        is_whole(&world) && holders(&world, victim) == 0
    })
    .await;
    until("primaries are even", || are_even(&world, &[2, 3, 4])).await;
    all_is_there(&world);

    world.restart_node(victim);
    until("n1 is back, without data", || {
        let node = &world.ok(&["status"])["nodes"][victim - 1];
        node["leased"] == true && node["replicas"] == 0
    })
    .await;
    let drained = world.ok(&["node", "drain", "n2", "--within", "60s"]);
    assert_eq!(drained["replicas"], 0, "{drained}");
    assert!(is_whole(&world) && holders(&world, 2) == 0 && holders(&world, victim) > 0);
    all_is_there(&world);
    assert_eq!(world.ok(&["node", "drain", "n2", "--abort"])["draining"], false);
}

/// Starts everything, with times that a test can wait for, and writes.
async fn found(world: &mut World) {
    world.add_router();
    for _ in 0..4 {
        world.add_node();
    }
    world.wait_for_router();
    until("four nodes are known", || {
        let status = world.ok(&["status"]);
        status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 4)
    })
    .await;
    let times = [
        "placement",
        "set",
        "--rebuild-after",
        "2s",
        "--balance-pause",
        "300ms",
        "--calm",
        "1s",
    ];
    assert_eq!(world.ok(&times)["rebuild_after_ms"], 2000);
    world.ok(&["keyspace", "create", "users", "--groups", "6"]);
    for i in 0..KEYS {
        let (key, value) = (format!("user/{i}"), i.to_string());
        world.ok(&["--deadline", "20s", "put", "users", &key, &value]);
    }
    until("all replicas are in sync", || is_whole(world)).await;
    let placement = &world.ok(&["status"])["placement"];
    assert_eq!(
        (&placement["zones"], &placement["narrow"]),
        (&3.into(), &Value::Array(vec![]))
    );
}

fn short(world: &World) -> Vec<Value> {
    let status = world.ok(&["status"]);
    status["placement"]["under_replicated"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

fn groups(world: &World) -> Vec<Value> {
    world.ok(&["status"])["groups"].as_array().cloned().unwrap_or_default()
}

/// Three replicas a group, all in sync, and nothing under way.
fn is_whole(world: &World) -> bool {
    let three = |list: &Value| list.as_array().is_some_and(|nodes| nodes.len() == 3);
    let whole = groups(world)
        .iter()
        .all(|g| three(&g["in_sync"]) && three(&g["replicas"]));
    whole && short(world).is_empty()
}

fn holders(world: &World, node: usize) -> usize {
    let holds = |g: &Value| {
        let replicas = g["replicas"].as_array();
        replicas.is_some_and(|all| all.iter().any(|r| r["node"] == node))
    };
    groups(world).iter().filter(|g| holds(g)).count()
}

fn are_even(world: &World, nodes: &[usize]) -> bool {
    let groups = groups(world);
    let led = nodes
        .iter()
        .map(|node| groups.iter().filter(|g| g["primary"] == *node).count());
    let led: Vec<usize> = led.collect();
    led.iter()
        .max()
        .zip(led.iter().min())
        .is_some_and(|(most, least)| most - least <= 1)
}

fn all_is_there(world: &World) {
    for i in 0..KEYS {
        let got = world.ok(&["--deadline", "20s", "get", "users", &format!("user/{i}")]);
        assert_eq!(got["value"], i.to_string().as_str());
    }
}
