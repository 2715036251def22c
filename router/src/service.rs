//! The public key-value API at the router's door: decode, find the group, dispatch, encode.

use crate::batch;
use crate::dispatch::{Dispatch, Order};
use crate::pipeline;
use crate::scan;
use crate::watch::{self, Watches};
use fulcrum_common::Keyspace;
use fulcrum_common::routing::{Kind, understood};
use fulcrum_common::wire::batch::{PipelineRequest, PipelineResponse};
use fulcrum_common::wire::shard::Reply;
use fulcrum_common::wire::{status, timeout, types, v1};
use fulcrum_types::{
    Answer, Answered, GroupId, Level, LogPosition, MapVersion, Mutation, Operation, Query, ReadRequest, Receipt,
    RecordedOutcome, Refusal, SessionToken, WriteOp,
};
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
}

/// How to read, decoded.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) level: Level,
    pub(crate) acceptable: Vec<Level>,
    pub(crate) session: Option<SessionToken>,
}

impl Reading {
    pub(crate) fn request(&self, group: GroupId, query: Query) -> Operation {
        Operation::Read(ReadRequest {
            level: self.level,
            acceptable: self.acceptable.clone(),
            seen: self.seen(group),
            query,
        })
    }

    fn seen(&self, group: GroupId) -> Option<LogPosition> {
        self.session
            .as_ref()
            .and_then(|token| token.groups.get(&group).copied())
    }
}

/// When a request's time is up: the client's `grpc-timeout`, else the default.
pub(crate) fn until<T>(request: &Request<T>, default: Duration) -> Instant {
    Instant::now() + timeout::asked(request).unwrap_or(default)
}

impl KvService {
    /// The keyspace of that name by the view in force.
    pub(crate) fn keyspace(&self, name: &str) -> Result<Arc<Keyspace>, Refusal> {
        let view = self.dispatch.table.view();
        view.map
            .keyspace_by_name(name)
            .cloned()
            .ok_or_else(|| unknown_keyspace(name))
    }

    pub(crate) fn reading(&self, keyspace: &Keyspace, options: Option<v1::ReadOptions>) -> Result<Reading, Refusal> {
        let options = options.unwrap_or_default();
        let level = match options.consistency {
            Some(level) => level.try_into()?,
            None => keyspace.options.default_level,
        };
        let acceptable = options
            .acceptable
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<Vec<Level>, _>>()?;
        Ok(Reading {
            level,
            acceptable,
            session: options.session.map(Into::into),
        })
    }

    /// A session that has seen a newer map than ours waits until we have it, and is routed by that (rule 8).
    pub(crate) async fn catch_up(&self, seen: MapVersion, until: Instant) -> Result<(), Refusal> {
        self.dispatch.table.catch_up(seen, until).await
    }

    /// Whether our map is not older than one that a session has seen.
    pub(crate) fn is_current(&self, seen: MapVersion) -> bool {
        self.dispatch.table.is_current(seen)
    }

    pub(crate) fn get_order(&self, request: v1::GetRequest, until: Instant) -> Result<Order, Refusal> {
        let keyspace = self.keyspace(&request.keyspace)?;
        let reading = self.reading(&keyspace, request.options)?;
        let group = keyspace.group_of(&request.key);
        let operation = reading.request(group, Query::Get(vec![request.key]));
        Ok(Order {
            keyspace,
            group,
            operation,
            kind: Kind::Read(reading.level),
            name: "get",
            until,
            pass_on: true,
        })
    }

    pub(crate) fn put_order(&self, request: v1::PutRequest, until: Instant) -> Result<Order, Refusal> {
        let mutation = Mutation::Put {
            value: request.value,
            ttl: types::ttl(request.ttl_ms),
        };
        let op = WriteOp {
            key: request.key,
            condition: types::condition(request.condition),
            mutation,
        };
        self.write_order(&request.keyspace, op, request.idempotency, request.session, until)
    }

    pub(crate) fn delete_order(&self, request: v1::DeleteRequest, until: Instant) -> Result<Order, Refusal> {
        let op = WriteOp {
            key: request.key,
            condition: types::condition(request.condition),
            mutation: Mutation::Delete,
        };
        self.write_order(&request.keyspace, op, request.idempotency, request.session, until)
    }

    fn write_order(
        &self,
        name: &str,
        op: WriteOp,
        idempotency: Option<v1::IdempotencyKey>,
        session: Option<v1::SessionToken>,
        until: Instant,
    ) -> Result<Order, Refusal> {
        let keyspace = self.keyspace(name)?;
        let group = keyspace.group_of(&op.key);
        let session: Option<SessionToken> = session.map(Into::into);
        let operation = Operation::Write {
            idempotency: idempotency.map(TryInto::try_into).transpose()?,
            seen: session.and_then(|token| token.groups.get(&group).copied()),
            ops: vec![op],
        };
        Ok(Order {
            pass_on: true,
            ..write(keyspace, group, operation, until)
        })
    }

