//! Questions to a group, whoever leads it: of coordinators, of nodes (`Output::Ask`), and of clients that ask without a coordinator.
//!
//! The runner does what the services' does: it goes by a picture of who leads, which may be old, follows redirects, sends again what got lost,
//! and ends every question once, at its deadline at the latest. Which node is next is the shipped decision table's choice.

use super::Step;
use crate::sim::host::Asker;
use crate::sim::network::Endpoint;
use crate::sim::rng::Rng;
use crate::sim::time::{MS, Time};
use crate::sim::world::{Happening, World};
use fulcrum_common::routing::{Attempts, Failure, Kind, Next, Primary, View};
use fulcrum_shard_node::event::Event;
use fulcrum_types::{
    Answered, BootId, CutOperation, GroupRequest, Level, MapVersion, NodeId, Operation, Participant, Refusal,
    TransactionOperation,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// Who asks, by its own name for the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A node, in this life.
    Node(NodeId, BootId, fulcrum_shard_node::event::AskId),
    /// A coordinator, in this life.
    Coordinator(usize, u64, fulcrum_two_phase::AskId),
    /// A client, with this attempt.
    Client(usize, u64),
    /// Whoever makes backups, with this attempt.
    Backup(u64),
}

/// A question under way.
pub struct Question {
    /// Who asks.
    pub owner: Owner,
    /// Whom.
    pub to: Participant,
    /// What.
    pub operation: Operation,
    /// Who was asked last.
    pub at: Option<NodeId>,
    began: Time,
    deadline: Time,
    attempts: Attempts,
    view: View,
    attempt: u64,
    awaited: bool,
}

/// All questions under way.
pub struct Questions {
    open: BTreeMap<u64, Question>,
    last: u64,
    rng: Rng,
    /// Of a hundred times that a process looks, so often it does not know who leads a group.
    pub ignorance: u32,
}

impl Questions {
    pub(super) fn new(rng: Rng) -> Self {
        Self {
            open: BTreeMap::new(),
            last: 0,
            rng,
            ignorance: 10,
        }
    }

    /// From where a question is asked, if it still is.
    #[must_use]
    pub fn asked_from(&self, number: u64) -> Option<Endpoint> {
        Some(end_of(self.open.get(&number)?.owner))
    }

    /// Those that are under way.
    pub fn open(&self) -> impl Iterator<Item = (u64, &Question)> {
        self.open.iter().map(|(number, question)| (*number, question))
    }

    /// Nobody waits for what this one has asked.
    pub(super) fn forget(&mut self, whose: impl Fn(&Owner) -> bool) {
        self.open.retain(|_, question| !whose(&question.owner));
    }
}

/// Nobody else's number.
const BACKUP_CLIENT: u64 = 9_000;

fn end_of(owner: Owner) -> Endpoint {
    match owner {
        Owner::Node(node, ..) => Endpoint::Node(node),
        Owner::Coordinator(number, ..) => Endpoint::Coordinator(number as u64),
        Owner::Client(number, _) => Endpoint::Client(number as u64),
        Owner::Backup(_) => Endpoint::Client(BACKUP_CLIENT),
    }
}

fn kind_of(operation: &Operation) -> Kind {
    match operation {
        Operation::Read(read) => Kind::Read(read.level),
        // A decision is told by any replica; who cannot tell sends us to the primary.
        Operation::Transaction(TransactionOperation::LookUp(_)) => Kind::Read(Level::Eventual),
        Operation::Cut(CutOperation::Read { .. } | CutOperation::LookUp { .. }) => Kind::Read(Level::Eventual),
        Operation::Transaction(step) if step.is_read() => Kind::Read(Level::Linearizable),
        _ => Kind::Write { safe_twice: true },
    }
}

impl World {
    /// Asks a group; ends with exactly one answer to the owner, if that lives until then.
    pub(in crate::sim) fn ask_group(&mut self, owner: Owner, to: Participant, operation: Operation, span: Time) {
        let deadline = self.now + span;
        let view = self.picture();
        let questions = &mut self.transactions.questions;
        questions.last += 1;
        let number = questions.last;
        let question = Question {
            owner,
            to,
            attempts: Attempts::new(to.group, kind_of(&operation), questions.rng.below(64)),
            operation,
            at: None,
            began: self.now,
            deadline,
            view,
            attempt: 0,
            awaited: false,
        };
        questions.open.insert(number, question);
        self.plan_step(deadline, Step::Expired(number));
        self.ask_or_pause(number);
    }

    /// Who leads, as a process may know it: what the metadata store has, now and then not the newest of it.
    fn picture(&mut self) -> View {
        let Questions { rng, ignorance, .. } = &mut self.transactions.questions;
        let known = self.metadata.all().iter().filter_map(|(group, configuration)| {
            let primary = Primary {
                node: configuration.primary?,
                epoch: configuration.epoch,
            };
            (!rng.percent(*ignorance)).then_some((*group, primary))
        });
        View::with_primaries(self.plan.map.clone(), known)
    }

    fn owner_lives(&self, owner: Owner) -> bool {
        match owner {
            Owner::Node(node, boot, _) => self.hosts[&node].lives(boot),
            Owner::Coordinator(number, life, _) => self.transactions.coordinators[number].lives(life),
            Owner::Client(..) | Owner::Backup(_) => true,
        }
    }

