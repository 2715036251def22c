//! A cluster of cores and nothing else: disks, a network and a metadata store as small as they can be, all in one value and without
//! time of their own. Golden scripts drive it by hand, the mini-simulation by a seed.

pub mod checks;
pub mod disk;
pub mod node;
#[allow(dead_code, reason = "each test uses its part of the world")]
pub mod show;

use checks::Checks;
use disk::Disk;
use fulcrum_replication::primary_backup::PrimaryBackup;
use fulcrum_replication::{
    CasId, CasOutcome, Effect, Input, LogChange, Message, Options, Proposal, ProposalId, Replica, SnapshotChunk,
    SnapshotMeta, Status, TransferId,
};
use fulcrum_types::{BootId, ConfigVersion, DataId, GroupConfiguration, NodeId, Now, Role};
use node::Node;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the metadata store does with a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// Does it and says so.
    Up,
    /// Cannot be reached: nothing happens, the outcome is unknown, reads go unanswered.
    Down,
    /// Does it, but the answer gets lost.
    AnswersLost,
    /// The request is on its way: unknown now, may land later.
    Late,
}

pub struct World {
    pub options: Options,
    pub nodes: BTreeMap<NodeId, Node>,
    /// Real time in milliseconds; the nodes' clocks differ from it.
    pub time: u64,
    pub wires: BTreeMap<(NodeId, NodeId), VecDeque<Message>>,
    /// Directed links that lose everything.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// Directed links that keep everything for later.
    pub held: BTreeSet<(NodeId, NodeId)>,
    pub configuration: GroupConfiguration,
    pub metadata: Metadata,
    /// Nodes that cannot reach the metadata store.
    pub blind: BTreeSet<NodeId>,
    pub late: Vec<(NodeId, CasId, ConfigVersion, GroupConfiguration)>,
    /// Snapshots that runners have cut: who, for which transfer and peer.
    pub cuts: BTreeMap<(NodeId, TransferId, NodeId), Disk>,
    pub trace: Vec<String>,
    pub checks: Checks,
    pub ids: u64,
    pub delivered: u64,
    /// Bug to plant in every core.
    #[cfg(feature = "planted-bugs")]
    pub bug: Option<fulcrum_replication::primary_backup::planted::Bug>,
}

impl World {
    pub fn new(options: Options, nodes: u64) -> Self {
        let replicas: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let configuration = GroupConfiguration {
            version: ConfigVersion(1),
            replicas: replicas.clone(),
            ..GroupConfiguration::default()
        };
        let mut world = Self {
            options,
            nodes: BTreeMap::new(),
            time: 1_000_000,
            wires: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            configuration,
            metadata: Metadata::Up,
            blind: BTreeSet::new(),
            late: Vec::new(),
            cuts: BTreeMap::new(),
            trace: Vec::new(),
            checks: Checks::default(),
            ids: 0,
            delivered: 0,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        };
        for id in replicas {
            world.nodes.insert(id, Node::new(id));
            world.wipe(id);
        }
        world
    }

    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn say(&mut self, node: NodeId, what: impl std::fmt::Display) {
        self.trace.push(format!("{node} {what}"));
    }

    pub fn now(&self, id: NodeId) -> Now {
        self.nodes[&id].now(self.time)
    }

    /// One input to one core, its effects, and the checks.
    pub fn step(&mut self, id: NodeId, input: Input) {
        let now = self.now(id);
        let Some(core) = self.nodes.get_mut(&id).and_then(|n| n.core.as_mut()) else {
            return;
        };
        let before = core.status(now);
        let mut effects = Vec::new();
        core.step(now, input, &mut effects);
        if let Err(broken) = core.check_invariants() {
            self.checks.fail(format!("{id}: {broken}"));
        }
        let after = core.status(now);
        for effect in effects {
            self.run(id, effect);
        }
        self.note_change(id, &before, &after);
        self.apply(id);
        self.check_leases();
    }

    fn note_change(&mut self, id: NodeId, before: &Status, after: &Status) {
        if before.role != after.role || (after.role == Role::Primary && before.epoch != after.epoch) {
            self.say(id, format_args!("is {} in {}", after.role, after.epoch));
        }
        if after.ready && !before.ready {
            self.say(id, "has taken over");
        }
    }

