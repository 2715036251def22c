//! Sends one group's request until it is answered, finally refused, or out of time.

use crate::backends::Backends;
use crate::identity::Identity;
use crate::metrics::Metrics;
use fulcrum_common::routing::{Attempts, Failure, Kind, Next, RoutingTable};
use fulcrum_types::{Answered, GroupId, GroupRequest, KeyspaceId, Level, Mode, NodeId, Operation, Refusal, WriteOp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// An attempt that may be repeated is given up after so long: the node may be paused or cut off.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(900);

/// What a request is about, for routing and metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) name: &'a str,
    pub(crate) mode: Mode,
    pub(crate) group: GroupId,
}

/// The path from a decoded request to its answer.
#[derive(Clone)]
pub(crate) struct Dispatch {
    pub(crate) table: Arc<RoutingTable>,
    pub(crate) backends: Backends,
    pub(crate) identity: Arc<Identity>,
    pub(crate) metrics: Arc<Metrics>,
    rotation: Arc<AtomicU64>,
    under_way_max: u32,
}

/// Counts a request as under way until dropped.
struct UnderWay<'a>(&'a Metrics);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.dec();
    }
}

impl Dispatch {
    pub(crate) fn new(table: Arc<RoutingTable>, identity: Arc<Identity>, metrics: Metrics, under_way_max: u32) -> Self {
        let (backends, metrics, rotation) = (Backends::default(), Arc::new(metrics), Arc::default());
        Self {
            table,
            backends,
            identity,
            metrics,
            rotation,
            under_way_max,
        }
    }

    /// A write. Without a key of the client's, the router's own makes repetition safe.
    pub(crate) async fn write(
        &self,
        target: Target<'_>,
        idempotency: Option<fulcrum_types::IdempotencyKey>,
        seen: Option<fulcrum_types::LogPosition>,
        ops: Vec<WriteOp>,
        until: Instant,
    ) -> Result<Answered, Refusal> {
        let held = if idempotency.is_none() {
            Some(self.identity.next())
        } else {
            None
        };
        let key = idempotency.or(held.as_ref().map(|held| held.key));
        let operation = Operation::Write {
            idempotency: key,
            seen,
            ops,
        };
        self.run(target, operation, Kind::Write { safe_twice: true }, "write", until)
            .await
    }

    /// A read, or a look-up of an outcome.
    pub(crate) async fn read(
        &self,
        target: Target<'_>,
        operation: Operation,
        level: Level,
        name: &'static str,
        until: Instant,
    ) -> Result<Answered, Refusal> {
        self.run(target, operation, Kind::Read(level), name, until).await
    }

    async fn run(
        &self,
        target: Target<'_>,
        operation: Operation,
        kind: Kind,
        name: &'static str,
        until: Instant,
    ) -> Result<Answered, Refusal> {
        let started = Instant::now();
        let admitted = self.admit();
        let mut attempts = Attempts::new(target.group, kind, self.rotation.fetch_add(1, Ordering::Relaxed));
        let result = match &admitted {
            Ok(_) => {
                self.attempt_all(&mut attempts, target, operation, kind, started, until)
                    .await
            }
            Err(refusal) => Err(refusal.clone()),
        };
        self.metrics
            .request(target, kind, name, started.elapsed(), attempts.count(), &result);
        result
    }

    /// Sheds load early: a request that would only wait is refused while that is still cheap.
    fn admit(&self) -> Result<UnderWay<'_>, Refusal> {
        self.metrics.under_way.inc();
        let admitted = UnderWay(&self.metrics);
        if self.metrics.under_way.get() > i64::from(self.under_way_max) {
            return Err(Refusal::Overloaded);
        }
        Ok(admitted)
    }

    async fn attempt_all(
        &self,
        attempts: &mut Attempts,
        target: Target<'_>,
        operation: Operation,
        kind: Kind,
        started: Instant,
        until: Instant,
    ) -> Result<Answered, Refusal> {
        let mut next = attempts.next(&self.table.view());
        loop {
            next = match next {
                Next::Send(node) => {
                    if Instant::now() >= until {
                        return Err(attempts.out_of_time());
                    }
                    match self.attempt(node, target, operation.clone(), kind, until).await {
                        Ok(answered) => return Ok(answered),
                        Err(failure) => attempts.after(&self.table.view(), node, failure, started.elapsed()),
                    }
                }
                Next::Pause(pause) => {
                    if Instant::now() + pause >= until {
                        return Err(attempts.out_of_time());
                    }
                    self.wait(pause).await;
                    attempts.next(&self.table.view())
                }
                Next::Fail(refusal) => return Err(refusal),
            };
        }
    }

    async fn attempt(
        &self,
        node: NodeId,
        target: Target<'_>,
        operation: Operation,
        kind: Kind,
        until: Instant,
    ) -> Result<Answered, Failure> {
        let view = self.table.view();
        let Some(address) = view.map.address(node) else {
            return Err(Failure::NotSent(format!("{node} is not in the cluster map")));
        };
        let left = until.saturating_duration_since(Instant::now());
        let repeatable = !matches!(kind, Kind::Write { safe_twice: false });
        let patience = if repeatable { left.min(ATTEMPT_TIMEOUT) } else { left };
        let request = GroupRequest {
            keyspace: target.keyspace,
            group: target.group,
            map_version: view.map.version(),
            deadline: patience,
            operation,
        };
        match tokio::time::timeout(patience, self.backends.call(node, address, request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Lost(format!(
                "{node} did not answer within {} ms",
                patience.as_millis()
            ))),
        }
    }

    /// Waits, but not longer than until the view changes.
    async fn wait(&self, pause: Duration) {
        let mut changes = self.table.changes();
        let _ = tokio::time::timeout(pause, changes.changed()).await;
    }
}
