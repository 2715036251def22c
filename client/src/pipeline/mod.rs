//! The fast path: many small requests on few streams, batched on the way.
//!
//! Tasks submit requests and get futures. A request goes into a [`lane`](lanes): of a plain client there is one, through
//! the routers; of a smart one there is one a shard-node as well. In each lane one background task ([`runner`]) puts all
//! that is waiting into one message, sends it, and hands the answers out as they come, in any order.
//!
//! When the stream to a router breaks, the task opens another, through another router if need be, and sends again what was
//! not answered: reads change nothing, writes carry idempotency keys. What a shard-node does not answer goes through the
//! routers, which know what to do. Every bound is honoured: the queues, the requests under way, the size of a message,
//! each request's deadline.

mod lanes;
mod runner;

use crate::answer::{Got, Written};
use crate::client::Client;
use crate::error::{Error, UnfinishedWrite};
use crate::identity::Held;
use crate::keyspace::Choices;
use crate::retry::Verdict;
use bytes::Bytes;
use fulcrum_common::wire::v1::pipeline_op::Op;
use fulcrum_common::wire::{Malformed, v1};
use fulcrum_types::Refusal;
use lanes::Lanes;
use prost::Message;
use runner::Taken;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// A stream for many requests. Clones share it; it ends with the last of them.
///
/// ```no_run
/// use fulcrum_client::Client;
///
/// # async fn example(client: Client) -> Result<(), fulcrum_client::Error> {
/// let pipeline = client.pipeline();
/// let orders = client.keyspace("orders");
/// let mut pending = Vec::new();
/// for n in 0..1000 {
///     pending.push(orders.put(format!("order:{n}"), "new").submit(&pipeline).await?);
/// }
/// for written in pending {
///     assert!(written.await?.applied());
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Pipeline {
    lanes: Arc<Lanes>,
}

/// An answer, encoded as it came: whoever awaits it decodes it.
enum Reply {
    Get(Bytes),
    Write(Bytes),
}

type Replied = Result<Reply, Verdict>;

impl Pipeline {
    pub(crate) fn start(client: Client) -> Self {
        Self {
            lanes: Arc::new(Lanes::new(client.shared)),
        }
    }

    pub(crate) async fn get(
        &self,
        request: v1::GetRequest,
        choices: Choices,
        until: Instant,
    ) -> Result<Pending<Got>, Error> {
        let reply = self.submit(Op::Get(request), until).await?;
        Ok(Pending {
            reply,
            asked: Some(Asked { choices, write: None }),
            finish: got,
        })
    }

    pub(crate) async fn write(
        &self,
        op: Op,
        held: Arc<Held>,
        choices: Choices,
        until: Instant,
    ) -> Result<Pending<Written>, Error> {
        let (keyspace, key) = match &op {
            Op::Get(request) => (&request.keyspace, &request.key),
            Op::Put(request) => (&request.keyspace, &request.key),
            Op::Delete(request) => (&request.keyspace, &request.key),
        };
        let write = UnfinishedWrite {
            keyspace: keyspace.clone(),
            key: key.clone(),
            held,
        };
        let reply = self.submit(op, until).await?;
        Ok(Pending {
            reply,
            asked: Some(Asked {
                choices,
                write: Some(Box::new(write)),
            }),
            finish: written,
        })
    }

    async fn submit(&self, op: Op, until: Instant) -> Result<oneshot::Receiver<Replied>, Error> {
        let (reply, replied) = oneshot::channel();
        let lane = self.lanes.of(&op);
        let span = self.lanes.begin();
        let taken = Box::new(Taken::new(op, until, reply, span));
        let taken = match lane.try_send(taken) {
            Ok(()) => return Ok(replied),
            Err(mpsc::error::TrySendError::Full(taken) | mpsc::error::TrySendError::Closed(taken)) => taken,
        };
        match tokio::time::timeout_at(until, lane.send(taken)).await {
            Ok(Ok(())) => Ok(replied),
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(Error::Refused(Refusal::DeadlineExceeded)),
        }
    }
}

/// A request under way in a pipeline. Await it; dropping it gives up on the answer, not on the request.
#[must_use = "await it for the answer"]
pub struct Pending<T> {
    reply: oneshot::Receiver<Replied>,
    asked: Option<Asked>,
    finish: fn(Asked, Option<Replied>) -> Result<T, Error>,
}

/// What has to be remembered of a request.
struct Asked {
    choices: Choices,
    /// Of a write; boxed, for thousands of these wait at once.
    write: Option<Box<UnfinishedWrite>>,
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.reply).poll(context));
        match self.asked.take() {
            Some(asked) => Poll::Ready((self.finish)(asked, reply.ok())),
            None => Poll::Ready(Err(ended())),
        }
    }
}

fn got(asked: Asked, reply: Option<Replied>) -> Result<Got, Error> {
    let got = match reply {
        Some(Ok(Reply::Get(encoded))) => Got::from_wire(decode(encoded)?)?,
        Some(Ok(_)) => return Err(Malformed("a get was answered otherwise".into()).into()),
        Some(Err(verdict)) => return Err(verdict.error()),
        None => return Err(ended()),
    };
    asked.choices.observe(&got.receipt);
    Ok(got)
}

fn written(asked: Asked, reply: Option<Replied>) -> Result<Written, Error> {
    let write = asked
        .write
        .ok_or_else(|| Malformed("a get was answered as a write".into()))?;
    let reason = match reply {
        Some(Ok(Reply::Write(encoded))) => {
            let written = Written::from_wire(decode(encoded)?, write.idempotency())?;
            asked.choices.observe(&written.receipt);
            return Ok(written);
        }
        Some(Ok(_)) => "a write was answered otherwise".into(),
        Some(Err(Verdict::Unknown(reason))) => reason,
        Some(Err(verdict)) => return Err(verdict.error()),
        None => ended().to_string(),
    };
    Err(Error::Unknown { reason, write: *write })
}

fn decode<M: Message + Default>(encoded: Bytes) -> Result<M, Malformed> {
    M::decode(encoded).map_err(|error| Malformed(error.to_string()))
}

fn ended() -> Error {
    Error::Unreachable {
        reason: "the runtime of the pipeline has ended".into(),
    }
}
