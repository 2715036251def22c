//! The coordinator around its core, with groups that are a few lines each.

use crate::{Bounds, Coordinator, Metrics};
use async_trait::async_trait;
use bytes::Bytes;
use fulcrum_common::auth::Caller;
use fulcrum_common::metrics::Metrics as Registry;
use fulcrum_common::routing::{Groups, RoutingTable};
use fulcrum_common::{Clock, ClusterId, ClusterMap, KeyspaceOptions, NodeInfo, SystemClock};
use fulcrum_types::*;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(5);

/// Groups that agree to everything, once they are let go.
struct Agreeing {
    asked: Mutex<Vec<(Participant, &'static str)>>,
    open: watch::Sender<bool>,
    silent: Option<GroupId>,
}

impl Agreeing {
    fn new(open: bool) -> Arc<Self> {
        Arc::new(Self {
            asked: Mutex::default(),
            open: watch::Sender::new(open),
            silent: None,
        })
    }

    fn count(&self, step: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|(_, name)| *name == step).count()
    }

    async fn until_asked(&self, step: &str, times: usize) {
        let asked = async {
            while self.count(step) < times {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(SOON, asked).await;
        assert!(waited.is_ok(), "{step} was asked {} times", self.count(step));
    }
}

fn receipt(group: GroupId, index: u64) -> Receipt {
    Receipt {
        mode: Mode::Sync,
        asked: Level::Linearizable,
        achieved: Level::Linearizable,
        group,
        replica: NodeId(1),
        role: Role::Primary,
        epoch: Epoch(1),
        index: Index(index),
        acknowledged_by: vec![],
        durable: true,
        staleness: None,
        basis: StalenessBasis::None,
        map_version: MapVersion(1),
        rounds: 1,
        elapsed: Duration::ZERO,
    }
}

/// The version of what is prepared in a group.
fn version(group: GroupId) -> Version {
    Version(100 + group.0)
}

fn answer(to: Participant, step: &TransactionOperation) -> TransactionAnswer {
    match step {
        TransactionOperation::Prepare(prepare) if prepare.decides() => {
            let mut parts = prepare.votes.clone();
            parts.push(CommittedPart {
                participant: to,
                version: version(to.group),
            });
            TransactionAnswer::Vote(Vote::Decided(Decision::Committed {
                fingerprint: prepare.fingerprint,
                parts,
            }))
        }
        TransactionOperation::Prepare(_) => TransactionAnswer::Vote(Vote::Prepared {
            version: version(to.group),
        }),
        TransactionOperation::Transact(transact) => match transact.part.conditions.len() {
            0 => TransactionAnswer::Vote(Vote::Decided(Decision::Committed {
                fingerprint: transact.fingerprint,
                parts: vec![CommittedPart {
                    participant: to,
                    version: version(to.group),
                }],
            })),
            // The last one fails.
            count => TransactionAnswer::Vote(Vote::Decided(Decision::Aborted(AbortCause::ConditionFailed {
                group: to.group,
                condition: u32::try_from(count - 1).unwrap(),
                current: Some(Version(7)),
            }))),
        },
        TransactionOperation::Decide(decide) => TransactionAnswer::Decision(Decision::Aborted(decide.cause)),
        TransactionOperation::Resolve(all) => TransactionAnswer::Resolved(vec![Resolved::Now; all.len()]),
        TransactionOperation::Read { keys, .. } => TransactionAnswer::Observations(Observations {
            observed: keys
                .iter()
                .map(|key| Observed {
                    version: Version(key.len() as u64),
                    value: None,
                })
                .collect(),
            met_intents: false,
        }),
        TransactionOperation::List { .. } => TransactionAnswer::List(vec![
            info(to, Pending::InDoubt, to.group.0),
            info(to, Pending::Unresolved, 50),
        ]),
        TransactionOperation::LookUp(_) => TransactionAnswer::State(TransactionState::NotSeen),
        TransactionOperation::Validate { .. } => TransactionAnswer::Validation(Validation::Valid),
        TransactionOperation::Forget(_) | TransactionOperation::Heartbeat(_) => TransactionAnswer::Done,
    }
}

fn info(at: Participant, pending: Pending, age: u64) -> TransactionInfo {
    TransactionInfo {
        id: attempt(age),
        pending,
        home: at,
        participants: vec![at],
        age: Duration::from_secs(age),
        silent: None,
        keys: 1,
    }
}

#[async_trait]
impl Groups for Agreeing {
    async fn ask(&self, to: Participant, operation: Operation, _: Duration) -> Result<Answered, Refusal> {
        let Operation::Transaction(step) = operation else {
            panic!("{operation:?} is no step of a transaction")
        };
        let name = step.name();
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((to, name));
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        if self.silent == Some(to.group) {
            std::future::pending::<()>().await;
        }
        Ok(Answered {
            answer: Answer::Transaction(answer(to, &step)),
            receipt: receipt(to.group, 1),
        })
    }
}

fn map() -> ClusterMap {
    let mut map = ClusterMap::new(ClusterId::random());
    let node = NodeInfo {
        address: "127.0.0.1:1".into(),
        zone: None,
    };
    map.set_node(NodeId(1), node);
    for (name, mode) in [("orders", Mode::Sync), ("cache", Mode::Async)] {
        let options = KeyspaceOptions {
            groups: 4,
            ..KeyspaceOptions::of(mode, 1)
        };
        map.add_keyspace(name, options).unwrap();
    }
    map.with_version(MapVersion(3))
}

fn coordinator(groups: Arc<Agreeing>, bounds: Bounds) -> (Coordinator, Registry) {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry).unwrap();
    let table = Arc::new(RoutingTable::new(Arc::new(map())));
    let coordinator = Coordinator::start(groups, table, Arc::new(SystemClock), bounds, metrics);
    (coordinator, registry)
}

fn attempt(sequence: u64) -> TransactionId {
    TransactionId {
        begun_at_ms: SystemClock.now().wall_ms,
        client: ClientId(1),
        sequence: Sequence(sequence),
    }
}

fn named<T>(what: T) -> InKeyspace<T> {
    InKeyspace {
        keyspace: "orders".into(),
        what,
    }
}

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn write_of(names: &[&str]) -> CommitRequest {
    let write = |name: &&str| {
        named(KeyWrite {
            key: key(name),
            mutation: Mutation::Delete,
        })
    };
    let id = attempt(1);
    CommitRequest {
        id,
        priority: Priority(id),
        writes: names.iter().map(write).collect(),
        ..CommitRequest::default()
    }
}

/// Of several groups.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn until() -> Instant {
    Instant::now() + SOON
}

