//! What keys became in a history that a failover lost, told from a loss certificate.
//!
//! **The promise.** A key that nobody wrote since the two histories parted had, where they parted, the value that it has now. So the
//! lost writes of that key, done again in their order on its present value, make what they had made: conditions are judged as they
//! were, a retry that had no effect has none, what has expired meanwhile is gone. What comes out is written only if the key is unchanged
//! since the histories parted, which the store itself judges. A newer write is never overwritten, and doing it twice does nothing.
//!
//! **What is left out.** A retry of a write from before the histories parted looks like a new one here: the surviving history
//! knows its outcome, so the caller asks it ([`LostWrite::idempotency`]). Deletes since then leave a tombstone for a while only: of a key
//! without a value that is older nobody can tell whether it was deleted since ([`Fate::Absent`]).

use bytes::Bytes;
use fulcrum_client::{Certificate, IdempotencyKey, LostEntry};
use fulcrum_types::{Condition, Mutation, Version, Versioned, WriteOp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One lost write of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostWrite {
    /// The version that it had.
    pub version: Version,
    /// When it was made, in replicated time.
    pub time_ms: u64,
    /// What a retry of it is recognised by.
    pub idempotency: Option<IdempotencyKey>,
    /// What it did.
    pub op: WriteOp,
}

/// A key with lost writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostKey {
    /// The key.
    pub key: Bytes,
    /// Version through which its history is the surviving one.
    pub common: Version,
    /// When the first write of the lost history was made.
    pub since_ms: u64,
    /// In their order.
    pub writes: Vec<LostWrite>,
}

/// The lost keys of one certificate; none if its extent is not known. Writes that surely were not acknowledged count only if
/// asked for.
#[must_use]
pub fn lost_keys(certificate: &Certificate, unacknowledged: bool) -> Vec<LostKey> {
    let Some(common) = certificate.common.filter(|_| certificate.extent_known) else {
        return Vec::new();
    };
    let mut entries: Vec<&LostEntry> = certificate.entries.iter().collect();
    entries.sort_by_key(|entry| (entry.position.index, entry.position.epoch));
    let since_ms = entries.first().map_or(0, |entry| entry.time_ms);
    let mut seen = BTreeSet::new();
    let mut keys: BTreeMap<&Bytes, Vec<LostWrite>> = BTreeMap::new();
    for entry in entries.into_iter().filter(|entry| entry.acknowledged || unacknowledged) {
        let known = entry.idempotency.iter().chain(std::iter::repeat(&None));
        let mut own = Vec::new();
        for (op, idempotency) in entry.writes.iter().zip(known) {
            let request = idempotency.map(|key| (key.client, key.sequence));
            if request.is_some_and(|request| seen.contains(&request)) {
                continue;
            }
            own.extend(request);
            keys.entry(&op.key).or_default().push(LostWrite {
                version: Version(entry.position.index.0),
                time_ms: entry.time_ms,
                idempotency: *idempotency,
                op: op.clone(),
            });
        }
        // The writes of a batch share a key: only another entry's are repetitions.
        seen.extend(own);
    }
    let lost = |(key, writes): (&Bytes, Vec<LostWrite>)| LostKey {
        key: key.clone(),
        common: Version(common.index.0),
        since_ms,
        writes,
    };
    keys.into_iter().map(lost).collect()
}

/// What is to be done about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Set it to what it was, if it is unchanged since then.
    Put {
        /// The value.
        value: Bytes,
        /// What is left of its time to live.
        ttl: Option<Duration>,
    },
    /// Delete it, if it is unchanged since then.
    Delete,
    /// Nothing: it is as the lost history left it.
    Same,
    /// Nothing: it was written since.
    WrittenSince,
    /// It has no value, and it cannot be told any more whether it was deleted since. Holds what would have been done.
    Absent(Box<Fate>),
}

