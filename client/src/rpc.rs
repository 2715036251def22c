//! The calls of the API that have one answer, so that retries and routing are written once for all of them.

use crate::calls::misplaced;
use crate::routers::{Chosen, attempt};
use crate::transport::Transport;
use fulcrum_common::limits::MAX_MESSAGE_BYTES;
use fulcrum_common::routing::Failure;
use fulcrum_common::wire::v1::admin_client::AdminClient;
use fulcrum_common::wire::v1::backup_client::BackupClient;
use fulcrum_common::wire::v1::kv_client::KvClient;
use fulcrum_common::wire::v1::transaction_answer::Answer;
use fulcrum_common::wire::v1::transaction_call::Call;
use fulcrum_common::wire::v1::transactions_client::TransactionsClient;
use fulcrum_common::wire::{status, v1};
use fulcrum_types::{Level, Refusal, TraceContext};
use std::error::Error as _;
use std::future::Future;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// A request with its method.
pub(crate) trait Unary: Clone + Send + Sync {
    /// What is answered.
    type Answer: Send;
    /// Whether it changes anything: a lost answer then leaves a doubt.
    const WRITE: bool;
    /// What traces call it, if they are to know of it.
    const SPAN: Option<&'static str> = None;

    /// Sends it.
    fn call(
        channel: Transport,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;

    /// Sends it to a router once, with so much time left, on behalf of a span if its trace is recorded.
    fn ask(
        self,
        router: &Chosen,
        left: Duration,
        trace: Option<TraceContext>,
    ) -> impl Future<Output = Result<Self::Answer, Failure>> + Send {
        attempt(router.channel.clone(), self, left, trace)
    }

    /// What tells which group can serve it, if one group can.
    fn one_key(&self) -> Option<OneKey<'_>> {
        None
    }
}

/// A request for one key, as far as routing goes.
#[derive(Clone, Copy)]
pub(crate) struct OneKey<'a> {
    pub(crate) keyspace: &'a str,
    pub(crate) key: &'a [u8],
    /// Of a read; none is the keyspace's default.
    pub(crate) level: Option<Level>,
    pub(crate) session: Option<&'a v1::SessionToken>,
}

