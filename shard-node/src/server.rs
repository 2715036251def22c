//! Starting and stopping a shard-node: one thread, one runtime, everything of the node on it.
//!
//! Services, event loop and links share a single-threaded runtime: a request is never handed from thread to thread, which
//! would double its cost (DESIGN section 13). Only the storage writer has a thread of its own.
//!
//! A node ends in one of three ways. [`RunningShardNode::shutdown`] hands over what it leads, within a bound, and marks its
//! data as clean. [`RunningShardNode::crash`] drops everything at once, as a kill would: for tests and the demo. A node whose
//! storage failed ends itself.

use crate::config::ShardNodeConfig;
use crate::life::{Life, Others};
use crate::transport::Network;
use fulcrum_common::config::Validate;
use fulcrum_common::routing::Groups;
use fulcrum_common::{Clock, Metadata, StartError};
use fulcrum_types::NodeId;
use prometheus::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Starts shard-nodes.
pub struct ShardNode;

impl ShardNode {
    /// Starts a node and returns once it listens. It finds its groups by the metadata store, which may come later.
    ///
    /// # Errors
    /// The setting, port or directory that cannot be used, and what to do about it.
    pub async fn start(
        config: ShardNodeConfig,
        metadata: Arc<dyn Metadata>,
        clock: Arc<dyn Clock>,
    ) -> Result<RunningShardNode, StartError> {
        Self::start_in(Network::new(), config, metadata, clock).await
    }

    /// The same, with a network whose links can be cut.
    ///
    /// # Errors
    /// As [`ShardNode::start`].
    pub async fn start_in(
        network: Network,
        config: ShardNodeConfig,
        metadata: Arc<dyn Metadata>,
        clock: Arc<dyn Clock>,
    ) -> Result<RunningShardNode, StartError> {
        Self::begin(network, config, metadata, clock, Others::Found).await
    }

    /// The same, but other groups are asked this way and no other: without one, transactions over several groups are served,
    /// but what a coordinator leaves in doubt stays so, and reads that meet it are refused.
    ///
    /// # Errors
    /// As [`ShardNode::start`].
    pub async fn start_asking(
        network: Network,
        config: ShardNodeConfig,
        metadata: Arc<dyn Metadata>,
        clock: Arc<dyn Clock>,
        groups: Option<Arc<dyn Groups>>,
    ) -> Result<RunningShardNode, StartError> {
        Self::begin(network, config, metadata, clock, Others::Given(groups)).await
    }

    async fn begin(
        network: Network,
        config: ShardNodeConfig,
        metadata: Arc<dyn Metadata>,
        clock: Arc<dyn Clock>,
        others: Others,
    ) -> Result<RunningShardNode, StartError> {
        config.validate()?;
        let node = config.node();
        let orders = Orders::default();
        let (ended, end) = watch::channel(None);
        let (started, start) = oneshot::channel();
        let life = Life {
            config,
            metadata,
            clock,
            network,
            others,
            orders: orders.clone(),
            started,
        };
        let thread = std::thread::Builder::new()
            .name(format!("shard-node-{}", node.0))
            .spawn(move || {
                ended.send_replace(Some(life.live()));
            })
            .map_err(|source| StartError::Io {
                action: "start a thread for",
                target: node.to_string(),
                source,
            })?;
        let died = || StartError::Config(format!("node {node} ended while it started: see its log"));
        let Started {
            address,
            metrics,
            registry,
        } = start.await.map_err(|_| died())??;
        Ok(RunningShardNode {
            node,
            address,
            metrics,
            registry,
            orders,
            end,
            thread: Some(thread),
        })
    }
}

/// What the node's thread is told.
#[derive(Clone, Default)]
pub(crate) struct Orders {
    pub(crate) shutdown: CancellationToken,
    pub(crate) crash: CancellationToken,
}

/// Where a started node listens.
pub(crate) struct Started {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) registry: Registry,
}

/// A started shard-node. Dropped, it crashes.
pub struct RunningShardNode {
    node: NodeId,
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    registry: Registry,
    orders: Orders,
    end: watch::Receiver<Option<Result<(), String>>>,
    thread: Option<JoinHandle<()>>,
}

impl RunningShardNode {
    /// Which node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it serves.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where its metrics are, if they are served.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Its metrics, for whoever shares the process.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Waits until the node has ended, and says why if nobody asked it to.
    ///
    /// # Errors
    /// Why it could not go on.
    pub async fn ended(&self) -> Result<(), String> {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            Err(_) => Err("the node's thread panicked: see its log".to_owned()),
        }
    }

    /// Ends in good order: hands over what it leads as far as that goes in time, syncs, marks the data as clean.
    ///
    /// # Errors
    /// Why the data is not clean.
    pub async fn shutdown(mut self) -> Result<(), String> {
        self.orders.shutdown.cancel();
        let end = self.ended().await;
        self.join().await;
        end
    }

    /// Ends at once: nothing more is sent, answered or written.
    pub async fn crash(mut self) {
        self.orders.crash.cancel();
        self.join().await;
    }

    /// Waits until the thread is gone and with it every socket and lock.
    async fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic has ended the node already; it was logged.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for RunningShardNode {
    fn drop(&mut self) {
        self.orders.crash.cancel();
    }
}
