//! The tonic edge of a node: decode, submit to the event loop, encode. Wire types stop here.
//!
//! [`kv`] serves smart clients for the groups that live here, [`shard`] routers and operators. Requests on a stream cost no
//! task and no channel each: [`duplex`] submits what comes in and sends what is answered, in batches as they come up.

mod certificates;
mod convert;
mod duplex;
mod kv;
mod shard;

pub(crate) use kv::KvService;
pub(crate) use shard::ShardService;

use crate::event::RequestId;
use crate::inbox::Inbox;
use fulcrum_common::wire::status::refusal_to_status;
use fulcrum_common::wire::{timeout, trace};
use fulcrum_common::{Clock, ClusterMap};
use fulcrum_types::{Answered, GroupRequest, Operation, Refusal, TraceContext};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tonic::{Request, Response, Status};

/// What all services need.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) map: watch::Receiver<Arc<ClusterMap>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) default_deadline: Duration,
    pub(crate) outstanding_per_stream: usize,
}

impl Door {
    fn map(&self) -> Arc<ClusterMap> {
        self.map.borrow().clone()
    }

    /// Asks the node and waits for its answer. Dropped before that, it tells the node that nobody waits any more.
    async fn ask(&self, request: GroupRequest, trace: Option<TraceContext>) -> Result<Answered, Refusal> {
        let writes = matches!(request.operation, Operation::Write { .. } | Operation::Joint(_));
        let (reply, answer) = oneshot::channel();
        let deliver = move |result| {
            // The asker may be gone.
            let _ = reply.send(result);
        };
        let now = self.clock.now().mono;
        let id = self.inbox.submit(request, trace, now, Box::new(deliver))?;
        let mut asking = Asking {
            inbox: &self.inbox,
            id: Some(id),
        };
        let result = answer.await;
        asking.id = None;
        result.unwrap_or_else(|_| {
            let reason = "the node stopped before it answered".to_owned();
            Err(if writes {
                Refusal::Unknown { reason }
            } else {
                Refusal::Stopped { reason }
            })
        })
    }

    /// The time that a unary call has, by its `grpc-timeout`.
    fn deadline<T>(&self, request: &Request<T>) -> Duration {
        let asked = timeout::asked(request);
        asked.map_or(self.default_deadline, |asked| bounded(timeout::in_time(asked)))
    }

    /// The time that an operation on a stream has; 0 means that it brings none.
    fn deadline_ms(&self, ms: u32) -> Duration {
        match ms {
            0 => self.default_deadline,
            ms => bounded(Duration::from_millis(ms.into())),
        }
    }
}

fn bounded(deadline: Duration) -> Duration {
    deadline.min(timeout::LONGEST_DEADLINE)
}

/// A request that somebody waits for.
struct Asking<'a> {
    inbox: &'a Inbox,
    id: Option<RequestId>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.inbox.cancel(id);
        }
    }
}

/// The span that a call comes from, if its trace is recorded. A node begins none: what comes without one comes from who decided so.
fn asked_by<T>(request: &Request<T>) -> Option<TraceContext> {
    trace::from_metadata(request.metadata()).and_then(TraceContext::if_sampled)
}

fn respond<T>(result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|refusal| refusal_to_status(&refusal))
}
