//! The public API for the groups that live on this node: what smart clients speak to.

use super::convert::{self, Frame, Part, PartAnswer};
use super::duplex::{Duplex, Outbox};
use super::{Door, asked_by, respond};
use fulcrum_common::ClusterMap;
use fulcrum_common::auth::Caller;
use fulcrum_common::entropy::random_u64;
use fulcrum_common::limits::MAX_BATCH_OPS;
use fulcrum_common::wire::Malformed;
use fulcrum_common::wire::batch::PipelineRequest;
use fulcrum_common::wire::rights::{Needs, permitted};
use fulcrum_common::wire::status::{refusal_to_status, refusal_to_wire};
use fulcrum_common::wire::trace;
use fulcrum_common::wire::v1::{self, PipelineAnswer};
use fulcrum_types::{Answered, GroupRequest, Mono, Refusal, TraceContext};
use futures::future::join_all;
use futures::stream::BoxStream;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// The `Kv` service.
pub(crate) struct KvService {
    pub(crate) door: Door,
}

impl KvService {
    /// A unary call: to the group's request, to its answer, to the response.
    async fn call<In: Needs, Out>(
        &self,
        request: Request<In>,
        ask: impl FnOnce(&Frame, In) -> Result<GroupRequest, Refusal>,
        answer: fn(Answered) -> Result<Out, Refusal>,
    ) -> Result<Response<Out>, Status> {
        let (deadline, trace) = (self.door.deadline(&request), asked_by(&request));
        let frame = Frame {
            map: self.door.map(),
            deadline,
        };
        let asked = ask(&frame, permitted(request)?);
        let answered = match asked {
            Ok(request) => self.door.ask(request, trace).await,
            Err(refusal) => Err(refusal),
        };
        respond(answered.and_then(answer))
    }

    /// Asks every group of a batch at once. Each part's items come back to their places, or its refusal to all of them.
    async fn call_parts<Item: Clone + Default>(
        &self,
        parts: Vec<Part>,
        trace: Option<TraceContext>,
        answer: fn(Answered) -> PartAnswer<Item>,
        refused: fn(v1::Error) -> Item,
    ) -> (Vec<Item>, Vec<v1::Receipt>) {
        let total = parts.iter().map(|part| part.at.len()).sum();
        let mut items = vec![Item::default(); total];
        let mut receipts = Vec::with_capacity(parts.len());
        let asked = parts.into_iter().map(|Part { at, request }| async move {
            let answered = self.door.ask(request, trace).await;
            (at, answered.and_then(answer))
        });
        for (at, answered) in join_all(asked).await {
            match answered {
                Ok((answers, receipt)) => {
                    receipts.push(receipt);
                    for (at, answer) in at.into_iter().zip(answers) {
                        items[at] = answer;
                    }
                }
                Err(refusal) => {
                    let error = refusal_to_wire(&refusal);
                    for at in at {
                        items[at] = refused(error.clone());
                    }
                }
            }
        }
        (items, receipts)
    }
}

/// Which kind of answer an operation of a pipeline has.
#[derive(Clone, Copy)]
enum Kind {
    Get,
    Write,
}

impl Kind {
    fn answer(self, id: u64, result: Result<Answered, Refusal>) -> PipelineAnswer {
        use v1::pipeline_answer::Answer;
        let answer = result.and_then(|answered| match self {
            Kind::Get => convert::get_response(answered).map(Answer::Get),
            Kind::Write => convert::write_response(answered).map(Answer::Write),
        });
        let answer = answer.unwrap_or_else(|refusal| Answer::Error(Box::new(refusal_to_wire(&refusal))));
        PipelineAnswer {
            id,
            answer: Some(answer),
        }
    }
}

impl Door {
    /// Submits all operations of a message. Each is answered, however small: what may come at once is bounded.
    fn take_in(
        &self,
        caller: &Caller,
        batch: PipelineRequest,
        outbox: &Arc<Outbox<PipelineAnswer>>,
    ) -> Result<(), Malformed> {
        let count = batch.count();
        if count > MAX_BATCH_OPS {
            let reason = format!("{count} operations in one message, at most {MAX_BATCH_OPS} may be: split it");
            return Err(Malformed(reason));
        }
        let (now, map) = (self.clock.now().mono, self.map());
        batch.items().try_for_each(|op| {
            self.pipelined(caller, now, &map, op?, outbox);
            Ok(())
        })
    }

