//! Serves pipelines: many small operations on one stream, one task for all of them.
//!
//! An operation is submitted as it comes in and its answer put in the outbox when it comes up; the task sends all that are
//! there in one message. The stream is read on only while few enough are under way, and while the client reads answers.

use crate::order;
use crate::service::{KvService, map_read, map_seen, unexpected};
use fulcrum_common::budget::Budget;
use fulcrum_common::limits;
use fulcrum_common::routing::View;
use fulcrum_common::wire::batch::{
    ANSWER_BYTES, BatchBuilder, PassedOn, PipelineRequest, PipelineResponse, payload_bytes,
};
use fulcrum_common::wire::shard::Reply;
use fulcrum_common::wire::v1::pipeline_op::Op;
use fulcrum_common::wire::{status, v1};
use fulcrum_types::{MapVersion, Refusal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Operations of one pipeline that may be under way at once; the stream is not read further beyond it.
const UNDER_WAY: usize = 4096;
/// Bytes of keys and values that may be under way at once; neither is it then.
const UNDER_WAY_BYTES: usize = 64 * 1024 * 1024;

/// Answers on their way to the client.
struct Outbox {
    answers: Mutex<Answers>,
    filled: Notify,
    budget: Budget,
}

struct Answers {
    batch: BatchBuilder<v1::PipelineAnswer>,
    count: usize,
}

impl Outbox {
    fn deliver(&self, id: u64, kind: PassedOn, result: Result<Reply, Refusal>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(Reply::PassedOn { message, .. }) => answers.batch.pass_on(id, kind, &message),
            Ok(Reply::Answered(answered)) => answers.batch.push(&refused(id, &unexpected(&answered.answer))),
            Err(refusal) => answers.batch.push(&refused(id, &refusal)),
        }
        answers.count += 1;
        let first = answers.count == 1;
        drop(answers);
        if first {
            self.filled.notify_one();
        }
    }

    /// All answers there are, in messages, and how many.
    fn take(&self) -> (Vec<PipelineResponse>, usize) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut messages = Vec::with_capacity(1);
        while !answers.batch.is_empty() {
            messages.push(answers.batch.take());
        }
        (messages, std::mem::take(&mut answers.count))
    }
}

fn refused(id: u64, refusal: &Refusal) -> v1::PipelineAnswer {
    v1::PipelineAnswer {
        id,
        answer: Some(v1::pipeline_answer::Answer::Error(Box::new(status::refusal_to_wire(
            refusal,
        )))),
    }
}

/// Serves one pipeline to its end.
pub(crate) async fn serve(
    service: KvService,
    mut requests: Streaming<PipelineRequest>,
    answers: mpsc::Sender<Result<PipelineResponse, Status>>,
) {
    let outbox = Arc::new(Outbox {
        answers: Mutex::new(Answers {
            batch: BatchBuilder::of_at_most(ANSWER_BYTES),
            count: 0,
        }),
        filled: Notify::new(),
        budget: Budget::new(UNDER_WAY_BYTES),
    });
    let mut under_way = 0;
    let mut open = true;
    while open || under_way > 0 {
        tokio::select! {
            () = outbox.filled.notified() => {
                let (ready, count) = outbox.take();
                under_way -= count;
                for message in ready {
                    if answers.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            }
            message = requests.message(), if open && under_way < UNDER_WAY && !outbox.budget.is_spent() => match message {
                Ok(Some(batch)) => match service.take_in(batch, &outbox) {
                    Ok(count) => under_way += count,
                    Err(refusal) => {
                        let _ = answers.send(Err(status::refusal_to_status(&refusal))).await;
                        return;
                    }
                },
                Ok(None) => open = false,
                Err(_) => return,
            },
        }
    }
}

fn too_many(ops: usize) -> Refusal {
    let most = limits::MAX_BATCH_OPS;
    let reason = format!("{ops} operations in one message, at most {most} may be: split it");
    Refusal::Invalid { reason }
}

impl KvService {
    /// Submits all operations of a message; says how many.
    fn take_in(&self, batch: PipelineRequest, outbox: &Arc<Outbox>) -> Result<usize, Refusal> {
        let count = batch.count();
        if count > limits::MAX_BATCH_OPS {
            return Err(too_many(count));
        }
        let (view, now) = (self.dispatch.table.view(), Instant::now());
        for op in batch.items() {
            self.pipelined(&view, now, op?, outbox);
        }
        Ok(count)
    }

    fn pipelined(&self, view: &View, now: Instant, op: v1::PipelineOp, outbox: &Arc<Outbox>) {
        let id = op.id;
        let until = now
            + match op.deadline_ms {
                0 => self.default_deadline,
                ms => Duration::from_millis(ms.into()),
            };
        let Some(op) = op.op else {
            let reason = "op is missing".into();
            return outbox.deliver(id, PassedOn::Get, Err(Refusal::Invalid { reason }));
        };
        let seen = map_of(&op);
        if view.map.version() >= seen {
            return self.submit(view, now, id, op, until, outbox);
        }
        let (service, outbox) = (self.clone(), outbox.clone());
        tokio::spawn(async move {
            match service.catch_up(seen, until).await {
                Ok(()) => {
                    let view = service.dispatch.table.view();
                    service.submit(&view, Instant::now(), id, op, until, &outbox);
                }
                Err(refusal) => outbox.deliver(id, kind_of(&op), Err(refusal)),
            }
        });
    }

    fn submit(&self, view: &View, now: Instant, id: u64, op: Op, until: Instant, outbox: &Arc<Outbox>) {
        let kind = kind_of(&op);
        let share = outbox.budget.take(payload_bytes(&op));
        let order = match op {
            Op::Get(get) => order::get(view, get, until),
            Op::Put(put) => order::put(view, put, until),
            Op::Delete(delete) => order::delete(view, delete, until),
        };
        match order {
            Ok(order) => {
                let outbox = outbox.clone();
                self.dispatch.submit(view, now, order, move |result| {
                    drop(share);
                    outbox.deliver(id, kind, result);
                });
            }
            Err(refusal) => outbox.deliver(id, kind, Err(refusal)),
        }
    }
}

fn kind_of(op: &Op) -> PassedOn {
    match op {
        Op::Get(_) => PassedOn::Get,
        Op::Put(_) | Op::Delete(_) => PassedOn::Write,
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
