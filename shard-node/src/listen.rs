//! The node's port: connections as they should be, and all services on them.

use crate::service::{Door, KvService, ShardService};
use crate::transport::PeerService;
use fulcrum_common::auth::{Gate, Guard};
use fulcrum_common::door::{self, Health, InTime};
use fulcrum_common::limits::MAX_MESSAGE_BYTES;
use fulcrum_common::wire::internal::peer_server::PeerServer;
use fulcrum_common::wire::internal::shard_server::ShardServer;
use fulcrum_common::wire::v1::kv_server::KvServer;
use futures::Stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;

/// A client that answers no ping for the sum of these is taken for gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Unary calls that one connection may have open; the next one waits at the client.
const CALLS_PER_CONNECTION: u32 = 4096;
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(20);
const SERVICES: &[&str] = &[
    KvServer::<KvService>::NAME,
    ShardServer::<ShardService>::NAME,
    PeerServer::<PeerService>::NAME,
];

/// Connections as they come. The server leaves the socket as it is, so Nagle's algorithm is switched off here: left on, it
/// costs a factor of a hundred in latency (DESIGN section 13).
fn connections(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    futures::stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, %error, "a connection without TCP_NODELAY");
                    }
                    return Some((Ok(stream), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                }
            }
        }
    })
}

/// Serves until told to close: then calls under way end, and no new ones are let in.
pub(crate) async fn serve(
    listener: TcpListener,
    guard: Arc<Guard>,
    door: Door,
    peers: PeerService,
    closing: CancellationToken,
) {
    let kv = KvServer::new(KvService { door: door.clone() }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let shard = ShardServer::new(ShardService { door }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let peers = PeerServer::new(peers).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (health, health_service) = Health::serving(SERVICES).await;
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .max_concurrent_streams(Some(CALLS_PER_CONNECTION));
    let mut services = Routes::new(Gate::for_clients(&guard, kv))
        .add_service(Gate::for_services(&guard, shard))
        .add_service(Gate::for_services(&guard, peers))
        .add_service(health_service);
    match door::reflection(SERVICES) {
        Ok((reflection, older)) => services = services.add_service(reflection).add_service(older),
        Err(error) => tracing::warn!(%error, "serving without reflection"),
    }
    let told = async move {
        closing.cancelled().await;
        health.stops().await;
    };
    let services = InTime::new(services.prepare());
    let serving = server.serve_with_incoming_shutdown(services, connections(listener), told);
    if let Err(error) = serving.await {
        tracing::error!(%error, "the server ended");
    }
}
