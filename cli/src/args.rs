//! The command line, as `--help` shows it.

use crate::exit::EXIT_CODES;
use crate::records::Format;
use crate::value::Encoding;
use crate::workload::{Choice, Mix};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use fulcrum_common::config::duration;
use fulcrum_types::{Level, Mode, WatchToken};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

fn positive(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("longer than nothing, please".to_owned()),
        time => Ok(time),
    }
}

/// Fulcrum: a sharded, replicated key-value store in which every answer says what you got and what it cost.
#[derive(Debug, Parser)]
#[command(name = "fulcrum", version, after_help = EXIT_CODES, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Router to talk to; several, separated by commas, are tried in this order
    #[arg(
        long,
        global = true,
        env = "FULCRUM_ROUTER",
        default_value = "127.0.0.1:7400",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    pub router: Vec<String>,
    /// How results are shown
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// How long a request may take, all retries together
    #[arg(long, global = true, default_value = "5s", value_parser = positive, value_name = "TIME")]
    pub deadline: Duration,
    /// Session file: reads never go back behind what this session has seen; made if it does not exist
    #[arg(long, global = true, value_name = "FILE")]
    pub session: Option<PathBuf>,
    /// Say more: receipts, and with -vv what the program does
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For scripts; errors, too
    Json,
}

/// How to read.
#[derive(Clone, Debug, Default, Args)]
pub struct ReadArgs {
    /// linearizable, bounded:500ms, session or eventual [default: the keyspace's]
    #[arg(long)]
    pub level: Option<Level>,
    /// Weaker level that will do if the one asked cannot be served (may be repeated, best first)
    #[arg(long, value_name = "LEVEL")]
    pub accept: Vec<Level>,
}

/// How values are written down.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(multiple = false)]
pub struct EncodingArgs {
    /// Values are hexadecimal
    #[arg(long)]
    hex: bool,
    /// Values are base64
    #[arg(long)]
    base64: bool,
}

impl EncodingArgs {
    /// The encoding chosen.
    #[must_use]
    pub fn encoding(self) -> Encoding {
        match (self.hex, self.base64) {
            (true, _) => Encoding::Hex,
            (_, true) => Encoding::Base64,
            _ => Encoding::Text,
        }
    }
}

/// A key of a keyspace.
#[derive(Clone, Debug, Args)]
pub struct KeyArgs {
    /// The keyspace
    pub keyspace: String,
    /// The key
    pub key: String,
    /// The key is hexadecimal
    #[arg(long)]
    pub hex_key: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See it work: a cluster in this process, real data, a crash, and every promise checked (about a minute)
    Demo(DemoArgs),
    /// Run a whole cluster in this process until it is stopped
    Dev(DevArgs),
    /// Read a key
    Get(GetArgs),
    /// Write a key
    Put(PutArgs),
    /// Remove a key
    Delete(DeleteArgs),
    /// Write a key if it is as expected (compare and set)
    Cas(CasArgs),
    /// Read keys in order
    Scan(ScanArgs),
    /// Show what changes, until it is stopped: each change once, in the order of its group
    Watch(WatchArgs),
    /// Write records from a file: tab-separated or JSON lines, also compressed with gzip
    Import(ImportArgs),
    /// Write all records to a file that `import` reads
    Export(ExportArgs),
    /// Create, list, show and drop keyspaces
    #[command(subcommand)]
    Keyspace(KeyspaceCommand),
    /// Show nodes and groups: epochs, primaries, in-sync sets, lag
    Status(StatusArgs),
    /// Reports of failovers, planned and forced changes of primary
    #[command(subcommand)]
    Failover(FailoverCommand),
    /// Measure: YCSB workloads A to F
    Bench(BenchArgs),
    /// Ask what became of a write whose answer was lost
    Outcome(OutcomeArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

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
}

/// `fulcrum get`.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// Which key
    #[command(flatten)]
    pub key: KeyArgs,
    /// How to read
    #[command(flatten)]
    pub read: ReadArgs,
    /// How the value is shown
    #[command(flatten)]
    pub encoding: EncodingArgs,
}

/// `fulcrum put`.
#[derive(Clone, Debug, Args)]
pub struct PutArgs {
    /// Which key
    #[command(flatten)]
    pub key: KeyArgs,
    /// The value; `-` reads it from standard input
    pub value: String,
    /// How the value is given
    #[command(flatten)]
    pub encoding: EncodingArgs,
    /// The value goes after this time
    #[arg(long, value_parser = positive, value_name = "TIME")]
    pub ttl: Option<Duration>,
}

/// `fulcrum delete`.
#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    /// Which key
    #[command(flatten)]
    pub key: KeyArgs,
    /// Only if its version is this one
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
}

/// `fulcrum cas`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("expected").required(true).multiple(false))]
pub struct CasArgs {
    /// Which key
    #[command(flatten)]
    pub key: KeyArgs,
    /// The new value; `-` reads it from standard input
    pub value: String,
    /// How values are given
    #[command(flatten)]
    pub encoding: EncodingArgs,
    /// Only if the key has this value
    #[arg(long, group = "expected", value_name = "VALUE", allow_hyphen_values = true)]
    pub expect: Option<String>,
    /// Only if its version is this one
    #[arg(long, group = "expected", value_name = "VERSION")]
    pub expect_version: Option<u64>,
    /// Only if it has no value
    #[arg(long, group = "expected")]
    pub expect_absent: bool,
    /// Only if it has a value
    #[arg(long, group = "expected")]
    pub expect_exists: bool,
    /// The value goes after this time
    #[arg(long, value_parser = positive, value_name = "TIME")]
    pub ttl: Option<Duration>,
}