    /// Submits one operation of a pipeline; its answer goes to the outbox.
    fn pipelined(
        &self,
        caller: &Caller,
        now: Mono,
        map: &Arc<ClusterMap>,
        op: v1::PipelineOp,
        outbox: &Arc<Outbox<PipelineAnswer>>,
    ) {
        use v1::pipeline_op::Op;
        let (id, trace) = (op.id, trace::from_wire(&op.trace));
        let frame = Frame {
            map: map.clone(),
            deadline: self.deadline_ms(op.deadline_ms),
        };
        let checked = op.op.as_ref().map_or(Ok(()), |op| op.check(caller));
        let (kind, asked) = match op.op {
            Some(Op::Get(get)) => (Kind::Get, frame.get(get)),
            Some(Op::Put(put)) => (Kind::Write, frame.put(put)),
            Some(Op::Delete(delete)) => (Kind::Write, frame.delete(delete)),
            None => (
                Kind::Get,
                Err(Refusal::Invalid {
                    reason: "op is missing: use get, put or delete".to_owned(),
                }),
            ),
        };
        outbox.expect();
        let to = outbox.clone();
        let reply = Box::new(move |result| to.deliver(&kind.answer(id, result)));
        let submitted = checked
            .and(asked)
            .and_then(|request| self.inbox.submit(request, trace, now, reply));
        if let Err(refusal) = submitted {
            outbox.deliver(&kind.answer(id, Err(refusal)));
        }
    }
}

#[tonic::async_trait]
impl v1::kv_server::Kv for KvService {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let issued_at_ms = self.door.clock.now().wall_ms;
        Ok(Response::new(v1::OpenSessionResponse {
            client: random_u64(),
            issued_at_ms,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        self.call(request, Frame::get, convert::get_response).await
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        self.call(request, Frame::put, convert::write_response).await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        self.call(request, Frame::delete, convert::write_response).await
    }

    async fn get_outcome(
        &self,
        request: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        self.call(request, Frame::outcome, convert::outcome_response).await
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetResponse>, Status> {
        use v1::batch_get_response::{Item, item};
        let (deadline, trace) = (self.door.deadline(&request), asked_by(&request));
        let frame = Frame {
            map: self.door.map(),
            deadline,
        };
        let parts = frame
            .batch_get(permitted(request)?)
            .map_err(|refusal| refusal_to_status(&refusal))?;
        let refused = |error| Item {
            result: Some(item::Result::Error(error)),
        };
        let (items, receipts) = self.call_parts(parts, trace, convert::values, refused).await;
        Ok(Response::new(v1::BatchGetResponse { items, receipts }))
    }

    async fn batch_write(
        &self,
        request: Request<v1::BatchWriteRequest>,
    ) -> Result<Response<v1::BatchWriteResponse>, Status> {
        use v1::batch_write_response::{Item, item};
        let (deadline, trace) = (self.door.deadline(&request), asked_by(&request));
        let frame = Frame {
            map: self.door.map(),
            deadline,
        };
        let parts = frame
            .batch_write(permitted(request)?)
            .map_err(|refusal| refusal_to_status(&refusal))?;
        let refused = |error| Item {
            result: Some(item::Result::Error(error)),
        };
        let (items, receipts) = self.call_parts(parts, trace, convert::outcomes, refused).await;
        Ok(Response::new(v1::BatchWriteResponse { items, receipts }))
    }

    type ScanStream = BoxStream<'static, Result<v1::ScanPage, Status>>;

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let reason = "a shard-node holds only some groups of a keyspace: ask a router to scan".to_owned();
        Err(refusal_to_status(&Refusal::Invalid { reason }))
    }

    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let reason = "a shard-node holds only some groups of a keyspace: ask a router to watch".to_owned();
        Err(refusal_to_status(&Refusal::Invalid { reason }))
    }

    type PipelineStream = Duplex<v1::PipelineOp, PipelineAnswer>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let door = self.door.clone();
        let caller = Caller::of(&request)?;
        Ok(Response::new(Duplex {
            input: request.into_inner(),
            outbox: Outbox::new(),
            take_in: Box::new(move |batch, outbox| door.take_in(&caller, batch, outbox)),
            pause_at: self.door.outstanding_per_stream,
            ended: false,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{Bounds, Inbox};
    use fulcrum_common::{ClusterId, ManualClock};
    use std::time::Duration;
    use tokio::sync::watch;

    /// Of two bytes each, and an answer to each has a hundred.
    fn empty(count: usize) -> PipelineRequest {
        std::iter::repeat_n(v1::PipelineOp::default(), count).collect()
    }

    #[test]
    fn a_message_of_too_many_operations_is_taken_for_nonsense() {
        let bounds = Bounds {
            requests: 1,
            outstanding: 1,
            peer_messages: 1,
        };
        let (_publish, map) = watch::channel(Arc::new(ClusterMap::new(ClusterId::new("test").unwrap())));
        let door = Door {
            inbox: Arc::new(Inbox::new(bounds)),
            map,
            clock: Arc::new(ManualClock::default()),
            default_deadline: Duration::from_secs(1),
            outstanding_per_stream: 1,
        };
        let outbox = Outbox::new();
        let take_in = |count| door.take_in(&Caller::anyone(), empty(count), &outbox);
        assert!(take_in(MAX_BATCH_OPS).is_ok());
        assert!(take_in(MAX_BATCH_OPS + 1).is_err());
    }
}
