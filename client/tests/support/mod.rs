//! A server that does what a test tells it to: it answers, refuses, loses answers, breaks streams. It keeps what it saw.

use fulcrum_client::{Level, Mode, NodeId, Receipt, Refusal, Role, StalenessBasis};
use fulcrum_common::keyspace::KeyspaceOptions;
use fulcrum_common::map::{ClusterId, ClusterMap, NodeInfo};
use fulcrum_common::routing::{Primary, View};
use fulcrum_common::wire::batch::{PipelineRequest, PipelineResponse};
use fulcrum_common::wire::v1::admin_server::{Admin, AdminServer};
use fulcrum_common::wire::v1::kv_server::{Kv, KvServer};
use fulcrum_common::wire::v1::transactions_server::TransactionsServer;
use fulcrum_common::wire::{map, status, v1};
use fulcrum_types::{Epoch, GroupId, Index, MapVersion};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};
use transactions::Transacting;

pub mod transactions;

/// What to do with the next request. Without one: answer.
#[derive(Clone, Debug)]
pub enum Reaction {
    /// Do it and answer.
    Answer,
    /// Do not do it; say why.
    Refuse(Refusal),
    /// Do it and lose the answer. In a pipeline: break the stream.
    Lose,
    /// Do not do it, and let the connection break.
    Vanish,
    /// Do it and never answer.
    Hang,
}

impl Reaction {
    fn applies(&self) -> bool {
        !matches!(self, Reaction::Refuse(_) | Reaction::Vanish)
    }
}

/// The server's state, shared with the test.
#[derive(Default)]
pub struct State {
    pub reactions: VecDeque<Reaction>,
    pub values: BTreeMap<Vec<u8>, Vec<u8>>,
    pub index: u64,
    /// Index at which each write (client, sequence) was first applied.
    pub applied: BTreeMap<(u64, u64), u64>,
    /// Keys of all writes as they came in, repetitions too.
    pub writes: Vec<v1::IdempotencyKey>,
    /// Session tokens of all reads as they came in.
    pub sessions: Vec<Option<v1::SessionToken>>,
    /// Watches as they were asked for.
    pub watches: Vec<v1::WatchRequest>,
    /// What each next watch is told before it breaks.
    pub scripts: VecDeque<Vec<v1::WatchResponse>>,
    pub requests: usize,
    pub opened: u64,
    pub transactions: Transacting,
}

#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    pub node: u64,
    map: Arc<watch::Sender<v1::ClusterMap>>,
}

impl Fake {
    pub fn new(node: u64) -> Self {
        let empty = ClusterMap::new(ClusterId::new("fake").unwrap());
        let wire = map::view_to_wire(&View::new(Arc::new(empty)));
        Self {
            state: Arc::default(),
            node,
            map: Arc::new(watch::Sender::new(wire)),
        }
    }

