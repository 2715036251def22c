//! Calls are answered when their time is up, with a refusal of ours.
//!
//! **The promise.** A call that brings a `grpc-timeout` is answered by then with a typed refusal: `DEADLINE_EXCEEDED` for what changes
//! nothing and for what had no time left when it came, `UNKNOWN` for the rest, which may have been handed on by then.
//!
//! Services answer in good time by themselves ([`timeout::in_time`]); this is for when they are late, on a
//! machine under load. Tonic's server ends such a call by a timer of its own, as `CANCELLED` and without details, and nothing can be put
//! around that. So this stands right inside, without a timer: tonic's wakes the call, asks once more what is inside, and only then looks at
//! the time. The time here began a little earlier, and so is up.
//!
//! **Left out.** What streams send behind the head of their answer: neither tonic nor this bounds that.

use crate::wire::status::refusal_to_status;
use crate::wire::timeout;
use fulcrum_types::Refusal;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::Service;

/// Calls that change nothing. Of any other nobody here knows what it has done.
const READS: &[&str] = &[
    "/fulcrum.v1.Kv/OpenSession",
    "/fulcrum.v1.Kv/Get",
    "/fulcrum.v1.Kv/BatchGet",
    "/fulcrum.v1.Kv/Scan",
    "/fulcrum.v1.Kv/Watch",
    "/fulcrum.v1.Kv/GetOutcome",
    "/fulcrum.v1.Transactions/Read",
    "/fulcrum.v1.Transactions/GetOutcome",
    "/fulcrum.v1.Transactions/ListInDoubt",
    "/fulcrum.v1.Admin/ListKeyspaces",
    "/fulcrum.v1.Admin/GetKeyspace",
    "/fulcrum.v1.Admin/Status",
    "/fulcrum.v1.Admin/WatchMap",
    "/fulcrum.v1.Admin/FailoverReport",
    "/fulcrum.v1.Admin/ListTokens",
    "/fulcrum.internal.v1.Shard/NodeStatus",
    "/fulcrum.internal.v1.Shard/Certificates",
];

/// All services of a port, whose calls are answered in time.
#[derive(Clone, Debug)]
pub struct InTime<S> {
    inner: S,
}

impl<S> InTime<S> {
    /// These.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<http::Request<Body>> for InTime<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let time = timeout::in_headers(request.headers());
        Answering {
            until: time.and_then(|time| Instant::now().checked_add(time)),
            late: too_late(request.uri().path()),
            // It does nothing before it is asked for the first time: tonic's calls are futures.
            begun: false,
            inner: self.inner.call(request),
        }
    }
}

/// What is told of a call that was not answered in time.
fn too_late(path: &str) -> fn() -> Refusal {
    if READS.contains(&path) {
        return || Refusal::DeadlineExceeded;
    }
    || Refusal::Unknown {
        reason: "the deadline passed before it was answered".into(),
    }
}

/// A call on its way to its answer.
pub struct Answering<F> {
    inner: F,
    until: Option<Instant>,
    late: fn() -> Refusal,
    begun: bool,
}

impl<F> Answering<F> {
    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

fn refused(refusal: &Refusal) -> Poll<Result<http::Response<Body>, Infallible>> {
    Poll::Ready(Ok(refusal_to_status(refusal).into_http()))
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !self.begun && self.is_late() {
            return refused(&Refusal::DeadlineExceeded);
        }
        self.begun = true;
        if let Poll::Ready(answered) = Pin::new(&mut self.inner).poll(context) {
            return Poll::Ready(answered);
        }
        if self.is_late() {
            return refused(&(self.late)());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::DESCRIPTORS;
    use crate::wire::status::refusal_from_status;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use prost::Message;
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::server::NamedService;
    use tonic::service::Routes;
    use tonic::transport::Server;
    use tonic::{Code, Status};

    /// A service that answers nothing.
    #[derive(Clone)]
    struct Silent;

    impl NamedService for Silent {
        const NAME: &'static str = "fulcrum.v1.Kv";
    }

    impl Service<http::Request<Body>> for Silent {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Pending<Result<http::Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }

    /// Serves it; HTTP/1 too, so that it can be asked by a client that has no clock.
    async fn serve<S>(services: S) -> SocketAddr
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().accept_http1(true);
        tokio::spawn(async move {
            server
                .serve_with_incoming(services, TcpListenerStream::new(listener))
                .await
        });
        address
    }

    /// What a call with so much time is told.
    async fn told(address: SocketAddr, method: &str, time: &str) -> Status {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /fulcrum.v1.Kv/{method} HTTP/1.1\r\nhost: test\r\ncontent-type: application/grpc\r\n\
             grpc-timeout: {time}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let lines = answer.lines().skip(1).map_while(|line| line.split_once(": "));
        let headers: HeaderMap = lines
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        Status::from_header_map(&headers).unwrap()
    }

    #[tokio::test]
    async fn who_is_late_is_told_by_us_and_not_by_the_server_beneath() {
        let beneath = serve(Routes::new(Silent)).await;
        let status = told(beneath, "Get", "20m").await;
        assert!(
            status.code() == Code::Cancelled && status.details().is_empty(),
            "{status:?}"
        );

        let in_time = serve(InTime::new(Routes::new(Silent))).await;
        for _ in 0..20 {
            let read = told(in_time, "Get", "20m").await;
            assert_eq!(read.code(), Code::DeadlineExceeded);
            assert_eq!(refusal_from_status(&read), Refusal::DeadlineExceeded);
            let write = told(in_time, "Put", "20m").await;
            assert_eq!(write.code(), Code::Unknown);
            let refusal = refusal_from_status(&write);
            assert!(
                matches!(&refusal, Refusal::Unknown { reason } if reason.contains("deadline")),
                "{refusal:?}"
            );
            assert!(!write.details().is_empty());
        }
    }

    #[tokio::test]
    async fn a_write_that_comes_too_late_is_not_begun_and_told_so() {
        let in_time = serve(InTime::new(Routes::new(Silent))).await;
        for _ in 0..20 {
            let write = told(in_time, "Put", "1n").await;
            assert_eq!(refusal_from_status(&write), Refusal::DeadlineExceeded);
        }
    }

    #[test]
    fn reads_are_calls_that_there_are() {
        let described = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let mut calls = BTreeSet::new();
        for file in &described.file {
            for service in &file.service {
                let methods = service.method.iter().map(|method| method.name());
                calls.extend(methods.map(|method| format!("/{}.{}/{method}", file.package(), service.name())));
            }
        }
        for read in READS {
            assert!(calls.contains(*read), "{read}");
        }
    }
}
