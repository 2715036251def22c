//! Whole stories: three nodes with the real core, a perfect network, and a metadata store that answers at once.

mod cuts;
mod idle;
mod readiness;
mod transactions;
mod watches;

use super::fake::{GROUP, KEYSPACE, at, get, map, options, put, write};
use crate::event::{AskId, Event, FailoverPhases, Observation, Output, RequestId};
use crate::node::{Boot, Node, NodeSettings};
use crate::storage::{BatchDone, MemoryDisk, Store};
use fulcrum_common::keyspace::KeyspaceOptions;
use fulcrum_replication::CasOutcome;
use fulcrum_types::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

struct World {
    ms: u64,
    options: KeyspaceOptions,
    nodes: BTreeMap<NodeId, Node>,
    disks: BTreeMap<NodeId, MemoryDisk>,
    boots: u64,
    configuration: GroupConfiguration,
    inbox: VecDeque<(NodeId, Event)>,
    replies: BTreeMap<u64, Result<Answered, Refusal>>,
    observed: Vec<(NodeId, Observation)>,
    requests: u64,
    /// What nodes have asked other groups, and were not answered yet.
    asked: Vec<(NodeId, AskId, Participant, Operation)>,
}

impl World {
    fn new(options: KeyspaceOptions) -> Self {
        let nodes = (1..=3).map(NodeId);
        let configuration = GroupConfiguration {
            version: ConfigVersion(1),
            replicas: nodes.clone().collect(),
            ..Default::default()
        };
        let mut world = World {
            ms: 10_000,
            options,
            nodes: BTreeMap::new(),
            disks: nodes.clone().map(|n| (n, MemoryDisk::new())).collect(),
            boots: 0,
            configuration,
            inbox: VecDeque::new(),
            replies: BTreeMap::new(),
            observed: Vec::new(),
            requests: 0,
            asked: Vec::new(),
        };
        nodes.for_each(|node| world.start(node));
        world
    }

    fn start(&mut self, id: NodeId) {
        self.boots += 1;
        let (backend, clean) = self.disks[&id].open(Arc::new(|_: BatchDone| {}));
        let mut drawn = id.0 * 1000 + self.boots;
        let entropy = move || {
            drawn += 1;
            drawn
        };
        let boot = Boot {
            id: BootId(self.boots),
            clean,
        };
        let store = Store::new(Box::new(backend));
        let node = Node::open(NodeSettings::new(id), store, boot, entropy, at(self.ms)).unwrap();
        self.nodes.insert(id, node);
        self.inbox
            .push_back((id, Event::Map(Arc::new(map(self.options.clone())))));
        let configuration = self.configuration.clone();
        self.inbox.push_back((
            id,
            Event::Configuration {
                group: GROUP,
                configuration,
            },
        ));
        self.settle();
    }

    fn crash(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        self.disks[&id].crash(0);
    }