#[tokio::test]
async fn versions_come_in_the_order_of_the_writes() {
    let (coordinator, _) = coordinator(Agreeing::new(true), Bounds::default());
    let committed = coordinator.commit(write_of(&NAMES), until()).await.unwrap();
    let map = map();
    let orders = map.keyspace_by_name("orders").unwrap();
    let expected = NAMES.map(|name| version(orders.group_of(name.as_bytes())));
    let outcome = CommitOutcome::Committed {
        versions: expected.to_vec(),
        rounds: 2,
    };
    assert_eq!(committed.outcome, outcome);
}

#[tokio::test]
async fn a_condition_that_failed_is_told_by_its_key() {
    let (coordinator, _) = coordinator(Agreeing::new(true), Bounds::default());
    let condition = |name: &str| {
        named(KeyCondition {
            key: key(name),
            condition: Condition::Exists,
        })
    };
    let request = CommitRequest {
        conditions: vec![condition("{a}1"), condition("{a}2")],
        ..write_of(&["{a}3"])
    };
    let failed = coordinator.commit(request, until()).await.unwrap();
    let outcome = CommitOutcome::ConditionFailed {
        key: named(key("{a}2")),
        current: Some(Version(7)),
    };
    assert_eq!(failed.outcome, outcome);
}

#[tokio::test]
async fn values_come_in_the_order_of_the_keys() {
    let (coordinator, _) = coordinator(Agreeing::new(true), Bounds::default());
    let names = ["a", "bb", "ccc", "dddd", "eeeee", "ff", "a"];
    let read = TransactionRead {
        id: attempt(1),
        keys: names.map(|name| named(key(name))).to_vec(),
        ..TransactionRead::default()
    };
    let values = coordinator.read(read, until()).await.unwrap();
    let lengths: Vec<_> = values.observed.iter().map(|one| one.version.0).collect();
    assert_eq!(lengths, [1, 2, 3, 4, 5, 2, 1]);
}

#[tokio::test]
async fn a_commit_goes_on_when_its_call_is_dropped() {
    let groups = Agreeing::new(false);
    let (coordinator, _) = coordinator(groups.clone(), Bounds::default());
    let call = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.commit(write_of(&NAMES), until()).await }
    });
    groups.until_asked("prepare", 2).await;
    call.abort();
    let _ = call.await;
    groups.open.send_replace(true);
    groups.until_asked("commit", 1).await;
    groups.until_asked("resolve", 1).await;
}

