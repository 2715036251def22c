//! What is done about a census: added, removed, handed over.

use crate::assessment::{Rebuild, learners, living_members, rebuilds_of};
use crate::census::{Census, GroupEntry};
use crate::choose::{Load, best, crowding, zone_counts};
use fulcrum_types::{ConfigVersion, Epoch, GroupId, Mono, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A group never has more replicas than it wants and so many, whatever dies while it is rebuilt.
const MORE_AT_MOST: usize = 2;
/// A hand-over that has not come about by then is taken for given up.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(10);
/// A rebuild that takes longer goes on, but holds up others no more.
const REBUILD_COUNTS_FOR: Duration = Duration::from_secs(1800);

/// What the world is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// One compare-and-swap of cluster map and configuration together: `placed` host the group, `replicas` belong to it.
    Place {
        /// The group.
        group: GroupId,
        /// The configuration that was seen.
        expected: ConfigVersion,
        /// Who keeps its data.
        placed: Vec<NodeId>,
        /// Who belongs to it.
        replicas: Vec<NodeId>,
        /// Why.
        reason: Reason,
    },
    /// The primary is asked to hand over.
    HandOver {
        /// The group.
        group: GroupId,
        /// Its primary.
        from: NodeId,
        /// A member in sync.
        to: NodeId,
    },
}

/// Why a group's replicas change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A node is to hold what another one can or shall hold no more.
    Rebuild,
    /// A replica is not needed any more.
    Remove,
    /// A node may let go of data that belongs to nobody.
    Release,
}

impl Reason {
    /// As metrics and logs name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Rebuild => "rebuild",
            Reason::Remove => "remove",
            Reason::Release => "release",
        }
    }
}

/// Why nothing is rebuilt though groups lack replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Half of the nodes that hold replicas or more are without a lease: that is no matter of single nodes.
    TooManyGone {
        /// Without a lease.
        gone: usize,
        /// All that hold replicas.
        of: usize,
    },
    /// No living node is left that could take a replica of these.
    NoRoom {
        /// The groups.
        groups: Vec<GroupId>,
    },
}

#[derive(Clone, Copy, Debug)]
struct Moving {
    group: GroupId,
    to: NodeId,
    since: Mono,
}

/// Decides. Keeps only since when what it sees is so.
#[derive(Clone, Debug)]
pub struct Placement {
    /// A gap between two looks that is longer says nothing about what was in between.
    patience: Duration,
    looked: Option<Mono>,
    gone: BTreeMap<NodeId, Mono>,
    epochs: BTreeMap<GroupId, Epoch>,
    /// The last failover of any group, as far as seen.
    failed_over: Option<Mono>,
    rebuilding: BTreeMap<Rebuild, Mono>,
    rebuilt: Vec<Rebuild>,
    moving: Option<Moving>,
    next_move: Mono,
    held: Option<Held>,
}

