//! This node and the metadata store: registration, the watch, and the calls that cores ask for.
//!
//! Nothing here is on the path of a request. While the store cannot be reached the node goes on with the map and the
//! configurations that it has; leases are between replicas and do not depend on it. Every call has a deadline, and one
//! whose answer did not come in time counts as *unknown* (rule 2), never as failed.

use crate::event::Event;
use crate::inbox::Inbox;
use crate::metrics::{NodeMetrics, PlacementMetrics};
use crate::placement::Placer;
use fulcrum_common::auth::Guard;
use fulcrum_common::metadata::NodeLease;
use fulcrum_common::routing::{Backends, RoutingTable};
use fulcrum_common::tls::Dialer;
use fulcrum_common::{
    CasResult, Clock, ClusterEvent, ClusterId, ClusterMap, ClusterStore, Metadata, NodeInfo, StoreError,
};
use fulcrum_replication::{CasId, CasOutcome};
use fulcrum_types::{ConfigVersion, GroupConfiguration, GroupId, NodeId};
use futures::StreamExt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Calls that may wait or be under way.
const CALLS: usize = 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a core asks of the metadata store.
#[derive(Debug)]
pub(crate) enum Call {
    /// Ends with [`Event::CasOutcome`].
    CompareAndSwap {
        group: GroupId,
        attempt: CasId,
        expected: ConfigVersion,
        proposal: GroupConfiguration,
    },
    /// Ends with [`Event::Configuration`], if the store answers.
    ReadConfiguration { group: GroupId },
    /// Ends with [`Event::LeaseGone`], if the store says so.
    ReadLease { group: GroupId, node: NodeId },
}

/// What placement needs beside the connection.
pub(crate) struct Placing {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) every: Duration,
    pub(crate) dialer: Dialer,
    pub(crate) metrics: PlacementMetrics,
}

/// What this node says of itself, and how patient it is.
pub(crate) struct Membership {
    pub(crate) node: NodeId,
    pub(crate) info: NodeInfo,
    pub(crate) lease: Duration,
    pub(crate) deadline: Duration,
    /// Signs of life are counted.
    pub(crate) metrics: Arc<NodeMetrics>,
}

/// Who hears of newer maps and configurations, beside the event loop.
pub(crate) struct Followers {
    pub(crate) map: watch::Sender<Arc<ClusterMap>>,
    /// By which other groups are found.
    pub(crate) table: Arc<RoutingTable>,
    /// By which callers are recognised.
    pub(crate) guard: Arc<Guard>,
}

/// The connection to the metadata store. Its tasks end with it.
pub(crate) struct Cluster {
    calls: mpsc::Sender<Call>,
    inbox: Arc<Inbox>,
    leaving: CancellationToken,
    left: CancellationToken,
    _tasks: [AbortOnDropHandle<()>; 5],
}

impl Cluster {
    /// Starts to connect. Must be called within a runtime. Newer maps are published to `followers`.
    pub(crate) fn start(
        metadata: Arc<dyn Metadata>,
        cluster: ClusterId,
        membership: Membership,
        inbox: Arc<Inbox>,
        followers: Followers,
        metrics: Arc<NodeMetrics>,
        placing: Placing,
    ) -> Self {
        let (opened, store) = watch::channel(None);
        let (calls, waiting) = mpsc::channel(CALLS);
        let (leaving, left) = (CancellationToken::new(), CancellationToken::new());
        let deadline = membership.deadline;
        let caller = Caller {
            store: store.clone(),
            deadline,
            inbox: inbox.clone(),
            metrics,
        };
        let (registered, lease) = watch::channel(None);
        let placer = Placer {
            node: membership.node,
            store: store.clone(),
            lease,
            table: followers.table.clone(),
            clock: placing.clock,
            every: placing.every,
            backends: Backends::new(placing.dialer, followers.guard.to_show()),
            deadline,
            metrics: placing.metrics,
        };
        let leave = (leaving.clone(), left.clone());
        let registration = stay_registered(store.clone(), membership, registered, leave);
        let tasks = [
            tokio::spawn(placer.run()),
            tokio::spawn(registration),
            tokio::spawn(open(metadata, cluster, deadline, opened)),
            tokio::spawn(follow(store, inbox.clone(), followers)),
            tokio::spawn(caller.run(waiting)),
        ];
        Self {
            calls,
            inbox,
            leaving,
            left,
            _tasks: tasks.map(AbortOnDropHandle::new),
        }
    }

