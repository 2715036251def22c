//! The node's port: connections as they should be, and all services on them.

use crate::service::{Door, KvService, ShardService};
use crate::transport::PeerService;
use fulcrum_common::auth::{Gate, Guard};
use fulcrum_common::door::{self, Bound, ConnectionsConfig, Health, InTime};
use fulcrum_common::limits::MAX_MESSAGE_BYTES;
use fulcrum_common::tls::{Acceptor, OnlyServices, connections};
use fulcrum_common::wire::internal::peer_server::PeerServer;
use fulcrum_common::wire::internal::shard_server::ShardServer;
use fulcrum_common::wire::v1::kv_server::KvServer;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;

/// Unary calls that one connection may have open; the next one waits at the client.
const CALLS_PER_CONNECTION: u32 = 4096;
const SERVICES: &[&str] = &[
    KvServer::<KvService>::NAME,
    ShardServer::<ShardService>::NAME,
    PeerServer::<PeerService>::NAME,
];

/// Serves until told to close: then calls under way end, and no new ones are let in. The client API shares the port with what only routers,
/// coordinators and peers may call: those have a gate of their own.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    (config, bound): (ConnectionsConfig, Bound),
    guard: Arc<Guard>,
    door: Door,
    peers: PeerService,
    closing: CancellationToken,
) {
    // The certificate first, where there is one, then the secret.
    let role = OnlyServices::new(acceptor.is_some());
    let kv = KvServer::new(KvService { door: door.clone() }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let shard = ShardServer::new(ShardService { door }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let peers = PeerServer::new(peers).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (health, health_service) = Health::serving(SERVICES).await;
    let server = config.server().max_concurrent_streams(Some(CALLS_PER_CONNECTION));
    let mut services = Routes::new(Gate::for_clients(&guard, kv))
        .add_service(InterceptedService::new(Gate::for_services(&guard, shard), role.clone()))
        .add_service(InterceptedService::new(Gate::for_services(&guard, peers), role))
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
    let incoming = connections(listener, acceptor, bound);
    let serving = server.serve_with_incoming_shutdown(services, incoming, told);
    if let Err(error) = serving.await {
        tracing::error!(%error, "the server ended");
    }
}
