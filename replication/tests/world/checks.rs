//! What must hold over the whole cluster, whatever happens to it.

use super::World;
use fulcrum_replication::{Answered, Input, LogChange, ReadId, ReadPermit, ReadWanted, Replica, Status};
use fulcrum_types::{Accounts, Entry, Epoch, GroupConfiguration, Index, Mode, NodeId, Payload};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Default)]
pub struct Checks {
    pub broken: Vec<String>,
    /// An operator forced a start: committed entries may be gone, with a certificate.
    pub forced: bool,
    /// `sync`: the one committed history.
    pub history: Vec<Entry>,
    /// Acknowledged entries and when, in real time.
    pub acknowledged: BTreeMap<(Index, Epoch), u64>,
    /// Entries in a durable (or to be durable) divergence record.
    pub diverged: BTreeSet<(Index, Epoch)>,
    /// Linearizable reads under way: the highest index acknowledged when each arrived.
    pub reads: BTreeMap<ReadId, (NodeId, Index, ReadWanted)>,
    pub served: u64,
    pub epochs_led: BTreeMap<Epoch, NodeId>,
}

impl Checks {
    pub fn fail(&mut self, what: String) {
        self.broken.push(what);
    }

    pub fn wrote(&mut self, id: NodeId, change: &LogChange) {
        match change {
            LogChange::Diverged(d) => self
                .diverged
                .extend(d.entries.iter().map(|e| (e.position.index, e.position.epoch))),
            LogChange::Append(entries) => {
                let noop = entries.iter().find(|e| e.payload == Payload::Noop);
                if let Some(noop) = noop {
                    self.epochs_led.entry(noop.position.epoch).or_insert(id);
                }
            }
            _ => {}
        }
    }

    /// `sync`: what one replica commits, all commit.
    pub fn committed(&mut self, mode: Mode, id: NodeId, through: Index, log: Vec<Entry>) {
        if log.last().map(|e| e.position.index) != Some(through) {
            self.fail(format!("{id} commits {through} beyond its log"));
        }
        if log.windows(2).any(|w| w[0].time > w[1].time) {
            self.fail(format!("{id}: replicated time goes back"));
        }
        if mode == Mode::Async || self.forced {
            return;
        }
        for (ours, theirs) in log.iter().zip(&self.history) {
            if ours != theirs {
                self.fail(format!(
                    "{id} commits {} where {} was committed",
                    ours.position, theirs.position
                ));
                return;
            }
        }
        if log.len() > self.history.len() {
            self.history = log;
        }
    }

    pub fn forget_reads(&mut self, node: NodeId) {
        self.reads.retain(|_, (at, _, _)| *at != node);
    }

    fn newest_acknowledged(&self) -> Index {
        self.acknowledged.keys().map(|(i, _)| *i).max().unwrap_or_default()
    }
}

/// How a configuration may follow another.
pub fn succession(old: &GroupConfiguration, new: &GroupConfiguration) -> Option<String> {
    if new.epoch < old.epoch || new.epoch > old.epoch.next() {
        return Some(format!("epoch {} after {}", new.epoch, old.epoch));
    }
    if new.epoch == old.epoch && new.primary != old.primary {
        return Some("a primary changed without a new epoch".into());
    }
    let primary = new.in_sync.iter().find(|m| Some(m.node) == new.primary);
    if primary.is_none() {
        return Some("the primary is not in the in-sync set".into());
    }
    None
}

impl World {
    /// Every certificate that was opened on a disk, and whether its extent is known by what the disks have together, one of them left
    /// out perhaps.
    pub fn certificates(&self, without: Option<NodeId>) -> Vec<(Epoch, Epoch, bool)> {
        let disks = || {
            self.nodes
                .values()
                .filter(|n| Some(n.id) != without)
                .map(|n| &n.volatile)
        };
        let mut accounts = Accounts::default();
        for change in disks().flat_map(|disk| &disk.certificates) {
            match change {
                LogChange::OpenCertificate { old_epoch, deposed, .. } => {
                    deposed.iter().for_each(|by| accounts.won(*old_epoch, *by));
                }
                LogChange::Diverged(record) if record.complete => accounts.given(record.old_epoch, record.new_epoch),
                LogChange::VoidEpoch { epoch } => accounts.void(*epoch),
                LogChange::Unled {
                    who,
                    first,
                    last,
                    before,
                } => {
                    accounts.unled(*who, *first, *last);
                    before.iter().for_each(|by| accounts.won(first.prev(), *by));
                }
                _ => {}
            }
        }
        let written = self.nodes.values().flat_map(|node| &node.volatile.certificates);
        let opened = written.filter_map(|change| match change {
            LogChange::OpenCertificate {
                old_epoch, new_epoch, ..
            } => Some((*old_epoch, *new_epoch, accounts.extent_known(*new_epoch))),
            _ => None,
        });
        opened.collect()
    }

    /// What ends doubt is answered ahead of others: committed, and durable where it says.
    pub fn acknowledged_alone(&mut self, id: NodeId, at: &[Index], by: &[NodeId]) {
        for index in at {
            if *index > self.nodes[&id].commit {
                self.checks
                    .fail(format!("{id} acknowledges {index}, which is not committed"));
            }
            let position = self.nodes[&id]
                .volatile
                .history_to(*index)
                .last()
                .map(|entry| entry.position);
            let lacking = by
                .iter()
                .find(|node| !position.is_some_and(|at| self.nodes[node].durable.holds(at)));
            if let Some(node) = lacking {
                self.checks
                    .fail(format!("{id} says {node} holds {index} durably, it does not"));
            }
        }
    }