impl LostKey {
    /// What the key became in the lost history, and so what is to be done about it, given its present value.
    #[must_use]
    pub fn fate(&self, present: Option<&Versioned>, now_ms: u64, tombstones: Duration) -> Fate {
        if present.is_some_and(|value| value.version > self.common) {
            return Fate::WrittenSince;
        }
        let before = present.cloned();
        let after = self.writes.iter().fold(before.clone(), done);
        let fate = match visible(after, now_ms) {
            after if after == before => return Fate::Same,
            None => Fate::Delete,
            Some(value) => Fate::Put {
                ttl: (value.expires_at_ms != 0).then(|| Duration::from_millis(value.expires_at_ms - now_ms)),
                value: value.value,
            },
        };
        let tombstones_gone =
            now_ms.saturating_sub(self.since_ms) > tombstones.as_millis().try_into().unwrap_or(u64::MAX);
        match before {
            None if tombstones_gone => Fate::Absent(Box::new(fate)),
            _ => fate,
        }
    }
}

fn visible(value: Option<Versioned>, at_ms: u64) -> Option<Versioned> {
    value.filter(|value| value.expires_at_ms == 0 || value.expires_at_ms > at_ms)
}

/// The value after a write that came upon it, as the state machine of a group does it.
fn done(value: Option<Versioned>, write: &LostWrite) -> Option<Versioned> {
    let current = visible(value.clone(), write.time_ms);
    if !holds(&write.op.condition, current.as_ref()) {
        return value;
    }
    match &write.op.mutation {
        Mutation::Delete => None,
        Mutation::Put { value, ttl } => Some(Versioned {
            value: value.clone(),
            version: write.version,
            expires_at_ms: ttl.map_or(0, |ttl| {
                let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                write.time_ms.saturating_add(ttl).max(1)
            }),
        }),
    }
}

