//! Cuts at one replica: its pins, and who reads from them.
//!
//! **The promise.** A pin is the state as the hold found it: what was applied later is not in it, whatever the log brings meanwhile. It
//! lasts for [`PIN_LEASE`] after the hold, or after the log last said that it is still wanted; then it goes, for it keeps the store from
//! reclaiming what is overwritten. There are [`PINS_MAX`] at most: a primary that has as many refuses the next hold. Pins go by each replica's own
//! clock, so that another replica may have one more left: it does not pin the new one, and readers ask elsewhere. None is taken from who reads it.
//!
//! **The protocol.** Steps go through the log, so that every replica pins and lets go alike (`state_machine/cut.rs` says what they mean
//! to the group). Reads go by the cut's id and the position of its hold, at any replica: one that has not applied the hold yet, or was
//! started since, says that it has no such state, and another one is asked.
//!
//! **Left out**: putting pages and verdicts together (`fulcrum_two_phase::cut`).

use super::bugs::Bug;
use super::group::Group;
use super::shared::{Failure, Shared};
use super::transactions::{Asked, check_ids};
use crate::state_machine::{Command, page, verdicts};
use crate::storage::{Generation, StoreSnapshot};
use fulcrum_replication::{Proposal, ProposalId};
use fulcrum_types::{
    Answer, Answered, CutAnswer, CutId, CutOperation, CutPoint, CutStep, Entry, LogPosition, Mono, Payload, Refusal,
    Role,
};
use std::time::Duration;

/// How long a pin lasts unless the log says that it is still wanted.
pub(super) const PIN_LEASE: Duration = Duration::from_secs(60);
/// Pins of one replica.
pub(super) const PINS_MAX: usize = 4;
/// The longest hold: transactions wait for it.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// The largest page, in bytes.
const PAGE_BYTES_MAX: u32 = 1024 * 1024;

/// The pins of a replica.
#[derive(Default)]
pub(super) struct Cuts {
    pins: Vec<Pin>,
}

struct Pin {
    id: CutId,
    point: CutPoint,
    state: StoreSnapshot,
    generation: Generation,
    until: Mono,
}

impl Cuts {
    pub(super) fn len(&self) -> usize {
        self.pins.len()
    }

    fn add(&mut self, pin: Pin) {
        if self.pins.len() < PINS_MAX {
            self.pins.push(pin);
        }
    }

    /// Whether there is no room for another cut.
    fn are_full_without(&self, id: CutId) -> bool {
        self.pins.len() >= PINS_MAX && self.pins.iter().all(|pin| pin.id != id)
    }

    fn find(&self, id: CutId, at: LogPosition) -> Option<&Pin> {
        self.pins.iter().find(|pin| pin.id == id && pin.point.position == at)
    }

    /// Lets go of what nobody has wanted for too long.
    pub(super) fn expire(&mut self, now: Mono) {
        self.pins.retain(|pin| pin.until > now);
    }
}

impl Group {
    /// Takes a step or a read of a cut in.
    pub(super) fn admit_cut(
        &mut self,
        shared: &mut Shared,
        asked: &Asked,
        operation: CutOperation,
    ) -> Result<(), Failure> {
        let read = match operation {
            CutOperation::Step(step) => {
                self.admit_cut_step(shared, asked, step);
                return Ok(());
            }
            CutOperation::Read {
                id,
                at,
                start,
                max_bytes,
            } => {
                let bytes = max_bytes.clamp(1, PAGE_BYTES_MAX) as usize;
                self.read_cut(shared, id, at, &start, bytes)?
            }
            CutOperation::LookUp { id, at, transactions } => match check_ids(transactions.iter()) {
                Ok(()) => self.look_up_in_cut(id, at, &transactions)?,
                Err(refusal) => Err(refusal),
            },
        };
        let result = read.map(|(point, answer)| {
            let mut receipt = self.receipt(shared, point.position, asked.now.mono, asked.now.mono);
            receipt.durable = true;
            let answer = Answer::Cut(answer);
            Answered { answer, receipt }
        });
        shared.reply(asked.id, result);
        Ok(())
    }

    /// Steps are taken below `min_in_sync`, too: what is left of a group can be saved.
    fn admit_cut_step(&mut self, shared: &mut Shared, asked: &Asked, step: CutStep) {
        if let CutStep::Hold { hold, .. } = step
            && (hold.is_zero() || hold > HOLD_MAX)
        {
            let reason = format!("a group is held for a cut for up to {} s", HOLD_MAX.as_secs());
            return shared.reply(asked.id, Err(Refusal::Invalid { reason }));
        }
        self.cuts.expire(asked.now.mono);
        if let CutStep::Hold { id, .. } = step
            && self.view.role == Role::Primary
            && self.cuts.are_full_without(id)
        {
            let refusal = Refusal::TooManyCuts {
                group: self.id,
                most: PINS_MAX as u32,
            };
            return shared.reply(asked.id, Err(refusal));
        }
        shared.requests.insert(asked.id, self.id, asked.deadline);
        let proposal = Proposal {
            id: ProposalId(asked.id.0),
            command: Command::Cut(step).encode(),
            ends_doubt: true,
        };
        self.queue(asked.id, asked.now.mono, proposal, None);
    }

    fn read_cut(
        &self,
        shared: &Shared,
        id: CutId,
        at: LogPosition,
        start: &[u8],
        max_bytes: usize,
    ) -> Result<Result<(CutPoint, CutAnswer), Refusal>, Failure> {
        let Some(pin) = self.cuts.find(id, at) else {
            return Ok(Err(Refusal::CutGone { group: self.id }));
        };
        let mut page = page(&pin.state, self.id, pin.generation, pin.point.time, start, max_bytes)?;
        if shared.bugs.has(Bug::CutWithoutIntents) {
            page.intents.clear();
        }
        Ok(Ok((pin.point, CutAnswer::Page(page))))
    }

    fn look_up_in_cut(
        &self,
        id: CutId,
        at: LogPosition,
        ids: &[fulcrum_types::TransactionId],
    ) -> Result<Result<(CutPoint, CutAnswer), Refusal>, Failure> {
        let Some(pin) = self.cuts.find(id, at) else {
            return Ok(Err(Refusal::CutGone { group: self.id }));
        };
        let horizon = self.machine.horizon_ms();
        let found = verdicts(&pin.state, self.id, pin.generation, pin.point.time, horizon, ids)?;
        Ok(Ok((pin.point, CutAnswer::Verdicts(found))))
    }

    /// A step of a cut was applied: pins or lets go. The state is exactly that of this entry now.
    pub(super) fn note_cut(&mut self, shared: &Shared, now: Mono, entry: &Entry, answer: &CutAnswer) {
        let Payload::Command(command) = &entry.payload else {
            return;
        };
        let Ok(Command::Cut(step)) = Command::decode(command.clone()) else {
            return;
        };
        let until = now + PIN_LEASE;
        match (step, answer) {
            (CutStep::Hold { id, .. }, CutAnswer::Held(point)) if point.position == entry.position => {
                let pin = Pin {
                    id,
                    point: *point,
                    state: shared.store.snapshot_of(self.id),
                    generation: self.log.generation(),
                    until,
                };
                self.cuts.expire(now);
                self.cuts.add(pin);
            }
            (CutStep::Keep { id }, _) => {
                let kept = self.cuts.pins.iter_mut().filter(|pin| pin.id == id);
                kept.for_each(|pin| pin.until = until);
            }
            (CutStep::End { id }, _) => self.cuts.pins.retain(|pin| pin.id != id),
            (CutStep::Hold { .. } | CutStep::Release { .. }, _) => {}
        }
    }
}
