//! Shard-nodes of one process over loopback, with embedded metadata.
#![allow(dead_code, reason = "each test file uses a part of it")]

use fulcrum_common::wire::internal::shard_client::ShardClient;
use fulcrum_common::wire::internal::{NodeStatusRequest, NodeStatusResponse};
use fulcrum_common::wire::status::refusal_from_status;
use fulcrum_common::wire::v1;
use fulcrum_common::wire::v1::kv_client::KvClient;
use fulcrum_common::{ClusterId, ClusterStore, EmbeddedMetadata, KeyspaceOptions, SystemClock};
use fulcrum_shard_node::{Network, RunningShardNode, ShardNode, ShardNodeConfig};
use fulcrum_types::{Act, Refusal};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

/// Whatever is waited for comes within this, or the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);
const CLUSTER: &str = "test";

pub struct Cluster {
    pub metadata: EmbeddedMetadata,
    pub store: ClusterStore,
    pub network: Network,
    directories: BTreeMap<u64, TempDir>,
    pub nodes: BTreeMap<u64, RunningShardNode>,
}

impl Cluster {
    pub async fn start(nodes: u64) -> Self {
        let id = ClusterId::new(CLUSTER).unwrap();
        let metadata = EmbeddedMetadata::in_memory(id.clone(), Arc::new(SystemClock));
        let store = ClusterStore::open(Arc::new(metadata.clone()), id).await.unwrap();
        let directories = (1..=nodes).map(|node| (node, tempfile::tempdir().unwrap())).collect();
        let mut cluster = Self {
            metadata,
            store,
            network: Network::new(),
            directories,
            nodes: BTreeMap::new(),
        };
        for node in 1..=nodes {
            cluster.start_node(node).await;
        }
        let store = cluster.store.clone();
        wait_for("every node to register", || async {
            (store.live_nodes().await.unwrap().len() as u64 == nodes).then_some(())
        })
        .await;
        cluster
    }

    pub fn config(&self, node: u64) -> ShardNodeConfig {
        ShardNodeConfig {
            node,
            cluster_id: CLUSTER.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            data_dir: self.directories[&node].path().to_owned(),
            ..ShardNodeConfig::default()
        }
    }

    pub async fn start_node(&mut self, node: u64) {
        let metadata = Arc::new(self.metadata.clone());
        let started = ShardNode::start_in(self.network.clone(), self.config(node), metadata, Arc::new(SystemClock));
        self.nodes.insert(node, started.await.unwrap());
    }

    /// Creates a keyspace of one group and waits until it takes writes.
    pub async fn create(&self, name: &str, options: KeyspaceOptions) {
        self.store
            .create_keyspace(name, KeyspaceOptions { groups: 1, ..options })
            .await
            .unwrap();
        self.write(name, "first", "write").await;
    }

    pub async fn kv(&self, node: u64) -> KvClient<Channel> {
        KvClient::new(channel(self.nodes[&node].local_addr()).await)
    }

    /// Writes at whichever node is primary, as often as nothing was applied, and says which node it was.
    pub async fn write(&self, keyspace: &str, key: &str, value: &str) -> u64 {
        wait_for("a write to be acknowledged", || async {
            for node in self.nodes.keys() {
                match self.kv(*node).await.put(put(keyspace, key, value)).await {
                    Ok(_) => return Some(*node),
                    Err(status) => {
                        let refusal = refusal_from_status(&status);
                        assert!(
                            matches!(refusal.act(), Act::Redirect | Act::Retry)
                                || matches!(refusal, Refusal::UnknownKeyspace { .. }),
                            "{refusal}"
                        );
                    }
                }
            }
            None
        })
        .await
    }

    /// A linearizable read at whichever node serves it.
    pub async fn read(&self, keyspace: &str, key: &str) -> (u64, v1::GetResponse) {
        wait_for("a linearizable read", || async {
            for node in self.nodes.keys() {
                if let Ok(answer) = self.kv(*node).await.get(get(keyspace, key)).await {
                    return Some((*node, answer.into_inner()));
                }
            }
            None
        })
        .await
    }

    pub async fn status(&self, node: u64) -> NodeStatusResponse {
        let mut shard = ShardClient::new(channel(self.nodes[&node].local_addr()).await);
        shard.node_status(NodeStatusRequest {}).await.unwrap().into_inner()
    }

    /// Waits until the only group's primary has all nodes in sync.
    pub async fn all_in_sync(&self) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        wait_for("all replicas to be in sync", || async {
            for node in self.nodes.keys() {
                let status = self.status(*node).await;
                if status
                    .replicas
                    .iter()
                    .any(|replica| replica.ready && replica.in_sync == all)
                {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
}

pub fn put(keyspace: &str, key: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest {
        keyspace: keyspace.into(),
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        ..Default::default()
    }
}

pub fn get(keyspace: &str, key: &str) -> v1::GetRequest {
    v1::GetRequest {
        keyspace: keyspace.into(),
        key: key.as_bytes().to_vec().into(),
        options: None,
    }
}

pub async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// Tries again and again until there is something.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let tries = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, tries)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// What `/metrics` says.
pub async fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
}
