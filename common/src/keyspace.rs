//! A keyspace and its choices. Contradictory choices are refused here, by naming both.

use crate::key::{Partitioning, slot_of};
use crate::limits::{LONGEST_TRANSACTION, MAX_NAME_BYTES};
use crate::map::SlotTable;
use crate::metadata::MAX_TXN_OPS;
use fulcrum_types::{Fsync, GroupId, KeyspaceId, Level, Mode, Slot};
use std::time::Duration;
use thiserror::Error;

/// Most replicas of one group.
pub const MAX_REPLICATION_FACTOR: u32 = 7;
/// Most groups of one keyspace: it appears in one transaction, with its map.
pub const MAX_GROUPS: u32 = 127;
const _: () = assert!(MAX_GROUPS as usize == MAX_TXN_OPS - 1);
/// Longest heartbeat, lease and grace: nobody waits longer for a failover.
const LONGEST_GRACE: Duration = Duration::from_secs(600);
/// Longest time for which outcomes and tombstones are kept: they take memory.
const LONGEST_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// By how much the rates of any two monotonic clocks may differ, in parts per million. Leases hold only within it.
pub const RATE_DRIFT_PPM: u32 = 10_000;
/// Between two tries to become primary, of one replica or of two that stand one after the other.
pub const CANDIDACY_PAUSE: Duration = Duration::from_millis(200);

/// Why a keyspace cannot be as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// An option has a value that it cannot have.
    #[error("{option}: {reason}")]
    Value {
        /// The option.
        option: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Two options do not go together.
    #[error("{first} and {second} contradict each other: {reason}")]
    Contradiction {
        /// One option and its value.
        first: String,
        /// The other option and its value.
        second: String,
        /// Why, and what would be right.
        reason: String,
    },
}

fn value(option: &'static str, reason: impl Into<String>) -> OptionsError {
    OptionsError::Value {
        option,
        reason: reason.into(),
    }
}

fn contradiction(first: impl ToString, second: impl ToString, reason: impl Into<String>) -> OptionsError {
    OptionsError::Contradiction {
        first: first.to_string(),
        second: second.to_string(),
        reason: reason.into(),
    }
}

/// The times by which a group's replicas agree who may serve (DESIGN section 5, leases). All of a group must go by the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a primary.
    pub heartbeat: Duration,
    /// For how long an echo lets the primary serve on its own.
    pub lease: Duration,
    /// For how long a backup promises not to take over.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_millis(1000),
            grace: Duration::from_millis(1300),
        }
    }
}

impl Timing {
    fn validate(&self) -> Result<(), OptionsError> {
        for (option, time) in [
            ("heartbeat", self.heartbeat),
            ("lease", self.lease),
            ("grace", self.grace),
        ] {
            if time > LONGEST_GRACE {
                return Err(value(option, format!("at most {} s", LONGEST_GRACE.as_secs())));
            }
        }
        if self.heartbeat < Duration::from_millis(5) {
            return Err(value("heartbeat", "at least 5 ms are needed"));
        }
        let ms = |name: &str, time: Duration| format!("{name} = {} ms", time.as_millis());
        if self.heartbeat * 3 > self.lease {
            let reason = "a lease has to outlast two lost heartbeats: lease >= 3 x heartbeat";
            return Err(contradiction(
                ms("heartbeat", self.heartbeat),
                ms("lease", self.lease),
                reason,
            ));
        }
        let needed = self.lease + self.lease / 1_000_000 * RATE_DRIFT_PPM;
        if self.grace <= needed {
            let reason =
                "a backup may not take over before the lease has run out on the slowest clock: grace > 1.01 x lease";
            return Err(contradiction(ms("lease", self.lease), ms("grace", self.grace), reason));
        }
        Ok(())
    }
}