impl Placement {
    /// One that has seen nothing yet, and looks at least once in `patience`.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            looked: None,
            gone: BTreeMap::new(),
            epochs: BTreeMap::new(),
            failed_over: None,
            rebuilding: BTreeMap::new(),
            rebuilt: Vec::new(),
            moving: None,
            next_move: Mono::default(),
            held: None,
        }
    }

    /// Why nothing is rebuilt though groups lack replicas, as of the last step.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Rebuilds that came in sync between the last step and the one before.
    #[must_use]
    pub fn rebuilt(&self) -> &[Rebuild] {
        &self.rebuilt
    }

    /// Looks, and says what is to be done. What is not done, for whatever reason, is said again after the next look.
    pub fn step(&mut self, now: Mono, census: &Census, effects: &mut Vec<Effect>) {
        self.note_nodes(now, census);
        self.note_epochs(now, census);
        self.note_rebuilds(now, census);
        let mut turn = Turn::new(self.leaving(now, census), census);
        turn.release(effects);
        turn.remove(effects);
        self.rebuild(now, &mut turn, effects);
        self.hand_over(now, &turn, effects);
        self.looked = Some(now);
    }

    /// Since when each node is without a lease. What was not looked at does not count.
    fn note_nodes(&mut self, now: Mono, census: &Census) {
        if self.looked.is_none_or(|looked| now.since(looked) > self.patience) {
            self.gone.clear();
        }
        self.gone
            .retain(|node, _| census.nodes.get(node).is_some_and(|n| !n.alive));
        for (node, _) in census.nodes.iter().filter(|(_, n)| !n.alive) {
            self.gone.entry(*node).or_insert(now);
        }
    }

    /// A change of primary that was not asked for here is a failover; whoever begins takes all for new.
    fn note_epochs(&mut self, now: Mono, census: &Census) {
        self.epochs.retain(|group, _| census.groups.contains_key(group));
        for (id, group) in &census.groups {
            let c = &group.configuration;
            let moved = self.moving.is_some_and(|m| m.group == *id && Some(m.to) == c.primary);
            if self.epochs.insert(*id, c.epoch) != Some(c.epoch) && !moved {
                self.failed_over = Some(now);
            }
        }
        let over = |m: &mut Moving| {
            let primary = census.groups.get(&m.group).and_then(|g| g.configuration.primary);
            primary.is_none_or(|p| p == m.to) || now.since(m.since) > HAND_OVER_WITHIN
        };
        self.moving.take_if(over);
    }

    fn note_rebuilds(&mut self, now: Mono, census: &Census) {
        let running = census.groups.iter().flat_map(|(group, entry)| {
            let rebuilt = rebuilds_of(census, entry);
            rebuilt.map(|node| Rebuild { group: *group, node })
        });
        let running: BTreeSet<Rebuild> = running.collect();
        let in_sync = |r: &&Rebuild| {
            let entry = census.groups.get(&r.group);
            entry.is_some_and(|entry| entry.configuration.is_in_sync(r.node))
        };
        self.rebuilt = self.rebuilding.keys().filter(in_sync).copied().collect();
        self.rebuilding.retain(|rebuild, _| running.contains(rebuild));
        for rebuild in running {
            self.rebuilding.entry(rebuild).or_insert(now);
        }
    }

    /// Nodes whose replicas go elsewhere.
    fn leaving(&self, now: Mono, census: &Census) -> BTreeSet<NodeId> {
        let long = |since: &Mono| now.since(*since) >= census.settings.rebuild_after;
        let gone = self.gone.iter().filter(|(_, since)| long(since)).map(|(node, _)| *node);
        let draining = census.nodes.iter().filter(|(_, n)| n.draining).map(|(node, _)| *node);
        gone.chain(draining).collect()
    }

    fn rebuild(&mut self, now: Mono, turn: &mut Turn, effects: &mut Vec<Effect>) {
        self.held = turn.too_many_gone();
        if self.held.is_some() {
            return;
        }
        let counts = |since: &&Mono| now.since(**since) < REBUILD_COUNTS_FOR;
        let running = self.rebuilding.values().filter(counts).count();
        let room = turn.census.settings.rebuilds.saturating_sub(running);
        let no_room = turn.rebuild(room, effects);
        if !no_room.is_empty() {
            self.held = Some(Held::NoRoom { groups: no_room });
        }
    }

    /// At most one at a time: what a drained node leads first, then what makes the number of groups led more even.
    fn hand_over(&mut self, now: Mono, turn: &Turn, effects: &mut Vec<Effect>) {
        if self.moving.is_some() {
            return;
        }
        let may_balance = self.may_balance(now, turn);
        let chosen = turn.primary_that_must_go();
        let chosen = chosen.or_else(|| turn.uneven_primary().filter(|_| may_balance));
        let Some((group, from, to)) = chosen else { return };
        self.moving = Some(Moving { group, to, since: now });
        self.next_move = now + turn.census.settings.balance_pause;
        effects.push(Effect::HandOver { group, from, to });
    }

    /// Nothing failed over lately, nothing is short or changes, and the last hand-over is a while ago.
    fn may_balance(&self, now: Mono, turn: &Turn) -> bool {
        let settings = &turn.census.settings;
        let calm = self.failed_over.is_none_or(|at| now.since(at) >= settings.calm);
        calm && turn.is_quiet() && now >= self.next_move && !settings.balance_pause.is_zero()
    }
}

/// One look: what is leaving, and what was decided so far.
struct Turn<'a> {
    census: &'a Census,
    leaving: BTreeSet<NodeId>,
    loads: BTreeMap<NodeId, Load>,
    /// Groups of which something was decided: the next look goes on.
    touched: BTreeSet<GroupId>,
}

