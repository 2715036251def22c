//! The gate before a service: asks who calls before the service sees anything, and ends what runs under a token that is over.
//!
//! It stands before each service by itself, so that where a server is put together one sees what stands open: health and reflection do.

use super::caller::Caller;
use super::guard::{Guard, Shown};
use crate::tls::ConnectionInfo;
use crate::wire::status::refusal_to_status;
use bytes::Bytes;
use fulcrum_types::Refusal;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// A service behind a gate.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    inner: S,
    guard: Arc<Guard>,
    opens_to: OpensTo,
}

#[derive(Clone, Copy, Debug)]
enum OpensTo {
    Clients,
    Services,
}

impl<S> Gate<S> {
    /// Clients come in, with their tokens.
    pub fn for_clients(guard: &Arc<Guard>, inner: S) -> Self {
        let (guard, opens_to) = (guard.clone(), OpensTo::Clients);
        Self { inner, guard, opens_to }
    }

    /// Other services of the cluster come in, and nobody else.
    pub fn for_services(guard: &Arc<Guard>, inner: S) -> Self {
        let (guard, opens_to) = (guard.clone(), OpensTo::Services);
        Self { inner, guard, opens_to }
    }

    fn ask(&self, request: &http::Request<Body>) -> Result<Caller, Refusal> {
        let shown = Shown {
            authorization: request.headers().get(AUTHORIZATION).map(|value| value.as_bytes()),
            peer: peer(request.extensions()),
            path: request.uri().path(),
        };
        match self.opens_to {
            OpensTo::Clients => self.guard.client(&shown),
            OpensTo::Services => self.guard.service(&shown).map(|()| Caller::anyone()),
        }
    }
}

/// Where a call comes from, as far as the connection tells.
fn peer(extensions: &http::Extensions) -> Option<SocketAddr> {
    extensions.get::<ConnectionInfo>()?.peer
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Passing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let caller = match self.ask(&request) {
            Ok(caller) => caller,
            Err(refusal) => return Passing::Refused(Some(refusal_to_status(&refusal).into_http())),
        };
        // Nothing behind the gate has a use for it.
        request.headers_mut().remove(AUTHORIZATION);
        request.extensions_mut().insert(caller.clone());
        if let Some(ends) = caller.ends() {
            let (ends, caller) = (ends.clone(), caller.clone());
            request = request.map(|body| Body::new(Held::new(body, Side::Request, caller, ends)));
        }
        Passing::Served(self.inner.call(request), caller)
    }
}

/// A call on its way through the gate.
pub enum Passing<F> {
    /// Not let in; none once that was told.
    Refused(Option<http::Response<Body>>),
    /// Let in.
    Served(F, Caller),
}

impl<F> Future for Passing<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match &mut *self {
            Passing::Refused(told) => Poll::Ready(Ok(told.take().unwrap_or_default())),
            Passing::Served(serving, caller) => {
                let served = ready!(Pin::new(serving).poll(context));
                let Some(ends) = caller.ends().cloned() else {
                    return Poll::Ready(served);
                };
                let caller = caller.clone();
                Poll::Ready(
                    served
                        .map(|response| response.map(|body| Body::new(Held::new(body, Side::Response, caller, ends)))),
                )
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// One direction of a call, which ends when the caller's token does. Both must: a stream that is only no more answered is still read.
struct Held {
    /// None once it has ended here.
    inner: Option<Body>,
    side: Side,
    caller: Caller,
    ends: CancellationToken,
    /// Waits for that; only once there was nothing to pass on, which most calls never see.
    waiting: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Held {
    fn new(inner: Body, side: Side, caller: Caller, ends: CancellationToken) -> Self {
        Self {
            inner: Some(inner),
            side,
            caller,
            ends,
            waiting: None,
        }
    }

    fn last(&mut self) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        let status = refusal_to_status(&self.caller.farewell());
        if self.side == Side::Request {
            return Poll::Ready(Some(Err(status)));
        }
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(
            status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)),
        ))
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if this.ends.is_cancelled() {
            return this.last();
        }
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let ends = &this.ends;
        let waiting = this
            .waiting
            .get_or_insert_with(|| Box::pin(ends.clone().cancelled_owned()));
        ready!(waiting.as_mut().poll(context));
        this.last()
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // It may end early.
        SizeHint::default()
    }
}
