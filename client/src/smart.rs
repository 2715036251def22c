//! The smart client: it knows the cluster map and asks the shard-node that can serve a request, without a router between.
//!
//! A router streams the map, and every newer one with the primaries known then; requests are routed by the same pure
//! decision table as in the router (`fulcrum_common::routing`). What the client cannot reach or does not know goes
//! through a router.

use crate::backoff::Backoff;
use crate::config::Config;
use crate::error::Error;
use crate::retry::{Retries, Verdict};
use crate::routers::{Routers, attempt};
use crate::rpc::{self, Unary};
use crate::transport::Transport;
use fulcrum_common::routing::{Attempts, Failure, Kind, Next, RoutingTable, View};
use fulcrum_common::trace::Span;
use fulcrum_common::wire::{map, v1};
use fulcrum_types::{GroupId, NodeId, Refusal, TraceContext};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// An attempt is given up after so long: the node may be paused or cut off. A repetition is safe: reads change nothing,
/// writes carry idempotency keys.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(900);

/// The way around the routers.
pub(crate) struct Smart {
    config: Config,
    table: Arc<RoutingTable>,
    nodes: Mutex<HashMap<NodeId, (String, Transport)>>,
    rotation: AtomicU64,
    watching: JoinHandle<()>,
}

/// Where a request goes.
pub(crate) struct Route {
    group: GroupId,
    kind: Kind,
}

/// Why a request was not answered directly.
pub(crate) enum Direct {
    /// That is how it ends.
    Final(Verdict),
    /// The nodes that could serve it cannot be reached from here.
    NoWay(Retries),
}

impl Drop for Smart {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Smart {
    pub(crate) async fn start(config: &Config, routers: Arc<Routers>, until: Instant) -> Result<Self, Error> {
        let backoff = Backoff::new();
        let mut failed = 0;
        let (first, maps) = loop {
            match watch(&routers).await {
                Ok(begun) => break begun,
                Err(status) => give_up(&status, &routers, until)?,
            }
            failed += 1;
            tokio::time::sleep(backoff.pause(failed)).await;
        };
        let table = Arc::new(RoutingTable::new(first.map.clone()));
        table.merge(first);
        let watching = tokio::spawn(keep_watching(routers, table.clone(), maps, backoff));
        Ok(Self {
            config: config.clone(),
            table,
            nodes: Mutex::default(),
            rotation: AtomicU64::new(0),
            watching,
        })
    }

    /// Which group serves a request, if it is for one key of a keyspace that is known, and the session has seen no newer
    /// map than ours (rule 8).
    pub(crate) fn route<Q: Unary>(&self, request: &Q) -> Option<Route> {
        let wanted = request.one_key()?;
        let view = self.table.view();
        let seen = wanted.session.map_or(0, |session| session.map_version);
        if seen > view.map.version().0 {
            return None;
        }
        let keyspace = view.map.keyspace_by_name(wanted.keyspace)?;
        let kind = if Q::WRITE {
            Kind::Write { safe_twice: true }
        } else {
            Kind::Read(wanted.level.unwrap_or(keyspace.options.default_level))
        };
        Some(Route {
            group: keyspace.group_of(wanted.key),
            kind,
        })
    }

    /// The node to ask first.
    pub(crate) fn first_choice<Q: Unary>(&self, request: &Q) -> Option<NodeId> {
        let route = self.route(request)?;
        let mut attempts = Attempts::new(route.group, route.kind, self.rotation.fetch_add(1, Ordering::Relaxed));
        match attempts.next(&self.table.view()) {
            Next::Send(node) => Some(node),
            Next::Pause(_) | Next::Fail(_) => None,
        }
    }

