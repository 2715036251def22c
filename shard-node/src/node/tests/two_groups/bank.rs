//! One node with two groups, a disk that can lose what was not synced, and a metadata store that answers at once. What one group
//! asks the other is delivered as a request.

use crate::event::{AskId, Event, Output, RequestId};
use crate::node::tests::fake::at;
use crate::node::{Boot, Node, NodeSettings};
use crate::storage::{BatchDone, MemoryDisk, Store};
use bytes::Bytes;
use fulcrum_common::keyspace::KeyspaceOptions;
use fulcrum_common::map::{ClusterId, ClusterMap, NodeInfo};
use fulcrum_replication::CasOutcome;
use fulcrum_types::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const ME: NodeId = NodeId(1);
pub(super) const ACCOUNTS: usize = 4;
pub(super) const OPENING: i64 = 100;
/// Marks requests that the node itself sent to another of its groups.
const ASKED: u64 = 1 << 40;

pub(super) type Result<T> = std::result::Result<T, Refusal>;

pub(super) struct Bank {
    pub(super) ms: u64,
    pub(super) node: Option<Node>,
    pub(super) disk: MemoryDisk,
    pub(super) boots: u64,
    pub(super) map: Arc<ClusterMap>,
    pub(super) configurations: BTreeMap<GroupId, GroupConfiguration>,
    pub(super) inbox: VecDeque<Event>,
    pub(super) replies: BTreeMap<u64, Result<Answered>>,
    pub(super) asks: BTreeMap<u64, AskId>,
    pub(super) requests: u64,
    /// What was ever asked: the network may deliver it again.
    pub(super) sent: Vec<(Participant, TransactionOperation)>,
    /// Half of them in each group.
    pub(super) accounts: Vec<(Bytes, Participant)>,
    /// A key of each group that some transfers write without having read it.
    pub(super) memos: BTreeMap<GroupId, Bytes>,
    #[cfg(feature = "planted-bugs")]
    pub(super) bug: Option<crate::node::Bug>,
}

impl Bank {
    pub(super) fn new() -> Self {
        let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
        let info = NodeInfo {
            address: "127.0.0.1:1".into(),
            zone: None,
        };
        map.set_node(ME, info);
        let options = KeyspaceOptions {
            groups: 2,
            ..KeyspaceOptions::of(Mode::Sync, 1)
        };
        let keyspace = map.add_keyspace("bank", options).unwrap();
        let map = map.with_version(MapVersion(1));
        let configurations = map.groups_of(keyspace).map(|group| {
            let configuration = GroupConfiguration {
                version: ConfigVersion(1),
                replicas: vec![ME],
                ..Default::default()
            };
            (group, configuration)
        });
        let configurations: BTreeMap<_, _> = configurations.collect();
        let (mut accounts, mut memos) = (Vec::new(), BTreeMap::new());
        for group in configurations.keys().copied() {
            let owned = |key: &Bytes| map.keyspace(keyspace).unwrap().group_of(key) == group;
            let name = |what: &'static str| (0..).map(move |n| Bytes::from(format!("{what}-{n}")));
            memos.extend(name("memo").find(|key| owned(key)).map(|key| (group, key)));
            let keys = name("account").filter(owned);
            accounts.extend(
                keys.take(ACCOUNTS / 2)
                    .map(|key| (key, Participant { keyspace, group })),
            );
        }
        Bank {
            ms: 10_000,
            node: None,
            disk: MemoryDisk::new(),
            boots: 0,
            map: Arc::new(map),
            configurations,
            inbox: VecDeque::new(),
            replies: BTreeMap::new(),
            asks: BTreeMap::new(),
            requests: 0,
            sent: Vec::new(),
            accounts,
            memos,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }

    pub(super) fn start(&mut self) {
        self.boots += 1;
        let (backend, clean) = self.disk.open(Arc::new(|_: BatchDone| {}));
        let mut drawn = self.boots * 1000;
        let entropy = move || {
            drawn += 1;
            drawn
        };
        let id = BootId(self.boots);
        let store = Store::new(Box::new(backend));
        let node = Node::open(NodeSettings::new(ME), store, Boot { id, clean }, entropy, at(self.ms)).unwrap();
        self.node = Some(node);
        #[cfg(feature = "planted-bugs")]
        if let (Some(bug), Some(node)) = (self.bug, &mut self.node) {
            node.plant(bug);
        }
        self.inbox.push_back(Event::Map(self.map.clone()));
        for (group, configuration) in self.configurations.clone() {
            self.inbox.push_back(Event::Configuration { group, configuration });
        }
        self.settle();
    }

    /// The node loses what was not synced, all who wait for it, and all that it asked.
    pub(super) fn crash(&mut self) {
        self.node = None;
        self.disk.crash(0);
        self.inbox.clear();
        self.asks.clear();
        self.start();
        for _ in 0..400 {
            if self.serves() {
                return;
            }
            self.pass(20);
        }
        panic!("it never came back: {:?}", self.configurations);
    }

    pub(super) fn serves(&self) -> bool {
        let node = self.node.as_ref().unwrap();
        let mut statuses = node.group_statuses(at(self.ms));
        statuses.all(|group| group.core.role == Role::Primary && group.core.ready)
    }

    pub(super) fn settle(&mut self) {
        loop {
            while let Some(event) = self.inbox.pop_front() {
                self.turn(event);
            }
            match self.disk.complete() {
                Some(done) => self.turn(Event::BatchDone(done)),
                None => return,
            }
        }
    }

    pub(super) fn turn(&mut self, event: Event) {
        let now = at(self.ms);
        let mut out = Vec::new();
        let node = self.node.as_mut().unwrap();
        node.handle(now, event);
        while node.end_turn(now, &mut out) {}
        out.into_iter().for_each(|output| self.output(output));
    }

    pub(super) fn output(&mut self, output: Output) {
        match output {
            Output::Reply { id, result } => match self.asks.remove(&id.0) {
                Some(ask) => self.inbox.push_back(Event::Answered { ask, result }),
                None => {
                    let before = self.replies.insert(id.0, result);
                    assert!(before.is_none(), "request {} was answered twice", id.0);
                }
            },
            Output::Ask {
                ask,
                to,
                operation,
                deadline,
            } => {
                let id = ASKED + ask.0 + self.boots * 1_000_000;
                self.asks.insert(id, ask);
                self.submit(id, to, operation, deadline);
            }
            Output::CompareAndSwap {
                group,
                attempt,
                expected,
                mut proposal,
            } => {
                let known = self.configurations.get_mut(&group).unwrap();
                let won = expected == known.version;
                if won {
                    proposal.version = expected.next();
                    *known = proposal;
                }
                let outcome = match won {
                    true => CasOutcome::Won(known.clone()),
                    false => CasOutcome::Lost(known.clone()),
                };
                self.inbox.push_back(Event::CasOutcome {
                    group,
                    attempt,
                    outcome,
                });
            }
            Output::ReadConfiguration { group } => {
                let configuration = self.configurations[&group].clone();
                self.inbox.push_back(Event::Configuration { group, configuration });
            }
            Output::Send { .. } | Output::ReadLease { .. } | Output::Observed(_) => {}
            Output::Fatal { reason } => panic!("{reason}"),
        }
    }

    pub(super) fn submit(&mut self, id: u64, to: Participant, operation: Operation, deadline: Duration) {
        let request = GroupRequest {
            keyspace: to.keyspace,
            group: to.group,
            map_version: MapVersion(1),
            deadline,
            operation,
        };
        let id = RequestId(id);
        self.inbox.push_back(Event::Request { id, request });
    }

    pub(super) fn begin(&mut self, to: Participant, operation: TransactionOperation) -> u64 {
        self.requests += 1;
        self.sent.push((to, operation.clone()));
        let operation = Operation::Transaction(operation);
        self.submit(self.requests, to, operation, Duration::from_secs(2));
        self.requests
    }

    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(20) {
            self.ms += 20;
            self.inbox.push_back(Event::Tick { disk_healthy: true });
            self.settle();
        }
    }

