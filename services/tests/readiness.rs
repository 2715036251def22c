//! When routers and coordinators are ready: they say that the next one may be taken down, and nobody else's state changes that.

mod support;

use bytes::Bytes;
use fulcrum_common::wire::batch::{BatchBuilder, PipelineRequest, PipelineResponse};
use fulcrum_common::wire::v1;
use fulcrum_common::wire::v1::kv_client::KvClient;
use fulcrum_common::wire::v1::pipeline_op::Op;
use fulcrum_common::wire::v1::transactions_client::TransactionsClient;
use fulcrum_common::{Clock, SystemClock};
use fulcrum_types::{
    ClientId, CommitOutcome, CommitRequest, Committed, InKeyspace, KeyWrite, Mutation, Priority, Sequence,
    TransactionId,
};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;
use support::{Service, World, probe, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// Longer than anything here takes, shorter than a test may.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn routers_and_coordinators_are_ready_while_they_serve_and_never_when_they_stop() {
    let Some(mut world) = World::new().await else { return };
    world.etcd.stop();
    world.add_router();
    let coordinator = world.coordinator();
    let probed = [world.router_probed.clone(), world.coordinator_probed.clone()];
    for probed in &probed {
        until("it waits for etcd, alive and not ready", || {
            let (status, told) = probe(probed, "/readyz");
            probe(probed, "/healthz").0 == 200 && status == 503 && told.contains("waiting for the cluster's metadata")
        })
        .await;
    }
    world.etcd.start_again().await;
    world.wait_for_router();
    let alone = coordinator.address();
    are(200, &probed).await;
    world.add_node();
    until("the node is known", || {
        let nodes = world.ok(&["status"])["nodes"].clone();
        nodes.as_array().is_some_and(|nodes| nodes.len() == 1)
    })
    .await;
    world.ok(&[
        "keyspace",
        "create",
        "users",
        "--groups",
        "1",
        "--replication-factor",
        "1",
    ]);
    world.ok(&["--deadline", "20s", "put", "users", "alice", "1"]);
    does_not_depend_on_others(&mut world, &probed).await;
    answers_what_is_under_way(&mut world, coordinator, &alone, &probed).await;
}

/// All answer probes for readiness so.
async fn are(status: u16, probed: &[String]) {
    for probed in probed {
        until("its readiness changes", || probe(probed, "/readyz").0 == status).await;
        assert_eq!(probe(probed, "/healthz").0, 200);
    }
}

/// Neither etcd nor a node that is gone makes them less ready: another router could do no better.
async fn does_not_depend_on_others(world: &mut World, probed: &[String]) {
    world.etcd.stop();
    world.nodes[0].pause();
    for probed in probed {
        for path in ["/readyz", "/healthz"] {
            assert_eq!(probe(probed, path).0, 200, "{path} of {probed}");
        }
    }
    world.nodes[0].resume();
    world.etcd.start_again().await;
    world.ok(&["--deadline", "20s", "put", "users", "alice", "2"]);
}

fn transaction() -> Request<v1::CommitRequest> {
    let id = TransactionId {
        begun_at_ms: SystemClock.now().wall_ms,
        client: ClientId(1),
        sequence: Sequence(1),
    };
    let write = InKeyspace {
        keyspace: "users".into(),
        what: KeyWrite {
            key: Bytes::from_static(b"bob"),
            mutation: Mutation::Put {
                value: Bytes::from_static(b"1"),
                ttl: None,
            },
        },
    };
    let request = CommitRequest {
        id,
        priority: Priority(id),
        writes: vec![write],
        ..CommitRequest::default()
    };
    let mut request = Request::new(v1::CommitRequest::from(request));
    request.set_timeout(LONG);
    request
}

/// Streams that clients would leave open for ever.
struct Streams {
    changes: Streaming<v1::WatchResponse>,
    answers: Streaming<PipelineResponse>,
    ops: mpsc::Sender<PipelineRequest>,
}

impl Streams {
    async fn open(router: &str) -> Self {
        let mut kv = KvClient::connect(format!("http://{router}")).await.unwrap();
        let watch = v1::WatchRequest {
            keyspace: "users".into(),
            ..v1::WatchRequest::default()
        };
        let (ops, waiting) = mpsc::channel(1);
        Self {
            changes: kv.watch(watch).await.unwrap().into_inner(),
            answers: kv.pipeline(ReceiverStream::new(waiting)).await.unwrap().into_inner(),
            ops,
        }
    }

    async fn put(&self, key: &'static str) {
        let put = v1::PutRequest {
            keyspace: "users".into(),
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(b"1"),
            ..v1::PutRequest::default()
        };
        let op = v1::PipelineOp {
            id: 7,
            op: Some(Op::Put(put)),
            deadline_ms: 20_000,
            trace: Default::default(),
        };
        let mut message = BatchBuilder::default();
        message.push(&op);
        self.ops.send(message.take()).await.unwrap();
    }

    /// The router ends them itself, after the one answer that is due.
    async fn end_in_good_order(mut self) {
        let answered = self.answers.message().await.unwrap().unwrap();
        let answers: Vec<_> = answered.encoded_answers().map(Result::unwrap).collect();
        assert!(answers.len() == 1 && answers[0].id == 7 && answers[0].write.is_some());
        assert!(self.answers.message().await.unwrap().is_none());
        while self.changes.message().await.unwrap().is_some() {}
    }
}

/// Asked to stop, they are not ready at once, and still answer what they were asked before.
async fn answers_what_is_under_way(world: &mut World, mut coordinator: Service, alone: &str, probed: &[String]) {
    let mut alone_client = TransactionsClient::connect(format!("http://{alone}")).await.unwrap();
    let streams = Streams::open(&world.router_address).await;
    world.nodes[0].pause();
    streams.put("carol").await;
    let mut put = world.command(&["--deadline", "20s", "put", "users", "alice", "3"]);
    let put = put.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let commit = tokio::spawn(async move { alone_client.commit(transaction()).await });
    let under_way = [
        (&probed[0], "\nfulcrum_router_requests_under_way 2\n"),
        (&probed[1], "\nfulcrum_coordinator_open_questions 1\n"),
    ];
    for (probed, metric) in under_way {
        until("a request is under way", || {
            probe(probed, "/metrics").1.contains(metric)
        })
        .await;
    }

    let mut router = world.router.take().unwrap();
    for service in [&router, &coordinator] {
        service.ask_to_stop();
    }
    are(503, probed).await;
    for (probed, who) in probed.iter().zip(["the router stops", "the coordinator stops"]) {
        let (_, told) = probe(probed, "/readyz");
        assert!(told.contains(who), "{told}");
    }
    for address in [&world.router_address, alone] {
        until("nobody else is let in", || TcpStream::connect(address).is_err()).await;
    }

    world.nodes[0].resume();
    let put = tokio::task::spawn_blocking(|| put.wait_with_output());
    let put = put.await.unwrap().unwrap();
    assert!(put.status.success(), "{put:?}\n{}", router.log());
    streams.end_in_good_order().await;
    let committed = Committed::try_from(commit.await.unwrap().unwrap().into_inner()).unwrap();
    assert!(
        matches!(committed.outcome, CommitOutcome::Committed { .. }),
        "{committed:?}"
    );
    for service in [&mut router, &mut coordinator] {
        let status = service.ended().await;
        assert_eq!(status.code(), Some(0), "{}", service.log());
        assert!(!service.log().contains("broken off"), "{}", service.log());
    }
}
