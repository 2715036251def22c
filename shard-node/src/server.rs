//! Starting and stopping a shard-node: one thread, one runtime, everything of the node on it.
//!
//! Services, event loop and links share a single-threaded runtime: a request is never handed from thread to thread, which
//! would double its cost (DESIGN section 13). Only the storage writer has a thread of its own.
//!
//! A node ends in one of three ways. [`RunningShardNode::shutdown`] hands over what it leads, within a bound, and marks its
//! data as clean. [`RunningShardNode::crash`] drops everything at once, as a kill would: for tests and the demo. A node whose
//! storage failed ends itself.

use crate::cluster::{Cluster, Membership};
use crate::config::ShardNodeConfig;
use crate::disk::{DiskWatch, Watched, notifier};
use crate::effects::Effects;
use crate::event::Event;
use crate::event_loop::{End, EventLoop, Inquiry};
use crate::inbox::{Inbox, Notice};
use crate::metrics::NodeMetrics;
use crate::node::{Boot, Node, NodeSettings};
use crate::service::{Door, KvService, ShardService};
use crate::storage::{FjallBackend, FjallOptions, Identity as DataIdentity, StorageError, Store};
use crate::transport::{Identity, Network, PeerService, Transport};
use fulcrum_common::config::Validate;
use fulcrum_common::entropy::random_u64;
use fulcrum_common::limits::MAX_MESSAGE_BYTES;
use fulcrum_common::metrics_server::MetricsServer;
use fulcrum_common::wire::DESCRIPTORS;
use fulcrum_common::wire::internal::peer_server::PeerServer;
use fulcrum_common::wire::internal::shard_server::ShardServer;
use fulcrum_common::wire::v1::kv_server::KvServer;
use fulcrum_common::{Clock, ClusterId, ClusterMap, Metadata, NodeInfo, StartError};
use fulcrum_replication::primary_backup::PrimaryBackup;
use fulcrum_types::{BootId, MapVersion, NodeId, Role};
use futures::Stream;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;

/// A client that answers no ping for the sum of these is taken for gone.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(10);
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(20);
const LEAVE_WITHIN: Duration = Duration::from_secs(1);
const DRAIN_CHECK_EVERY: Duration = Duration::from_millis(20);

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
        let Started { address, metrics } = start.await.map_err(|_| died())??;
        Ok(RunningShardNode {
            node,
            address,
            metrics,
            orders,
            end,
            thread: Some(thread),
        })
    }
}

/// What the node's thread is told.
#[derive(Clone, Default)]
struct Orders {
    shutdown: CancellationToken,
    crash: CancellationToken,
}

/// Where a started node listens.
struct Started {
    address: SocketAddr,
    metrics: Option<SocketAddr>,
}

/// A started shard-node. Dropped, it crashes.
pub struct RunningShardNode {
    node: NodeId,
    address: SocketAddr,
    metrics: Option<SocketAddr>,
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

/// One life of a node, on its thread.
struct Life {
    config: ShardNodeConfig,
    metadata: Arc<dyn Metadata>,
    clock: Arc<dyn Clock>,
    network: Network,
    orders: Orders,
    started: oneshot::Sender<Result<Started, StartError>>,
}

/// All that was started, but the event loop.
struct Parts {
    inbox: Arc<Inbox>,
    cluster: Arc<Cluster>,
    _tasks: [AbortOnDropHandle<()>; 2],
    _metrics: Option<MetricsServer>,
}

impl Life {
    fn live(self) -> Result<(), String> {
        let Life {
            config,
            metadata,
            clock,
            network,
            orders,
            started,
        } = self;
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(source) => {
                let target = config.node().to_string();
                // The error goes to whoever starts the node, if it still waits.
                let _ = started.send(Err(StartError::Io {
                    action: "make a runtime for",
                    target,
                    source,
                }));
                return Ok(());
            }
        };
        let hand_over = config.times.hand_over;
        let result = runtime.block_on(async {
            let (parts, event_loop, at) = match start(config, metadata, clock, network).await {
                Ok(all) => all,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return Ok(());
                }
            };
            let _ = started.send(Ok(at));
            tokio::select! {
                () = orders.crash.cancelled() => Ok(()),
                end = work(parts, event_loop, &orders, hand_over) => end,
            }
        });
        // A probe that hangs in the disk must not hold up the end.
        runtime.shutdown_background();
        result
    }
}

