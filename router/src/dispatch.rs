//! Sends one group's request until it is answered, finally refused, or out of time.

use crate::backends::{Attempt, Backends, Outcome};
use crate::identity::{Held, Identity};
use crate::metrics::Metrics;
use fulcrum_common::Keyspace;
use fulcrum_common::routing::{Attempts, Failure, Kind, Next, RoutingTable, View};
use fulcrum_common::wire::shard::Reply;
use fulcrum_types::{Answered, GroupId, GroupRequest, KeyspaceId, Mode, NodeId, Operation, Refusal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// An attempt that may be repeated is given up after so long: the node may be paused or cut off.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(900);

/// What a request is about, for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) name: &'a str,
    pub(crate) mode: Mode,
}

impl<'a> Target<'a> {
    fn new(keyspace: &'a Keyspace) -> Self {
        Self {
            keyspace: keyspace.id,
            name: &keyspace.name,
            mode: keyspace.options.mode,
        }
    }
}

/// The path from a decoded request to its answer.
pub(crate) struct Dispatch {
    pub(crate) table: Arc<RoutingTable>,
    pub(crate) backends: Backends,
    pub(crate) identity: Arc<Identity>,
    pub(crate) metrics: Arc<Metrics>,
    rotation: AtomicU64,
    under_way_max: u32,
}

/// Counts a request as under way until dropped.
struct UnderWay(Arc<Metrics>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.dec();
    }
}

/// A request that owns all it needs.
pub(crate) struct Order {
    pub(crate) keyspace: Arc<Keyspace>,
    pub(crate) group: GroupId,
    pub(crate) operation: Operation,
    pub(crate) kind: Kind,
    /// What metrics call it.
    pub(crate) name: &'static str,
    pub(crate) until: Instant,
    /// The answer goes to the client as it comes: an encoded message of the public API.
    pub(crate) pass_on: bool,
}

/// An order under way, which its answer ends.
struct Journey<D> {
    dispatch: Arc<Dispatch>,
    order: Order,
    attempts: Attempts,
    started: Instant,
    /// The router's own key, for a write without one.
    _held: Option<Held>,
    _under_way: UnderWay,
    done: D,
}

impl<D: FnOnce(Result<Reply, Refusal>) + Send + 'static> Journey<D> {
    fn begin(mut self) {
        let view = self.dispatch.table.view();
        let node = match self.attempts.next(&view) {
            Next::Send(node) if self.started < self.order.until => node,
            Next::Send(_) => return self.end(Err(Refusal::DeadlineExceeded)),
            other => return self.go_on(other),
        };
        let Some(address) = view.map.address(node) else {
            return self.came(node, Err(not_in_map(node)));
        };
        let attempt = self.order.attempt(&view, self.started);
        let dispatch = self.dispatch.clone();
        dispatch
            .backends
            .submit(node, address, attempt, move |outcome| self.came(node, outcome));
    }

    fn came(mut self, node: NodeId, outcome: Outcome) {
        let failure = match outcome {
            Ok(reply) => return self.end(Ok(reply)),
            Err(failure) => failure,
        };
        let view = self.dispatch.table.view();
        let next = self.attempts.after(&view, node, failure, self.started.elapsed());
        self.go_on(next);
    }

    /// Trouble: worth a task of its own.
    fn go_on(mut self, next: Next) {
        tokio::spawn(async move {
            let result = self
                .dispatch
                .attempt_all(&mut self.attempts, &self.order, next, self.started)
                .await;
            self.end(result);
        });
    }

    fn end(self, result: Result<Reply, Refusal>) {
        let (order, attempts) = (&self.order, self.attempts.count());
        self.dispatch.metrics.request(
            Target::new(&order.keyspace),
            order.kind,
            order.name,
            self.started.elapsed(),
            attempts,
            &result,
        );
        (self.done)(result);
    }
}

impl Order {
    fn attempt(&self, view: &View, now: Instant) -> Attempt {
        let left = self.until.saturating_duration_since(now);
        let repeatable = !matches!(self.kind, Kind::Write { safe_twice: false });
        let deadline = if repeatable { left.min(ATTEMPT_TIMEOUT) } else { left };
        let request = GroupRequest {
            keyspace: self.keyspace.id,
            group: self.group,
            map_version: view.map.version(),
            deadline,
            operation: self.operation.clone(),
        };
        Attempt {
            request,
            pass_on: self.pass_on,
            give_up: now + deadline,
        }
    }
}

