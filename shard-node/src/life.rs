//! One life of a node, on its thread: everything is started, runs, and ends in one of three ways.

use crate::cluster::{Cluster, Followers, Membership, Placing};
use crate::config::ShardNodeConfig;
use crate::disk::{DiskWatch, Watched, notifier};
use crate::effects::{Asker, Effects};
use crate::event::Event;
use crate::event_loop::{End, EventLoop, Inquiry};
use crate::failpoints::{Failpoints, Reading};
use crate::inbox::{Inbox, Notice};
use crate::listen::serve;
use crate::metrics::{NodeMetrics, PlacementMetrics};
use crate::node::{Boot, GroupStatus, Node, NodeSettings};
use crate::server::{Orders, Started};
use crate::service::Door;
use crate::storage::{FjallBackend, FjallOptions, Identity as DataIdentity, StorageError, Store};
use crate::transport::{Identity, Lives, Network, PeerService, Transport};
use fulcrum_common::auth::{Guard, Internal};
use fulcrum_common::door::Bound;
use fulcrum_common::entropy::random_u64;
use fulcrum_common::metrics_server::{MetricsServer, Readiness};
use fulcrum_common::routing::{Backends, Groups, RoutingTable, StreamedGroups};
use fulcrum_common::sockets::ReservedPort;
use fulcrum_common::tls::{Dialer, Port, Tls};
use fulcrum_common::{Clock, ClusterId, ClusterMap, Metadata, NodeInfo, StartError};
use fulcrum_replication::Replica;
use fulcrum_replication::primary_backup::PrimaryBackup;
use fulcrum_types::{BootId, NodeId, Role};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const LEAVE_WITHIN: Duration = Duration::from_secs(1);
/// One compare-and-swap for each group, after the acknowledgement that asks for it.
const LEAVE_SETS_WITHIN: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const DRAIN_CHECK_EVERY: Duration = Duration::from_millis(20);

/// How a node asks the groups of other nodes.
pub(crate) enum Others {
    /// It finds them by its own view of the cluster.
    Found,
    /// As it is told; not at all without.
    Given(Option<Arc<dyn Groups>>),
}

impl Others {
    fn groups(self, table: &Arc<RoutingTable>, dialer: &Dialer, shows: Internal) -> Option<Arc<dyn Groups>> {
        match self {
            Others::Found => {
                let backends = Backends::new(dialer.clone(), shows);
                Some(Arc::new(StreamedGroups::new(table.clone(), backends)))
            }
            Others::Given(groups) => groups,
        }
    }
}

/// One life of a node, on its thread.
pub(crate) struct Life {
    pub(crate) config: ShardNodeConfig,
    pub(crate) metadata: Arc<dyn Metadata>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) network: Network,
    pub(crate) others: Others,
    pub(crate) orders: Orders,
    pub(crate) started: oneshot::Sender<Result<Started, StartError>>,
}

/// All that was started, but the event loop.
struct Parts {
    inbox: Arc<Inbox>,
    cluster: Arc<Cluster>,
    /// Tells the server to let no more calls in.
    closing: CancellationToken,
    _tasks: [AbortOnDropHandle<()>; 3],
    _metrics: Option<MetricsServer>,
    _failpoints: Option<Reading>,
}

