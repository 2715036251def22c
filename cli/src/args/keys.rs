//! Commands for keys: read, write, scan, watch.

use super::{EncodingArgs, KeyArgs, ReadArgs, positive};
use clap::Args;
use fulcrum_types::WatchToken;
use std::time::Duration;

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
