//! A cluster in a few lines: nodes that live and die, groups that fail over, evict and admit as primary/backup does.

use fulcrum_placement::{Census, Effect, GroupEntry, Load, NodeEntry, Placement, Settings, place};
use fulcrum_types::{ConfigVersion, DataId, Epoch, GroupConfiguration, GroupId, Member, Mono, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Chance for tests (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end.max(1)
    }
}

pub struct World {
    pub census: Census,
    pub placement: Placement,
    pub second: u64,
    /// Seconds that a learner needs.
    pub catch_up: u64,
    learning: BTreeMap<(GroupId, NodeId), u64>,
    pub hand_overs: usize,
    pub rebuilds: usize,
    pub rebuilt: usize,
}

pub fn settings() -> Settings {
    Settings {
        rebuild_after: Duration::from_secs(30),
        rebuilds: 2,
        balance_pause: Duration::from_secs(3),
        calm: Duration::from_secs(10),
    }
}

impl World {
    pub fn new(nodes: u64, zones: u64, groups: u64, wanted: usize) -> Self {
        let zone = |i: u64| (zones > 0).then(|| format!("z{}", i % zones));
        let mut census = Census {
            settings: settings(),
            ..Census::default()
        };
        for i in 1..=nodes {
            let entry = NodeEntry {
                zone: zone(i),
                alive: true,
                draining: false,
            };
            census.nodes.insert(NodeId(i), entry);
        }
        let mut loads: BTreeMap<NodeId, Load> = census.loads();
        for id in (1..=groups).map(GroupId) {
            let replicas = place(id, wanted, &mut loads).unwrap();
            let member = |node: &NodeId| Member {
                node: *node,
                data: DataId(1),
            };
            let configuration = GroupConfiguration {
                version: ConfigVersion(1),
                epoch: Epoch(1),
                primary: Some(replicas[0]),
                in_sync: replicas.iter().map(member).collect(),
                replicas: replicas.clone(),
            };
            let entry = GroupEntry {
                wanted,
                placed: replicas,
                configuration,
            };
            census.groups.insert(id, entry);
        }
        Self {
            census,
            placement: Placement::new(Duration::from_secs(5)),
            second: 0,
            catch_up: 5,
            learning: BTreeMap::new(),
            hand_overs: 0,
            rebuilds: 0,
            rebuilt: 0,
        }
    }

    pub fn set_alive(&mut self, node: u64, alive: bool) {
        self.census.nodes.get_mut(&NodeId(node)).unwrap().alive = alive;
    }

    pub fn now(&self) -> Mono {
        Mono(self.second * 1_000_000_000)
    }

    /// A second passes; placement looks, and what it wants is done unless `lost` says so.
    pub fn tick(&mut self, mut lost: impl FnMut() -> bool) -> Vec<Effect> {
        self.second += 1;
        self.replicate();
        let mut effects = Vec::new();
        self.placement.step(self.now(), &self.census.clone(), &mut effects);
        let one_hand_over = effects.iter().filter(|e| matches!(e, Effect::HandOver { .. })).count() <= 1;
        assert!(one_hand_over, "{effects:?}");
        self.rebuilt += self.placement.rebuilt().len();
        self.check_rebuilds(&effects);
        for effect in &effects {
            self.check(effect);
            if !lost() {
                self.run(effect);
            }
        }
        effects
    }

    pub fn run_for(&mut self, seconds: u64) -> Vec<Effect> {
        (0..seconds).flat_map(|_| self.tick(|| false)).collect()
    }

    /// Failover, eviction and admission, as the groups' own replicas do them.
    fn replicate(&mut self) {
        let alive: BTreeSet<NodeId> = self
            .census
            .nodes
            .iter()
            .filter(|(_, n)| n.alive)
            .map(|(id, _)| *id)
            .collect();
        for (id, group) in &mut self.census.groups {
            let c = &mut group.configuration;
            let before = c.clone();
            if !c.primary.is_some_and(|p| alive.contains(&p)) {
                let Some(next) = c.in_sync.iter().map(|m| m.node).find(|n| alive.contains(n)) else {
                    continue;
                };
                c.in_sync.retain(|m| Some(m.node) != c.primary);
                c.primary = Some(next);
                c.epoch = c.epoch.next();
            } else {
                let primary = c.primary;
                let listed = c.replicas.clone();
                c.in_sync
                    .retain(|m| Some(m.node) == primary || (alive.contains(&m.node) && listed.contains(&m.node)));
                for node in c.replicas.iter().filter(|n| alive.contains(n)) {
                    let joined = c.in_sync.iter().any(|m| m.node == *node);
                    let learnt = self.learning.entry((*id, *node)).or_insert(0);
                    *learnt = if joined { 0 } else { *learnt + 1 };
                    if *learnt >= self.catch_up {
                        c.in_sync.push(Member {
                            node: *node,
                            data: DataId(1),
                        });
                    }
                }
                c.in_sync.sort_unstable();
            }
            if *c != before {
                c.version = c.version.next();
            }
        }
    }

