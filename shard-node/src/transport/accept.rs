//! The receiving side of links.
//!
//! A link is of one life of its sender. When another life of the same node introduces itself, what still comes over links of the one before
//! is of no use to anybody (every replica would tell so by the boot id in each message): such a link is closed with its next batch.

use super::{Identity, Network};
use crate::inbox::{FromPeer, Inbox};
use fulcrum_common::wire::internal::peer_batch::Hello;
use fulcrum_common::wire::internal::peer_server::Peer;
use fulcrum_common::wire::internal::{LinkClosed, PeerBatch};
use fulcrum_common::wire::peer::message_from_wire;
use fulcrum_common::wire::trace;
use fulcrum_types::{BootId, Index, NodeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::{Request, Response, Status, Streaming};

/// Takes in what peers send.
pub(crate) struct PeerService {
    pub(crate) identity: Identity,
    pub(crate) network: Network,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) lives: Lives,
}

/// The life of each peer that has introduced itself last.
#[derive(Default)]
pub(crate) struct Lives {
    last: Mutex<HashMap<NodeId, BootId>>,
}

impl Lives {
    fn last(&self) -> MutexGuard<'_, HashMap<NodeId, BootId>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, node: NodeId, boot: BootId) {
        self.last().insert(node, boot);
    }

    fn check(&self, node: NodeId, boot: BootId) -> Result<(), Status> {
        match self.last().get(&node) {
            Some(last) if *last != boot => Err(Status::aborted(format!(
                "{node} has started anew and introduced itself since: this link is of its earlier life"
            ))),
            _ => Ok(()),
        }
    }
}

impl PeerService {
    /// Who speaks, if it speaks to this node of this cluster.
    fn introduced(&self, hello: Option<Hello>) -> Result<(NodeId, BootId), Status> {
        let hello = hello.ok_or_else(|| Status::invalid_argument("the first batch of a link must say who sends it"))?;
        let me = &self.identity;
        if hello.cluster_id != me.cluster.as_str() {
            return Err(Status::failed_precondition(format!(
                "this node is of cluster '{}', the sender of '{}': correct the sender's cluster map",
                me.cluster, hello.cluster_id
            )));
        }
        if hello.to != me.node.0 {
            return Err(Status::failed_precondition(format!(
                "this is node {}, not {}: the sender's cluster map is out of date",
                me.node,
                NodeId(hello.to)
            )));
        }
        if hello.from == me.node.0 {
            return Err(Status::failed_precondition(format!(
                "two processes run as node {}: stop one of them",
                me.node
            )));
        }
        let (from, boot) = (NodeId(hello.from), BootId(hello.boot));
        self.lives.begins(from, boot);
        Ok((from, boot))
    }

    fn take_in(&self, from: NodeId, batch: PeerBatch) -> Result<(), Status> {
        let decoded = batch.messages.into_iter().map(|mut wire| {
            let traced = std::mem::take(&mut wire.traced).into_iter().filter_map(|entry| {
                let context = trace::from_wire(&entry.trace)?;
                Some((Index(entry.index), context))
            });
            let traced = traced.collect();
            let (group, message) = message_from_wire(wire)?;
            Ok(FromPeer {
                from,
                group,
                message,
                traced,
            })
        });
        let messages = decoded
            .collect::<Result<Vec<_>, fulcrum_common::wire::Malformed>>()
            .map_err(|malformed| Status::invalid_argument(malformed.to_string()))?;
        if self.network.connects(from, self.identity.node) {
            self.inbox.receive(messages.into_iter());
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn link(&self, request: Request<Streaming<PeerBatch>>) -> Result<Response<LinkClosed>, Status> {
        let mut batches = request.into_inner();
        let Some(mut first) = batches.message().await? else {
            return Ok(Response::new(LinkClosed {
                reason: "nothing was sent".to_owned(),
            }));
        };
        let (from, boot) = self.introduced(first.hello.take()).inspect_err(|status| {
            tracing::warn!(%status, "refusing a link");
        })?;
        self.take_in(from, first)?;
        while let Some(batch) = batches.message().await? {
            let taken = self.lives.check(from, boot).and_then(|()| self.take_in(from, batch));
            taken.inspect_err(|status| {
                tracing::warn!(%from, %status, "closing a link");
            })?;
        }
        Ok(Response::new(LinkClosed {
            reason: "the sender ended the link".to_owned(),
        }))
    }
}
