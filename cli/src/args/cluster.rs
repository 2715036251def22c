//! Commands for operators: keyspaces, status, failovers.

use super::positive;
use clap::{Args, Subcommand};
use std::time::Duration;

/// `fulcrum keyspace`.
#[derive(Debug, Subcommand)]
pub enum KeyspaceCommand {
    /// Create a keyspace
    Create(KeyspaceCreateArgs),
    /// List all keyspaces
    List,
    /// Show one with all its options
    Show {
        /// The keyspace
        name: String,
    },
    /// Drop one with all its data
    Drop {
        /// The keyspace
        name: String,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

/// `fulcrum keyspace create`.
#[derive(Clone, Debug, Args)]
pub struct KeyspaceCreateArgs {
    /// Its name: letters, digits, - and _
    pub name: String,
    /// sync: acknowledged when durable on all in-sync replicas; async: on the primary [default: sync]
    #[arg(long)]
    pub mode: Option<String>,
    /// Replicas of each group [default: 3]
    #[arg(long)]
    pub replication_factor: Option<u32>,
    /// Shard groups [default: 8]
    #[arg(long)]
    pub groups: Option<u32>,
    /// Level of reads that name none [default: linearizable, in async keyspaces session]
    #[arg(long, value_name = "LEVEL")]
    pub default_level: Option<String>,
    /// always, interval or never [default: always]
    #[arg(long)]
    pub fsync: Option<String>,
    /// Fewest replicas in sync for a write to be accepted [default: 2 of 3 in sync keyspaces, else 1]
    #[arg(long)]
    pub min_in_sync: Option<u32>,
    /// Character that ends the part of a key which decides its group [default: none, {tags} do]
    #[arg(long)]
    pub delimiter: Option<String>,
    /// For how long outcomes of writes are kept for retries [default: 10m]
    #[arg(long, value_parser = positive, value_name = "TIME")]
    pub idempotency_retention: Option<Duration>,
    /// For how long deletes leave a tombstone [default: 10m]
    #[arg(long, value_parser = positive, value_name = "TIME")]
    pub tombstone_retention: Option<Duration>,
    /// Between two heartbeats of a primary [default: 100ms]
    #[arg(long, value_parser = positive, value_name = "TIME")]
    pub heartbeat: Option<Duration>,
    /// For how long a primary may serve on its own [default: 1s]
    #[arg(long, value_parser = positive, value_name = "TIME")]
    pub lease: Option<Duration>,
    /// After how long without a word a backup may take over [default: 1300ms]
    #[arg(long, value_parser = positive, value_name = "TIME")]
    pub grace: Option<Duration>,
}

/// `fulcrum status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Only this keyspace
    pub keyspace: Option<String>,
}

/// `fulcrum failover`.
#[derive(Debug, Subcommand)]
pub enum FailoverCommand {
    /// What failovers lost: loss certificates
    Report {
        /// Only this group, as in g3
        group: Option<String>,
        /// List the lost entries, too
        #[arg(long)]
        entries: bool,
    },
    /// Which timers add up to a failover, with the keyspace's own settings
    Budget {
        /// Only this keyspace
        keyspace: Option<String>,
    },
    /// Write back what a failover lost, where nobody has written since; shows what it would do, without --yes
    Replay(ReplayArgs),
    /// Planned: make another replica the primary; nothing is lost
    Promote {
        /// The group, as in g3
        group: String,
        /// The node, as in n2 [default: the most advanced backup]
        node: Option<String>,
    },
    /// Start a group whose data is all gone from what one node has; may lose acknowledged writes
    Force {
        /// The group, as in g3
        group: String,
        /// The node, as in n2
        node: String,
        /// Really
        #[arg(long)]
        accept_loss: bool,
    },
}

/// `fulcrum failover replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The group, as in g3
    pub group: String,
    /// Only what was lost when this epoch began [default: all that its certificates hold, the newest first]
    #[arg(long)]
    pub epoch: Option<u64>,
    /// Also what was surely never acknowledged to anybody
    #[arg(long)]
    pub never_acknowledged: bool,
    /// Also keys without a value of which it cannot be told any more whether they were deleted since
    #[arg(long)]
    pub absent: bool,
    /// Do it
    #[arg(long)]
    pub yes: bool,
}