    /// Starts it; answers with its address.
    pub async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(KvServer::new(self.clone()))
            .add_service(AdminServer::new(self.clone()))
            .add_service(TransactionsServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    pub fn react(&self, reactions: impl IntoIterator<Item = Reaction>) {
        self.state.lock().unwrap().reactions.extend(reactions);
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Publishes a map with one keyspace `k` of one group, on these nodes, led by one of them.
    pub fn publish(&self, version: u64, nodes: &[(u64, SocketAddr)], primary: u64) {
        let mut map = ClusterMap::new(ClusterId::new("fake").unwrap());
        for (id, address) in nodes {
            let address = address.to_string();
            map.set_node(NodeId(*id), NodeInfo { address, zone: None });
        }
        let mut options = KeyspaceOptions::of(Mode::Sync, u32::try_from(nodes.len()).unwrap());
        options.groups = 1;
        map.add_keyspace("k", options).unwrap();
        let primary = Primary {
            node: NodeId(primary),
            epoch: Epoch(version),
        };
        let map = Arc::new(map.with_version(MapVersion(version)));
        let view = View::with_primaries(map, [(GroupId(1), primary)]);
        self.map.send_replace(map::view_to_wire(&view));
    }

    fn receipt(&self, index: u64) -> v1::Receipt {
        let receipt = Receipt {
            mode: Mode::Sync,
            asked: Level::Linearizable,
            achieved: Level::Linearizable,
            group: GroupId(1),
            replica: NodeId(self.node),
            role: Role::Primary,
            epoch: Epoch(1),
            index: Index(index),
            acknowledged_by: Vec::new(),
            durable: true,
            staleness: Some(Duration::ZERO),
            basis: StalenessBasis::Lease,
            map_version: MapVersion(1),
            rounds: 0,
            elapsed: Duration::from_micros(5),
        };
        receipt.into()
    }

    fn next_reaction(&self) -> Reaction {
        let mut state = self.state.lock().unwrap();
        state.requests += 1;
        state.reactions.pop_front().unwrap_or(Reaction::Answer)
    }

    fn read(&self, request: &v1::GetRequest) -> v1::GetResponse {
        let mut state = self.state.lock().unwrap();
        let session = request.options.as_ref().and_then(|options| options.session.clone());
        state.sessions.push(session);
        let value = state.values.get(request.key.as_ref()).map(|value| v1::Value {
            value: value.clone().into(),
            version: state.index,
            expires_at_ms: 0,
        });
        v1::GetResponse {
            value,
            receipt: Some(self.receipt(state.index)),
        }
    }

    fn write(&self, request: &v1::PutRequest, apply: bool) -> v1::WriteResponse {
        let key = request.idempotency.expect("the client keys every write");
        let mut state = self.state.lock().unwrap();
        state.writes.push(key);
        let index = match state.applied.get(&(key.client, key.sequence)) {
            Some(index) => *index,
            None if apply => {
                state.index += 1;
                let index = state.index;
                state.applied.insert((key.client, key.sequence), index);
                state.values.insert(request.key.to_vec(), request.value.to_vec());
                index
            }
            None => 0,
        };
        let applied = v1::write_outcome::Applied {
            version: index,
            existed: false,
        };
        v1::WriteResponse {
            outcome: Some(v1::WriteOutcome {
                outcome: Some(v1::write_outcome::Outcome::Applied(applied)),
            }),
            receipt: Some(self.receipt(index)),
        }
    }
}

fn lost() -> Status {
    Status::unavailable("the connection was reset")
}

async fn conclude<T>(reaction: Reaction, answer: T) -> Result<T, Status> {
    match reaction {
        Reaction::Answer => Ok(answer),
        Reaction::Refuse(refusal) => Err(status::refusal_to_status(&refusal)),
        Reaction::Lose | Reaction::Vanish => Err(lost()),
        Reaction::Hang => std::future::pending().await,
    }
}

#[tonic::async_trait]
impl Kv for Fake {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let opened = self.with(|state| {
            state.opened += 1;
            state.opened
        });
        Ok(Response::new(v1::OpenSessionResponse {
            client: opened,
            issued_at_ms: 1_000,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let answer = self.read(request.get_ref());
        conclude(self.next_reaction(), Response::new(answer)).await
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let reaction = self.next_reaction();
        let answer = self.write(request.get_ref(), reaction.applies());
        conclude(reaction, Response::new(answer)).await
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn batch_get(&self, _: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn batch_write(&self, _: Request<v1::BatchWriteRequest>) -> Result<Response<v1::BatchWriteResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    type ScanStream = BoxStream<'static, Result<v1::ScanPage, Status>>;

    /// One row a page. [`Reaction::Lose`] breaks the stream behind the first page.
    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        let reaction = self.next_reaction();
        let state = self.state.lock().unwrap();
        let behind = |key: &[u8]| request.resume_token.is_empty() || key > request.resume_token.as_ref();
        let wanted = state
            .values
            .iter()
            .filter(|(key, _)| key.starts_with(&request.prefix) && behind(key));
        let limit = if request.limit == 0 {
            usize::MAX
        } else {
            request.limit as usize
        };
        let rows: Vec<_> = wanted.take(limit).collect();
        let last = rows.len().saturating_sub(1);
        let mut pages: Vec<Result<v1::ScanPage, Status>> = Vec::new();
        for (at, (key, value)) in rows.into_iter().enumerate() {
            let value = v1::Value {
                value: value.clone().into(),
                version: 1,
                expires_at_ms: 0,
            };
            let token = if at == last { Vec::new() } else { key.clone() };
            pages.push(Ok(v1::ScanPage {
                rows: vec![v1::scan_page::Row {
                    key: key.clone().into(),
                    value: Some(value),
                }],
                resume_token: token.into(),
                receipts: vec![self.receipt(state.index)],
            }));
        }
        if pages.is_empty() {
            pages.push(Ok(v1::ScanPage::default()));
        }
        if let Reaction::Lose = reaction {
            pages.truncate(1);
            pages.push(Err(lost()));
        }
        Ok(Response::new(stream::iter(pages).boxed()))
    }

    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    /// Plays the next script, if the test has written one; then breaks.
    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let reaction = self.next_reaction();
        let script = self.with(|state| {
            state.watches.push(request.into_inner());
            state.scripts.pop_front().unwrap_or_default()
        });
        let messages = stream::iter(script.into_iter().map(Ok)).chain(stream::iter([Err(lost())]));
        conclude(reaction, Response::new(messages.boxed())).await
    }

    type PipelineStream = BoxStream<'static, Result<PipelineResponse, Status>>;

    /// Answers each message in reverse order.
    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let fake = self.clone();
        let answers = stream::try_unfold(request.into_inner(), move |mut requests| {
            let fake = fake.clone();
            async move {
                let Some(message) = requests.message().await? else {
                    return Ok(None);
                };
                let mut ops: Vec<_> = message.items().map(Result::unwrap).collect();
                ops.reverse();
                let mut answers = Vec::new();
                for op in ops {
                    answers.extend(fake.pipelined(op)?);
                }
                Ok(Some((answers.into_iter().collect(), requests)))
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn get_outcome(
        &self,
        request: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        use v1::get_outcome_response::State as S;
        let key = request.into_inner().idempotency.unwrap();
        let index = self.with(|state| state.applied.get(&(key.client, key.sequence)).copied());
        let outcome = index.map(|version| v1::WriteOutcome {
            outcome: Some(v1::write_outcome::Outcome::Applied(v1::write_outcome::Applied {
                version,
                existed: false,
            })),
        });
        let state = if outcome.is_some() { S::Known } else { S::NotSeen };
        Ok(Response::new(v1::GetOutcomeResponse {
            state: state.into(),
            outcomes: outcome.into_iter().collect(),
            receipt: Some(self.receipt(1)),
        }))
    }
}

impl Fake {
    fn pipelined(&self, op: v1::PipelineOp) -> Result<Option<v1::PipelineAnswer>, Status> {
        use v1::pipeline_answer::Answer;
        use v1::pipeline_op::Op;
        let reaction = self.next_reaction();
        let answer = match op.op.unwrap() {
            Op::Get(get) => Answer::Get(self.read(&get)),
            Op::Put(put) => Answer::Write(self.write(&put, reaction.applies())),
            Op::Delete(_) => return Err(Status::unimplemented("not needed here")),
        };
        let answer = match reaction {
            Reaction::Answer => answer,
            Reaction::Refuse(refusal) => Answer::Error(Box::new(status::refusal_to_wire(&refusal))),
            Reaction::Lose | Reaction::Vanish => return Err(lost()),
            Reaction::Hang => return Ok(None),
        };
        Ok(Some(v1::PipelineAnswer {
            id: op.id,
            answer: Some(answer),
        }))
    }
}

macro_rules! not_needed {
    ($($method:ident($request:ident) -> $answer:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl Admin for Fake {
            $(async fn $method(&self, _: Request<v1::$request>) -> Result<Response<v1::$answer>, Status> {
                Err(Status::unimplemented("not needed here"))
            })*

            type WatchMapStream = BoxStream<'static, Result<v1::ClusterMap, Status>>;

            async fn watch_map(&self, _: Request<v1::WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
                let maps = WatchStream::new(self.map.subscribe()).map(Ok);
                Ok(Response::new(maps.boxed()))
            }
        }
    };
}
not_needed!(
    create_keyspace(CreateKeyspaceRequest) -> Keyspace,
    list_keyspaces(ListKeyspacesRequest) -> ListKeyspacesResponse,
    get_keyspace(GetKeyspaceRequest) -> Keyspace,
    drop_keyspace(DropKeyspaceRequest) -> DropKeyspaceResponse,
    status(StatusRequest) -> StatusResponse,
    failover_report(FailoverReportRequest) -> FailoverReportResponse,
    promote(PromoteRequest) -> PromoteResponse,
    force_start(ForceStartRequest) -> ForceStartResponse,
    drain_node(DrainNodeRequest) -> DrainNodeResponse,
    placement(PlacementRequest) -> PlacementSettings,
    create_token(CreateTokenRequest) -> CreateTokenResponse,
    list_tokens(ListTokensRequest) -> ListTokensResponse,
    set_token_rights(SetTokenRightsRequest) -> Token,
    revoke_token(RevokeTokenRequest) -> RevokeTokenResponse,
);