    /// Delivers everything, and does all disks' work, until nothing moves.
    fn settle(&mut self) {
        loop {
            while let Some((to, event)) = self.inbox.pop_front() {
                self.turn(to, event);
            }
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                while let Some(done) = self.disks[&id].complete() {
                    self.turn(id, Event::BatchDone(done));
                }
            }
            if self.inbox.is_empty() {
                return;
            }
        }
    }

    fn turn(&mut self, id: NodeId, event: Event) {
        let now = at(self.ms);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let mut out = Vec::new();
        node.handle(now, event);
        while node.end_turn(now, &mut out) {}
        for output in out {
            self.output(id, output);
        }
    }

    fn output(&mut self, from: NodeId, output: Output) {
        match output {
            Output::Send { to, group, message } => self.inbox.push_back((to, Event::Peer { from, group, message })),
            Output::Reply { id, result } => {
                let before = self.replies.insert(id.0, result);
                assert!(before.is_none(), "request {} was answered twice", id.0);
            }
            Output::CompareAndSwap {
                group,
                attempt,
                expected,
                mut proposal,
            } => {
                let won = expected == self.configuration.version;
                if won {
                    proposal.version = expected.next();
                    self.configuration = proposal;
                }
                let now = self.configuration.clone();
                let outcome = if won {
                    CasOutcome::Won(now)
                } else {
                    CasOutcome::Lost(now)
                };
                self.inbox.push_back((
                    from,
                    Event::CasOutcome {
                        group,
                        attempt,
                        outcome,
                    },
                ));
            }
            Output::ReadConfiguration { group } => {
                let configuration = self.configuration.clone();
                self.inbox
                    .push_back((from, Event::Configuration { group, configuration }));
            }
            Output::ReadLease { group, node } => {
                if !self.nodes.contains_key(&node) {
                    self.inbox.push_back((from, Event::LeaseGone { group, node }));
                }
            }
            Output::Ask { ask, to, operation, .. } => self.asked.push((from, ask, to, operation)),
            Output::Observed(observation) => self.observed.push((from, observation)),
            Output::Fatal { reason } => panic!("node {from}: {reason}"),
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(20) {
            self.ms += 20;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.inbox.push_back((id, Event::Tick { disk_healthy: true }));
            }
            self.settle();
        }
    }

    fn primary(&mut self) -> NodeId {
        for _ in 0..200 {
            let serving = |node: &&NodeId| {
                self.nodes[node]
                    .group_status(GROUP, at(self.ms))
                    .is_some_and(|s| s.role == Role::Primary && s.ready)
            };
            if let Some(id) = self.nodes.keys().find(serving) {
                return *id;
            }
            self.pass(20);
        }
        panic!("no primary: {:?}", self.configuration);
    }

    fn ask(&mut self, node: NodeId, operation: Operation) -> Result<Answered, Refusal> {
        self.requests += 1;
        let id = self.requests;
        let request = GroupRequest {
            keyspace: KEYSPACE,
            group: GROUP,
            map_version: MapVersion(1),
            deadline: Duration::from_secs(5),
            operation,
        };
        self.inbox.push_back((
            node,
            Event::Request {
                id: RequestId(id),
                request,
            },
        ));
        self.settle();
        for _ in 0..300 {
            if let Some(result) = self.replies.remove(&id) {
                return result;
            }
            self.pass(20);
        }
        panic!("request {id} was never answered");
    }

    fn read(&mut self, node: NodeId, key: &'static str, level: Level) -> (Option<Vec<u8>>, Receipt) {
        let answered = self.ask(node, get(key, level, vec![])).unwrap();
        let Answer::Values(values) = answered.answer else {
            panic!("not values")
        };
        (values[0].as_ref().map(|v| v.value.to_vec()), answered.receipt)
    }

    fn in_sync(&self) -> Vec<u64> {
        self.configuration.in_sync.iter().map(|m| m.node.0).collect()
    }

    fn until_in_sync(&mut self, count: usize) {
        for _ in 0..500 {
            if self.in_sync().len() == count {
                return;
            }
            self.pass(20);
        }
        panic!("not {count} in sync: {:?}", self.configuration);
    }

    fn checksums(&self) -> Vec<(Index, u64)> {
        self.nodes
            .values()
            .filter_map(|node| node.checksum(GROUP).unwrap())
            .collect()
    }
}

#[test]
fn a_write_is_read_at_every_level_on_every_replica() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let primary = world.primary();
    world.until_in_sync(3);
    let written = world.ask(primary, write(vec![put("a", "1")])).unwrap();
    assert_eq!(written.receipt.acknowledged_by.len(), 3);
    let seen = LogPosition {
        epoch: written.receipt.epoch,
        index: written.receipt.index,
    };
    world.pass(300);
    let (value, receipt) = world.read(primary, "a", Level::Linearizable);
    assert_eq!(
        (value, receipt.basis, receipt.rounds),
        (Some(b"1".to_vec()), StalenessBasis::Lease, 0)
    );
    for node in (1..=3).map(NodeId) {
        let level = Level::Bounded(Duration::from_secs(1));
        let (value, receipt) = world.read(node, "a", level);
        assert_eq!((value, receipt.achieved), (Some(b"1".to_vec()), level));
        let query = Query::Get(vec!["a".into()]);
        let session = ReadRequest {
            level: Level::Session,
            acceptable: vec![],
            seen: Some(seen),
            query,
        };
        let answered = world.ask(node, Operation::Read(session)).unwrap();
        assert!(answered.receipt.index >= seen.index);
        if node != primary {
            let refused = world.ask(node, get("a", Level::Linearizable, vec![]));
            assert_eq!(refused, Err(Refusal::NotPrimary { hint: Some(primary) }));
        }
    }
    let sums = world.checksums();
    assert!(sums.len() == 3 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
}

#[test]
fn a_failover_keeps_what_was_acknowledged_and_says_how_long_it_took() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let old = world.primary();
    world.until_in_sync(3);
    let written = world.ask(old, write(vec![put("a", "1")])).unwrap();
    world.crash(old);
    world.observed.clear();
    let new = world.primary();
    assert_ne!(new, old);
    let (value, receipt) = world.read(new, "a", Level::Linearizable);
    assert_eq!(value, Some(b"1".to_vec()));
    assert!(receipt.epoch >= written.receipt.epoch);
    assert!(world.ask(new, write(vec![put("b", "2")])).is_ok());
    let phases: Vec<FailoverPhases> = world
        .observed
        .iter()
        .filter_map(|(_, o)| match o {
            Observation::FirstAcknowledgement { phases, .. } => Some(*phases),
            _ => None,
        })
        .collect();
    assert_eq!(phases.len(), 1, "{:?}", world.observed);
    assert!(phases[0].detect >= Duration::from_millis(500), "{phases:?}");
    world.start(old);
    world.until_in_sync(3);
    world.pass(500);
    let sums = world.checksums();
    assert!(sums.len() == 3 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert!(
        world.nodes.values().all(|node| node.certificates().unwrap().is_empty()),
        "sync loses nothing"
    );
}

