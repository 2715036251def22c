//! Whether the node serves, and whether the next one may be taken down: what `/readyz` says, and why not.
//!
//! The promise: a node that is ready has caught up in every group that is placed on it, so whoever restarts one node after the
//! other, each once all are ready, never takes a second replica from a group. The rule speaks of this node's own replicas
//! only: a peer that is down is itself not ready, and makes nobody else so, but for groups that it leads until another does.
//!
//! What is judged is what the node knows in this life. A replica that has not heard of its primary lately cannot know whether it
//! still counts. The metadata store is not asked: with it down, a node that was ready stays so.

use super::Node;
use super::group::Group;
use fulcrum_replication::Status;
use fulcrum_types::{MapVersion, NodeId, Now, Role};

/// How many graces may pass since what a backup last heard of its primary: one would make a loaded replica flicker.
const GRACES: u32 = 2;

impl Node {
    /// Ready, or the first reason why not.
    pub fn readiness(&self, now: Now, disk_healthy: bool) -> Result<(), String> {
        if let Some(reason) = &self.fatal {
            return Err(format!("the node stops: {reason}"));
        }
        let node = self.shared.settings.node;
        match &self.shared.map {
            None => return Err("no cluster map yet: the metadata store has not answered".to_owned()),
            Some(map) if map.version() == MapVersion::ZERO || !map.nodes().contains_key(&node) => {
                return Err(format!("{node} is not registered in the cluster map yet"));
            }
            Some(_) => {}
        }
        if !disk_healthy {
            return Err("the disk does not answer in time".to_owned());
        }
        if let Some((group, reason)) = self.stopped.first_key_value() {
            return Err(format!("the replica of {group} has stopped: {reason}"));
        }
        // Nobody waits for a replica that belongs elsewhere.
        let mut placed = self.groups.values().filter(|group| !self.debtors.contains(&group.id));
        placed.try_for_each(|group| group.readiness(node, now))
    }
}

impl Group {
    fn readiness(&self, node: NodeId, now: Now) -> Result<(), String> {
        let (id, status) = (self.id, self.core.status(now));
        if status.stranded {
            return Err(format!("{id} waits for an operator: no replica with its data is left"));
        }
        if status.role == Role::Primary {
            return match status.ready {
                true => Ok(()),
                false => Err(format!("{id} is being taken over here")),
            };
        }
        self.backup_readiness(node, &status)
            .map_err(|reason| format!("{id} {reason}"))
    }

    fn backup_readiness(&self, node: NodeId, status: &Status) -> Result<(), String> {
        let heard_within = self.keyspace.options.timing.grace * GRACES;
        if status.staleness.is_none_or(|staleness| staleness > heard_within) {
            return Err("has no primary that is heard here".to_owned());
        }
        let in_sync = &status.configuration.in_sync;
        match in_sync.iter().any(|member| member.node == node) {
            true => Ok(()),
            false => Err("is catching up here".to_owned()),
        }
    }
}
