//! Connections to routers: one is used until it fails, then the next.

use crate::calls::Calls;
use crate::config::Config;
use crate::error::Error;
use crate::rpc::{self, Unary};
use crate::transport::Transport;
use fulcrum_common::routing::Failure;
use fulcrum_common::wire::trace::into_metadata;
use fulcrum_types::TraceContext;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tonic::Request;

/// All routers that the client may use. Routers keep no state: any of them will do.
#[derive(Debug)]
pub(crate) struct Routers {
    routers: Vec<Router>,
    current: AtomicUsize,
}

#[derive(Debug)]
struct Router {
    address: String,
    channel: Transport,
    calls: Arc<Calls>,
}

/// The router in use, and how to say that it failed.
pub(crate) struct Chosen {
    pub(crate) channel: Transport,
    pub(crate) calls: Arc<Calls>,
    at: usize,
}

impl Routers {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let router = |address: &String| {
            Ok(Router {
                address: address.clone(),
                channel: config.transport(address)?,
                calls: Arc::default(),
            })
        };
        Ok(Self {
            routers: config.routers().iter().map(router).collect::<Result<_, Error>>()?,
            current: AtomicUsize::new(0),
        })
    }

    pub(crate) fn choose(&self) -> Chosen {
        let at = self.current.load(Ordering::Relaxed);
        let router = &self.routers[at % self.routers.len()];
        Chosen {
            channel: router.channel.clone(),
            calls: router.calls.clone(),
            at,
        }
    }

    /// Turns to the next router, unless somebody did so already.
    pub(crate) fn failed(&self, chosen: &Chosen) {
        let next = chosen.at.wrapping_add(1);
        let _ = self
            .current
            .compare_exchange(chosen.at, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn addresses(&self) -> String {
        let addresses: Vec<&str> = self.routers.iter().map(|router| router.address.as_str()).collect();
        addresses.join(", ")
    }
}

/// Sends a request once, with so much time left: the server hears of it, and we give up by it.
pub(crate) async fn attempt<Q: Unary>(
    transport: Transport,
    message: Q,
    left: Duration,
    trace: Option<TraceContext>,
) -> Result<Q::Answer, Failure> {
    let mut request = Request::new(message);
    into_metadata(trace, request.metadata_mut());
    request.set_timeout(in_whole_ms(left));
    match tokio::time::timeout(left, Q::call(transport, request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(rpc::failure(&status)),
        Err(_) => Err(Failure::Lost("no answer came in time".into())),
    }
}

/// Rounded up: first attempts then all say the same, which HTTP/2 sends as one byte.
fn in_whole_ms(left: Duration) -> Duration {
    Duration::from_millis(u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}