#[tokio::test]
async fn a_read_ends_with_its_call() {
    let groups = Agreeing::new(false);
    let bounds = Bounds {
        transactions_max: 1,
        ..Bounds::default()
    };
    let (coordinator, _) = coordinator(groups.clone(), bounds);
    let read = || TransactionRead {
        id: attempt(1),
        keys: vec![named(key("a"))],
        ..TransactionRead::default()
    };
    let call = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.read(read(), until()).await }
    });
    groups.until_asked("transaction_read", 1).await;
    assert_eq!(coordinator.read(read(), until()).await, Err(Refusal::Overloaded));
    call.abort();
    let _ = call.await;
    groups.open.send_replace(true);
    assert!(coordinator.read(read(), until()).await.is_ok(), "there is room again");
}

#[tokio::test]
async fn what_would_take_too_much_memory_is_refused() {
    let groups = Agreeing::new(false);
    let bounds = Bounds {
        bytes_max: 1,
        ..Bounds::default()
    };
    let (coordinator, _) = coordinator(groups.clone(), bounds);
    let call = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.commit(write_of(&NAMES), until()).await }
    });
    groups.until_asked("prepare", 2).await;
    let refused = coordinator.commit(write_of(&["other"]), until()).await;
    assert_eq!(refused, Err(Refusal::Overloaded));
    groups.open.send_replace(true);
    assert!(call.await.unwrap().is_ok());
    assert!(coordinator.commit(write_of(&["other"]), until()).await.is_ok());
}

/// It goes on for a while after its client was answered, and its share of the memory was given back then.
#[tokio::test]
async fn what_nobody_is_asked_for_any_more_is_not_held() {
    let mut groups = Agreeing::new(true);
    let map = map();
    let home = map.keyspace_by_name("orders").unwrap().group_of(NAMES[0].as_bytes());
    Arc::get_mut(&mut groups).unwrap().silent = Some(home);
    let (coordinator, _) = coordinator(groups.clone(), Bounds::default());
    let value = Bytes::from(vec![7; 1000]);
    let mut request = write_of(&NAMES);
    request.writes[0].what.mutation = Mutation::Put {
        value: value.clone(),
        ttl: None,
    };
    let soon = Instant::now() + Duration::from_millis(200);
    let refused = coordinator.commit(request, soon).await.unwrap_err();
    let asked = ["commit", "decide"].map(|step| groups.count(step));
    assert_eq!((refused.code(), asked), ("UNKNOWN", [1, 1]));
    assert!(value.is_unique(), "the values of what is prepared are still held");
}

#[tokio::test]
async fn a_session_that_has_seen_a_newer_map_is_waited_for() {
    let (coordinator, _) = coordinator(Agreeing::new(true), Bounds::default());
    let seen = |version| SessionToken {
        map_version: MapVersion(version),
        ..SessionToken::default()
    };
    let request = |version| CommitRequest {
        session: seen(version),
        ..write_of(&NAMES)
    };
    let soon = Instant::now() + Duration::from_millis(50);
    let refused = coordinator.commit(request(4), soon).await.unwrap_err();
    assert_eq!(refused.code(), "UNREACHABLE");
    assert!(coordinator.commit(request(3), until()).await.is_ok());
}

#[tokio::test]
async fn what_is_unknown_names_the_transaction() {
    let groups = Agreeing::new(false);
    let (coordinator, _) = coordinator(groups, Bounds::default());
    let request = write_of(&NAMES);
    let id = request.id;
    let soon = Instant::now() + Duration::from_millis(100);
    let refused = coordinator.commit(request, soon).await.unwrap_err();
    assert_eq!(refused.code(), "UNKNOWN");
    let what_to_do = format!("`fulcrum txn show {id}`");
    assert!(refused.to_string().contains(&what_to_do), "{refused}");
}

