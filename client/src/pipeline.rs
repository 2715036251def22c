//! The fast path: many small requests on one stream, batched on the way.
//!
//! Tasks submit requests and get futures; one background task puts all that is waiting into one message, sends it, and
//! hands the answers out as they come, in any order. When the stream breaks, it opens another, through another router if
//! need be, and sends again what was not answered: reads change nothing, writes carry idempotency keys. Every bound is
//! honoured: the queue, the requests under way, the size of a message, each request's deadline.

use crate::answer::{Got, Written};
use crate::client::{Client, Shared};
use crate::error::{Error, UnfinishedWrite};
use crate::identity::Held;
use crate::keyspace::Choices;
use crate::retry::{Next, Retries, Verdict};
use crate::rpc;
use fulcrum_common::routing::Failure;
use fulcrum_common::wire::v1::pipeline_request::op::Op;
use fulcrum_common::wire::v1::pipeline_response::answer::Answer;
use fulcrum_common::wire::{Malformed, status, v1};
use fulcrum_types::Refusal;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Requests that may wait to be taken.
const QUEUE: usize = 1024;
/// Requests that may be sent and not answered.
const UNDER_WAY: usize = 1024;
/// Most requests in one message.
const BATCH: usize = 256;
/// Most bytes of keys and values in one message, about.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Messages that may wait inside the transport.
const MESSAGES_AHEAD: usize = 4;
/// How often deadlines and pauses are looked at.
const SWEEP: Duration = Duration::from_millis(10);
/// For a router to accept the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

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
    submissions: mpsc::Sender<Submission>,
}

type Replied = Result<Answer, Verdict>;

struct Submission {
    op: Op,
    until: Instant,
    reply: oneshot::Sender<Replied>,
}

impl Pipeline {
    pub(crate) fn start(client: Client) -> Self {
        let (submissions, queue) = mpsc::channel(QUEUE);
        tokio::spawn(Runner::new(client.shared, queue).run());
        Self { submissions }
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
                write: Some(write),
            }),
            finish: written,
        })
    }

    async fn submit(&self, op: Op, until: Instant) -> Result<oneshot::Receiver<Replied>, Error> {
        let (reply, replied) = oneshot::channel();
        let submission = Submission { op, until, reply };
        let submission = match self.submissions.try_send(submission) {
            Ok(()) => return Ok(replied),
            Err(mpsc::error::TrySendError::Full(submission) | mpsc::error::TrySendError::Closed(submission)) => {
                submission
            }
        };
        match tokio::time::timeout_at(until, self.submissions.send(submission)).await {
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
    /// Of a write.
    write: Option<UnfinishedWrite>,
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
        Some(Ok(Answer::Get(wire))) => Got::from_wire(wire)?,
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
        Some(Ok(Answer::Write(wire))) => {
            let written = Written::from_wire(wire, write.idempotency())?;
            asked.choices.observe(&written.receipt);
            return Ok(written);
        }
        Some(Ok(_)) => "a write was answered otherwise".into(),
        Some(Err(Verdict::Unknown(reason))) => reason,
        Some(Err(verdict)) => return Err(verdict.error()),
        None => ended().to_string(),
    };
    Err(Error::Unknown { reason, write })
}

fn ended() -> Error {
    Error::Unreachable {
        reason: "the runtime of the pipeline has ended".into(),
    }
}

/// A request taken from the queue.
struct Taken {
    submission: Submission,
    retries: Retries,
}

impl Taken {
    fn new(submission: Submission) -> Self {
        let write = !matches!(submission.op, Op::Get(_));
        Self {
            submission,
            retries: Retries::new(write),
        }
    }

    fn bytes(&self) -> usize {
        match &self.submission.op {
            Op::Get(request) => request.key.len(),
            Op::Put(request) => request.key.len() + request.value.len(),
            Op::Delete(request) => request.key.len(),
        }
    }

    fn reply(self, replied: Replied) {
        // Whoever asked may have gone.
        let _ = self.submission.reply.send(replied);
    }

    fn expire(mut self, sent: bool) {
        if sent {
            let _ = self.retries.after(Failure::Lost("no answer came in time".into()));
        }
        let verdict = self.retries.out_of_time();
        self.reply(Err(verdict));
    }
}

/// The background task.
struct Runner {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Submission>,
    /// Whether requests may still come.
    open: bool,
    next_id: u64,
    /// To be sent, in order.
    waiting: VecDeque<Taken>,
    /// Refused for the moment: to be sent again at that time.
    paused: Vec<(Instant, Taken)>,
    under_way: HashMap<u64, Taken>,
}

/// Why a stream is given up.
enum Ended {
    /// Nothing is left to do.
    Done,
    /// It broke, or could not be opened.
    Broken(Failure),
}

