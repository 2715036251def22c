//! Whatever dies at whatever step of a commit: nothing stays in doubt, nothing is half done, and everybody is told the same.

mod support;

use async_trait::async_trait;
use fulcrum_common::SystemClock;
use fulcrum_common::metrics::Metrics as Registry;
use fulcrum_common::routing::{Backends, Groups, RoutingTable, StreamedGroups, follow};
use fulcrum_coordinator::{Bounds, Coordinator, Metrics};
use fulcrum_types::*;
use futures::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::*;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// The bound on the age of what is in doubt (docs/transactions.md), and a busy machine.
const DOUBT: Duration = Duration::from_secs(5);

type CommitResult = Result<Committed, Refusal>;

/// Whether the last question still reaches its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// It was never sent.
    Unsent,
    /// It was sent and answered, but nobody heard of it.
    Unheard,
}

/// Lets so many questions through; the next is where the coordinator dies.
struct Cut {
    groups: Arc<dyn Groups>,
    asked: AtomicUsize,
    after: usize,
    last: Last,
    reached: Notify,
}

#[async_trait]
impl Groups for Cut {
    async fn ask(&self, to: Participant, operation: Operation, deadline: Duration) -> Result<Answered, Refusal> {
        if matches!(operation, Operation::Transaction(TransactionOperation::Heartbeat(_))) {
            return self.groups.ask(to, operation, deadline).await;
        }
        if self.asked.fetch_add(1, Ordering::SeqCst) < self.after {
            return self.groups.ask(to, operation, deadline).await;
        }
        if self.last == Last::Unheard {
            let _ = self.groups.ask(to, operation, deadline).await;
        }
        self.reached.notify_one();
        std::future::pending().await
    }
}

/// The home group is asked, last of all.
fn is_the_commit(step: &TransactionOperation) -> bool {
    matches!(step, TransactionOperation::Prepare(prepare) if prepare.decides())
}

/// Holds some kind of question until it is let go.
struct Gate {
    groups: Arc<dyn Groups>,
    holds: fn(&TransactionOperation) -> bool,
    reached: Notify,
    open: tokio::sync::watch::Sender<bool>,
}

#[async_trait]
impl Groups for Gate {
    async fn ask(&self, to: Participant, operation: Operation, deadline: Duration) -> Result<Answered, Refusal> {
        if matches!(&operation, Operation::Transaction(step) if (self.holds)(step)) {
            self.reached.notify_one();
            let _ = self.open.subscribe().wait_for(|open| *open).await;
        }
        self.groups.ask(to, operation, deadline).await
    }
}

/// What a coordinator of a test's own needs of a cluster.
struct Door {
    table: Arc<RoutingTable>,
    _following: AbortOnDropHandle<()>,
}

impl Door {
    async fn to(world: &World) -> Self {
        let store = world.cluster.store().clone();
        let table = Arc::new(RoutingTable::new(store.load_map().await.unwrap()));
        let following = tokio::spawn(follow(store, table.clone(), None, |_| {}));
        let door = Self {
            table,
            _following: AbortOnDropHandle::new(following),
        };
        // A test asks it whom to crash.
        while !door.knows_all_primaries() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        door
    }

    fn knows_all_primaries(&self) -> bool {
        let view = self.table.view();
        view.map.groups().keys().all(|group| view.primary(*group).is_some())
    }

    fn groups(&self) -> Arc<dyn Groups> {
        Arc::new(StreamedGroups::new(self.table.clone(), Backends::default()))
    }

    fn coordinator(&self, groups: Arc<dyn Groups>) -> Coordinator {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let clock = Arc::new(SystemClock);
        Coordinator::start(groups, self.table.clone(), clock, Bounds::default(), metrics)
    }
}

/// Keys of three groups or more, of a name of their own.
fn of_three_groups(world: &World, map: &fulcrum_common::ClusterMap, name: &str) -> Vec<NamedKey> {
    let mut keys: Vec<NamedKey> = Vec::new();
    let mut groups = Vec::new();
    for (keyspace, number) in (0..).flat_map(|number| [("accounts", number), ("stock", number)]) {
        let key = key(keyspace, &format!("{name}/{number}"));
        let group = world.group_of(map, &key);
        if !groups.contains(&group) {
            groups.push(group);
            keys.push(key);
        }
        if keys.len() == 3 {
            break;
        }
    }
    keys
}