fn not_in_map(node: NodeId) -> Failure {
    Failure::NotSent(format!("{node} is not in the cluster map"))
}

/// An answer that is not to be passed on.
pub(crate) fn understood(reply: Reply) -> Result<Answered, Refusal> {
    match reply {
        Reply::Answered(answered) => Ok(answered),
        Reply::PassedOn { .. } => Err(Refusal::Unknown {
            reason: "the shard-node's answer was to be understood here, and was not encoded for that".into(),
        }),
    }
}

impl Dispatch {
    pub(crate) fn new(table: Arc<RoutingTable>, identity: Arc<Identity>, metrics: Metrics, under_way_max: u32) -> Self {
        Self {
            table,
            backends: Backends::default(),
            identity,
            metrics: Arc::new(metrics),
            rotation: AtomicU64::new(0),
            under_way_max,
        }
    }

    /// Sends a request until it is answered, finally refused, or out of time; `done` gets the result. As long as all goes
    /// well that takes no task and no timer of its own.
    pub(crate) fn submit(
        self: &Arc<Self>,
        mut order: Order,
        done: impl FnOnce(Result<Reply, Refusal>) + Send + 'static,
    ) {
        let under_way = match self.admit() {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let target = Target::new(&order.keyspace);
                let refused = Err(refusal);
                self.metrics
                    .request(target, order.kind, order.name, Duration::ZERO, 0, &refused);
                return done(refused);
            }
        };
        let held = self.key_for(&mut order.operation);
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        let journey = Journey {
            dispatch: self.clone(),
            attempts: Attempts::new(order.group, order.kind, rotation),
            order,
            started: Instant::now(),
            _held: held,
            _under_way: under_way,
            done,
        };
        journey.begin();
    }

    /// The same, awaited.
    pub(crate) async fn run(self: &Arc<Self>, order: Order) -> Result<Reply, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.submit(order, move |result| {
            // The caller may have gone.
            let _ = answer.send(result);
        });
        answered.await.unwrap_or_else(|_| {
            Err(Refusal::Unknown {
                reason: "the router is shutting down".into(),
            })
        })
    }

    /// The same for an answer that must be understood here.
    pub(crate) async fn ask(self: &Arc<Self>, order: Order) -> Result<Answered, Refusal> {
        understood(self.run(order).await?)
    }

    /// A write without a key of the client's gets the router's own: that makes repetition safe.
    fn key_for(&self, operation: &mut Operation) -> Option<Held> {
        let Operation::Write { idempotency, .. } = operation else {
            return None;
        };
        if idempotency.is_some() {
            return None;
        }
        let held = self.identity.next();
        *idempotency = Some(held.key);
        Some(held)
    }

    /// Sheds load early: a request that would only wait is refused while that is still cheap.
    fn admit(&self) -> Result<UnderWay, Refusal> {
        self.metrics.under_way.inc();
        let admitted = UnderWay(self.metrics.clone());
        if self.metrics.under_way.get() > i64::from(self.under_way_max) {
            return Err(Refusal::Overloaded);
        }
        Ok(admitted)
    }

    pub(crate) async fn attempt_all(
        &self,
        attempts: &mut Attempts,
        order: &Order,
        mut next: Next,
        started: Instant,
    ) -> Result<Reply, Refusal> {
        loop {
            next = match next {
                Next::Send(_) if Instant::now() >= order.until => return Err(attempts.out_of_time()),
                Next::Send(node) => match self.attempt(node, order).await {
                    Ok(reply) => return Ok(reply),
                    Err(failure) => attempts.after(&self.table.view(), node, failure, started.elapsed()),
                },
                Next::Pause(pause) if Instant::now() + pause >= order.until => return Err(attempts.out_of_time()),
                Next::Pause(pause) => {
                    self.wait(pause).await;
                    attempts.next(&self.table.view())
                }
                Next::Fail(refusal) => return Err(refusal),
            };
        }
    }

    async fn attempt(&self, node: NodeId, order: &Order) -> Outcome {
        let view = self.table.view();
        let address = view.map.address(node).ok_or_else(|| not_in_map(node))?;
        let attempt = order.attempt(&view, Instant::now());
        self.backends.call(node, address, attempt).await
    }

    /// Waits, but not longer than until the view changes.
    async fn wait(&self, pause: Duration) {
        let mut changes = self.table.changes();
        let _ = tokio::time::timeout(pause, changes.changed()).await;
    }
}
