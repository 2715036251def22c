//! The command line, as `--help` shows it: what all commands share here, the commands themselves by what they are about.

mod backup;
mod cert;
mod cluster;
mod files;
mod keys;
mod placement;
mod processes;
mod token;
mod txn;

pub use backup::{BackupCommand, BackupCreateArgs, BackupRestoreArgs, BackupVerifyArgs};
pub use cert::{CertCommand, CertDevArgs};
pub use cluster::{FailoverCommand, KeyspaceCommand, KeyspaceCreateArgs, ReplayArgs, StatusArgs};
pub use files::{ExportArgs, ImportArgs};
pub use keys::{CasArgs, DeleteArgs, GetArgs, OutcomeArgs, PutArgs, ScanArgs, WatchArgs};
pub use placement::{NodeCommand, PlacementCommand, PlacementSetArgs};
pub use processes::{BenchArgs, DemoArgs, DevArgs};
pub use token::{Generated, TokenCommand, TokenCreateArgs};
pub use txn::{TxnCommand, TxnListArgs, TxnResolveArgs, TxnRunArgs, TxnShowArgs, TxnState};

use crate::exit::EXIT_CODES;
use crate::value::Encoding;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use fulcrum_common::config::duration;
use fulcrum_types::Level;
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
    /// Connect encrypted, to servers with a certificate by this authority (PEM)
    #[arg(
        long,
        global = true,
        env = "FULCRUM_TLS_CA",
        value_name = "FILE",
        help_heading = "Encryption"
    )]
    pub tls_ca: Option<PathBuf>,
    /// Certificate to show to servers that want one (PEM)
    #[arg(
        long,
        global = true,
        env = "FULCRUM_TLS_CERT",
        value_name = "FILE",
        help_heading = "Encryption"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(
        long,
        global = true,
        env = "FULCRUM_TLS_KEY",
        value_name = "FILE",
        help_heading = "Encryption"
    )]
    pub tls_key: Option<PathBuf>,
    /// The name in the servers' certificates, if it is not the address
    #[arg(
        long,
        global = true,
        env = "FULCRUM_TLS_SERVER_NAME",
        value_name = "NAME",
        help_heading = "Encryption"
    )]
    pub tls_server_name: Option<String>,
    /// Session file: reads never go back behind what this session has seen; made if it does not exist
    #[arg(long, global = true, value_name = "FILE")]
    pub session: Option<PathBuf>,
    /// Follow this command's requests through the cluster: send the trace to this OpenTelemetry collector, and print its id
    #[arg(long, global = true, env = "FULCRUM_TRACE", value_name = "URL")]
    pub trace: Option<String>,
    /// File with the token to show; read again when it changes. Without it FULCRUM_TOKEN holds the token, if any is needed
    #[arg(long, global = true, env = "FULCRUM_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Send the token to other machines over connections that are not encrypted: whoever listens can take it
    #[arg(long, global = true)]
    pub token_in_clear: bool,
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
    /// Transactions: run one, list what is in doubt, show and resolve one
    #[command(subcommand)]
    Txn(TxnCommand),
    /// Write records from a file: tab-separated or JSON lines, also compressed with gzip
    Import(ImportArgs),
    /// Write all records to a file that `import` reads
    Export(ExportArgs),
    /// Backups of all keyspaces as of one moment: create, verify, restore
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Create, list, show and drop keyspaces
    #[command(subcommand)]
    Keyspace(KeyspaceCommand),
    /// Show nodes and groups: epochs, primaries, in-sync sets, lag
    Status(StatusArgs),
    /// Empty a node before it goes
    #[command(subcommand)]
    Node(NodeCommand),
    /// When replicas are rebuilt elsewhere and primaries moved back: show and change it
    #[command(subcommand)]
    Placement(PlacementCommand),
    /// Reports of failovers, planned and forced changes of primary
    #[command(subcommand)]
    Failover(FailoverCommand),
    /// Make, list, change and revoke tokens, which say who may do what
    #[command(subcommand)]
    Token(TokenCommand),
    /// Measure: YCSB workloads A to F
    Bench(BenchArgs),
    /// Ask what became of a write whose answer was lost
    Outcome(OutcomeArgs),
    /// Certificates to develop and to try encryption with
    #[command(subcommand)]
    Cert(CertCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
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
            "fulcrum node drain",
            "fulcrum placement set",
            "fulcrum placement set --rebuild-after 0s",
            "fulcrum txn run",
            "fulcrum txn run script -e x",
            "fulcrum txn list --state lost",
            "fulcrum txn show 1-2",
            "fulcrum txn show 1-2-3 --key k",
            "fulcrum txn resolve 1-2-3 --yes",
            "fulcrum backup",
            "fulcrum backup create",
            "fulcrum backup create d --rate 0",
            "fulcrum backup restore d --as orders",
            "fulcrum backup restore d --as =new",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn random_words_do_no_harm() {
        const WORDS: [&str; 26] = [
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
            "txn",
            "run",
            "-e",
            "1-2-3",
        ];
        let mut rng = Rng::new(5);
        for _ in 0..3_000 {
            let words = (0..rng.below(9))
                .map(|_| WORDS[rng.below(26) as usize])
                .collect::<Vec<_>>();
            let _ = Cli::try_parse_from(std::iter::once("fulcrum").chain(words));
        }
    }
}
