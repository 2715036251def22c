//! Connections from here: encrypted if they are to be, never otherwise.
//!
//! In TLS 1.3 a caller is done greeting before the server has judged its certificate: the alert comes in place of the server's first word.
//! So a connection tells of that first word, or of what came instead.

use super::explain::not_connected;
use super::live::Tls;
use crate::error::chain_of;
use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

type FirstWord = Box<dyn FnOnce(Result<(), String>) + Send>;

/// How a TLS alert begins, which is what a server that wants TLS says to plain text. A frame of HTTP/2 does not.
const TLS_ALERT: u8 = 0x15;

/// A connection to a server, which tells of the server's first word.
pub struct Heard<S> {
    stream: S,
    /// Who waits for it.
    heard: Option<FirstWord>,
}

/// An encrypted connection.
pub type Encrypted = Heard<Box<TlsStream<TcpStream>>>;

/// Encrypts a connection to a server, which must be of that name. `heard` is told that the server has said something, or why not; not at all if
/// the connection is dropped before.
///
/// # Errors
/// What a person can do about it.
pub async fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
    heard: impl FnOnce(Result<(), String>) + Send + 'static,
) -> Result<Encrypted, String> {
    let connected = TlsConnector::from(config).connect(name, stream).await;
    let stream = connected.map_err(|error| not_connected(&error))?;
    Ok(Heard::new(Box::new(stream), heard))
}

impl<S> Heard<S> {
    /// `heard` is told that the server has said something, or why not; not at all if the connection is dropped before.
    pub fn new(stream: S, heard: impl FnOnce(Result<(), String>) + Send + 'static) -> Self {
        let heard: FirstWord = Box::new(heard);
        Self {
            stream,
            heard: Some(heard),
        }
    }
}

