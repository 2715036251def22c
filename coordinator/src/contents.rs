//! What a client's request named, kept to put the answer together: groups answer by position in their own part.

use fulcrum_common::ClusterMap;
use fulcrum_common::key::validate_key;
use fulcrum_common::limits::{MAX_PARTICIPANTS, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_KEYS};
use fulcrum_two_phase::PlannedRead;
use fulcrum_types::{
    CommitOutcome, CommitRequest, CommittedPart, GroupId, InKeyspace, Mode, NamedKey, Observations, Observed,
    Participant, Refusal, TransactionRead, Version,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The group of a key that may take part in a transaction.
///
/// # Errors
/// No such keyspace, or one that takes part in none; a key that breaks a limit.
pub(crate) fn place(map: &ClusterMap, key: &NamedKey) -> Result<Participant, Refusal> {
    let Some(keyspace) = map.keyspace_by_name(&key.keyspace) else {
        return Err(Refusal::UnknownKeyspace {
            keyspace: key.keyspace.clone(),
        });
    };
    if keyspace.options.mode != Mode::Sync {
        return Err(Refusal::NoTransactions {
            keyspace: keyspace.name.clone(),
            mode: keyspace.options.mode,
        });
    }
    validate_key(&key.what)?;
    Ok(Participant {
        keyspace: keyspace.id,
        group: keyspace.group_of(&key.what),
    })
}

/// A read, split by group.
#[derive(Debug)]
pub(crate) struct SplitRead {
    pub(crate) parts: Vec<PlannedRead>,
    /// For each key asked: which part, and which key of it.
    positions: Vec<(usize, usize)>,
}

impl SplitRead {
    /// # Errors
    /// A key that cannot be read in a transaction, or a broken limit.
    pub(crate) fn new(map: &ClusterMap, read: TransactionRead) -> Result<Self, Refusal> {
        let count = read.keys.len();
        if !(1..=MAX_TRANSACTION_KEYS).contains(&count) {
            return Err(invalid(format!(
                "a transaction reads 1 to {MAX_TRANSACTION_KEYS} keys at once, not {count}"
            )));
        }
        let mut parts: Vec<PlannedRead> = Vec::new();
        let mut known: BTreeMap<Participant, usize> = BTreeMap::new();
        let mut positions = Vec::with_capacity(count);
        for key in read.keys {
            let participant = place(map, &key)?;
            let part = *known.entry(participant).or_insert_with(|| {
                parts.push(PlannedRead {
                    participant,
                    seen: read.session.groups.get(&participant.group).copied(),
                    keys: Vec::new(),
                });
                parts.len() - 1
            });
            positions.push((part, parts[part].keys.len()));
            parts[part].keys.push(key.what);
        }
        if parts.len() > MAX_PARTICIPANTS {
            return Err(invalid(format!(
                "the keys are in {} shard groups, at most {MAX_PARTICIPANTS} may be: read them in several calls",
                parts.len()
            )));
        }
        Ok(Self { parts, positions })
    }

    /// The values in the order of the keys asked.
    ///
    /// # Errors
    /// More than one answer may hold; or the groups answered something else.
    pub(crate) fn values(positions: &[(usize, usize)], parts: Vec<Observations>) -> Result<Vec<Observed>, Refusal> {
        let bytes = |observed: &Observed| observed.value.as_ref().map_or(0, |value| value.value.len());
        let all = parts.iter().flat_map(|part| &part.observed);
        if all.map(bytes).sum::<usize>() > MAX_TRANSACTION_BYTES {
            return Err(invalid(format!(
                "the values have more than {MAX_TRANSACTION_BYTES} bytes: read fewer keys at once"
            )));
        }
        let value = |(part, key): &(usize, usize)| parts.get(*part)?.observed.get(*key).cloned();
        let values: Option<Vec<_>> = positions.iter().map(value).collect();
        values.ok_or_else(|| Refusal::Unknown {
            reason: "a group did not answer for every key that it was asked for".into(),
        })
    }

    /// Takes the two apart: one goes to the core, the other waits for the answer.
    pub(crate) fn into_parts(self) -> (Vec<PlannedRead>, Vec<(usize, usize)>) {
        (self.parts, self.positions)
    }
}

/// What a commit named.
#[derive(Debug)]
pub(crate) struct Contents {
    map: Arc<ClusterMap>,
    conditions: Vec<NamedKey>,
    writes: Vec<NamedKey>,
}

impl Contents {
    pub(crate) fn of(map: Arc<ClusterMap>, request: &CommitRequest) -> Self {
        let named = |keyspace: &String, key: &bytes::Bytes| InKeyspace {
            keyspace: keyspace.clone(),
            what: key.clone(),
        };
        let conditions = request.conditions.iter();
        let writes = request.writes.iter();
        Self {
            map,
            conditions: conditions.map(|one| named(&one.keyspace, &one.what.key)).collect(),
            writes: writes.map(|one| named(&one.keyspace, &one.what.key)).collect(),
        }
    }

    /// The version of each write.
    ///
    /// # Errors
    /// The record does not name the group of every write.
    pub(crate) fn committed(&self, parts: &[CommittedPart], rounds: u32) -> Result<CommitOutcome, Refusal> {
        let version = |key: &NamedKey| -> Option<Version> {
            let at = place(&self.map, key).ok()?;
            parts
                .iter()
                .find(|part| part.participant == at)
                .map(|part| part.version)
        };
        let versions: Option<Vec<_>> = self.writes.iter().map(version).collect();
        let versions = versions.ok_or_else(|| Refusal::Unknown {
            reason: "it is committed, but its record does not tell the version of every write".into(),
        })?;
        Ok(CommitOutcome::Committed { versions, rounds })
    }

    /// The condition that did not hold, by its position in the part of a group.
    ///
    /// # Errors
    /// There is none at that position.
    pub(crate) fn failed(
        &self,
        group: GroupId,
        condition: u32,
        current: Option<Version>,
    ) -> Result<CommitOutcome, Refusal> {
        let of_group = |key: &&NamedKey| place(&self.map, key).is_ok_and(|at| at.group == group);
        let position = usize::try_from(condition).unwrap_or(usize::MAX);
        let key = self.conditions.iter().filter(of_group).nth(position).cloned();
        let key = key.ok_or_else(|| Refusal::Unknown {
            reason: format!("group {group} says that a condition failed which it was not asked for"),
        })?;
        Ok(CommitOutcome::ConditionFailed { key, current })
    }
}

fn invalid(reason: String) -> Refusal {
    Refusal::Invalid { reason }
}
