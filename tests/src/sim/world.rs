//! The whole cluster in one thread: a queue of future happenings, and what each of them does.
//!
//! Nothing here knows real time, threads or randomness other than the seed's. The node under test is the shipped
//! [`Node`](fulcrum_shard_node::node::Node): its events come from this world's clocks, network, disks, metadata store and
//! clients, and its outputs go there.

use super::client::{Lane, Process};
use super::faults::Fault;
use super::host::{Asker, Host, Lane as Waiting};
use super::metadata::{Change, MetadataStore};
use super::nemesis::Relief;
use super::network::{Endpoint, Fate, Network};
use super::plan::Plan;
use super::queue::Queue;
use super::record::Record;
use super::rng::Rng;
use super::time::{MS, NodeClock, Time, US, WALL_ORIGIN_MS};
use super::transactions::{Step, Transactions};
use super::watcher::Watcher;
use crate::invariants::Watch;
use crate::planted::Planted;
use fulcrum_replication::{CasId, CasOutcome, Message};
use fulcrum_shard_node::event::RequestId;
use fulcrum_types::{
    Answered, BootId, ClientId, ConfigVersion, GroupConfiguration, GroupId, GroupRequest, NodeId, Refusal,
};
use std::collections::BTreeMap;

/// More is never on its way at once. Where each message begets more than one the run would not end.
const MOST_PLANNED: usize = 100_000;

/// A compare-and-swap on its way to the store.
#[derive(Clone, Debug)]
pub struct Swap {
    /// Who asks.
    pub by: NodeId,
    /// In which life.
    pub boot: BootId,
    /// The group.
    pub group: GroupId,
    /// The core's name for it.
    pub attempt: CasId,
    /// The version that must still be in force.
    pub expected: ConfigVersion,
    /// The new configuration.
    pub proposal: GroupConfiguration,
    /// When the real answer arrives, if it does.
    pub answer_at: Option<Time>,
}

/// All that can be planned.
#[derive(Debug)]
pub enum Happening {
    /// A node's timer.
    Tick(NodeId, BootId),
    /// A node's turn begins.
    Turn(NodeId, BootId),
    /// A turn that stalled in the middle ends.
    EndTurn(NodeId, BootId),
    /// The disk has done a batch.
    DiskDone(NodeId, BootId),
    /// A machine starts.
    Start(NodeId),
    /// A node that was drained stops.
    Stop(NodeId, BootId),
    /// A message between replicas arrives.
    Peer {
        /// From.
        from: NodeId,
        /// To.
        to: NodeId,
        /// The group.
        group: GroupId,
        /// It.
        message: Message,
    },
    /// A client's request arrives.
    Request {
        /// At whom.
        to: NodeId,
        /// Who asks.
        asker: Asker,
        /// What.
        request: GroupRequest,
    },
    /// A node's answer arrives.
    Reply {
        /// Who answers.
        from: NodeId,
        /// To whom.
        asker: Asker,
        /// What.
        result: Result<Answered, Refusal>,
    },
    /// A joint has gathered for long enough.
    Joint(NodeId, BootId, GroupId),
    /// A lane begins its next operation.
    Next(usize),
    /// A lane makes its next attempt.
    Again(usize),
    /// A lane has waited long enough for an attempt.
    Silence(Waiting),
    /// A compare-and-swap reaches the store.
    Swap(Box<Swap>),
    /// The end of a compare-and-swap reaches the node.
    Swapped {
        /// The node.
        node: NodeId,
        /// The life that asked.
        boot: BootId,
        /// The group.
        group: GroupId,
        /// Which.
        attempt: CasId,
        /// How.
        outcome: CasOutcome,
    },
    /// A node's wish to read a configuration reaches the store, or is tried again.
    Lookup(NodeId, BootId, GroupId),
    /// A configuration reaches a node.
    Configuration(NodeId, BootId, GroupId, GroupConfiguration),
    /// A fault.
    Strike,
    /// A node is cut off, for so long.
    Isolate(NodeId, Time),
    /// Its end.
    Relief(Relief),
    /// Something of transactions.
    Transactions(Step),
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Time,
    /// The property that does not hold.
    pub property: &'static str,
    /// What happened.
    pub reason: String,
}