impl<'a> Turn<'a> {
    fn new(leaving: BTreeSet<NodeId>, census: &'a Census) -> Self {
        Self {
            census,
            leaving,
            loads: census.loads(),
            touched: BTreeSet::new(),
        }
    }

    fn place(
        &mut self,
        id: GroupId,
        placed: Vec<NodeId>,
        replicas: Vec<NodeId>,
        reason: Reason,
        effects: &mut Vec<Effect>,
    ) {
        self.touched.insert(id);
        effects.push(Effect::Place {
            group: id,
            expected: self.census.groups[&id].configuration.version,
            placed,
            replicas,
            reason,
        });
    }

    /// Data whose node is neither a replica nor listed in sync belongs to nobody.
    fn release(&mut self, effects: &mut Vec<Effect>) {
        for (id, group) in &self.census.groups {
            let c = &group.configuration;
            let kept = |node: &NodeId| c.replicas.contains(node) || c.is_in_sync(*node);
            let placed: Vec<NodeId> = group.placed.iter().copied().filter(kept).collect();
            if placed.len() < group.placed.len() {
                self.place(*id, placed, c.replicas.clone(), Reason::Release, effects);
            }
        }
    }

    /// Takes replicas out that are not needed: one a group and look.
    fn remove(&mut self, effects: &mut Vec<Effect>) {
        for (id, group) in &self.census.groups {
            if self.touched.contains(id) {
                continue;
            }
            let Some(node) = self.needless(group) else { continue };
            let c = &group.configuration;
            let replicas: Vec<NodeId> = c.replicas.iter().copied().filter(|n| *n != node).collect();
            let goes = |n: &NodeId| *n == node && !c.is_in_sync(*n);
            let placed = group.placed.iter().copied().filter(|n| !goes(n)).collect();
            self.place(*id, placed, replicas, Reason::Remove, effects);
        }
    }

    /// A replica without which as many living, staying members are in sync as the keyspace wants.
    fn needless(&self, group: &GroupEntry) -> Option<NodeId> {
        let c = &group.configuration;
        if c.replicas.len() <= group.wanted {
            return None;
        }
        let primary = c.primary?;
        let zones = zone_counts(c.replicas.iter().filter_map(|node| self.census.zone(*node)));
        let whole_without = |node: NodeId| {
            let staying = living_members(self.census, group).filter(|n| *n != node && !self.leaving.contains(n));
            staying.count() >= group.wanted
        };
        let candidates = c.replicas.iter().copied();
        let candidates = candidates.filter(|node| *node != primary && whole_without(*node));
        candidates.max_by_key(|node| {
            let crowded = self.census.zone(*node).and_then(|zone| zones.get(zone)).copied();
            let (gone, leaving) = (!self.census.is_alive(*node), self.leaving.contains(node));
            let load = self.loads.get(node).map_or(0, |load| load.replicas);
            (leaving, gone, !c.is_in_sync(*node), crowded.unwrap_or(0), load, *node)
        })
    }

    fn too_many_gone(&self) -> Option<Held> {
        let holds = |node: &NodeId| self.loads.get(node).is_some_and(|load| load.replicas > 0);
        let holders: Vec<NodeId> = self.census.nodes.keys().copied().filter(holds).collect();
        let gone = holders.iter().filter(|node| !self.census.is_alive(**node)).count();
        (gone > 0 && gone * 2 >= holders.len()).then_some(Held::TooManyGone {
            gone,
            of: holders.len(),
        })
    }