#[test]
fn an_emptied_replica_is_rebuilt_and_a_retry_is_not_applied_twice() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let primary = world.primary();
    world.until_in_sync(3);
    let key = IdempotencyKey {
        client: ClientId(7),
        sequence: Sequence(1),
        issued_at_ms: at(world.ms).wall_ms,
        low_water: Sequence(1),
    };
    let once = Operation::Write {
        idempotency: Some(key),
        seen: None,
        ops: vec![WriteOp {
            condition: Condition::Absent,
            ..put("a", "1")
        }],
    };
    let first = world.ask(primary, once.clone()).unwrap();
    let backup = (1..=3).map(NodeId).find(|node| *node != primary).unwrap();
    world.crash(backup);
    world.disks.insert(backup, MemoryDisk::new());
    world.start(backup);
    world.pass(3000);
    world.until_in_sync(3);
    let again = world.ask(primary, once).unwrap();
    assert_eq!(again.answer, first.answer);
    let found = world.ask(primary, Operation::Outcome(key)).unwrap();
    assert_eq!(found.answer, {
        let Answer::Written(outcomes) = first.answer else {
            panic!("not written")
        };
        Answer::Outcome(RecordedOutcome::Known(outcomes))
    });
    let place = |receipt: &Receipt| (receipt.epoch, receipt.index);
    assert_eq!(
        place(&found.receipt),
        place(&first.receipt),
        "it names the write's own place"
    );
    assert!(again.receipt.index > found.receipt.index, "more has been applied since");
    world.pass(500);
    let sums = world.checksums();
    assert!(sums.len() == 3 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
}

#[test]
fn an_async_failover_records_what_it_lost() {
    let mut world = World::new(options(Mode::Async, Fsync::Always));
    let old = world.primary();
    world.until_in_sync(3);
    assert!(world.ask(old, write(vec![put("a", "1")])).is_ok());
    world.pass(200);
    // The backups hear nothing of this one: their copies of the primary's messages are lost with it.
    let request = GroupRequest {
        keyspace: KEYSPACE,
        group: GROUP,
        map_version: MapVersion(1),
        deadline: Duration::from_secs(5),
        operation: write(vec![put("lost", "1")]),
    };
    world.turn(
        old,
        Event::Request {
            id: RequestId(9_999),
            request,
        },
    );
    while let Some(done) = world.disks[&old].complete() {
        world.turn(old, Event::BatchDone(done));
    }
    world.inbox.clear();
    let lost = world
        .replies
        .remove(&9_999)
        .expect("acknowledged by the primary alone")
        .unwrap();
    world.crash(old);
    let new = world.primary();
    assert_eq!(world.read(new, "lost", Level::Session).0, None);
    let seen = LogPosition {
        epoch: lost.receipt.epoch,
        index: lost.receipt.index,
    };
    let follows = Operation::Write {
        idempotency: None,
        seen: Some(seen),
        ops: vec![put("b", "1")],
    };
    assert_eq!(world.ask(new, follows).unwrap_err().code(), "HISTORY_LOST");
    let opened = world.nodes[&new].certificates().unwrap();
    assert!(
        opened.iter().any(|c| c.opening.is_some() && c.diverged.is_empty()),
        "extent unknown: {opened:?}"
    );
    world.start(old);
    world.until_in_sync(3);
    let told = world.nodes[&old].certificates().unwrap();
    let entries: Vec<_> = told.iter().flat_map(|c| &c.diverged).flat_map(|d| &d.entries).collect();
    assert!(entries.iter().any(|e| e.position == seen), "{told:?}");
    world.pass(500);
    let sums = world.checksums();
    assert!(sums.len() == 3 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
}

#[test]
fn a_planned_hand_over_loses_nothing_and_is_quick() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let old = world.primary();
    world.until_in_sync(3);
    world.ask(old, write(vec![put("a", "1")])).unwrap();
    let before = world.ms;
    world.inbox.push_back((old, Event::Drain));
    world.settle();
    for _ in 0..100 {
        if world.configuration.primary != Some(old) {
            break;
        }
        world.pass(20);
    }
    let new = world.primary();
    assert!(new != old && world.ms - before < 500, "took {} ms", world.ms - before);
    assert_eq!(world.read(new, "a", Level::Linearizable).0, Some(b"1".to_vec()));
}