impl Life {
    /// Lives, and says why it ended if nobody asked it to.
    pub(crate) fn live(self) -> Result<(), String> {
        let Life {
            config,
            metadata,
            clock,
            network,
            others,
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
        let (node, hand_over) = (config.node(), config.times.hand_over);
        let result = runtime.block_on(async {
            let (parts, event_loop, at) =
                match start(config, metadata, clock, network, others, orders.shutdown.clone()).await {
                    Ok(all) => all,
                    Err(error) => {
                        let _ = started.send(Err(error));
                        return Ok(());
                    }
                };
            let _ = started.send(Ok(at));
            tokio::select! {
                () = orders.crash.cancelled() => Ok(()),
                end = work(parts, event_loop, &orders, node, hand_over) => end,
            }
        });
        // A probe that hangs in the disk must not hold up the end.
        runtime.shutdown_background();
        result
    }
}

/// Runs until the end, which is in good order if it was asked for.
async fn work(
    parts: Parts,
    event_loop: EventLoop,
    orders: &Orders,
    node: NodeId,
    hand_over: Duration,
) -> Result<(), String> {
    let leave = async {
        orders.shutdown.cancelled().await;
        drain(&parts.inbox, node, hand_over).await;
        parts.cluster.leave(LEAVE_WITHIN).await;
        parts.closing.cancel();
        answer_all(&parts.inbox).await;
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

/// What a node that is about to stop still is to its groups.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// It leads one that others could lead.
    Leads,
    /// It is in an in-sync set with others, which would wait for it in vain.
    Counted,
    Nothing,
}

impl Holds {
    fn of(node: NodeId, groups: &[GroupStatus]) -> Self {
        let mut shared = groups.iter().filter(|group| group.core.configuration.in_sync.len() > 1);
        if shared.clone().any(|group| group.core.role == Role::Primary) {
            return Holds::Leads;
        }
        let counted = |group: &GroupStatus| {
            group
                .core
                .configuration
                .in_sync
                .iter()
                .any(|member| member.node == node)
        };
        match shared.any(counted) {
            true => Holds::Counted,
            false => Holds::Nothing,
        }
    }
}

/// Hands over every group that this node leads and others hold, for at most `within`, and waits until it is out of their in-sync sets:
/// not for long, for it stays where too few others are in them.
async fn drain(inbox: &Inbox, node: NodeId, within: Duration) {
    inbox.event(Event::Drain);
    let mut holds = Holds::Leads;
    let mut checks_left = LEAVE_SETS_WITHIN.as_millis() / DRAIN_CHECK_EVERY.as_millis();
    let free = async {
        loop {
            let (reply, status) = oneshot::channel();
            inbox.notice(Notice::Inquiry(Inquiry::Status(reply)));
            let Ok((_, groups)) = status.await else { return };
            holds = Holds::of(node, &groups);
            match holds {
                Holds::Nothing => return,
                Holds::Counted if checks_left == 0 => return,
                Holds::Counted => checks_left -= 1,
                Holds::Leads => {}
            }
            tokio::time::sleep(DRAIN_CHECK_EVERY).await;
        }
    };
    // How far it came is in `holds`.
    let _ = tokio::time::timeout(within, free).await;
    match holds {
        Holds::Leads => tracing::warn!("stopping while still leading groups: their backups take over"),
        Holds::Counted => tracing::warn!(
            "stopping while still in sync: writes to groups that need this node wait for it, or for it to be missed"
        ),
        Holds::Nothing => {}
    }
}

/// Gives what is outstanding a moment to be answered, and the answers one to be sent.
async fn answer_all(inbox: &Inbox) {
    let answered = async {
        while inbox.outstanding() > 0 {
            tokio::time::sleep(DRAIN_CHECK_EVERY).await;
        }
    };
    // What is not answered by then is answered by the closed connection.
    let _ = tokio::time::timeout(ANSWER_WITHIN, answered).await;
    tokio::time::sleep(DRAIN_CHECK_EVERY).await;
}

async fn start(
    config: ShardNodeConfig,
    metadata: Arc<dyn Metadata>,
    clock: Arc<dyn Clock>,
    network: Network,
    others: Others,
    stopping: CancellationToken,
) -> Result<(Parts, EventLoop, Started), StartError> {
    let cluster_id = config.cluster()?;
    let bind = |error| StartError::bind("the shard-node", config.listen, error);
    let port = ReservedPort::at(config.listen).map_err(bind)?;
    let address = port.address().map_err(bind)?;
    let metrics = Arc::new(NodeMetrics::new().map_err(|error| StartError::Config(error.to_string()))?);
    let registry = metrics.served().registry().clone();
    let guard = Guard::open(&config.auth, clock.clone(), metrics.served())?;
    guard.warn_if_open(config.listen);
    let tls = Tls::open(&config.tls, metrics.served())?;
    let bound = Bound::of(&config.connections, metrics.served());
    let bound = bound.map_err(|error| StartError::Config(error.to_string()))?;
    let dialer = Dialer::of(tls.as_ref());
    let inbox = Arc::new(Inbox::new(config.bounds()));
    let (failpoints, reading) = Failpoints::of(config.failpoints.as_deref()).unzip();
    let clock = match &failpoints {
        Some(failpoints) => failpoints.clock(clock),
        None => clock,
    };
    let disk = DiskWatch::new(clock.clone(), &config.data_dir, config.times.sync_overdue);
    let boot = BootId(random_u64());
    let node = open_node(&config, &cluster_id, boot, &inbox, &disk, failpoints.as_ref(), &*clock)?;

    let identity = Identity {
        cluster: cluster_id.clone(),
        node: config.node(),
        boot,
        shows: guard.to_show(),
    };
    let unknown = Arc::new(ClusterMap::new(cluster_id.clone()));
    let table = Arc::new(RoutingTable::new(unknown.clone()));
    let (publish, map) = watch::channel(unknown);
    let (tell_ready, ready) = watch::channel(Err("the node starts".to_owned()));
    let ready = readiness(ready, stopping);
    let metrics_server = MetricsServer::start_if(config.metrics_listen, tls.as_ref(), registry.clone(), ready).await?;
    let membership = Membership {
        node: config.node(),
        info: NodeInfo {
            address: config.advertise.clone().unwrap_or_else(|| address.to_string()),
            zone: config.zone.clone(),
        },
        lease: config.times.node_lease,
        deadline: config.times.metadata_deadline,
        metrics: metrics.clone(),
    };
    let placing = Placing {
        clock: clock.clone(),
        every: config.times.placement_check,
        dialer: dialer.clone(),
        metrics: PlacementMetrics::new(metrics.served()).map_err(|error| StartError::Config(error.to_string()))?,
    };
    let cluster = Cluster::start(
        metadata,
        cluster_id,
        membership,
        inbox.clone(),
        Followers {
            map: publish,
            table: table.clone(),
            guard: guard.clone(),
        },
        metrics.clone(),
        placing,
    );
    let cluster = Arc::new(cluster);
    let transport = Transport::new(
        identity.clone(),
        network.clone(),
        map.clone(),
        dialer.clone(),
        config.limits.queued_bytes_per_peer,
    );
    let asker = Asker {
        groups: others.groups(&table, &dialer, guard.to_show()),
        inbox: inbox.clone(),
    };
    let effects = Effects::new(transport, cluster.clone(), metrics.clone(), asker);
    let door = Door {
        inbox: inbox.clone(),
        map: map.clone(),
        clock: clock.clone(),
        default_deadline: config.times.default_deadline,
        outstanding_per_stream: config.limits.outstanding_per_stream,
    };
    let peers = PeerService {
        identity,
        network,
        inbox: inbox.clone(),
        lives: Lives::default(),
    };
    let event_loop = EventLoop::new(node, effects, inbox.clone(), clock, disk, metrics, tell_ready);
    let at = Started {
        address,
        metrics: metrics_server.as_ref().map(MetricsServer::address),
        registry,
    };
    let closing = CancellationToken::new();
    let listener = port.listen().map_err(bind)?;
    let acceptor = tls.map(|tls| tls.acceptor(Port::Services));
    let bounds = (config.connections.clone(), bound);
    let serving = serve(listener, acceptor, bounds, guard.clone(), door, peers, closing.clone());
    let tasks = [
        tokio::spawn(serving),
        tokio::spawn(guard.end_expired()),
        tokio::spawn(tick(inbox.clone(), map, config.times.tick)),
    ];
    let tasks = tasks.map(AbortOnDropHandle::new);
    tracing::info!(node = %config.node(), %address, %boot, data_dir = %config.data_dir.display(), "started");
    Ok((
        Parts {
            inbox,
            cluster,
            closing,
            _tasks: tasks,
            _metrics: metrics_server,
            _failpoints: reading,
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
    failpoints: Option<&Arc<Failpoints>>,
    clock: &dyn Clock,
) -> Result<Node, StartError> {
    let refused = |error| start_error(config, error);
    let identity = DataIdentity {
        cluster: cluster.to_string(),
        node: config.node(),
    };
    let to = inbox.clone();
    let notifier = notifier(disk.clone(), move |done| to.event(Event::BatchDone(done)));
    let notifier = match failpoints {
        Some(failpoints) => failpoints.before(notifier),
        None => notifier,
    };
    let (backend, clean) =
        FjallBackend::open(&config.data_dir, &identity, FjallOptions::default(), notifier).map_err(refused)?;
    let store = Store::new(Box::new(Watched {
        backend,
        watch: disk.clone(),
    }));
    let settings = NodeSettings {
        failover_pause: config.times.failover_pause,
        failover_pause_max: config.times.failover_pause_max,
        ..NodeSettings::new(config.node())
    };
    let boot = Boot { id: boot, clean };
    let cores = Box::new(|options, restored, now| {
        let core: Box<dyn Replica + Send> = Box::new(PrimaryBackup::new(options, restored, now));
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
        StorageError::Io { reason, .. } => StartError::Directory { path, reason },
        StorageError::CorruptStore { .. } => StartError::CorruptStore {
            reason: error.to_string(),
        },
        other => StartError::Config(other.to_string()),
    }
}

/// A node that stops is not ready at once, whatever it was when it last looked.
fn readiness(ready: watch::Receiver<Result<(), String>>, stopping: CancellationToken) -> Readiness {
    Arc::new(move || match stopping.is_cancelled() {
        true => Err("the node stops".to_owned()),
        false => ready.borrow().clone(),
    })
}

/// Tells the event loop that time passes: at least four times in the shortest heartbeat of any keyspace.
async fn tick(inbox: Arc<Inbox>, map: watch::Receiver<Arc<ClusterMap>>, longest: Duration) {
    loop {
        let heartbeats = |map: &ClusterMap| map.keyspaces().values().map(|k| k.options.timing.heartbeat).min();
        let shortest = heartbeats(&map.borrow()).map_or(longest, |heartbeat| heartbeat / 4);
        tokio::time::sleep(shortest.min(longest)).await;
        inbox.tick();
    }
}
