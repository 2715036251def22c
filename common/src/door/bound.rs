//! How many connections a port takes, and when one whose other side says nothing more is given up.
//!
//! A client that died without a word, or whose network is gone, answers no pings: its connection ends, and with it its streams and watches. One
//! connection too many is closed at once, before anything is read from it: whoever opened it asks elsewhere, or later.

use crate::config::{ConfigError, Validate, duration, invalid};
use crate::few_lines::Pace;
use crate::metrics::{MetricError, Metrics};
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::Server;

/// What an operator sets: `connections` of each service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionsConfig {
    /// Connections to the port at once; those beyond are closed.
    pub max: u32,
    /// The other side is asked whether it is there, so often.
    #[serde(with = "duration")]
    pub ping_every: Duration,
    /// It has so much time to answer.
    #[serde(with = "duration")]
    pub pong_within: Duration,
}

impl Default for ConnectionsConfig {
    fn default() -> Self {
        Self {
            max: 10_000,
            ping_every: Duration::from_secs(10),
            pong_within: Duration::from_secs(10),
        }
    }
}

impl Validate for ConnectionsConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.max == 0 {
            return Err(invalid("connections.max", "nobody could connect: use 1 or more"));
        }
        let times = [
            ("connections.ping_every", self.ping_every),
            ("connections.pong_within", self.pong_within),
        ];
        match times.into_iter().find(|(_, time)| time.is_zero()) {
            Some((key, _)) => Err(invalid(key, "0 is no time: use 1s or more")),
            None => Ok(()),
        }
    }
}

impl ConnectionsConfig {
    /// A server that gives up connections whose other side is gone.
    #[must_use]
    pub fn server(&self) -> Server {
        Server::builder()
            .http2_keepalive_interval(Some(self.ping_every))
            .http2_keepalive_timeout(Some(self.pong_within))
    }
}

/// What a connection holds as long as it is there.
pub(crate) type Place = OwnedSemaphorePermit;

/// The places at one port.
#[derive(Clone, Debug)]
pub struct Bound {
    max: u32,
    places: Arc<Semaphore>,
    refused: IntCounter,
    said: Arc<Pace>,
}

impl Bound {
    /// As configured. What was refused is counted among the service's metrics.
    ///
    /// # Errors
    /// There is such a metric already.
    pub fn of(config: &ConnectionsConfig, metrics: &Metrics) -> Result<Self, MetricError> {
        let help = "Connections that were closed at once: there were as many as connections.max allows.";
        let refused = metrics.counter("fulcrum_connections_refused_total", help, &[])?;
        Ok(Self {
            max: config.max,
            places: Arc::new(Semaphore::new(config.max as usize)),
            refused: refused.with_label_values(&[] as &[&str]),
            said: Arc::default(),
        })
    }

    /// A place for one more, if there is one.
    pub(crate) fn place(&self, peer: SocketAddr) -> Option<Place> {
        let place = self.places.clone().try_acquire_owned().ok();
        if place.is_none() {
            self.refused.inc();
            if let Some(unsaid) = self.said.admits("connections") {
                tracing::warn!(
                    %peer,
                    max = self.max,
                    unsaid,
                    "closed a connection, for there are too many: who keeps so many open? Else raise connections.max, and the limit on open files"
                );
            }
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::Health;
    use crate::tls::connections;
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tonic::service::Routes;

    /// What HTTP/2 begins with at a client: its preface, and settings without any.
    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    const PATIENCE: Duration = Duration::from_secs(20);

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn one() -> ConnectionsConfig {
        ConnectionsConfig {
            max: 1,
            ..ConnectionsConfig::default()
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_at_once_and_counted() {
        let (listener, address) = listening().await;
        let bound = Bound::of(&one(), &Metrics::new()).unwrap();
        let refused = bound.refused.clone();
        let mut incoming = std::pin::pin!(connections(listener, None, bound));
        let _first = TcpStream::connect(address).await.unwrap();
        let held = incoming.next().await.unwrap().unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        tokio::select! {
            _ = incoming.next() => panic!("it was let in"),
            read = second.read_u8() => assert!(read.is_err(), "it is told nothing"),
        }
        assert_eq!(refused.get(), 1);
        drop(held);
        let _third = TcpStream::connect(address).await.unwrap();
        let admitted = tokio::time::timeout(PATIENCE, incoming.next()).await;
        assert!(admitted.unwrap().unwrap().is_ok(), "the place is free again");
        assert_eq!(refused.get(), 1);
    }

    #[tokio::test]
    async fn who_answers_no_pings_is_given_up_and_makes_room() {
        let config = ConnectionsConfig {
            ping_every: Duration::from_millis(100),
            pong_within: Duration::from_millis(100),
            ..one()
        };
        let (listener, address) = listening().await;
        let bound = Bound::of(&config, &Metrics::new()).unwrap();
        let (_health, service) = Health::serving(&[]).await;
        let incoming = connections(listener, None, bound.clone());
        let routes = Routes::new(service).prepare();
        tokio::spawn(config.server().serve_with_incoming(routes, incoming));

        let mut dead = TcpStream::connect(address).await.unwrap();
        dead.write_all(GREETING).await.unwrap();
        let mut said = Vec::new();
        let end = tokio::time::timeout(PATIENCE, dead.read_to_end(&mut said)).await;
        let _ = end.expect("it is still served");
        assert!(!said.is_empty(), "it was served before");
        let freed = async {
            while bound.places.available_permits() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, freed).await.expect("its place is free");
    }

    #[test]
    fn what_lets_nobody_in_is_refused_by_its_key() {
        assert_eq!(ConnectionsConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut ConnectionsConfig)| {
            let mut config = ConnectionsConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.max = 0).contains("connections.max"));
        assert!(refused(|c| c.ping_every = Duration::ZERO).contains("connections.ping_every"));
        assert!(refused(|c| c.pong_within = Duration::ZERO).contains("connections.pong_within"));
    }
}