impl Runner {
    fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Submission>) -> Self {
        Self {
            shared,
            queue,
            open: true,
            next_id: 0,
            waiting: VecDeque::new(),
            paused: Vec::new(),
            under_way: HashMap::new(),
        }
    }

    async fn run(mut self) {
        let mut failed = 0;
        loop {
            if self.idle() {
                match self.queue.recv().await {
                    Some(first) => self.waiting.push_back(Taken::new(first)),
                    None => return,
                }
            }
            let answered_before = self.next_id;
            match self.stream().await {
                Ended::Done => return,
                Ended::Broken(failure) => self.all_failed(failure),
            }
            failed = if self.next_id == answered_before { failed + 1 } else { 1 };
            tokio::time::sleep(self.shared.backoff.pause(failed)).await;
            self.sweep();
        }
    }

    fn idle(&self) -> bool {
        self.waiting.is_empty() && self.paused.is_empty() && self.under_way.is_empty()
    }

    /// One life of a stream.
    async fn stream(&mut self) -> Ended {
        let chosen = self.shared.routers.choose();
        let (messages, outbound) = mpsc::channel(MESSAGES_AHEAD);
        let mut kv = rpc::kv(chosen.channel.clone());
        let opening = kv.pipeline(ReceiverStream::new(outbound));
        let failure = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(answers)) => match self.exchange(messages, answers.into_inner()).await {
                Ended::Done => return Ended::Done,
                Ended::Broken(failure) => failure,
            },
            Ok(Err(status)) => Failure::NotSent(status.message().to_owned()),
            Err(_) => Failure::NotSent("the router did not accept the stream in time".into()),
        };
        self.shared.routers.failed(&chosen);
        Ended::Broken(failure)
    }

    async fn exchange(
        &mut self,
        messages: mpsc::Sender<v1::PipelineRequest>,
        mut answers: Streaming<v1::PipelineResponse>,
    ) -> Ended {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut taken = Vec::with_capacity(BATCH);
        while self.open || !self.idle() {
            let room = self.under_way.len() + self.waiting.len() < UNDER_WAY;
            let busy = !self.idle();
            tokio::select! {
                received = answers.message() => match received {
                    Ok(Some(message)) => self.answered(message),
                    Ok(None) => return Ended::Broken(Failure::Lost("the router closed the stream".into())),
                    Err(status) => return Ended::Broken(rpc::failure(&status)),
                },
                permit = messages.reserve(), if !self.waiting.is_empty() => match permit {
                    Ok(permit) => permit.send(self.message()),
                    Err(_) => return Ended::Broken(Failure::Lost("the stream broke".into())),
                },
                count = self.queue.recv_many(&mut taken, BATCH), if self.open && room => {
                    self.open = count > 0;
                    self.waiting.extend(taken.drain(..).map(Taken::new));
                }
                _ = sweep.tick(), if busy => self.sweep(),
            }
        }
        Ended::Done
    }

    /// As much of what is waiting as one message takes.
    fn message(&mut self) -> v1::PipelineRequest {
        let now = Instant::now();
        let mut ops = Vec::with_capacity(self.waiting.len().min(BATCH));
        let mut bytes = 0;
        while ops.len() < BATCH && bytes < BATCH_BYTES {
            let Some(taken) = self.waiting.pop_front() else { break };
            let left = taken.submission.until.saturating_duration_since(now).as_millis();
            if left == 0 {
                taken.expire(false);
                continue;
            }
            self.next_id += 1;
            bytes += taken.bytes();
            ops.push(v1::pipeline_request::Op {
                id: self.next_id,
                op: Some(taken.submission.op.clone()),
                deadline_ms: u32::try_from(left).unwrap_or(u32::MAX),
            });
            self.under_way.insert(self.next_id, taken);
        }
        v1::PipelineRequest { ops }
    }

    fn answered(&mut self, message: v1::PipelineResponse) {
        for answer in message.answers {
            let Some(taken) = self.under_way.remove(&answer.id) else {
                continue;
            };
            match answer.answer {
                Some(Answer::Error(error)) => self.refused(taken, status::refusal_from_wire(error)),
                Some(reply) => taken.reply(Ok(reply)),
                None => self.refused(
                    taken,
                    Refusal::Unknown {
                        reason: "the answer is empty".into(),
                    },
                ),
            }
        }
    }

    fn refused(&mut self, mut taken: Taken, refusal: Refusal) {
        match taken.retries.after(Failure::Refused(refusal)) {
            Next::Fail(verdict) => taken.reply(Err(verdict)),
            Next::Again { .. } => {
                let at = Instant::now() + self.shared.backoff.pause(taken.retries.failed());
                self.paused.push((at, taken));
            }
        }
    }

    /// The stream is gone: what was under way is sent again on the next one, in its old order.
    fn all_failed(&mut self, failure: Failure) {
        let mut under_way: Vec<(u64, Taken)> = self.under_way.drain().collect();
        under_way.sort_unstable_by_key(|(id, _)| *id);
        for (_, mut taken) in under_way.into_iter().rev() {
            match taken.retries.after(failure.clone()) {
                Next::Again { .. } => self.waiting.push_front(taken),
                Next::Fail(verdict) => taken.reply(Err(verdict)),
            }
        }
        if let Failure::NotSent(_) = failure {
            for taken in &mut self.waiting {
                let _ = taken.retries.after(failure.clone());
            }
        }
    }

    /// Ends what is out of time, and takes up what has paused for long enough.
    fn sweep(&mut self) {
        let now = Instant::now();
        let expired = |taken: &Taken| taken.submission.until <= now;
        self.under_way
            .extract_if(|_, taken| expired(taken))
            .for_each(|(_, taken)| taken.expire(true));
        for (at, taken) in std::mem::take(&mut self.paused) {
            if expired(&taken) {
                taken.expire(false);
            } else if at <= now {
                self.waiting.push_back(taken);
            } else {
                self.paused.push((at, taken));
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        for taken in waiting {
            if expired(&taken) {
                taken.expire(false);
            } else {
                self.waiting.push_back(taken);
            }
        }
    }
}
