//! A shard group in small: the commands of `docs/transactions.md` on a map, as if every command were replicated at once. What the real
//! one does by waiting for a lock is answered `LOCKED` here.

use bytes::Bytes;
use fulcrum_types::{
    AbortCause, CommittedPart, Condition, Decide, Decision, Fingerprint, GroupId, IntentSeen, KeyspaceId, Mutation,
    Observations, Observed, Part, Participant, PrepareRequest, Priority, ReadCheck, Refusal, Resolution, Resolved,
    Transact, TransactionAnswer, TransactionId, TransactionState, Validation, Verdict, Version, Versioned, Vote,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a group keeps of a transaction.
#[derive(Clone, Debug)]
pub enum Record {
    Prepared(Box<Prepared>),
    Refused(AbortCause),
    Resolved(Fingerprint, Version),
    Committed {
        fingerprint: Fingerprint,
        parts: Vec<CommittedPart>,
        unresolved: bool,
        at_ms: u64,
    },
    Aborted(AbortCause),
}

#[derive(Clone, Debug)]
pub struct Prepared {
    pub fingerprint: Fingerprint,
    pub priority: Priority,
    pub home: Participant,
    pub part: Part,
    pub version: Version,
    pub at_ms: u64,
    pub heard_ms: u64,
}

/// What was ever done here: for the judges, not for the group.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub applied: BTreeMap<(TransactionId, Fingerprint), Version>,
    pub decisions: BTreeMap<TransactionId, Decision>,
    pub broken: Vec<String>,
}

pub struct Group {
    pub me: Participant,
    pub up: bool,
    pub index: u64,
    /// How far its replicated time is ahead, in milliseconds.
    pub ahead_ms: u64,
    pub horizon_ms: u64,
    pub values: BTreeMap<Bytes, (Version, Option<Bytes>)>,
    pub records: BTreeMap<TransactionId, Record>,
    /// Transactions about which it has asked and was not answered.
    pub asking: BTreeSet<TransactionId>,
    /// Who has not confirmed what it told.
    pub untold: BTreeMap<TransactionId, BTreeSet<Participant>>,
    pub history: History,
}

/// The outcome of a command.
pub type Outcome = Result<TransactionAnswer, Refusal>;

pub fn place(group: u64) -> Participant {
    Participant {
        keyspace: KeyspaceId(1),
        group: GroupId(group),
    }
}

fn invalid(reason: &str) -> Refusal {
    Refusal::Invalid { reason: reason.into() }
}

impl Group {
    pub fn new(group: u64, horizon_ms: u64) -> Self {
        Self {
            me: place(group),
            up: true,
            index: 0,
            ahead_ms: 0,
            horizon_ms,
            values: BTreeMap::new(),
            records: BTreeMap::new(),
            asking: BTreeSet::new(),
            untold: BTreeMap::new(),
            history: History::default(),
        }
    }

    fn is_past(&self, id: TransactionId, now_ms: u64) -> bool {
        now_ms + self.ahead_ms > id.begun_at_ms + self.horizon_ms
    }

    /// Records go by time.
    pub fn sweep(&mut self, now_ms: u64) {
        let time = now_ms + self.ahead_ms;
        let horizon = self.horizon_ms;
        self.records.retain(|id, record| match record {
            Record::Prepared(_) | Record::Committed { unresolved: true, .. } => true,
            _ => time <= id.begun_at_ms + horizon,
        });
    }

    /// The holder of a lock in the way of this part, and whether every such holder is younger.
    fn conflict(&self, part: &Part, own: TransactionId) -> Option<(TransactionId, Priority)> {
        let holders = self.records.iter().filter(|(id, _)| **id != own);
        let conflicts = holders.filter_map(|(id, record)| {
            let Record::Prepared(held) = record else { return None };
            collide(&held.part, part).then_some((*id, held.priority))
        });
        conflicts.min_by_key(|(_, priority)| *priority)
    }

