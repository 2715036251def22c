//! A cluster and a client of transactions that is not the client library: what is tested is what the services do.
#![allow(dead_code, reason = "each test file uses a part of it")]

use bytes::Bytes;
use fulcrum_client::{Client, Config, KeyspaceSpec};
use fulcrum_common::limits::MAX_MESSAGE_BYTES;
use fulcrum_common::wire::status::refusal_from_status;
use fulcrum_common::wire::v1;
use fulcrum_common::wire::v1::transactions_client::TransactionsClient;
use fulcrum_common::{Clock, SystemClock};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions, MetricsPorts};
use fulcrum_types::{
    ClientId, CommitOutcome, CommitRequest, Committed, Condition, GroupId, InDoubt, InKeyspace, KeyCondition, KeyWrite,
    ListInDoubt, Mutation, NamedKey, Observed, OutcomeRequest, Priority, ReadCheck, Refusal, ResolveRequest, Sequence,
    Told, TransactionId, TransactionRead, TransactionValues,
};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Request;
use tonic::transport::Channel;

/// Generous: a loaded machine is no bug.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Enough that the keys of the tests fall into several groups.
pub const GROUPS: u32 = 4;

static LAST: AtomicU64 = AtomicU64::new(0);

/// An attempt that begins now.
pub fn attempt() -> TransactionId {
    TransactionId {
        begun_at_ms: SystemClock.now().wall_ms,
        client: ClientId(std::process::id().into()),
        sequence: Sequence(LAST.fetch_add(1, Ordering::Relaxed) + 1),
    }
}

pub fn key(keyspace: &str, key: &str) -> NamedKey {
    InKeyspace {
        keyspace: keyspace.into(),
        what: Bytes::copy_from_slice(key.as_bytes()),
    }
}

pub fn put(keyspace: &str, key: &str, value: &str) -> InKeyspace<KeyWrite> {
    let mutation = Mutation::Put {
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl: None,
    };
    InKeyspace {
        keyspace: keyspace.into(),
        what: KeyWrite {
            key: Bytes::copy_from_slice(key.as_bytes()),
            mutation,
        },
    }
}

pub fn condition(keyspace: &str, key: &str, condition: Condition) -> InKeyspace<KeyCondition> {
    InKeyspace {
        keyspace: keyspace.into(),
        what: KeyCondition {
            key: Bytes::copy_from_slice(key.as_bytes()),
            condition,
        },
    }
}

pub fn check(key: &NamedKey, seen: &Observed) -> InKeyspace<ReadCheck> {
    InKeyspace {
        keyspace: key.keyspace.clone(),
        what: ReadCheck {
            key: key.what.clone(),
            version: seen.version,
            exists: seen.value.is_some(),
        },
    }
}

/// A transaction that only writes.
pub fn writes(writes: Vec<InKeyspace<KeyWrite>>) -> CommitRequest {
    let id = attempt();
    CommitRequest {
        id,
        priority: Priority(id),
        writes,
        ..CommitRequest::default()
    }
}

pub fn text(seen: &Observed) -> Option<String> {
    let value = seen.value.as_ref()?;
    Some(String::from_utf8(value.value.to_vec()).unwrap())
}

pub fn rounds(committed: &Committed) -> u32 {
    match &committed.outcome {
        CommitOutcome::Committed { rounds, .. } => *rounds,
        other => panic!("{other:?}"),
    }
}

pub async fn start(nodes: u64) -> LocalCluster {
    LocalCluster::start(LocalClusterOptions {
        nodes,
        metrics: MetricsPorts::Any,
        ..LocalClusterOptions::default()
    })
    .await
    .unwrap()
}

/// A client of transactions.
#[derive(Clone)]
pub struct Transactions {
    pub rpc: TransactionsClient<Channel>,
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

impl Transactions {
    pub fn at(address: SocketAddr) -> Self {
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let rpc = TransactionsClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { rpc }
    }

    pub async fn read(&self, read: TransactionRead) -> Result<TransactionValues, Refusal> {
        let answer = self.rpc.clone().read(timed(read.into())).await;
        let answer = answer.map_err(|status| refusal_from_status(&status))?;
        Ok(answer.into_inner().try_into().unwrap())
    }

    /// Values of one moment.
    pub async fn consistent(&self, keys: &[NamedKey]) -> Vec<Observed> {
        let read = TransactionRead {
            id: attempt(),
            keys: keys.to_vec(),
            consistent: true,
            ..TransactionRead::default()
        };
        self.read(read).await.unwrap().observed
    }

