//! Starts, crashes, restarts and stops the parts.

use crate::options::{LocalClusterOptions, MetricsPorts, loopback};
use fulcrum_common::audit::AuditConfig;
use fulcrum_common::auth::AuthConfig;
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_common::error::StartError;
use fulcrum_common::metadata::{ClusterEvent, ClusterStore, EmbeddedMetadata, Metadata, StoreError};
use fulcrum_common::tls::TlsConfig;
use fulcrum_router::{Router, RouterConfig, RunningRouter};
use fulcrum_shard_node::{Network, RunningShardNode, ShardNode, ShardNodeConfig};
use fulcrum_types::NodeId;
use futures::StreamExt;
use futures::future::{join_all, select_all};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// How often node leases that ran out are ended.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);
/// For nodes to be known to everybody after a start.
const REGISTER_WITHIN: Duration = Duration::from_secs(15);

/// A running cluster. Dropped, it crashes.
pub struct LocalCluster {
    clock: Arc<dyn Clock>,
    metadata: Arc<dyn Metadata>,
    store: ClusterStore,
    nodes: BTreeMap<NodeId, Slot>,
    network: Network,
    router: RunningRouter,
    more_routers: BTreeMap<SocketAddr, RunningRouter>,
    metrics: MetricsPorts,
    auth: AuthConfig,
    audit: AuditConfig,
    tls: TlsConfig,
    data_dir: PathBuf,
    /// Removed when the cluster goes.
    _temporary: Option<TempDir>,
}

/// A node's place: it stays while the node is down.
struct Slot {
    config: ShardNodeConfig,
    running: Option<RunningShardNode>,
}

impl LocalCluster {
    /// Starts all parts; answers once the router serves and every node is known to it. Must be called within a runtime that
    /// lives as long as the cluster.
    ///
    /// # Errors
    /// A port or directory that cannot be used, or an option that makes no sense; the error says what to do.
    pub async fn start(options: LocalClusterOptions) -> Result<Self, StartError> {
        if options.nodes == 0 {
            return Err(StartError::Config(
                "a cluster without nodes holds nothing: use 1 or more".to_owned(),
            ));
        }
        let (data_dir, temporary) = data_dir(options.data_dir.as_deref())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metadata = open_metadata(data_dir.join("metadata"), Arc::clone(&clock)).await?;
        metadata.spawn_expiry(EXPIRE_EVERY);
        let cluster_id = metadata.cluster_id().clone();
        let metadata: Arc<dyn Metadata> = Arc::new(metadata);
        let store = ClusterStore::open(Arc::clone(&metadata), cluster_id.clone()).await;
        let store = store.map_err(no_metadata)?;
        check_nodes(&store, &data_dir, options.nodes).await?;

        let network = Network::new();
        let mut nodes = BTreeMap::new();
        for number in 1..=options.nodes {
            let config = ShardNodeConfig {
                node: number,
                cluster_id: cluster_id.to_string(),
                listen: loopback(),
                metrics_listen: options.metrics.address(number)?,
                insecure_listen: options.insecure_listen,
                data_dir: data_dir.join(format!("node-{number}")),
                zone: (options.zones > 0).then(|| format!("z{}", (number - 1) % options.zones + 1)),
                times: options.times.clone(),
                auth: options.auth.clone(),
                tls: options.tls.clone(),
                ..ShardNodeConfig::default()
            };
            let node = ShardNode::start_in(
                network.clone(),
                config.clone(),
                Arc::clone(&metadata),
                Arc::clone(&clock),
            )
            .await?;
            nodes.insert(
                NodeId(number),
                Slot {
                    config,
                    running: Some(node),
                },
            );
        }
        let router = RouterConfig {
            listen: options.listen,
            metrics_listen: router_metrics(options.metrics)?,
            insecure_listen: options.insecure_listen,
            auth: options.auth.clone(),
            audit: options.audit.clone(),
            tls: options.tls.clone(),
            ..RouterConfig::default()
        };
        let router = Router::start(router, store.clone(), Arc::clone(&clock)).await?;
        let cluster = Self {
            clock,
            metadata,
            store,
            nodes,
            network,
            router,
            more_routers: BTreeMap::new(),
            metrics: options.metrics,
            auth: options.auth,
            audit: options.audit,
            tls: options.tls,
            data_dir,
            _temporary: temporary,
        };
        let all: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        cluster.wait_until_known(&all).await?;
        Ok(cluster)
    }