fn first_word(read: &io::Result<()>, said: &[u8]) -> Result<(), String> {
    match (read, said.first()) {
        (Err(error), _) => Err(not_connected(error)),
        (Ok(()), None) => Err(not_connected(&io::ErrorKind::UnexpectedEof.into())),
        (Ok(()), Some(&TLS_ALERT)) => {
            Err("only TLS is spoken there: use https:// and name its authority (--tls-ca)".to_owned())
        }
        (Ok(()), Some(_)) => Ok(()),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
        if let Some(heard) = this.heard.take() {
            heard(first_word(&read, &buffer.filled()[before..]));
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Makes the connections of a service to others of the cluster; by default, in plain text.
#[derive(Clone, Default)]
pub struct Dialer {
    tls: Option<Arc<Tls>>,
}

impl Dialer {
    /// As configured: encrypted, or not.
    #[must_use]
    pub fn of(tls: Option<&Arc<Tls>>) -> Self {
        Self { tls: tls.cloned() }
    }

    /// A connection that is made when first needed, and again whenever it breaks.
    #[must_use]
    pub fn lazy(&self, endpoint: &Endpoint) -> Channel {
        match &self.tls {
            None => endpoint.connect_lazy(),
            Some(tls) => endpoint.connect_with_connector_lazy(Connector {
                tls: tls.clone(),
                heard: None,
            }),
        }
    }

    /// A connection that is made now, to a server that wants it.
    ///
    /// # Errors
    /// It could not be made.
    pub async fn now(&self, endpoint: &Endpoint) -> Result<Channel, String> {
        let told = |error: tonic::transport::Error| chain_of(error.to_string(), &error);
        let Some(tls) = &self.tls else {
            return endpoint.connect().await.map_err(told);
        };
        let (heard, word) = oneshot::channel();
        let connector = Connector {
            tls: tls.clone(),
            heard: Some(heard),
        };
        let channel = endpoint.connect_with_connector(connector).await.map_err(told)?;
        // Pings end a connection on which nothing is said.
        match word.await {
            Ok(word) => word.map(|()| channel),
            Err(_) => Err("the connection ended before the server said anything".to_owned()),
        }
    }
}

/// Connects to what an address names.
struct Connector {
    tls: Arc<Tls>,
    /// Who waits for the first word on the first connection.
    heard: Option<oneshot::Sender<Result<(), String>>>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Encrypted>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Encrypted>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let (tls, waits) = (self.tls.clone(), self.heard.take());
        Box::pin(async move { dial(&tls, &address, waits).await.map(TokioIo::new) })
    }
}

async fn dial(
    tls: &Arc<Tls>,
    address: &Uri,
    waits: Option<oneshot::Sender<Result<(), String>>>,
) -> io::Result<Encrypted> {
    let host = address.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = tls.server_name(host).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, address.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    let at = address.authority().map(ToString::to_string).unwrap_or_default();
    let (of_word, to) = (tls.clone(), at.clone());
    let heard = move |word: Result<(), String>| {
        if let Err(reason) = &word {
            of_word.not_dialled(&to, reason);
        }
        // Mostly nobody waits.
        let _ = waits.map(|waits| waits.send(word));
    };
    handshake(tls.client(), name, stream, heard).await.map_err(|reason| {
        tls.not_dialled(&at, &reason);
        io::Error::other(reason)
    })
}

impl Tls {
    /// Connections are tried again and again: what is wrong with them is told now and then.
    fn not_dialled(&self, address: &str, reason: &str) {
        if self.dialling.admits("dialling").is_some() {
            tracing::warn!(%address, reason, "cannot connect");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::{Bound, ConnectionsConfig, Health};
    use crate::metrics::Metrics;
    use crate::tls::{Port, TlsConfig, connections};
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    use std::path::Path;
    use tonic::service::Routes;

    /// An authority, and processes that have a certificate by it.
    struct Authority {
        folder: tempfile::TempDir,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Authority {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let key = KeyPair::generate().unwrap();
            write(&folder.path().join("ca.pem"), &params.self_signed(&key).unwrap().pem());
            let issuer = Issuer::new(params, key);
            Self { folder, issuer }
        }

        /// A process of that role.
        fn process(&self, role: &str) -> Arc<Tls> {
            let file = |name: &str| self.folder.path().join(format!("{role}-{name}"));
            let mut params = CertificateParams::new([role.to_owned(), "127.0.0.1".to_owned()]).unwrap();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            write(&file("cert.pem"), &params.signed_by(&key, &self.issuer).unwrap().pem());
            write(&file("key.pem"), &key.serialize_pem());
            let config = TlsConfig {
                cert: Some(file("cert.pem")),
                key: Some(file("key.pem")),
                ca: Some(self.folder.path().join("ca.pem")),
                service_name: role.to_owned(),
                ..TlsConfig::default()
            };
            Tls::open(&config, &Metrics::new()).unwrap().unwrap()
        }
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    /// Lets in whoever has a certificate by the authority; where.
    async fn serving(tls: &Arc<Tls>) -> Endpoint {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let config = ConnectionsConfig::default();
        let bound = Bound::of(&config, &Metrics::new()).unwrap();
        let (_health, service) = Health::serving(&[]).await;
        let incoming = connections(listener, Some(tls.acceptor(Port::Clients)), bound);
        let routes = Routes::new(service).prepare();
        tokio::spawn(config.server().serve_with_incoming(routes, incoming));
        endpoint
    }

    #[tokio::test]
    async fn a_server_of_the_authority_at_the_right_address_is_refused_without_the_role() {
        let authority = Authority::new();
        let own = authority.process("fulcrum-service");
        let dialer = Dialer::of(Some(&own));
        let peer = serving(&authority.process("fulcrum-service")).await;
        dialer.now(&peer).await.unwrap();
        let stranger = serving(&authority.process("somebody-else")).await;
        let refused = dialer.now(&stranger).await.map(drop).unwrap_err();
        assert!(refused.contains("tls.service_name"), "{refused}");
    }
}
