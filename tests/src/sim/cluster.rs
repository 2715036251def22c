//! Questions to the whole cluster, and the loss of disks.

use super::host::Host;
use super::inspect::Inspection;
use super::time::{SEC, Time};
use super::world::{Happening, World};
use fulcrum_replication::Status;
use fulcrum_shard_node::storage::MemoryDisk;
use fulcrum_types::{DataId, Fsync, GroupConfiguration, GroupId, NodeId, Role};
use std::collections::BTreeSet;
use std::fmt::Write;

impl World {
    /// What a replica says of itself now.
    #[must_use]
    pub fn status(&self, group: GroupId, node: NodeId) -> Option<Status> {
        let host = &self.hosts[&node];
        host.node.as_ref()?.group_status(group, host.now(self.now))
    }

    /// Whether every group has a primary that has taken over, and all its replicas in sync.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.metadata.all().iter().all(|(group, configuration)| {
            let led = configuration.primary.and_then(|node| self.status(*group, node));
            let ready = led.is_some_and(|s| s.role == Role::Primary && s.ready && s.version == configuration.version);
            ready
                && configuration.in_sync.len() == configuration.replicas.len()
                && configuration
                    .replicas
                    .iter()
                    .all(|node| self.holds_listed_data(configuration, *group, *node))
        })
    }

    /// Whether the configuration lists the very data that the node holds.
    fn holds_listed_data(&self, configuration: &GroupConfiguration, group: GroupId, node: NodeId) -> bool {
        let listed = configuration.in_sync.iter().find(|m| m.node == node);
        listed.is_some_and(|m| Some(m.data) == self.data_on_disk(group, node))
    }

    fn data_on_disk(&self, group: GroupId, node: NodeId) -> Option<DataId> {
        let disk = Inspection::of(&self.hosts[&node].disk, group, self.plan.limits()).ok()?;
        Some(disk.hard_state?.data)
    }

    /// Whether every replica has applied all there is, and has it on disk.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.metadata.all().iter().all(|(group, configuration)| {
            let Some(primary) = configuration.primary.and_then(|node| self.status(*group, node)) else {
                return false;
            };
            configuration.replicas.iter().all(|node| {
                let status = self.status(*group, *node);
                status
                    .is_some_and(|s| s.last == primary.last && s.applied == s.last.index && s.persisted == s.last.index)
                    && self.hosts[node].disk.pending().is_none()
            })
        })
    }

    /// Whether every watch has come to the end of its group's log.
    #[must_use]
    pub fn are_watches_done(&self) -> bool {
        self.watchers.iter().all(|watcher| {
            let primary = self.metadata.read(watcher.group).primary;
            let led = primary.and_then(|node| self.status(watcher.group, node));
            led.is_some_and(|status| watcher.reached() >= status.last.index)
        })
    }

    /// The state of the cluster, for a failure's report.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (group, configuration) in self.metadata.all() {
            let _ = writeln!(text, "{group}: {configuration:?}");
            for node in &configuration.replicas {
                let _ = match self.status(*group, *node) {
                    None => writeln!(text, "  {node}: off"),
                    Some(s) => writeln!(
                        text,
                        "  {node}: {} {} {} ready {} last {} persisted {} commit {} applied {} compacted {} lease {:?} stranded {} peers {:?}",
                        s.role,
                        s.epoch,
                        s.version,
                        s.ready,
                        s.last,
                        s.persisted,
                        s.commit,
                        s.applied,
                        s.compacted,
                        s.lease_left,
                        s.stranded,
                        s.peers
                    ),
                };
            }
        }
        text
    }

    /// Whether nobody's word is lost with this node's disk: in each of its groups another in-sync replica holds the data that
    /// the configuration lists.
    pub(super) fn may_be_wiped(&self, node: NodeId) -> bool {
        let groups = self.plan.groups.iter().filter(|g| g.replicas.contains(&node));
        groups
            .map(|g| (g.group, self.metadata.read(g.group)))
            .all(|(group, configuration)| {
                let others = configuration.in_sync.iter().filter(|m| m.node != node);
                others
                    .into_iter()
                    .any(|m| self.is_sure(m.node) && self.data_on_disk(group, m.node) == Some(m.data))
            })
    }

    /// Whether what a node has on disk tells which data it holds. Without syncs that is so a while after its last start only.
    fn is_sure(&self, node: NodeId) -> bool {
        let host = &self.hosts[&node];
        let settled = host.off_at.is_none_or(|off| self.now > off + 5 * SEC);
        self.plan.fsync == Fsync::Always || (host.node.is_some() && settled)
    }

    /// A machine dies and its disk with it; it starts again with an empty one. What it had asked of the metadata store and has
    /// not landed yet is lost, too: else it could still remove the only others that hold the data.
    pub fn wipe_now(&mut self, node: NodeId, lasts: Time) {
        self.note_crash_points(node);
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        host.lose_power(0);
        host.disk = MemoryDisk::new();
        host.wiped_in = Some(host.boot);
        self.watch.primaries.forget(node);
        self.record
            .event(now, &[42, node.0], || format!("{node} has lost its disk"));
        self.queue.at(now + lasts, Happening::Start(node));
    }

    /// Groups of which a replica's disk was lost.
    #[must_use]
    pub fn wiped_groups(&self) -> BTreeSet<GroupId> {
        let wiped = |node: &NodeId| self.hosts[node].wiped_in.is_some();
        let groups = self.plan.groups.iter().filter(|g| g.replicas.iter().any(wiped));
        groups.map(|g| g.group).collect()
    }

    /// What a disk says is committed after a crash agrees with what was seen before.
    pub(super) fn check_disk(&mut self, node: NodeId) {
        for group in self.groups_on(node) {
            let verdict = match Inspection::of(&self.hosts[&node].disk, group, self.plan.limits()) {
                Err(reason) => Err(format!("{node} cannot read {group}: {reason}")),
                Ok(disk) => self.check_inspected(group, node, &disk),
            };
            self.must("disk after a crash", verdict);
        }
    }

    fn check_inspected(&mut self, group: GroupId, node: NodeId, disk: &Inspection) -> Result<(), String> {
        if let Some(hard) = &disk.hard_state {
            self.watch
                .primaries
                .check_durable(group, node, hard.epoch, hard.configuration.version)?;
        }
        match self.plan.mode {
            fulcrum_types::Mode::Sync => self.watch.agreement.check(group, node, disk),
            fulcrum_types::Mode::Async => Ok(()),
        }
    }
}

impl Host {
    /// Whether what this life asked for is void: its disk was lost.
    #[must_use]
    pub fn is_void(&self, boot: fulcrum_types::BootId) -> bool {
        self.wiped_in.is_some_and(|last| boot <= last)
    }
}
