//! What every service has at its door beside its own API: the standard health service, reflection, answers in time ([`InTime`]), and bounds on
//! connections ([`Bound`]).
//!
//! Health names what is served, and the whole by the empty name, as the standard wants it. A service that stops says so under every
//! name, and ends the streams of those who watch: they would hold up its end, for they never end by themselves.
//!
//! Reflection comes in both versions that clients ask for (`v1`, and `v1alpha` of older tools), and lists what is served here and
//! nothing else, though the messages of all services are described.

mod bound;
mod in_time;

pub(crate) use bound::Place;
pub use bound::{Bound, ConnectionsConfig};
pub use in_time::InTime;

use crate::wire::DESCRIPTORS;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthApi, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::server::{Builder, Error, v1, v1alpha};

/// The name of the whole in the health service.
const WHOLE: &str = "";
const HEALTH: &str = "grpc.health.v1.Health";

/// How the services of one port are.
#[derive(Debug)]
pub struct Health {
    reporter: HealthReporter,
    services: &'static [&'static str],
}

impl Health {
    /// All of them serve. With it what answers for them.
    pub async fn serving(services: &'static [&'static str]) -> (Self, HealthServer<impl HealthApi>) {
        let (reporter, server) = tonic_health::server::health_reporter();
        for name in services {
            reporter.set_service_status(name, ServingStatus::Serving).await;
        }
        (Self { reporter, services }, server)
    }

    /// None of them does any more. Who watches is told so, and the watch ends.
    pub async fn stops(mut self) {
        for name in self.services.iter().chain([&WHOLE]) {
            self.reporter.set_service_status(name, ServingStatus::NotServing).await;
            // Ends the watches, once they have told the last; who asks from now on is answered by what follows.
            self.reporter.clear_service_status(name).await;
            self.reporter.set_service_status(name, ServingStatus::NotServing).await;
        }
    }
}

/// Describes these services, in both versions.
///
/// # Errors
/// The descriptors that were compiled in make no sense.
pub fn reflection(
    services: &[&str],
) -> Result<
    (
        v1::ServerReflectionServer<impl v1::ServerReflection + use<>>,
        v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection + use<>>,
    ),
    Error,
> {
    let of = |own: &str| {
        let described = Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let listed = services.iter().copied().chain([HEALTH, own]);
        listed.fold(described, Builder::with_service_name)
    };
    Ok((
        of("grpc.reflection.v1.ServerReflection").build_v1()?,
        of("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use tonic::{Code, Request};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as OnWire;

    #[tokio::test]
    async fn who_watches_is_told_that_a_service_stops_and_the_watch_ends() {
        // The server that answers gives no way to ask it but over a connection.
        let (health, server) = Health::serving(&["fulcrum.v1.Kv"]).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serving = tonic::transport::Server::builder().add_service(server);
        tokio::spawn(serving.serve_with_incoming(incoming));
        let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel.connect_lazy());

        let asked = |service: &str| {
            Request::new(HealthCheckRequest {
                service: service.into(),
            })
        };
        let mut watches = Vec::new();
        for name in ["fulcrum.v1.Kv", ""] {
            let mut watch = client.watch(asked(name)).await.unwrap().into_inner();
            assert_eq!(watch.next().await.unwrap().unwrap().status(), OnWire::Serving);
            watches.push(watch);
        }
        let unknown = client.check(asked("fulcrum.v1.Other")).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);

        health.stops().await;
        for mut watch in watches {
            assert_eq!(watch.next().await.unwrap().unwrap().status(), OnWire::NotServing);
            assert!(watch.next().await.is_none(), "it goes on for ever");
        }
        let after = client.check(asked("")).await.unwrap().into_inner();
        assert_eq!(after.status(), OnWire::NotServing);
    }

    #[test]
    fn descriptors_make_sense_in_both_versions() {
        assert!(reflection(&["fulcrum.v1.Kv"]).is_ok());
    }
}
