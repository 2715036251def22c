//! Groups as a process finds them that has a view of the cluster and streams to its nodes.

use super::backends::Backends;
use super::errand::understood;
use super::{Attempts, Errand, Groups, Kind, RoutingTable};
use async_trait::async_trait;
use fulcrum_types::{Answered, Level, Operation, Participant, Refusal, TransactionOperation};
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
        };
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        let mut attempts = Attempts::new(to.group, errand.kind, rotation);
        let first = attempts.next(&self.table.view());
        let reply = errand.run(&self.table, &self.backends, &mut attempts, first, started);
        understood(reply.await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{AbortCause, Decide, Decision, TransactionId};

    #[test]
    fn steps_that_are_recorded_go_to_the_primary_and_may_be_sent_twice() {
        let id = TransactionId::default();
        let decide = TransactionOperation::Decide(Decide {
            id,
            fingerprint: None,
            decision: Decision::Aborted(AbortCause::Operator),
        });
        let of = |step| kind(&Operation::Transaction(step));
        assert_eq!(of(decide), Kind::Write { safe_twice: true });
        let list = TransactionOperation::List { limit: 1 };
        assert_eq!(of(list), Kind::Read(Level::Linearizable));
        assert_eq!(of(TransactionOperation::LookUp(id)), Kind::Read(Level::Eventual));
    }
}