/// `fulcrum scan`.
#[derive(Clone, Debug, Args)]
pub struct ScanArgs {
    /// The keyspace
    pub keyspace: String,
    /// Only keys that begin so
    #[arg(long, conflicts_with_all = ["start", "end"])]
    pub prefix: Option<String>,
    /// First key
    #[arg(long)]
    pub start: Option<String>,
    /// End, exclusive
    #[arg(long)]
    pub end: Option<String>,
    /// At most so many rows
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// Go on behind an earlier scan, from the token that it showed
    #[arg(long, value_name = "TOKEN")]
    pub resume: Option<String>,
    /// How to read
    #[command(flatten)]
    pub read: ReadArgs,
    /// How values are shown
    #[command(flatten)]
    pub encoding: EncodingArgs,
}

/// `fulcrum watch`.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// The keyspace
    pub keyspace: String,
    /// Only this key
    pub key: Option<String>,
    /// Only keys that begin so
    #[arg(long, conflicts_with = "key")]
    pub prefix: Option<String>,
    /// The key or prefix is hexadecimal
    #[arg(long)]
    pub hex_key: bool,
    /// Go on where an earlier watch of the same keys ended, from the token that it showed
    #[arg(long, value_name = "TOKEN")]
    pub from: Option<WatchToken>,
    /// The present values first, then what changes them
    #[arg(long, conflicts_with = "from")]
    pub include_current: bool,
    /// Show also how far each group has come, and the token to go on from there
    #[arg(long)]
    pub progress: bool,
    /// End after so many values and changes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time
    #[arg(long = "for", value_parser = positive, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// How values are shown
    #[command(flatten)]
    pub encoding: EncodingArgs,
}

/// `fulcrum import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// The keyspace
    pub keyspace: String,
    /// The file; `-` reads standard input
    pub file: PathBuf,
    /// tsv or jsonl [default: told by the file's name, else by its first bytes]
    #[arg(long)]
    pub format: Option<Format>,
    /// Go on behind malformed or refused records
    #[arg(long)]
    pub keep_going: bool,
    /// Records in a batch
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub batch: u64,
    /// Batches under way at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub parallel: u64,
}

/// `fulcrum export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// The keyspace
    pub keyspace: String,
    /// The file; `-` writes to standard output. A name that ends in .gz is compressed
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// tsv or jsonl [default: told by the file's name, else tsv]
    #[arg(long)]
    pub format: Option<Format>,
    /// Only keys that begin so
    #[arg(long)]
    pub prefix: Option<String>,
    /// How to read
    #[command(flatten)]
    pub read: ReadArgs,
}

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
    /// After how long without a word a backup may take over [default: 1500ms]
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

/// `fulcrum outcome`.
#[derive(Clone, Debug, Args)]
pub struct OutcomeArgs {
    /// Any key of the write
    #[command(flatten)]
    pub key: KeyArgs,
    /// The client's id, as the failed command named it
    #[arg(long)]
    pub client: u64,
    /// The write's number, as the failed command named it
    #[arg(long)]
    pub sequence: u64,
    /// When the client's id was issued, as the failed command named it
    #[arg(long, value_name = "MS")]
    pub issued_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Rng;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_typed_is_understood() {
        let line = "fulcrum get --level bounded:250ms --accept eventual users k1 -o json --router a:1,b:2";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(cli.global.router, ["a:1", "b:2"]);
        assert_eq!(cli.global.output, Output::Json);
        let Command::Get(get) = cli.command else {
            panic!("not get")
        };
        assert_eq!(get.read.level, Some(Level::Bounded(Duration::from_millis(250))));
        assert_eq!(get.read.accept, [Level::Eventual]);
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "fulcrum",
            "fulcrum get k",
            "fulcrum get k x --hex --base64",
            "fulcrum get k x --level strong",
            "fulcrum cas k x new",
            "fulcrum cas k x new --expect a --expect-absent",
            "fulcrum scan k --prefix a --start b",
            "fulcrum watch k key --prefix a",
            "fulcrum watch k --from w1;0; --include-current",
            "fulcrum watch k --from nonsense",
            "fulcrum put k x v --ttl 0s",
            "fulcrum bench --workload Z",
            "fulcrum demo --nodes 2",
            "fulcrum dev --listen nowhere",
            "fulcrum outcome k --client 1 --sequence 1 --issued-at 1",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn random_words_do_no_harm() {
        const WORDS: [&str; 22] = [
            "get",
            "put",
            "cas",
            "scan",
            "import",
            "bench",
            "demo",
            "-",
            "--",
            "-o",
            "json",
            "--level",
            "bounded:",
            "bounded:9s",
            "--ttl",
            "99999999999999999999h",
            "--hex",
            "",
            "é\u{0}",
            "--expect",
            "keyspace",
            "-vvv",
        ];
        let mut rng = Rng::new(5);
        for _ in 0..3_000 {
            let words = (0..rng.below(9))
                .map(|_| WORDS[rng.below(22) as usize])
                .collect::<Vec<_>>();
            let _ = Cli::try_parse_from(std::iter::once("fulcrum").chain(words));
        }
    }
}