    pub(crate) async fn call<Q: Unary>(
        &self,
        route: Route,
        request: &Q,
        until: Instant,
        span: &mut Span,
    ) -> Result<Q::Answer, Direct> {
        let started = Instant::now();
        let mut attempts = Attempts::new(route.group, route.kind, self.rotation.fetch_add(1, Ordering::Relaxed));
        let mut retries = Retries::new(Q::WRITE);
        let mut next = attempts.next(&self.table.view());
        loop {
            let now = Instant::now();
            next = match next {
                Next::Send(_) if now >= until => return Err(ended(attempts.out_of_time())),
                Next::Send(node) => {
                    let patience = (until - now).min(ATTEMPT_TIMEOUT);
                    match self.attempt(node, request, patience, span.context()).await {
                        Ok(answer) => return Ok(answer),
                        Err(failure) => {
                            span.event(|| format!("{node} failed: {failure:?}").into());
                            let _ = retries.after(failure.clone());
                            attempts.after(&self.table.view(), node, failure, started.elapsed())
                        }
                    }
                }
                Next::Pause(_) if retries.not_reached() => return Err(Direct::NoWay(retries)),
                Next::Pause(pause) if now + pause >= until => return Err(ended(attempts.out_of_time())),
                Next::Pause(pause) => {
                    let mut changes = self.table.changes();
                    let _ = tokio::time::timeout(pause, changes.changed()).await;
                    attempts.next(&self.table.view())
                }
                Next::Fail(refusal) => return Err(ended(refusal)),
            };
        }
    }

    async fn attempt<Q: Unary>(
        &self,
        node: NodeId,
        request: &Q,
        patience: Duration,
        trace: Option<TraceContext>,
    ) -> Result<Q::Answer, Failure> {
        let channel = self.channel(node)?;
        attempt(channel, request.clone(), patience, trace).await
    }

    pub(crate) fn channel(&self, node: NodeId) -> Result<Transport, Failure> {
        let view = self.table.view();
        let Some(address) = view.map.address(node) else {
            return Err(Failure::NotSent(format!("{node} is not in the cluster map")));
        };
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = nodes.get(&node)
            && known == address
        {
            return Ok(channel.clone());
        }
        let channel = self.config.transport(address);
        let channel = channel.map_err(|error| Failure::NotSent(error.to_string()))?;
        nodes.insert(node, (address.to_owned(), channel.clone()));
        Ok(channel)
    }
}

fn ended(refusal: Refusal) -> Direct {
    Direct::Final(match refusal {
        Refusal::Unknown { reason } => Verdict::Unknown(reason),
        refusal => Verdict::Refused(refusal),
    })
}

fn give_up(status: &Status, routers: &Routers, until: Instant) -> Result<(), Error> {
    if let Failure::Refused(refusal @ Refusal::Unauthenticated) = rpc::not_opened(status) {
        return Err(Error::Refused(refusal));
    }
    if Instant::now() >= until {
        let reason = format!("{}: {}", routers.addresses(), status.message());
        return Err(Error::Unreachable { reason });
    }
    Ok(())
}

type Begun = (View, Streaming<v1::ClusterMap>);

/// Begins to watch the map through the router in use; answers with the map in force.
async fn watch(routers: &Routers) -> Result<Begun, Status> {
    let chosen = routers.choose();
    let begun = async {
        let mut maps = rpc::admin(chosen.channel.clone())
            .watch_map(v1::WatchMapRequest {})
            .await?
            .into_inner();
        let first = next_map(&mut maps).await?;
        Ok((first, maps))
    };
    begun.await.inspect_err(|_: &Status| routers.failed(&chosen))
}

async fn next_map(maps: &mut Streaming<v1::ClusterMap>) -> Result<View, Status> {
    let wire = maps.message().await?;
    let wire = wire.ok_or_else(|| Status::unavailable("the router closed the stream of maps"))?;
    map::view_from_wire(wire).map_err(|malformed| Status::internal(malformed.to_string()))
}

async fn keep_watching(
    routers: Arc<Routers>,
    table: Arc<RoutingTable>,
    mut maps: Streaming<v1::ClusterMap>,
    backoff: Backoff,
) {
    let mut failed = 0;
    loop {
        match next_map(&mut maps).await {
            Ok(view) => {
                failed = 0;
                table.merge(view);
                continue;
            }
            Err(status) => tracing::debug!(%status, "the stream of cluster maps broke"),
        }
        maps = loop {
            failed += 1;
            tokio::time::sleep(backoff.pause(failed)).await;
            if let Ok((view, maps)) = watch(&routers).await {
                table.merge(view);
                break maps;
            }
        };
    }
}
