//! Commands for transactions.

use super::EncodingArgs;
use clap::{Args, Subcommand, ValueEnum};
use fulcrum_types::TransactionId;
use std::path::PathBuf;

/// `fulcrum txn`.
#[derive(Debug, Subcommand)]
pub enum TxnCommand {
    /// Run a script of reads, conditions and writes: all at one moment, or not at all
    Run(TxnRunArgs),
    /// List transactions that are not finished
    List(TxnListArgs),
    /// Show what became of one
    Show(TxnShowArgs),
    /// Have one that is in doubt aborted
    Resolve(TxnResolveArgs),
}

/// The language of `fulcrum txn run`, as `--help` shows it.
const SCRIPT: &str = "\
Script, one command a line:
  get KEYSPACE KEY                    show the value
  put KEYSPACE KEY VALUE              write it
  delete KEYSPACE KEY                 remove it
  if KEYSPACE KEY exists              only if there is a value
  if KEYSPACE KEY absent              only if there is none
  if KEYSPACE KEY = VALUE             only if the value is this one
  if KEYSPACE KEY version = N         only if it has this version

Words with spaces stand in 'single quotes', as they are, or in \"double quotes\" with \\\\, \\\", \\t, \\n and \\r. What follows a
# at the beginning of a word is a comment. A get sees what the script has written before; conditions are judged on
what was there before the script.

  fulcrum txn run -e 'if stock apples = 1' -e 'delete stock apples' -e 'put orders order/7 apples'

Exit codes: 4 if a condition did not hold, 5 if the outcome is unknown, 9 if every attempt was aborted.";

/// `fulcrum txn run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = SCRIPT)]
pub struct TxnRunArgs {
    /// The script; `-` reads standard input
    #[arg(required_unless_present = "line")]
    pub file: Option<PathBuf>,
    /// A line of the script (may be repeated)
    #[arg(
        short = 'e',
        long,
        value_name = "LINE",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    pub line: Vec<String>,
    /// Only say whether the script makes sense, and what it would do; nothing is sent
    #[arg(long, visible_alias = "dry-run")]
    pub check: bool,
    /// Attempts at most, if others are in the way
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub attempts: u32,
    /// Keys are hexadecimal
    #[arg(long)]
    pub hex_key: bool,
    /// How values are given and shown
    #[command(flatten)]
    pub encoding: EncodingArgs,
}

/// Which transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TxnState {
    /// Prepared somewhere, and the decision is not known there
    InDoubt,
    /// Committed, and not yet known to be resolved everywhere
    Unresolved,
    /// Both
    All,
}

/// `fulcrum txn list`.
#[derive(Clone, Debug, Args)]
pub struct TxnListArgs {
    /// Only groups of this keyspace
    pub keyspace: Option<String>,
    /// Which ones
    #[arg(long, value_enum, default_value_t = TxnState::InDoubt)]
    pub state: TxnState,
    /// At most so many, the oldest first
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// `fulcrum txn show`.
#[derive(Clone, Debug, Args)]
pub struct TxnShowArgs {
    /// The transaction, as in 1764073860123-7-42
    pub id: TransactionId,
    /// Keyspace of the first key that it writes: then one group is asked, not all
    #[arg(long, requires = "key")]
    pub keyspace: Option<String>,
    /// The first key that it writes
    #[arg(long, requires = "keyspace")]
    pub key: Option<String>,
    /// The key is hexadecimal
    #[arg(long, requires = "key")]
    pub hex_key: bool,
}

/// `fulcrum txn resolve`.
#[derive(Clone, Debug, Args)]
pub struct TxnResolveArgs {
    /// The transaction, as in 1764073860123-7-42
    pub id: TransactionId,
    /// Abort it, unless it is decided already: the only way to resolve by hand
    #[arg(long, required = true)]
    pub abort: bool,
    /// Its home group, as in g3 [default: as `fulcrum txn list` shows it]
    #[arg(long, value_name = "GROUP")]
    pub home: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}
