//! Streams between the replicas of a group: one a pair of nodes and direction, for all groups.
//!
//! **The promise.** Messages to one peer go in order while its stream lives, all that one turn of the event loop made in as
//! few batches as possible. Anything may be lost: the protocol repeats it.
//!
//! **The protocol.** The sender opens `Peer.Link` and introduces itself: cluster, itself, whom it takes the receiver for,
//! and its life. A receiver of another cluster or node refuses, so that an address that was given to another node does no
//! harm. Keep-alive pings notice a peer that went without a word; the link is then opened anew, with growing pauses, at
//! the address that the cluster map has by then.
//!
//! Who may open a link at all is judged before, by its certificate (`fulcrum_common::tls`).

mod accept;
mod link;
mod network;
mod queue;

pub(crate) use accept::{Lives, PeerService};
pub use network::Network;
pub(crate) use queue::Depth;

use fulcrum_common::auth::Internal;
use fulcrum_common::tls::Dialer;
use fulcrum_common::wire::internal::{PeerMessage, TracedEntry};
use fulcrum_common::wire::peer::message_to_wire;
use fulcrum_common::{ClusterId, ClusterMap};
use fulcrum_replication::Message;
use fulcrum_types::{BootId, GroupId, NodeId};
use queue::Outgoing;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Who this node is to its peers.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    /// What it shows its peers.
    pub(crate) shows: Internal,
}

struct Link {
    queue: Arc<Outgoing>,
    /// Ends with the transport.
    _task: AbortOnDropHandle<()>,
}

/// The sending side: a link to each peer that was ever sent anything.
pub(crate) struct Transport {
    identity: Identity,
    network: Network,
    map: watch::Receiver<Arc<ClusterMap>>,
    dialer: Dialer,
    bound_bytes: usize,
    links: BTreeMap<NodeId, Link>,
}

impl Transport {
    pub(crate) fn new(
        identity: Identity,
        network: Network,
        map: watch::Receiver<Arc<ClusterMap>>,
        dialer: Dialer,
        bound_bytes: usize,
    ) -> Self {
        Self {
            identity,
            network,
            map,
            dialer,
            bound_bytes,
            links: BTreeMap::new(),
        }
    }

    /// Sends, sooner or later or never. Must be called within a runtime.
    pub(crate) fn send(&mut self, to: NodeId, group: GroupId, message: &Message, traced: Vec<TracedEntry>) {
        if !self.network.connects(self.identity.node, to) {
            return;
        }
        let link = self.links.entry(to).or_insert_with(|| {
            let queue = Outgoing::new(self.bound_bytes);
            let task = link::run(
                self.identity.clone(),
                to,
                self.map.clone(),
                self.dialer.clone(),
                queue.clone(),
            );
            Link {
                queue,
                _task: AbortOnDropHandle::new(tokio::spawn(task)),
            }
        });
        link.queue.push(PeerMessage {
            traced,
            ..message_to_wire(group, message)
        });
    }

    /// The depth of the queue to each peer.
    pub(crate) fn depths(&self) -> impl Iterator<Item = (NodeId, Depth)> {
        self.links.iter().map(|(peer, link)| (*peer, link.queue.depth()))
    }
}