/// The cluster and its surroundings.
pub struct World {
    /// The plan.
    pub plan: Plan,
    /// True time.
    pub now: Time,
    /// What is going to happen.
    pub queue: Queue<Happening>,
    /// The network.
    pub network: Network,
    /// The metadata store.
    pub metadata: MetadataStore,
    /// The machines.
    pub hosts: BTreeMap<NodeId, Host>,
    /// The sessions.
    pub lanes: Vec<Lane>,
    /// The watches; as askers they are counted behind the lanes.
    pub watchers: Vec<Watcher>,
    /// The processes that they belong to.
    pub processes: Vec<Process>,
    /// Coordinators, their clients, and all questions to groups.
    pub transactions: Transactions,
    /// Choices of the faults.
    pub nemesis: Rng,
    /// Other choices.
    pub rng: Rng,
    /// Faults may strike.
    pub hostile: bool,
    /// Lanes begin operations by themselves.
    pub load: bool,
    /// The bug that all nodes carry.
    pub planted: Planted,
    /// What the run leaves behind.
    pub record: Record,
    /// Invariants that are watched all the time.
    pub watch: Watch,
    /// The first thing that went wrong.
    pub failure: Option<Failure>,
    /// Changes of configurations that won.
    pub changes: Vec<Change>,
    pub(super) boots: u64,
}

impl World {
    /// The world of a plan, at time 0, with everything off.
    #[must_use]
    pub fn new(plan: Plan, planted: Planted, trace: bool) -> World {
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let configurations = plan.groups.iter().map(|g| {
            let first = GroupConfiguration {
                version: ConfigVersion(1),
                replicas: g.replicas.clone(),
                ..GroupConfiguration::default()
            };
            (g.group, first)
        });
        let metadata = MetadataStore::new(rng.fork(), plan.manners, configurations.collect());
        let hosts = plan.nodes.iter().map(|id| {
            let clock = NodeClock::new(rng.range(0, 1 << 40), rate(&mut rng, plan.rate_ppm));
            (*id, Host::new(*id, clock, rng.fork()))
        });
        let hosts = hosts.collect();
        let processes = (0..plan.load.processes).map(|number| {
            let careful = !rng.percent(plan.load.careless);
            Process::new(ClientId(number + 1), WALL_ORIGIN_MS, careful)
        });
        let processes = processes.collect();
        let mut chance = Rng::new(plan.seed ^ 0x3a7c4);
        let watched = plan.groups.iter().flat_map(|g| (0..plan.watchers).map(|_| g.group));
        let watchers = watched.map(|group| Watcher::new(group, chance.fork())).collect();
        let lanes = (0..plan.load.processes * plan.load.lanes)
            .map(|number| Lane::new(number + 1, (number / plan.load.lanes) as usize, rng.fork()))
            .collect();
        let transactions = Transactions::new(&plan);
        World {
            transactions,
            network: Network::new(rng.fork(), plan.quality),
            nemesis: rng.fork(),
            metadata,
            hosts,
            lanes,
            watchers,
            processes,
            plan,
            now: 0,
            queue: Queue::default(),
            hostile: true,
            load: true,
            planted,
            record: Record::new(trace),
            watch: Watch::default(),
            failure: None,
            changes: Vec::new(),
            boots: 0,
            rng,
        }
    }

    /// Switches everything on.
    pub fn begin(&mut self) {
        for node in self.plan.nodes.clone() {
            let at = self.rng.range(0, 50 * MS);
            self.queue.at(at, Happening::Start(node));
        }
        for lane in 0..self.lanes.len() {
            let at = self.rng.range(0, 200 * MS);
            self.queue.at(at, Happening::Next(lane));
        }
        for watcher in 0..self.watchers.len() {
            self.queue.at(MS, Happening::Again(self.lanes.len() + watcher));
        }
        self.begin_transactions();
        if !self.plan.faults.is_empty() {
            let at = self.nemesis.range(0, self.plan.fault_every);
            self.queue.at(at, Happening::Strike);
        }
    }

