//! Commands that run for a while: a cluster in this process, and load.

use super::{ReadArgs, positive};
use crate::workload::{Choice, Mix};
use clap::Args;
use fulcrum_types::Mode;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `fulcrum demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// How long the load runs; the crash comes half-way
    #[arg(long, default_value = "30s", value_parser = positive, value_name = "TIME")]
    pub duration: Duration,
    /// Shard-nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=9))]
    pub nodes: u64,
    /// Clients for each keyspace and read level
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub clients: u64,
    /// Stay up afterwards, and say how to connect
    #[arg(long)]
    pub keep: bool,
    /// One JSON document on standard output, the story on standard error
    #[arg(long)]
    pub json: bool,
    /// Seed of the load [default: a new one each time]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// `fulcrum dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// Shard-nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub nodes: u64,
    /// Where the router listens; port 0: any free one
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Where the data stays; without it, in a temporary directory that goes with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the router's metrics are scraped; the nodes follow at the next ports
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Listen where other machines can connect, without encryption
    #[arg(long)]
    pub insecure_listen: bool,
    /// Encrypt all connections, with the files that `fulcrum cert dev` put there
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
}

/// `fulcrum bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// The keyspace; made if it does not exist
    #[arg(default_value = "bench")]
    pub keyspace: String,
    /// YCSB workload: A update heavy, B read mostly, C read only, D read latest, E short ranges, F read-modify-write
    #[arg(long, default_value = "A")]
    pub workload: Mix,
    /// zipfian, latest or uniform [default: the workload's]
    #[arg(long)]
    pub distribution: Option<Choice>,
    /// Clients that each wait for their answer
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub clients: u64,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = positive, value_name = "TIME")]
    pub duration: Duration,
    /// How to read
    #[command(flatten)]
    pub read: ReadArgs,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub value_size: u64,
    /// Records that are loaded first
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub records: u64,
    /// Send operations on one stream, so many under way for each client
    #[arg(long, value_name = "DEPTH", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub pipeline: Option<u64>,
    /// The records are there already
    #[arg(long)]
    pub skip_load: bool,
    /// Mode of the keyspace, if it is made
    #[arg(long, default_value = "sync")]
    pub mode: Mode,
    /// Seed of the load
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}
