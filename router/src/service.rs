//! The public key-value API at the router's door: decode, find the group, dispatch, encode.

use crate::batch;
use crate::dispatch::{Dispatch, Target};
use crate::scan;
use fulcrum_common::Keyspace;
use fulcrum_common::limits;
use fulcrum_common::wire::{status, types, v1};
use fulcrum_types::{
    Answer, Answered, Condition, GroupId, Level, LogPosition, Mutation, Operation, Query, ReadRequest, Receipt,
    RecordedOutcome, Refusal, SessionToken, WriteOp,
};
use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Operations of one pipeline that may be under way at once; the stream is not read further beyond it.
const PIPELINE_UNDER_WAY: usize = 1024;
const PAGES_AHEAD: usize = 2;

/// The `Kv` service.
#[derive(Clone)]
pub(crate) struct KvService {
    pub(crate) dispatch: Dispatch,
    /// For requests that bring no deadline.
    pub(crate) default_deadline: Duration,
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
    let asked = request
        .metadata()
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(grpc_timeout);
    Instant::now() + asked.unwrap_or(default)
}

/// The gRPC wire form of a time-out: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.get(..text.len().checked_sub(unit.len_utf8())?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
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

    /// A session that has seen a newer map than ours waits until we have it (rule 8).
    pub(crate) async fn catch_up(&self, session: Option<&SessionToken>, until: Instant) -> Result<(), Refusal> {
        let Some(token) = session else { return Ok(()) };
        let mut changes = self.dispatch.table.changes();
        while self.dispatch.table.view().map.version() < token.map_version {
            if !matches!(tokio::time::timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                let reason = format!(
                    "this router's cluster map is older than the session's ({})",
                    token.map_version
                );
                return Err(Refusal::Unreachable { reason });
            }
        }
        Ok(())
    }

    pub(crate) async fn get(&self, request: v1::GetRequest, until: Instant) -> Result<v1::GetResponse, Refusal> {
        let keyspace = self.keyspace(&request.keyspace)?;
        let reading = self.reading(&keyspace, request.options)?;
        self.catch_up(reading.session.as_ref(), until).await?;
        let target = target(&keyspace, keyspace.group_of(&request.key));
        let operation = reading.request(target.group, Query::Get(vec![request.key]));
        let answered = self
            .dispatch
            .read(target, operation, reading.level, "get", until)
            .await?;
        match answered.answer {
            Answer::Values(values) => Ok(v1::GetResponse {
                value: values.into_iter().next().flatten().map(Into::into),
                receipt: Some(answered.receipt.into()),
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn put(&self, request: v1::PutRequest, until: Instant) -> Result<v1::WriteResponse, Refusal> {
        let mutation = Mutation::Put {
            value: request.value,
            ttl: types::ttl(request.ttl_ms),
        };
        let op = WriteOp {
            key: request.key,
            condition: types::condition(request.condition),
            mutation,
        };
        self.write_one(&request.keyspace, op, request.idempotency, request.session, until)
            .await
    }

    pub(crate) async fn delete(
        &self,
        request: v1::DeleteRequest,
        until: Instant,
    ) -> Result<v1::WriteResponse, Refusal> {
        let condition: Condition = types::condition(request.condition);
        let op = WriteOp {
            key: request.key,
            condition,
            mutation: Mutation::Delete,
        };
        self.write_one(&request.keyspace, op, request.idempotency, request.session, until)
            .await
    }

    async fn write_one(
        &self,
        name: &str,
        op: WriteOp,
        idempotency: Option<v1::IdempotencyKey>,
        session: Option<v1::SessionToken>,
        until: Instant,
    ) -> Result<v1::WriteResponse, Refusal> {
        let keyspace = self.keyspace(name)?;
        let session: Option<SessionToken> = session.map(Into::into);
        self.catch_up(session.as_ref(), until).await?;
        let target = target(&keyspace, keyspace.group_of(&op.key));
        let key = idempotency.map(TryInto::try_into).transpose()?;
        let seen = session.and_then(|token| token.groups.get(&target.group).copied());
        let answered = self.dispatch.write(target, key, seen, vec![op], until).await?;
        let (mut outcomes, receipt) = written(answered)?;
        let outcome = outcomes.pop().map(Into::into);
        Ok(v1::WriteResponse {
            outcome,
            receipt: Some(receipt.into()),
        })
    }

    async fn outcome(&self, request: v1::GetOutcomeRequest, until: Instant) -> Result<v1::GetOutcomeResponse, Refusal> {
        use v1::get_outcome_response::State;
        let keyspace = self.keyspace(&request.keyspace)?;
        let target = target(&keyspace, keyspace.group_of(&request.key));
        let key = request
            .idempotency
            .ok_or_else(|| Refusal::Invalid {
                reason: "idempotency is missing: which write?".into(),
            })?
            .try_into()?;
        let answered = self
            .dispatch
            .read(
                target,
                Operation::Outcome(key),
                Level::Linearizable,
                "get_outcome",
                until,
            )
            .await?;
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

    async fn pipelined(&self, op: v1::pipeline_request::Op) -> v1::pipeline_response::Answer {
        use v1::pipeline_request::op::Op;
        use v1::pipeline_response::answer::Answer as A;
        let deadline = match op.deadline_ms {
            0 => self.default_deadline,
            ms => Duration::from_millis(ms.into()),
        };
        let until = Instant::now() + deadline;
        let result = match op.op {
            Some(Op::Get(get)) => self.get(get, until).await.map(A::Get),
            Some(Op::Put(put)) => self.put(put, until).await.map(A::Write),
            Some(Op::Delete(delete)) => self.delete(delete, until).await.map(A::Write),
            None => Err(Refusal::Invalid {
                reason: "op is missing".into(),
            }),
        };
        let answer = result.unwrap_or_else(|refusal| A::Error(status::refusal_to_wire(&refusal)));
        v1::pipeline_response::Answer {
            id: op.id,
            answer: Some(answer),
        }
    }
}

/// What a group of a keyspace is called, for routing and metrics.
pub(crate) fn target(keyspace: &Keyspace, group: GroupId) -> Target<'_> {
    Target {
        keyspace: keyspace.id,
        name: &keyspace.name,
        mode: keyspace.options.mode,
        group,
    }
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
        Answer::Written(_) => "write outcomes",
        Answer::Outcome(_) => "a recorded outcome",
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
        reply(KvService::get(self, request.into_inner(), until).await)
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let until = until(&request, self.default_deadline);
        reply(KvService::put(self, request.into_inner(), until).await)
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let until = until(&request, self.default_deadline);
        reply(KvService::delete(self, request.into_inner(), until).await)
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

    type PipelineStream = BoxStream<'static, Result<v1::PipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<v1::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(pipeline(self.clone(), request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    async fn get_outcome(
        &self,
        request: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        let until = until(&request, self.default_deadline);
        reply(self.outcome(request.into_inner(), until).await)
    }
}

/// Serves one pipeline in one task: reads on only while few enough operations are under way, and sends in one message
/// all answers that are ready.
async fn pipeline(
    service: KvService,
    mut requests: Streaming<v1::PipelineRequest>,
    answers: mpsc::Sender<Result<v1::PipelineResponse, Status>>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        tokio::select! {
            biased;
            Some(first) = under_way.next(), if !under_way.is_empty() => {
                let mut ready = vec![first];
                while let Some(Some(more)) = futures::FutureExt::now_or_never(under_way.next()) {
                    ready.push(more);
                }
                if answers.send(Ok(v1::PipelineResponse { answers: ready })).await.is_err() {
                    return;
                }
            }
            message = requests.message(), if open && under_way.len() < PIPELINE_UNDER_WAY => match message {
                Ok(Some(batch)) if batch.ops.len() > limits::MAX_BATCH_OPS => {
                    let reason = format!("{} operations in one message, at most {} may be", batch.ops.len(), limits::MAX_BATCH_OPS);
                    let _ = answers.send(Err(status::refusal_to_status(&Refusal::Invalid { reason }))).await;
                    return;
                }
                Ok(Some(batch)) => for op in batch.ops {
                    under_way.push(service.pipelined(op));
                },
                Ok(None) => open = false,
                Err(_) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::grpc_timeout;
    use std::time::Duration;

    #[test]
    fn time_outs_are_read_as_grpc_writes_them() {
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(grpc_timeout("1000000u"), Some(Duration::from_secs(1)));
        for nonsense in ["", "m", "5", "5x", "-5S", "123456789S", "5ß"] {
            assert_eq!(grpc_timeout(nonsense), None, "{nonsense:?}");
        }
    }
}
