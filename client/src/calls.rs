//! Reads and commits of transactions, of all callers on one stream to a router.
//!
//! A call by itself costs client and router as much as all the rest that they do for it; on a stream, calls that come up together share
//! messages. The stream is opened when first needed, and again when it has broken. Nothing is sent before the router has accepted it: one
//! that did not open has carried nothing. One that breaks answers all that was given to it with [`Failure::Lost`]; what is tried again,
//! where and for how long is for [`retry`](crate::retry) to say. Whoever stops waiting is not told to the router: a read goes on
//! until its deadline, and a commit would anyhow.

use crate::rpc;
use crate::transport::Transport;
use fulcrum_common::routing::Failure;
use fulcrum_common::tickets::Tickets;
use fulcrum_common::wire::batch::{BatchBuilder, TransactionPipelineRequest, TransactionPipelineResponse};
use fulcrum_common::wire::trace::to_wire;
use fulcrum_common::wire::v1::transaction_answer::Answer;
use fulcrum_common::wire::v1::transaction_call::Call;
use fulcrum_common::wire::{Malformed, status, v1};
use fulcrum_types::{Refusal, TraceContext};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Calls that may wait to be taken.
const QUEUE: usize = 1024;
/// Calls that may be given to the stream and not answered.
const UNDER_WAY: usize = 4096;
/// No more calls are taken while so many bytes wait to be sent.
const WAITING_BYTES: usize = 2 * 1024 * 1024;
/// Messages that may wait inside the transport.
const MESSAGES_AHEAD: usize = 4;
/// For a router to accept the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

type Outcome = Result<Answer, Failure>;

/// The stream to one router, and the task that keeps it, once there is anything to ask.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    queue: Mutex<Option<mpsc::Sender<Asked>>>,
}

#[derive(Debug)]
struct Asked {
    call: Call,
    until: Instant,
    trace: Option<TraceContext>,
    reply: oneshot::Sender<Outcome>,
}

impl Calls {
    /// Asks once, with so much time left, on behalf of a span if its trace is recorded.
    pub(crate) async fn ask(
        &self,
        router: &Transport,
        call: Call,
        left: Duration,
        trace: Option<TraceContext>,
    ) -> Outcome {
        let (reply, answered) = oneshot::channel();
        let until = Instant::now() + left;
        let asked = Asked {
            call,
            until,
            trace,
            reply,
        };
        let queue = self.queue(router);
        let exchange = async {
            if queue.send(asked).await.is_err() {
                return Err(Failure::NotSent("the stream's task has ended".into()));
            }
            answered
                .await
                .unwrap_or_else(|_| Err(Failure::Lost("the stream's task has ended".into())))
        };
        tokio::time::timeout_at(until, exchange)
            .await
            .unwrap_or_else(|_| Err(Failure::Lost("no answer came in time".into())))
    }

    /// The way to the task, begun anew if there is none: it ends with the runtime that it runs on.
    fn queue(&self, router: &Transport) -> mpsc::Sender<Asked> {
        let mut known = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = known.as_ref().filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, asked) = mpsc::channel(QUEUE);
        tokio::spawn(run(router.clone(), asked));
        *known = Some(queue.clone());
        queue
    }
}

/// Keeps a stream open while there is anybody who may ask.
async fn run(router: Transport, mut queue: mpsc::Receiver<Asked>) {
    while let Some(first) = queue.recv().await {
        match open(&router).await {
            Ok((messages, answers)) => {
                let mut stream = Stream::default();
                stream.take(first);
                let failure = stream.exchange(&messages, answers, &mut queue).await;
                stream.lost(&failure);
            }
            Err(failure) => {
                first.tell(Err(failure.clone()));
                while let Ok(waiting) = queue.try_recv() {
                    waiting.tell(Err(failure.clone()));
                }
            }
        }
    }
}