/// The choices of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceOptions {
    /// How it replicates.
    pub mode: Mode,
    /// Replicas of each group.
    pub replication_factor: u32,
    /// Shard groups.
    pub groups: u32,
    /// Level of a read that names none.
    pub default_level: Level,
    /// When an acknowledged write is on disk.
    pub fsync: Fsync,
    /// Fewest replicas in sync for a write to be accepted.
    pub min_in_sync: u32,
    /// Delimiter of the partition key; none means hash tags.
    pub delimiter: Option<char>,
    /// For how long the outcome of a write is kept for a retry (rule 10).
    pub idempotency_retention: Duration,
    /// For how long deletes and expiries leave a versioned tombstone (rule 13).
    pub tombstone_retention: Duration,
    /// Heartbeats, leases and grace.
    pub timing: Timing,
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        Self::of(Mode::Sync, 3)
    }
}

impl KeyspaceOptions {
    /// The defaults for a mode and a number of replicas.
    #[must_use]
    pub fn of(mode: Mode, replication_factor: u32) -> Self {
        let (default_level, min_in_sync) = match mode {
            Mode::Sync => (Level::Linearizable, replication_factor / 2 + 1),
            Mode::Async => (Level::Session, 1),
        };
        Self {
            mode,
            replication_factor,
            groups: 8,
            default_level,
            fsync: Fsync::Always,
            min_in_sync,
            delimiter: None,
            idempotency_retention: Duration::from_secs(10 * 60),
            tombstone_retention: Duration::from_secs(10 * 60),
            timing: Timing::default(),
        }
    }

    /// Which part of a key decides its slot.
    #[must_use]
    pub fn partitioning(&self) -> Partitioning {
        match self.delimiter.map(u8::try_from) {
            Some(Ok(byte)) => Partitioning::Delimiter(byte),
            _ => Partitioning::HashTag,
        }
    }

    /// Refuses what is out of range or contradicts itself.
    pub fn validate(&self) -> Result<(), OptionsError> {
        if !(1..=MAX_REPLICATION_FACTOR).contains(&self.replication_factor) {
            let reason = format!(
                "{} is not within 1 to {MAX_REPLICATION_FACTOR}",
                self.replication_factor
            );
            return Err(value("replication_factor", reason));
        }
        if !(1..=MAX_GROUPS).contains(&self.groups) {
            return Err(value(
                "groups",
                format!("{} is not within 1 to {MAX_GROUPS}", self.groups),
            ));
        }
        if self.min_in_sync == 0 {
            return Err(value(
                "min_in_sync",
                "at least the primary has to be in sync: use 1 or more",
            ));
        }
        if self.min_in_sync > self.replication_factor {
            return Err(contradiction(
                format!("min_in_sync = {}", self.min_in_sync),
                format!("replication_factor = {}", self.replication_factor),
                "no write could ever be accepted: min_in_sync <= replication_factor",
            ));
        }
        if self.mode == Mode::Async && self.default_level == Level::Linearizable {
            return Err(contradiction(
                "mode = async",
                "default_level = linearizable",
                "use bounded, session or eventual, or mode = sync",
            ));
        }
        if self.delimiter.is_some_and(|c| !c.is_ascii_graphic()) {
            return Err(value("delimiter", "use one visible ASCII character"));
        }
        let retentions = [
            ("idempotency_retention", self.idempotency_retention),
            ("tombstone_retention", self.tombstone_retention),
        ];
        for (option, time) in retentions {
            if !(Duration::from_secs(1)..=LONGEST_RETENTION).contains(&time) {
                return Err(value(option, "not within 1 s to 30 days"));
            }
        }
        if self.mode == Mode::Sync && self.tombstone_retention < 2 * LONGEST_TRANSACTION {
            let reason = format!(
                "at least {} s where transactions may run: no version that one of them has seen may recur (twice the longest transaction)",
                2 * LONGEST_TRANSACTION.as_secs()
            );
            return Err(value("tombstone_retention", reason));
        }
        self.timing.validate()
    }
}

