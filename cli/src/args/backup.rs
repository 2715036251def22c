//! Commands for backups.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `fulcrum backup`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Write all keys of one moment into a new directory: every transaction is in it as a whole, or not at all
    ///
    /// The directory is DIRECTORY.partial until all is in it. Stopped by Ctrl-C or SIGTERM, or for want of room, it is removed, and nothing stays held or
    /// pinned in the cluster. After SIGKILL it stays, shows by its name that it is no backup, and is to be removed.
    Create(BackupCreateArgs),
    /// Check a backup, without a cluster
    Verify(BackupVerifyArgs),
    /// Write a backup into a running cluster, whatever its number of groups
    ///
    /// The whole backup is checked first. Stopped by Ctrl-C or SIGTERM it says how far it has come; the same command with --over-existing goes on.
    Restore(BackupRestoreArgs),
}

/// `fulcrum backup create`.
#[derive(Clone, Debug, Args)]
pub struct BackupCreateArgs {
    /// The directory; made by this command, under this name only once all is in it
    pub directory: PathBuf,
    /// Only this keyspace (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub keyspace: Vec<String>,
    /// Read at most so many bytes of keys and values a second
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
}

/// `fulcrum backup verify`.
#[derive(Clone, Debug, Args)]
pub struct BackupVerifyArgs {
    /// The backup
    pub directory: PathBuf,
}

/// `fulcrum backup restore`.
#[derive(Clone, Debug, Args)]
pub struct BackupRestoreArgs {
    /// The backup
    pub directory: PathBuf,
    /// Only this keyspace (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub keyspace: Vec<String>,
    /// Restore a keyspace under another name (may be repeated)
    #[arg(long = "as", value_name = "OLD=NEW", value_parser = renaming)]
    pub renamed: Vec<(String, String)>,
    /// Shard groups of keyspaces that are created [default: as in the backup]
    #[arg(long)]
    pub groups: Option<u32>,
    /// Replicas of each group of keyspaces that are created [default: as in the backup]
    #[arg(long)]
    pub replication_factor: Option<u32>,
    /// Write into keyspaces that have data, too: keys of the backup are set, others stay. Also goes on with a restore that was broken off
    #[arg(long)]
    pub over_existing: bool,
    /// Do not read everything back
    #[arg(long)]
    pub no_verify: bool,
    /// Batches under way at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub parallel: u64,
}

fn renaming(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("name both, as in --as orders=orders-restored".to_owned()),
    }
}