    pub(super) fn ask(&mut self, to: Participant, operation: TransactionOperation) -> Result<TransactionAnswer> {
        let id = self.begin(to, operation);
        for _ in 0..200 {
            self.settle();
            if let Some(result) = self.replies.remove(&id) {
                return result.map(answer_of);
            }
            self.pass(20);
        }
        panic!("request {id} was never answered");
    }

    pub(super) fn groups(&self) -> [Participant; 2] {
        [self.accounts[0].1, self.accounts[ACCOUNTS - 1].1]
    }

    /// Everything of one moment, if two rounds agree.
    pub(super) fn audit(&mut self, begun_at_ms: u64) -> Option<Vec<i64>> {
        let mut found = Vec::new();
        for group in self.groups() {
            let accounts = self.accounts.iter().filter(|(_, owner)| *owner == group);
            let keys: Vec<Bytes> = accounts.map(|(key, _)| key.clone()).collect();
            let read = TransactionOperation::Read {
                begun_at_ms,
                seen: None,
                keys: keys.clone(),
            };
            let Ok(TransactionAnswer::Observations(seen)) = self.ask(group, read) else {
                return None;
            };
            found.push((group, keys, seen.observed));
        }
        for (group, keys, observed) in &found {
            let reads = keys.iter().zip(observed).map(|(key, seen)| check(key, seen)).collect();
            let validate = TransactionOperation::Validate { begun_at_ms, reads };
            match self.ask(*group, validate) {
                Ok(TransactionAnswer::Validation(Validation::Valid)) => {}
                _ => return None,
            }
        }
        let observed = found.iter().flat_map(|(_, _, observed)| observed);
        Some(observed.map(balance).collect())
    }
}

pub(super) fn answer_of(answered: Answered) -> TransactionAnswer {
    match answered.answer {
        Answer::Transaction(answer) => answer,
        other => panic!("{other:?}"),
    }
}

pub(super) fn check(key: &Bytes, seen: &Observed) -> ReadCheck {
    ReadCheck {
        key: key.clone(),
        version: seen.version,
        exists: seen.value.is_some(),
    }
}

pub(super) fn balance(seen: &Observed) -> i64 {
    match &seen.value {
        Some(found) => std::str::from_utf8(&found.value).unwrap().parse().unwrap(),
        None => OPENING,
    }
}