fn write_all(keys: &[NamedKey]) -> CommitRequest {
    let write = |key: &NamedKey| put(&key.keyspace, std::str::from_utf8(&key.what).unwrap(), "1");
    writes(keys.iter().map(write).collect())
}

/// The keys have all been written or none, and the cluster says the same of the transaction.
async fn is_atomic(world: &World, keys: &[NamedKey], request: &CommitRequest, what: &str) -> bool {
    let seen = world.transactions.consistent(keys).await;
    let there = seen.iter().filter(|one| one.value.is_some()).count();
    assert!(
        there == 0 || there == keys.len(),
        "{what}: {there} of {} keys are there",
        keys.len()
    );
    let asked = OutcomeRequest {
        id: request.id,
        first_written: Some(keys[0].clone()),
        settle: true,
    };
    let told = world.transactions.outcome(asked).await.unwrap();
    match told.outcome {
        TransactionOutcome::Committed(_) => assert_eq!(there, keys.len(), "{what}: told to be committed"),
        TransactionOutcome::Aborted(_) => assert_eq!(there, 0, "{what}: told to be aborted"),
        other => panic!("{what}: {other:?}"),
    }
    // The client asks again elsewhere, and is told that.
    let again = world.transactions.commit(request.clone()).await;
    match again {
        Ok(Committed {
            outcome: CommitOutcome::Committed { .. },
            ..
        }) => assert_eq!(there, keys.len(), "{what}: told to be committed"),
        Err(Refusal::Aborted { .. }) => assert_eq!(there, 0, "{what}: told to be aborted"),
        other => panic!("{what}: {other:?}"),
    }
    there > 0
}

