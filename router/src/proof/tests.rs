//! Each claim by table, and a shard-node that overstates.

use super::*;
use crate::dispatch::Dispatch;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::order;
use fulcrum_common::map::{ClusterId, ClusterMap};
use fulcrum_common::routing::{Backends, Kind, RoutingTable};
use fulcrum_common::wire::batch::{About, BatchBuilder, RequestBatch, ResponseBatch};
use fulcrum_common::wire::internal::shard_server::{Shard, ShardServer};
use fulcrum_common::wire::{internal, v1};
use fulcrum_common::{Keyspace, KeyspaceOptions, NodeInfo, SystemClock};
use fulcrum_types::{
    Answer, Answered, Condition, Epoch, JoinedWrite, MapVersion, Mutation, Query, Receipt, RecordedOutcome, Refusal,
    WriteOp,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

const NODE: NodeId = NodeId(1);

fn map(mode: Mode, address: &str) -> (ClusterMap, Arc<Keyspace>) {
    let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
    for node in 1..=3 {
        let address = address.to_owned();
        map.set_node(NodeId(node), NodeInfo { address, zone: None });
    }
    let options = KeyspaceOptions {
        groups: 1,
        ..KeyspaceOptions::of(mode, 3)
    };
    map.add_keyspace("k", options).unwrap();
    let keyspace = map.keyspace_by_name("k").unwrap().clone();
    (map, keyspace)
}

fn keyspace(mode: Mode) -> Arc<Keyspace> {
    map(mode, "127.0.0.1:1").1
}

fn at(epoch: u64, index: u64) -> LogPosition {
    LogPosition {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

fn bounded(ms: u64) -> Level {
    Level::Bounded(Duration::from_millis(ms))
}

/// Of a primary of epoch 5 that has come to index 50.
fn receipt(group: GroupId, achieved: Level) -> Receipt {
    Receipt {
        mode: Mode::Sync,
        asked: achieved,
        achieved,
        group,
        replica: NODE,
        role: Role::Primary,
        epoch: Epoch(5),
        index: Index(50),
        acknowledged_by: Vec::new(),
        durable: false,
        staleness: Some(Duration::ZERO),
        basis: StalenessBasis::Lease,
        map_version: MapVersion(1),
        rounds: 0,
        elapsed: Duration::ZERO,
    }
}

fn order(keyspace: &Arc<Keyspace>, operation: Operation) -> Order {
    let group = keyspace.group_of(b"k");
    let order = order::write(keyspace.clone(), group, operation, Instant::now());
    let kind = match &order.operation {
        Operation::Read(read) => Kind::Read(read.level),
        Operation::Outcome(_) => Kind::Read(Level::Linearizable),
        _ => order.kind,
    };
    Order { kind, ..order }
}

fn read(level: Level, acceptable: &[Level], seen: Option<LogPosition>) -> Operation {
    Operation::Read(ReadRequest {
        level,
        acceptable: acceptable.to_vec(),
        seen,
        query: Query::Get(vec!["k".into()]),
    })
}

fn write(seen: Option<LogPosition>) -> Operation {
    Operation::Write {
        idempotency: None,
        seen,
        ops: vec![op("k")],
    }
}

fn op(key: &'static str) -> WriteOp {
    WriteOp {
        key: key.into(),
        condition: Condition::None,
        mutation: Mutation::Delete,
    }
}

/// What does not hold of the receipt: the same whether it comes decoded or to be passed on.
fn found(order: &Order, receipt: &Receipt) -> Option<Reason> {
    let answer = Answer::Values(Vec::new());
    let decoded = Reply::Answered(Box::new(Answered {
        answer,
        receipt: receipt.clone(),
    }));
    let encoded = Reply::PassedOn {
        message: message(receipt),
        staleness: None,
        weaker: false,
    };
    let reason = |reply| check(order, &reply).err().map(|violation| violation.reason);
    let found = reason(decoded);
    assert_eq!(reason(encoded), found, "{receipt:?}");
    found
}

fn message(receipt: &Receipt) -> Bytes {
    let receipt = Some(receipt.clone().into());
    prost::Message::encode_to_vec(&v1::GetResponse { value: None, receipt }).into()
}

#[test]
fn a_level_that_was_neither_asked_nor_acceptable_is_none() {
    let keyspace = keyspace(Mode::Sync);
    let (linearizable, session, eventual) = (Level::Linearizable, Level::Session, Level::Eventual);
    let weaker = Some(Reason::Level);
    for (asked, acceptable, achieved, expected) in [
        (linearizable, &[][..], linearizable, None),
        (linearizable, &[], bounded(1), weaker),
        (linearizable, &[], session, weaker),
        (linearizable, &[], eventual, weaker),
        (linearizable, &[session], session, None),
        (linearizable, &[session], eventual, weaker),
        (linearizable, &[session, eventual], eventual, None),
        (bounded(500), &[], bounded(500), None),
        (bounded(500), &[], bounded(400), None),
        (bounded(500), &[], bounded(501), weaker),
        (bounded(500), &[bounded(800)], bounded(800), None),
        (bounded(500), &[bounded(800)], bounded(801), weaker),
        (bounded(500), &[], session, weaker),
        (bounded(500), &[], linearizable, None),
        (session, &[], session, None),
        (session, &[], bounded(1), weaker),
        (session, &[], eventual, weaker),
        (eventual, &[], eventual, None),
        (eventual, &[], bounded(9), None),
    ] {
        let order = order(&keyspace, read(asked, acceptable, None));
        let found = found(&order, &receipt(order.group, achieved));
        assert_eq!(found, expected, "{asked} {acceptable:?} {achieved}");
    }
}

#[test]
fn a_level_needs_its_proof() {
    use StalenessBasis as Basis;
    let keyspace = keyspace(Mode::Sync);
    let unproved = Some(Reason::Proof);
    for (level, role, basis, staleness_ms, expected) in [
        (Level::Linearizable, Role::Primary, Basis::Lease, Some(0), None),
        (
            Level::Linearizable,
            Role::Primary,
            Basis::ConfirmingRound,
            Some(3),
            None,
        ),
        (Level::Linearizable, Role::Primary, Basis::Echo, Some(0), unproved),
        (Level::Linearizable, Role::Primary, Basis::None, None, unproved),
        (Level::Linearizable, Role::Backup, Basis::Lease, Some(0), unproved),
        (bounded(500), Role::Backup, Basis::Echo, Some(500), None),
        (bounded(500), Role::Backup, Basis::Echo, Some(501), unproved),
        (bounded(500), Role::Backup, Basis::Echo, None, unproved),
        (bounded(500), Role::Backup, Basis::None, Some(1), unproved),
        (Level::Session, Role::Learner, Basis::None, None, None),
        (Level::Eventual, Role::Learner, Basis::None, None, None),
    ] {
        let order = order(&keyspace, read(level, &[], None));
        let receipt = Receipt {
            role,
            basis,
            staleness: staleness_ms.map(Duration::from_millis),
            ..receipt(order.group, level)
        };
        assert_eq!(found(&order, &receipt), expected, "{receipt:?}");
    }
}

#[test]
fn what_the_session_has_seen_is_not_gone_back_behind() {
    let keyspace = keyspace(Mode::Sync);
    let behind = Some(Reason::Session);
    let by = Receipt {
        acknowledged_by: vec![NODE, NodeId(2)],
        ..receipt(keyspace.group_of(b"k"), Level::Linearizable)
    };
    for (seen, expected) in [
        (None, None),
        (Some(at(5, 50)), None),
        (Some(at(4, 9)), None),
        (Some(at(5, 51)), behind),
        (Some(at(6, 50)), behind),
        (Some(at(6, 9)), behind),
        (Some(at(4, 51)), behind),
        (Some(at(9, 0)), None),
    ] {
        for level in [Level::Linearizable, Level::Session] {
            let order = order(&keyspace, read(level, &[], seen));
            assert_eq!(
                found(&order, &receipt(order.group, level)),
                expected,
                "{level} {seen:?}"
            );
        }
        for level in [bounded(500), Level::Eventual] {
            let order = order(&keyspace, read(level, &[], seen));
            assert_eq!(
                found(&order, &receipt(order.group, level)),
                None,
                "{level} may be behind"
            );
        }
        assert_eq!(found(&order(&keyspace, write(seen)), &by), expected, "write {seen:?}");
    }
}

#[test]
fn a_write_has_as_many_holders_as_its_keyspace_wants() {
    let few = Some(Reason::Acknowledgements);
    for (mode, by, expected) in [
        (Mode::Sync, &[1, 2][..], None),
        (Mode::Sync, &[1, 2, 3], None),
        (Mode::Sync, &[1], few),
        (Mode::Sync, &[], few),
        (Mode::Sync, &[1, 1], few),
        (Mode::Sync, &[2, 3], few),
        (Mode::Async, &[1], None),
        (Mode::Async, &[], few),
        (Mode::Async, &[2], few),
    ] {
        let keyspace = keyspace(mode);
        let order = order(&keyspace, write(None));
        let receipt = Receipt {
            acknowledged_by: by.iter().copied().map(NodeId).collect(),
            ..receipt(order.group, level_of_writes(&order))
        };
        assert_eq!(found(&order, &receipt), expected, "{mode} {by:?}");
    }
}

#[test]
fn a_write_or_its_outcome_counts_as_its_mode_says() {
    let key = Identity::new(Arc::new(SystemClock)).next().key;
    let keyspace = keyspace(Mode::Sync);
    for operation in [write(None), Operation::Outcome(key)] {
        let order = order(&keyspace, operation);
        let eventual = Receipt {
            acknowledged_by: vec![NODE, NodeId(2)],
            ..receipt(order.group, Level::Eventual)
        };
        assert_eq!(found(&order, &eventual), Some(Reason::Level));
        let linearizable = Receipt {
            achieved: Level::Linearizable,
            ..eventual
        };
        assert_eq!(found(&order, &linearizable), None);
    }
    // The place of a write that is looked up may be far behind.
    let order = order(&keyspace, Operation::Outcome(key));
    let reply = Reply::Answered(Box::new(Answered {
        answer: Answer::Outcome(RecordedOutcome::NotSeen),
        receipt: receipt(GroupId(order.group.0 + 1), Level::Linearizable),
    }));
    let violation = check(&order, &reply).unwrap_err();
    assert_eq!(
        (violation.reason, violation.by),
        (Reason::Group, Some((NODE, at(5, 50))))
    );
}

fn many(receipts: &[Option<Receipt>]) -> Reply {
    let messages = receipts
        .iter()
        .map(|receipt| receipt.as_ref().map_or_else(Bytes::new, message))
        .collect();
    let refused = receipts.iter().enumerate().filter(|(_, receipt)| receipt.is_none());
    Reply::PassedOnMany {
        messages,
        refused: refused.map(|(place, _)| (place, Refusal::Overloaded)).collect(),
        staleness: None,
        weaker: false,
    }
}

#[test]
fn of_a_joint_every_answer_is_looked_at_and_what_was_refused_has_no_receipt() {
    let keyspace = keyspace(Mode::Sync);
    let joined = |seen| JoinedWrite {
        idempotency: None,
        seen,
        op: op("k"),
    };
    let good = |group| Receipt {
        acknowledged_by: vec![NODE, NodeId(2)],
        ..receipt(group, Level::Linearizable)
    };
    let writes = |seen: [Option<LogPosition>; 3]| order(&keyspace, Operation::Joint(seen.map(joined).into()));
    let reason = |order: &Order, reply: &Reply| check(order, reply).err().map(|violation| violation.reason);

    let order = writes([None, Some(at(5, 49)), Some(at(5, 50))]);
    let good = good(order.group);
    let all = [Some(good.clone()), Some(good.clone()), Some(good.clone())];
    assert_eq!(reason(&order, &many(&all)), None);
    assert_eq!(reason(&order, &many(&[None, None, None])), None);
    assert_eq!(reason(&order, &many(&[None, Some(good.clone()), None])), None);

    let ahead = writes([None, Some(at(5, 51)), None]);
    assert_eq!(reason(&ahead, &many(&all)), Some(Reason::Session));
    let refused = [Some(good.clone()), None, Some(good.clone())];
    assert_eq!(reason(&ahead, &many(&refused)), None, "it was not answered");

    let alone = Receipt {
        acknowledged_by: vec![NODE],
        ..good.clone()
    };
    let last = [Some(good.clone()), Some(good), Some(alone)];
    assert_eq!(reason(&order, &many(&last)), Some(Reason::Acknowledgements));
}

#[test]
fn an_answer_without_a_receipt_proves_nothing() {
    let keyspace = keyspace(Mode::Sync);
    let order = order(&keyspace, read(Level::Eventual, &[], None));
    for message in [Bytes::new(), Bytes::from_static(&[0xff; 9])] {
        let one = Reply::PassedOn {
            message: message.clone(),
            staleness: None,
            weaker: false,
        };
        let joint = Reply::PassedOnMany {
            messages: vec![message],
            refused: Vec::new(),
            staleness: None,
            weaker: false,
        };
        for reply in [one, joint] {
            let violation = check(&order, &reply).unwrap_err();
            assert_eq!((violation.reason, violation.by), (Reason::Missing, None));
        }
    }
}

/// A shard-node that answers everything at once, with this receipt.
struct Overstating(Receipt);

impl Overstating {
    fn answer(receipt: &Receipt, request: &internal::Request, answers: &mut BatchBuilder<internal::Response>) {
        use internal::request::Operation as Op;
        let (id, receipt) = (request.id, v1::Receipt::from(receipt.clone()));
        let about = About::default();
        match request.operation.as_ref().unwrap() {
            Op::Joint(joint) => {
                let outcomes = vec![Some(v1::WriteOutcome::default()); joint.writes.len()];
                answers.push_many_to_pass_on(id, &outcomes, receipt, &about, Vec::new());
            }
            // Gets look alike where there is no value.
            _ => {
                let response = v1::WriteResponse {
                    outcome: None,
                    receipt: Some(receipt),
                };
                answers.push_to_pass_on(id, &response, &about);
            }
        }
    }
}

#[tonic::async_trait]
impl Shard for Overstating {
    type ExchangeStream = BoxStream<'static, Result<ResponseBatch, Status>>;

    async fn exchange(
        &self,
        requests: Request<Streaming<RequestBatch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let receipt = self.0.clone();
        let answers = requests.into_inner().map(move |batch| {
            let mut answers = BatchBuilder::default();
            for request in batch?.items() {
                Self::answer(&receipt, &request.unwrap(), &mut answers);
            }
            Ok(answers.take())
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn node_status(
        &self,
        _: Request<internal::NodeStatusRequest>,
    ) -> Result<Response<internal::NodeStatusResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn certificates(
        &self,
        _: Request<internal::CertificatesRequest>,
    ) -> Result<Response<internal::CertificatesResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn hand_over(
        &self,
        _: Request<internal::HandOverRequest>,
    ) -> Result<Response<internal::HandOverResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn force_start(
        &self,
        _: Request<internal::ForceStartRequest>,
    ) -> Result<Response<internal::ForceStartResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }
}

/// What a client is told by a router whose shard-nodes all answer with this receipt, and what the router counts.
async fn told(make: impl Fn(GroupId) -> Receipt, operation: Operation) -> (Result<Reply, Refusal>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (map, keyspace) = map(Mode::Sync, &listener.local_addr().unwrap().to_string());
    let mut order = order(&keyspace, operation);
    order.until += Duration::from_secs(30);
    order.pass_on = true;
    let node = ShardServer::new(Overstating(make(order.group)));
    let server = tonic::transport::Server::builder().add_service(node);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let registry = fulcrum_common::metrics::Metrics::default();
    let dispatch = Arc::new(Dispatch::new(
        Arc::new(RoutingTable::new(Arc::new(map.with_version(MapVersion(1))))),
        Backends::default(),
        Identity::new(Arc::new(SystemClock)),
        Metrics::new(&registry).unwrap(),
        9,
    ));
    let result = dispatch.run(order, None).await;
    let counted = prometheus::TextEncoder::new().encode_to_string(&registry.registry().gather());
    (result, counted.unwrap())
}

fn counts(text: &str, reason: Reason, count: u64) -> bool {
    let name = reason.name();
    text.contains(&format!(
        "fulcrum_router_receipts_violated_total{{reason=\"{name}\"}} {count}\n"
    ))
}

#[tokio::test]
async fn a_node_that_overstates_is_not_passed_on() {
    let honest = |group| receipt(group, Level::Linearizable);
    let (answer, counted) = told(honest, read(Level::Linearizable, &[], Some(at(5, 50)))).await;
    assert!(matches!(answer, Ok(Reply::PassedOn { .. })), "{answer:?}");
    assert!(Reason::ALL.into_iter().all(|reason| counts(&counted, reason, 0)));

    let (answer, counted) = told(honest, read(Level::Session, &[], Some(at(5, 51)))).await;
    let Err(Refusal::ReceiptViolated { reason }) = &answer else {
        panic!("{answer:?}");
    };
    assert!(reason.contains("n1 answered") && reason.contains("behind"), "{reason}");
    assert!(counts(&counted, Reason::Session, 1), "{counted}");
    assert!(counted.contains("outcome=\"retry\"") && counted.contains("cause=\"receipt_violated\""));

    // By itself it would be an acknowledged write that one disk can lose.
    let alone = |group| Receipt {
        acknowledged_by: vec![NODE],
        ..honest(group)
    };
    let joint = Operation::Joint(vec![
        JoinedWrite {
            idempotency: None,
            seen: None,
            op: op("k"),
        };
        3
    ]);
    for operation in [write(None), joint] {
        let (answer, counted) = told(alone, operation).await;
        assert!(matches!(answer, Err(Refusal::Unknown { .. })), "{answer:?}");
        assert!(counts(&counted, Reason::Acknowledgements, 1), "{counted}");
    }
}
