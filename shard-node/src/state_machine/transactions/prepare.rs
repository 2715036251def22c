//! Promises: a transaction of one group is done at once; one of several is prepared and holds its locks from then on. The home group
//! prepares when all others have, and its promise would be kept in the same moment: so it gives none, and commits.
//!
//! All checks are made in the order of the table in `docs/transactions.md`; the first that fails answers.

use super::locks::Mode;
use super::record::{Committed, Prepared, Record};
use super::table::TransactionEvent;
use super::{Age, Moment, decided, vote};
use crate::node::Bug;
use crate::state_machine::{ApplyOutcome, ApplyRefusal, StateMachine, holds};
use crate::storage::{StorageError, Store};
use bytes::Bytes;
use fulcrum_types::{
    AbortCause, CommittedPart, Condition, Decision, Mutation, Part, Participant, PrepareRequest, Priority, Transact,
    TransactionId, Version, Vote, WriteOp,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the locks say to a request.
enum Judged {
    Free,
    Blocked(TransactionId),
    Dies(TransactionId),
}

/// The keys of a part, each once.
struct Keys {
    exclusive: Vec<Bytes>,
    shared: Vec<Bytes>,
}

impl Keys {
    fn of(part: &Part) -> Self {
        let exclusive: BTreeSet<&Bytes> = part.writes.iter().map(|write| &write.key).collect();
        let read = part.reads.iter().map(|read| &read.key);
        let tested = part.conditions.iter().map(|condition| &condition.key);
        let shared: BTreeSet<&Bytes> = read.chain(tested).filter(|key| !exclusive.contains(key)).collect();
        Keys {
            exclusive: exclusive.into_iter().cloned().collect(),
            shared: shared.into_iter().cloned().collect(),
        }
    }
}

impl StateMachine {
    /// A whole transaction, `at` this group.
    pub(in crate::state_machine) fn transact(
        &mut self,
        store: &mut Store,
        moment: Moment,
        at: Participant,
        request: &Transact,
    ) -> Result<ApplyOutcome, StorageError> {
        let id = request.id;
        // Whatever else it does, it changes nothing unless it commits.
        self.footnote.nothing = true;
        match self.transaction(store, id)? {
            None => {}
            Some(Record::Committed(known)) if known.fingerprint == request.fingerprint => {
                return Ok(vote(Vote::Decided(known.decision())));
            }
            Some(Record::Refused(cause) | Record::Aborted(cause)) => {
                return Ok(vote(Vote::Decided(Decision::Aborted(cause))));
            }
            Some(_) => return Ok(ApplyOutcome::Refused(ApplyRefusal::TransactionIdReused(id))),
        }
        if self.is_held(moment) {
            return Ok(ApplyOutcome::Refused(ApplyRefusal::BeingCut));
        }
        if let Some(refusal) = self.refused_by_age(id, moment) {
            return Ok(ApplyOutcome::Refused(refusal));
        }
        let keys = Keys::of(&request.part);
        if let Judged::Blocked(by) | Judged::Dies(by) = self.judge(&keys, None) {
            return Ok(ApplyOutcome::Blocked { by });
        }
        if let Some(cause) = self.objection(store, moment, &request.part)? {
            self.record_abort(store, moment, id, cause);
            return Ok(vote(Vote::Decided(Decision::Aborted(cause))));
        }
        let version = Version(moment.index.0);
        self.write_part(store, moment, &request.part)?;
        let committed = Committed {
            fingerprint: request.fingerprint,
            parts: vec![CommittedPart {
                participant: at,
                version,
            }],
            at_ms: moment.time.0,
            unresolved: false,
        };
        let decision = committed.decision();
        self.record_commit(store, id, committed);
        Ok(vote(Vote::Decided(decision)))
    }

    /// Asks for a promise. `give_way`: to whom, if it must not overtake an older one that waits.
    pub(in crate::state_machine) fn prepare(
        &mut self,
        store: &mut Store,
        moment: Moment,
        request: &PrepareRequest,
        give_way: Option<TransactionId>,
    ) -> Result<ApplyOutcome, StorageError> {
        let id = request.id;
        if request.decides() {
            // Whatever else it does, it changes no values unless it commits.
            self.footnote.nothing = true;
        }
        match self.transaction(store, id)? {
            Some(Record::Refused(_) | Record::Resolved { .. }) if self.has(Bug::PrepareAfterTheMark) => {}
            Some(Record::Refused(_) | Record::Aborted(_))
                if request.decides() && self.has(Bug::CommitAfterTheAbort) => {}
            Some(known) => return Ok(repeated(id, known, request)),
            None => {}
        }
        if self.is_held(moment) {
            return Ok(ApplyOutcome::Refused(ApplyRefusal::BeingCut));
        }
        if let Some(refusal) = self.refused_by_age(id, moment) {
            return Ok(ApplyOutcome::Refused(refusal));
        }
        if !request.decides() && self.transactions.prepared.len() >= self.limits.prepared {
            return Ok(ApplyOutcome::Refused(ApplyRefusal::TooManyPrepared));
        }
        let keys = Keys::of(&request.part);
        let cause = match self.judge(&keys, Some((request.priority, id))) {
            _ if request.decides() && self.has(Bug::CommitPastLocks) => self.objection(store, moment, &request.part)?,
            Judged::Blocked(by) if give_way.is_none() => return Ok(ApplyOutcome::Blocked { by }),
            Judged::Dies(with) | Judged::Blocked(with) => Some(AbortCause::Conflict { with }),
            Judged::Free => match give_way {
                Some(with) => Some(AbortCause::Conflict { with }),
                None => self.objection(store, moment, &request.part)?,
            },
        };
        if let Some(cause) = cause {
            self.mark(store, moment, id, cause);
            self.transactions.events.push(TransactionEvent::Refused(id, cause));
            return Ok(vote(Vote::Refused(cause)));
        }
        if request.decides() {
            return self.commit_at_home(store, moment, request);
        }
        let version = Version(moment.index.0);
        self.promise(store, moment, request, keys)?;
        Ok(vote(Vote::Prepared { version }))
    }

    /// All others have promised, and nothing stands in the way here: that is the commit. Its own writes take effect with it, and no lock
    /// is ever held for them.
    fn commit_at_home(
        &mut self,
        store: &mut Store,
        moment: Moment,
        request: &PrepareRequest,
    ) -> Result<ApplyOutcome, StorageError> {
        let version = Version(moment.index.0);
        self.write_part(store, moment, &request.part)?;
        let part = |participant: &Participant| {
            let vote = request.votes.iter().find(|vote| vote.participant == *participant);
            vote.copied().unwrap_or(CommittedPart {
                participant: *participant,
                version,
            })
        };
        let committed = Committed {
            fingerprint: request.fingerprint,
            parts: request.participants.iter().map(part).collect(),
            at_ms: moment.time.0,
            unresolved: true,
        };
        let decision = committed.decision();
        self.record_commit(store, request.id, committed);
        Ok(decided(decision))
    }

    /// The writes of a part take effect at once.
    fn write_part(&mut self, store: &mut Store, moment: Moment, part: &Part) -> Result<(), StorageError> {
        self.footnote.nothing = false;
        for (number, op) in (0..).zip(ops(part)) {
            self.write_one(store, Version(moment.index.0), moment.time, number, &op)?;
        }
        Ok(())
    }

    fn promise(
        &mut self,
        store: &mut Store,
        moment: Moment,
        request: &PrepareRequest,
        keys: Keys,
    ) -> Result<(), StorageError> {
        let version = Version(moment.index.0);
        for write in &request.part.writes {
            self.store_intent(store, request.id, version, moment.time, write);
        }
        let record = Record::Prepared(Prepared {
            version,
            priority: request.priority,
            fingerprint: request.fingerprint,
            home: request.home,
            participants: request.participants.clone(),
            at_ms: moment.time.0,
            bytes: bytes_of(&request.part),
            exclusive: keys.exclusive,
            shared: keys.shared,
        });
        let encoded = record.encode();
        self.put_transaction(store, request.id, encoded.clone());
        // Keys in the memory of the record: those of the command may be slices of a large message.
        if let Record::Prepared(prepared) =
            Record::decode(encoded).map_err(|e| crate::state_machine::damaged("transaction", e))?
        {
            self.transactions.hold(request.id, Arc::new(prepared));
        }
        if self.has(Bug::ReleaseReadLocksEarly) {
            self.transactions.release_shared(request.id);
        }
        self.transactions.events.push(TransactionEvent::Prepared(request.id));
        Ok(())
    }

    /// Holds the keys against the locks. Without a priority it waits for anybody; with one it waits only for younger ones.
    fn judge(&self, keys: &Keys, rank: Option<(Priority, TransactionId)>) -> Judged {
        let locks = &self.transactions.locks;
        if locks.is_empty() {
            return Judged::Free;
        }
        let mut judged = Judged::Free;
        let exclusive = keys.exclusive.iter().map(|key| (key, Mode::Exclusive));
        let shared = keys.shared.iter().map(|key| (key, Mode::Shared));
        for (key, mode) in exclusive.chain(shared) {
            for holder in locks.in_the_way(key, mode) {
                let held_by = self.transactions.prepared.get(&holder);
                let older = held_by.is_some_and(|held| rank.is_some_and(|rank| (held.priority, holder) < rank));
                if older {
                    return Judged::Dies(holder);
                }
                if matches!(judged, Judged::Free) {
                    judged = Judged::Blocked(holder);
                }
            }
        }
        judged
    }

    /// Who stands in the way of writing these keys.
    pub(in crate::state_machine) fn writes_blocked_by(&self, ops: &[WriteOp]) -> Option<TransactionId> {
        let locks = &self.transactions.locks;
        if locks.is_empty() {
            return None;
        }
        let first = |op: &WriteOp| locks.in_the_way(&op.key, Mode::Exclusive).first().copied();
        ops.iter().find_map(first)
    }

    /// What of a part does not hold.
    fn objection(&mut self, store: &Store, moment: Moment, part: &Part) -> Result<Option<AbortCause>, StorageError> {
        let group = self.group;
        for (read, check) in (0..).zip(&part.reads) {
            let found = super::intents::observed(self.read_record(store, &check.key)?, moment.time);
            if (found.version, found.value.is_some()) != (check.version, check.exists) {
                return Ok(Some(AbortCause::ReadInvalidated { group, read }));
            }
        }
        for (condition, test) in (0..).zip(&part.conditions) {
            let found = self.read_record(store, &test.key)?;
            let changed = found.as_ref().map(|record| record.version);
            let current = found.and_then(|record| record.visible(moment.time));
            if !holds(&test.condition, current.as_ref(), changed) {
                return Ok(Some(AbortCause::ConditionFailed {
                    group,
                    condition,
                    current: current.map(|value| value.version),
                }));
            }
        }
        Ok(None)
    }

    fn refused_by_age(&self, id: TransactionId, moment: Moment) -> Option<ApplyRefusal> {
        match self.age(id, moment.time) {
            Age::Past => Some(ApplyRefusal::TooOldToTell),
            Age::Future => Some(ApplyRefusal::TransactionOfTheFuture),
            Age::Now => None,
        }
    }
}

/// A prepare of a transaction that is known.
fn repeated(id: TransactionId, known: Record, request: &PrepareRequest) -> ApplyOutcome {
    let fingerprint = match &known {
        Record::Prepared(prepared) => Some(prepared.fingerprint),
        Record::Resolved { fingerprint, .. } => Some(*fingerprint),
        Record::Committed(committed) => Some(committed.fingerprint),
        Record::Refused(_) | Record::Aborted(_) => None,
    };
    if fingerprint.is_some_and(|known| known != request.fingerprint) {
        return ApplyOutcome::Refused(ApplyRefusal::TransactionIdReused(id));
    }
    match known {
        // Two that split the transaction by different maps take different groups for its home.
        Record::Prepared(Prepared { home, .. }) | Record::Resolved { home, .. } if request.decides() => {
            ApplyOutcome::Refused(ApplyRefusal::NotTheHome { id, home })
        }
        Record::Prepared(prepared) => vote(Vote::Prepared {
            version: prepared.version,
        }),
        Record::Refused(cause) | Record::Aborted(cause) => vote(Vote::Refused(cause)),
        Record::Resolved { version, .. } => vote(Vote::Resolved { version }),
        Record::Committed(committed) => decided(committed.decision()),
    }
}

/// The writes of a part as plain ones: its conditions have been judged.
pub(in crate::state_machine) fn ops(part: &Part) -> Vec<WriteOp> {
    let op = |write: &fulcrum_types::KeyWrite| WriteOp {
        key: write.key.clone(),
        condition: Condition::None,
        mutation: write.mutation.clone(),
    };
    part.writes.iter().map(op).collect()
}

fn bytes_of(part: &Part) -> u64 {
    let bytes = part.writes.iter().map(|write| {
        let value = match &write.mutation {
            Mutation::Put { value, .. } => value.len(),
            Mutation::Delete => 0,
        };
        (write.key.len() + value) as u64
    });
    bytes.sum()
}
