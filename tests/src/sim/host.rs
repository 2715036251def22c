//! A machine of the simulation: clocks, a disk that survives the node's lives, an inbox, and the node if it is running.

use super::joints::Joints;
use super::rng::Rng;
use super::time::{NodeClock, Time};
use crate::planted::Planted;
use fulcrum_shard_node::event::{Event, RequestId};
use fulcrum_shard_node::node::{Boot, Cores, Node, NodeSettings};
use fulcrum_shard_node::storage::{BatchId, MemoryDisk, StorageError, Store};
use fulcrum_types::{BootId, NodeId, Now};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Who waits for the answer to a request, and to which attempt.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    /// A session or a watch.
    Lane(Lane),
    /// Somebody who asks a group, whoever leads it.
    Question {
        /// The number of the question.
        number: u64,
        /// Its attempt.
        attempt: u64,
    },
    /// Those who wait for the writes of the joint of this number.
    Joint(u64),
}

/// A lane and the number of its attempt; watches are counted behind the lanes.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// The lane.
    pub lane: usize,
    /// Its attempt.
    pub attempt: u64,
}

/// A machine.
pub struct Host {
    /// The node's id.
    pub id: NodeId,
    /// Its clocks.
    pub clock: NodeClock,
    /// Its disk.
    pub disk: MemoryDisk,
    /// Choices of this machine.
    pub rng: Rng,
    /// The present or last life.
    pub boot: BootId,
    /// The running node.
    pub node: Option<Node>,
    /// What the next turn takes in.
    pub inbox: VecDeque<Event>,
    /// A turn is planned or under way.
    pub busy: bool,
    /// What the clocks showed at the beginning of a turn that has stalled: requests that come in meanwhile are handled by it.
    pub read_early: Option<Now>,
    /// Stands still until then.
    pub paused_until: Time,
    /// The disk does nothing until then.
    pub stalled_until: Time,
    /// Syncs take so many times as long.
    pub slow: u64,
    /// The batch at the disk, and since when.
    pub at_disk: Option<(BatchId, Time)>,
    /// When it last lost power.
    pub off_at: Option<Time>,
    /// The last life whose disk was lost.
    pub wiped_in: Option<BootId>,
    /// Who waits for which answer.
    pub askers: BTreeMap<RequestId, Asker>,
    /// Writes that go jointly.
    pub joints: Joints,
    requests: u64,
}

impl Host {
    /// A machine that is off.
    #[must_use]
    pub fn new(id: NodeId, clock: NodeClock, rng: Rng) -> Self {
        Self {
            id,
            clock,
            rng,
            disk: MemoryDisk::new(),
            boot: BootId::ZERO,
            node: None,
            inbox: VecDeque::new(),
            busy: false,
            read_early: None,
            paused_until: 0,
            stalled_until: 0,
            slow: 1,
            at_disk: None,
            off_at: None,
            wiped_in: None,
            askers: BTreeMap::new(),
            joints: Joints::default(),
            requests: 0,
        }
    }

    /// What its clocks show.
    #[must_use]
    pub fn now(&self, at: Time) -> Now {
        self.clock.read(at)
    }

    /// Whether it runs this life.
    #[must_use]
    pub fn lives(&self, boot: BootId) -> bool {
        self.node.is_some() && self.boot == boot
    }

    /// A new life over what the disk holds. Ids of data come from the host's own stream of chance.
    ///
    /// # Errors
    /// Why the node cannot start.
    pub fn boot(&mut self, at: Time, boot: BootId, cores: Cores, planted: Planted) -> Result<(), StorageError> {
        // A machine sets its wall clock when it starts.
        self.clock.set_wall_offset(0);
        let (backend, clean) = self.disk.open(Arc::new(|_| {}));
        let mut chance = self.rng.fork();
        let entropy = move || chance.next();
        let start = Boot { id: boot, clean };
        let store = Store::new(Box::new(backend));
        let mut node = Node::with_cores(NodeSettings::new(self.id), store, start, entropy, self.now(at), cores)?;
        planted.plant_in_node(&mut node);
        self.boot = boot;
        self.node = Some(node);
        Ok(())
    }

    /// Whether the node has been handed a question that it has not answered.
    #[must_use]
    pub fn has_taken(&self, question: u64) -> bool {
        let waits = |inbox: &Event, id: &RequestId| matches!(inbox, Event::Request { id: other, .. } if other == id);
        let asked = self.askers.iter().find(|(_, asker)| match asker {
            Asker::Question { number, .. } => *number == question,
            Asker::Joint(joint) => self.joints.holds(*joint, question),
            Asker::Lane(_) => false,
        });
        asked.is_some_and(|(id, _)| !self.inbox.iter().any(|event| waits(event, id)))
    }

    /// Names a request.
    pub fn request_id(&mut self, asker: Asker) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.askers.insert(id, asker);
        id
    }

    /// Power is lost: of the batches that were not synced, the oldest `survivors` are on the disk all the same.
    pub fn lose_power(&mut self, survivors: usize) {
        self.node = None;
        self.disk.crash(survivors);
        self.inbox.clear();
        self.askers.clear();
        self.joints = Joints::default();
        self.busy = false;
        self.read_early = None;
        self.at_disk = None;
        self.paused_until = 0;
    }
}
