//! The task that keeps one link open.

use super::Identity;
use super::queue::{Batches, Outgoing};
use fulcrum_common::ClusterMap;
use fulcrum_common::auth::Internal;
use fulcrum_common::limits::MAX_MESSAGE_BYTES;
use fulcrum_common::tls::Dialer;
use fulcrum_common::wire::internal::PeerBatch;
use fulcrum_common::wire::internal::peer_batch::Hello;
use fulcrum_common::wire::internal::peer_client::PeerClient;
use fulcrum_types::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// A peer that is not in the map by then is named in the log.
const MAP_WITHIN: Duration = Duration::from_secs(2);
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A peer that answers no ping for the sum of these is taken for gone.
const PING_EVERY: Duration = Duration::from_secs(1);
const PONG_WITHIN: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Sends what is pushed to the queue, over one connection after the other, until the task is aborted.
pub(super) async fn run(
    identity: Identity,
    peer: NodeId,
    mut map: watch::Receiver<Arc<ClusterMap>>,
    dialer: Dialer,
    queue: Arc<Outgoing>,
) {
    let mut pause = FIRST_PAUSE;
    while let Some(address) = address_of(peer, &mut map).await {
        match connect(&dialer, &address).await {
            Ok(channel) => {
                tracing::debug!(%peer, %address, "link opened");
                queue.set_online(true);
                let hello = hello(&identity, peer);
                tokio::select! {
                    end = stream(channel, identity.shows.clone(), hello, &queue) => {
                        tracing::debug!(%peer, %address, reason = end.reason, "link lost");
                        if !end.refused {
                            pause = FIRST_PAUSE;
                        }
                    }
                    () = moved(peer, &address, &mut map) => tracing::debug!(%peer, %address, "the peer moved"),
                }
                queue.set_online(false);
            }
            Err(error) => tracing::debug!(%peer, %address, %error, "link not opened"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = moved(peer, &address, &mut map) => pause = FIRST_PAUSE,
        }
    }
}

/// The peer's address, once the map has one; none if nobody maintains the map any more.
async fn address_of(peer: NodeId, map: &mut watch::Receiver<Arc<ClusterMap>>) -> Option<String> {
    let is_known = |map: &Arc<ClusterMap>| map.address(peer).is_some();
    // A configuration may come before the map that it goes with.
    if tokio::time::timeout(MAP_WITHIN, map.wait_for(is_known)).await.is_err() {
        tracing::warn!(
            %peer,
            "a group here has a replica on a node that is not in the cluster map: start that node, or wait until the replica is \
             rebuilt elsewhere (`fulcrum placement show`: rebuild_after)"
        );
    }
    let map = map.wait_for(is_known).await.ok()?;
    map.address(peer).map(str::to_owned)
}

/// Waits until the map has another address for the peer.
async fn moved(peer: NodeId, address: &str, map: &mut watch::Receiver<Arc<ClusterMap>>) {
    if map
        .wait_for(|map| map.address(peer).is_some_and(|now| now != address))
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

async fn connect(dialer: &Dialer, address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true);
    dialer.now(&endpoint).await
}

fn hello(identity: &Identity, peer: NodeId) -> PeerBatch {
    let hello = Hello {
        cluster_id: identity.cluster.to_string(),
        from: identity.node.0,
        to: peer.0,
        boot: identity.boot.0,
    };
    PeerBatch {
        hello: Some(hello),
        messages: Vec::new(),
    }
}

/// Why a stream ended.
struct End {
    reason: String,
    /// The peer does not want it, and will not want the next one soon.
    refused: bool,
}

/// Sends until the stream ends, and says why it did.
async fn stream(channel: Channel, shows: Internal, hello: PeerBatch, queue: &Arc<Outgoing>) -> End {
    let batches = Batches {
        queue: queue.clone(),
        introduction: Some(hello),
    };
    let mut client = PeerClient::with_interceptor(channel, shows).max_encoding_message_size(MAX_MESSAGE_BYTES);
    match client.link(batches).await {
        Ok(closed) => End {
            reason: closed.into_inner().reason,
            refused: false,
        },
        Err(status) => End {
            refused: matches!(
                status.code(),
                Code::FailedPrecondition | Code::InvalidArgument | Code::Unauthenticated
            ),
            reason: status.to_string(),
        },
    }
}
