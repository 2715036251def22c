//! Steps of transactions over the wire, and a participant that has to ask a home group through what it was started with.

mod support;

use async_trait::async_trait;
use fulcrum_common::routing::Groups;
use fulcrum_common::wire::batch::BatchBuilder;
use fulcrum_common::wire::internal::shard_client::ShardClient;
use fulcrum_common::wire::shard::{Reply, push_request, response_from_wire};
use fulcrum_common::{Clock, KeyspaceOptions, SystemClock};
use fulcrum_shard_node::ShardNode;
use fulcrum_types::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Cluster, channel, scrape, wait_for};

const GROUP: GroupId = GroupId(1);
const KEYSPACE: KeyspaceId = KeyspaceId(1);

fn participant(group: GroupId) -> Participant {
    Participant {
        keyspace: KEYSPACE,
        group,
    }
}

/// A home group that has recorded a commit of whatever it is asked about.
#[derive(Default)]
struct Committed {
    asked: Mutex<Vec<(Participant, Operation)>>,
}

const FINGERPRINT: Fingerprint = Fingerprint(7);

#[async_trait]
impl Groups for Committed {
    async fn ask(&self, to: Participant, operation: Operation, _deadline: Duration) -> Result<Answered, Refusal> {
        let decision = Decision::Committed {
            fingerprint: FINGERPRINT,
            parts: vec![],
        };
        let answer = match &operation {
            Operation::Transaction(TransactionOperation::LookUp(_)) => {
                TransactionAnswer::State(TransactionState::Decided(decision))
            }
            _ => TransactionAnswer::Decision(decision),
        };
        self.asked.lock().unwrap().push((to, operation));
        let receipt = Receipt {
            mode: Mode::Sync,
            asked: Level::Linearizable,
            achieved: Level::Linearizable,
            group: to.group,
            replica: NodeId(9),
            role: Role::Primary,
            epoch: Epoch(1),
            index: Index(1),
            acknowledged_by: vec![],
            durable: true,
            staleness: None,
            basis: StalenessBasis::None,
            map_version: MapVersion(1),
            rounds: 1,
            elapsed: Duration::ZERO,
        };
        let answer = Answer::Transaction(answer);
        Ok(Answered { answer, receipt })
    }
}

/// A node with one keyspace of one group, started with that way to ask others.
async fn node(groups: Option<Arc<dyn Groups>>) -> Cluster {
    let mut cluster = Cluster::start(1).await;
    cluster.create("accounts", KeyspaceOptions::of(Mode::Sync, 1)).await;
    let before = cluster.nodes.remove(&1).unwrap();
    before.shutdown().await.unwrap();
    let metadata = Arc::new(cluster.metadata.clone());
    let network = cluster.network.clone();
    let started = ShardNode::start_asking(network, cluster.config(1), metadata, Arc::new(SystemClock), groups);
    cluster.nodes.insert(1, started.await.unwrap());
    cluster.write("accounts", "ready", "yes").await;
    cluster
}

async fn ask(cluster: &Cluster, operation: TransactionOperation) -> Result<TransactionAnswer, Refusal> {
    let request = GroupRequest {
        keyspace: KEYSPACE,
        group: GROUP,
        map_version: MapVersion(1),
        deadline: Duration::from_secs(5),
        operation: Operation::Transaction(operation),
    };
    let mut batch = BatchBuilder::default();
    push_request(&mut batch, 1, &request.as_ref(), false);
    let mut shard = ShardClient::new(channel(cluster.nodes[&1].local_addr()).await);
    let answers = shard.exchange(futures::stream::iter([batch.take()])).await.unwrap();
    let batch = answers.into_inner().message().await.unwrap().unwrap();
    let response = batch.items().next().unwrap().unwrap();
    match response_from_wire(response).unwrap()? {
        Reply::Answered(answered) => match answered.answer {
            Answer::Transaction(answer) => Ok(answer),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn promise(id: TransactionId) -> TransactionOperation {
    let (here, home) = (participant(GROUP), participant(GroupId(9)));
    let value = "paid".into();
    TransactionOperation::Prepare(Box::new(PrepareRequest {
        id,
        priority: Priority(id),
        fingerprint: FINGERPRINT,
        home,
        participants: vec![home, here],
        seen: None,
        votes: vec![],
        part: Part {
            reads: vec![],
            conditions: vec![],
            writes: vec![KeyWrite {
                key: "order".into(),
                mutation: Mutation::Put { value, ttl: None },
            }],
        },
    }))
}

fn begun_now() -> TransactionId {
    TransactionId {
        begun_at_ms: SystemClock.now().wall_ms,
        client: ClientId(1),
        sequence: Sequence(1),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_finds_out_what_its_coordinator_did_not_tell() {
    let home = Arc::new(Committed::default());
    let cluster = node(Some(home.clone())).await;
    let id = begun_now();
    let vote = ask(&cluster, promise(id)).await.unwrap();
    assert!(
        matches!(vote, TransactionAnswer::Vote(Vote::Prepared { .. })),
        "{vote:?}"
    );
    wait_for("the participant to resolve on its own", || async {
        let list = ask(&cluster, TransactionOperation::List { limit: 10 }).await.unwrap();
        (list == TransactionAnswer::List(vec![])).then_some(())
    })
    .await;
    let (_, found) = cluster.read("accounts", "order").await;
    assert_eq!(found.value.unwrap().value, "paid");
    let asked = Operation::Transaction(TransactionOperation::Decide(Decide {
        id,
        fingerprint: Some(FINGERPRINT),
        cause: AbortCause::Abandoned,
    }));
    assert!(home.asked.lock().unwrap().contains(&(participant(GroupId(9)), asked)));
    let metrics = scrape(cluster.nodes[&1].metrics_addr().unwrap()).await;
    let line = "fulcrum_shard_node_transaction_in_doubt_seconds_count{by=\"participant\",keyspace=\"accounts\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_over_an_intent_asks_at_once() {
    let cluster = node(Some(Arc::new(Committed::default()))).await;
    ask(&cluster, promise(begun_now())).await.unwrap();
    let (_, found) = cluster.read("accounts", "order").await;
    assert_eq!(found.value.unwrap().value, "paid", "committed, and not resolved here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_way_to_ask_keeps_its_promise() {
    let cluster = node(None).await;
    let id = begun_now();
    ask(&cluster, promise(id)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let TransactionAnswer::List(list) = ask(&cluster, TransactionOperation::List { limit: 10 }).await.unwrap() else {
        panic!()
    };
    assert_eq!((list[0].id, list[0].pending), (id, Pending::InDoubt));
    let verdict = Verdict::Commit(FINGERPRINT);
    let resolve = TransactionOperation::Resolve(vec![Resolution { id, verdict }]);
    let resolved = ask(&cluster, resolve).await.unwrap();
    assert_eq!(resolved, TransactionAnswer::Resolved(vec![Resolved::Now]));
}