/// Runs until the end, which is in good order if it was asked for.
async fn work(parts: Parts, event_loop: EventLoop, orders: &Orders, hand_over: Duration) -> Result<(), String> {
    let leave = async {
        orders.shutdown.cancelled().await;
        drain(&parts.inbox, hand_over).await;
        parts.cluster.leave(LEAVE_WITHIN).await;
        parts.inbox.notice(Notice::Stop);
        std::future::pending::<()>().await;
    };
    let (node, end) = tokio::select! {
        ended = event_loop.run() => ended,
        () = leave => return Ok(()),
    };
    match end {
        End::Asked => {
            parts.inbox.close("the node has stopped".to_owned());
            node.close().map_err(|error| error.to_string())
        }
        End::Fatal(reason) => {
            tracing::error!(%reason, "the node stops");
            parts.inbox.close(reason.clone());
            Err(reason)
        }
    }
}

/// Hands over every group that this node leads and others hold, for at most `within`.
async fn drain(inbox: &Inbox, within: Duration) {
    inbox.notice(Notice::Event(Event::Drain));
    let led = async {
        loop {
            let (reply, status) = oneshot::channel();
            inbox.notice(Notice::Inquiry(Inquiry::Status(reply)));
            let Ok((_, groups)) = status.await else { return };
            let others = |group: &crate::node::GroupStatus| group.core.configuration.in_sync.len() > 1;
            if !groups
                .iter()
                .any(|group| group.core.role == Role::Primary && others(group))
            {
                return;
            }
            tokio::time::sleep(DRAIN_CHECK_EVERY).await;
        }
    };
    if tokio::time::timeout(within, led).await.is_err() {
        tracing::warn!("stopping while still leading groups: their backups take over");
    }
}

async fn start(
    config: ShardNodeConfig,
    metadata: Arc<dyn Metadata>,
    clock: Arc<dyn Clock>,
    network: Network,
) -> Result<(Parts, EventLoop, Started), StartError> {
    let cluster_id = config.cluster()?;
    let bind = |error| StartError::bind("the shard-node", config.listen, error);
    let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let metrics = Arc::new(NodeMetrics::new().map_err(|error| StartError::Config(error.to_string()))?);
    let inbox = Arc::new(Inbox::new(config.bounds()));
    let disk = DiskWatch::new(clock.clone(), &config.data_dir, config.times.sync_overdue);
    let boot = BootId(random_u64());
    let node = open_node(&config, &cluster_id, boot, &inbox, &disk, &*clock)?;

    let identity = Identity {
        cluster: cluster_id.clone(),
        node: config.node(),
        boot,
    };
    let (publish, map) = watch::channel(Arc::new(ClusterMap::new(cluster_id.clone())));
    let metrics_server = match config.metrics_listen {
        Some(at) => Some(MetricsServer::start(at, metrics.registry().clone(), readiness(map.clone())).await?),
        None => None,
    };
    let membership = Membership {
        node: config.node(),
        info: NodeInfo {
            address: config.advertise.clone().unwrap_or_else(|| address.to_string()),
            zone: config.zone.clone(),
        },
        lease: config.times.node_lease,
        deadline: config.times.metadata_deadline,
    };
    let cluster = Cluster::start(
        metadata,
        cluster_id,
        membership,
        inbox.clone(),
        publish,
        metrics.clone(),
    );
    let cluster = Arc::new(cluster);
    let transport = Transport::new(
        identity.clone(),
        network.clone(),
        map.clone(),
        config.limits.queued_bytes_per_peer,
    );
    let effects = Effects::new(transport, cluster.clone(), metrics.clone());
    let door = Door {
        inbox: inbox.clone(),
        map,
        clock: clock.clone(),
        default_deadline: config.times.default_deadline,
        outstanding_per_stream: config.limits.outstanding_per_stream,
    };
    let peers = PeerService {
        identity,
        network,
        inbox: inbox.clone(),
    };
    let event_loop = EventLoop::new(node, effects, inbox.clone(), clock, disk, metrics);
    let at = Started {
        address,
        metrics: metrics_server.as_ref().map(MetricsServer::address),
    };
    let tasks = [
        tokio::spawn(serve(listener, door, peers)),
        tokio::spawn(tick(inbox.clone(), config.times.tick)),
    ];
    let tasks = tasks.map(AbortOnDropHandle::new);
    tracing::info!(node = %config.node(), %address, %boot, data_dir = %config.data_dir.display(), "started");
    Ok((
        Parts {
            inbox,
            cluster,
            _tasks: tasks,
            _metrics: metrics_server,
        },
        event_loop,
        at,
    ))
}

