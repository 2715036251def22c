//! Commands for operators: where replicas are.

use super::positive;
use clap::{Args, Subcommand};
use fulcrum_common::config::duration;
use std::time::Duration;

/// `fulcrum node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Empty a node: its groups get another primary and another replica, few at a time; waits until nothing is left
    Drain {
        /// The node, as in n2
        node: String,
        /// Call it off: what has moved stays where it is
        #[arg(long)]
        abort: bool,
        /// For how long to wait; the drain goes on after that
        #[arg(long, default_value = "10m", value_parser = positive, value_name = "TIME")]
        within: Duration,
    },
}

/// `fulcrum placement`.
#[derive(Debug, Subcommand)]
pub enum PlacementCommand {
    /// Show how patient the cluster is
    Show,
    /// Change it; what is not named stays as it is
    Set(PlacementSetArgs),
}

/// `fulcrum placement set`.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = true)]
pub struct PlacementSetArgs {
    /// A node that is gone for so long has lost its replicas to others
    #[arg(long, value_parser = positive, value_name = "TIME")]
    pub rebuild_after: Option<Duration>,
    /// Most rebuilds at a time in the cluster
    #[arg(long)]
    pub rebuilds: Option<u32>,
    /// Between two hand-overs that balance primaries; 0s: none
    #[arg(long, value_parser = duration::parse, value_name = "TIME")]
    pub balance_pause: Option<Duration>,
    /// No such hand-over for so long after a failover
    #[arg(long, value_parser = duration::parse, value_name = "TIME")]
    pub calm: Option<Duration>,
}
