//! A node whose cores do what a test says.

use crate::event::{Event, Output, RequestId};
use crate::node::{Boot, Node, NodeSettings};
use crate::storage::{BatchDone, MemoryDisk, Store};
use bytes::Bytes;
use fulcrum_common::keyspace::KeyspaceOptions;
use fulcrum_common::map::{ClusterId, ClusterMap, NodeInfo};
use fulcrum_replication::{Effect, Input, LogChange, Replica, Restored, Status};
use fulcrum_types::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) const KEYSPACE: KeyspaceId = KeyspaceId(1);
pub(super) const GROUP: GroupId = GroupId(1);
pub(super) const ME: NodeId = NodeId(1);

/// What a scripted core does with an input.
pub(super) type Script = Arc<dyn Fn(Now, Input) -> Vec<Effect> + Send + Sync>;

/// What all scripted cores of a node share.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) script: Arc<Mutex<Script>>,
    pub(super) inputs: Arc<Mutex<Vec<Input>>>,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) restored: Arc<Mutex<Vec<Restored>>>,
}

struct Scripted(Stage);

impl Replica for Scripted {
    fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        self.0.inputs.lock().unwrap().push(input.clone());
        let script = self.0.script.lock().unwrap().clone();
        effects.extend(script(now, input));
    }

    fn status(&self, _now: Now) -> Status {
        self.0.status.lock().unwrap().clone()
    }

    fn check_invariants(&self) -> Result<(), String> {
        Ok(())
    }
}

pub(super) fn status(role: Role) -> Status {
    Status {
        role,
        epoch: Epoch(1),
        version: ConfigVersion(1),
        configuration: GroupConfiguration::default(),
        primary: Some(if role == Role::Primary { ME } else { NodeId(2) }),
        ready: role == Role::Primary,
        lease_left: None,
        last: LogPosition::default(),
        persisted: Index::ZERO,
        commit: Index::ZERO,
        applied: Index::ZERO,
        compacted: LogPosition::default(),
        staleness: None,
        stranded: false,
        peers: Vec::new(),
    }
}

/// A map with one keyspace of one group (or more) on three nodes.
pub(super) fn map(options: KeyspaceOptions) -> ClusterMap {
    let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
    for node in 1..=3 {
        map.set_node(
            NodeId(node),
            NodeInfo {
                address: format!("127.0.0.1:{node}"),
                zone: None,
            },
        );
    }
    map.add_keyspace("data", options).unwrap();
    map.with_version(MapVersion(1))
}

pub(super) fn options(mode: Mode, fsync: Fsync) -> KeyspaceOptions {
    KeyspaceOptions {
        groups: 1,
        fsync,
        ..KeyspaceOptions::of(mode, 3)
    }
}

pub(super) fn at(ms: u64) -> Now {
    Now {
        mono: Mono(ms * 1_000_000),
        wall_ms: 1_700_000_000_000 + ms,
    }
}