    fn judge(&self, part: &Part) -> Result<(), AbortCause> {
        let group = self.me.group;
        for (read, check) in (0..).zip(&part.reads) {
            if !self.holds(check) {
                return Err(AbortCause::ReadInvalidated { group, read });
            }
        }
        for (condition, wanted) in (0..).zip(&part.conditions) {
            let (version, value) = self.values.get(&wanted.key).cloned().unwrap_or_default();
            let holds = match &wanted.condition {
                Condition::None => true,
                Condition::Absent => value.is_none(),
                Condition::Exists => value.is_some(),
                Condition::VersionIs(v) => value.is_some() && version == *v,
                Condition::ValueIs(v) => value.as_ref() == Some(v),
                Condition::UnchangedSince(v) => version <= *v,
            };
            if !holds {
                let current = value.is_some().then_some(version);
                return Err(AbortCause::ConditionFailed {
                    group,
                    condition,
                    current,
                });
            }
        }
        Ok(())
    }

    fn holds(&self, check: &ReadCheck) -> bool {
        let (version, value) = self.values.get(&check.key).cloned().unwrap_or_default();
        (version, value.is_some()) == (check.version, check.exists)
    }

    fn write(&mut self, id: TransactionId, fingerprint: Fingerprint, part: &Part, version: Version) {
        if self.history.applied.insert((id, fingerprint), version).is_some() {
            self.history
                .broken
                .push(format!("{} applies {id} twice", self.me.group));
        }
        for write in &part.writes {
            let value = match &write.mutation {
                Mutation::Put { value, .. } => Some(value.clone()),
                Mutation::Delete => None,
            };
            self.values.insert(write.key.clone(), (version, value));
        }
    }

    fn record_decision(&mut self, id: TransactionId, decision: &Decision) {
        let first = self.history.decisions.entry(id).or_insert_with(|| decision.clone());
        let same = match (&*first, decision) {
            (Decision::Aborted(_), Decision::Aborted(_)) => true,
            (first, second) => first == second,
        };
        if !same {
            let broken = format!("{} records {decision:?} of {id} after {first:?}", self.me.group);
            self.history.broken.push(broken);
        }
    }

    pub fn transact(&mut self, transact: &Transact, now_ms: u64) -> Outcome {
        let id = transact.id;
        let vote = match self.records.get(&id) {
            Some(Record::Committed { fingerprint, parts, .. }) if *fingerprint == transact.fingerprint => {
                Vote::Decided(Decision::Committed {
                    fingerprint: *fingerprint,
                    parts: parts.clone(),
                })
            }
            Some(Record::Aborted(cause) | Record::Refused(cause)) => Vote::Decided(Decision::Aborted(*cause)),
            Some(_) => return Err(Refusal::TransactionIdReused { id }),
            None if self.is_past(id, now_ms) => return Err(Refusal::TooOldToTell),
            None => {
                if let Some((by, _)) = self.conflict(&transact.part, id) {
                    return Err(Refusal::Locked { by });
                }
                self.transact_now(transact, now_ms)
            }
        };
        Ok(TransactionAnswer::Vote(vote))
    }

    fn transact_now(&mut self, transact: &Transact, now_ms: u64) -> Vote {
        let id = transact.id;
        if let Err(cause) = self.judge(&transact.part) {
            self.records.insert(id, Record::Aborted(cause));
            return Vote::Decided(Decision::Aborted(cause));
        }
        let version = Version(self.index);
        self.write(id, transact.fingerprint, &transact.part, version);
        let participant = self.me;
        let parts = vec![CommittedPart { participant, version }];
        let decision = Decision::Committed {
            fingerprint: transact.fingerprint,
            parts: parts.clone(),
        };
        self.record_decision(id, &decision);
        let committed = Record::Committed {
            fingerprint: transact.fingerprint,
            parts,
            unresolved: false,
            at_ms: now_ms,
        };
        self.records.insert(id, committed);
        Vote::Decided(decision)
    }