    /// Adds replicas where others leave, the shortest groups first. Answers the groups for which no node is left.
    fn rebuild(&mut self, mut room: usize, effects: &mut Vec<Effect>) -> Vec<GroupId> {
        let census = self.census;
        let mut receiving: BTreeSet<NodeId> = census.groups.values().flat_map(|g| learners(census, g)).collect();
        let mut short: Vec<(usize, GroupId)> = census
            .groups
            .iter()
            .filter(|(id, group)| self.is_short(group) && !self.touched.contains(id))
            .map(|(id, group)| (living_members(census, group).count(), *id))
            .collect();
        short.sort_unstable();
        let mut no_room = Vec::new();
        for (_, id) in short {
            let group = &census.groups[&id];
            let staying: Vec<NodeId> = self.staying(group).collect();
            let may = |node: NodeId| census.is_alive(node) && !self.leaving.contains(&node) && !group.involves(node);
            let Some(ideal) = best(id, &self.loads, &staying, may) else {
                no_room.push(id);
                continue;
            };
            // Zones go before haste: who receives already is waited for if only its zone is free.
            let crowd = |node: NodeId| crowding(&self.loads, &staying, node);
            let free = |node: NodeId| may(node) && !receiving.contains(&node) && crowd(node) == crowd(ideal);
            let Some(node) = best(id, &self.loads, &staying, free).filter(|_| room > 0) else {
                continue;
            };
            room -= 1;
            receiving.insert(node);
            if let Some(load) = self.loads.get_mut(&node) {
                load.replicas += 1;
            }
            let with = |nodes: &[NodeId]| nodes.iter().copied().chain([node]).collect();
            let (placed, replicas) = (with(&group.placed), with(&group.configuration.replicas));
            self.place(id, placed, replicas, Reason::Rebuild, effects);
        }
        no_room
    }

    /// Replicas that are to stay, dead for a moment or not.
    fn staying(&self, group: &GroupEntry) -> impl Iterator<Item = NodeId> {
        let replicas = group.configuration.replicas.iter().copied();
        replicas.filter(|node| !self.leaving.contains(node) || self.is_vouched_for(group, *node))
    }

    /// Its lease is gone, but the group's primary hears it: it is in sync, so there is nothing to rebuild.
    fn is_vouched_for(&self, group: &GroupEntry, node: NodeId) -> bool {
        !self.census.is_draining(node) && group.configuration.is_in_sync(node)
    }

    /// Whether a group needs another replica, and has a primary that can bring one up.
    fn is_short(&self, group: &GroupEntry) -> bool {
        let c = &group.configuration;
        let led = c.primary.is_some_and(|primary| self.census.is_alive(primary));
        led && self.staying(group).count() < group.wanted && c.replicas.len() < group.wanted + MORE_AT_MOST
    }

    /// No group is short, none is brought up, none was touched in this look.
    fn is_quiet(&self) -> bool {
        let whole =
            |g: &GroupEntry| living_members(self.census, g).count() >= g.wanted.min(g.configuration.replicas.len());
        self.touched.is_empty() && self.census.groups.values().all(whole)
    }

    fn led(&self, node: NodeId) -> usize {
        self.loads.get(&node).map_or(0, |load| load.firsts)
    }

    /// Members that could lead a group instead of `from`.
    fn successors(&self, group: &GroupEntry, from: NodeId) -> impl Iterator<Item = NodeId> {
        living_members(self.census, group).filter(move |node| *node != from && !self.leaving.contains(node))
    }

    /// A group led by a drained node, or by one that is no replica any more, which another one could lead.
    fn primary_that_must_go(&self) -> Option<(GroupId, NodeId, NodeId)> {
        self.census.groups.iter().find_map(|(id, group)| {
            let from = group.configuration.primary.filter(|p| self.census.is_alive(*p))?;
            let stays = !self.census.is_draining(from) && group.configuration.replicas.contains(&from);
            if stays || self.touched.contains(id) {
                return None;
            }
            let to = self
                .successors(group, from)
                .min_by_key(|node| (self.led(*node), *node))?;
            Some((*id, from, to))
        })
    }

    /// A group whose move makes the numbers of groups led more even: the one that does most.
    fn uneven_primary(&self) -> Option<(GroupId, NodeId, NodeId)> {
        let moves = self.census.groups.iter().flat_map(|(id, group)| {
            let from = group.configuration.primary.filter(|p| self.census.is_alive(*p));
            let to = from
                .into_iter()
                .flat_map(|from| self.successors(group, from).map(move |to| (from, to)));
            to.map(|(from, to)| (*id, from, to))
        });
        let gain = |from: NodeId, to: NodeId| self.led(from).saturating_sub(self.led(to));
        let helps = moves.filter(|(_, from, to)| gain(*from, *to) >= 2);
        helps.max_by_key(|(id, from, to)| (gain(*from, *to), std::cmp::Reverse(*id)))
    }
}
