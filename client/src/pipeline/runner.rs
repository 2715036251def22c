//! The background task of a lane: batches what waits, sends it, matches the answers by id.

use super::{Replied, Reply};
use crate::client::Shared;
use crate::retry::{Next, Retries};
use crate::rpc;
use fulcrum_common::budget::{Budget, Share};
use fulcrum_common::routing::Failure;
use fulcrum_common::tickets::Tickets;
use fulcrum_common::trace::Span;
use fulcrum_common::wire::batch::{BatchBuilder, PipelineRequest, PipelineResponse, payload_bytes};
use fulcrum_common::wire::trace::to_wire;
use fulcrum_common::wire::v1::pipeline_op::Op;
use fulcrum_common::wire::{Malformed, status, v1};
use fulcrum_types::{NodeId, Refusal};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Requests that may be sent and not answered.
const UNDER_WAY: usize = 4096;
/// Bytes of keys and values that may be sent and not answered, about.
const UNDER_WAY_BYTES: usize = 64 * 1024 * 1024;
/// Most requests in one message.
const BATCH: usize = 256;
/// Most bytes of keys and values in one message, about.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Messages that may wait inside the transport.
const MESSAGES_AHEAD: usize = 4;
/// How often deadlines and pauses are looked at.
const SWEEP: Duration = Duration::from_millis(10);
/// For a server to accept the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// A request taken from the queue. Boxed wherever it waits: it is large, and moves often.
pub(super) struct Taken {
    op: v1::PipelineOp,
    until: Instant,
    reply: oneshot::Sender<Replied>,
    retries: Retries,
    /// What it takes of the lane's budget once the lane has taken it in.
    share: Option<Share>,
    span: Span,
}

impl Taken {
    pub(super) fn new(op: Op, until: Instant, reply: oneshot::Sender<Replied>, span: Span) -> Self {
        let retries = Retries::new(!matches!(op, Op::Get(_)));
        let op = v1::PipelineOp {
            id: 0,
            op: Some(op),
            deadline_ms: 0,
            trace: to_wire(span.context()),
        };
        Self {
            op,
            until,
            reply,
            retries,
            share: None,
            span,
        }
    }

    fn bytes(&self) -> usize {
        self.op.op.as_ref().map_or(0, payload_bytes)
    }

    fn reply(self, replied: Replied) {
        match &replied {
            Ok(_) => self.span.end(None),
            Err(verdict) => verdict.end(self.span),
        }
        // Whoever asked may have gone.
        let _ = self.reply.send(replied);
    }

    fn expire(mut self, sent: bool) {
        if sent {
            let _ = self.retries.after(Failure::Lost("no answer came in time".into()));
        }
        let verdict = self.retries.out_of_time();
        self.reply(Err(verdict));
    }
}

/// Where a lane leads.
pub(super) enum Target {
    /// To a router: whatever fails is tried again here.
    Routers,
    /// To a shard-node: whatever fails goes into the lane through the routers.
    Node(NodeId, mpsc::Sender<Box<Taken>>),
}

/// The background task of a lane.
pub(super) struct Runner {
    shared: Arc<Shared>,
    target: Target,
    queue: mpsc::Receiver<Box<Taken>>,
    /// Whether requests may still come.
    open: bool,
    next_id: u64,
    /// To be sent, in order.
    waiting: VecDeque<Box<Taken>>,
    /// Refused for the moment: to be sent again at that time.
    paused: Vec<(Instant, Box<Taken>)>,
    under_way: Tickets<Box<Taken>>,
    message: BatchBuilder<v1::PipelineOp>,
    budget: Budget,
}

/// Why a stream is given up.
enum Ended {
    /// Nothing is left to do.
    Done,
    /// It broke, or could not be opened.
    Broken(Failure),
}