/// A keyspace as people write it down: names for choices, and only what they choose. The rest is by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceSpec {
    /// `sync` (the default) or `async`.
    pub mode: Option<String>,
    /// Replicas of each group.
    pub replication_factor: Option<u32>,
    /// Shard groups.
    pub groups: Option<u32>,
    /// `linearizable`, `bounded:500ms`, `session` or `eventual`.
    pub default_level: Option<String>,
    /// `always` (the default), `interval` or `never`.
    pub fsync: Option<String>,
    /// Fewest replicas in sync for a write to be accepted.
    pub min_in_sync: Option<u32>,
    /// One character.
    pub delimiter: Option<String>,
    /// For how long the outcome of a write is kept for a retry.
    pub idempotency_retention: Option<Duration>,
    /// For how long deletes leave a tombstone.
    pub tombstone_retention: Option<Duration>,
    /// Between two heartbeats of a primary.
    pub heartbeat: Option<Duration>,
    /// For how long an echo lets the primary serve on its own.
    pub lease: Option<Duration>,
    /// For how long a backup promises not to take over.
    pub grace: Option<Duration>,
}

impl KeyspaceSpec {
    /// The options meant, valid.
    pub fn resolve(&self) -> Result<KeyspaceOptions, OptionsError> {
        let fsync = match &self.fsync {
            Some(text) => text.parse().map_err(|reason: String| value("fsync", reason))?,
            None => Fsync::Always,
        };
        let mode = parse_mode(self.mode.as_deref().unwrap_or(Mode::Sync.name()), fsync)?;
        let defaults = KeyspaceOptions::of(mode, self.replication_factor.unwrap_or(3));
        let default_level = match &self.default_level {
            Some(text) => text.parse().map_err(|reason: String| value("default_level", reason))?,
            None => defaults.default_level,
        };
        let delimiter = match self.delimiter.as_deref().map(|text| text.chars().collect::<Vec<_>>()) {
            None => None,
            Some(one) if one.len() == 1 => one.first().copied(),
            Some(_) => return Err(value("delimiter", "use one visible ASCII character")),
        };
        let options = KeyspaceOptions {
            fsync,
            default_level,
            delimiter,
            groups: self.groups.unwrap_or(defaults.groups),
            min_in_sync: self.min_in_sync.unwrap_or(defaults.min_in_sync),
            idempotency_retention: self.idempotency_retention.unwrap_or(defaults.idempotency_retention),
            tombstone_retention: self.tombstone_retention.unwrap_or(defaults.tombstone_retention),
            timing: Timing {
                heartbeat: self.heartbeat.unwrap_or(defaults.timing.heartbeat),
                lease: self.lease.unwrap_or(defaults.timing.lease),
                grace: self.grace.unwrap_or(defaults.timing.grace),
            },
            ..defaults
        };
        options.validate()?;
        Ok(options)
    }
}

fn parse_mode(text: &str, fsync: Fsync) -> Result<Mode, OptionsError> {
    let voting = matches!(text, "raft" | "paxos");
    if voting && fsync != Fsync::Always {
        let reason = "a voter that forgets its vote can elect two leaders: fsync = always";
        return Err(contradiction(
            format!("mode = {text}"),
            format!("fsync = {fsync}"),
            reason,
        ));
    }
    if voting || text == "leaderless" {
        return Err(value(
            "mode",
            format!("'{text}' is not available in this release: use sync or async"),
        ));
    }
    text.parse().map_err(|reason: String| value("mode", reason))
}

/// Checks a keyspace's name.
pub fn validate_name(name: &str) -> Result<(), OptionsError> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(legal) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(value(
        "name",
        format!("'{shown}' is not 1 to {MAX_NAME_BYTES} of the characters a-z, 0-9, _ and -"),
    ))
}

/// A keyspace in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// Never reused.
    pub id: KeyspaceId,
    /// What clients call it.
    pub name: String,
    /// Its choices.
    pub options: KeyspaceOptions,
    /// Which group holds which slot.
    pub slots: SlotTable,
}