    /// Where clients connect.
    #[must_use]
    pub fn router_address(&self) -> SocketAddr {
        self.router.address()
    }

    /// Where the router's metrics are, if they are served.
    #[must_use]
    pub fn router_metrics_address(&self) -> Option<SocketAddr> {
        self.router.metrics_address()
    }

    /// Where a node serves; none while it is down.
    #[must_use]
    pub fn node_address(&self, node: NodeId) -> Option<SocketAddr> {
        Some(self.running(node)?.local_addr())
    }

    /// Where a node's metrics are, if they are served and it is up.
    #[must_use]
    pub fn node_metrics_address(&self, node: NodeId) -> Option<SocketAddr> {
        self.running(node)?.metrics_addr()
    }

    /// All nodes, up or down.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }

    /// The cluster's metadata.
    #[must_use]
    pub fn store(&self) -> &ClusterStore {
        &self.store
    }

    /// Where the data is.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn running(&self, node: NodeId) -> Option<&RunningShardNode> {
        self.nodes.get(&node)?.running.as_ref()
    }

    /// Starts another router on any free port, with a coordinator of its own; answers with where clients connect.
    ///
    /// # Errors
    /// As for [`LocalCluster::start`].
    pub async fn add_router(&mut self) -> Result<SocketAddr, StartError> {
        let config = RouterConfig {
            listen: loopback(),
            // Those that were chosen one by one are all taken.
            metrics_listen: (self.metrics != MetricsPorts::None).then(loopback),
            auth: self.auth.clone(),
            audit: self.audit.clone(),
            tls: self.tls.clone(),
            ..RouterConfig::default()
        };
        let router = Router::start(config, self.store.clone(), Arc::clone(&self.clock)).await?;
        let address = router.address();
        self.more_routers.insert(address, router);
        Ok(address)
    }

    /// Where the metrics of a router that was added are, if they are served.
    #[must_use]
    pub fn added_router_metrics_address(&self, router: SocketAddr) -> Option<SocketAddr> {
        self.more_routers.get(&router)?.metrics_address()
    }

    /// Drops a router that was added without warning, as a kill would, and its coordinator with whatever it is doing. False if
    /// there is none.
    pub async fn crash_router(&mut self, router: SocketAddr) -> bool {
        let Some(running) = self.more_routers.remove(&router) else {
            return false;
        };
        // The thread of a router ends by itself or has panicked; either way it is gone.
        let _ = tokio::task::spawn_blocking(move || running.crash()).await;
        true
    }

    /// From now on no other node hears this one, until [`LocalCluster::heal_network`]. Clients and the metadata store do.
    pub fn silence_node(&self, node: NodeId) {
        for other in self.nodes.keys().filter(|other| **other != node) {
            self.network.cut_one_way(node, *other);
        }
    }

    /// Every node hears every other again.
    pub fn heal_network(&self) {
        self.network.heal();
    }

    /// Drops a node without warning, as a kill would: what it has not synced is lost. False if it was down.
    pub async fn crash_node(&mut self, node: NodeId) -> bool {
        let Some(running) = self.nodes.get_mut(&node).and_then(|slot| slot.running.take()) else {
            return false;
        };
        running.crash().await;
        true
    }

    /// Starts a node that is down again, on its own data; answers once everybody knows where it is.
    ///
    /// # Errors
    /// As for [`LocalCluster::start`].
    pub async fn restart_node(&mut self, node: NodeId) -> Result<(), StartError> {
        let Some(slot) = self.nodes.get_mut(&node) else {
            return Err(StartError::Config(format!("there is no node {node}")));
        };
        if slot.running.is_some() {
            return Ok(());
        }
        let (metadata, clock) = (Arc::clone(&self.metadata), Arc::clone(&self.clock));
        let started = ShardNode::start_in(self.network.clone(), slot.config.clone(), metadata, clock);
        slot.running = Some(started.await?);
        self.wait_until_known(&[node]).await
    }

    /// Waits until some node ends that nobody has asked to; says which and why.
    pub async fn node_ended(&self) -> (NodeId, String) {
        let ends = self.nodes.iter().filter_map(|(node, slot)| {
            let running = slot.running.as_ref()?;
            Some(Box::pin(async move {
                let why = running
                    .ended()
                    .await
                    .err()
                    .unwrap_or_else(|| "it was stopped".to_owned());
                (*node, why)
            }))
        });
        let ends: Vec<_> = ends.collect();
        if ends.is_empty() {
            return std::future::pending().await;
        }
        select_all(ends).await.0
    }

    /// Takes note that a node has ended by itself; it can be restarted.
    pub fn forget_node(&mut self, node: NodeId) {
        if let Some(slot) = self.nodes.get_mut(&node) {
            slot.running = None;
        }
    }

    /// Stops in good order: first the routers, then all nodes at once. Says which nodes did not end cleanly.
    pub async fn stop(self) -> Vec<(NodeId, String)> {
        let Self {
            nodes,
            router,
            more_routers,
            ..
        } = self;
        let routers = std::iter::once(router).chain(more_routers.into_values());
        let stops = routers.map(|router| tokio::task::spawn_blocking(move || router.shutdown()));
        // The thread of a router ends by itself or has panicked; either way it is gone.
        join_all(stops).await;
        let stops = nodes.into_iter().filter_map(|(node, slot)| {
            let running = slot.running?;
            Some(async move { Some((node, running.shutdown().await.err()?)) })
        });
        join_all(stops).await.into_iter().flatten().collect()
    }

    /// Waits until the map has these nodes at the addresses where they are now.
    async fn wait_until_known(&self, nodes: &[NodeId]) -> Result<(), StartError> {
        let waited = tokio::time::timeout(REGISTER_WITHIN, async {
            let mut events = self.store.watch();
            while let Some(event) = events.next().await {
                let ClusterEvent::Map(map) = event else { continue };
                let is_known = |node: &NodeId| {
                    let address = self.node_address(*node).map(|address| address.to_string());
                    address.is_some() && map.address(*node) == address.as_deref()
                };
                if nodes.iter().all(is_known) {
                    return;
                }
            }
        });
        waited.await.map_err(|_| {
            let within = REGISTER_WITHIN.as_secs();
            StartError::Config(format!(
                "not all nodes registered within {within} s: is the machine overloaded?"
            ))
        })
    }
}