    pub fn acknowledged(&mut self, id: NodeId, through: Index, by: &[NodeId]) {
        let time = self.time;
        let entries = self.nodes[&id].volatile.history_to(through);
        for node in by {
            let durable = &self.nodes[node].durable;
            // A disk that was lost since is another matter.
            let listed = self
                .configuration
                .in_sync
                .iter()
                .any(|m| m.node == *node && m.data == durable.data);
            if let Some(last) = entries.last()
                && listed
                && !durable.holds(last.position)
            {
                self.checks
                    .fail(format!("{id} says {node} holds {} durably, it does not", last.position));
            }
        }
        if by.len() < self.options.min_in_sync && self.options.mode == Mode::Sync {
            self.checks
                .fail(format!("{id} acknowledges {through} with {} copies", by.len()));
        }
        let epoch = self.nodes[&id].core.as_ref().map(|c| c.status(self.now(id)).epoch);
        if let Some(newer) = self
            .checks
            .acknowledged
            .keys()
            .map(|(_, e)| *e)
            .max()
            .filter(|e| Some(*e) > epoch)
            && !self.checks.forced
        {
            self.checks.fail(format!(
                "{id} acknowledges {through} though {newer} has acknowledged already"
            ));
        }
        for entry in entries.iter().rev().take_while(|e| Some(e.position.epoch) == epoch) {
            let key = (entry.position.index, entry.position.epoch);
            let rival = self
                .checks
                .acknowledged
                .keys()
                .find(|(i, e)| *i == key.0 && *e != key.1)
                .copied();
            if let (Some(rival), Mode::Sync, false) = (rival, self.options.mode, self.checks.forced) {
                self.checks
                    .fail(format!("{:?} and {:?} were both acknowledged", rival, key));
            }
            self.checks.acknowledged.entry(key).or_insert(time);
        }
    }

    /// Two replicas that may serve by lease, or in `async` acknowledge, at once.
    pub fn check_leases(&mut self) {
        let time = self.time;
        let holds = |s: &Status| s.ready && s.lease_left.is_some();
        let holders: Vec<_> = self
            .nodes
            .values()
            .filter(|n| n.status(time).is_some_and(|s| holds(&s)))
            .map(|n| n.id)
            .collect();
        if holders.len() > 1 && !self.checks.forced {
            self.checks.fail(format!("{holders:?} hold a lease at once"));
        }
    }

    pub fn read(&mut self, id: NodeId, wanted: ReadWanted) {
        let read = ReadId(self.next_id());
        let seen = self.checks.newest_acknowledged();
        self.checks.reads.insert(read, (id, seen, wanted.clone()));
        self.step(id, Input::Read { id: read, wanted });
    }

    pub fn answered(&mut self, id: NodeId, read: ReadId, answer: Answered) {
        match answer {
            Answered::Permit(permit) => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.reads.insert(read, permit);
                }
            }
            Answered::Refused(_) => {
                self.checks.reads.remove(&read);
            }
        }
    }

    /// Reads whose index is applied are evaluated, checked again, and compared with what was acknowledged.
    pub fn evaluate_reads(&mut self, id: NodeId) {
        let now = self.now(id).mono;
        let Some(node) = self.nodes.get_mut(&id).filter(|n| !n.apply_held) else {
            return;
        };
        let applied = node.volatile.applied();
        let due: Vec<_> = node
            .reads
            .iter()
            .filter(|(_, p)| p.at <= applied)
            .map(|(r, p)| (*r, p.clone()))
            .collect();
        for (read, permit) in due {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.reads.remove(&read);
            }
            let Some((_, seen, wanted)) = self.checks.reads.get(&read).cloned() else {
                continue;
            };
            if permit.recheck_before.is_some_and(|until| now >= until) {
                self.say(id, "asks again: the lease ran out");
                self.step(id, Input::Read { id: read, wanted });
                continue;
            }
            self.checks.reads.remove(&read);
            self.checks.served += 1;
            self.judge(id, applied, seen, &wanted, &permit);
        }
    }

    fn judge(&mut self, id: NodeId, applied: Index, seen: Index, wanted: &ReadWanted, permit: &ReadPermit) {
        let now = self.now(id).mono;
        if let ReadWanted::Session(Some(position)) = wanted
            && !self.nodes[&id].volatile.state.iter().any(|e| e.position == *position)
        {
            self.checks
                .fail(format!("{id} serves a session that has seen {position} without it"));
        }
        if self.options.mode == Mode::Async || self.checks.forced {
            return;
        }
        if *wanted == ReadWanted::Linearizable && applied < seen {
            self.checks
                .fail(format!("{id} read at {applied}, {seen} was acknowledged before"));
        }
        let Some(fresh) = permit.fresh_as_of else { return };
        let age = now.since(fresh);
        let bound = age + age * permit.drift_ppm / 1_000_000;
        // Two clocks may be apart by the drift of each.
        let slack = Duration::from_millis(2) + bound * self.options.drift_ppm / 1_000_000;
        let before = self.time.saturating_sub((bound + slack).as_millis() as u64 + 1);
        let missed = self
            .checks
            .acknowledged
            .iter()
            .find(|((i, _), at)| *i > applied && **at <= before);
        if let Some(((index, _), at)) = missed {
            let late = self.time - at;
            self.checks.fail(format!(
                "{id} proved {bound:?} but lacks {index}, acknowledged {late} ms ago"
            ));
        }
    }
}
