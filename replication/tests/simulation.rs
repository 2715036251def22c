//! A small simulation of cores only: one seed fixes mode, faults and load. Messages are lost, doubled and reordered, links
//! cut, nodes crash with the loss of what is not durable, disks stall, clocks run apart within the bound, the metadata store answers
//! late or never. Invariants are checked after every step; then everything heals and must make progress.
//!
//! `SIM_SEED=n` replays one seed and prints its trace; `SIM_SEEDS=n` runs more.

mod world;

use fulcrum_core_testing::Rng;
#[cfg(feature = "planted-bugs")]
use fulcrum_replication::primary_backup::planted::Bug;
use fulcrum_replication::{Input, LogChange, Options, ReadWanted};
use fulcrum_types::{Epoch, GroupConfiguration, GroupId, Index, LogPosition, Mode, NodeId};
use std::collections::BTreeSet;
use std::time::Duration;
use world::{Metadata, World};

struct Simulation {
    rng: Rng,
    world: World,
    ids: Vec<NodeId>,
    writes: u64,
    /// Replicas come and go in this run.
    replace: bool,
}

impl Simulation {
    fn new(seed: u64, mode: Mode) -> Self {
        Self::build(seed, mode, |_| {})
    }

    #[cfg(feature = "planted-bugs")]
    fn new_with(seed: u64, mode: Mode, bug: Option<Bug>) -> Self {
        Self::build(seed, mode, |world| world.bug = bug)
    }

    fn build(seed: u64, mode: Mode, prepare: impl FnOnce(&mut World)) -> Self {
        let mut rng = Rng::new(seed ^ ((mode == Mode::Async) as u64) << 40);
        let nodes = if rng.chance(70) { 3 } else { 2 + rng.below(3) };
        let mut options = Options::new(GroupId(1), NodeId(1), mode);
        options.min_in_sync = 1 + rng.below(2) as usize;
        options.retain_bytes = 200 + rng.below(3000) as usize;
        options.append_bytes = 40 + rng.below(400) as usize;
        options.in_flight_bytes = 200 + rng.below(2000) as usize;
        options.lag_entries = 8 + rng.below(40);
        options.waiting_max = 20 + rng.below(100) as usize;
        options.validate().expect("options");
        let replace = rng.chance(50);
        let mut world = World::new(options, nodes);
        prepare(&mut world);
        let ids: Vec<_> = world.nodes.keys().copied().collect();
        let bound = world.options.drift_ppm as u64;
        for id in &ids {
            // Rates within half the bound of the true one are within the bound of each other.
            let ppm = rng.below(bound) as i64 - bound as i64 / 2;
            let time = world.time;
            if let Some(node) = world.nodes.get_mut(id) {
                node.set_clock(time, None, ppm);
                node.wall_offset = rng.below(4000) as i64 - 2000;
            }
            world.restart(*id);
        }
        Self {
            rng,
            world,
            ids,
            writes: 0,
            replace,
        }
    }

    fn node(&mut self) -> NodeId {
        let at = self.rng.below(self.ids.len() as u64) as usize;
        self.ids[at]
    }

    /// The node that takes itself for primary, mostly.
    fn writer(&mut self) -> NodeId {
        let time = self.world.time;
        let ready = |id: &&NodeId| self.world.nodes[id].status(time).is_some_and(|s| s.ready);
        let ready: Vec<_> = self.ids.iter().filter(ready).copied().collect();
        match self.rng.pick(&ready) {
            Some(id) if !self.rng.chance(10) => id,
            _ => self.node(),
        }
    }

    fn traffic(&mut self) {
        let links: Vec<_> = self
            .world
            .wires
            .iter()
            .filter(|(_, w)| !w.is_empty())
            .map(|(l, _)| *l)
            .collect();
        let Some(link) = self.rng.pick(&links) else { return };
        let Some(wire) = self.world.wires.get_mut(&link) else {
            return;
        };
        let len = wire.len() as u64;
        if self.rng.chance(15) {
            let (a, b) = (self.rng.below(len) as usize, self.rng.below(len) as usize);
            wire.swap(a, b);
        }
        if self.rng.chance(3) {
            wire.pop_front();
        }
        if self.rng.chance(3)
            && let Some(copy) = wire.front().cloned()
        {
            wire.push_back(copy);
        }
        for _ in 0..=self.rng.below(6) {
            self.world.deliver(link.0, link.1);
        }
    }

