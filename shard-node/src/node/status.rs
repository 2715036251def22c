//! What a node tells of itself and its groups when asked: for status, metrics and checks.

use super::Node;
use crate::storage::{Certificate, StorageError, certificates};
use fulcrum_common::failover_budget::FailoverPauses;
use fulcrum_replication::Status;
use fulcrum_types::{
    BootId, GroupId, Index, KeyspaceId, MapVersion, Mode, NodeId, Now, Participant, TransactionId, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// This life of it.
    pub boot: BootId,
    /// The cluster map that it goes by.
    pub map_version: MapVersion,
    /// Replicas that it hosts.
    pub replicas: usize,
    /// Replicas that stopped, and why.
    pub stopped: BTreeMap<GroupId, String>,
    /// Requests that wait.
    pub waiting: usize,
    /// Steps of watches among them.
    pub watching: usize,
    /// States pinned for cuts, of all replicas.
    pub pinned: usize,
    /// Bytes staged and not yet durable.
    pub staged_bytes: usize,
    /// Why the node is to stop, if it is.
    pub fatal: Option<String>,
    /// What keeps failovers of one group apart.
    pub failover_pauses: FailoverPauses,
}

/// A replica at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its keyspace.
    pub keyspace: KeyspaceId,
    /// The keyspace's name.
    pub name: String,
    /// The keyspace's mode.
    pub mode: Mode,
    /// Fewest replicas in sync for a write to be accepted there.
    pub min_in_sync: u32,
    /// What the core says.
    pub core: Status,
    /// What it does for transactions.
    pub transactions: TransactionsStatus,
}

/// A replica's transactions at one moment, as far as it looks after them: only a primary does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionsStatus {
    /// Prepared here, and the decision is not known here.
    pub in_doubt: usize,
    /// How long the oldest of them has been so, as this primary knows.
    pub oldest: Duration,
    /// Committed here, and not known to be resolved everywhere.
    pub unresolved: usize,
    /// Keys that are locked.
    pub locked_keys: usize,
    /// Requests that wait for locks.
    pub waiting: usize,
}

/// What a replica's state holds for transactions that are not finished, whoever leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Prepared and not resolved, each with its home.
    pub prepared: Vec<(TransactionId, Participant)>,
    /// Committed here, and not known to be resolved everywhere.
    pub unresolved: Vec<TransactionId>,
    /// Keys that are locked.
    pub locked_keys: usize,
    /// There is an intent, of whomever.
    pub intents: bool,
}

impl Node {
    /// The node as it is.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.shared.settings.node,
            boot: self.shared.boot,
            map_version: self.shared.map_version(),
            replicas: self.groups.len(),
            stopped: self.stopped.clone(),
            waiting: self.shared.requests.len(),
            watching: self.groups.values().map(|group| group.watches.len()).sum(),
            pinned: self.groups.values().map(|group| group.cuts.len()).sum(),
            staged_bytes: self.shared.store.pending_bytes(),
            fatal: self.fatal.clone(),
            failover_pauses: FailoverPauses {
                first: self.shared.settings.failover_pause,
                longest: self.shared.settings.failover_pause_max,
            },
        }
    }

    /// All replicas as they are, in order.
    pub fn group_statuses(&self, now: Now) -> impl Iterator<Item = GroupStatus> {
        self.groups.values().map(move |group| GroupStatus {
            group: group.id,
            keyspace: group.keyspace.id,
            name: group.keyspace.name.clone(),
            mode: group.mode(),
            min_in_sync: group.keyspace.options.min_in_sync,
            core: group.core.status(now),
            transactions: TransactionsStatus {
                in_doubt: group.in_doubt.len(),
                oldest: group.in_doubt.oldest(now.mono),
                unresolved: group.home.len(),
                locked_keys: group.machine.locked_keys(),
                waiting: group.waiting.len(),
            },
        })
    }

    /// One replica as it is.
    #[must_use]
    pub fn group_status(&self, group: GroupId, now: Now) -> Option<Status> {
        self.groups.get(&group).map(|group| group.core.status(now))
    }

    /// The loss certificates that this node knows of, by group and epoch. One without diverged entries has an unknown extent
    /// so far: the old primary's log has not been seen by this node.
    pub fn certificates(&self) -> Result<Vec<Certificate>, StorageError> {
        let mut all = Vec::new();
        let here = self.groups.keys().chain(self.stopped.keys());
        let all_groups: BTreeSet<&GroupId> = here.chain(&self.certified).collect();
        for group in all_groups {
            all.extend(certificates(&self.shared.store, *group)?);
        }
        Ok(all)
    }

    /// A hash of a replica's state and the index at which it was taken: equal on replicas that applied the same entries.
    /// Reads the whole state.
    pub fn checksum(&self, group: GroupId) -> Result<Option<(Index, u64)>, StorageError> {
        let Some(group) = self.groups.get(&group) else {
            return Ok(None);
        };
        Ok(Some((
            group.applied().index,
            group.machine.checksum(&self.shared.store)?,
        )))
    }

    /// What is not finished at a replica, as of what it has applied. For checks.
    pub fn unfinished(&self, group: GroupId) -> Result<Option<Unfinished>, StorageError> {
        let Some(group) = self.groups.get(&group) else {
            return Ok(None);
        };
        let machine = &group.machine;
        Ok(Some(Unfinished {
            prepared: machine.prepared().map(|(id, held)| (id, held.home)).collect(),
            unresolved: machine.unresolved().map(|(id, _)| id).collect(),
            locked_keys: machine.locked_keys(),
            intents: !machine.intents_between(&self.shared.store, &[], &[], 1)?.is_empty(),
        }))
    }

    /// How a transaction ended at a replica, as of what it has applied; none if it is not known to have ended there. For checks.
    pub fn verdict_on(&self, group: GroupId, id: TransactionId) -> Result<Option<Verdict>, StorageError> {
        let Some(group) = self.groups.get(&group) else {
            return Ok(None);
        };
        group.machine.verdict_on(&self.shared.store, id)
    }
}