    fn run(&mut self, id: NodeId, effect: Effect) {
        if let Some(line) = show::effect(&effect) {
            self.say(id, line);
        }
        match effect {
            Effect::Write { id: write, change } => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    let cut = staged_cut(node, &self.cuts, &change);
                    self.checks.wrote(id, &change);
                    node.volatile.apply(&change, cut.as_ref());
                    if matches!(change, LogChange::DropState | LogChange::InstallSnapshot { .. }) {
                        node.reads.clear();
                        node.commit = node.volatile.applied();
                    }
                    node.writes.push_back((write, change, cut));
                }
            }
            Effect::Send { to, message, after } => self.nodes.get_mut(&id).into_iter().for_each(|node| {
                if after.is_some_and(|w| w > node.durable_through) {
                    node.outbox.push((after, to, message.clone()));
                } else {
                    self.wires.entry((id, to)).or_default().push_back(message.clone());
                }
            }),
            Effect::Commit { through } => {
                let log = self.nodes[&id].volatile.history_to(through);
                self.checks.committed(self.options.mode, id, through, log);
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.commit = node.commit.max(through);
                }
            }
            Effect::Proposed { .. } | Effect::ProposalRefused { .. } | Effect::Abandon { .. } => {}
            Effect::Acknowledge { through, by, .. } => self.acknowledged(id, through, &by),
            Effect::AcknowledgeAlone { at, by } => self.acknowledged_alone(id, &at, &by),
            Effect::AnswerRead { id: read, answer } => self.answered(id, read, answer),
            Effect::CompareAndSwap {
                attempt,
                expected,
                proposal,
            } => self.compare_and_swap(id, attempt, expected, proposal),
            Effect::ReadConfiguration => {
                if self.metadata_for(id) != Metadata::Down {
                    let configuration = self.configuration.clone();
                    self.later(id, Input::Configuration { configuration });
                }
            }
            Effect::ReadLease { node } => {
                let gone = self.nodes.get(&node).is_none_or(|n| n.core.is_none());
                if gone && self.metadata_for(id) != Metadata::Down {
                    self.later(id, Input::LeaseGone { node });
                }
            }
            Effect::SnapshotWanted { to, transfer } => {
                let cut = self.nodes[&id].volatile.clone();
                self.cuts.insert((id, transfer, to), cut);
                self.snapshot_part(id, to, transfer, 0);
            }
            Effect::SnapshotNext { to, transfer, number } => self.snapshot_part(id, to, transfer, number),
            Effect::SnapshotDone { .. } => {}
            Effect::SnapshotStage { transfer, chunk } => {
                let from = NodeId(u64::from(chunk.data.first().copied().unwrap_or_default()));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.staged = Some((from, transfer));
                }
            }
        }
    }

    /// Snapshots here are cut into three parts; the data names who cut it, the disk is fetched from beside.
    fn snapshot_part(&mut self, id: NodeId, to: NodeId, transfer: TransferId, number: u64) {
        let Some(cut) = self.cuts.get(&(id, transfer, to)) else {
            return;
        };
        let meta = SnapshotMeta {
            position: cut.position_at(cut.applied()),
            time: cut.state.last().map(|e| e.time).unwrap_or_default(),
            epoch_starts: Vec::new(),
        };
        let chunk = SnapshotChunk {
            number,
            data: bytes::Bytes::from(vec![id.0 as u8; 10]),
            last: (number == 2).then_some(meta),
        };
        if number <= 2 {
            self.later(id, Input::SnapshotPart { to, transfer, chunk });
        }
    }

    fn compare_and_swap(&mut self, id: NodeId, attempt: CasId, expected: ConfigVersion, proposal: GroupConfiguration) {
        let outcome = match self.metadata_for(id) {
            Metadata::Up => self.execute(expected, proposal),
            Metadata::Down => CasOutcome::Unknown,
            Metadata::AnswersLost => {
                self.execute(expected, proposal);
                CasOutcome::Unknown
            }
            Metadata::Late => {
                self.late.push((id, attempt, expected, proposal));
                CasOutcome::Unknown
            }
        };
        self.later(id, Input::CasOutcome { attempt, outcome });
    }

    fn metadata_for(&self, id: NodeId) -> Metadata {
        if self.blind.contains(&id) {
            Metadata::Down
        } else {
            self.metadata
        }
    }

    /// The compare-and-swap itself.
    pub fn execute(&mut self, expected: ConfigVersion, mut proposal: GroupConfiguration) -> CasOutcome {
        if self.configuration.version != expected {
            return CasOutcome::Lost(self.configuration.clone());
        }
        proposal.version = expected.next();
        if let Some(broken) = checks::succession(&self.configuration, &proposal) {
            self.checks.fail(broken);
        }
        self.configuration = proposal.clone();
        let shown = show::configuration(&proposal);
        self.trace.push(format!("metadata {shown}"));
        CasOutcome::Won(proposal)
    }

    fn later(&mut self, id: NodeId, input: Input) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.inbox.push_back(input);
        }
    }

    /// Everyone who watches the metadata store hears of its present state.
    pub fn notify(&mut self) {
        let ids: Vec<_> = self
            .nodes
            .keys()
            .copied()
            .filter(|id| !self.blind.contains(id))
            .collect();
        for id in ids {
            let configuration = self.configuration.clone();
            self.step(id, Input::Configuration { configuration });
        }
    }

    /// What the runner found out by itself: outcomes, parts of snapshots.
    pub fn drain_inbox(&mut self, id: NodeId) -> bool {
        let mut any = false;
        while let Some(input) = self.nodes.get_mut(&id).and_then(|n| n.inbox.pop_front()) {
            self.step(id, input);
            any = true;
        }
        any
    }

    /// Applies what is committed and answers the reads that waited for it.
    pub fn apply(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|n| n.core.is_some() && !n.apply_held) else {
            return;
        };
        let applied = node.volatile.applied();
        let reach = node.commit.min(node.volatile.last());
        if reach > applied {
            node.volatile.apply_to(reach);
            self.step(id, Input::Applied { through: reach });
        }
        self.evaluate_reads(id);
    }

    /// The disk completes the first `count` writes; what waited for them goes out.
    pub fn persist(&mut self, id: NodeId, count: usize) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else {
            return false;
        };
        let count = count.min(node.writes.len());
        for (write, change, cut) in node.writes.drain(..count) {
            node.durable.apply(&change, cut.as_ref());
            node.durable_through = write;
        }
        node.durable.adopt_state(&node.volatile);
        let through = node.durable_through;
        let mut ready = Vec::new();
        node.outbox.retain(|(after, to, message)| {
            let hold = after.is_some_and(|w| w > through);
            if !hold {
                ready.push((*to, message.clone()));
            }
            hold
        });
        for (to, message) in ready {
            self.wires.entry((id, to)).or_default().push_back(message);
        }
        if count > 0 {
            self.step(id, Input::Persisted { through });
        }
        count > 0
    }

    /// The next message of a link arrives, or is lost with the link cut or the receiver down.
    pub fn deliver(&mut self, from: NodeId, to: NodeId) -> bool {
        let Some(message) = self.wires.get_mut(&(from, to)).and_then(VecDeque::pop_front) else {
            return false;
        };
        self.delivered += 1;
        assert!(
            self.delivered < 100_000,
            "the network does not come to rest: {from} -> {to} {message:?}"
        );

        if !self.cut.contains(&(from, to)) {
            self.step(to, Input::Receive { from, message });
        }
        true
    }

    pub fn tick(&mut self, id: NodeId) {
        let disk_healthy = !self.nodes[&id].stalled;
        self.step(id, Input::Tick { disk_healthy });
    }

    pub fn propose(&mut self, id: NodeId, commands: &[&str]) {
        self.propose_as(id, commands, false);
    }

    pub fn propose_as(&mut self, id: NodeId, commands: &[&str], ends_doubt: bool) {
        let commands: Vec<_> = commands
            .iter()
            .map(|command| Proposal {
                id: ProposalId(self.next_id()),
                command: bytes::Bytes::from(command.to_string()),
                ends_doubt,
            })
            .collect();
        self.step(id, Input::Propose { commands });
    }

    pub fn crash(&mut self, id: NodeId) {
        self.say(id, "crashes");
        self.checks.forget_reads(id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.crash();
        }
    }

    /// The disk is empty: a new data id at the next start.
    pub fn wipe(&mut self, id: NodeId) {
        self.say(id, "loses its disk");
        let data = DataId(100 * id.0 + self.next_id());
        if let Some(node) = self.nodes.get_mut(&id) {
            node.crash();
            node.durable = Disk::new(data);
            node.volatile = node.durable.clone();
        }
    }

    pub fn restart(&mut self, id: NodeId) {
        self.say(id, "starts");
        let boot = BootId(self.next_id());
        let options = Options {
            node: id,
            ..self.options.clone()
        };
        let now = self.now(id);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.crash();
        let core = PrimaryBackup::new(options, node.durable.restored(boot), now);
        #[cfg(feature = "planted-bugs")]
        let core = match self.bug {
            Some(bug) => core.with_bug(bug),
            None => core,
        };
        if let Err(broken) = core.check_invariants() {
            self.checks.fail(format!("{id} after a start: {broken}"));
        }
        node.core = Some(core);
        let configuration = self.configuration.clone();
        if self.metadata_for(id) != Metadata::Down {
            self.step(id, Input::Configuration { configuration });
        }
    }
}