    fn client(&mut self) {
        let id = self.writer();
        if self.rng.chance(60) {
            let commands: Vec<String> = (0..=self.rng.below(4))
                .map(|i| format!("w{}", self.writes + i))
                .collect();
            self.writes += commands.len() as u64;
            let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
            self.world.propose(id, &commands);
            return;
        }
        let id = if self.rng.chance(50) { self.node() } else { id };
        let acknowledged: Vec<_> = self.world.checks.acknowledged.keys().copied().collect();
        let wanted = match self.rng.below(6) {
            0..=2 => ReadWanted::Linearizable,
            3 => ReadWanted::Bounded(Duration::from_millis(50 + self.rng.below(3000))),
            4 => ReadWanted::Eventual,
            _ => ReadWanted::Session(
                self.rng
                    .pick(&acknowledged)
                    .map(|(index, epoch)| LogPosition { epoch, index }),
            ),
        };
        self.world.read(id, wanted);
    }

    fn fault(&mut self) {
        let id = self.node();
        let other = self.node();
        match self.rng.below(22) {
            0..=2 => self.world.crash(id),
            3..=5 if self.world.nodes[&id].core.is_none() => self.world.restart(id),
            6 if id != other => {
                self.world.cut.insert((id, other));
            }
            7 => {
                for other in self.ids.clone() {
                    if other != id {
                        self.world.cut.extend([(id, other), (other, id)]);
                    }
                }
            }
            8..=10 => {
                self.world.cut.clear();
                self.world.blind.clear();
            }
            11 => self.with(id, |n| n.stalled = true),
            12 => self.with(id, |n| n.slow = true),
            13 => self.with(id, |n| (n.stalled, n.slow, n.apply_held) = (false, false, false)),
            14 => self.with(id, |n| n.apply_held = true),
            15 => {
                let modes = [
                    Metadata::Up,
                    Metadata::Up,
                    Metadata::Down,
                    Metadata::AnswersLost,
                    Metadata::Late,
                ];
                self.world.metadata = self.rng.pick(&modes).unwrap_or(Metadata::Up);
            }
            16 => {
                for (_, _, expected, proposal) in std::mem::take(&mut self.world.late) {
                    self.world.execute(expected, proposal);
                }
            }
            17 if self.rng.chance(50) => {
                self.world.blind.insert(id);
            }
            17 => self.world.notify(),
            18 if self.rng.chance(30) => {
                let to = if self.rng.chance(50) { Some(other) } else { None };
                self.world.step(id, Input::HandOver { to });
            }
            19 if self.rng.chance(20) => self.lose_disk(id),
            20..=21 if self.replace => self.change_replicas(id),
            _ => {}
        }
    }

    fn with(&mut self, id: NodeId, change: impl FnOnce(&mut world::node::Node)) {
        if let Some(node) = self.world.nodes.get_mut(&id) {
            change(node);
        }
    }

    /// What placement does, and more hastily: takes a replica out while another is in sync, its data too if it is not listed; adds it again.
    fn change_replicas(&mut self, id: NodeId) {
        let c = &self.world.configuration;
        let mut changed = c.clone();
        if c.epoch == Epoch::ZERO || c.primary == Some(id) {
            return;
        }
        if !c.replicas.contains(&id) {
            // In `async` the data may be all that is left of what was lost.
            if !c.is_in_sync(id) && self.world.options.mode == Mode::Sync && self.rng.chance(50) {
                self.world.wipe(id);
                self.world.restart(id);
            }
            changed.replicas.push(id);
        } else if c.in_sync.iter().any(|m| m.node != id && c.replicas.contains(&m.node)) {
            changed.replicas.retain(|n| *n != id);
        }
        self.world.execute(changed.version, changed.clone());
    }

    /// Within what the mode survives: in `sync` another in-sync copy must be left.
    fn lose_disk(&mut self, id: NodeId) {
        let w = &self.world;
        let intact = w
            .configuration
            .in_sync
            .iter()
            .filter(|m| w.nodes[&m.node].durable.data == m.data && m.node != id);
        let proposals_pending = !w.late.is_empty();
        if w.options.mode == Mode::Sync && intact.count() >= 1 && !proposals_pending {
            self.world.wipe(id);
        }
    }

