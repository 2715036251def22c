//! A node: a core, its disk as seen and as durable, and its clocks.

use super::disk::Disk;
use fulcrum_replication::primary_backup::PrimaryBackup;
use fulcrum_replication::{Input, LogChange, Message, ReadId, ReadPermit, Replica, Status, TransferId};
use fulcrum_types::{DataId, Index, Mono, NodeId, Now, WriteId};
use std::collections::{BTreeMap, VecDeque};

pub struct Node {
    pub id: NodeId,
    pub core: Option<PrimaryBackup>,
    pub volatile: Disk,
    pub durable: Disk,
    pub writes: VecDeque<(WriteId, LogChange, Option<Disk>)>,
    pub durable_through: WriteId,
    pub outbox: Vec<(Option<WriteId>, NodeId, Message)>,
    pub inbox: VecDeque<Input>,
    pub commit: Index,
    pub staged: Option<(NodeId, TransferId)>,
    pub reads: BTreeMap<ReadId, ReadPermit>,
    /// The disk completes nothing, and says so.
    pub stalled: bool,
    /// The disk completes nothing, and seems well.
    pub slow: bool,
    pub apply_held: bool,
    /// Our clock: `base + (real - since) x (1 + ppm)`.
    pub base: u64,
    pub since: u64,
    pub ppm: i64,
    pub wall_offset: i64,
}

impl Node {
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            core: None,
            volatile: Disk::new(DataId::ZERO),
            durable: Disk::new(DataId::ZERO),
            writes: VecDeque::new(),
            durable_through: WriteId::ZERO,
            outbox: Vec::new(),
            inbox: VecDeque::new(),
            commit: Index::ZERO,
            staged: None,
            reads: BTreeMap::new(),
            stalled: false,
            slow: false,
            apply_held: false,
            base: 1_000_000_000 * id.0,
            since: 1_000_000,
            ppm: 0,
            wall_offset: 0,
        }
    }

    pub fn now(&self, time: u64) -> Now {
        let real = i128::from(time - self.since) * 1_000_000;
        let passed = real + real * i128::from(self.ppm) / 1_000_000;
        Now {
            mono: Mono(self.base + passed as u64),
            wall_ms: (time as i64 + self.wall_offset) as u64,
        }
    }

    /// From now on the clock runs at another rate, or starts from another reading.
    pub fn set_clock(&mut self, time: u64, base: Option<u64>, ppm: i64) {
        let mono = self.now(time).mono.0;
        self.base = base.unwrap_or(mono);
        self.since = time;
        self.ppm = ppm;
    }

    pub fn crash(&mut self) {
        self.core = None;
        self.volatile = self.durable.clone();
        self.writes.clear();
        self.durable_through = WriteId::ZERO;
        self.outbox.clear();
        self.inbox.clear();
        self.commit = Index::ZERO;
        self.staged = None;
        self.reads.clear();
    }

    pub fn status(&self, time: u64) -> Option<Status> {
        self.core.as_ref().map(|c| c.status(self.now(time)))
    }
}
