//! The public key-value API at the router's door: decode, find the group, dispatch, encode.

use crate::batch;
use crate::dispatch::{Dispatch, Order};
use crate::order;
use crate::pipeline;
use crate::scan;
use crate::watch::{self, Watches};
use fulcrum_common::Keyspace;
use fulcrum_common::auth::Caller;
use fulcrum_common::lifecycle::Lifecycle;
use fulcrum_common::routing::{View, understood};
use fulcrum_common::trace::{self, Kind, Span};
use fulcrum_common::wire::batch::{PipelineRequest, PipelineResponse};
use fulcrum_common::wire::rights::permitted;
use fulcrum_common::wire::shard::Reply;
use fulcrum_common::wire::{self, status, timeout, v1};
use fulcrum_types::{Answer, Answered, MapVersion, Receipt, RecordedOutcome, Refusal};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const PAGES_AHEAD: usize = 2;

/// The `Kv` service.
#[derive(Clone)]
pub(crate) struct KvService {
    pub(crate) dispatch: Arc<Dispatch>,
    /// For requests that bring no deadline.
    pub(crate) default_deadline: Duration,
    /// The open watches.
    pub(crate) watches: Watches,
    /// Streams end when it stops.
    pub(crate) life: Lifecycle,
}

/// When an answer must leave: by the client's `grpc-timeout`, else by the default.
pub(crate) fn until<T>(request: &Request<T>, default: Duration) -> Instant {
    Instant::now() + timeout::asked(request).map_or(default, timeout::in_time)
}

impl KvService {
    /// The keyspace of that name by the view in force.
    pub(crate) fn keyspace(&self, name: &str) -> Result<Arc<Keyspace>, Refusal> {
        order::keyspace(&self.dispatch.table.view(), name).cloned()
    }

    /// A session that has seen a newer map than ours waits until we have it, and is routed by that (rule 8).
    pub(crate) async fn catch_up(&self, seen: MapVersion, until: Instant) -> Result<(), Refusal> {
        self.dispatch.table.catch_up(seen, until).await
    }

    /// A unary call, from its order to its answer.
    async fn call<T>(
        &self,
        seen: MapVersion,
        until: Instant,
        span: Span,
        order: impl FnOnce(&View) -> Result<Order, Refusal>,
        answer: fn(Reply) -> Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        let answered = async {
            self.catch_up(seen, until).await?;
            let order = order(&self.dispatch.table.view())?;
            self.dispatch.run(order, span.context()).await.and_then(answer)
        };
        let result = answered.await;
        end(span, result)
    }
}

/// The newest map that a session has seen.
pub(crate) fn map_seen(session: Option<&v1::SessionToken>) -> MapVersion {
    session.map_or(MapVersion::ZERO, |token| MapVersion(token.map_version))
}

/// The newest map that the session of a read has seen.
pub(crate) fn map_read(options: Option<&v1::ReadOptions>) -> MapVersion {
    map_seen(options.and_then(|options| options.session.as_ref()))
}

/// The answer to a read or write of one key, as the shard-node encoded it.
fn one_key_response<T: Message + Default>(reply: Reply) -> Result<T, Refusal> {
    let decoded = match reply {
        Reply::PassedOn { message, .. } => T::decode(message).map_err(|error| error.to_string()),
        other => return Err(misplaced(&other)),
    };
    decoded.map_err(|error| Refusal::Unknown {
        reason: format!("the shard-node's answer makes no sense: {error}"),
    })
}

fn outcome_response(reply: Reply) -> Result<v1::GetOutcomeResponse, Refusal> {
    use v1::get_outcome_response::State;
    let answered = understood(reply)?;
    let (state, outcomes) = match answered.answer {
        Answer::Outcome(RecordedOutcome::Known(outcomes)) => (State::Known, outcomes),
        Answer::Outcome(RecordedOutcome::NotSeen) => (State::NotSeen, Vec::new()),
        Answer::Outcome(RecordedOutcome::TooOld) => (State::TooOld, Vec::new()),
        other => return Err(unexpected(&other)),
    };
    Ok(v1::GetOutcomeResponse {
        state: state.into(),
        outcomes: outcomes.into_iter().map(Into::into).collect(),
        receipt: Some(answered.receipt.into()),
    })
}

/// Outcomes and proof of a write.
pub(crate) fn written(answered: Answered) -> Result<(Vec<fulcrum_types::WriteOutcome>, Receipt), Refusal> {
    match answered.answer {
        Answer::Written(outcomes) => Ok((outcomes, answered.receipt)),
        other => Err(unexpected(&other)),
    }
}

/// An answer of another kind than was asked for.
pub(crate) fn misplaced(reply: &Reply) -> Refusal {
    match reply {
        Reply::Answered(answered) => unexpected(&answered.answer),
        Reply::PassedOn { .. } | Reply::PassedOnMany { .. } => Refusal::Unknown {
            reason: "the shard-node's answer is not to as many keys as it was asked for".into(),
        },
    }
}

