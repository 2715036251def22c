//! Serves many calls on one stream: one task for all of them, answers in messages of what has come up together.
//!
//! The stream is read on only while few enough calls are under way, and while the client reads answers. If the client goes away, its reads
//! end and its commits go on, as those of single calls do. A service that stops reads no further, answers what it has taken in and ends the
//! stream: the client goes on at another one.

use crate::service::{TransactionsService, begin};
use fulcrum_common::auth::Caller;
use fulcrum_common::limits;
use fulcrum_common::wire::batch::{
    ANSWER_BYTES, BatchBuilder, TransactionPipelineRequest, TransactionPipelineResponse,
};
use fulcrum_common::wire::v1::transaction_answer::Answer;
use fulcrum_common::wire::v1::transaction_call::Call;
use fulcrum_common::wire::{self, status, v1};
use fulcrum_types::Refusal;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Calls of one stream that may be under way at once; it is not read further beyond it.
const UNDER_WAY: usize = 4096;

/// Serves one stream to its end.
pub(crate) async fn serve(
    service: TransactionsService,
    caller: Caller,
    mut requests: Streaming<TransactionPipelineRequest>,
    answers: mpsc::Sender<Result<TransactionPipelineResponse, Status>>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut ready = BatchBuilder::of_at_most(ANSWER_BYTES);
    let mut open = true;
    let life = service.life().clone();
    let mut stopped = pin!(life.stopped());
    while open || !under_way.is_empty() {
        tokio::select! {
            Some(answer) = under_way.next() => {
                ready.push(&answer);
                while let Some(Some(answer)) = under_way.next().now_or_never() {
                    ready.push(&answer);
                }
                while !ready.is_empty() {
                    if answers.send(Ok(ready.take())).await.is_err() {
                        return;
                    }
                }
            }
            message = requests.message(), if open && under_way.len() < UNDER_WAY => match message {
                Ok(Some(batch)) => match calls(batch) {
                    Ok(calls) => under_way.extend(calls.into_iter().map(|call| service.carry_out(&caller, call))),
                    Err(refusal) => {
                        let _ = answers.send(Err(status::refusal_to_status(&refusal))).await;
                        return;
                    }
                },
                Ok(None) => open = false,
                Err(_) => return,
            },
            () = &mut stopped, if open => open = false,
        }
    }
}

fn calls(batch: TransactionPipelineRequest) -> Result<Vec<v1::TransactionCall>, Refusal> {
    let (count, most) = (batch.count(), limits::MAX_BATCH_OPS);
    if count > most {
        let reason = format!("{count} calls in one message, at most {most} may be: split it");
        return Err(Refusal::Invalid { reason });
    }
    batch.items().map(|call| Ok(call?)).collect()
}

impl TransactionsService {
    async fn carry_out(&self, caller: &Caller, call: v1::TransactionCall) -> v1::TransactionAnswer {
        let asked = (call.deadline_ms > 0).then(|| Duration::from_millis(call.deadline_ms.into()));
        let until = self.until(asked);
        let asked_by = wire::trace::from_wire(&call.trace);
        let answer = match call.call {
            Some(Call::Read(read)) => {
                let span = begin("Read", asked_by);
                let answer = self.read_by(caller, read, until, span.context()).await;
                span.end(answer.as_ref().err());
                answer.map(Answer::Read)
            }
            Some(Call::Commit(commit)) => {
                let span = begin("Commit", asked_by);
                let answer = self.commit_by(caller, commit, until, span.context()).await;
                span.end(answer.as_ref().err());
                answer.map(Answer::Commit)
            }
            None => Err(Refusal::Invalid {
                reason: "call is missing".into(),
            }),
        };
        let answer = answer.unwrap_or_else(|refusal| Answer::Error(Box::new(status::refusal_to_wire(&refusal))));
        v1::TransactionAnswer {
            id: call.id,
            answer: Some(answer),
        }
    }
}
