//! The manifest: what a backup is, and every file that belongs to it.

use fulcrum_common::config::duration;
use fulcrum_common::keyspace::{KeyspaceOptions, KeyspaceSpec};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_128;

/// The manifest's file.
pub const MANIFEST: &str = "MANIFEST.json";
/// Its checksum's.
pub const MANIFEST_SUM: &str = "MANIFEST.sum";
/// Format of the backups of this program.
pub const FORMAT: u32 = 1;

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of the directory.
    pub format: u32,
    /// The release that wrote it.
    pub fulcrum: String,
    /// The cluster that it is of.
    pub cluster_id: String,
    /// The cluster map in force then.
    pub map_version: u64,
    /// The cut.
    pub cut: String,
    /// When the command was begun, milliseconds since the Unix epoch.
    pub begun_at_ms: u64,
    /// When all was read.
    pub ended_at_ms: u64,
    /// What it holds.
    pub keyspaces: Vec<KeyspaceEntry>,
}

/// A keyspace of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyspaceEntry {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// What the backup promises of it.
    pub receipt: String,
    /// Its settings.
    pub settings: Settings,
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Its groups.
    pub groups: Vec<GroupEntry>,
}

/// One group's part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupEntry {
    /// The group.
    pub id: u64,
    /// The entry at which it was cut: its epoch,
    pub epoch: u64,
    /// its index,
    pub index: u64,
    /// and its replicated time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Its files, in the order of their keys.
    pub files: Vec<FileEntry>,
}

/// A data file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name in the directory.
    pub name: String,
    /// Its size.
    pub size: u64,
    /// Keys in it.
    pub keys: u64,
    /// Of all of it: 128 bits of xxh3, in hexadecimal.
    pub checksum: String,
}

/// A keyspace's settings, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    missing_docs,
    reason = "named as the flags of `fulcrum keyspace create`, which say what they mean"
)]
pub struct Settings {
    pub mode: String,
    pub replication_factor: u32,
    pub groups: u32,
    pub default_level: String,
    pub fsync: String,
    pub min_in_sync: u32,
    pub delimiter: Option<String>,
    #[serde(with = "duration")]
    pub idempotency_retention: Duration,
    #[serde(with = "duration")]
    pub tombstone_retention: Duration,
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    #[serde(with = "duration")]
    pub lease: Duration,
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl From<&KeyspaceOptions> for Settings {
    fn from(options: &KeyspaceOptions) -> Self {
        Settings {
            mode: options.mode.to_string(),
            replication_factor: options.replication_factor,
            groups: options.groups,
            default_level: options.default_level.to_string(),
            fsync: options.fsync.to_string(),
            min_in_sync: options.min_in_sync,
            delimiter: options.delimiter.map(String::from),
            idempotency_retention: options.idempotency_retention,
            tombstone_retention: options.tombstone_retention,
            heartbeat: options.timing.heartbeat,
            lease: options.timing.lease,
            grace: options.timing.grace,
        }
    }
}

impl Settings {
    /// A keyspace of these settings, with another number of groups or replicas if that is wanted.
    #[must_use]
    pub fn spec(&self, groups: Option<u32>, replication_factor: Option<u32>) -> KeyspaceSpec {
        let replicas = replication_factor.unwrap_or(self.replication_factor);
        KeyspaceSpec {
            mode: Some(self.mode.clone()),
            replication_factor: Some(replicas),
            groups: Some(groups.unwrap_or(self.groups)),
            default_level: Some(self.default_level.clone()),
            fsync: Some(self.fsync.clone()),
            // What fits the number of replicas it was chosen for.
            min_in_sync: (replicas == self.replication_factor).then_some(self.min_in_sync),
            delimiter: self.delimiter.clone(),
            idempotency_retention: Some(self.idempotency_retention),
            tombstone_retention: Some(self.tombstone_retention),
            heartbeat: Some(self.heartbeat),
            lease: Some(self.lease),
            grace: Some(self.grace),
        }
    }
}

impl Manifest {
    /// All data files, with the group that each is of and its number there, counted from 1.
    pub fn files(&self) -> impl Iterator<Item = (&GroupEntry, u32, &FileEntry)> {
        let groups = self.keyspaces.iter().flat_map(|keyspace| &keyspace.groups);
        groups.flat_map(|group| (1..).zip(&group.files).map(move |(number, file)| (group, number, file)))
    }

    /// Keys in all.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keyspaces.iter().map(|keyspace| keyspace.keys).sum()
    }

    /// Bytes of keys and values in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.keyspaces.iter().map(|keyspace| keyspace.bytes).sum()
    }
}

/// The checksum of a whole file, as manifests have it.
#[must_use]
pub fn checksum(content: &[u8]) -> String {
    format!("{:032x}", xxh3_128(content))
}
