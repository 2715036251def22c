//! Groups as a process finds them that has a view of the cluster and streams to its nodes.
//!
//! A question that is submitted is a [`Journey`]: as long as all goes well it takes no task and no timer of its own. One that meets
//! trouble goes on in a task.

use super::backends::{Asker, Attempt, Backends, Outcome};
use super::errand::{not_in_map, understood};
use super::{Attempts, Errand, Groups, Kind, Next, Question, RoutingTable, Told};
use crate::wire::shard::Reply;
use async_trait::async_trait;
use fulcrum_types::{
    Answered, CutOperation, Level, MapVersion, NodeId, Operation, Participant, Refusal, TraceContext,
    TransactionOperation,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// [`Groups`] over streams. Belongs to one runtime, as its [`Backends`] do.
pub struct StreamedGroups {
    table: Arc<RoutingTable>,
    backends: Backends,
    rotation: AtomicU64,
}

impl StreamedGroups {
    /// Who leads what is read from the table, which somebody else keeps fresh.
    #[must_use]
    pub fn new(table: Arc<RoutingTable>, backends: Backends) -> Self {
        Self {
            table,
            backends,
            rotation: AtomicU64::new(0),
        }
    }
}

/// Who can serve an operation, and whether it may be sent twice.
fn kind(operation: &Operation) -> Kind {
    match operation {
        Operation::Read(read) => Kind::Read(read.level),
        Operation::Outcome(_) => Kind::Read(Level::Linearizable),
        Operation::Write { idempotency, .. } => Kind::Write {
            safe_twice: idempotency.is_some(),
        },
        Operation::Joint(writes) => Kind::Write {
            safe_twice: writes.iter().all(|write| write.idempotency.is_some()),
        },
        // What is decided every replica may tell; the others send on to the primary.
        Operation::Transaction(TransactionOperation::LookUp(_)) => Kind::Read(Level::Eventual),
        Operation::Transaction(step) if step.is_read() => Kind::Read(Level::Linearizable),
        Operation::Cut(CutOperation::Step(_)) => Kind::Write { safe_twice: true },
        // Whoever has pinned the state.
        Operation::Cut(CutOperation::Read { .. } | CutOperation::LookUp { .. }) => Kind::Read(Level::Eventual),
        // A group recognises a repetition by the transaction's id.
        Operation::Transaction(_) => Kind::Write { safe_twice: true },
    }
}

#[async_trait]
impl Groups for StreamedGroups {
    async fn ask(&self, to: Participant, operation: Operation, deadline: Duration) -> Result<Answered, Refusal> {
        let started = Instant::now();
        let errand = Errand {
            to,
            operation: &operation,
            kind: kind(&operation),
            until: started + deadline,
            pass_on: false,
            trace: None,
        };
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        let mut attempts = Attempts::new(to.group, errand.kind, rotation);
        let first = attempts.next(&self.table.view());
        let reply = errand.run(&self.table, &self.backends, &mut attempts, first, started);
        understood(reply.await?)
    }

    fn submit(self: Arc<Self>, to: Participant, operation: Operation, deadline: Duration, told: Told) {
        let question = Question {
            to,
            operation,
            deadline,
            trace: None,
        };
        self.submit_traced(question, told);
    }

    fn submit_traced(self: Arc<Self>, question: Question, told: Told) {
        let Question {
            to,
            operation,
            deadline,
            trace,
        } = question;
        let started = Instant::now();
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        let kind = kind(&operation);
        let journey = Journey {
            attempts: Attempts::new(to.group, kind, rotation),
            groups: self,
            to,
            operation,
            kind,
            started,
            until: started + deadline,
            map_version: MapVersion::default(),
            node: NodeId::default(),
            trace,
            told,
        };
        Box::new(journey).begin();
    }
}

/// A question under way, which its answer ends.
struct Journey {
    groups: Arc<StreamedGroups>,
    to: Participant,
    operation: Operation,
    kind: Kind,
    attempts: Attempts,
    started: Instant,
    until: Instant,
    /// The first attempt: by which map, and to whom.
    map_version: MapVersion,
    node: NodeId,
    trace: Option<TraceContext>,
    told: Told,
}

impl Asker for Journey {
    fn attempt(&self) -> Attempt<'_> {
        self.errand().attempt(self.map_version, self.started)
    }

    fn answered(mut self: Box<Self>, outcome: Outcome, now: Instant) {
        let failure = match outcome {
            Ok(reply) => return self.end(Ok(reply)),
            Err(failure) => failure,
        };
        let view = self.groups.table.view();
        let spent = now.saturating_duration_since(self.started);
        let next = self.attempts.after(&view, self.node, failure, spent);
        self.go_on(next);
    }
}

impl Journey {
    fn errand(&self) -> Errand<'_> {
        Errand {
            to: self.to,
            operation: &self.operation,
            kind: self.kind,
            until: self.until,
            pass_on: false,
            trace: self.trace,
        }
    }

    fn begin(mut self: Box<Self>) {
        let groups = self.groups.clone();
        let view = groups.table.view();
        self.map_version = view.map.version();
        self.node = match self.attempts.next(&view) {
            Next::Send(node) if self.started < self.until => node,
            Next::Send(_) => return self.end(Err(Refusal::DeadlineExceeded)),
            trouble => return self.go_on(trouble),
        };
        match view.map.address(self.node) {
            Some(address) => groups.backends.submit(self.node, address, self),
            None => {
                let failure = not_in_map(self.node);
                self.answered(Err(failure), Instant::now());
            }
        }
    }

    /// Trouble: worth a task of its own.
    fn go_on(self: Box<Self>, next: Next) {
        tokio::spawn(async move {
            // Taken apart: who is told may move between threads, but not be shared by them.
            let (groups, told) = (self.groups, self.told);
            let (mut attempts, started) = (self.attempts, self.started);
            let errand = Errand {
                to: self.to,
                operation: &self.operation,
                kind: self.kind,
                until: self.until,
                pass_on: false,
                trace: self.trace,
            };
            let carried = errand.run(&groups.table, &groups.backends, &mut attempts, next, started);
            told(carried.await.and_then(understood));
        });
    }

    fn end(self: Box<Self>, reply: Result<Reply, Refusal>) {
        (self.told)(reply.and_then(understood));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{AbortCause, Decide, TransactionId};

    #[test]
    fn steps_that_are_recorded_go_to_the_primary_and_may_be_sent_twice() {
        let id = TransactionId::default();
        let decide = TransactionOperation::Decide(Decide {
            id,
            fingerprint: None,
            cause: AbortCause::Operator,
        });
        let of = |step| kind(&Operation::Transaction(step));
        assert_eq!(of(decide), Kind::Write { safe_twice: true });
        let list = TransactionOperation::List { limit: 1 };
        assert_eq!(of(list), Kind::Read(Level::Linearizable));
        assert_eq!(of(TransactionOperation::LookUp(id)), Kind::Read(Level::Eventual));
    }
}
