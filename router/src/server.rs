//! Starts a router on its own thread: one `current_thread` runtime, because a request that never hops threads costs half
//! the CPU (DESIGN section 13).

use crate::admin::AdminService;
use crate::backup::BackupService;
use crate::config::RouterConfig;
use crate::dispatch::Dispatch;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::service::KvService;
use crate::watch::Watches;
use fulcrum_common::audit::Audit;
use fulcrum_common::auth::{Gate, Guard};
use fulcrum_common::clock::Clock;
use fulcrum_common::door::{self, Bound, Health, InTime};
use fulcrum_common::error::StartError;
use fulcrum_common::lifecycle::Lifecycle;
use fulcrum_common::limits;
use fulcrum_common::metadata::{ClusterStore, StoreError};
use fulcrum_common::metrics::Metrics as Registry;
use fulcrum_common::metrics_server::MetricsServer;
use fulcrum_common::routing::{Backends, RoutingTable, StreamedGroups, follow};
use fulcrum_common::tls::{Acceptor, Dialer, Port, Tls, connections};
use fulcrum_common::wire::v1::admin_server::AdminServer;
use fulcrum_common::wire::v1::backup_server::BackupServer;
use fulcrum_common::wire::v1::kv_server::KvServer;
use fulcrum_common::wire::v1::transactions_server::TransactionsServer;
use fulcrum_coordinator::{Bounds, Coordinator, Metrics as TransactionMetrics, TransactionsService};
use fulcrum_types::MapVersion;
use prometheus::Registry as PrometheusRegistry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::server::NamedService;
use tonic::service::Routes;

/// A router told to stop lets calls under way end for so long. Pipelines and watches, which could last for ever, end by themselves.
const DRAIN: Duration = Duration::from_secs(5);

const SERVICES: &[&str] = &[
    KvServer::<KvService>::NAME,
    TransactionsServer::<TransactionsService>::NAME,
    AdminServer::<AdminService>::NAME,
    BackupServer::<BackupService>::NAME,
];

/// How a router ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    InGoodOrder,
    AtOnce,
}

/// Starts routers.
pub struct Router;

/// A router at work. Stops when told, or when dropped.
pub struct RunningRouter {
    address: SocketAddr,
    metrics_server: Option<MetricsServer>,
    registry: PrometheusRegistry,
    life: Lifecycle,
    stop: Option<oneshot::Sender<Stop>>,
    thread: Option<JoinHandle<()>>,
}

impl RunningRouter {
    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its metrics.
    #[must_use]
    pub fn registry(&self) -> &PrometheusRegistry {
        &self.registry
    }

