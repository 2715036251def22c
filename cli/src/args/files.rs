//! Commands for files of records.

use super::ReadArgs;
use crate::records::Format;
use clap::Args;
use std::path::PathBuf;

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