    /// Lets everything happen that is planned up to a time, or until something is wrong.
    pub fn run_until(&mut self, until: Time) {
        while self.failure.is_none() {
            let Some((at, happening)) = self.queue.next(until) else {
                self.now = until.max(self.now);
                return;
            };
            self.now = at.max(self.now);
            self.happen(happening);
            if self.queue.len() > MOST_PLANNED {
                let reason = format!("{} events are on their way: they beget each other", self.queue.len());
                self.fail("bounded (messages in flight)", reason);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick(node, boot) => self.tick(node, boot),
            Happening::Turn(node, boot) => self.turn(node, boot),
            Happening::EndTurn(node, boot) => self.end_turn(node, boot),
            Happening::DiskDone(node, boot) => self.disk_done(node, boot),
            Happening::Start(node) => self.start(node),
            Happening::Peer {
                from,
                to,
                group,
                message,
            } => self.peer(from, to, group, message),
            Happening::Request { to, asker, request } => self.request(to, asker, request),
            Happening::Reply { from, asker, result } => self.reply(from, asker, &result),
            Happening::Joint(node, boot, group) if self.hosts[&node].lives(boot) => self.hand_in_joint(node, group),
            Happening::Joint(..) => {}
            Happening::Next(lane) => self.next_operation(lane),
            Happening::Again(lane) => self.attempt(lane),
            Happening::Silence(asker) => self.silence(asker),
            Happening::Swap(swap) => self.swap(*swap),
            Happening::Swapped {
                node,
                boot,
                group,
                attempt,
                outcome,
            } => {
                self.swapped(node, boot, group, attempt, outcome);
            }
            Happening::Lookup(node, boot, group) => self.look_up(node, boot, group),
            Happening::Configuration(node, boot, group, configuration) => {
                self.configuration(node, boot, group, configuration);
            }
            Happening::Strike => self.strike(),
            Happening::Stop(node, boot) => self.stop(node, boot),
            Happening::Isolate(node, lasts) if self.hostile => self.isolate(node, lasts),
            Happening::Isolate(..) => {}
            Happening::Relief(relief) => self.relieve(relief),
            Happening::Transactions(step) => self.transaction_step(step),
        }
    }

    /// Something is wrong: the run ends here.
    pub fn fail(&mut self, property: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let at = self.now;
        self.record.event(at, &[99], || format!("FAILED {property}: {reason}"));
        self.failure.get_or_insert(Failure { at, property, reason });
    }

    /// Fails if a check did.
    pub fn must(&mut self, property: &'static str, result: Result<(), String>) {
        if let Err(reason) = result {
            self.fail(property, reason);
        }
    }

    /// All faults end; everything that is off starts again.
    pub fn heal(&mut self) {
        self.hostile = false;
        self.network.heal();
        self.metadata.heal();
        self.record.event(self.now, &[98], || "everything heals".into());
        let within = u64::from(self.plan.options.drift_ppm) * 49 / 100;
        for host in self.hosts.values_mut() {
            host.paused_until = 0;
            host.stalled_until = 0;
            host.slow = 1;
            host.clock.set_wall_offset(0);
            let rate = rate(&mut host.rng, within);
            host.clock.set_rate(self.now, rate);
            if host.at_disk.is_some() {
                self.queue.at(self.now + MS, Happening::DiskDone(host.id, host.boot));
            }
        }
        for node in self.plan.nodes.clone() {
            self.queue.at(self.now + US, Happening::Start(node));
        }
        self.heal_coordinators();
    }

    /// Counts a fault that took effect and says so in the trace.
    pub fn struck(&mut self, fault: Fault, tell: impl FnOnce() -> String) {
        self.record.fault(fault);
        self.record
            .event(self.now, &[97, fault as u64], || format!("FAULT {fault}: {}", tell()));
    }

    /// Sends something over the network: `copy` makes each copy that arrives, if it may be another one.
    pub(super) fn transmit(&mut self, from: Endpoint, to: Endpoint, mut copy: impl FnMut() -> Option<Happening>) {
        let arrivals = match self.network.send(self.now, from, to) {
            Fate::Cut => return self.record.reached("message cut"),
            Fate::Lost => return self.record.reached("message lost"),
            Fate::Once(at) => [Some(at), None],
            Fate::Twice(first, second) => {
                self.record.reached("message doubled");
                [Some(first), Some(second)]
            }
        };
        for at in arrivals.into_iter().flatten() {
            if let Some(happening) = copy() {
                self.queue.at(at, happening);
            }
        }
    }

    /// Who waits for the answer to a request, if anyone still does.
    pub(super) fn asker(&mut self, node: NodeId, id: RequestId) -> Option<Asker> {
        self.hosts.get_mut(&node)?.askers.remove(&id)
    }
}

/// A rate within the bound.
pub fn rate(rng: &mut Rng, ppm: u64) -> i64 {
    rng.range(0, 2 * ppm) as i64 - ppm as i64
}
