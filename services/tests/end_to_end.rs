//! Real processes over a real etcd: what an operator does, and what fails.

mod support;

use bytes::Bytes;
use fulcrum_common::wire::v1;
use fulcrum_common::wire::v1::transactions_client::TransactionsClient;
use fulcrum_common::{Clock, Metadata, SystemClock};
use fulcrum_types::{
    ClientId, CommitOutcome, CommitRequest, Committed, InDoubt, InKeyspace, KeyWrite, ListInDoubt, Mutation,
    OutcomeRequest, Priority, Sequence, Told, TransactionId, TransactionOutcome,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{World, now, probe, until};

/// What a failover may take, from the kill to the first write acknowledged again.
const FAILOVER: Duration = Duration::from_secs(3);
const OUTAGE: Duration = Duration::from_secs(4);
/// What a transaction may be in doubt after its coordinator was killed.
const DOUBT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_cluster_of_processes() {
    let Some(mut world) = World::new().await else { return };
    starts_without_etcd_and_waits_for_it(&mut world).await;
    keeps_what_it_is_given(&world).await;
    survives_the_loss_of_a_primary(&mut world).await;
    does_not_need_etcd_to_serve(&mut world).await;
    survives_the_loss_of_a_coordinator(&world).await;
    hands_over_when_it_is_stopped(&mut world).await;
    is_the_only_one_of_its_number(&world).await;
    keeps_serving_if_etcd_has_lost_its_data(&mut world).await;
    stops_in_good_order(&mut world).await;
    does_not_join_a_namesake(&mut world).await;
}

async fn starts_without_etcd_and_waits_for_it(world: &mut World) {
    world.etcd.stop();
    world.add_router();
    for _ in 0..3 {
        world.add_node();
    }
    let endpoint = world.etcd.endpoint();
    let router = world.router.as_ref().unwrap();
    let node = &world.nodes[0];
    until("both say for what they wait", || {
        [
            (router.log(), "waiting for the cluster's metadata"),
            (node.log(), "cannot open the cluster's metadata yet"),
        ]
        .iter()
        .all(|(log, what)| log.contains(what) && log.contains(&endpoint))
    })
    .await;
    assert!(router.serves().is_none(), "a router without a map serves nobody");
    for (probed, reason) in [
        (&world.router_probed, endpoint.as_str()),
        (&world.probed[0], "no cluster map yet"),
    ] {
        assert_eq!(probe(probed, "/healthz").0, 200, "to wait is no reason to be restarted");
        let (status, told) = probe(probed, "/readyz");
        assert!(status == 503 && told.contains(reason), "{told}");
    }
    world.etcd.start_again().await;
    world.wait_for_router();
    until("the router is ready", || {
        probe(&world.router_probed, "/readyz").0 == 200
    })
    .await;
}

async fn keeps_what_it_is_given(world: &World) {
    until("three nodes are known", || {
        world.ok(&["status"])["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == 3)
    })
    .await;
    assert_eq!(world.ok(&["status"])["nodes"][1]["zone"], "zone-2");
    world.ok(&["keyspace", "create", "users", "--groups", "1"]);
    world.ok(&["--deadline", "20s", "put", "users", "alice", "1"]);
    until("all nodes are ready", || world.all_ready()).await;
    assert!(world.all_in_sync(), "ready means in sync: {}", world.group());
    let budget = world.ok(&["failover", "budget", "users"])[0]["between_failovers"].clone();
    assert_eq!(
        (&budget["first_ms"], &budget["longest_ms"]),
        (&2_000.into(), &30_000.into())
    );
    let got = world.ok(&["get", "users", "alice"]);
    assert_eq!(
        (&got["value"], &got["receipt"]["achieved"]),
        (&"1".into(), &"linearizable".into())
    );
}

async fn survives_the_loss_of_a_primary(world: &mut World) {
    let victim = world.primary().unwrap();
    let killed = now();
    world.nodes[victim - 1].kill();
    world.ok(&["--deadline", "20s", "put", "users", "alice", "2"]);
    let took = now().since(killed);
    assert!(took < FAILOVER, "writes went on only after {took:?}");
    assert_eq!(world.ok(&["get", "users", "alice"])["value"], "2");
    assert_ne!(world.primary(), Some(victim));
    world.restart_node(victim);
    assert!(!world.all_ready(), "it has only just come back");
    until("the node that was killed is ready again", || world.all_ready()).await;
    assert!(world.all_in_sync(), "ready means in sync: {}", world.group());
}

async fn does_not_need_etcd_to_serve(world: &mut World) {
    let epoch = world.group()["epoch"].clone();
    world.etcd.stop();
    let (begun, mut round) = (now(), 0);
    while now().since(begun) < OUTAGE {
        round += 1;
        let value = round.to_string();
        world.ok(&["--deadline", "2s", "put", "users", "bob", &value]);
        assert_eq!(
            world.ok(&["--deadline", "2s", "get", "users", "bob"])["value"],
            value.as_str()
        );
    }
    let refused = world.fulcrum(&["keyspace", "create", "later"]);
    assert!(
        !refused.status.success(),
        "without etcd nothing new can be agreed on: {refused:?}"
    );
    assert_eq!(world.group()["epoch"], epoch, "nobody took over meanwhile");
    assert!(world.all_ready(), "readiness does not depend on etcd");
    for probed in world.probed.iter().chain([&world.router_probed]) {
        assert_eq!(probe(probed, "/healthz").0, 200);
    }

    // A failover has to wait for etcd, and then goes on by itself.
    let victim = world.primary().unwrap();
    world.nodes[victim - 1].kill();
    let put = world.fulcrum(&["--deadline", "2s", "put", "users", "bob", "lost?"]);
    assert!(!put.status.success(), "acknowledged without a primary: {put:?}");
    world.etcd.start_again().await;
    world.ok(&["--deadline", "20s", "put", "users", "bob", "kept"]);
    assert_eq!(world.ok(&["get", "users", "bob"])["value"], "kept");
    world.restart_node(victim);
    until("the node that was killed without etcd is in sync again", || {
        world.all_in_sync()
    })
    .await;
    until("keyspaces can be created again", || {
        world
            .fulcrum(&["keyspace", "create", "later", "--groups", "1"])
            .status
            .success()
    })
    .await;
    world.ok(&["--deadline", "20s", "put", "later", "carol", "3"]);
}

/// Writes of one transaction in both keyspaces.
fn transaction(number: u64) -> CommitRequest {
    let id = TransactionId {
        begun_at_ms: SystemClock.now().wall_ms,
        client: ClientId(1),
        sequence: Sequence(number),
    };
    let write = |keyspace: &str| InKeyspace {
        keyspace: keyspace.into(),
        what: KeyWrite {
            key: Bytes::from(format!("t{number}")),
            mutation: Mutation::Put {
                value: Bytes::from_static(b"1"),
                ttl: None,
            },
        },
    };
    CommitRequest {
        id,
        priority: Priority(id),
        writes: ["users", "later"].map(write).to_vec(),
        ..CommitRequest::default()
    }
}

async fn survives_the_loss_of_a_coordinator(world: &World) {
    let mut coordinator = world.coordinator();
    let connect = |address: &str| TransactionsClient::connect(format!("http://{address}"));
    let mut alone = connect(&coordinator.address()).await.unwrap();
    let mut router = connect(&world.router_address).await.unwrap();

    let request = transaction(1);
    let answer = alone.commit(v1::CommitRequest::from(request.clone())).await.unwrap();
    let committed = Committed::try_from(answer.into_inner()).unwrap();
    assert!(
        matches!(committed.outcome, CommitOutcome::Committed { rounds: 2, .. }),
        "{committed:?}"
    );
    assert_eq!(world.ok(&["get", "later", "t1"])["value"], "1");

    // Some are under way when it is killed.
    let under_way: Vec<_> = (2..22)
        .map(|number| {
            let (mut alone, request) = (alone.clone(), v1::CommitRequest::from(transaction(number)));
            tokio::spawn(async move { alone.commit(request).await.is_ok() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(15)).await;
    coordinator.kill();
    let killed = now();
    for one in under_way {
        let _ = one.await.unwrap();
    }
    loop {
        let list = router
            .list_in_doubt(v1::ListInDoubtRequest::from(ListInDoubt::default()))
            .await
            .unwrap();
        let list = InDoubt::try_from(list.into_inner()).unwrap();
        if list.transactions.is_empty() && list.silent.is_empty() {
            break;
        }
        assert!(now().since(killed) < DOUBT, "still in doubt: {list:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for number in 2..22 {
        let key = format!("t{number}");
        let there = ["users", "later"].map(|keyspace| world.fulcrum(&["get", keyspace, &key]).status.code());
        assert_eq!(there[0], there[1], "half of {key} is there");
    }
    let asked = OutcomeRequest {
        id: request.id,
        first_written: None,
        settle: false,
    };
    let told = router
        .get_outcome(v1::TransactionOutcomeRequest::from(asked))
        .await
        .unwrap();
    let told = Told::try_from(told.into_inner()).unwrap();
    assert!(matches!(told.outcome, TransactionOutcome::Committed(_)), "{told:?}");

    let mut another = world.coordinator();
    another.address();
    another.ask_to_stop();
    assert_eq!(another.ended().await.code(), Some(0), "{}", another.log());
}

/// Nothing that is written while something is done fails.
async fn writes_go_on<T>(mut write: std::process::Command, doing: impl Future<Output = T>) -> T {
    let stopped = Arc::new(AtomicBool::new(false));
    let told = stopped.clone();
    let writer = std::thread::spawn(move || {
        let mut written = 0;
        while !told.load(Ordering::Relaxed) {
            let output = write.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            written += 1;
        }
        written
    });
    let done = doing.await;
    stopped.store(true, Ordering::Relaxed);
    assert!(writer.join().unwrap() > 0);
    done
}

async fn hands_over_when_it_is_stopped(world: &mut World) {
    let leader = world.primary().unwrap();
    until("all nodes are ready", || world.all_ready()).await;
    let writes = world.command(&["--deadline", "5s", "put", "users", "dave", "1"]);
    let leaving = &mut world.nodes[leader - 1];
    let status = writes_go_on(writes, async {
        leaving.ask_to_stop();
        leaving.ended().await
    })
    .await;
    assert_eq!(status.code(), Some(0), "{}", world.nodes[leader - 1].log());
    let log = world.nodes[leader - 1].log();
    assert!(!log.contains("still leading"), "it handed over first: {log}");
    world.ok(&["--deadline", "20s", "put", "users", "alice", "4"]);

    let data = world.data_dir(leader);
    for (node, cluster, told) in [
        (leader, "other", "belongs to cluster 'test'"),
        (9, "test", "belongs to n"),
    ] {
        let mut stranger = world.shard_node(node, cluster, &data, "127.0.0.1:0");
        let status = stranger.ended().await;
        assert!(
            !status.success() && stranger.log().contains(told),
            "{status}: {}",
            stranger.log()
        );
    }
    world.restart_node(leader);
    until("the node that was stopped is in sync again", || world.all_in_sync()).await;
    assert_eq!(world.ok(&["get", "users", "alice"])["value"], "4");
}

async fn is_the_only_one_of_its_number(world: &World) {
    let before = world.ok(&["status"])["nodes"].clone();
    let mut second = world.shard_node(1, "test", &world.data_dir(99), "127.0.0.1:0");
    let status = second.ended().await;
    assert_eq!(status.code(), Some(1));
    let log = second.log();
    assert!(log.contains("n1 is alive with another data directory"), "{log}");
    let after = world.ok(&["status"])["nodes"].clone();
    assert_eq!(before[0]["address"], after[0]["address"], "it has taken nothing over");
}

async fn keeps_serving_if_etcd_has_lost_its_data(world: &mut World) {
    world.etcd.lose_data();
    world.etcd.start_again().await;
    until("every node says so", || {
        let mut logs = world.nodes.iter().map(|node| node.log());
        logs.all(|log| log.contains("etcd has lost this cluster's metadata"))
    })
    .await;
    let map = world.etcd.metadata().get("/fulcrum/test/map").await;
    assert_eq!(map, Ok(None), "nobody has made a new cluster of the same name");
    world.ok(&["--deadline", "2s", "put", "users", "alice", "5"]);
    assert_eq!(world.ok(&["get", "users", "alice"])["value"], "5");
}

async fn stops_in_good_order(world: &mut World) {
    let mut all: Vec<_> = world.router.take().into_iter().chain(world.nodes.drain(..)).collect();
    for service in &all {
        service.ask_to_stop();
    }
    for service in &mut all {
        let status = service.ended().await;
        assert_eq!(status.code(), Some(0), "{}", service.log());
    }
}

async fn does_not_join_a_namesake(world: &mut World) {
    world.replace_etcd().await;
    let mut node = world.shard_node(1, "test", &world.data_dir(1), "127.0.0.1:0");
    let status = node.ended().await;
    assert_eq!(status.code(), Some(1));
    let log = node.log();
    assert!(log.contains("another cluster named 'test'"), "{log}");
    assert_eq!(
        world.etcd.metadata().get("/fulcrum/test/map").await,
        Ok(None),
        "it has joined nothing"
    );
}

/// What makes no sense is refused at once, by its name, with an exit code of its own.
#[test]
fn settings_that_make_no_sense_are_refused() {
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let node = env!("CARGO_BIN_EXE_fulcrum-shard-node");
    let router = env!("CARGO_BIN_EXE_fulcrum-router");
    let coordinator = env!("CARGO_BIN_EXE_fulcrum-coordinator");
    let cases = [
        (node, vec![], "--node"),
        (node, vec!["--nodes", "1"], "--nodes"),
        (node, vec!["--node", "1", "--log-format", "yaml"], "telemetry.format"),
        (router, vec!["--listen", "0.0.0.0:7400"], "insecure_listen"),
        (router, vec!["--etcd", "https://127.0.0.1:2379"], "etcd.ca_file"),
        (coordinator, vec!["--listen", "0.0.0.0:7450"], "coordinator.listen"),
    ];
    for (program, arguments, named) in cases {
        let (code, said) = run(program, &arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(named), "{named} is not in: {said}");
    }
    // From the environment, too, and also if another service would know it.
    let told = std::process::Command::new(router)
        .env("FULCRUM__SHARD_NODE__NODE", "1")
        .output()
        .unwrap();
    assert_eq!(told.status.code(), Some(2));
    assert!(
        String::from_utf8(told.stderr)
            .unwrap()
            .contains("FULCRUM__SHARD_NODE__NODE")
    );
    for program in [node, router, coordinator] {
        let (code, help) = run(program, &["--help"]);
        assert_eq!((code, help.as_str()), (Some(0), ""));
    }
}