fn open_node(
    config: &ShardNodeConfig,
    cluster: &ClusterId,
    boot: BootId,
    inbox: &Arc<Inbox>,
    disk: &Arc<DiskWatch>,
    clock: &dyn Clock,
) -> Result<Node, StartError> {
    let refused = |error| start_error(config, error);
    let identity = DataIdentity {
        cluster: cluster.to_string(),
        node: config.node(),
    };
    let to = inbox.clone();
    let notifier = notifier(disk.clone(), move |done| {
        to.notice(Notice::Event(Event::BatchDone(done)))
    });
    let (backend, clean) =
        FjallBackend::open(&config.data_dir, &identity, FjallOptions::default(), notifier).map_err(refused)?;
    let store = Store::new(Box::new(Watched {
        backend,
        watch: disk.clone(),
    }));
    let settings = NodeSettings::new(config.node());
    let boot = Boot { id: boot, clean };
    let cores = Box::new(|options, restored, now| {
        let core: Box<dyn fulcrum_replication::Replica + Send> = Box::new(PrimaryBackup::new(options, restored, now));
        core
    });
    Node::with_cores(settings, store, boot, random_u64, clock.now(), cores).map_err(refused)
}

/// The same trouble in the words of all services.
fn start_error(config: &ShardNodeConfig, error: StorageError) -> StartError {
    let path = config.data_dir.clone();
    match error {
        StorageError::Locked { .. } => StartError::DirectoryLocked { path },
        StorageError::NewerFormat { found, supported, .. } => {
            let narrow = |format: u64| u32::try_from(format).unwrap_or(u32::MAX);
            StartError::NewerFormat {
                path,
                found: narrow(found),
                supported: narrow(supported),
            }
        }
        StorageError::OtherCluster { found, expected, .. } => StartError::OtherCluster { path, found, expected },
        StorageError::Full { .. } => StartError::DiskFull { path },
        other => StartError::Config(other.to_string()),
    }
}

fn readiness(map: watch::Receiver<Arc<ClusterMap>>) -> fulcrum_common::metrics_server::Readiness {
    Arc::new(move || match map.borrow().version() {
        MapVersion::ZERO => Err("no cluster map yet: the metadata store has not answered".to_owned()),
        _ => Ok(()),
    })
}

/// Tells the event loop that time passes.
async fn tick(inbox: Arc<Inbox>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        inbox.tick();
    }
}

/// Connections as they come. The server leaves the socket as it is, so Nagle's algorithm is switched off here: left on, it
/// costs a factor of a hundred in latency (DESIGN section 13).
fn connections(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    futures::stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, %error, "a connection without TCP_NODELAY");
                    }
                    return Some((Ok(stream), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
                }
            }
        }
    })
}

async fn serve(listener: TcpListener, door: Door, peers: PeerService) {
    let kv = KvServer::new(KvService { door: door.clone() }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let shard = ShardServer::new(ShardService { door }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let peers = PeerServer::new(peers).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<KvServer<KvService>>().await;
    health_reporter.set_serving::<ShardServer<ShardService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1();
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
        .add_service(kv)
        .add_service(shard)
        .add_service(peers)
        .add_service(health);
    match reflection {
        Ok(reflection) => server = server.add_service(reflection),
        Err(error) => tracing::warn!(%error, "serving without reflection"),
    }
    if let Err(error) = server.serve_with_incoming(connections(listener)).await {
        tracing::error!(%error, "the server ended");
    }
}
