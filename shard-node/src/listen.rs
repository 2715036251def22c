//! The node's port: connections as they should be, and all services on them.

use crate::service::{Door, KvService, ShardService};
use crate::transport::PeerService;
use fulcrum_common::limits::MAX_MESSAGE_BYTES;
use fulcrum_common::tls::{Acceptor, Gate, connections};
use fulcrum_common::wire::DESCRIPTORS;
use fulcrum_common::wire::internal::peer_server::PeerServer;
use fulcrum_common::wire::internal::shard_server::ShardServer;
use fulcrum_common::wire::v1::kv_server::KvServer;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

/// A client that answers no ping for the sum of these is taken for gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Unary calls that one connection may have open; the next one waits at the client.
const CALLS_PER_CONNECTION: u32 = 4096;

/// Serves until told to close: then calls under way end, and no new ones are let in. The client API shares the port with what only routers,
/// coordinators and peers may call: those have a gate of their own.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    door: Door,
    peers: PeerService,
    closing: CancellationToken,
) {
    let gate = Gate::new(acceptor.is_some());
    let kv = KvServer::new(KvService { door: door.clone() }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let shard = ShardServer::new(ShardService { door }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let shard = InterceptedService::new(shard, gate);
    let peers = PeerServer::new(peers).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let peers = InterceptedService::new(peers, gate);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<KvServer<KvService>>().await;
    health_reporter.set_serving::<ShardServer<ShardService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1();
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .max_concurrent_streams(Some(CALLS_PER_CONNECTION))
        .add_service(kv)
        .add_service(shard)
        .add_service(peers)
        .add_service(health);
    match reflection {
        Ok(reflection) => server = server.add_service(reflection),
        Err(error) => tracing::warn!(%error, "serving without reflection"),
    }
    if let Err(error) = server
        .serve_with_incoming_shutdown(connections(listener, acceptor), closing.cancelled_owned())
        .await
    {
        tracing::error!(%error, "the server ended");
    }
}