    /// Makes a call, whose outcome comes back as an event.
    pub(crate) fn call(&self, call: Call) {
        if let Err(refused) = self.calls.try_send(call) {
            match refused.into_inner() {
                Call::CompareAndSwap { group, attempt, .. } => {
                    let event = Event::CasOutcome {
                        group,
                        attempt,
                        outcome: CasOutcome::Unknown,
                    };
                    self.inbox.event(event);
                }
                // The core asks again.
                Call::ReadConfiguration { .. } | Call::ReadLease { .. } => {}
            }
        }
    }

    /// Says that this node stops, if that can be said in a moment.
    pub(crate) async fn leave(&self, within: Duration) {
        self.leaving.cancel();
        // Not said in time, the lease says it.
        let _ = tokio::time::timeout(within, self.left.cancelled()).await;
    }
}

/// A call's result within the deadline; without an answer it is unknown what happened.
async fn within<T>(deadline: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unknown(format!(
            "no answer within {} ms",
            deadline.as_millis()
        ))),
    }
}

/// Tries until the store is open.
async fn open(
    metadata: Arc<dyn Metadata>,
    cluster: ClusterId,
    deadline: Duration,
    opened: watch::Sender<Option<ClusterStore>>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        match within(deadline, ClusterStore::open(metadata.clone(), cluster.clone())).await {
            Ok(store) => {
                opened.send_replace(Some(store));
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot open the cluster's metadata yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn when_open(store: &mut watch::Receiver<Option<ClusterStore>>) -> Option<ClusterStore> {
    store.wait_for(Option::is_some).await.ok()?.clone()
}

/// Keeps the node known and alive until it leaves.
async fn stay_registered(
    mut store: watch::Receiver<Option<ClusterStore>>,
    membership: Membership,
    registered: watch::Sender<Option<NodeLease>>,
    (leaving, left): (CancellationToken, CancellationToken),
) {
    let _said = left.drop_guard();
    let Some(store) = leaving.run_until_cancelled(when_open(&mut store)).await.flatten() else {
        return;
    };
    let Membership {
        node,
        info,
        lease: ttl,
        deadline,
        metrics,
    } = membership;
    let mut pause = FIRST_PAUSE;
    while !leaving.is_cancelled() {
        let lease = match within(deadline, store.register_node(node, info.clone(), ttl)).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::warn!(%node, %error, "not registered yet");
                leaving.run_until_cancelled(tokio::time::sleep(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        tracing::info!(%node, address = %info.address, "registered");
        registered.send_replace(Some(lease));
        pause = FIRST_PAUSE;
        loop {
            if leaving.run_until_cancelled(tokio::time::sleep(ttl / 3)).await.is_none() {
                registered.send_replace(None);
                if let Err(error) = within(deadline, store.leave_node(lease)).await {
                    tracing::warn!(%node, %error, "could not say that this node leaves");
                }
                return;
            }
            let kept = within(deadline, store.keep_node_alive(lease)).await;
            metrics.metadata_call("sign_of_life", outcome_of(&kept));
            match kept {
                Ok(true) => {}
                Ok(false) => {
                    registered.send_replace(None);
                    break;
                }
                Err(error) => tracing::warn!(%node, %error, "no sign of life at the metadata store; serving goes on"),
            }
        }
    }
}

/// Passes on newer maps and configurations.
async fn follow(mut store: watch::Receiver<Option<ClusterStore>>, inbox: Arc<Inbox>, followers: Followers) {
    let Some(store) = when_open(&mut store).await else {
        return;
    };
    let mut changes = store.watch();
    while let Some(change) = changes.next().await {
        match change {
            ClusterEvent::Map(newer) => {
                followers.map.send_replace(newer.clone());
                followers.table.set_map(newer.clone());
                inbox.event(Event::Map(newer));
            }
            ClusterEvent::Configuration(group, configuration) => {
                followers.table.set_configuration(group, &configuration);
                inbox.event(Event::Configuration { group, configuration });
            }
            ClusterEvent::Tokens { table, asked } => followers.guard.hear(&table, asked),
            ClusterEvent::TokensUnreadable { error, revision, asked } => {
                followers.guard.cannot_read(&error, revision, asked);
            }
        }
    }
}

/// Makes the calls of cores, each as a task of its own.
struct Caller {
    store: watch::Receiver<Option<ClusterStore>>,
    deadline: Duration,
    inbox: Arc<Inbox>,
    metrics: Arc<NodeMetrics>,
}

impl Caller {
    async fn run(self, mut waiting: mpsc::Receiver<Call>) {
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = under_way.join_next() => {}
                call = waiting.recv(), if under_way.len() < CALLS => match call {
                    Some(call) => { under_way.spawn(self.make(call)); }
                    None => return,
                },
            }
        }
    }

    /// The call, and its outcome to the event loop.
    fn make(&self, call: Call) -> impl Future<Output = ()> + use<> {
        let Self {
            store,
            deadline,
            inbox,
            metrics,
        } = self;
        let (mut store, deadline, inbox, metrics) = (store.clone(), *deadline, inbox.clone(), metrics.clone());
        async move {
            let store = async {
                let gone = || StoreError::Unavailable("the node stops".to_owned());
                when_open(&mut store).await.ok_or_else(gone)
            };
            match call {
                Call::CompareAndSwap {
                    group,
                    attempt,
                    expected,
                    proposal,
                } => {
                    let swap = async { store.await?.compare_and_swap(group, expected, proposal).await };
                    let result = within(deadline, swap).await;
                    metrics.metadata_call("compare_and_swap", outcome_of(&result));
                    let outcome = cas_outcome(group, result);
                    inbox.event(Event::CasOutcome {
                        group,
                        attempt,
                        outcome,
                    });
                }
                Call::ReadLease { group, node } => {
                    let result = within(deadline, async { store.await?.is_alive(node).await }).await;
                    metrics.metadata_call("read_lease", outcome_of(&result));
                    // No answer is not the answer that it is gone.
                    if let Ok(false) = result {
                        inbox.event(Event::LeaseGone { group, node });
                    }
                }
                Call::ReadConfiguration { group } => {
                    let result = within(deadline, async { store.await?.configuration(group).await }).await;
                    metrics.metadata_call("read_configuration", outcome_of(&result));
                    match result {
                        Ok(Some(configuration)) => {
                            inbox.event(Event::Configuration { group, configuration });
                        }
                        Ok(None) => {}
                        Err(error) => tracing::debug!(%group, %error, "configuration not read"),
                    }
                }
            }
        }
    }
}

fn outcome_of<T>(result: &Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "answered",
        Err(StoreError::Unknown(_)) => "unknown",
        Err(_) => "failed",
    }
}

/// An error that surely changed nothing counts as unknown too: the core then reads back what is in force.
fn cas_outcome(group: GroupId, result: Result<CasResult, StoreError>) -> CasOutcome {
    match result {
        Ok(CasResult::Won(configuration)) => CasOutcome::Won(configuration),
        Ok(CasResult::Lost(configuration)) => CasOutcome::Lost(configuration),
        // The map will say so.
        Ok(CasResult::Dropped) => CasOutcome::Unknown,
        Err(error) => {
            tracing::debug!(%group, %error, "compare-and-swap without an outcome");
            CasOutcome::Unknown
        }
    }
}