impl Runner {
    pub(super) fn new(shared: Arc<Shared>, target: Target, queue: mpsc::Receiver<Box<Taken>>) -> Self {
        Self {
            shared,
            target,
            queue,
            open: true,
            next_id: 0,
            waiting: VecDeque::new(),
            paused: Vec::new(),
            under_way: Tickets::default(),
            message: BatchBuilder::default(),
            budget: Budget::new(UNDER_WAY_BYTES),
        }
    }

    pub(super) async fn run(mut self) {
        let mut failed = 0;
        loop {
            if self.idle() {
                match self.queue.recv().await {
                    Some(first) => self.waiting.push_back(first),
                    None => return,
                }
            }
            let answered_before = self.next_id;
            match self.stream().await {
                Ended::Done => return,
                Ended::Broken(failure) => self.all_failed(failure),
            }
            failed = if self.next_id == answered_before { failed + 1 } else { 1 };
            self.pause(self.shared.backoff.pause(failed)).await;
            self.sweep();
        }
    }

    /// Waits before the next attempt to open a stream. Nobody has to wait for a node that cannot be reached.
    async fn pause(&mut self, pause: Duration) {
        let over = tokio::time::sleep(pause);
        let Target::Node(_, routers) = &self.target else {
            return over.await;
        };
        tokio::pin!(over);
        while self.open {
            tokio::select! {
                () = &mut over => return,
                taken = self.queue.recv() => match taken {
                    Some(taken) => pass_on(routers, taken),
                    None => self.open = false,
                },
            }
        }
    }

    fn idle(&self) -> bool {
        self.waiting.is_empty() && self.paused.is_empty() && self.under_way.is_empty()
    }

