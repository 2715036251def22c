//! What routers and operators speak to: batched requests, status, certificates, hand-over.

use super::certificates::{certificate_to_wire, notes_to_wire};
use super::convert;
use super::duplex::{Duplex, Outbox};
use super::{Door, bounded};
use crate::event::Event;
use crate::event_loop::Inquiry;
use crate::inbox::Notice;
use crate::node::{GroupStatus, NodeStatus};
use fulcrum_common::wire::batch::{About, RequestBatch};
use fulcrum_common::wire::internal;
use fulcrum_common::wire::shard::{refused_of_many, request_from_wire, response_to_wire};
use fulcrum_common::wire::status::refusal_to_status;
use fulcrum_common::wire::trace;
use fulcrum_common::wire::types::{micros, millis};
use fulcrum_common::wire::v1;
use fulcrum_replication::PeerStatus;
use fulcrum_types::{Answer, Answered, GroupId, GroupRequest, Mono, NodeId, Refusal, Role, WriteOutcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

/// The `Shard` service.
pub(crate) struct ShardService {
    pub(crate) door: Door,
}

impl Door {
    /// Submits one request of a router; its answer goes to the outbox. A stream that has too many outstanding is told so at
    /// once: its other groups must not wait for the slow one.
    fn exchange(&self, now: Mono, wire: internal::Request, outbox: &Arc<Outbox<internal::Response>>) {
        let (id, pass_on) = (wire.id, wire.pass_on);
        let trace = trace::from_wire(&wire.trace);
        let crowded = outbox.expect() >= self.outstanding_per_stream;
        let to = outbox.clone();
        let reply = Box::new(move |result| to.answer(id, pass_on, result));
        let asked = match request_from_wire(wire) {
            _ if crowded => Err(Refusal::Overloaded),
            Ok(request) => Ok(GroupRequest {
                deadline: bounded(request.deadline),
                ..request
            }),
            Err(malformed) => Err(malformed.into()),
        };
        let submitted = asked.and_then(|request| self.inbox.submit(request, trace, now, reply));
        if let Err(refusal) = submitted {
            outbox.deliver(&response_to_wire(id, Err(refusal)));
        }
    }

    async fn inquire<T>(&self, inquiry: impl FnOnce(oneshot::Sender<T>) -> Inquiry) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        self.inbox.notice(Notice::Inquiry(inquiry(reply)));
        let stopped = |_| {
            refusal_to_status(&Refusal::Stopped {
                reason: "the node has stopped".to_owned(),
            })
        };
        answer.await.map_err(stopped)
    }

    /// One replica as it is, for an operator's word about its group.
    async fn replica(&self, group: GroupId) -> Result<GroupStatus, Status> {
        let (node, groups) = self.inquire(Inquiry::Status).await?;
        let found = groups.into_iter().find(|status| status.group == group);
        found.ok_or_else(|| {
            refusal_to_status(&Refusal::WrongGroup {
                map_version: node.map_version,
            })
        })
    }
}

#[tonic::async_trait]
impl internal::shard_server::Shard for ShardService {
    type ExchangeStream = Duplex<internal::Request, internal::Response>;

    async fn exchange(
        &self,
        request: Request<Streaming<RequestBatch>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let door = self.door.clone();
        Ok(Response::new(Duplex {
            input: request.into_inner(),
            outbox: Outbox::new(),
            take_in: Box::new(move |batch, outbox| {
                let now = door.clock.now().mono;
                batch.items().try_for_each(|request| {
                    door.exchange(now, request?, outbox);
                    Ok(())
                })
            }),
            pause_at: usize::MAX,
            ended: false,
        }))
    }

    async fn node_status(
        &self,
        _: Request<internal::NodeStatusRequest>,
    ) -> Result<Response<internal::NodeStatusResponse>, Status> {
        let (node, groups) = self.door.inquire(Inquiry::Status).await?;
        Ok(Response::new(status_to_wire(node, groups)))
    }

    async fn certificates(
        &self,
        request: Request<internal::CertificatesRequest>,
    ) -> Result<Response<internal::CertificatesResponse>, Status> {
        let request = request.into_inner();
        let kept = self.door.inquire(Inquiry::Certificates).await?;
        let kept = kept.map_err(|error| {
            refusal_to_status(&Refusal::Stopped {
                reason: error.to_string(),
            })
        })?;
        let (node, groups) = self.door.inquire(Inquiry::Status).await?;
        let keyspace = |group: GroupId| {
            let held = groups.iter().find(|status| status.group == group);
            held.map_or_else(String::new, |status| status.name.clone())
        };
        let asked = kept
            .into_iter()
            .filter(|kept| request.group == 0 || kept.group.0 == request.group);
        let mut response = internal::CertificatesResponse::default();
        for kept in asked {
            response.notes.extend(notes_to_wire(&kept));
            let keyspace = keyspace(kept.group);
            let parts = certificate_to_wire(node.node, &keyspace, kept, request.with_entries);
            response.parts.extend(parts);
        }
        Ok(Response::new(response))
    }