#[tokio::test]
async fn lists_are_merged_and_name_who_is_silent() {
    let map = map();
    let orders = map.keyspace_by_name("orders").unwrap();
    let groups: Vec<_> = map.groups_of(orders.id).collect();
    let silent = Agreeing {
        silent: Some(groups[1]),
        asked: Mutex::default(),
        open: watch::Sender::new(true),
    };
    let (coordinator, _) = coordinator(Arc::new(silent), Bounds::default());
    let soon = || Instant::now() + Duration::from_millis(400);
    let list = coordinator
        .list(ListInDoubt::default(), &Caller::anyone(), soon())
        .await
        .unwrap();
    let told: Vec<_> = list.transactions.iter().map(|(group, _)| *group).collect();
    assert_eq!(told, [groups[3], groups[2], groups[0]], "the oldest first");
    assert_eq!(list.silent, [groups[1]]);
    let all = ListInDoubt {
        keyspace: Some("orders".into()),
        limit: 4,
        unresolved: true,
    };
    let list = coordinator.list(all, &Caller::anyone(), soon()).await.unwrap();
    let unresolved = |(_, info): &&(GroupId, TransactionInfo)| info.pending == Pending::Unresolved;
    assert_eq!(list.transactions.len(), 4);
    assert_eq!(list.transactions.iter().filter(unresolved).count(), 3);
    for (keyspace, code) in [("cache", "NO_TRANSACTIONS"), ("none", "UNKNOWN_KEYSPACE")] {
        let of = ListInDoubt {
            keyspace: Some(keyspace.into()),
            ..ListInDoubt::default()
        };
        assert_eq!(
            coordinator
                .list(of, &Caller::anyone(), soon())
                .await
                .unwrap_err()
                .code(),
            code
        );
    }
}

#[tokio::test]
async fn groups_that_were_only_read_are_counted() {
    let (coordinator, registry) = coordinator(Agreeing::new(true), Bounds::default());
    let read = |name: &&str| {
        named(ReadCheck {
            key: key(name),
            version: Version(1),
            exists: true,
        })
    };
    let request = CommitRequest {
        id: attempt(1),
        reads: NAMES.iter().map(read).collect(),
        ..CommitRequest::default()
    };
    let committed = coordinator.commit(request, until()).await.unwrap();
    let families = registry.registry().gather();
    let groups = families
        .iter()
        .find(|family| family.name() == "fulcrum_coordinator_transaction_groups")
        .unwrap();
    let counted = groups.get_metric()[0].get_histogram().get_sample_sum();
    assert!(
        (counted - committed.receipts.len() as f64).abs() < f64::EPSILON,
        "{counted}"
    );
    assert!(committed.receipts.len() > 1);
}

/// A record of an abort goes when its transaction is past: one of the far future would stay for ever.
#[tokio::test]
async fn what_has_not_begun_is_not_resolved() {
    let groups = Agreeing::new(true);
    let (coordinator, _) = coordinator(groups.clone(), Bounds::default());
    let map = map();
    let home = map
        .groups_of(map.keyspace_by_name("orders").unwrap().id)
        .next()
        .unwrap();
    let resolve = |begun_at_ms| {
        let id = TransactionId {
            begun_at_ms,
            ..attempt(1)
        };
        coordinator.resolve(ResolveRequest { id, home }, until())
    };
    let refused = resolve(u64::MAX).await.unwrap_err();
    assert_eq!((refused.code(), groups.count("decide")), ("INVALID", 0));
    let told = resolve(attempt(1).begun_at_ms).await.unwrap();
    assert_eq!(told.outcome, TransactionOutcome::Aborted(AbortCause::Operator));
}

/// Each asks all groups, and is not counted among the transactions.
#[tokio::test]
async fn lists_are_not_put_together_without_bound() {
    let groups = Agreeing::new(false);
    let (coordinator, _) = coordinator(groups.clone(), Bounds::default());
    let list = || {
        let coordinator = coordinator.clone();
        async move {
            coordinator
                .list(ListInDoubt::default(), &Caller::anyone(), until())
                .await
        }
    };
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(list())).collect();
    groups.until_asked("list_pending", 4 * 4).await;
    assert_eq!(list().await, Err(Refusal::Overloaded));
    groups.open.send_replace(true);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().transactions.len(), 4);
    }
    assert!(list().await.is_ok());
}

#[tokio::test]
async fn what_happened_is_counted() {
    let (coordinator, registry) = coordinator(Agreeing::new(true), Bounds::default());
    coordinator.commit(write_of(&NAMES), until()).await.unwrap();
    let families = registry.registry().gather();
    let ended = families
        .iter()
        .find(|family| family.name() == "fulcrum_coordinator_transactions_total")
        .unwrap();
    let metric = &ended.get_metric()[0];
    assert_eq!(metric.get_label()[0].value(), "committed");
    assert!((metric.get_counter().get_value() - 1.0).abs() < f64::EPSILON);
    assert!(families.iter().all(|family| !family.help().is_empty()));
}