    /// The first step of a question, or the one after a pause.
    pub(super) fn ask_or_pause(&mut self, number: u64) {
        let view = self.picture();
        let Some(question) = self.transactions.questions.open.get_mut(&number) else {
            return;
        };
        question.view = view;
        let next = question.attempts.next(&question.view);
        self.go_on_asking(number, next);
    }

    fn go_on_asking(&mut self, number: u64, next: Next) {
        let Some(owner) = self.transactions.questions.open.get(&number).map(|q| q.owner) else {
            return;
        };
        if !self.owner_lives(owner) {
            self.transactions.questions.open.remove(&number);
            return;
        }
        match next {
            Next::Send(node) => self.send_question(number, node),
            Next::Pause(pause) => self.plan_step(self.now + pause.as_nanos() as Time, Step::Ask(number)),
            Next::Fail(refusal) => self.end_question(number, Err(refusal)),
        }
    }

    fn send_question(&mut self, number: u64, node: NodeId) {
        let questions = &mut self.transactions.questions;
        let Some(question) = questions.open.get_mut(&number) else {
            return;
        };
        question.attempt += 1;
        question.at = Some(node);
        question.awaited = true;
        let attempt = question.attempt;
        let left = question.deadline.saturating_sub(self.now);
        let request = GroupRequest {
            keyspace: question.to.keyspace,
            group: question.to.group,
            map_version: MapVersion(1),
            deadline: Duration::from_nanos(left),
            operation: question.operation.clone(),
        };
        let from = end_of(question.owner);
        let wait = questions.rng.range(200 * MS, 900 * MS);
        self.record.event(self.now, &[50, number, attempt, node.0], || {
            format!("{from} asks {node} in {}: {:?}", request.group, request.operation)
        });
        self.plan_step(self.now + wait, Step::Silence(number, attempt));
        // A connection does not double what is sent over it: a refusal would say nothing of the other copy.
        let mut request = Some(request);
        self.transmit(from, Endpoint::Node(node), || {
            let (request, asker) = (request.take()?, Asker::Question { number, attempt });
            Some(Happening::Request {
                to: node,
                asker,
                request,
            })
        });
    }

    /// A node's answer arrives.
    pub(in crate::sim) fn answer_to_question(
        &mut self,
        from: NodeId,
        number: u64,
        attempt: u64,
        result: &Result<Answered, Refusal>,
    ) {
        let questions = &mut self.transactions.questions;
        let Some(question) = questions.open.get_mut(&number) else {
            return;
        };
        if !question.awaited || question.attempt != attempt {
            return;
        }
        question.awaited = false;
        let end = end_of(question.owner);
        self.record.event(
            self.now,
            &[51, number, attempt, from.0, u64::from(result.is_ok())],
            || match result {
                Ok(answered) => format!("{end} hears from {from}: {:?}", answered.answer),
                Err(refusal) => format!("{end} hears from {from}: {refusal:?}"),
            },
        );
        let failure = match result {
            Ok(answered) => {
                let (owner, group) = (question.owner, question.to.group);
                let moments = &mut self.transactions.moments;
                moments.hear(owner, group, &question.operation, &answered.answer);
                return self.end_question(number, Ok(answered.clone()));
            }
            Err(Refusal::Unreachable { reason }) => Failure::NotSent(reason.clone()),
            Err(refusal) => Failure::Refused(refusal.clone()),
        };
        self.attempt_failed(number, from, failure);
    }

    fn attempt_failed(&mut self, number: u64, node: NodeId, failure: Failure) {
        let Some(question) = self.transactions.questions.open.get_mut(&number) else {
            return;
        };
        let spent = Duration::from_nanos(self.now - question.began);
        let next = question.attempts.after(&question.view, node, failure, spent);
        self.go_on_asking(number, next);
    }

    pub(super) fn question_silence(&mut self, number: u64, attempt: u64) {
        let Some(question) = self.transactions.questions.open.get_mut(&number) else {
            return;
        };
        let Some(node) = question.at.filter(|_| question.awaited && question.attempt == attempt) else {
            return;
        };
        question.awaited = false;
        self.attempt_failed(number, node, Failure::Lost("no answer in time".into()));
    }

    pub(super) fn question_expired(&mut self, number: u64) {
        let Some(question) = self.transactions.questions.open.get(&number) else {
            return;
        };
        let refusal = match (question.awaited, question.attempts.out_of_time()) {
            // What is on its way may yet be done.
            (true, Refusal::DeadlineExceeded) => Refusal::Unknown {
                reason: "the deadline passed without an answer".into(),
            },
            (true, refusal) if !matches!(refusal, Refusal::Unknown { .. }) => Refusal::Unknown {
                reason: format!("the deadline passed without an answer; last: {refusal}"),
            },
            (_, refusal) => refusal,
        };
        self.end_question(number, Err(refusal));
    }

    fn end_question(&mut self, number: u64, result: Result<Answered, Refusal>) {
        let Some(question) = self.transactions.questions.open.remove(&number) else {
            return;
        };
        if !self.owner_lives(question.owner) {
            return;
        }
        match question.owner {
            Owner::Node(node, _, ask) => self.deliver(node, Event::Answered { ask, result }),
            Owner::Coordinator(coordinator, _, ask) => {
                self.feed(coordinator, fulcrum_two_phase::Input::Answered { ask, result });
            }
            Owner::Client(client, attempt) => self.client_is_answered(client, attempt, result),
            Owner::Backup(attempt) => self.backup_hears(attempt, question.to, result),
        }
    }
}
