//! A coordinator on its own: its thread, its listener, its view of the cluster. A router serves the same in its own process.

use crate::config::CoordinatorConfig;
use crate::coordinator::{Bounds, Coordinator};
use crate::metrics::Metrics;
use crate::service::TransactionsService;
use fulcrum_common::audit::Audit;
use fulcrum_common::auth::{Gate, Guard};
use fulcrum_common::door::{self, Bound, Health, InTime};
use fulcrum_common::lifecycle::Lifecycle;
use fulcrum_common::metadata::{ClusterStore, StoreError};
use fulcrum_common::metrics::Metrics as Registry;
use fulcrum_common::metrics_server::MetricsServer;
use fulcrum_common::routing::{Backends, RoutingTable, StreamedGroups, follow};
use fulcrum_common::tls::{Dialer, Port, Tls, connections};
use fulcrum_common::wire::v1::transactions_server::TransactionsServer;
use fulcrum_common::{Clock, StartError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::server::NamedService;
use tonic::service::Routes;

/// A coordinator told to stop lets calls under way end for so long. What is under way then is left to the groups.
const DRAIN: Duration = Duration::from_secs(5);
const SERVICES: &[&str] = &[TransactionsServer::<TransactionsService>::NAME];

/// A coordinator process at work. Stops when told, or when dropped.
pub struct RunningCoordinator {
    address: SocketAddr,
    metrics_server: Option<MetricsServer>,
    life: Lifecycle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// All that is made before the thread is.
struct Parts {
    config: CoordinatorConfig,
    store: ClusterStore,
    table: Arc<RoutingTable>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    guard: Arc<Guard>,
    audit: Audit,
    life: Lifecycle,
    tls: Option<Arc<Tls>>,
    bound: Bound,
}

impl RunningCoordinator {
    /// Starts a coordinator; answers once it listens and has the cluster map.
    ///
    /// # Errors
    /// The port is in use, or the metadata store cannot be read.
    pub async fn start(
        config: CoordinatorConfig,
        store: ClusterStore,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let registry = Registry::new();
        let tls = Tls::open(&config.tls, &registry)?;
        let map = store.load_map().await.map_err(|error| no_metadata(&error))?;
        let metrics = Metrics::new(&registry).map_err(|error| StartError::Config(error.to_string()))?;
        let guard = Guard::open(&config.auth, clock.clone(), &registry)?;
        guard.learn(&*store.tokens().await.map_err(|error| no_metadata(&error))?);
        guard.warn_if_open(config.listen);
        let audit = Audit::open(&config.audit, clock.clone())?;
        let cannot = |error| StartError::bind("the coordinator", config.listen, error);
        let listener = std::net::TcpListener::bind(config.listen).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let life = Lifecycle::of("coordinator");
        let (scraped, ready) = (registry.registry().clone(), life.readiness());
        let metrics_server = MetricsServer::start_if(config.metrics_listen, tls.as_ref(), scraped, ready).await?;
        let bound = Bound::of(&config.connections, &registry);
        let bound = bound.map_err(|error| StartError::Config(error.to_string()))?;
        let parts = Parts {
            config,
            store,
            table: Arc::new(RoutingTable::new(map)),
            clock,
            metrics,
            guard,
            audit,
            life: life.clone(),
            tls,
            bound,
        };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("fulcrum-coordinator".into())
            .spawn(move || run(parts, listener, stopped))
            .map_err(|source| StartError::Io {
                action: "start",
                target: "the coordinator's thread".into(),
                source,
            })?;
        Ok(Self {
            address,
            metrics_server,
            life,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/metrics` is served, if anywhere.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_server.as_ref().map(MetricsServer::address)
    }

    /// Is not ready any more, takes no more requests, answers those under way, and waits until the thread has ended.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.life.stops();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for RunningCoordinator {
    fn drop(&mut self) {
        self.stop();
    }
}

fn no_metadata(error: &StoreError) -> StartError {
    StartError::Config(format!("the cluster's metadata cannot be read: {error}"))
}

fn run(parts: Parts, listener: std::net::TcpListener, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "cannot start the coordinator's runtime"),
    };
    runtime.block_on(async {
        let guard = parts.guard.clone();
        tokio::spawn(guard.clone().end_expired());
        tokio::spawn(follow(parts.store.clone(), parts.table.clone(), Some(guard), |_| {}));
        let life = parts.life.clone();
        if let Err(error) = serve(parts, listener, stopped).await {
            tracing::error!(%error, "the coordinator has stopped");
        }
        life.stops();
    });
}

async fn serve(
    parts: Parts,
    listener: std::net::TcpListener,
    stopped: oneshot::Receiver<()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let backends = Backends::new(Dialer::of(parts.tls.as_ref()), parts.guard.to_show());
    let groups = Arc::new(StreamedGroups::new(parts.table.clone(), backends));
    let bounds = Bounds {
        transactions_max: parts.config.transactions_max as usize,
        ..Bounds::default()
    };
    let coordinator = Coordinator::start(groups, parts.table, parts.clock, bounds, parts.metrics);
    let transactions = TransactionsService::new(
        coordinator,
        parts.audit,
        parts.config.default_deadline,
        parts.life.clone(),
    );
    let (health, health_service) = Health::serving(SERVICES).await;
    let (reflection, older_reflection) = door::reflection(SERVICES)?;
    let acceptor = parts.tls.map(|tls| tls.acceptor(Port::Services));
    let incoming = connections(TcpListener::from_std(listener)?, acceptor, parts.bound);
    let (drain, draining) = oneshot::channel::<()>();
    let services = Routes::new(health_service)
        .add_service(reflection)
        .add_service(older_reflection)
        .add_service(Gate::for_clients(&parts.guard, transactions.into_server()));
    let server = parts.config.connections.server();
    let serving = server.serve_with_incoming_shutdown(InTime::new(services.prepare()), incoming, async {
        let _ = draining.await;
    });
    let told = async {
        let _ = stopped.await;
        health.stops().await;
        let _ = drain.send(());
        tokio::time::sleep(DRAIN).await;
        tracing::warn!("calls still under way are broken off");
    };
    parts.life.serves();
    tokio::select! {
        served = serving => served?,
        () = told => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::limits::MAX_BATCH_OPS;
    use fulcrum_common::wire::batch::TransactionPipelineRequest;
    use fulcrum_common::wire::status::{refusal_from_status, refusal_from_wire};
    use fulcrum_common::wire::v1;
    use fulcrum_common::wire::v1::transaction_answer::Answer;
    use fulcrum_common::wire::v1::transaction_call::Call;
    use fulcrum_common::wire::v1::transactions_client::TransactionsClient;
    use fulcrum_common::{ClusterId, EmbeddedMetadata, SystemClock};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_stream::StreamExt;
    use tonic::Status;
    use tonic::transport::Channel;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_serves_says_how_it_is_and_stops() {
        let store = store().await;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = CoordinatorConfig {
            listen: any,
            metrics_listen: Some(any),
            ..CoordinatorConfig::default()
        };
        let start = |config| RunningCoordinator::start(config, store.clone(), Arc::new(SystemClock));
        let running = start(config.clone()).await.unwrap();
        let taken = CoordinatorConfig {
            listen: running.address(),
            ..config
        };
        let refused = start(taken).await.err().unwrap();
        assert!(matches!(refused, StartError::PortInUse { .. }), "{refused}");

        let url = format!("http://{}", running.address());
        let channel = Channel::from_shared(url.clone()).unwrap().connect().await.unwrap();
        let mut health = HealthClient::new(channel);
        let service = "fulcrum.v1.Transactions".to_owned();
        let checked = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(checked.into_inner().status(), ServingStatus::Serving);
        let mut transactions = TransactionsClient::connect(url.clone()).await.unwrap();
        let list = transactions.list_in_doubt(v1::ListInDoubtRequest::default()).await;
        assert_eq!(list.unwrap().into_inner(), v1::ListInDoubtResponse::default());
        let nameless = transactions.commit(v1::CommitRequest::default()).await.unwrap_err();
        assert_eq!(refusal_from_status(&nameless).code(), "INVALID");

        let at = running.metrics_address().unwrap();
        assert!(
            get(at, "/metrics")
                .await
                .contains("\nfulcrum_coordinator_open_questions 0\n")
        );
        assert!(get(at, "/readyz").await.starts_with("HTTP/1.1 200"));
        tokio::task::spawn_blocking(move || running.shutdown()).await.unwrap();
        assert!(TransactionsClient::connect(url).await.is_err(), "it still listens");
    }

    async fn store() -> ClusterStore {
        let id = ClusterId::new("test").unwrap();
        let metadata = EmbeddedMetadata::in_memory(id.clone(), Arc::new(SystemClock));
        ClusterStore::open(Arc::new(metadata), id).await.unwrap()
    }

    async fn connected() -> (RunningCoordinator, TransactionsClient<Channel>) {
        let config = CoordinatorConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_listen: None,
            ..CoordinatorConfig::default()
        };
        let running = RunningCoordinator::start(config, store().await, Arc::new(SystemClock))
            .await
            .unwrap();
        let url = format!("http://{}", running.address());
        let transactions = TransactionsClient::connect(url).await.unwrap();
        (running, transactions)
    }

    fn call(id: u64, call: Option<Call>) -> v1::TransactionCall {
        v1::TransactionCall {
            id,
            call,
            deadline_ms: 500,
            trace: Default::default(),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_of_one_stream_are_answered_each_by_itself() {
        let (running, mut transactions) = connected().await;

        let (read, commit) = (v1::TransactionReadRequest::default(), v1::CommitRequest::default());
        // The same as calls by themselves are told.
        let told = |status: Status| refusal_from_status(&status).to_string();
        let read_alone = told(transactions.read(read.clone()).await.unwrap_err());
        let commit_alone = told(transactions.commit(commit.clone()).await.unwrap_err());
        let calls = [
            call(7, None),
            call(8, Some(Call::Read(read))),
            call(9, Some(Call::Commit(commit))),
        ];
        let asked = tokio_stream::iter([calls.into_iter().collect::<TransactionPipelineRequest>()]);
        let answers = transactions.pipeline(asked).await.unwrap().into_inner();
        let messages: Vec<_> = answers.map(Result::unwrap).collect().await;
        let mut refusals: Vec<_> = messages
            .into_iter()
            .flat_map(|message| message.items().map(Result::unwrap))
            .map(|answer| match answer.answer {
                Some(Answer::Error(error)) => (answer.id, refusal_from_wire(*error).to_string()),
                other => panic!("{}: {other:?}", answer.id),
            })
            .collect();
        refusals.sort_unstable();
        let [missing, read, commit] = &refusals[..] else {
            panic!("{refusals:?}");
        };
        assert!(missing.0 == 7 && missing.1.contains("call is missing"), "{missing:?}");
        assert_eq!((read, commit), (&(8, read_alone), &(9, commit_alone)));

        let many = (0..=MAX_BATCH_OPS as u64)
            .map(|id| call(id, None))
            .collect::<TransactionPipelineRequest>();
        let mut answers = transactions
            .pipeline(tokio_stream::iter([many]))
            .await
            .unwrap()
            .into_inner();
        let refused = answers.message().await.unwrap_err();
        assert_eq!(refusal_from_status(&refused).code(), "INVALID");
        assert!(refused.message().contains("split it"), "{refused}");
        tokio::task::spawn_blocking(move || running.shutdown()).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stream_that_is_left_open_ends_when_the_coordinator_stops() {
        let (running, mut transactions) = connected().await;
        let (asked, waiting) = tokio::sync::mpsc::channel(1);
        let waiting = tokio_stream::wrappers::ReceiverStream::new(waiting);
        let mut answers = transactions.pipeline(waiting).await.unwrap().into_inner();
        let message = [call(1, None)].into_iter().collect::<TransactionPipelineRequest>();
        asked.send(message).await.unwrap();
        let answered = answers.message().await.unwrap().unwrap();
        assert_eq!(answered.items().count(), 1);
        let stopped = tokio::task::spawn_blocking(move || running.shutdown());
        let end = answers.message().await;
        assert!(matches!(end, Ok(None)), "in good order: {end:?}");
        stopped.await.unwrap();
    }
}