    fn outcome_order(&self, request: v1::GetOutcomeRequest, until: Instant) -> Result<Order, Refusal> {
        let keyspace = self.keyspace(&request.keyspace)?;
        let group = keyspace.group_of(&request.key);
        let key = request.idempotency.ok_or_else(|| Refusal::Invalid {
            reason: "idempotency is missing: which write?".into(),
        })?;
        Ok(Order {
            keyspace,
            group,
            operation: Operation::Outcome(key.try_into()?),
            kind: Kind::Read(Level::Linearizable),
            name: "get_outcome",
            until,
            pass_on: false,
        })
    }

    /// A unary call, from its order to its answer.
    async fn call<T>(
        &self,
        seen: MapVersion,
        until: Instant,
        order: impl FnOnce() -> Result<Order, Refusal>,
        answer: fn(Reply) -> Result<T, Refusal>,
    ) -> Result<Response<T>, Status> {
        let answered = async {
            self.catch_up(seen, until).await?;
            self.dispatch.run(order()?).await.and_then(answer)
        };
        reply(answered.await)
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

/// Writes of one group. The router may send them twice: they carry the client's key, or get the router's own.
pub(crate) fn write(keyspace: Arc<Keyspace>, group: GroupId, operation: Operation, until: Instant) -> Order {
    Order {
        keyspace,
        group,
        operation,
        kind: Kind::Write { safe_twice: true },
        name: "write",
        until,
        pass_on: false,
    }
}

/// The answer to a read or write of one key, as the shard-node encoded it.
fn one_key_response<T: Message + Default>(reply: Reply) -> Result<T, Refusal> {
    let decoded = match reply {
        Reply::PassedOn { message, .. } => T::decode(message).map_err(|error| error.to_string()),
        Reply::Answered(answered) => return Err(unexpected(&answered.answer)),
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

pub(crate) fn unknown_keyspace(name: &str) -> Refusal {
    if name.is_empty() {
        return Refusal::Invalid {
            reason: "keyspace is missing: name one, see `fulcrum keyspace list`".into(),
        };
    }
    Refusal::UnknownKeyspace {
        keyspace: name.to_owned(),
    }
}

pub(crate) fn unexpected(answer: &Answer) -> Refusal {
    let kind = match answer {
        Answer::Values(_) => "values",
        Answer::Rows { .. } => "rows",
        Answer::Changes { .. } => "changes",
        Answer::Written(_) => "write outcomes",
        Answer::Outcome(_) => "a recorded outcome",
        Answer::Transaction(_) => "a step of a transaction",
    };
    Refusal::Unknown {
        reason: format!("the shard-node answered with {kind}, which was not asked"),
    }
}

fn reply<T>(result: Result<T, Refusal>) -> Result<Response<T>, Status> {
    result
        .map(Response::new)
        .map_err(|refusal| status::refusal_to_status(&refusal))
}

#[tonic::async_trait]
impl v1::kv_server::Kv for KvService {
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
        let until = until(&request, self.default_deadline);
        let request = request.into_inner();
        let seen = map_read(request.options.as_ref());
        self.call(seen, until, || self.get_order(request, until), one_key_response)
            .await
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let until = until(&request, self.default_deadline);
        let request = request.into_inner();
        let seen = map_seen(request.session.as_ref());
        self.call(seen, until, || self.put_order(request, until), one_key_response)
            .await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let until = until(&request, self.default_deadline);
        let request = request.into_inner();
        let seen = map_seen(request.session.as_ref());
        self.call(seen, until, || self.delete_order(request, until), one_key_response)
            .await
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetResponse>, Status> {
        let until = until(&request, self.default_deadline);
        reply(batch::get(self, request.into_inner(), until).await)
    }

    async fn batch_write(
        &self,
        request: Request<v1::BatchWriteRequest>,
    ) -> Result<Response<v1::BatchWriteResponse>, Status> {
        let until = until(&request, self.default_deadline);
        reply(batch::write(self, request.into_inner(), until).await)
    }

    type ScanStream = ReceiverStream<Result<v1::ScanPage, Status>>;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let until = until(&request, self.default_deadline);
        let (pages, stream) = mpsc::channel(PAGES_AHEAD);
        let scan = scan::Scan::new(self.clone(), request.into_inner(), until)
            .map_err(|refusal| status::refusal_to_status(&refusal))?;
        tokio::spawn(scan.run(pages));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let ends = timeout::asked(&request).map(|time| Instant::now() + time);
        reply(watch::open(self, request.into_inner(), ends).await)
    }

    type PipelineStream = BoxStream<'static, Result<PipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(pipeline::serve(self.clone(), request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    async fn get_outcome(
        &self,
        request: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        let until = until(&request, self.default_deadline);
        let order = || self.outcome_order(request.into_inner(), until);
        self.call(MapVersion::ZERO, until, order, outcome_response).await
    }
}
