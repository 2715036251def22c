//! What is scraped: `/metrics`, `/healthz` (the process answers) and `/readyz` (it can serve).
//!
//! Bounded: few connections at a time, each with a deadline; one more waits in the kernel's queue. In plain text unless it is told otherwise, for
//! probes and scrapers often speak nothing else; nothing of the data can be seen here.

use crate::error::StartError;
use crate::tls::{Acceptor, Connection, Tls};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Registry, TextEncoder};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const CONNECTIONS: usize = 16;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
const CONNECTION_DEADLINE: Duration = Duration::from_secs(60);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Whether the service can serve, and if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A metrics server; stops when dropped.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl MetricsServer {
    /// One at this address, if there is one; encrypted if that is wanted of it. Must be called within a runtime.
    pub async fn start_if(
        address: Option<SocketAddr>,
        tls: Option<&Arc<Tls>>,
        registry: Registry,
        ready: Readiness,
    ) -> Result<Option<Self>, StartError> {
        let Some(address) = address else { return Ok(None) };
        let acceptor = tls.and_then(Tls::of_metrics);
        Self::start(acceptor, address, registry, ready).await.map(Some)
    }

    async fn start(
        acceptor: Option<Acceptor>,
        address: SocketAddr,
        registry: Registry,
        ready: Readiness,
    ) -> Result<Self, StartError> {
        let bind = |error| StartError::bind("metrics", address, error);
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let endpoint = Endpoint {
            registry,
            ready,
            acceptor,
        };
        let task = tokio::spawn(accept(listener, Arc::new(endpoint)));
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops, and returns once the port is free for the next one.
    pub async fn stop(mut self) {
        self.task.abort();
        // It was told to end: there is nothing else that it could say.
        let _ = (&mut self.task).await;
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Endpoint {
    registry: Registry,
    ready: Readiness,
    acceptor: Option<Acceptor>,
}

async fn accept(listener: TcpListener, endpoint: Arc<Endpoint>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the metrics port was not accepted");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
        };
        let endpoint = Arc::clone(&endpoint);
        tokio::spawn(async move {
            let connection = match &endpoint.acceptor {
                Some(acceptor) => acceptor.greet(stream, peer, None).await,
                None => Some(Connection::Plain(stream, None)),
            };
            if let Some(connection) = connection {
                serve(connection, endpoint).await;
            }
            drop(slot);
        });
    }
}

async fn serve(stream: Connection, endpoint: Arc<Endpoint>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = endpoint.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_DEADLINE, connection).await {
        tracing::debug!(%error, "a connection to the metrics port broke");
    }
}

impl Endpoint {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        }
        match path {
            "/metrics" => match TextEncoder::new().encode_to_string(&self.registry.gather()) {
                Ok(metrics) => text(StatusCode::OK, metrics),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match (self.ready)() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "use /metrics, /healthz or /readyz\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn server(ready: Readiness) -> (MetricsServer, Metrics) {
        let metrics = Metrics::new();
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = MetricsServer::start(None, local, metrics.registry().clone(), ready)
            .await
            .unwrap();
        (server, metrics)
    }

    #[tokio::test]
    async fn metrics_are_scraped_with_their_help() {
        let (server, metrics) = server(Arc::new(|| Ok(()))).await;
        let counter = metrics.counter("fulcrum_tests_total", "Tests run.", &["kind"]).unwrap();
        counter.with_label_values(&["unit"]).inc_by(3);
        let answer = ask(server.address(), "GET /metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("# HELP fulcrum_tests_total Tests run."), "{answer}");
        assert!(answer.contains("fulcrum_tests_total{kind=\"unit\"} 3"), "{answer}");
    }

    #[tokio::test]
    async fn health_and_readiness() {
        let up = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&up);
        let ready: Readiness = Arc::new(move || {
            seen.load(Ordering::SeqCst)
                .then_some(())
                .ok_or("no cluster map yet".to_owned())
        });
        let (server, _) = server(ready).await;
        assert!(ask(server.address(), "GET /healthz").await.starts_with("HTTP/1.1 200"));
        let answer = ask(server.address(), "GET /readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("no cluster map yet"),
            "{answer}"
        );
        up.store(true, Ordering::SeqCst);
        assert!(ask(server.address(), "GET /readyz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn foreign_bytes_do_no_harm() {
        let (server, _) = server(Arc::new(|| Ok(()))).await;
        assert!(ask(server.address(), "GET /else").await.starts_with("HTTP/1.1 404"));
        assert!(ask(server.address(), "POST /metrics").await.starts_with("HTTP/1.1 405"));
        for noise in ["\u{0}\u{1}\u{2}", "GET", "GET /metrics SPDY/9"] {
            ask(server.address(), noise).await;
        }
        assert!(ask(server.address(), "GET /healthz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn idle_connections_beyond_the_bound_wait_and_a_freed_one_is_used() {
        let (server, _) = server(Arc::new(|| Ok(()))).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(server.address()).await.unwrap());
        }
        let waiting = tokio::spawn(ask(server.address(), "GET /healthz"));
        drop(idle);
        let answer = tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .unwrap()
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn a_port_is_free_once_its_server_has_stopped() {
        let (first, metrics) = server(Arc::new(|| Err("waiting".to_owned()))).await;
        let at = first.address();
        assert!(ask(at, "GET /readyz").await.contains("waiting"));
        first.stop().await;
        let second = MetricsServer::start(None, at, metrics.registry().clone(), Arc::new(|| Ok(()))).await;
        let second = second.unwrap();
        assert!(ask(second.address(), "GET /readyz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let (first, metrics) = server(Arc::new(|| Ok(()))).await;
        let second = MetricsServer::start(None, first.address(), metrics.registry().clone(), Arc::new(|| Ok(()))).await;
        assert!(matches!(second, Err(StartError::PortInUse { .. })));
    }
}