impl Keyspace {
    /// The slot of a key.
    #[must_use]
    pub fn slot_of(&self, key: &[u8]) -> Slot {
        slot_of(key, self.options.partitioning())
    }

    /// The group of a key.
    #[must_use]
    pub fn group_of(&self, key: &[u8]) -> GroupId {
        self.slots.group_of(self.slot_of(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut KeyspaceSpec)) -> Result<KeyspaceOptions, String> {
        let mut spec = KeyspaceSpec::default();
        change(&mut spec);
        spec.resolve().map_err(|error| error.to_string())
    }

    fn refused(change: impl FnOnce(&mut KeyspaceSpec), words: &[&str]) {
        let message = spec(change).unwrap_err();
        for word in words {
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
    }

    #[test]
    fn defaults_are_valid() {
        let options = spec(|_| {}).unwrap();
        assert_eq!(
            (options.mode, options.min_in_sync, options.default_level),
            (Mode::Sync, 2, Level::Linearizable)
        );
        let options = spec(|s| s.mode = Some("async".into())).unwrap();
        assert_eq!((options.min_in_sync, options.default_level), (1, Level::Session));
        assert_eq!(spec(|s| s.replication_factor = Some(1)).unwrap().min_in_sync, 1);
    }

    #[test]
    fn contradictions_name_both_options() {
        refused(
            |s| s.min_in_sync = Some(4),
            &["min_in_sync = 4", "replication_factor = 3"],
        );
        refused(
            |s| {
                s.mode = Some("async".into());
                s.default_level = Some("linearizable".into());
            },
            &["mode = async", "default_level = linearizable"],
        );
        for mode in ["raft", "paxos"] {
            refused(
                |s| {
                    s.mode = Some(mode.into());
                    s.fsync = Some("never".into());
                },
                &[mode, "fsync = never"],
            );
        }
        let (lease, grace) = (Duration::from_millis(1000), Duration::from_millis(1010));
        refused(
            |s| (s.lease, s.grace) = (Some(lease), Some(grace)),
            &["lease = 1000 ms", "grace = 1010 ms"],
        );
        refused(
            |s| s.heartbeat = Some(Duration::from_millis(500)),
            &["heartbeat = 500 ms", "lease = 1000 ms"],
        );
    }

    #[test]
    fn values_out_of_range_are_named() {
        refused(|s| s.replication_factor = Some(0), &["replication_factor", "1 to 7"]);
        refused(|s| s.groups = Some(128), &["groups", "1 to 127"]);
        refused(|s| s.min_in_sync = Some(0), &["min_in_sync"]);
        refused(
            |s| s.mode = Some("raft".into()),
            &["mode", "not available", "sync or async"],
        );
        refused(|s| s.mode = Some("fast".into()), &["mode", "'fast'"]);
        refused(|s| s.fsync = Some("often".into()), &["fsync", "'often'"]);
        refused(
            |s| s.default_level = Some("strong".into()),
            &["default_level", "'strong'"],
        );
        refused(|s| s.delimiter = Some("::".into()), &["delimiter"]);
        refused(|s| s.delimiter = Some("\u{e9}".into()), &["delimiter"]);
        refused(
            |s| s.idempotency_retention = Some(Duration::ZERO),
            &["idempotency_retention"],
        );
        refused(
            |s| s.tombstone_retention = Some(Duration::from_secs(59)),
            &["tombstone_retention", "at least 60 s"],
        );
        refused(
            |s| s.tombstone_retention = Some(Duration::ZERO),
            &["tombstone_retention"],
        );
    }

    #[test]
    fn names() {
        for good in ["a", "user-data_2", &"x".repeat(63)] {
            assert_eq!(validate_name(good), Ok(()));
        }
        for bad in ["", "Users", "a b", "a/b", "\u{e9}", &"x".repeat(64)] {
            assert!(validate_name(bad).is_err(), "{bad}");
        }
    }
}