fn router_metrics(metrics: MetricsPorts) -> Result<Option<SocketAddr>, StartError> {
    metrics.address(0)
}

fn data_dir(wanted: Option<&Path>) -> Result<(PathBuf, Option<TempDir>), StartError> {
    match wanted {
        Some(path) => {
            std::fs::create_dir_all(path).map_err(|error| StartError::file("create", path, error))?;
            Ok((path.to_owned(), None))
        }
        None => {
            let made = tempfile::Builder::new().prefix("fulcrum-").tempdir();
            let made = made.map_err(|error| StartError::file("create a directory in", &std::env::temp_dir(), error))?;
            Ok((made.path().to_owned(), Some(made)))
        }
    }
}

async fn open_metadata(directory: PathBuf, clock: Arc<dyn Clock>) -> Result<EmbeddedMetadata, StartError> {
    let shown = directory.clone();
    let opened = tokio::task::spawn_blocking(move || EmbeddedMetadata::open(&directory, None, clock)).await;
    opened.map_err(|error| StartError::Config(format!("opening {} ended early: {error}", shown.display())))?
}

fn no_metadata(error: StoreError) -> StartError {
    StartError::Config(error.to_string())
}

/// A cluster does not get smaller by starting fewer of its nodes: groups would wait for them.
async fn check_nodes(store: &ClusterStore, data_dir: &Path, nodes: u64) -> Result<(), StartError> {
    let map = store.load_map().await.map_err(no_metadata)?;
    let known = map.nodes().keys().map(|node| node.0).max().unwrap_or(0);
    if known > nodes {
        return Err(StartError::Config(format!(
            "{} holds a cluster of {known} nodes, not {nodes}: start it with {known} nodes or more",
            data_dir.display()
        )));
    }
    Ok(())
}
