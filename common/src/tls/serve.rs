//! Connections as they come to a service, ready to be served: encrypted, if it is.
//!
//! Greetings are made beside each other, bounded in time and number. Who says nothing holds up nobody: if too many are at it, the oldest is let go
//! for the newest. What a refused caller is told is rustls's alert and no more.

use super::explain::{self, CROWDED_OUT, TOO_SLOW};
use super::live::Tls;
use super::role::PeerRole;
use crate::door::{Bound, Place};
use crate::sockets;
use futures::Stream;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// A greeting takes two round trips; on bad links and busy machines, seconds.
const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// Greetings at once. Each holds some 20 KiB.
const GREETINGS: usize = 512;
/// For a caller that was refused to read why, and to hang up.
const FAREWELL_WITHIN: Duration = Duration::from_millis(500);
/// What it says meanwhile is read so often.
const FAREWELL_READS: usize = 64;
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(20);

/// What a port is for, and so who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Clients, as `tls.client_certificates` says.
    Clients,
    /// The cluster's own processes; clients with a certificate too, if `tls.direct_clients` says so.
    Services,
    /// Whoever scrapes and probes.
    Metrics,
}

/// Encrypts the connections to a port.
#[derive(Clone)]
pub struct Acceptor {
    tls: Arc<Tls>,
    port: Port,
}

impl Acceptor {
    pub(super) fn new(tls: Arc<Tls>, port: Port) -> Self {
        Self { tls, port }
    }

    /// Greets a caller; none if it was refused, which is told in the log.
    pub(crate) async fn greet(&self, stream: TcpStream, peer: SocketAddr, place: Option<Place>) -> Option<Connection> {
        let acceptor = TlsAcceptor::from(self.tls.server(self.port));
        match tokio::time::timeout(GREETING_WITHIN, acceptor.accept(stream).into_fallible()).await {
            Ok(Ok(stream)) => {
                let caller = self.tls.role().caller(stream.get_ref().1.peer_certificates());
                Some(Connection::Encrypted(Box::new(stream), caller, place))
            }
            Ok(Err((error, stream))) => {
                self.tls.refusals.refused(peer, explain::refused(&error), &error);
                let _ = tokio::time::timeout(FAREWELL_WITHIN, farewell(stream)).await;
                None
            }
            Err(late) => {
                self.tls.refusals.refused(peer, TOO_SLOW, &late);
                None
            }
        }
    }
}

/// Lets a caller that was refused read the alert. Whoever closes a connection on which bytes wait unread has it reset, and a reset takes away
/// what the other side has not read yet: callers speak on before they know that their certificate will not do.
async fn farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut unread = [0; 1024];
    for _ in 0..FAREWELL_READS {
        if stream.read(&mut unread).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// A connection to a service.
pub enum Connection {
    /// As it came. With its place, where there are so many.
    Plain(TcpStream, Option<OwnedSemaphorePermit>),
    /// Whoever is at its other end has shown what it must.
    Encrypted(Box<TlsStream<TcpStream>>, PeerRole, Option<OwnedSemaphorePermit>),
}

/// A greeting that is under way.
struct Greeting {
    peer: SocketAddr,
    task: AbortHandle,
}

struct Accepting {
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    bound: Bound,
    greetings: JoinSet<Option<Connection>>,
    /// The same, the oldest first; among them some that are over.
    order: VecDeque<Greeting>,
}

/// Connections as they come, so many at once, without Nagle's algorithm; encrypted with an acceptor. Ends with the greetings under way when it
/// is dropped.
pub fn connections(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    bound: Bound,
) -> impl Stream<Item = io::Result<Connection>> {
    let accepting = Accepting {
        listener,
        acceptor,
        bound,
        greetings: JoinSet::new(),
        order: VecDeque::new(),
    };
    futures::stream::unfold(accepting, |mut accepting| async {
        let connection = accepting.next().await;
        Some((Ok(connection), accepting))
    })
}

impl Accepting {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Some(place) = self.bound.place(peer) else { continue };
                        sockets::without_delay(&stream);
                        match self.acceptor.clone() {
                            None => return Connection::Plain(stream, Some(place)),
                            Some(acceptor) => self.greet(acceptor, stream, peer, place),
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                    }
                },
                Some(greeted) = self.greetings.join_next() => if let Ok(Some(connection)) = greeted {
                    return connection;
                },
            }
        }
    }

    fn greet(&mut self, acceptor: Acceptor, stream: TcpStream, peer: SocketAddr, place: Place) {
        self.make_room(&acceptor);
        let greeting = async move { acceptor.greet(stream, peer, Some(place)).await };
        let task = self.greetings.spawn(greeting);
        self.order.push_back(Greeting { peer, task });
    }

    fn make_room(&mut self, acceptor: &Acceptor) {
        while let Some(oldest) = self.order.front() {
            if !oldest.task.is_finished() {
                if self.greetings.len() < GREETINGS {
                    return;
                }
                oldest.task.abort();
                let refusals = &acceptor.tls.refusals;
                refusals.refused(oldest.peer, CROWDED_OUT, &format_args!("let go for a newer one"));
                self.order.pop_front();
                return;
            }
            self.order.pop_front();
        }
    }
}

/// What is known of a connection; in the extensions of each of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    /// Who opened it.
    pub role: PeerRole,
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        let (stream, role) = match self {
            Connection::Plain(stream, _) => (stream, PeerRole::Unencrypted),
            Connection::Encrypted(stream, role, _) => (stream.get_ref().0, *role),
        };
        ConnectionInfo {
            peer: stream.peer_addr().ok(),
            role,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(stream, _) => Pin::new(stream).poll_read(cx, buffer),
            Connection::Encrypted(stream, ..) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Plain(stream, _) => Pin::new(stream).poll_write(cx, bytes),
            Connection::Encrypted(stream, ..) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Plain(stream, _) => Pin::new(stream).poll_write_vectored(cx, slices),
            Connection::Encrypted(stream, ..) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Connection::Plain(stream, _) => stream.is_write_vectored(),
            Connection::Encrypted(stream, ..) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(stream, _) => Pin::new(stream).poll_flush(cx),
            Connection::Encrypted(stream, ..) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Connection::Encrypted(stream, ..) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