pub(crate) fn kv(channel: Transport) -> KvClient<Transport> {
    KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

pub(crate) fn admin(channel: Transport) -> AdminClient<Transport> {
    AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

pub(crate) fn backup(channel: Transport) -> BackupClient<Transport> {
    BackupClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

pub(crate) fn transactions(channel: Transport) -> TransactionsClient<Transport> {
    TransactionsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

macro_rules! unary {
    ($service:ident.$method:ident($request:ident) -> $answer:ident, write: $write:literal $(; span: $span:literal)? $(, $item:item)?) => {
        impl Unary for v1::$request {
            type Answer = v1::$answer;
            const WRITE: bool = $write;
            $(const SPAN: Option<&'static str> = Some($span);)?

            async fn call(channel: Transport, request: Request<Self>) -> Result<Response<Self::Answer>, Status> {
                $service(channel).$method(request).await
            }

            $($item)?
        }
    };
}

unary!(kv.open_session(OpenSessionRequest) -> OpenSessionResponse, write: false);
unary!(kv.get(GetRequest) -> GetResponse, write: false; span: "fulcrum.v1.Kv/Get",
    fn one_key(&self) -> Option<OneKey<'_>> {
        let options = self.options.as_ref();
        let level = options.and_then(|options| options.consistency);
        Some(OneKey {
            keyspace: &self.keyspace,
            key: &self.key,
            level: level.and_then(|level| level.try_into().ok()),
            session: options.and_then(|options| options.session.as_ref()),
        })
    }
);
unary!(kv.put(PutRequest) -> WriteResponse, write: true; span: "fulcrum.v1.Kv/Put",
    fn one_key(&self) -> Option<OneKey<'_>> {
        Some(OneKey {
            keyspace: &self.keyspace,
            key: &self.key,
            level: None,
            session: self.session.as_ref(),
        })
    }
);
unary!(kv.delete(DeleteRequest) -> WriteResponse, write: true; span: "fulcrum.v1.Kv/Delete",
    fn one_key(&self) -> Option<OneKey<'_>> {
        Some(OneKey {
            keyspace: &self.keyspace,
            key: &self.key,
            level: None,
            session: self.session.as_ref(),
        })
    }
);
unary!(kv.batch_get(BatchGetRequest) -> BatchGetResponse, write: false; span: "fulcrum.v1.Kv/BatchGet");
unary!(kv.batch_write(BatchWriteRequest) -> BatchWriteResponse, write: true; span: "fulcrum.v1.Kv/BatchWrite");
unary!(kv.get_outcome(GetOutcomeRequest) -> GetOutcomeResponse, write: false; span: "fulcrum.v1.Kv/GetOutcome");
unary!(transactions.read(TransactionReadRequest) -> TransactionReadResponse, write: false; span: "fulcrum.v1.Transactions/Read",
    async fn ask(
        self,
        router: &Chosen,
        left: Duration,
        trace: Option<TraceContext>,
    ) -> Result<Self::Answer, Failure> {
        match router.calls.ask(&router.channel, Call::Read(self), left, trace).await? {
            Answer::Read(values) => Ok(values),
            _ => Err(misplaced()),
        }
    }
);
unary!(transactions.commit(CommitRequest) -> CommitResponse, write: true; span: "fulcrum.v1.Transactions/Commit",
    async fn ask(
        self,
        router: &Chosen,
        left: Duration,
        trace: Option<TraceContext>,
    ) -> Result<Self::Answer, Failure> {
        match router.calls.ask(&router.channel, Call::Commit(self), left, trace).await? {
            Answer::Commit(committed) => Ok(committed),
            _ => Err(misplaced()),
        }
    }
);
unary!(transactions.get_outcome(TransactionOutcomeRequest) -> TransactionOutcomeResponse, write: false);
unary!(transactions.list_in_doubt(ListInDoubtRequest) -> ListInDoubtResponse, write: false);
unary!(transactions.resolve(ResolveRequest) -> ResolveResponse, write: false);
unary!(admin.create_keyspace(CreateKeyspaceRequest) -> Keyspace, write: true);
unary!(admin.list_keyspaces(ListKeyspacesRequest) -> ListKeyspacesResponse, write: false);
unary!(admin.get_keyspace(GetKeyspaceRequest) -> Keyspace, write: false);
unary!(admin.drop_keyspace(DropKeyspaceRequest) -> DropKeyspaceResponse, write: true);
unary!(admin.status(StatusRequest) -> StatusResponse, write: false);
unary!(admin.failover_report(FailoverReportRequest) -> FailoverReportResponse, write: false);
unary!(admin.promote(PromoteRequest) -> PromoteResponse, write: true);
unary!(admin.force_start(ForceStartRequest) -> ForceStartResponse, write: true);
unary!(admin.drain_node(DrainNodeRequest) -> DrainNodeResponse, write: true);
unary!(admin.create_token(CreateTokenRequest) -> CreateTokenResponse, write: true);
unary!(admin.list_tokens(ListTokensRequest) -> ListTokensResponse, write: false);
unary!(admin.set_token_rights(SetTokenRightsRequest) -> Token, write: true);
unary!(admin.revoke_token(RevokeTokenRequest) -> RevokeTokenResponse, write: true);
unary!(admin.placement(PlacementRequest) -> PlacementSettings, write: true);
// A cut whose answer was lost lets go of itself.
unary!(backup.begin(BeginCutRequest) -> Cut, write: false);
unary!(backup.keep(KeepCutRequest) -> KeepCutResponse, write: false);
unary!(backup.end(EndCutRequest) -> EndCutResponse, write: false);

/// How an attempt failed, from the status that tonic made of it or that the server sent.
pub(crate) fn failure(status: &Status) -> Failure {
    if never_left(status) {
        return Failure::NotSent(status.message().to_owned());
    }
    match status::refusal_from_status(status) {
        Refusal::Unknown { reason } => Failure::Lost(reason),
        refusal => Failure::Refused(refusal),
    }
}

/// How a stream could not be opened: nothing was sent on it. What is refused for the token is so everywhere; the rest may be better elsewhere.
pub(crate) fn not_opened(status: &Status) -> Failure {
    match status::refusal_from_status(status) {
        refusal @ Refusal::Unauthenticated => Failure::Refused(refusal),
        _ => Failure::NotSent(status.message().to_owned()),
    }
}

/// How a stream that was open broke. That the token is over says nothing of what was sent before.
pub(crate) fn broke(status: &Status) -> Failure {
    match failure(status) {
        Failure::Refused(Refusal::Unauthenticated) => Failure::Lost("the token was revoked or has expired".into()),
        other => other,
    }
}

/// Whether there was no connection to send it on.
fn never_left(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
