//! Runs what the node asks for: the only match that touches the world.

use crate::cluster::{Call, Cluster};
use crate::event::{AskId, Event, Observation, Output, RequestId};
use crate::inbox::{Inbox, Reply};
use crate::metrics::{Kind, NodeMetrics, RequestMetrics};
use crate::traces::Traces;
use crate::transport::Transport;
use fulcrum_common::ClusterMap;
use fulcrum_common::routing::Groups;
use fulcrum_common::tickets::Tickets;
use fulcrum_types::{Answered, GroupId, Mono, Operation, Participant, Refusal};
use std::sync::Arc;
use std::time::Duration;

/// Who waits for an answer.
struct Waiter {
    reply: Reply,
    arrived: Mono,
    kind: Kind,
}

/// The world, as far as the node touches it.
pub(crate) struct Effects {
    transport: Transport,
    cluster: Arc<Cluster>,
    metrics: Arc<NodeMetrics>,
    requests: RequestMetrics,
    waiters: Tickets<Waiter>,
    asker: Asker,
    traces: Traces,
}

/// Asks other groups, if the node was given a way to.
pub(crate) struct Asker {
    pub(crate) groups: Option<Arc<dyn Groups>>,
    /// Where the answers go.
    pub(crate) inbox: Arc<Inbox>,
}

impl Asker {
    /// Asks in the background. Exactly one answer comes, at the deadline at the latest.
    fn ask(&self, ask: AskId, to: Participant, operation: Operation, deadline: Duration) {
        let inbox = self.inbox.clone();
        let answer = move |result| inbox.event(Event::Answered { ask, result });
        let Some(groups) = self.groups.clone() else {
            let reason = "this node was started without a way to ask other groups".to_owned();
            return answer(Err(Refusal::Unreachable { reason }));
        };
        tokio::spawn(async move {
            let asked = groups.ask(to, operation, deadline);
            let result = tokio::time::timeout(deadline, asked).await;
            answer(result.unwrap_or(Err(Refusal::DeadlineExceeded)));
        });
    }
}

impl Effects {
    pub(crate) fn new(transport: Transport, cluster: Arc<Cluster>, metrics: Arc<NodeMetrics>, asker: Asker) -> Self {
        let requests = RequestMetrics::new(metrics.clone());
        Self {
            transport,
            cluster,
            asker,
            metrics,
            requests,
            waiters: Tickets::default(),
            traces: Traces::default(),
        }
    }

    /// Somebody will wait for the answer to a request.
    pub(crate) fn expect(&mut self, id: RequestId, kind: Kind, arrived: Mono, reply: Reply) {
        let waiter = Waiter { reply, arrived, kind };
        self.waiters.insert(id.0, waiter);
    }

    /// Nobody waits any more. Whether somebody did.
    pub(crate) fn forget(&mut self, id: RequestId) -> bool {
        self.traces.forget(id);
        self.waiters.remove(id.0).is_some()
    }

    /// Requests that somebody waits for.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Learns what groups and keyspaces are called.
    pub(crate) fn follow(&mut self, map: &ClusterMap) {
        self.requests.follow(map);
    }

    /// The queues to the peers, for metrics.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What is followed of requests and entries.
    pub(crate) fn traces(&mut self) -> &mut Traces {
        &mut self.traces
    }

    /// Runs one output. The reason, if the node must stop.
    pub(crate) fn run(&mut self, now: Mono, output: Output) -> Option<String> {
        match output {
            Output::Send { to, group, message } => {
                let traced = self.traces.sends(to, group, &message, now);
                self.transport.send(to, group, &message, traced);
            }
            Output::Reply { id, result } => self.reply(now, id, result),
            Output::CompareAndSwap {
                group,
                attempt,
                expected,
                proposal,
            } => {
                self.cluster.call(Call::CompareAndSwap {
                    group,
                    attempt,
                    expected,
                    proposal,
                });
            }
            Output::Ask {
                ask,
                to,
                operation,
                deadline,
            } => self.asker.ask(ask, to, operation, deadline),
            Output::ReadConfiguration { group } => self.cluster.call(Call::ReadConfiguration { group }),
            Output::ReadLease { group, node } => self.cluster.call(Call::ReadLease { group, node }),
            Output::Observed(observation) => self.observe(&observation),
            Output::Fatal { reason } => return Some(reason),
        }
        None
    }

    fn reply(&mut self, now: Mono, id: RequestId, result: Result<Answered, Refusal>) {
        if let Some(waiter) = self.waiters.remove(id.0) {
            let took = now.since(waiter.arrived);
            tracing::debug!(request = id.0, kind = ?waiter.kind, ?took, ok = result.is_ok(), "answered");
            self.requests.answered(waiter.kind, took, &result);
            let keyspace_of = |group| self.requests.keyspace_of(group);
            self.traces.answered(id, keyspace_of, &result, now);
            (waiter.reply)(result);
        }
    }

    fn observe(&self, observation: &Observation) {
        let keyspace = self.requests.keyspace_of(group_of(observation));
        self.metrics.observe(keyspace, observation);
        match observation {
            Observation::Applied { .. }
            | Observation::LockWaited { .. }
            | Observation::TransactionCommitted { .. }
            | Observation::TransactionAborted { .. } => {}
            Observation::TransactionResolved { on_its_own: false, .. } => {}
            Observation::TransactionResolved {
                group, took, committed, ..
            } => {
                tracing::info!(%group, keyspace, ?took, committed, "a transaction that its coordinator left was resolved");
            }
            Observation::TransactionContradicted { group, id } => {
                tracing::error!(%group, keyspace, %id, "a committed transaction was to be aborted: nothing was changed");
            }
            Observation::RoleChanged {
                group,
                was,
                role,
                epoch,
            } => {
                tracing::info!(%group, keyspace, %was, %role, %epoch, "role changed");
            }
            Observation::CertificateOpened { .. }
            | Observation::DivergenceRecorded { .. }
            | Observation::Rebuilding { .. }
            | Observation::NewData { .. } => {
                tracing::warn!(keyspace, ?observation, "what was acknowledged may be lost")
            }
            other => tracing::info!(keyspace, observation = ?other, "replication"),
        }
    }
}

fn group_of(observation: &Observation) -> GroupId {
    use Observation as O;
    match observation {
        O::RoleChanged { group, .. }
        | O::TookOver { group, .. }
        | O::FirstAcknowledgement { group, .. }
        | O::Evicted { group, .. }
        | O::Admitted { group, .. }
        | O::CertificateOpened { group, .. }
        | O::DivergenceRecorded { group, .. }
        | O::SnapshotStarted { group, .. }
        | O::SnapshotEnded { group, .. }
        | O::SnapshotInstalled { group, .. }
        | O::Rebuilding { group, .. }
        | O::NewData { group, .. }
        | O::ReplicaAdded { group }
        | O::ReplicaRemoved { group }
        | O::LockWaited { group, .. }
        | O::TransactionCommitted { group }
        | O::TransactionAborted { group, .. }
        | O::TransactionResolved { group, .. }
        | O::TransactionContradicted { group, .. }
        | O::Applied { group, .. } => *group,
    }
}
