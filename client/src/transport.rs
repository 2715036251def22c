//! A connection to one server: HTTP/2, encrypted or not, and nothing around it.
//!
//! tonic's own channel puts a queue, a timer and half a dozen layers around each request, which costs a caller on one
//! thread as much as a tenth of the whole call. Here a request goes straight to hyper's sender; the connection is made when
//! first needed and again when it has closed. Who waits while somebody else connects shares the outcome. A connection is made only once the
//! server has said something on it: one that wants other certificates says so then, and nothing was sent.

use crate::error::Error;
use crate::token::Token;
use fulcrum_common::tls::{ClientTls, Heard, handshake};
use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tonic::ConnectError;
use tonic::body::Body;
use tonic::client::GrpcService;

const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(1);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    server: Arc<Server>,
    token: Option<Token>,
}

#[derive(Debug)]
struct Server {
    authority: Authority,
    connect_timeout: Duration,
    tls: Option<Arc<ClientTls>>,
    sender: Mutex<Option<SendRequest<Body>>>,
    /// Held by whoever connects; how the last attempt failed.
    connecting: tokio::sync::Mutex<String>,
    /// Attempts to connect that have ended.
    attempts: AtomicU64,
}

impl Transport {
    /// To `http://host:port`, or with encryption to `https://host:port`.
    ///
    /// # Errors
    /// The address makes no sense, or not with the encryption there is.
    pub(crate) fn new(address: &str, connect_timeout: Duration, tls: Option<Arc<ClientTls>>) -> Result<Self, Error> {
        let spoken = scheme(tls.is_some());
        let nonsense = |why: &str| Error::Config {
            reason: format!("'{address}' is no address: {why}; use {spoken}://host:port"),
        };
        let uri: Uri = address
            .parse()
            .map_err(|error: http::uri::InvalidUri| nonsense(&error.to_string()))?;
        match uri.scheme() {
            Some(asked) if *asked == Scheme::HTTPS && tls.is_none() => {
                return Err(nonsense(
                    "https needs the servers' authority to be named (Config::tls, --tls-ca)",
                ));
            }
            Some(asked) if *asked != spoken => return Err(nonsense(&format!("only {spoken} is spoken here"))),
            _ => {}
        }
        let authority = uri.authority().cloned().ok_or_else(|| nonsense("no host is named"))?;
        let server = Server {
            authority,
            connect_timeout,
            tls,
            sender: Mutex::new(None),
            connecting: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
        };
        Ok(Self {
            server: Arc::new(server),
            token: None,
        })
    }

    /// The same, with a token in every call.
    pub(crate) fn showing(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Whether others may read what is sent: it is not encrypted, and leaves this machine.
    pub(crate) fn is_overheard(&self) -> bool {
        if self.server.tls.is_some() {
            return false;
        }
        let host = self.server.host();
        let loopback = host.parse::<IpAddr>().map(|ip| ip.is_loopback());
        !loopback.unwrap_or(host == "localhost")
    }
}

/// As encryption wants it.
fn scheme(encrypted: bool) -> Scheme {
    match encrypted {
        true => Scheme::HTTPS,
        false => Scheme::HTTP,
    }
}

/// Makes HTTP/2 of a connection, once the server has said something.
async fn speak<S>(
    connect: impl AsyncFnOnce(oneshot::Sender<Result<(), String>>) -> Result<Heard<S>, BoxError>,
) -> Result<SendRequest<Body>, BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (heard, first_word) = oneshot::channel();
    let stream = connect(heard).await?;
    let mut http2 = Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_WITHIN);
    let (sender, connection) = http2.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Whoever has a request under way hears of it there.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection broke");
        }
    });
    let ended = |_| "the connection ended before the server said anything".to_owned();
    first_word.await.map_err(ended).flatten()?;
    Ok(sender)
}

impl Server {
    fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The connection, if there is one.
    fn open(&self) -> Option<SendRequest<Body>> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.clone().filter(|sender| !sender.is_closed())
    }

    async fn connected(&self) -> Result<SendRequest<Body>, ConnectError> {
        let seen = self.attempts.load(Ordering::Relaxed);
        let mut last = self.connecting.lock().await;
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        if self.attempts.load(Ordering::Relaxed) != seen {
            return Err(ConnectError(last.clone().into()));
        }
        let outcome = match tokio::time::timeout(self.connect_timeout, self.connect()).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", self.connect_timeout.as_millis())),
        };
        self.attempts.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(sender) => {
                *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
                Ok(sender)
            }
            Err(reason) => {
                *last = format!("{}: {reason}", self.authority);
                Err(ConnectError(last.clone().into()))
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, BoxError> {
        let host = self.host();
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let socket = TcpStream::connect((host, self.authority.port_u16().unwrap_or(usual))).await?;
        socket.set_nodelay(true)?;
        // Whoever waited may have gone.
        let tell = |heard: oneshot::Sender<_>| move |word| drop(heard.send(word));
        let Some(tls) = &self.tls else {
            return speak(async |heard| Ok(Heard::new(socket, tell(heard)))).await;
        };
        let name = tls.server_name(host)?;
        let of_files = tls.clone();
        let config = tokio::task::spawn_blocking(move || of_files.config()).await?;
        speak(async |heard| Ok(handshake(config, name, socket, tell(heard)).await?)).await
    }

    fn address(&self, request: &mut Request<Body>) -> Result<(), http::Error> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(scheme(self.tls.is_some()));
        parts.authority = Some(self.authority.clone());
        *request.uri_mut() = Uri::from_parts(parts)?;
        Ok(())
    }
}

impl GrpcService<Body> for Transport {
    type ResponseBody = Incoming;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Incoming>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Err(error) = self.server.address(&mut request) {
            return Box::pin(std::future::ready(Err(error.into())));
        }
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.header());
        }
        match self.server.open() {
            Some(mut sender) => Box::pin(async move { Ok(sender.send_request(request).await?) }),
            None => {
                let server = self.server.clone();
                Box::pin(async move {
                    let mut sender = server.connected().await?;
                    Ok(sender.send_request(request).await?)
                })
            }
        }
    }
}
