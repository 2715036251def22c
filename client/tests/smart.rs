//! A smart client asks the shard-node itself, and follows the map.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use fulcrum_client::{Client, Config, NodeId, Refusal};
use fulcrum_common::sockets::ReservedPort;
use support::{Fake, Reaction};

struct Cluster {
    router: Fake,
    nodes: [Fake; 2],
    addresses: Vec<(u64, std::net::SocketAddr)>,
    client: Client,
}

async fn cluster() -> Cluster {
    let (router, nodes) = (Fake::new(99), [Fake::new(1), Fake::new(2)]);
    let addresses = vec![(1, nodes[0].start().await), (2, nodes[1].start().await)];
    router.publish(1, &addresses, 1);
    let address = router.start().await;
    let client = Client::connect_smart(Config::new(address.to_string())).await.unwrap();
    Cluster {
        router,
        nodes,
        addresses,
        client,
    }
}

#[tokio::test]
async fn requests_go_to_the_primary_itself() {
    let cluster = cluster().await;
    let keyspace = cluster.client.keyspace("k");
    keyspace.put("a", "1").await.unwrap();
    assert_eq!(keyspace.get("a").await.unwrap().receipt.replica, NodeId(1));
    assert_eq!(cluster.router.with(|state| state.requests), 0);
    assert_eq!(cluster.nodes[1].with(|state| state.requests), 0);
}

#[tokio::test]
async fn a_redirect_is_followed_and_a_newer_map_is_taken_in() {
    let cluster = cluster().await;
    let keyspace = cluster.client.keyspace("k");
    let hint = Some(NodeId(2));
    cluster.nodes[0].react([Reaction::Refuse(Refusal::NotPrimary { hint })]);
    assert_eq!(keyspace.get("a").await.unwrap().receipt.replica, NodeId(2));
    cluster.router.publish(2, &cluster.addresses, 2);
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while keyspace.get("a").await.unwrap().receipt.replica != NodeId(2) {
        assert!(tokio::time::Instant::now() < until, "the newer map never came");
    }
}

#[tokio::test]
async fn what_the_map_does_not_know_goes_through_the_router() {
    let cluster = cluster().await;
    let got = cluster.client.keyspace("new").get("a").await.unwrap();
    assert_eq!(got.receipt.replica, NodeId(99));
}

#[tokio::test]
async fn nodes_that_cannot_be_reached_are_reached_through_the_router() {
    let port = ReservedPort::any().unwrap();
    let nobody = port.address().unwrap();
    let unreachable = [(1, nobody), (2, nobody)];
    let router = Fake::new(99);
    router.publish(1, &unreachable, 1);
    let address = router.start().await;
    let client = Client::connect_smart(Config::new(address.to_string())).await.unwrap();
    assert_eq!(
        client.keyspace("k").put("a", "1").await.unwrap().receipt.replica,
        NodeId(99)
    );
}

#[tokio::test]
async fn a_pipeline_goes_straight_to_the_primary_and_around_it_if_it_refuses() {
    let cluster = cluster().await;
    let (pipeline, keyspace) = (cluster.client.pipeline(), cluster.client.keyspace("k"));
    let reactions = [
        Reaction::Answer,
        Reaction::Refuse(Refusal::NotPrimary { hint: None }),
        Reaction::Lose,
    ];
    cluster.nodes[0].react(reactions);
    let mut pending = Vec::new();
    for n in 0..10 {
        pending.push(keyspace.put(format!("{n}"), "v").submit(&pipeline).await.unwrap());
    }
    for written in pending {
        assert!(written.await.unwrap().applied());
    }
    assert!(cluster.nodes[0].with(|state| state.requests) > 0);
    assert!(cluster.router.with(|state| state.requests) >= 2);
}