    pub fn prepare(&mut self, prepare: &PrepareRequest, now_ms: u64) -> Outcome {
        let id = prepare.id;
        if (prepare.home == self.me) != prepare.decides() {
            return Err(invalid("the home group alone is asked with votes"));
        }
        let reused = Err(Refusal::TransactionIdReused { id });
        let vote = match self.records.get(&id) {
            Some(Record::Prepared(held)) if held.fingerprint != prepare.fingerprint => return reused,
            Some(Record::Prepared(held)) => Vote::Prepared { version: held.version },
            Some(Record::Refused(cause) | Record::Aborted(cause)) => Vote::Refused(*cause),
            Some(Record::Resolved(fingerprint, _)) if *fingerprint != prepare.fingerprint => return reused,
            Some(Record::Resolved(_, version)) => Vote::Resolved { version: *version },
            Some(Record::Committed { fingerprint, .. }) if *fingerprint != prepare.fingerprint => return reused,
            Some(Record::Committed { fingerprint, parts, .. }) => Vote::Decided(Decision::Committed {
                fingerprint: *fingerprint,
                parts: parts.clone(),
            }),
            None if self.is_past(id, now_ms) => return Err(Refusal::TooOldToTell),
            None => match (self.conflict(&prepare.part, id), self.judge(&prepare.part)) {
                (Some((with, oldest)), _) if oldest < prepare.priority => self.mark(id, AbortCause::Conflict { with }),
                (Some((by, _)), _) => return Err(Refusal::Locked { by }),
                (None, Err(cause)) => self.mark(id, cause),
                (None, Ok(())) if prepare.decides() => Vote::Decided(self.commit(prepare, now_ms)),
                (None, Ok(())) => self.promise(prepare, now_ms),
            },
        };
        Ok(TransactionAnswer::Vote(vote))
    }

    fn mark(&mut self, id: TransactionId, cause: AbortCause) -> Vote {
        self.records.insert(id, Record::Refused(cause));
        Vote::Refused(cause)
    }

    fn promise(&mut self, prepare: &PrepareRequest, now_ms: u64) -> Vote {
        let version = Version(self.index);
        let held = Prepared {
            fingerprint: prepare.fingerprint,
            priority: prepare.priority,
            home: prepare.home,
            part: prepare.part.clone(),
            version,
            at_ms: now_ms,
            heard_ms: now_ms,
        };
        self.records.insert(prepare.id, Record::Prepared(Box::new(held)));
        Vote::Prepared { version }
    }

    pub fn decide(&mut self, decide: &Decide, now_ms: u64) -> Outcome {
        let id = decide.id;
        let group = self.me.group;
        let foreign = match self.records.get(&id) {
            Some(Record::Prepared(held)) => Some(held.fingerprint),
            Some(Record::Resolved(fingerprint, _)) => Some(*fingerprint),
            _ => None,
        };
        if let Some(held) = foreign {
            return match decide.fingerprint {
                Some(asked) if asked != held => Ok(TransactionAnswer::Decision(Decision::Aborted(
                    AbortCause::NotPrepared { group },
                ))),
                _ => Err(invalid("another group is its home")),
            };
        }
        let decision = match self.records.get(&id).cloned() {
            Some(Record::Committed { fingerprint, parts, .. }) => Decision::Committed { fingerprint, parts },
            Some(Record::Aborted(cause) | Record::Refused(cause)) => Decision::Aborted(cause),
            _ if self.is_past(id, now_ms) => Decision::Aborted(AbortCause::TooOld),
            _ => self.abort(id, decide.cause),
        };
        Ok(TransactionAnswer::Decision(decision))
    }

    fn commit(&mut self, prepare: &PrepareRequest, now_ms: u64) -> Decision {
        let (id, fingerprint, participant, version) = (prepare.id, prepare.fingerprint, self.me, Version(self.index));
        let mut parts = prepare.votes.clone();
        parts.push(CommittedPart { participant, version });
        parts.sort();
        let decision = Decision::Committed {
            fingerprint,
            parts: parts.clone(),
        };
        self.record_decision(id, &decision);
        self.write(id, fingerprint, &prepare.part, version);
        let committed = Record::Committed {
            fingerprint,
            parts,
            unresolved: true,
            at_ms: now_ms,
        };
        self.records.insert(id, committed);
        decision
    }

    fn abort(&mut self, id: TransactionId, cause: AbortCause) -> Decision {
        let decision = Decision::Aborted(cause);
        self.record_decision(id, &decision);
        self.records.insert(id, Record::Aborted(cause));
        decision
    }

