//! Writes on their way: queued for the turn, ordered by the core, applied, acknowledged, answered.
//!
//! A write is answered once it is both applied (its outcome is known) and acknowledged (its mode's promise holds). Who is
//! deposed in between cannot know what becomes of it: UNKNOWN, with the idempotency key to look it up.
//!
//! In `async` it is the primary's lease that keeps two from acknowledging at once. As with reads, it may have run out since:
//! such answers wait for `Node::end_turn` and are checked by its clock.

use super::bugs::Bug;
use super::group::Group;
use super::shared::{Failure, Shared};
use crate::event::{Observation, RequestId};
use crate::state_machine::{ApplyOutcome, encode_joint, encode_write};
use bytes::Bytes;
use foldhash::fast::RandomState;
use fulcrum_replication::{Input, Proposal, ProposalId, ProposalRefusal};
use fulcrum_types::{
    Answer, Answered, CommittedPart, Decision, Entry, Epoch, Fsync, IdempotencyKey, Index, JoinedWrite, LogPosition,
    Mono, NodeId, Now, Payload, PrepareRequest, Refusal, Role, TransactionAnswer, Version, Vote, WriteOp, WriteOutcome,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The writes of a replica that are not answered yet.
#[derive(Default)]
pub(super) struct Writes {
    /// For the core, at the end of the turn.
    queue: Vec<Proposal>,
    unordered: HashMap<RequestId, Unordered, RandomState>,
    ordered: BTreeMap<Index, Ordered>,
    /// Where an ordered write stands.
    places: HashMap<RequestId, Index, RandomState>,
    /// Ready to be answered, if the lease still holds at the turn's end.
    complete: Vec<Complete>,
}

/// Who had a write durable, and until when that may be said.
#[derive(Clone)]
pub(super) struct Acknowledged {
    pub(super) by: Arc<[NodeId]>,
    pub(super) recheck_before: Option<Mono>,
}

struct Unordered {
    arrived: Mono,
    /// What a planted bug says as soon as it is ordered.
    early: Option<Early>,
}

/// What a planted bug answers too early.
pub(super) enum Early {
    /// So many writes.
    Written(usize),
    Decided(Box<PrepareRequest>),
}

impl Early {
    fn answer(self, position: LogPosition) -> Answer {
        match self {
            Early::Written(ops) => {
                let outcome = WriteOutcome::Applied {
                    version: Version(position.index.0),
                    existed: false,
                };
                Answer::Written(vec![outcome; ops])
            }
            Early::Decided(request) => {
                let mut parts = request.votes;
                parts.push(CommittedPart {
                    participant: request.home,
                    version: Version(position.index.0),
                });
                let fingerprint = request.fingerprint;
                let decision = Decision::Committed { fingerprint, parts };
                Answer::Transaction(TransactionAnswer::Vote(Vote::Decided(decision)))
            }
        }
    }
}

/// Who asked, when, and where it was ordered.
struct Asked {
    id: RequestId,
    arrived: Mono,
    position: LogPosition,
}

struct Ordered {
    asked: Asked,
    acknowledged: Option<Acknowledged>,
    outcome: Option<Result<Answer, Refusal>>,
}

struct Complete {
    asked: Asked,
    acknowledged: Acknowledged,
    outcome: Result<Answer, Refusal>,
}

impl Writes {
    pub(super) fn is_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Forgets a write whose client is gone or was told. Whether it had been ordered; none if it was not here.
    pub(super) fn forget(&mut self, id: RequestId) -> Option<bool> {
        if self.unordered.remove(&id).is_some() {
            self.queue.retain(|queued| queued.id.0 != id.0);
            return Some(false);
        }
        let complete = self.complete.len();
        self.complete.retain(|write| write.asked.id != id);
        if self.complete.len() < complete {
            return Some(true);
        }
        let index = self.places.remove(&id)?;
        self.ordered.remove(&index);
        Some(true)
    }

    pub(super) fn take_unordered(&mut self) -> Vec<RequestId> {
        self.queue.clear();
        let mut taken: Vec<RequestId> = self.unordered.drain().map(|(id, _)| id).collect();
        // The same order in every run of a simulation.
        taken.sort_unstable();
        taken
    }

    pub(super) fn take_ordered(&mut self) -> Vec<RequestId> {
        let mut taken = self.take_ordered_from(Index::ZERO);
        taken.extend(self.complete.drain(..).map(|write| write.asked.id));
        taken
    }

    fn take_ordered_from(&mut self, from: Index) -> Vec<RequestId> {
        let taken: Vec<RequestId> = self
            .ordered
            .split_off(&from)
            .into_values()
            .map(|write| write.asked.id)
            .collect();
        for id in &taken {
            self.places.remove(id);
        }
        taken
    }

    fn insert(&mut self, write: Ordered) {
        let Asked { id, position, .. } = write.asked;
        self.places.insert(id, position.index);
        self.ordered.insert(position.index, write);
    }

    fn remove(&mut self, index: Index) -> Option<Ordered> {
        let write = self.ordered.remove(&index)?;
        self.places.remove(&write.asked.id);
        Some(write)
    }

    /// Takes out a write if it can be answered.
    fn take_complete(&mut self, index: Index) -> Option<Ordered> {
        let write = self.ordered.get(&index)?;
        let complete = write.acknowledged.is_some() && write.outcome.is_some();
        complete.then(|| self.remove(index)).flatten()
    }

    /// Where a write stands that is not answered yet.
    pub(super) fn ordered_at(&self, id: RequestId) -> Option<LogPosition> {
        let write = self.ordered.get(self.places.get(&id)?)?;
        Some(write.asked.position)
    }

    fn first(&self) -> Option<Index> {
        self.ordered.first_key_value().map(|(index, _)| *index)
    }
}

impl Group {
    /// Takes a write in for the end of the turn, when all that arrived go to the core together.
    pub(super) fn queue_write(
        &mut self,
        shared: &mut Shared,
        now: Mono,
        id: RequestId,
        idempotency: Option<IdempotencyKey>,
        ops: &[WriteOp],
    ) {
        let idempotency = idempotency.filter(|_| !shared.bugs.has(Bug::SkipRetryTable));
        let early = shared
            .bugs
            .has(Bug::ReplyBeforeAcknowledged)
            .then_some(Early::Written(ops.len()));
        let command = encode_write(idempotency.as_ref(), ops);
        self.queue(id, now, Proposal::new(ProposalId(id.0), command), early);
    }

    /// The same for writes that were joined.
    pub(super) fn queue_joint(&mut self, shared: &mut Shared, now: Mono, id: RequestId, mut writes: Vec<JoinedWrite>) {
        if shared.bugs.has(Bug::SkipRetryTable) {
            writes.iter_mut().for_each(|write| write.idempotency = None);
        }
        self.queue(id, now, Proposal::new(ProposalId(id.0), encode_joint(&writes)), None);
    }

    /// Takes a command in for the end of the turn.
    pub(super) fn queue(&mut self, id: RequestId, arrived: Mono, proposal: Proposal, early: Option<Early>) {
        self.writes.queue.push(proposal);
        self.writes.unordered.insert(id, Unordered { arrived, early });
    }

    /// Takes a command in that was blocked when it was applied.
    pub(super) fn queue_again(&mut self, id: RequestId, arrived: Mono, command: Bytes) {
        self.queue(id, arrived, Proposal::new(ProposalId(id.0), command), None);
    }

    /// Takes a command in that nobody waits for.
    pub(super) fn queue_unasked(&mut self, proposal: Proposal) {
        self.writes.queue.push(proposal);
    }

    /// Rule 8 for writes: one that follows what this history lacks is refused. Only the primary can tell.
    pub(super) fn check_seen(&self, shared: &Shared, seen: Option<LogPosition>) -> Result<(), Refusal> {
        let Some(seen) = seen.filter(|seen| !self.history.holds(*seen)) else {
            return Ok(());
        };
        if self.view.role != Role::Primary || seen.epoch > self.view.epoch {
            return Err(Refusal::NotPrimary {
                hint: self.hint(shared),
            });
        }
        Err(Refusal::HistoryLost { group: self.id, seen })
    }

    /// Puts the turn's writes into the core.
    pub(super) fn propose(&mut self, shared: &mut Shared, now: Now) -> Result<(), Failure> {
        if !self.decisions.is_empty() {
            self.propose_decisions(shared);
        }
        self.propose_forgetting(shared);
        if !self.writes.is_queued() {
            return Ok(());
        }
        let commands = std::mem::take(&mut self.writes.queue);
        self.step(shared, now, Input::Propose { commands })
    }

    pub(super) fn proposed(&mut self, shared: &mut Shared, now: Now, id: RequestId, position: LogPosition) {
        let Some(Unordered { arrived, early }) = self.writes.unordered.remove(&id) else {
            return;
        };
        let asked = Asked { id, arrived, position };
        if let Some(early) = early {
            return self.answer_write(shared, now.mono, &asked, &[], Ok(early.answer(position)));
        }
        self.writes.insert(Ordered {
            asked,
            acknowledged: None,
            outcome: None,
        });
    }

    pub(super) fn proposal_refused(&mut self, shared: &mut Shared, now: Now, id: RequestId, reason: &ProposalRefusal) {
        if self.writes.unordered.remove(&id).is_none() {
            return;
        }
        self.will_not_be_ordered(shared, now, id);
        let refusal = match reason {
            ProposalRefusal::NotPrimary if self.view.stranded => Refusal::NoDataLeft,
            ProposalRefusal::NotPrimary => Refusal::NotPrimary {
                hint: self.hint(shared),
            },
            ProposalRefusal::NotReady => Refusal::NotReady,
            ProposalRefusal::Fenced => Refusal::Fenced,
            ProposalRefusal::NotEnoughReplicas { have, need } => Refusal::NotEnoughReplicas {
                have: u32::try_from(*have).unwrap_or(u32::MAX),
                need: u32::try_from(*need).unwrap_or(u32::MAX),
            },
            ProposalRefusal::Overloaded => Refusal::Overloaded,
        };
        shared.reply(id, Err(refusal));
    }

    pub(super) fn acknowledge(&mut self, shared: &mut Shared, now: Now, through: Index, how: &Acknowledged) {
        let mut any = false;
        for write in self.writes.ordered.range_mut(..=through).map(|(_, write)| write) {
            any |= write.acknowledged.is_none();
            write.acknowledged.get_or_insert_with(|| how.clone());
        }
        if !any {
            return;
        }
        if let Some((epoch, phases)) = self.failover.acknowledged(now.mono) {
            shared.observe(Observation::FirstAcknowledgement {
                group: self.id,
                epoch,
                phases,
            });
        }
        self.answer_writes(shared, now.mono);
    }

    /// These may be answered ahead of those before them: they end doubt.
    pub(super) fn acknowledge_alone(&mut self, shared: &mut Shared, now: Mono, at: &[Index], how: &Acknowledged) {
        for index in at {
            if let Some(write) = self.writes.ordered.get_mut(index) {
                write.acknowledged.get_or_insert_with(|| how.clone());
                self.answer_if_complete(shared, now, *index);
            }
        }
    }

    /// An entry was applied: if a client waits for it, its outcome is known now.
    pub(super) fn applied_one(&mut self, shared: &mut Shared, now: Now, entry: &Entry, outcome: ApplyOutcome) {
        if let Payload::Command(command) = &entry.payload
            && !self.waiting.is_empty()
        {
            self.passed(shared, now, command, &outcome);
        }
        let at = entry.position;
        let Some(write) = self.writes.ordered.get_mut(&at.index) else {
            return;
        };
        if let (ApplyOutcome::Blocked { by }, Payload::Command(command)) = (&outcome, &entry.payload)
            && write.asked.position == at
        {
            if let Some(Ordered { asked, .. }) = self.writes.remove(at.index) {
                self.wait_for_lock(shared, now, asked.id, asked.arrived, *by, command);
            }
            return;
        }
        write.outcome = Some(match outcome {
            _ if write.asked.position != at => Err(Refusal::Unknown {
                reason: "another primary's entry took its place".into(),
            }),
            ApplyOutcome::Written(outcomes) | ApplyOutcome::Repeated(outcomes) => Ok(Answer::Written(outcomes)),
            ApplyOutcome::Joint(results) => Ok(Answer::Joint(results)),
            ApplyOutcome::Transaction(answer) => Ok(Answer::Transaction(answer)),
            ApplyOutcome::Cut(answer) => Ok(Answer::Cut(answer)),
            // Only with no command, or another's entry: both were dealt with.
            ApplyOutcome::Blocked { by } => Err(Refusal::Locked { by }),
            ApplyOutcome::Refused(refusal) => Err(refusal.into()),
            ApplyOutcome::Noop => Err(Refusal::Unknown {
                reason: "its place in the log was left empty".into(),
            }),
        });
        self.answer_if_complete(shared, now.mono, at.index);
    }

    /// Both acknowledgements and outcomes come in the order of the log: whoever has both stands at the front.
    fn answer_writes(&mut self, shared: &mut Shared, now: Mono) {
        while let Some(first) = self.writes.first() {
            if !self.answer_if_complete(shared, now, first) {
                return;
            }
        }
    }

    /// Whether it was.
    fn answer_if_complete(&mut self, shared: &mut Shared, now: Mono, index: Index) -> bool {
        let Some(Ordered {
            asked,
            acknowledged: Some(acknowledged),
            outcome: Some(outcome),
        }) = self.writes.take_complete(index)
        else {
            return false;
        };
        match acknowledged.recheck_before {
            None => self.answer_write(shared, now, &asked, &acknowledged.by, outcome),
            Some(_) => self.writes.complete.push(Complete {
                asked,
                acknowledged,
                outcome,
            }),
        }
        true
    }

    /// Answers what was acknowledged before `now`, if the lease still holds, or holds again.
    pub(super) fn release_writes(&mut self, shared: &mut Shared, now: Now) {
        let mut complete = std::mem::take(&mut self.writes.complete);
        for write in complete.drain(..) {
            let Complete {
                asked,
                acknowledged,
                outcome,
            } = write;
            let lapsed = acknowledged.recheck_before.is_some_and(|before| now.mono >= before);
            if lapsed && !shared.bugs.has(Bug::SkipWriteRecheck) && !self.leads_under_lease(asked.position.epoch, now) {
                let reason = "the primary's lease ran out before it could answer".into();
                shared.reply(asked.id, Err(Refusal::Unknown { reason }));
                continue;
            }
            self.answer_write(shared, now.mono, &asked, &acknowledged.by, outcome);
        }
        self.writes.complete = complete;
    }

    fn leads_under_lease(&self, epoch: Epoch, now: Now) -> bool {
        let status = self.core.status(now);
        status.role == Role::Primary && status.epoch == epoch && status.ready && status.lease_left.is_some()
    }

    fn answer_write(
        &self,
        shared: &mut Shared,
        now: Mono,
        write: &Asked,
        by: &[NodeId],
        outcome: Result<Answer, Refusal>,
    ) {
        let result = outcome.map(|answer| {
            let mut receipt = self.receipt(shared, write.position, write.arrived, now);
            receipt.asked = self.level_of_writes();
            receipt.achieved = receipt.asked;
            receipt.role = Role::Primary;
            receipt.durable = self.keyspace.options.fsync == Fsync::Always;
            receipt.rounds = u32::from(by.len() > 1);
            receipt.acknowledged_by = by.to_vec();
            Answered { answer, receipt }
        });
        shared.reply(write.id, result);
    }

    /// What was ordered here up to an index and not acknowledged has an unknown outcome.
    pub(super) fn abandon(&mut self, shared: &mut Shared, through: Index, reason: &'static str) {
        let doomed: Vec<Index> = self
            .writes
            .ordered
            .range(..=through)
            .filter(|(_, write)| write.acknowledged.is_none())
            .map(|(index, _)| *index)
            .collect();
        for write in doomed.iter().filter_map(|index| self.writes.remove(*index)) {
            shared.reply(write.asked.id, Err(Refusal::Unknown { reason: reason.into() }));
        }
    }

    /// The entries from an index on are gone before they were applied here.
    pub(super) fn lose_writes(&mut self, shared: &mut Shared, from: Index) {
        for id in self.writes.take_ordered_from(from) {
            shared.reply(
                id,
                Err(Refusal::Unknown {
                    reason: "another primary's history took its place".into(),
                }),
            );
        }
    }
}