    fn disturb(&mut self, steps: u64) {
        let calm = self.rng.chance(30);
        for _ in 0..steps {
            self.world.time += self.rng.below(12);
            match self.rng.below(100) {
                0..=24 => {
                    let id = self.node();
                    self.world.tick(id);
                }
                25..=54 => self.traffic(),
                55..=74 => {
                    let id = self.node();
                    let idle = self.world.nodes[&id].stalled || self.world.nodes[&id].slow;
                    let count = if idle { 0 } else { 1 + self.rng.below(8) as usize };
                    self.world.persist(id, count);
                }
                75..=84 => {
                    let id = self.node();
                    self.world.drain_inbox(id);
                    self.world.apply(id);
                }
                85..=96 => self.client(),
                _ if calm && self.rng.chance(70) => {}
                _ => self.fault(),
            }
            if !self.world.checks.broken.is_empty() {
                return;
            }
        }
    }

    /// Everything works again: a write must be acknowledged, all replicas agree, and what was acknowledged is there or on record.
    fn heal(&mut self) -> Result<(), String> {
        let w = &mut self.world;
        w.cut.clear();
        w.blind.clear();
        w.metadata = Metadata::Up;
        for (_, _, expected, proposal) in std::mem::take(&mut w.late) {
            w.execute(expected, proposal);
        }
        let whole = GroupConfiguration {
            replicas: self.ids.clone(),
            ..w.configuration.clone()
        };
        if w.configuration.primary.is_some() {
            w.execute(whole.version, whole);
        }
        for id in self.ids.clone() {
            if let Some(node) = w.nodes.get_mut(&id) {
                (node.stalled, node.slow, node.apply_held) = (false, false, false);
            }
            if w.nodes[&id].core.is_none() {
                w.restart(id);
            }
        }
        w.notify();
        let before = w.checks.acknowledged.len();
        for _ in 0..60 {
            w.pass(250);
            let time = w.time;
            let ready = self
                .ids
                .iter()
                .find(|id| w.nodes[id].status(time).is_some_and(|s| s.ready))
                .copied();
            let whole = w.configuration.in_sync.len() == self.ids.len();
            if let Some(id) = ready
                && whole
            {
                w.propose(id, &["last"]);
                w.pass(250);
                // A replica that was added this moment has not echoed yet: without a lease a write is refused once more.
                if w.checks.acknowledged.len() > before {
                    break;
                }
            }
        }
        if let Some(broken) = w.checks.broken.first() {
            return Err(broken.clone());
        }
        if w.checks.acknowledged.len() == before {
            return Err("no progress after healing".into());
        }
        // Who diverged while listed is removed first, and rebuilt: that takes some seconds.
        for _ in 0..40 {
            if self.agree().is_ok() {
                break;
            }
            self.world.pass(250);
        }
        self.agree()?;
        self.certificates_are_true()?;
        self.world
            .checks
            .broken
            .first()
            .map_or(Ok(()), |broken| Err(broken.clone()))
    }

    /// No disk was lost in `async`: whatever happened, every certificate knows its extent in the end. And if any one disk had never come back
    /// they would know it only if the others have all that is lost on record.
    fn certificates_are_true(&self) -> Result<(), String> {
        let w = &self.world;
        if w.options.mode == Mode::Sync {
            return Ok(());
        }
        if let Some((old, new, _)) = w.certificates(None).into_iter().find(|(_, _, known)| !known) {
            return Err(format!(
                "the extent of {old} -> {new} is unknown, and every disk is there"
            ));
        }
        let lost = self.lost();
        for id in &self.ids {
            let on_record = self.on_record(Some(*id));
            let certain = w.certificates(Some(*id)).into_iter().all(|(_, _, known)| known);
            if let Some(hidden) = lost.iter().find(|at| certain && !on_record.contains(at)) {
                return Err(format!(
                    "{hidden:?} is lost, only {id} knows, and all certificates seem complete"
                ));
            }
        }
        Ok(())
    }

    /// The entries that the disks have on record as lost, one of them left out perhaps.
    fn on_record(&self, without: Option<NodeId>) -> BTreeSet<(Index, Epoch)> {
        let disks = self.world.nodes.values().filter(|n| Some(n.id) != without);
        let changes = disks.flat_map(|node| &node.volatile.certificates);
        let entries = changes.flat_map(|change| match change {
            LogChange::Diverged(record) => record.entries.as_slice(),
            _ => &[],
        });
        entries.map(|e| (e.position.index, e.position.epoch)).collect()
    }