    /// Where `/metrics` is served, if anywhere.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_server.as_ref().map(MetricsServer::address)
    }

    /// Is not ready any more, takes no more requests, answers those under way, and waits until the thread has ended.
    pub fn shutdown(mut self) {
        self.stop(Stop::InGoodOrder);
    }

    /// Ends at once, as a kill would: calls under way break, and what its coordinator is doing is left to the groups.
    pub fn crash(mut self) {
        self.stop(Stop::AtOnce);
    }

    fn stop(&mut self, how: Stop) {
        if how == Stop::InGoodOrder {
            self.life.stops();
        }
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(how);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for RunningRouter {
    fn drop(&mut self) {
        self.stop(Stop::InGoodOrder);
    }
}

impl Router {
    /// Starts a router; answers once it listens and has the cluster map.
    ///
    /// # Errors
    /// The port is in use, or the metadata store cannot be read.
    pub async fn start(
        config: RouterConfig,
        store: ClusterStore,
        clock: Arc<dyn Clock>,
    ) -> Result<RunningRouter, StartError> {
        let registry = Registry::new();
        let tls = Tls::open(&config.tls, &registry)?;
        let map = store.load_map().await.map_err(|error| no_metadata(&error))?;
        let table = Arc::new(RoutingTable::new(map));
        let metrics = Metrics::new(&registry).map_err(|error| StartError::Config(error.to_string()))?;
        let transactions = TransactionMetrics::new(&registry).map_err(|error| StartError::Config(error.to_string()))?;
        let guard = Guard::open(&config.auth, clock.clone(), &registry)?;
        guard.learn(&*store.tokens().await.map_err(|error| no_metadata(&error))?);
        guard.warn_if_open(config.listen);
        let audit = Audit::open(&config.audit, clock.clone())?;
        let identity = Identity::new(clock.clone());
        let backends = Backends::new(Dialer::of(tls.as_ref()), guard.to_show());
        let dispatch = Arc::new(Dispatch::new(table, backends, identity, metrics, config.requests_max));
        let cannot = |error| StartError::bind("the router", config.listen, error);
        let listener = std::net::TcpListener::bind(config.listen).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let life = Lifecycle::of("router");
        let (scraped, ready) = (registry.registry().clone(), life.readiness());
        let metrics_server = MetricsServer::start_if(config.metrics_listen, tls.as_ref(), scraped, ready).await?;
        let acceptor = tls.map(|tls| tls.acceptor(Port::Clients));
        let bound = Bound::of(&config.connections, &registry);
        let bound = bound.map_err(|error| StartError::Config(error.to_string()))?;
        let (stop, stopped) = oneshot::channel::<Stop>();
        let of_thread = life.clone();
        let thread = std::thread::Builder::new()
            .name("fulcrum-router".into())
            .spawn(move || {
                let parts = Parts {
                    config,
                    store,
                    dispatch,
                    clock,
                    transactions,
                    guard,
                    audit,
                    life: of_thread,
                    acceptor,
                    bound,
                };
                run(parts, listener, stopped);
            })
            .map_err(|source| StartError::Io {
                action: "start",
                target: "the router's thread".into(),
                source,
            })?;
        Ok(RunningRouter {
            address,
            metrics_server,
            registry: registry.registry().clone(),
            life,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

fn no_metadata(error: &StoreError) -> StartError {
    StartError::Config(format!("the cluster's metadata cannot be read: {error}"))
}

/// All that is made before the thread is.
struct Parts {
    config: RouterConfig,
    store: ClusterStore,
    dispatch: Arc<Dispatch>,
    clock: Arc<dyn Clock>,
    transactions: TransactionMetrics,
    guard: Arc<Guard>,
    audit: Audit,
    life: Lifecycle,
    acceptor: Option<Acceptor>,
    bound: Bound,
}

fn run(parts: Parts, listener: std::net::TcpListener, stopped: oneshot::Receiver<Stop>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "cannot start the router's runtime"),
    };
    runtime.block_on(async {
        let metric = parts.dispatch.metrics.map_version.clone();
        let newer = move |version: MapVersion| metric.set(i64::try_from(version.0).unwrap_or(i64::MAX));
        let guard = parts.guard.clone();
        tokio::spawn(guard.clone().end_expired());
        tokio::spawn(follow(
            parts.store.clone(),
            parts.dispatch.table.clone(),
            Some(guard),
            newer,
        ));
        let life = parts.life.clone();
        if let Err(error) = serve(parts, listener, stopped).await {
            tracing::error!(%error, "the router has stopped");
        }
        life.stops();
    });
}

async fn serve(
    parts: Parts,
    listener: std::net::TcpListener,
    stopped: oneshot::Receiver<Stop>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Parts {
        config,
        store,
        dispatch,
        clock,
        transactions,
        guard,
        audit,
        life,
        acceptor,
        bound,
    } = parts;
    let default_deadline = config.default_deadline;
    let bounds = Bounds {
        transactions_max: config.transactions_max as usize,
        ..Bounds::default()
    };
    let table = dispatch.table.clone();
    // The same streams as for everything else.
    let groups = Arc::new(StreamedGroups::new(table.clone(), dispatch.backends.clone()));
    let backup = BackupService {
        groups: groups.clone(),
        table: table.clone(),
        store: store.clone(),
        audit: audit.clone(),
    };
    let coordinator = Coordinator::start(groups, table, clock.clone(), bounds, transactions);
    let transactions = TransactionsService::new(coordinator, audit.clone(), default_deadline, life.clone());
    let admin = AdminService {
        dispatch: dispatch.clone(),
        store,
        guard: guard.clone(),
        audit,
        clock,
        default_deadline,
        life: life.clone(),
    };
    let watches = Watches::new(dispatch.metrics.clone(), config.watched_groups_max);
    let kv = KvService {
        dispatch,
        watches,
        default_deadline,
        life: life.clone(),
    };
    let (health, health_service) = Health::serving(SERVICES).await;
    let (reflection, older_reflection) = door::reflection(SERVICES)?;
    let incoming = connections(TcpListener::from_std(listener)?, acceptor, bound);
    let (drain, draining) = oneshot::channel::<()>();
    let services = Routes::new(health_service)
        .add_service(reflection)
        .add_service(older_reflection)
        .add_service(Gate::for_clients(
            &guard,
            KvServer::new(kv).max_decoding_message_size(limits::MAX_MESSAGE_BYTES),
        ))
        .add_service(Gate::for_clients(&guard, transactions.into_server()))
        .add_service(Gate::for_clients(&guard, AdminServer::new(admin)))
        .add_service(Gate::for_clients(
            &guard,
            BackupServer::new(backup).max_decoding_message_size(limits::MAX_MESSAGE_BYTES),
        ));
    let server = config.connections.server();
    let serving = server.serve_with_incoming_shutdown(InTime::new(services.prepare()), incoming, async {
        let _ = draining.await;
    });
    let told = async {
        // Nobody is left to say how: in good order.
        if stopped.await == Ok(Stop::AtOnce) {
            return;
        }
        health.stops().await;
        let _ = drain.send(());
        tokio::time::sleep(DRAIN).await;
        tracing::warn!("calls still under way are broken off");
    };
    life.serves();
    tokio::select! {
        served = serving => served?,
        () = told => {}
    }
    Ok(())
}