pub(super) fn position(epoch: u64, index: u64) -> LogPosition {
    LogPosition {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

pub(super) struct Bench {
    pub(super) node: Node,
    pub(super) disk: MemoryDisk,
    pub(super) stage: Stage,
    pub(super) out: Vec<Output>,
}

impl Bench {
    /// A node that hosts one group of a keyspace, as primary.
    pub(super) fn new(options: KeyspaceOptions) -> Self {
        Self::on(MemoryDisk::new(), options)
    }

    pub(super) fn on(disk: MemoryDisk, options: KeyspaceOptions) -> Self {
        let mut bench = Self::bare(disk);
        bench.handle(0, Event::Map(Arc::new(map(options))));
        bench.turn(0);
        bench.out.clear();
        bench.stage.inputs.lock().unwrap().clear();
        bench
    }

    /// A node that has seen no map.
    pub(super) fn bare(disk: MemoryDisk) -> Self {
        let quiet: Script = Arc::new(|_, _| Vec::new());
        let stage = Stage {
            script: Arc::new(Mutex::new(quiet)),
            inputs: Arc::default(),
            status: Arc::new(Mutex::new(status(Role::Primary))),
            restored: Arc::default(),
        };
        let (backend, clean) = disk.open(Arc::new(|_: BatchDone| {}));
        let cast = stage.clone();
        let mut ids = 100;
        let entropy = move || {
            ids += 1;
            ids
        };
        let node = Node::with_cores(
            NodeSettings::new(ME),
            Store::new(Box::new(backend)),
            Boot { id: BootId(1), clean },
            entropy,
            at(0),
            Box::new(move |_, restored, _| {
                cast.restored.lock().unwrap().push(restored);
                Box::new(Scripted(cast.clone()))
            }),
        )
        .unwrap();
        Bench {
            node,
            disk,
            stage,
            out: Vec::new(),
        }
    }

    pub(super) fn script(&self, script: impl Fn(Now, Input) -> Vec<Effect> + Send + Sync + 'static) {
        *self.stage.script.lock().unwrap() = Arc::new(script);
    }

    pub(super) fn handle(&mut self, ms: u64, event: Event) {
        self.node.handle(at(ms), event);
    }

    pub(super) fn turn(&mut self, ms: u64) {
        self.node.end_turn(at(ms), &mut self.out);
    }

    /// A tick that makes the cores do this, in a turn of its own.
    pub(super) fn effects(&mut self, ms: u64, effects: Vec<Effect>) {
        self.begin_effects(ms, effects);
        self.turn(ms);
    }

    /// The same, in a turn that has not ended.
    pub(super) fn begin_effects(&mut self, ms: u64, effects: Vec<Effect>) {
        let effects = Mutex::new(effects);
        self.script(move |_, input| match input {
            Input::Tick { .. } => std::mem::take(&mut *effects.lock().unwrap()),
            _ => Vec::new(),
        });
        self.handle(ms, Event::Tick { disk_healthy: true });
    }

    /// The disk does what it was given.
    pub(super) fn sync(&mut self, ms: u64) {
        while let Some(done) = self.disk.complete() {
            self.handle(ms, Event::BatchDone(done));
            self.turn(ms);
        }
    }

    pub(super) fn ask(&mut self, ms: u64, id: u64, operation: Operation) {
        let request = GroupRequest {
            keyspace: KEYSPACE,
            group: GROUP,
            map_version: MapVersion(1),
            deadline: Duration::from_secs(1),
            operation,
        };
        self.handle(
            ms,
            Event::Request {
                id: RequestId(id),
                request,
            },
        );
    }

    /// All replies so far; they are taken out.
    pub(super) fn replies(&mut self) -> Vec<(u64, Result<Answered, Refusal>)> {
        let mut replies = Vec::new();
        self.out.retain_mut(|output| {
            let Output::Reply { id, result } = output else {
                return true;
            };
            replies.push((id.0, result.clone()));
            false
        });
        replies
    }

    pub(super) fn inputs(&self) -> Vec<Input> {
        self.stage.inputs.lock().unwrap().drain(..).collect()
    }
}

pub(super) fn put(key: &'static str, value: &'static str) -> WriteOp {
    WriteOp {
        key: Bytes::from_static(key.as_bytes()),
        condition: Condition::None,
        mutation: Mutation::Put {
            value: Bytes::from_static(value.as_bytes()),
            ttl: None,
        },
    }
}

pub(super) fn write(ops: Vec<WriteOp>) -> Operation {
    Operation::Write {
        idempotency: None,
        seen: None,
        ops,
    }
}

pub(super) fn get(key: &'static str, level: Level, acceptable: Vec<Level>) -> Operation {
    let query = Query::Get(vec![Bytes::from_static(key.as_bytes())]);
    Operation::Read(ReadRequest {
        level,
        acceptable,
        seen: None,
        query,
    })
}

/// Entries as a core would append them: commands of one write each.
pub(super) fn append(id: u64, epoch: u64, first: u64, writes: &[WriteOp]) -> Effect {
    let entries = writes.iter().zip(first..).map(|(op, index)| Entry {
        position: position(epoch, index),
        time: ReplicatedTime(1000 + index),
        payload: Payload::Command(crate::state_machine::encode_write(None, std::slice::from_ref(op))),
    });
    Effect::Write {
        id: WriteId(id),
        change: LogChange::Append(entries.collect()),
    }
}