    /// What was acknowledged and is in no history at the end.
    fn lost(&self) -> Vec<(Index, Epoch)> {
        let history = self.world.nodes.values().next().map(|n| n.volatile.state.as_slice());
        let kept: BTreeSet<(Index, Epoch)> = (history.unwrap_or_default().iter())
            .map(|e| (e.position.index, e.position.epoch))
            .collect();
        let acknowledged = self.world.checks.acknowledged.keys();
        acknowledged.filter(|at| !kept.contains(*at)).copied().collect()
    }

    fn agree(&self) -> Result<(), String> {
        let w = &self.world;
        let histories: Vec<_> = w.nodes.values().map(|n| &n.volatile.state).collect();
        if let Some(odd) = histories.iter().find(|h| **h != histories[0]) {
            return Err(format!(
                "replicas differ at the end: {} and {} entries",
                odd.len(),
                histories[0].len()
            ));
        }
        let on_record = self.on_record(None);
        let mut lost = self.lost();
        lost.retain(|at| w.options.mode == Mode::Sync || !on_record.contains(at));
        if lost.is_empty() {
            Ok(())
        } else {
            Err(format!("acknowledged and gone without a record: {lost:?}"))
        }
    }
}

/// A few hundred seeds of cores alone find all planted bugs but these. They want rarer meetings, or what only whole nodes have:
/// the simulation of nodes finds them (`tests/mutants.txt`), or a golden story tells of them.
#[cfg(feature = "planted-bugs")]
const TOO_RARE: [Bug; 9] = [
    Bug::DropFencing,
    Bug::SkipLeaseRecheck,
    Bug::IgnoreBootId,
    Bug::ServeBeforeNoop,
    Bug::OldRoundCounts,
    Bug::KeepLeaseAtHandOver,
    Bug::ForgetLeaving,
    Bug::AcknowledgeWithoutLease,
    Bug::FollowWallClock,
];

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_found() {
    let seeds = std::env::var("SIM_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(400);
    let mut survivors = Vec::new();
    for bug in Bug::ALL.iter().filter(|bug| !TOO_RARE.contains(bug)) {
        let hunt = |seed: u64| {
            [Mode::Sync, Mode::Async].into_iter().find_map(|mode| {
                let run = || play(Simulation::new_with(seed, mode, Some(*bug)), seed, mode, false);
                std::panic::catch_unwind(run).map_or_else(|_| Some("an assertion failed".into()), Result::err)
            })
        };
        match (1..=seeds).find_map(|seed| Some((seed, hunt(seed)?))) {
            Some((seed, how)) => println!("{:<26} seed {seed}: {how}", bug.name()),
            None => survivors.push(bug.name()),
        }
    }
    assert!(survivors.is_empty(), "these survive: {survivors:?}");
}

/// Whether one seed holds; the trace of a failure goes to standard error.
fn holds(seed: u64, mode: Mode, loud: bool) -> Result<(u64, u64), String> {
    play(Simulation::new(seed, mode), seed, mode, loud)
}

fn play(mut sim: Simulation, seed: u64, mode: Mode, loud: bool) -> Result<(u64, u64), String> {
    let steps = 1500 + sim.rng.below(2500);
    sim.disturb(steps);
    let result = match sim.world.checks.broken.first() {
        Some(broken) => Err(broken.clone()),
        None => sim.heal(),
    };
    if loud {
        sim.world.trace.iter().for_each(|line| eprintln!("{line}"));
    }
    result.map_err(|e| format!("seed {seed} {mode}: {e}"))?;
    Ok((sim.world.checks.acknowledged.len() as u64, sim.world.checks.served))
}

fn run(mode: Mode) {
    if let Some(seed) = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()) {
        holds(seed, mode, true).expect("holds");
        return;
    }
    let seeds = std::env::var("SIM_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(200);
    let (mut acknowledged, mut served, mut broken) = (0, 0, Vec::new());
    for seed in 1..=seeds {
        match holds(seed, mode, false) {
            Ok((a, s)) => (acknowledged, served) = (acknowledged + a, served + s),
            Err(e) => broken.push(e),
        }
    }
    let shown: Vec<_> = broken.iter().take(10).cloned().collect();
    assert!(
        broken.is_empty(),
        "{} of {seeds} seeds:\n{}",
        broken.len(),
        shown.join("\n")
    );
    assert!(
        acknowledged > seeds * 10 && served > seeds * 5,
        "too little happened: {acknowledged} {served}"
    );
}

#[test]
fn sync_keeps_its_promises() {
    run(Mode::Sync);
}

#[test]
fn async_keeps_its_promises() {
    run(Mode::Async);
}