    /// One life of a stream.
    async fn stream(&mut self) -> Ended {
        let (channel, router) = match &self.target {
            Target::Routers => {
                let chosen = self.shared.routers.choose();
                (chosen.channel.clone(), Some(chosen))
            }
            Target::Node(node, _) => match self.shared.node_channel(*node) {
                Ok(channel) => (channel, None),
                Err(failure) => return Ended::Broken(failure),
            },
        };
        let (messages, outbound) = mpsc::channel(MESSAGES_AHEAD);
        let mut kv = rpc::kv(channel);
        let opening = kv.pipeline(ReceiverStream::new(outbound));
        let failure = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(answers)) => match self.exchange(messages, answers.into_inner()).await {
                Ended::Done => return Ended::Done,
                Ended::Broken(failure) => failure,
            },
            Ok(Err(status)) => rpc::not_opened(&status),
            Err(_) => Failure::NotSent("the stream was not accepted in time".into()),
        };
        if let Some(chosen) = router {
            self.shared.routers.failed(&chosen);
        }
        Ended::Broken(failure)
    }

    async fn exchange(
        &mut self,
        messages: mpsc::Sender<PipelineRequest>,
        mut answers: Streaming<PipelineResponse>,
    ) -> Ended {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut taken = Vec::with_capacity(BATCH);
        while self.open || !self.idle() {
            let room = self.under_way.len() + self.waiting.len() < UNDER_WAY && !self.budget.is_spent();
            let busy = !self.idle();
            tokio::select! {
                received = answers.message() => match received {
                    Ok(Some(message)) => if let Err(malformed) = self.answered(message) {
                        return Ended::Broken(Failure::Lost(malformed.to_string()));
                    },
                    Ok(None) => return Ended::Broken(Failure::Lost("the server closed the stream".into())),
                    Err(status) => return Ended::Broken(rpc::broke(&status)),
                },
                permit = messages.reserve(), if !self.waiting.is_empty() => match permit {
                    Ok(permit) => permit.send(self.message()),
                    Err(_) => return Ended::Broken(Failure::Lost("the stream broke".into())),
                },
                count = self.queue.recv_many(&mut taken, BATCH), if self.open && room => {
                    self.open = count > 0;
                    for mut taken in taken.drain(..) {
                        taken.share = Some(self.budget.take(taken.bytes()));
                        self.waiting.push_back(taken);
                    }
                }
                _ = sweep.tick(), if busy => self.sweep(),
            }
        }
        Ended::Done
    }

    /// As much of what is waiting as one message takes.
    fn message(&mut self) -> PipelineRequest {
        let now = Instant::now();
        let mut count = 0;
        while count < BATCH && self.message.bytes() < BATCH_BYTES {
            let Some(mut taken) = self.waiting.pop_front() else {
                break;
            };
            let left = taken.until.saturating_duration_since(now).as_millis();
            if left == 0 {
                taken.expire(false);
                continue;
            }
            self.next_id += 1;
            count += 1;
            taken.op.id = self.next_id;
            taken.op.deadline_ms = u32::try_from(left).unwrap_or(u32::MAX);
            self.message.push(&taken.op);
            self.under_way.insert(self.next_id, taken);
        }
        self.message.take()
    }

    fn answered(&mut self, message: PipelineResponse) -> Result<(), Malformed> {
        for answer in message.encoded_answers() {
            let answer = answer?;
            let Some(taken) = self.under_way.remove(answer.id) else {
                continue;
            };
            match (answer.get, answer.write, answer.error) {
                (_, _, Some(error)) => self.refused(taken, status::refusal_from_wire(*error)),
                (Some(get), _, None) => taken.reply(Ok(Reply::Get(get))),
                (None, Some(write), None) => taken.reply(Ok(Reply::Write(write))),
                (None, None, None) => self.refused(
                    taken,
                    Refusal::Unknown {
                        reason: "the answer is empty".into(),
                    },
                ),
            }
        }
        Ok(())
    }

    fn refused(&mut self, mut taken: Box<Taken>, refusal: Refusal) {
        if let Next::Fail(verdict) = taken.retries.after(Failure::Refused(refusal)) {
            return taken.reply(Err(verdict));
        }
        if let Target::Node(_, routers) = &self.target {
            return pass_on(routers, taken);
        }
        let at = Instant::now() + self.shared.backoff.pause(taken.retries.failed());
        self.paused.push((at, taken));
    }

    /// The stream is gone: what was under way is sent again on the next one, in its old order.
    fn all_failed(&mut self, failure: Failure) {
        let under_way = self.under_way.extract(|_, _| true);
        for (_, mut taken) in under_way.into_iter().rev() {
            match taken.retries.after(failure.clone()) {
                Next::Again { .. } => self.waiting.push_front(taken),
                Next::Fail(verdict) => taken.reply(Err(verdict)),
            }
        }
        match &failure {
            Failure::NotSent(_) => {
                for taken in &mut self.waiting {
                    let _ = taken.retries.after(failure.clone());
                }
            }
            // It is so for every stream, and was sent on none.
            Failure::Refused(refusal @ Refusal::Unauthenticated) => {
                for taken in std::mem::take(&mut self.waiting) {
                    self.refused(taken, refusal.clone());
                }
            }
            Failure::Refused(_) | Failure::Lost(_) => {}
        }
        if let Target::Node(_, routers) = &self.target {
            self.waiting.drain(..).for_each(|taken| pass_on(routers, taken));
        }
    }

    /// Ends what is out of time, and takes up what has paused for long enough.
    fn sweep(&mut self) {
        let now = Instant::now();
        let expired = |taken: &Taken| taken.until <= now;
        for (_, taken) in self.under_way.extract(|_, taken| expired(taken)) {
            taken.expire(true);
        }
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

/// Puts a request into the lane through the routers; waits for room there if need be, in the background.
fn pass_on(routers: &mpsc::Sender<Box<Taken>>, taken: Box<Taken>) {
    let Err(mpsc::error::TrySendError::Full(taken)) = routers.try_send(taken) else {
        return;
    };
    let routers = routers.clone();
    tokio::spawn(async move {
        let until = taken.until;
        // Out of time, it is dropped: whoever asked hears that it ended without an answer.
        let _ = tokio::time::timeout_at(until, routers.send(taken)).await;
    });
}