    pub fn resolve(&mut self, resolution: &Resolution, now_ms: u64) -> Resolved {
        let id = resolution.id;
        let record = self.records.get(&id).cloned();
        match (record, resolution.verdict) {
            (Some(Record::Prepared(held)), Verdict::Commit(fingerprint)) if held.fingerprint == fingerprint => {
                self.write(id, fingerprint, &held.part, held.version);
                self.records.insert(id, Record::Resolved(fingerprint, held.version));
                Resolved::Now
            }
            (Some(Record::Prepared(_)), Verdict::Commit(_)) => {
                let group = self.me.group;
                self.records
                    .insert(id, Record::Refused(AbortCause::NotPrepared { group }));
                Resolved::Now
            }
            (Some(Record::Prepared(held)), Verdict::Abort { of: Some(of), .. }) if held.fingerprint != of => {
                Resolved::Nothing
            }
            (Some(Record::Prepared(_)), Verdict::Abort { cause, .. }) => {
                self.records.insert(id, Record::Refused(cause));
                Resolved::Now
            }
            (None, Verdict::Abort { cause, .. }) => {
                if !self.is_past(id, now_ms) {
                    self.records.insert(id, Record::Refused(cause));
                }
                Resolved::Nothing
            }
            (None, Verdict::Commit(_)) => Resolved::Nothing,
            (Some(_), _) => Resolved::Before,
        }
    }

    pub fn forget(&mut self, id: TransactionId) {
        if let Some(Record::Committed { unresolved, .. }) = self.records.get_mut(&id) {
            *unresolved = false;
        }
    }

    pub fn look_up(&self, id: TransactionId, now_ms: u64) -> Result<TransactionState, Refusal> {
        Ok(match self.records.get(&id) {
            Some(Record::Committed { fingerprint, parts, .. }) => TransactionState::Decided(Decision::Committed {
                fingerprint: *fingerprint,
                parts: parts.clone(),
            }),
            Some(Record::Aborted(cause) | Record::Refused(cause)) => {
                TransactionState::Decided(Decision::Aborted(*cause))
            }
            Some(Record::Prepared(held)) => TransactionState::Promised { home: held.home },
            Some(Record::Resolved(..)) => return Err(invalid("another group is its home")),
            None if self.is_past(id, now_ms) => TransactionState::TooOld,
            None => TransactionState::NotSeen,
        })
    }

    /// Intents on these keys.
    pub fn intents(&self, keys: &[&Bytes]) -> Vec<(TransactionId, Prepared)> {
        let records = self.records.iter();
        let held = records.filter_map(|(id, record)| match record {
            Record::Prepared(held) => Some((*id, (**held).clone())),
            _ => None,
        });
        held.filter(|(_, held)| held.part.writes.iter().any(|write| keys.contains(&&write.key)))
            .collect()
    }

    pub fn value(&self, key: &Bytes) -> Observed {
        let (version, value) = self.values.get(key).cloned().unwrap_or_default();
        observed(version, value)
    }

    pub fn validate(&self, reads: &[ReadCheck]) -> Validation {
        let keys: Vec<_> = reads.iter().map(|check| &check.key).collect();
        let intents = self.intents(&keys);
        if !intents.is_empty() {
            let seen = intents.into_iter().map(|(id, held)| IntentSeen { id, home: held.home });
            return Validation::Intents(seen.collect());
        }
        match reads.iter().position(|check| !self.holds(check)) {
            Some(read) => Validation::Invalidated {
                read: u32::try_from(read).unwrap_or(u32::MAX),
            },
            None => Validation::Valid,
        }
    }
}

pub fn observed(version: Version, value: Option<Bytes>) -> Observed {
    let value = value.map(|value| Versioned {
        value,
        version,
        expires_at_ms: 0,
    });
    Observed { version, value }
}

/// The value that an intent would leave.
pub fn intended(held: &Prepared, key: &Bytes) -> Option<Observed> {
    let write = held.part.writes.iter().find(|write| write.key == *key)?;
    let value = match &write.mutation {
        Mutation::Put { value, .. } => Some(value.clone()),
        Mutation::Delete => None,
    };
    Some(observed(held.version, value))
}

fn collide(held: &Part, wanted: &Part) -> bool {
    let all = |part: &Part| -> BTreeSet<Bytes> {
        let shared = part.reads.iter().map(|r| r.key.clone());
        let tested = part.conditions.iter().map(|c| c.key.clone());
        let written = part.writes.iter().map(|w| w.key.clone());
        shared.chain(tested).chain(written).collect()
    };
    let (all_held, all_wanted) = (all(held), all(wanted));
    held.writes.iter().any(|write| all_wanted.contains(&write.key))
        || wanted.writes.iter().any(|write| all_held.contains(&write.key))
}

/// Answers with values; what it met was looked up before.
pub fn values(observed: Vec<Observed>, met_intents: bool) -> TransactionAnswer {
    TransactionAnswer::Observations(Observations { observed, met_intents })
}
