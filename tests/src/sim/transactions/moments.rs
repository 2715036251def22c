//! What a story has in store for one request: it comes late, or the primary that it was sent to dies at a certain moment of its way.
//!
//! Stories also listen to what groups answer. The moments lie before and after every durable step of a participant, and of a home group. A machine that dies here has lost all that it
//! had not synced, and stays off until everything heals.

use super::questions::Owner;
use super::rows::name_of_operation;
use crate::sim::host::Asker;
use crate::sim::time::Time;
use crate::sim::world::{Happening, World};
use fulcrum_shard_node::event::{Event, Output, RequestId};
use fulcrum_types::{Answer, GroupId, GroupRequest, NodeId, Operation, TransactionAnswer};

/// The primary dies just before this happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It is in the log: the machine has received it, and no more.
    Ordered,
    /// Its entry leaves the machine.
    Sent,
    /// It is committed: backups are sent its entry, and may keep it.
    Committed,
    /// Its answer leaves the machine.
    Answered,
}

/// What befalls a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The primary dies.
    Dies(Before),
    /// It is on its way for so much longer.
    Late(Time),
}

/// What befalls the next request of this name that reaches the primary of this group.
#[derive(Clone, Copy, Debug)]
pub struct InStore {
    /// The group.
    pub group: GroupId,
    /// As [`name_of_operation`] names it.
    pub operation: &'static str,
    /// What.
    pub mishap: Mishap,
}

/// A group has answered somebody who counts on it.
#[derive(Clone, Debug)]
pub struct Told {
    /// Whom.
    pub owner: Owner,
    /// Who.
    pub group: GroupId,
    /// To which question, as [`name_of_operation`] names it.
    pub operation: &'static str,
    /// What.
    pub answer: TransactionAnswer,
}

/// All that a story has in store, and what it has heard.
#[derive(Debug, Default)]
pub struct Moments {
    /// What has not struck yet.
    pub in_store: Vec<InStore>,
    /// What groups have answered; none while nobody listens.
    pub told: Option<Vec<Told>>,
    /// Machines that are about to die, each when this request has come so far.
    doomed: Vec<(NodeId, RequestId, Before)>,
}

impl Moments {
    fn take(&mut self, group: GroupId, operation: &Operation) -> Option<Mishap> {
        let Operation::Transaction(operation) = operation else {
            return None;
        };
        let name = name_of_operation(operation);
        let of = |one: &InStore| one.group == group && one.operation == name;
        let place = self.in_store.iter().position(of)?;
        Some(self.in_store.remove(place).mishap)
    }

    pub(super) fn hear(&mut self, owner: Owner, group: GroupId, operation: &Operation, answer: &Answer) {
        let (Operation::Transaction(operation), Answer::Transaction(answer)) = (operation, answer) else {
            return;
        };
        if let Some(told) = &mut self.told {
            told.push(Told {
                owner,
                group,
                operation: name_of_operation(operation),
                answer: answer.clone(),
            });
        }
    }

    fn doom_of(&self, node: NodeId) -> Option<(RequestId, Before)> {
        let doomed = self.doomed.iter().find(|(whose, ..)| *whose == node);
        doomed.map(|(_, id, before)| (*id, *before))
    }
}

impl World {
    /// A request arrives at a running machine: what comes late is planned again.
    pub(in crate::sim) fn befall(&mut self, to: NodeId, asker: Asker, request: GroupRequest) -> Option<GroupRequest> {
        if self.transactions.moments.in_store.is_empty() || self.metadata.read(request.group).primary != Some(to) {
            return Some(request);
        }
        let mishap = self.transactions.moments.take(request.group, &request.operation);
        match mishap {
            None => Some(request),
            Some(Mishap::Late(late)) => {
                let again = Happening::Request { to, asker, request };
                self.queue.at(self.now + late, again);
                None
            }
            Some(Mishap::Dies(before)) => {
                let id = self.hosts.get_mut(&to)?.request_id(asker);
                self.deliver(to, Event::Request { id, request });
                self.transactions.moments.doomed.push((to, id, before));
                if before == Before::Ordered {
                    self.die(to);
                }
                None
            }
        }
    }

    /// Whether a machine dies with the request that it has just taken in: before, or after, it has said what is to be done.
    pub(in crate::sim) fn dies_of_turn(&mut self, node: NodeId, moment: Before) -> bool {
        let Some((id, before)) = self.transactions.moments.doom_of(node) else {
            return false;
        };
        let waits = |event: &Event| matches!(event, Event::Request { id: other, .. } if *other == id);
        if before != moment || self.hosts[&node].inbox.iter().any(waits) {
            return false;
        }
        self.die(node);
        true
    }

    /// Whether a machine dies with the answer in its hand.
    pub(in crate::sim) fn dies_of_answer(&mut self, node: NodeId, outputs: &[Output]) -> bool {
        let Some((id, Before::Answered)) = self.transactions.moments.doom_of(node) else {
            return false;
        };
        let answers = |output: &Output| matches!(output, Output::Reply { id: other, .. } if *other == id);
        if !outputs.iter().any(answers) {
            return false;
        }
        self.die(node);
        true
    }

    /// A machine dies; nothing survives that it had not synced.
    pub fn die(&mut self, node: NodeId) {
        self.transactions.moments.doomed.retain(|(whose, ..)| *whose != node);
        self.note_crash_points(node);
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        host.lose_power(0);
        host.off_at = Some(self.now);
        self.record.event(self.now, &[66, node.0], || format!("{node} dies"));
    }
}