    async fn hand_over(
        &self,
        request: Request<internal::HandOverRequest>,
    ) -> Result<Response<internal::HandOverResponse>, Status> {
        let internal::HandOverRequest { group, to } = request.into_inner();
        let group = GroupId(group);
        let to = (to != 0).then_some(NodeId(to));
        let replica = self.door.replica(group).await?.core;
        if replica.role != Role::Primary {
            return Err(refusal_to_status(&Refusal::NotPrimary { hint: replica.primary }));
        }
        if !replica.ready {
            return Err(refusal_to_status(&Refusal::NotReady));
        }
        if replica.configuration.in_sync.len() < 2 || to == replica.primary {
            let reason =
                format!("no other replica of group {group} that could lead it is in sync, or it leads already");
            return Err(refusal_to_status(&Refusal::Invalid { reason }));
        }
        if let Some(to) = to.filter(|to| !replica.configuration.is_in_sync(*to)) {
            let reason = format!("node {to} is not in the in-sync set of group {group}: choose one that is");
            return Err(refusal_to_status(&Refusal::Invalid { reason }));
        }
        self.door.inbox.event(Event::HandOver { group, to });
        Ok(Response::new(internal::HandOverResponse {}))
    }

    async fn force_start(
        &self,
        request: Request<internal::ForceStartRequest>,
    ) -> Result<Response<internal::ForceStartResponse>, Status> {
        let group = GroupId(request.into_inner().group);
        if !self.door.replica(group).await?.core.stranded {
            let reason = format!("group {group} has, or may get back, data that is listed: force would lose it");
            return Err(refusal_to_status(&Refusal::Invalid { reason }));
        }
        self.door.inbox.event(Event::ForcePromotion { group });
        Ok(Response::new(internal::ForceStartResponse {}))
    }
}

impl Outbox<internal::Response> {
    /// The answer to a request. What a router passes on leaves as the client gets it: it has no need to look into it.
    fn answer(&self, id: u64, pass_on: bool, result: Result<Answered, Refusal>) {
        let result = match result {
            Ok(answered) if pass_on => match self.pass_on(id, answered) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            result => result,
        };
        self.deliver(&response_to_wire(id, result));
    }

    /// Delivers an answer to be passed on; if it cannot be, why.
    fn pass_on(&self, id: u64, answered: Answered) -> Result<(), Refusal> {
        let about = About {
            staleness: answered.receipt.staleness,
            weaker: answered.receipt.is_weaker(),
        };
        match answered.answer {
            Answer::Values(values) if values.len() != 1 => {
                let values: Vec<Option<v1::Value>> = values.into_iter().map(|value| value.map(Into::into)).collect();
                let receipt = answered.receipt.into();
                self.fill(|batch| batch.push_many_to_pass_on(id, &values, receipt, &about, Vec::new()));
            }
            Answer::Joint(results) => {
                let refused = refused_of_many(&results);
                let outcome = |result: Result<WriteOutcome, Refusal>| result.ok().map(Into::into);
                let outcomes: Vec<Option<v1::WriteOutcome>> = results.into_iter().map(outcome).collect();
                let receipt = answered.receipt.into();
                self.fill(|batch| batch.push_many_to_pass_on(id, &outcomes, receipt, &about, refused));
            }
            Answer::Values(_) => {
                let message = convert::get_response(answered)?;
                self.fill(|batch| batch.push_to_pass_on(id, &message, &about));
            }
            _ => {
                let message = convert::write_response(answered)?;
                self.fill(|batch| batch.push_to_pass_on(id, &message, &about));
            }
        }
        Ok(())
    }
}

fn status_to_wire(node: NodeStatus, groups: Vec<GroupStatus>) -> internal::NodeStatusResponse {
    let working = groups.into_iter().map(replica_to_wire);
    let stopped = node
        .stopped
        .into_iter()
        .map(|(group, stopped)| internal::node_status_response::Replica {
            group: group.0,
            stopped,
            ..Default::default()
        });
    internal::NodeStatusResponse {
        node: node.node.0,
        boot: node.boot.0,
        map_version: node.map_version.0,
        replicas: working.chain(stopped).collect(),
        failover_pauses: Some(node.failover_pauses.into()),
    }
}

fn replica_to_wire(status: GroupStatus) -> internal::node_status_response::Replica {
    let core = status.core;
    internal::node_status_response::Replica {
        group: status.group.0,
        role: v1::Role::from(core.role).into(),
        epoch: core.epoch.0,
        config_version: core.version.0,
        primary: core.primary.map_or(0, |node| node.0),
        ready: core.ready,
        stranded: core.stranded,
        last_index: core.last.index.0,
        commit_index: core.commit.0,
        applied_index: core.applied.0,
        staleness_us: core.staleness.map(micros),
        in_sync: core.configuration.in_sync.iter().map(|member| member.node.0).collect(),
        peers: core.peers.iter().map(peer_to_wire).collect(),
        lease_left_us: micros(core.lease_left.unwrap_or(Duration::ZERO)),
        stopped: String::new(),
    }
}

fn peer_to_wire(peer: &PeerStatus) -> internal::node_status_response::Peer {
    internal::node_status_response::Peer {
        node: peer.node.0,
        lag_entries: peer.lag_entries,
        lag_ms: millis(peer.lag),
        silent_ms: millis(peer.silent_for),
        in_sync: peer.in_sync,
        snapshot: peer.snapshot,
    }
}
