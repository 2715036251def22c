//! Serves pipelines: many small operations on one stream, one task for all of them.
//!
//! An operation is submitted as it comes in and its answer put in the outbox when it comes up; the task sends all that are
//! there in one message. The stream is read on only while few enough are under way, and while the client reads answers.

use crate::service::{KvService, get_response, map_read, map_seen, write_response};
use fulcrum_common::limits;
use fulcrum_common::wire::v1::pipeline_request::op::Op;
use fulcrum_common::wire::v1::pipeline_response::{Answer, answer::Answer as Reply};
use fulcrum_common::wire::{status, v1};
use fulcrum_types::{Answered, MapVersion, Refusal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Operations of one pipeline that may be under way at once; the stream is not read further beyond it.
const UNDER_WAY: usize = 1024;

/// Answers on their way to the client.
#[derive(Default)]
struct Outbox {
    answers: Mutex<Vec<Answer>>,
    filled: Notify,
}

impl Outbox {
    fn deliver(&self, id: u64, result: Result<Reply, Refusal>) {
        let answer = result.unwrap_or_else(|refusal| Reply::Error(status::refusal_to_wire(&refusal)));
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(Answer {
            id,
            answer: Some(answer),
        });
        let first = answers.len() == 1;
        drop(answers);
        if first {
            self.filled.notify_one();
        }
    }

    fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves one pipeline to its end.
pub(crate) async fn serve(
    service: KvService,
    mut requests: Streaming<v1::PipelineRequest>,
    answers: mpsc::Sender<Result<v1::PipelineResponse, Status>>,
) {
    let outbox = Arc::new(Outbox::default());
    let mut under_way = 0;
    let mut open = true;
    while open || under_way > 0 {
        tokio::select! {
            () = outbox.filled.notified() => {
                let ready = outbox.take();
                under_way -= ready.len();
                if answers.send(Ok(v1::PipelineResponse { answers: ready })).await.is_err() {
                    return;
                }
            }
            message = requests.message(), if open && under_way < UNDER_WAY => match message {
                Ok(Some(batch)) if batch.ops.len() > limits::MAX_BATCH_OPS => {
                    let _ = answers.send(Err(too_many(batch.ops.len()))).await;
                    return;
                }
                Ok(Some(batch)) => {
                    under_way += batch.ops.len();
                    let now = Instant::now();
                    for op in batch.ops {
                        service.pipelined(op, now, &outbox);
                    }
                }
                Ok(None) => open = false,
                Err(_) => return,
            },
        }
    }
}

fn too_many(ops: usize) -> Status {
    let most = limits::MAX_BATCH_OPS;
    let reason = format!("{ops} operations in one message, at most {most} may be: split it");
    status::refusal_to_status(&Refusal::Invalid { reason })
}

impl KvService {
    fn pipelined(&self, op: v1::pipeline_request::Op, now: Instant, outbox: &Arc<Outbox>) {
        let id = op.id;
        let until = now
            + match op.deadline_ms {
                0 => self.default_deadline,
                ms => Duration::from_millis(ms.into()),
            };
        let Some(op) = op.op else {
            let reason = "op is missing".into();
            return outbox.deliver(id, Err(Refusal::Invalid { reason }));
        };
        let seen = map_of(&op);
        if self.is_current(seen) {
            return self.submit(id, op, until, outbox);
        }
        let (service, outbox) = (self.clone(), outbox.clone());
        tokio::spawn(async move {
            match service.catch_up(seen, until).await {
                Ok(()) => service.submit(id, op, until, &outbox),
                Err(refusal) => outbox.deliver(id, Err(refusal)),
            }
        });
    }

    fn submit(&self, id: u64, op: Op, until: Instant, outbox: &Arc<Outbox>) {
        let answer: fn(Answered) -> Result<Reply, Refusal> = match &op {
            Op::Get(_) => got,
            Op::Put(_) | Op::Delete(_) => written,
        };
        let order = match op {
            Op::Get(get) => self.get_order(get, until),
            Op::Put(put) => self.put_order(put, until),
            Op::Delete(delete) => self.delete_order(delete, until),
        };
        match order {
            Ok(order) => {
                let outbox = outbox.clone();
                self.dispatch
                    .submit(order, move |result| outbox.deliver(id, result.and_then(answer)));
            }
            Err(refusal) => outbox.deliver(id, Err(refusal)),
        }
    }
}

/// The newest map that the operation's session has seen.
fn map_of(op: &Op) -> MapVersion {
    match op {
        Op::Get(get) => map_read(get.options.as_ref()),
        Op::Put(put) => map_seen(put.session.as_ref()),
        Op::Delete(delete) => map_seen(delete.session.as_ref()),
    }
}

fn got(answered: Answered) -> Result<Reply, Refusal> {
    get_response(answered).map(Reply::Get)
}

fn written(answered: Answered) -> Result<Reply, Refusal> {
    write_response(answered).map(Reply::Write)
}
