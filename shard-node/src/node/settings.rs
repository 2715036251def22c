//! What a node is told about itself, and what it makes of a keyspace's options.

use crate::state_machine::Limits;
use fulcrum_common::keyspace::{CANDIDACY_PAUSE, Keyspace, RATE_DRIFT_PPM};
use fulcrum_replication::Options;
use fulcrum_types::{Fsync, GroupId, NodeId};
use std::time::Duration;

/// Fixed for the life of a node.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// This node.
    pub node: NodeId,
    /// Most requests that may wait; more are refused as overload.
    pub waiting_max: usize,
    /// Most bytes staged and not yet durable; writes beyond are refused as overload.
    pub staged_bytes_max: usize,
    /// Bytes of records that the node keeps decoded in memory; its groups share them.
    pub cache_bytes: usize,
    /// How often keyspaces with `fsync = interval` are synced.
    pub sync_interval: Duration,
    /// Records of dropped states and groups that are removed with each tick.
    pub sweep_records: usize,
    /// Steps of watches that may wait at one group; more are refused as overload.
    pub watches_a_group: usize,
    /// Steps of watches at one group that look through the log in one turn.
    pub watch_steps_a_turn: usize,
    /// Bytes of log that a group which is watched keeps for watches that lag, beside what replication needs.
    pub watch_log_bytes: usize,
    /// How long a group counts as watched after the last step of a watch.
    pub watched_for: Duration,
    /// How long a request waits for locks before it is refused, to be sent again: shorter than a router takes a silent node
    /// for dead.
    pub lock_wait: Duration,
    /// Requests that may wait for locks at one group; more are refused as overload.
    pub lock_waiters_max: usize,
    /// How long a participant waits for a sign of life of a coordinator before it asks the home group.
    pub patience: Duration,
    /// How long it waits at most, whatever it hears.
    pub in_doubt_max: Duration,
    /// After a failover of a group the next one waits, unless the primary's node has no lease: this long, then longer.
    pub failover_pause: Duration,
    /// The longest such pause.
    pub failover_pause_max: Duration,
    /// How often a read asks again for a lease that ran out while it was evaluated.
    pub read_tries: u32,
}

impl NodeSettings {
    /// Defaults for a node.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            waiting_max: 20_000,
            staged_bytes_max: 64 * 1024 * 1024,
            cache_bytes: 32 * 1024 * 1024,
            sync_interval: Duration::from_secs(1),
            sweep_records: 1_000,
            watches_a_group: 1_024,
            watch_steps_a_turn: 8,
            watch_log_bytes: 32 * 1024 * 1024,
            watched_for: Duration::from_secs(600),
            lock_wait: Duration::from_millis(600),
            lock_waiters_max: 10_000,
            patience: Duration::from_secs(1),
            in_doubt_max: Duration::from_secs(4),
            failover_pause: Duration::from_secs(2),
            failover_pause_max: Duration::from_secs(30),
            read_tries: 3,
        }
    }

    /// What a core is told about a group of a keyspace: the narrow cut.
    #[must_use]
    pub fn options(&self, group: GroupId, keyspace: &Keyspace) -> Options {
        let choices = &keyspace.options;
        let timing = choices.timing;
        Options {
            min_in_sync: choices.min_in_sync as usize,
            heartbeat: timing.heartbeat,
            lease: timing.lease,
            grace: timing.grace,
            drift_ppm: RATE_DRIFT_PPM,
            silent_after: timing.lease,
            retry_after: CANDIDACY_PAUSE,
            failover_pause: self.failover_pause,
            failover_pause_max: self.failover_pause_max,
            ..Options::new(group, self.node, choices.mode)
        }
    }
}

/// The bounds of a keyspace's state machines: the same on all replicas, since the options are.
pub(super) fn limits(keyspace: &Keyspace) -> Limits {
    Limits {
        retention: keyspace.options.idempotency_retention,
        tombstones: keyspace.options.tombstone_retention,
        ..Limits::default()
    }
}

/// How safe a core's writes must be before they count as persisted.
pub(super) fn durability(fsync: Fsync) -> crate::storage::Durability {
    match fsync {
        Fsync::Always => crate::storage::Durability::Synced,
        Fsync::Interval | Fsync::Never => crate::storage::Durability::Written,
    }
}
