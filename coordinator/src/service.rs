//! The public API of transactions at the door: decode, take the deadline, hand over, encode.

use crate::coordinator::Coordinator;
use crate::pipeline;
use fulcrum_common::audit::Audit;
use fulcrum_common::auth::{Caller, Verb};
use fulcrum_common::lifecycle::Lifecycle;
use fulcrum_common::limits::MAX_MESSAGE_BYTES;
use fulcrum_common::trace::{self, Kind, Span};
use fulcrum_common::wire::batch::{TransactionPipelineRequest, TransactionPipelineResponse};
use fulcrum_common::wire::rights::Needs;
use fulcrum_common::wire::v1::transactions_server::{Transactions, TransactionsServer};
use fulcrum_common::wire::{self, status, timeout, v1};
use fulcrum_types::{CommitRequest, OutcomeRequest, Refusal, ResolveRequest, TraceContext, TransactionRead};
use serde_json::json;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Messages of a stream that may wait inside the transport.
const MESSAGES_AHEAD: usize = 8;

/// The `Transactions` service.
#[derive(Clone)]
pub struct TransactionsService {
    coordinator: Coordinator,
    audit: Audit,
    default_deadline: Duration,
    life: Lifecycle,
}

impl TransactionsService {
    /// Serves a coordinator, in a service of this life: streams end when it stops. Behind a [`Gate`](fulcrum_common::auth::Gate).
    #[must_use]
    pub fn new(coordinator: Coordinator, audit: Audit, default_deadline: Duration, life: Lifecycle) -> Self {
        Self {
            coordinator,
            audit,
            default_deadline,
            life,
        }
    }

    pub(crate) fn life(&self) -> &Lifecycle {
        &self.life
    }

    /// As a server takes it.
    #[must_use]
    pub fn into_server(self) -> TransactionsServer<Self> {
        TransactionsServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// When an answer must leave: by the time that the client gives, else by the default.
    pub(crate) fn until(&self, asked: Option<Duration>) -> Instant {
        let time = asked.map_or(self.default_deadline, timeout::in_time);
        Instant::now() + time.min(timeout::LONGEST_DEADLINE)
    }

    pub(crate) async fn read_by(
        &self,
        caller: &Caller,
        request: v1::TransactionReadRequest,
        until: Instant,
        trace: Option<TraceContext>,
    ) -> Result<v1::TransactionReadResponse, Refusal> {
        request.check(caller)?;
        let read = TransactionRead::try_from(request)?;
        Ok(self.coordinator.read_traced(read, until, trace).await?.into())
    }

    pub(crate) async fn commit_by(
        &self,
        caller: &Caller,
        request: v1::CommitRequest,
        until: Instant,
        trace: Option<TraceContext>,
    ) -> Result<v1::CommitResponse, Refusal> {
        request.check(caller)?;
        let commit = CommitRequest::try_from(request)?;
        Ok(self.coordinator.commit_traced(commit, until, trace).await?.into())
    }
}

/// The span of a call: under the client's, or perhaps the first of a trace.
pub(crate) fn begin(method: &'static str, asked_by: Option<TraceContext>) -> Span {
    let name = match method {
        "Read" => "fulcrum.v1.Transactions/Read",
        _ => "fulcrum.v1.Transactions/Commit",
    };
    let mut span = trace::begin(Kind::Server, name, asked_by);
    span.set_rpc("fulcrum.v1.Transactions", method);
    span
}

/// The answer to a call, with its trace if that is recorded.
fn respond_in<T>(span: Span, result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    let context = span.context();
    span.end(result.as_ref().err());
    wire::trace::told_in(context, respond(result))
}

fn respond<T>(result: Result<impl Into<T>, Refusal>) -> Result<Response<T>, Status> {
    match result {
        Ok(answer) => Ok(Response::new(answer.into())),
        Err(refusal) => Err(status::refusal_to_status(&refusal)),
    }
}

#[tonic::async_trait]
impl Transactions for TransactionsService {
    async fn read(
        &self,
        request: Request<v1::TransactionReadRequest>,
    ) -> Result<Response<v1::TransactionReadResponse>, Status> {
        let until = self.until(timeout::asked(&request));
        let caller = Caller::of(&request)?;
        let span = begin("Read", wire::trace::from_metadata(request.metadata()));
        let result = self.read_by(&caller, request.into_inner(), until, span.context()).await;
        respond_in(span, result)
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Result<Response<v1::CommitResponse>, Status> {
        let until = self.until(timeout::asked(&request));
        let caller = Caller::of(&request)?;
        let span = begin("Commit", wire::trace::from_metadata(request.metadata()));
        let result = self
            .commit_by(&caller, request.into_inner(), until, span.context())
            .await;
        respond_in(span, result)
    }

    type PipelineStream = ReceiverStream<Result<TransactionPipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<TransactionPipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let (answers, outbound) = mpsc::channel(MESSAGES_AHEAD);
        let caller = Caller::of(&request)?;
        tokio::spawn(pipeline::serve(self.clone(), caller, request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn get_outcome(
        &self,
        request: Request<v1::TransactionOutcomeRequest>,
    ) -> Result<Response<v1::TransactionOutcomeResponse>, Status> {
        let until = self.until(timeout::asked(&request));
        let caller = Caller::of(&request)?;
        let outcome = async {
            let request = request.into_inner();
            request.check(&caller)?;
            let wanted = OutcomeRequest::try_from(request)?;
            self.coordinator.outcome(wanted, until).await
        };
        respond(outcome.await)
    }

    async fn list_in_doubt(
        &self,
        request: Request<v1::ListInDoubtRequest>,
    ) -> Result<Response<v1::ListInDoubtResponse>, Status> {
        let until = self.until(timeout::asked(&request));
        let caller = Caller::of(&request)?;
        let list = async {
            let request = request.into_inner();
            request.check(&caller)?;
            self.coordinator.list(request.into(), &caller, until).await
        };
        respond(list.await)
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let until = self.until(timeout::asked(&request));
        let wanted = ResolveRequest::try_from(*request.get_ref());
        let wanted = wanted.map_err(|malformed| status::refusal_to_status(&malformed.into()))?;
        let arguments = json!({"transaction": wanted.id.to_string(), "home_group": wanted.home.0});
        let resolve = async { respond(self.coordinator.resolve(wanted, until).await) };
        self.audit
            .verb(&request, Verb::ResolveTransaction, arguments, None, resolve)
            .await
    }
}