pub(crate) fn unexpected(answer: &Answer) -> Refusal {
    let kind = match answer {
        Answer::Values(_) => "values",
        Answer::Rows { .. } => "rows",
        Answer::Changes { .. } => "changes",
        Answer::Written(_) => "write outcomes",
        Answer::Joint(_) => "the outcomes of a joint",
        Answer::Outcome(_) => "a recorded outcome",
        Answer::Transaction(_) => "a step of a transaction",
        Answer::Cut(_) => "a step of a cut",
    };
    Refusal::Unknown {
        reason: format!("the shard-node answered with {kind}, which was not asked"),
    }
}

/// The span of a call: under the caller's, or perhaps the first of a trace.
fn begin<T>(request: &Request<T>, name: &'static str, method: &'static str) -> Span {
    let mut span = trace::begin(Kind::Server, name, wire::trace::from_metadata(request.metadata()));
    span.set_rpc("fulcrum.v1.Kv", method);
    span
}

/// The answer to a call, with its trace if that is recorded.
fn end<T>(span: Span, result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    let context = span.context();
    span.end(result.as_ref().err());
    wire::trace::told_in(context, reply(result))
}

fn reply<T>(result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    result
        .map(Response::new)
        .map_err(|refusal| status::refusal_to_status(&refusal))
}

#[tonic::async_trait]
impl v1::kv_server::Kv for KvService {
    /// Anybody's whom the gate lets in: a number is of no use by itself.
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let (client, issued_at_ms) = self.dispatch.identity.for_client();
        Ok(Response::new(v1::OpenSessionResponse {
            client: client.0,
            issued_at_ms,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let span = begin(&request, "fulcrum.v1.Kv/Get", "Get");
        let until = until(&request, self.default_deadline);
        let request = permitted(request)?;
        let seen = map_read(request.options.as_ref());
        self.call(
            seen,
            until,
            span,
            |view| order::get(view, request, until),
            one_key_response,
        )
        .await
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let span = begin(&request, "fulcrum.v1.Kv/Put", "Put");
        let until = until(&request, self.default_deadline);
        let request = permitted(request)?;
        let seen = map_seen(request.session.as_ref());
        self.call(
            seen,
            until,
            span,
            |view| order::put(view, request, until),
            one_key_response,
        )
        .await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let span = begin(&request, "fulcrum.v1.Kv/Delete", "Delete");
        let until = until(&request, self.default_deadline);
        let request = permitted(request)?;
        let seen = map_seen(request.session.as_ref());
        self.call(
            seen,
            until,
            span,
            |view| order::delete(view, request, until),
            one_key_response,
        )
        .await
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetResponse>, Status> {
        let span = begin(&request, "fulcrum.v1.Kv/BatchGet", "BatchGet");
        let until = until(&request, self.default_deadline);
        let result = batch::get(self, permitted(request)?, until, span.context()).await;
        end(span, result)
    }

    async fn batch_write(
        &self,
        request: Request<v1::BatchWriteRequest>,
    ) -> Result<Response<v1::BatchWriteResponse>, Status> {
        let span = begin(&request, "fulcrum.v1.Kv/BatchWrite", "BatchWrite");
        let until = until(&request, self.default_deadline);
        let result = batch::write(self, permitted(request)?, until, span.context()).await;
        end(span, result)
    }

    type ScanStream = ReceiverStream<Result<v1::ScanPage, Status>>;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let span = begin(&request, "fulcrum.v1.Kv/Scan", "Scan");
        let until = until(&request, self.default_deadline);
        let (pages, stream) = mpsc::channel(PAGES_AHEAD);
        let scan = match scan::Scan::new(self.clone(), permitted(request)?, until) {
            Ok(scan) => scan,
            Err(refusal) => return end(span, Err(refusal)),
        };
        let context = span.context();
        tokio::spawn(scan.under(span).run(pages));
        wire::trace::told_in(context, Ok(Response::new(ReceiverStream::new(stream))))
    }

    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        // Of its opening: nobody knows when it ends, and what comes then is no answer to this call.
        let span = begin(&request, "fulcrum.v1.Kv/Watch", "Watch");
        let ends = timeout::asked(&request).map(|time| Instant::now() + time);
        let opened = watch::open(self, permitted(request)?, ends, span.context()).await;
        end(span, opened)
    }

    type PipelineStream = BoxStream<'static, Result<PipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let caller = Caller::of(&request)?;
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(pipeline::serve(self.clone(), caller, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    async fn get_outcome(
        &self,
        request: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        let span = begin(&request, "fulcrum.v1.Kv/GetOutcome", "GetOutcome");
        let until = until(&request, self.default_deadline);
        let request = permitted(request)?;
        let order = |view: &View| order::outcome(view, request, until);
        self.call(MapVersion::ZERO, until, span, order, outcome_response).await
    }
}