    /// What no effect may do, whatever was seen.
    fn check(&self, effect: &Effect) {
        let Effect::Place {
            group,
            expected,
            placed,
            replicas,
            ..
        } = effect
        else {
            return;
        };
        let entry = &self.census.groups[group];
        let c = &entry.configuration;
        assert_eq!(*expected, c.version);
        let distinct: BTreeSet<&NodeId> = replicas.iter().collect();
        assert_eq!(distinct.len(), replicas.len(), "two replicas on one node: {effect:?}");
        assert!(replicas.len() <= entry.wanted + 2, "{effect:?}");
        assert!(replicas.iter().all(|n| placed.contains(n)), "{effect:?}");
        let removed: Vec<&NodeId> = c.replicas.iter().filter(|n| !replicas.contains(n)).collect();
        if !removed.is_empty() {
            let left = c.in_sync.iter().map(|m| m.node);
            let left = left
                .filter(|n| replicas.contains(n) && self.census.nodes[n].alive)
                .count();
            assert!(left >= entry.wanted, "{effect:?} leaves {left} of {c:?}");
            assert!(!removed.contains(&&c.primary.unwrap()), "{effect:?}");
        }
        for node in entry.placed.iter().filter(|n| !placed.contains(n)) {
            assert!(
                !c.is_in_sync(*node) && !replicas.contains(node),
                "{effect:?} drops data of {c:?}"
            );
        }
        for node in placed.iter().filter(|n| !entry.placed.contains(n)) {
            assert!(self.census.nodes[node].alive, "{effect:?}");
        }
    }

    /// Few rebuilds at a time, one at a receiver, none where a replica is catching up already.
    fn check_rebuilds(&self, effects: &[Effect]) {
        let mut receivers = BTreeSet::new();
        for effect in effects {
            let Effect::Place { group, replicas, .. } = effect else {
                continue;
            };
            let before = &self.census.groups[group].configuration.replicas;
            for node in replicas.iter().filter(|n| !before.contains(n)) {
                let busy = self.census.groups.values().any(|g| {
                    let c = &g.configuration;
                    c.replicas.contains(node) && !c.is_in_sync(*node)
                });
                assert!(!busy && receivers.insert(*node), "{node} receives twice: {effects:?}");
            }
        }
        let running = fulcrum_placement::assess(&self.census).rebuilds.len();
        let most = self.census.settings.rebuilds;
        assert!(
            receivers.len() <= most.saturating_sub(running),
            "{running} run, and {effects:?}"
        );
    }

    fn run(&mut self, effect: &Effect) {
        match effect {
            Effect::Place {
                group,
                placed,
                replicas,
                reason,
                ..
            } => {
                let entry = self.census.groups.get_mut(group).unwrap();
                entry.placed.clone_from(placed);
                entry.configuration.replicas.clone_from(replicas);
                entry.configuration.version = entry.configuration.version.next();
                self.rebuilds += usize::from(*reason == fulcrum_placement::Reason::Rebuild);
            }
            Effect::HandOver { group, from, to } => {
                let c = &mut self.census.groups.get_mut(group).unwrap().configuration;
                assert!(c.primary == Some(*from) && c.is_in_sync(*to));
                c.primary = Some(*to);
                c.epoch = c.epoch.next();
                c.version = c.version.next();
                self.hand_overs += 1;
            }
        }
    }

    pub fn led_by(&self, node: u64) -> usize {
        let groups = self.census.groups.values();
        groups.filter(|g| g.configuration.primary == Some(NodeId(node))).count()
    }

    pub fn replicas_of(&self, node: u64) -> usize {
        self.census.groups.values().filter(|g| g.involves(NodeId(node))).count()
    }

    /// Every group has as many living members as it wants, and no more.
    pub fn is_whole(&self) -> bool {
        let assessment = fulcrum_placement::assess(&self.census);
        let exact = |g: &GroupEntry| g.configuration.replicas.len() == g.wanted && g.placed.len() == g.wanted;
        assessment.under_replicated.is_empty() && self.census.groups.values().all(exact)
    }
}
