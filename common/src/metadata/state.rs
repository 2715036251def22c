//! The embedded store's state: a pure map with revisions, leases and a bounded history of changes.

use super::record::Record;
use super::{Compare, KeyValue, LeaseId, Listing, Op, Revision, WatchError, WatchEvent};
use fulcrum_types::Mono;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Changes kept for watchers. One that is further behind lists again.
const HISTORY: usize = 4096;

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Mono,
}

/// Everything.
#[derive(Debug)]
pub(super) struct State {
    revision: Revision,
    entries: BTreeMap<String, KeyValue>,
    leases: BTreeMap<LeaseId, Lease>,
    next_lease: LeaseId,
    history: VecDeque<WatchEvent>,
    /// Changes up to and with this revision are no longer in `history`.
    compacted: Revision,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            revision: Revision::ABSENT,
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_lease: LeaseId(1),
            history: VecDeque::new(),
            compacted: Revision::ABSENT,
        }
    }

    /// The state that these records leave, or the first one that does not follow. Every lease starts anew: its holder could
    /// not keep it alive meanwhile. Watchers from before list again.
    pub(super) fn replay(records: impl IntoIterator<Item = Record>, now: Mono) -> Result<Self, String> {
        let mut state = Self::new();
        for record in records {
            if let Record::Change { revision, ops, .. } = &record {
                let follows = if ops.is_empty() {
                    state.revision
                } else {
                    state.revision.next()
                };
                if *revision != follows {
                    return Err(format!("revision {revision} follows {}", state.revision));
                }
            }
            state.apply(record, now);
        }
        state.history.clear();
        state.compacted = state.revision;
        Ok(state)
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<&KeyValue> {
        self.entries.get(key)
    }

    pub(super) fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    pub(super) fn next_lease(&self) -> LeaseId {
        self.next_lease
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let from_prefix = self.entries.range(prefix.to_owned()..);
        let entries = from_prefix
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, kv)| kv.clone())
            .collect();
        Listing {
            revision: self.revision,
            entries,
        }
    }

    pub(super) fn holds(&self, compare: &[Compare]) -> bool {
        compare
            .iter()
            .all(|c| self.get(&c.key).map_or(Revision::ABSENT, |kv| kv.mod_revision) == c.mod_revision)
    }

    /// The record of a transaction: deletes of what is not there are left out, and a transaction without a change takes no
    /// revision.
    pub(super) fn change(&self, ops: Vec<Op>, ended: Vec<LeaseId>) -> Record {
        let changes = |op: &Op| match op {
            Op::Put { .. } => true,
            Op::Delete { key } => self.entries.contains_key(key),
        };
        let ops: Vec<Op> = ops.into_iter().filter(changes).collect();
        let revision = if ops.is_empty() {
            self.revision
        } else {
            self.revision.next()
        };
        Record::Change { revision, ops, ended }
    }

    /// The record that ends these leases and removes their keys.
    pub(super) fn end_leases(&self, ended: Vec<LeaseId>) -> Record {
        let theirs = self
            .entries
            .values()
            .filter(|kv| kv.lease.is_some_and(|lease| ended.contains(&lease)));
        self.change(theirs.map(|kv| Op::Delete { key: kv.key.clone() }).collect(), ended)
    }

    pub(super) fn expired(&self, now: Mono) -> Vec<LeaseId> {
        self.leases
            .iter()
            .filter(|(_, lease)| lease.deadline <= now)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Whether there is such a lease.
    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Mono) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else {
            return false;
        };
        lease.deadline = now + lease.ttl;
        true
    }

    pub(super) fn snapshot(&self) -> Record {
        Record::Snapshot {
            revision: self.revision,
            next_lease: self.next_lease,
            leases: self.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect(),
            entries: self.entries.values().cloned().collect(),
        }
    }

    pub(super) fn apply(&mut self, record: Record, now: Mono) {
        match record {
            Record::Snapshot {
                revision,
                next_lease,
                leases,
                entries,
            } => {
                *self = Self {
                    revision,
                    next_lease,
                    compacted: revision,
                    ..Self::new()
                };
                self.entries.extend(entries.into_iter().map(|kv| (kv.key.clone(), kv)));
                for (id, ttl) in leases {
                    self.leases.insert(
                        id,
                        Lease {
                            ttl,
                            deadline: now + ttl,
                        },
                    );
                }
            }
            Record::Change { revision, ops, ended } => {
                self.revision = revision;
                for op in ops {
                    self.apply_op(op, revision);
                }
                for lease in ended {
                    self.leases.remove(&lease);
                }
                self.forget_old();
            }
            Record::Grant { lease, ttl } => {
                self.leases.insert(
                    lease,
                    Lease {
                        ttl,
                        deadline: now + ttl,
                    },
                );
                self.next_lease = self.next_lease.max(LeaseId(lease.0 + 1));
            }
        }
    }

    fn apply_op(&mut self, op: Op, revision: Revision) {
        match op {
            Op::Put { key, value, lease } => {
                let kv = KeyValue {
                    key: key.clone(),
                    value,
                    mod_revision: revision,
                    lease,
                };
                self.history.push_back(WatchEvent::Put(kv.clone()));
                self.entries.insert(key, kv);
            }
            Op::Delete { key } => {
                self.entries.remove(&key);
                self.history.push_back(WatchEvent::Delete { key, revision });
            }
        }
    }

    /// A revision is forgotten whole or not at all.
    fn forget_old(&mut self) {
        while self.history.len() > HISTORY {
            let Some(oldest) = self.history.pop_front() else { return };
            self.compacted = oldest.revision();
            while self
                .history
                .front()
                .is_some_and(|event| event.revision() == self.compacted)
            {
                self.history.pop_front();
            }
        }
    }

    /// At least `limit` changes of keys with a prefix, if there are as many, from a revision on; and the revision to go on
    /// from.
    pub(super) fn changes(
        &self,
        prefix: &str,
        from: Revision,
        limit: usize,
    ) -> Result<(Vec<WatchEvent>, Revision), WatchError> {
        if from <= self.compacted {
            return Err(WatchError::Compacted {
                compacted: self.compacted,
            });
        }
        let mut found: Vec<WatchEvent> = Vec::new();
        let start = self.history.partition_point(|event| event.revision() < from);
        for event in self.history.range(start..) {
            let full = found.len() >= limit;
            if full && found.last().is_some_and(|last| last.revision() != event.revision()) {
                return Ok((found, event.revision()));
            }
            if event.key().starts_with(prefix) {
                found.push(event.clone());
            }
        }
        // A watch may begin in the future.
        Ok((found, from.max(self.revision.next())))
    }
}
