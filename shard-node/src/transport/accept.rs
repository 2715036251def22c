//! The receiving side of links.

use super::{Identity, Network};
use crate::inbox::{FromPeer, Inbox};
use fulcrum_common::wire::internal::peer_batch::Hello;
use fulcrum_common::wire::internal::peer_server::Peer;
use fulcrum_common::wire::internal::{LinkClosed, PeerBatch};
use fulcrum_common::wire::peer::message_from_wire;
use fulcrum_types::NodeId;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Takes in what peers send.
pub(crate) struct PeerService {
    pub(crate) identity: Identity,
    pub(crate) network: Network,
    pub(crate) inbox: Arc<Inbox>,
}

impl PeerService {
    /// Who speaks, if it speaks to this node of this cluster.
    fn introduced(&self, hello: Option<Hello>) -> Result<NodeId, Status> {
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
        Ok(NodeId(hello.from))
    }

    fn take_in(&self, from: NodeId, batch: PeerBatch) -> Result<(), Status> {
        let decoded = batch.messages.into_iter().map(|wire| {
            let (group, message) = message_from_wire(wire)?;
            Ok(FromPeer { from, group, message })
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
        let from = self.introduced(first.hello.take()).inspect_err(|status| {
            tracing::warn!(%status, "refusing a link");
        })?;
        self.take_in(from, first)?;
        while let Some(batch) = batches.message().await? {
            self.take_in(from, batch).inspect_err(|status| {
                tracing::warn!(%from, %status, "closing a link");
            })?;
        }
        Ok(Response::new(LinkClosed {
            reason: "the sender ended the link".to_owned(),
        }))
    }
}