/// Runs a commit through a coordinator that dies at a step. Whether it got so far.
async fn die(door: &Door, request: &CommitRequest, after: usize, last: Last) -> bool {
    let cut = Arc::new(Cut {
        groups: door.groups(),
        asked: AtomicUsize::new(0),
        after,
        last,
        reached: Notify::new(),
    });
    let coordinator = door.coordinator(cut.clone());
    let until = Instant::now() + PATIENCE;
    let commit = async {
        let _ = coordinator.commit(request.clone(), until).await;
        // It is answered before everybody is told.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = commit => false,
        () = cut.reached.notified() => true,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_dies_at_each_step() {
    let world = World::new().await;
    let map = world.map().await;
    let door = Door::to(&world).await;
    let steps = (0..12).flat_map(|after| [(after, Last::Unsent), (after, Last::Unheard)]);
    let deaths = steps.map(|(after, last)| {
        let (door, world, map) = (&door, &world, &map);
        async move {
            let what = format!("after {after} questions, the last {last:?}");
            let keys = of_three_groups(world, map, &what);
            let request = write_all(&keys);
            let died = die(door, &request, after, last).await;
            (what, keys, request, died)
        }
    });
    let deaths = join_all(deaths).await;
    let began = Instant::now();
    loop {
        let list = world.transactions.list(ListInDoubt::default()).await.unwrap();
        if list.transactions.is_empty() && list.silent.is_empty() {
            break;
        }
        assert!(began.elapsed() < DOUBT, "in doubt: {list:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.settled().await;
    let (mut committed, mut aborted) = (0, 0);
    for (what, keys, request, died) in &deaths {
        let there = is_atomic(&world, keys, request, what).await;
        assert!(*died || there, "{what}: it lived, and has not committed");
        committed += usize::from(*died && there);
        aborted += usize::from(!there);
    }
    // Two prepares, the commit at home, two resolves, a forget: it has died on both sides of the decision.
    assert!(
        committed >= 5 && aborted >= 5,
        "committed {committed}, aborted {aborted}"
    );
    assert!(
        deaths.iter().any(|(_, _, _, died)| !died),
        "some are to live to the end"
    );
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_dies_before_the_decision_or_before_the_resolve() {
    let mut world = World::new().await;
    let map = world.map().await;
    let door = Door::to(&world).await;
    let before_decision: fn(&TransactionOperation) -> bool = is_the_commit;
    let before_resolve: fn(&TransactionOperation) -> bool = |step| matches!(step, TransactionOperation::Resolve(_));
    for (name, holds, victim) in [
        ("participant before the decision", before_decision, 1),
        ("home before the decision", before_decision, 0),
        ("participant before the resolve", before_resolve, 1),
        ("home before the resolve", before_resolve, 0),
    ] {
        let keys = of_three_groups(&world, &map, name);
        let request = write_all(&keys);
        let gate = Arc::new(Gate {
            groups: door.groups(),
            holds,
            reached: Notify::new(),
            open: tokio::sync::watch::Sender::new(false),
        });
        let coordinator = door.coordinator(gate.clone());
        let commit = tokio::spawn({
            let (coordinator, request) = (coordinator.clone(), request.clone());
            async move { coordinator.commit(request, Instant::now() + PATIENCE).await }
        });
        gate.reached.notified().await;
        let group = world.group_of(&map, &keys[victim]);
        let primary = door.table.view().primary(group).unwrap().node;
        assert!(world.cluster.crash_node(primary).await);
        gate.open.send_replace(true);
        let result = commit.await.unwrap();
        assert!(
            matches!(result, Ok(_) | Err(Refusal::Aborted { .. } | Refusal::Unknown { .. })),
            "{name}: {result:?}"
        );
        world.settled().await;
        let there = is_atomic(&world, &keys, &request, name).await;
        match result {
            Ok(_) => assert!(there, "{name}: it was told to be committed"),
            Err(Refusal::Aborted { .. }) => assert!(!there, "{name}: it was told to be aborted"),
            Err(_) => {}
        }
        world.cluster.restart_node(primary).await.unwrap();
        world.in_sync().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_and_a_primary_die_together() {
    let mut world = World::new().await;
    let map = world.map().await;
    let door = Door::to(&world).await;
    // All others are prepared; the decision was never asked for, or it was recorded and nobody heard of it.
    for (name, after, last, victim) in [
        ("home, undecided", 2, Last::Unsent, 0),
        ("participant, decided", 2, Last::Unheard, 1),
    ] {
        let keys = of_three_groups(&world, &map, name);
        let request = write_all(&keys);
        assert!(die(&door, &request, after, last).await, "{name}");
        let group = world.group_of(&map, &keys[victim]);
        let primary = door.table.view().primary(group).unwrap().node;
        assert!(world.cluster.crash_node(primary).await);
        // No coordinator is asked before all is settled: the groups finish it by themselves.
        world.settled().await;
        let there = is_atomic(&world, &keys, &request, name).await;
        assert_eq!(there, last == Last::Unheard, "{name}");
        world.cluster.restart_node(primary).await.unwrap();
        world.in_sync().await;
    }
}

/// Runs a commit up to its decision, and leaves it there.
async fn held_before_the_decision(door: &Door, request: &CommitRequest) -> (Arc<Gate>, JoinHandle<CommitResult>) {
    let gate = Arc::new(Gate {
        groups: door.groups(),
        holds: is_the_commit,
        reached: Notify::new(),
        open: tokio::sync::watch::Sender::new(false),
    });
    let coordinator = door.coordinator(gate.clone());
    let request = request.clone();
    let commit = tokio::spawn(async move { coordinator.commit(request, Instant::now() + PATIENCE).await });
    gate.reached.notified().await;
    (gate, commit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_settles_what_is_undecided_also_without_knowing_where_it_is() {
    let world = World::new().await;
    let door = Door::to(&world).await;
    let map = world.map().await;
    for (name, knows) in [("known", true), ("unknown", false)] {
        let keys = of_three_groups(&world, &map, name);
        let request = write_all(&keys);
        let asked = |settle| OutcomeRequest {
            id: request.id,
            first_written: knows.then(|| keys[0].clone()),
            settle,
        };
        let (gate, commit) = held_before_the_decision(&door, &request).await;
        let told = world.transactions.outcome(asked(false)).await.unwrap();
        // The home group has not heard of it; the others are asked as well where it is not known who that is.
        let expected = match knows {
            true => TransactionOutcome::NotSeen,
            false => TransactionOutcome::Undecided,
        };
        assert_eq!(told.outcome, expected, "{name}");
        let told = world.transactions.outcome(asked(true)).await.unwrap();
        assert_eq!(told.outcome, TransactionOutcome::Aborted(AbortCause::Client), "{name}");
        gate.open.send_replace(true);
        let refused = commit.await.unwrap().unwrap_err();
        assert_eq!(refused.act(), Act::Reject, "{refused}");
        world.settled().await;
        assert!(!is_atomic(&world, &keys, &request, name).await);
    }
    let unheard = OutcomeRequest {
        id: attempt(),
        first_written: None,
        settle: true,
    };
    assert_eq!(world.transactions.outcome(unheard).await.unwrap_err().code(), "INVALID");
}

/// A node cuts a wait after 600 ms; the router asks again, until the lock is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_write_waits_for_a_lock_as_long_as_its_client_does() {
    let world = World::new().await;
    let door = Door::to(&world).await;
    let map = world.map().await;
    let keys = of_three_groups(&world, &map, "locked");
    let request = write_all(&keys);
    let (gate, commit) = held_before_the_decision(&door, &request).await;
    let keyspace = world.client.keyspace(&keys[1].keyspace);
    let mut write = tokio::spawn({
        let key = keys[1].what.clone();
        async move { keyspace.put(key, "2").await }
    });
    let early = tokio::time::timeout(Duration::from_millis(1500), &mut write).await;
    assert!(early.is_err(), "it did not wait for the lock: {early:?}");
    gate.open.send_replace(true);
    assert!(commit.await.unwrap().is_ok());
    write.await.unwrap().unwrap();
    let seen = world.transactions.consistent(&keys).await;
    let texts: Vec<_> = seen.iter().map(|one| text(one).unwrap()).collect();
    assert_eq!(texts, ["1", "2", "1"]);
}

/// Writes of one message of a pipeline go jointly: only the one that met the lock waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_holds_up_none_of_the_writes_that_came_with_one() {
    let world = World::new().await;
    let door = Door::to(&world).await;
    let map = world.map().await;
    let keys = of_three_groups(&world, &map, "locked");
    let (gate, commit) = held_before_the_decision(&door, &write_all(&keys)).await;
    let keyspace = world.client.keyspace(&keys[1].keyspace);
    let group = world.group_of(&map, &keys[1]);
    let others = (0..).map(|number| key(&keys[1].keyspace, &format!("free/{number}")));
    let others: Vec<NamedKey> = others
        .filter(|other| world.group_of(&map, other) == group)
        .take(20)
        .collect();

    let pipeline = world.client.pipeline();
    let mut free = Vec::new();
    let mut locked = None;
    for (at, other) in others.iter().enumerate() {
        if at == others.len() / 2 {
            let put = keyspace.put(keys[1].what.clone(), "2");
            locked = Some(put.submit(&pipeline).await.unwrap());
        }
        let put = keyspace.put(other.what.clone(), "2");
        free.push(put.submit(&pipeline).await.unwrap());
    }
    let mut locked = locked.unwrap();
    for write in free {
        write.await.unwrap();
    }
    let early = tokio::time::timeout(Duration::from_millis(300), &mut locked).await;
    assert!(early.is_err(), "it did not wait for the lock: {early:?}");
    gate.open.send_replace(true);
    assert!(commit.await.unwrap().is_ok());
    locked.await.unwrap();
    let seen = world.transactions.consistent(&keys).await;
    let texts: Vec<_> = seen.iter().map(|one| text(one).unwrap()).collect();
    assert_eq!(texts, ["1", "2", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_aborts_what_is_in_doubt() {
    let world = World::new().await;
    let door = Door::to(&world).await;
    let map = world.map().await;
    let keys = of_three_groups(&world, &map, "held");
    let request = write_all(&keys);
    let (gate, commit) = held_before_the_decision(&door, &request).await;
    let list = world.transactions.list(ListInDoubt::default()).await.unwrap();
    assert_eq!(list.transactions.len(), 2, "the home group holds nothing: {list:?}");
    let of_stock = ListInDoubt {
        keyspace: Some("stock".into()),
        limit: 1,
        ..ListInDoubt::default()
    };
    let one = world.transactions.list(of_stock).await.unwrap();
    assert_eq!(one.transactions.len(), 1, "{one:?}");
    let (_, info) = &list.transactions[0];
    assert_eq!(
        (info.id, info.pending, info.participants.len()),
        (request.id, Pending::InDoubt, 3)
    );
    // Whoever reads meanwhile sees what was there before, and does not wait.
    let seen = world.transactions.observe(attempt(), &keys).await;
    assert!(seen.iter().all(|one| one.value.is_none()), "{seen:?}");
    let told = world.transactions.resolve(request.id, info.home.group).await.unwrap();
    assert_eq!(told.outcome, TransactionOutcome::Aborted(AbortCause::Operator));
    gate.open.send_replace(true);
    let refused = commit.await.unwrap().unwrap_err();
    let expected = Refusal::Aborted {
        id: request.id,
        cause: AbortCause::Operator,
    };
    assert_eq!(refused, expected, "a late commit fails for certain");
    world.settled().await;
    assert!(!is_atomic(&world, &keys, &request, "aborted by an operator").await);
}