type Opened = (
    mpsc::Sender<TransactionPipelineRequest>,
    Streaming<TransactionPipelineResponse>,
);

async fn open(router: &Transport) -> Result<Opened, Failure> {
    let (messages, outbound) = mpsc::channel(MESSAGES_AHEAD);
    let mut transactions = rpc::transactions(router.clone());
    let opening = transactions.pipeline(ReceiverStream::new(outbound));
    match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
        Ok(Ok(answers)) => Ok((messages, answers.into_inner())),
        Ok(Err(status)) => Err(rpc::not_opened(&status)),
        Err(_) => Err(Failure::NotSent("the stream was not accepted in time".into())),
    }
}

impl Asked {
    fn tell(self, outcome: Outcome) {
        // Whoever asked may have gone.
        let _ = self.reply.send(outcome);
    }
}

/// One life of the stream.
#[derive(Default)]
struct Stream {
    last_id: u64,
    under_way: Tickets<oneshot::Sender<Outcome>>,
    message: BatchBuilder<v1::TransactionCall>,
}

impl Stream {
    /// Until it breaks: how. Or until nobody can ask any more.
    async fn exchange(
        &mut self,
        messages: &mpsc::Sender<TransactionPipelineRequest>,
        mut answers: Streaming<TransactionPipelineResponse>,
        queue: &mut mpsc::Receiver<Asked>,
    ) -> String {
        loop {
            tokio::select! {
                received = answers.message() => match received {
                    Ok(Some(message)) => if let Err(malformed) = self.answered(message) {
                        return malformed.to_string();
                    },
                    Ok(None) => return "the router closed the stream".into(),
                    // Whatever it says, it does not say what became of each call.
                    Err(status) => return status.message().to_owned(),
                },
                permit = messages.reserve(), if !self.message.is_empty() => match permit {
                    Ok(permit) => permit.send(self.message.take()),
                    Err(_) => return "the stream broke".into(),
                },
                asked = queue.recv(), if self.has_room() => {
                    let Some(asked) = asked else {
                        return "the client is gone".into();
                    };
                    self.take(asked);
                    while self.has_room() && let Ok(asked) = queue.try_recv() {
                        self.take(asked);
                    }
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.under_way.len() < UNDER_WAY && self.message.bytes() < WAITING_BYTES
    }

    fn take(&mut self, asked: Asked) {
        if asked.reply.is_closed() {
            return;
        }
        let left = asked.until.saturating_duration_since(Instant::now());
        // A time of 0 would stand for the router's own.
        let left = left.as_micros().div_ceil(1000).max(1);
        self.last_id += 1;
        self.message.push(&v1::TransactionCall {
            id: self.last_id,
            call: Some(asked.call),
            deadline_ms: u32::try_from(left).unwrap_or(u32::MAX),
            trace: to_wire(asked.trace),
        });
        self.under_way.insert(self.last_id, asked.reply);
    }

    fn answered(&mut self, message: TransactionPipelineResponse) -> Result<(), Malformed> {
        for answer in message.items() {
            let answer = answer?;
            let Some(reply) = self.under_way.remove(answer.id) else {
                continue;
            };
            let outcome = match answer.answer {
                Some(Answer::Error(error)) => Err(Failure::Refused(status::refusal_from_wire(*error))),
                Some(answer) => Ok(answer),
                None => Err(Failure::Lost("the answer is empty".into())),
            };
            // Whoever asked may have gone.
            let _ = reply.send(outcome);
        }
        Ok(())
    }

    /// What was given to it may or may not have arrived.
    fn lost(&mut self, why: &str) {
        for (_, reply) in self.under_way.extract(|_, _| true) {
            let _ = reply.send(Err(Failure::Lost(why.to_owned())));
        }
    }
}

/// An answer to another question.
pub(crate) fn misplaced() -> Failure {
    Failure::Refused(Refusal::Unknown {
        reason: "the answer is to another question".into(),
    })
}