fn holds(condition: &Condition, current: Option<&Versioned>) -> bool {
    match condition {
        Condition::None => true,
        Condition::Absent => current.is_none(),
        Condition::Exists => current.is_some(),
        Condition::VersionIs(version) => current.is_some_and(|value| value.version == *version),
        Condition::ValueIs(expected) => current.is_some_and(|value| value.value == *expected),
        Condition::UnchangedSince(version) => current.is_none_or(|value| value.version <= *version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{ClientId, Epoch, GroupId, Index, LogPosition, NodeId, Sequence};

    const MINUTE: Duration = Duration::from_secs(60);
    const COMMON: u64 = 10;

    fn position(index: u64) -> LogPosition {
        LogPosition {
            epoch: Epoch(1),
            index: Index(index),
        }
    }

    fn op(condition: Condition, mutation: Mutation) -> WriteOp {
        WriteOp {
            key: "k".into(),
            condition,
            mutation,
        }
    }

    fn put(value: &'static str) -> WriteOp {
        op(Condition::None, set(value, None))
    }

    fn set(value: &'static str, ttl: Option<Duration>) -> Mutation {
        Mutation::Put {
            value: value.into(),
            ttl,
        }
    }

    fn key(sequence: u64) -> Option<IdempotencyKey> {
        Some(IdempotencyKey {
            client: ClientId(5),
            sequence: Sequence(sequence),
            issued_at_ms: 1,
            low_water: Sequence(1),
        })
    }

    /// A certificate of entries from behind the common one on, a second apart.
    fn certificate(entries: Vec<(Option<IdempotencyKey>, Vec<WriteOp>)>) -> Certificate {
        let entry = |(number, (idempotency, writes)): (u64, (Option<IdempotencyKey>, Vec<WriteOp>))| LostEntry {
            position: position(COMMON + 1 + number),
            acknowledged: number < 100,
            time_ms: 1000 * (number + 1),
            idempotency: vec![idempotency; writes.len()],
            writes,
        };
        Certificate {
            group: GroupId(1),
            keyspace: "k".into(),
            old_epoch: Epoch(1),
            new_epoch: Epoch(2),
            promotion: Some(position(COMMON)),
            extent_known: true,
            acknowledged_lost: entries.len() as u64,
            never_acknowledged: 0,
            common: Some(position(COMMON)),
            entries: (0..).zip(entries).map(entry).collect(),
            seen_on: Some(NodeId(1)),
        }
    }

    fn value(value: &'static str, version: u64) -> Versioned {
        Versioned {
            value: value.into(),
            version: Version(version),
            expires_at_ms: 0,
        }
    }

    fn fate(writes: Vec<(Option<IdempotencyKey>, WriteOp)>, present: Option<&Versioned>, now_ms: u64) -> Fate {
        let entries = writes.into_iter().map(|(key, op)| (key, vec![op])).collect();
        let lost = lost_keys(&certificate(entries), false);
        assert_eq!(lost.len(), 1);
        lost[0].fate(present, now_ms, MINUTE)
    }

    fn becomes(value: &'static str) -> Fate {
        Fate::Put {
            value: value.into(),
            ttl: None,
        }
    }

    #[test]
    fn the_last_write_counts_and_a_newer_one_is_left_alone() {
        let writes = || vec![(None, put("a")), (None, put("b"))];
        assert_eq!(fate(writes(), None, 5000), becomes("b"));
        assert_eq!(fate(writes(), Some(&value("old", COMMON)), 5000), becomes("b"));
        assert_eq!(
            fate(writes(), Some(&value("new", COMMON + 1)), 5000),
            Fate::WrittenSince
        );
    }

    #[test]
    fn conditions_are_judged_as_they_were() {
        let old = value("old", 7);
        let only_new = || op(Condition::Absent, set("x", None));
        assert_eq!(fate(vec![(None, only_new())], Some(&old), 5000), Fate::Same);
        assert_eq!(fate(vec![(None, only_new())], None, 5000), becomes("x"));
        // Each builds on the one before: versions are those of the lost history.
        let next = |version, value| op(Condition::VersionIs(Version(version)), set(value, None));
        let chain = vec![
            (None, next(7, "1")),
            (None, next(COMMON + 1, "2")),
            (None, next(7, "3")),
        ];
        assert_eq!(fate(chain, Some(&old), 5000), becomes("2"));
    }

    #[test]
    fn a_retry_has_no_effect_and_the_writes_of_a_batch_have() {
        let writes = vec![(key(1), put("first")), (key(2), put("second")), (key(1), put("first"))];
        assert_eq!(fate(writes, None, 5000), becomes("second"));
        let batch = certificate(vec![(key(1), vec![put("a"), put("b")])]);
        assert_eq!(lost_keys(&batch, false)[0].fate(None, 5000, MINUTE), becomes("b"));
    }

    #[test]
    fn what_was_deleted_or_has_expired_goes() {
        let old = value("old", 7);
        let delete = || op(Condition::None, Mutation::Delete);
        assert_eq!(fate(vec![(None, delete())], Some(&old), 5000), Fate::Delete);
        assert_eq!(fate(vec![(None, delete())], None, 5000), Fate::Same);
        let short = || op(Condition::None, set("x", Some(Duration::from_secs(10))));
        let left = Fate::Put {
            value: "x".into(),
            ttl: Some(Duration::from_secs(6)),
        };
        assert_eq!(fate(vec![(None, short())], Some(&old), 5000), left);
        assert_eq!(fate(vec![(None, short())], Some(&old), 11_000), Fate::Delete);
        assert_eq!(fate(vec![(None, short())], None, 11_000), Fate::Same);
    }

    #[test]
    fn of_an_absent_key_nothing_is_believed_when_tombstones_are_gone() {
        let late = 1000 + 60_001;
        let would = Box::new(becomes("a"));
        assert_eq!(fate(vec![(None, put("a"))], None, late), Fate::Absent(would));
        assert_eq!(fate(vec![(None, put("a"))], Some(&value("old", 7)), late), becomes("a"));
    }

    #[test]
    fn what_was_not_acknowledged_counts_only_if_asked_for_and_nothing_without_extent() {
        let mut lost = certificate(vec![(None, vec![put("a")]), (None, vec![put("b")])]);
        lost.entries[1].acknowledged = false;
        let fate = |lost: &Certificate, all| lost_keys(lost, all)[0].fate(None, 5000, MINUTE);
        assert_eq!(fate(&lost, false), becomes("a"));
        assert_eq!(fate(&lost, true), becomes("b"));
        lost.extent_known = false;
        assert!(lost_keys(&lost, true).is_empty());
    }
}