fn staged_cut(node: &Node, cuts: &BTreeMap<(NodeId, TransferId, NodeId), Disk>, change: &LogChange) -> Option<Disk> {
    let LogChange::InstallSnapshot { transfer, .. } = change else {
        return None;
    };
    let (from, staged) = node.staged?;
    assert_eq!(staged, *transfer, "installs what was staged");
    cuts.get(&(from, staged, node.id)).cloned()
}

impl World {
    /// Disks and network come to rest; no time passes.
    pub fn settle(&mut self) {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        loop {
            let mut any = false;
            for id in &ids {
                any |= self.drain_inbox(*id);
                let idle = self.nodes.get(id).is_some_and(|n| n.stalled || n.slow);
                any |= !idle && self.persist(*id, usize::MAX);
            }
            let links: Vec<_> = self.wires.keys().copied().filter(|l| !self.held.contains(l)).collect();
            for (from, to) in links {
                let count = self.wires.get(&(from, to)).map_or(0, VecDeque::len);
                for _ in 0..count {
                    any |= self.deliver(from, to);
                }
            }
            if !any {
                return;
            }
        }
    }

    /// Real time passes.
    pub fn pass(&mut self, ms: u64) {
        let end = self.time + ms;
        while self.time < end {
            self.time += 25.min(end - self.time);
            let ids: Vec<_> = self.nodes.keys().copied().collect();
            for id in ids {
                self.tick(id);
                self.settle();
            }
        }
    }
}
