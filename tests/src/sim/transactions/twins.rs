//! What careless clients do: they give an id to two transactions, and send a commit once more after its answer.

use super::clients::Client;
use super::jobs::require;
use super::workload::{decode, encode};
use crate::sim::time::Time;
use fulcrum_checker::{Element, Step, TransactionOutcome, TransactionTicket};
use fulcrum_coordinator::CommitRequest;
use fulcrum_two_phase::Reply;
use fulcrum_types::{Refusal, TransactionId};

/// Another transaction under an id that was used before.
pub struct Twin {
    /// The id.
    pub id: TransactionId,
    /// It.
    pub commit: Box<CommitRequest>,
    ticket: TransactionTicket,
}

impl Client {
    /// Makes another transaction under the same id: it appends to one of the lists, and nothing else.
    pub(super) fn use_id_twice(&mut self, now: Time) {
        let Some(open) = &mut self.open else { return };
        let place = self.rng.below(open.items.len() as u64) as usize;
        let (item, seen) = (open.items[place].clone(), open.seen[place].clone());
        let Ok(mut list) = decode(&seen) else { return };
        open.reused = true;
        let ticket = self.log.begin(now);
        let (key, before) = (item.key.clone(), list.clone());
        self.log.step(&ticket, Step::Read { key, seen: before });
        self.elements += 1;
        let element = Element(self.number as u64 * 100_000 + self.elements);
        list.push(element);
        let key = item.key.clone();
        self.log.step(&ticket, Step::Append { key, element });
        let mut commit = CommitRequest {
            id: open.id,
            priority: open.priority,
            ..CommitRequest::default()
        };
        require(&mut commit, &item, &seen, Some(encode(&list)), false);
        self.twin = Some(Twin {
            id: open.id,
            commit: Box::new(commit),
            ticket,
        });
    }

    /// A transaction under an id used twice that is to be sent, too.
    pub fn take_twin(&mut self) -> Option<Twin> {
        self.twin.take()
    }

    /// What became of it.
    pub fn twin_ends(&mut self, now: Time, twin: Twin, result: &Result<Reply, Refusal>) {
        match result {
            Ok(Reply::Committed { .. }) => self.log.end(twin.ticket, now, TransactionOutcome::Committed),
            Ok(Reply::ConditionFailed { .. }) | Err(Refusal::Aborted { .. }) => {
                self.log.end(twin.ticket, now, TransactionOutcome::Failed);
            }
            _ => self.log.end(twin.ticket, now, TransactionOutcome::Unknown),
        }
    }

    /// The commit that it was told of last, if it sends that once more.
    pub fn repeats(&mut self) -> Option<Box<CommitRequest>> {
        let commit = self.last_commit.take()?;
        self.rng.percent(self.chosen.repeated).then_some(commit)
    }
}