    /// Values for a transaction, as they come.
    pub async fn observe(&self, id: TransactionId, keys: &[NamedKey]) -> Vec<Observed> {
        let read = TransactionRead {
            id,
            keys: keys.to_vec(),
            ..TransactionRead::default()
        };
        self.read(read).await.unwrap().observed
    }

    pub async fn commit(&self, request: CommitRequest) -> Result<Committed, Refusal> {
        let answer = self.rpc.clone().commit(timed(request.into())).await;
        let answer = answer.map_err(|status| refusal_from_status(&status))?;
        Ok(answer.into_inner().try_into().unwrap())
    }

    pub async fn outcome(&self, request: OutcomeRequest) -> Result<Told, Refusal> {
        let wire: v1::TransactionOutcomeRequest = request.into();
        let answer = self.rpc.clone().get_outcome(timed(wire)).await;
        let answer = answer.map_err(|status| refusal_from_status(&status))?;
        Ok(answer.into_inner().try_into().unwrap())
    }

    pub async fn resolve(&self, id: TransactionId, home: GroupId) -> Result<Told, Refusal> {
        let answer = self
            .rpc
            .clone()
            .resolve(timed(ResolveRequest { id, home }.into()))
            .await;
        let answer = answer.map_err(|status| refusal_from_status(&status))?;
        Ok(answer.into_inner().try_into().unwrap())
    }

    pub async fn list(&self, list: ListInDoubt) -> Result<InDoubt, Refusal> {
        let wire: v1::ListInDoubtRequest = list.into();
        let answer = self.rpc.clone().list_in_doubt(timed(wire)).await;
        let answer = answer.map_err(|status| refusal_from_status(&status))?;
        Ok(answer.into_inner().try_into().unwrap())
    }

    /// Everything that is not finished, unresolved commits too.
    pub async fn pending(&self) -> InDoubt {
        let everything = ListInDoubt {
            unresolved: true,
            ..ListInDoubt::default()
        };
        self.list(everything).await.unwrap()
    }
}

/// A cluster of three nodes with the keyspaces `accounts`, `stock` and `cache` (async), and clients of it.
pub struct World {
    pub cluster: LocalCluster,
    pub client: Client,
    pub transactions: Transactions,
}

impl World {
    pub async fn new() -> Self {
        let cluster = start(3).await;
        let config = Config::new(cluster.router_address().to_string()).deadline(PATIENCE);
        let client = Client::connect(config).await.unwrap();
        let transactions = Transactions::at(cluster.router_address());
        let world = Self {
            cluster,
            client,
            transactions,
        };
        for (name, mode) in [("accounts", "sync"), ("stock", "sync"), ("cache", "async")] {
            let spec = KeyspaceSpec {
                groups: Some(GROUPS),
                mode: Some(mode.to_owned()),
                ..KeyspaceSpec::default()
            };
            world.client.admin().create_keyspace(name, spec).await.unwrap();
        }
        // Every group has a primary that commits.
        for name in ["accounts", "stock"] {
            for group in 0..64 {
                world
                    .client
                    .keyspace(name)
                    .put(format!("warm/{group}"), "1")
                    .await
                    .unwrap();
            }
        }
        world
    }

    /// Waits until nothing is pending anywhere; how long that took.
    pub async fn settled(&self) -> Duration {
        let began = SystemClock.now().mono;
        loop {
            let list = self.transactions.pending().await;
            let took = SystemClock.now().mono.since(began);
            if list.transactions.is_empty() && list.silent.is_empty() {
                return took;
            }
            assert!(took < PATIENCE, "still pending: {list:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every group has all its replicas in sync. Whoever crashes one node after another waits for it: a group whose
    /// last replica in sync is the next to crash has no primary until that one is back, as it must.
    pub async fn in_sync(&self) {
        let began = SystemClock.now().mono;
        loop {
            let groups = self.client.admin().status(None).await.unwrap().groups;
            let behind: Vec<_> = groups.iter().filter(|g| g.in_sync.len() < g.replicas.len()).collect();
            if behind.is_empty() {
                return;
            }
            assert!(
                SystemClock.now().mono.since(began) < PATIENCE,
                "still out of sync: {behind:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn group_of(&self, map: &fulcrum_common::ClusterMap, at: &NamedKey) -> GroupId {
        map.keyspace_by_name(&at.keyspace).unwrap().group_of(&at.what)
    }

    pub async fn map(&self) -> std::sync::Arc<fulcrum_common::ClusterMap> {
        self.cluster.store().load_map().await.unwrap()
    }
}

/// What `/metrics` says.
pub async fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
}
