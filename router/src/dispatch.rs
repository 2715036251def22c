//! Sends one group's request until it is answered, finally refused, or out of time.

use crate::identity::{Held, Identity};
use crate::metrics::{Ended, Metrics};
use crate::proof::{self, Violation};
use fulcrum_common::Keyspace;
use fulcrum_common::few_lines::FewLines;
use fulcrum_common::key::{validate_keys, validate_writes};
use fulcrum_common::routing::{
    Asker, Attempt, Attempts, Backends, Errand, Kind, Next, Outcome, RoutingTable, View, not_in_map, parts, understood,
};
use fulcrum_common::trace::{self, Span};
use fulcrum_common::wire::shard::Reply;
use fulcrum_types::{
    Answered, GroupId, KeyspaceId, MapVersion, Mode, NodeId, Operation, Participant, Query, ReadRequest, Refusal,
    TraceContext,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

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
    /// Of violated receipts.
    lines: Mutex<FewLines>,
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
    /// Some attempt may have been applied: before it began, if it was a part of a joint, and by its end.
    pub(crate) in_doubt: bool,
}

/// Who waits for the result of an order; told once, and given the order back.
pub(crate) trait Done: FnOnce(Order, Result<Reply, Refusal>) + Send + 'static {}

impl<D: FnOnce(Order, Result<Reply, Refusal>) + Send + 'static> Done for D {}

/// An order under way, which its answer ends.
struct Journey<D> {
    under_way: UnderWay,
    order: Order,
    attempts: Attempts,
    started: Instant,
    /// The first attempt: by which map, and to whom.
    map_version: MapVersion,
    node: NodeId,
    span: Span,
    /// The router's own key, for a write without one.
    _held: Option<Box<Held>>,
    done: D,
}

/// Counts an order's requests as under way until dropped.
struct UnderWay {
    dispatch: Arc<Dispatch>,
    requests: i64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.dispatch.metrics.under_way.sub(self.requests);
    }
}

impl<D: Done> Asker for Journey<D> {
    fn attempt(&self) -> Attempt<'_> {
        let errand = self.order.errand(self.span.context());
        errand.attempt(self.map_version, self.started)
    }

    fn answered(mut self: Box<Self>, outcome: Outcome, now: Instant) {
        let failure = match outcome {
            Ok(reply) => {
                let proved = self.dispatch().proved(&self.order, reply);
                return self.end(now, proved);
            }
            Err(failure) => failure,
        };
        self.span.event(|| format!("{} failed: {failure:?}", self.node).into());
        let view = self.dispatch().table.view();
        let next = self
            .attempts
            .after(&view, self.node, failure, now.saturating_duration_since(self.started));
        self.go_on(next);
    }
}

impl<D: Done> Journey<D> {
    fn dispatch(&self) -> &Arc<Dispatch> {
        &self.under_way.dispatch
    }

    fn begin(mut self: Box<Self>, view: &View) {
        match self.attempts.next(view) {
            Next::Send(node) if self.started < self.order.until => self.node = node,
            Next::Send(_) => {
                let refused = Err(self.attempts.out_of_time());
                return self.end(Instant::now(), refused);
            }
            other => return self.go_on(other),
        }
        let Some(address) = view.map.address(self.node) else {
            let failure = not_in_map(self.node);
            return self.answered(Err(failure), Instant::now());
        };
        let dispatch = self.dispatch().clone();
        dispatch.backends.submit(self.node, address, self);
    }

    /// Trouble: worth a task of its own.
    fn go_on(mut self: Box<Self>, next: Next) {
        tokio::spawn(async move {
            let dispatch = self.dispatch().clone();
            let result = dispatch
                .attempt_all(&mut self.attempts, &self.order, self.span.context(), next, self.started)
                .await;
            self.end(Instant::now(), result);
        });
    }

    fn end(self, now: Instant, result: Result<Reply, Refusal>) {
        let order = &self.order;
        if !order.is_parted_by(&result) {
            let took = now.saturating_duration_since(self.started);
            let ended = order.ended(took, self.attempts.count());
            self.dispatch().metrics.request(&ended, &result);
        }
        let Journey {
            under_way,
            mut order,
            attempts,
            node,
            span,
            done,
            ..
        } = self;
        order.tell(span, node, &attempts, &result);
        order.in_doubt = attempts.is_in_doubt();
        // What was joined may go on its own now, and is then counted anew.
        drop(under_way);
        done(order, result);
    }
}

impl Order {
    /// How many requests of clients it serves.
    fn requests(&self) -> usize {
        self.operation.requests()
    }

    /// Whether it is a joint, and not at its requests' end: each is to go its own way.
    pub(crate) fn is_parted_by(&self, result: &Result<Reply, Refusal>) -> bool {
        self.requests() > 1 && result.as_ref().is_err_and(parts)
    }

    fn ended(&self, took: Duration, attempts: u32) -> Ended<'_> {
        Ended {
            target: Target::new(&self.keyspace),
            kind: self.kind,
            operation: self.name,
            requests: self.requests(),
            took,
            attempts,
        }
    }

    /// Says of a span what became of it.
    fn tell(&self, mut span: Span, node: NodeId, attempts: &Attempts, result: &Result<Reply, Refusal>) {
        if span.is_recorded() {
            span.set_rpc("fulcrum.internal.v1.Shard", "Exchange");
            span.set("db.operation.name", self.name);
            span.set("fulcrum.keyspace", self.keyspace.name.clone());
            span.set("fulcrum.group", self.group.0);
            span.set("fulcrum.first_node", node.0);
            span.set("fulcrum.attempts", u64::from(attempts.count()));
        }
        span.end(result.as_ref().err());
    }

    fn errand(&self, trace: Option<TraceContext>) -> Errand<'_> {
        Errand {
            to: Participant {
                keyspace: self.keyspace.id,
                group: self.group,
            },
            operation: &self.operation,
            kind: self.kind,
            until: self.until,
            pass_on: self.pass_on,
            trace,
        }
    }
}

impl Dispatch {
    pub(crate) fn new(
        table: Arc<RoutingTable>,
        backends: Backends,
        identity: Arc<Identity>,
        metrics: Metrics,
        under_way_max: u32,
    ) -> Self {
        Self {
            table,
            backends,
            identity,
            metrics: Arc::new(metrics),
            rotation: AtomicU64::new(0),
            under_way_max,
            lines: Mutex::default(),
        }
    }

    /// Sends a request until it is answered, finally refused, or out of time; `done` gets the result. As long as all goes
    /// well that takes no task and no timer of its own.
    pub(crate) fn submit(self: &Arc<Self>, view: &View, now: Instant, order: Order, done: impl Done) {
        self.submit_traced(view, now, order, None, done);
    }

    /// The same on behalf of a span, if the request's trace is recorded.
    pub(crate) fn submit_traced(
        self: &Arc<Self>,
        view: &View,
        now: Instant,
        mut order: Order,
        asked_by: Option<TraceContext>,
        done: impl Done,
    ) {
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        let attempts = Attempts::new(order.group, order.kind, rotation).of_doubt(order.in_doubt);
        let admitted = within_limits(&order.operation).and_then(|()| self.admit(order.requests()));
        let under_way = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let refused = Err(attempts.finally(refusal));
                self.metrics.request(&order.ended(Duration::ZERO, 0), &refused);
                return done(order, refused);
            }
        };
        let held = self.key_for(&mut order.operation);
        let journey = Journey {
            under_way,
            attempts: match order.requests() {
                1 => attempts,
                _ => attempts.of_a_joint(),
            },
            order,
            started: now,
            map_version: view.map.version(),
            node: NodeId::default(),
            span: trace::follow(trace::Kind::Client, "forward", asked_by),
            _held: held.map(Box::new),
            done,
        };
        Box::new(journey).begin(view);
    }

    /// The same, awaited.
    pub(crate) async fn run(self: &Arc<Self>, order: Order, asked_by: Option<TraceContext>) -> Result<Reply, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.submit_traced(&self.table.view(), Instant::now(), order, asked_by, move |_, result| {
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
    pub(crate) async fn ask(
        self: &Arc<Self>,
        order: Order,
        asked_by: Option<TraceContext>,
    ) -> Result<Answered, Refusal> {
        understood(self.run(order, asked_by).await?)
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
    fn admit(self: &Arc<Self>, requests: usize) -> Result<UnderWay, Refusal> {
        let requests = i64::try_from(requests).unwrap_or(i64::MAX);
        self.metrics.under_way.add(requests);
        let admitted = UnderWay {
            dispatch: self.clone(),
            requests,
        };
        if self.metrics.under_way.get() > i64::from(self.under_way_max) {
            return Err(Refusal::Overloaded);
        }
        Ok(admitted)
    }

    /// Goes on from `next` to the end.
    pub(crate) async fn attempt_all(
        &self,
        attempts: &mut Attempts,
        order: &Order,
        trace: Option<TraceContext>,
        next: Next,
        started: Instant,
    ) -> Result<Reply, Refusal> {
        let errand = order.errand(trace);
        let reply = errand.run(&self.table, &self.backends, attempts, next, started).await?;
        self.proved(order, reply)
    }

    /// An answer whose receipt holds what was asked. Any other goes to nobody, whatever it says.
    fn proved(&self, order: &Order, reply: Reply) -> Result<Reply, Refusal> {
        match proof::check(order, &reply) {
            Ok(()) => Ok(reply),
            Err(violation) => Err(self.violated(order, &violation)),
        }
    }

    /// Counts a violated receipt, writes it down, and says what its client is told.
    fn violated(&self, order: &Order, violation: &Violation) -> Refusal {
        self.metrics.receipt_violated(violation.reason);
        let now = self.identity.clock().now().mono;
        let (shown, left_out) = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.one_more(now)
        };
        if left_out > 0 {
            tracing::error!(left_out, "more receipts were violated than are written down");
        }
        if shown {
            let (replica, at) = violation.by.unzip();
            tracing::error!(
                keyspace = order.keyspace.name,
                group = order.group.0,
                replica = replica.map(|node| node.0),
                epoch = at.map(|at| at.epoch.0),
                index = at.map(|at| at.index.0),
                operation = order.name,
                reason = %violation.reason,
                "a receipt does not hold what was asked: the answer is withheld; see docs/runbooks/receipt-violated.md"
            );
        }
        let reason = violation.to_string();
        match order.kind {
            Kind::Read(_) => Refusal::ReceiptViolated { reason },
            Kind::Write { .. } => Refusal::Unknown { reason },
        }
    }
}

/// What every group would refuse is not sent to one.
fn within_limits(operation: &Operation) -> Result<(), Refusal> {
    match operation {
        Operation::Write { ops, .. } => validate_writes(ops.iter())?,
        Operation::Joint(writes) => validate_writes(writes.iter().map(|write| &write.op))?,
        Operation::Read(ReadRequest {
            query: Query::Get(keys) | Query::Joint(keys),
            ..
        }) => validate_keys(keys)?,
        Operation::Read(_) | Operation::Transaction(_) | Operation::Outcome(_) | Operation::Cut(_) => {}
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::order;
    use fulcrum_common::limits::{MAX_BATCH_BYTES, MAX_BATCH_OPS, MAX_KEY_BYTES, MAX_VALUE_BYTES};
    use fulcrum_common::map::{ClusterId, ClusterMap};
    use fulcrum_common::routing::Failure;
    use fulcrum_common::{KeyspaceOptions, NodeInfo, SystemClock};
    use fulcrum_types::{Condition, JoinedWrite, Level, Mutation, WriteOp};

    pub(crate) fn dispatch(under_way_max: u32) -> (Arc<Dispatch>, Arc<Keyspace>) {
        let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
        let address = "127.0.0.1:1".into();
        map.set_node(NodeId(1), NodeInfo { address, zone: None });
        map.add_keyspace("k", KeyspaceOptions::of(Mode::Sync, 1)).unwrap();
        let keyspace = map.keyspace_by_name("k").unwrap().clone();
        let metrics = Metrics::new(&fulcrum_common::metrics::Metrics::default()).unwrap();
        let table = Arc::new(RoutingTable::new(Arc::new(map.with_version(MapVersion(1)))));
        let identity = Identity::new(Arc::new(SystemClock));
        (
            Arc::new(Dispatch::new(
                table,
                Backends::default(),
                identity,
                metrics,
                under_way_max,
            )),
            keyspace,
        )
    }

    fn write(ops: Vec<WriteOp>) -> Operation {
        Operation::Write {
            idempotency: None,
            seen: None,
            ops,
        }
    }

    fn put(key: usize, value: usize) -> WriteOp {
        WriteOp {
            key: vec![b'k'; key].into(),
            condition: Condition::None,
            mutation: Mutation::Put {
                value: vec![0; value].into(),
                ttl: None,
            },
        }
    }

    /// What becomes of a write that is ended before it leaves.
    fn ended(dispatch: &Arc<Dispatch>, keyspace: &Arc<Keyspace>, in_doubt: bool) -> Refusal {
        let order = order::write(
            keyspace.clone(),
            keyspace.group_of(b"k"),
            write(vec![put(1, 1)]),
            Instant::now(),
        );
        ended_at_once(dispatch, Order { in_doubt, ..order })
    }

    /// What becomes of an order that never leaves.
    fn ended_at_once(dispatch: &Arc<Dispatch>, order: Order) -> Refusal {
        let now = Instant::now();
        let told = Arc::new(Mutex::new(None));
        let tell = told.clone();
        dispatch.submit(&dispatch.table.view(), now, order, move |_, result| {
            *tell.lock().unwrap() = Some(result);
        });
        let result = told.lock().unwrap().take();
        result.unwrap().err().unwrap()
    }

    #[test]
    fn what_breaks_a_limit_is_refused_at_once() {
        let (dispatch, keyspace) = dispatch(9);
        let later = Instant::now() + Duration::from_secs(60);
        let condition = Condition::ValueIs(vec![0; MAX_VALUE_BYTES + 1].into());
        let expecting = WriteOp { condition, ..put(1, 1) };
        let joined = |op| JoinedWrite {
            idempotency: None,
            seen: None,
            op,
        };
        let reading = |keys| {
            Operation::Read(ReadRequest {
                level: Level::Linearizable,
                acceptable: Vec::new(),
                seen: None,
                query: Query::Get(keys),
            })
        };
        let too_many_bytes = MAX_BATCH_BYTES / MAX_VALUE_BYTES + 1;
        for (operation, limit) in [
            (write(vec![put(1, MAX_VALUE_BYTES + 1)]), MAX_VALUE_BYTES),
            (write(vec![expecting]), MAX_VALUE_BYTES),
            (write(vec![put(MAX_KEY_BYTES + 1, 1)]), MAX_KEY_BYTES),
            (write(vec![put(0, 1)]), MAX_KEY_BYTES),
            (write(vec![put(1, 1); MAX_BATCH_OPS + 1]), MAX_BATCH_OPS),
            (write(vec![put(1, MAX_VALUE_BYTES); too_many_bytes]), MAX_BATCH_BYTES),
            (
                Operation::Joint(vec![joined(put(1, MAX_VALUE_BYTES + 1))]),
                MAX_VALUE_BYTES,
            ),
            (reading(vec![vec![b'k'; MAX_KEY_BYTES + 1].into()]), MAX_KEY_BYTES),
        ] {
            let order = order::write(keyspace.clone(), keyspace.group_of(b"k"), operation, later);
            let refusal = ended_at_once(&dispatch, order);
            let named = matches!(&refusal, Refusal::Invalid { reason } if reason.contains(&limit.to_string()));
            assert!(named, "{refusal:?}");
            assert_eq!(dispatch.metrics.under_way.get(), 0);
        }
    }

    #[test]
    fn a_part_of_a_joint_that_may_have_been_applied_is_never_told_that_it_was_not() {
        for (under_way_max, alone) in [(0, Refusal::Overloaded), (9, Refusal::DeadlineExceeded)] {
            let (dispatch, keyspace) = dispatch(under_way_max);
            assert_eq!(ended(&dispatch, &keyspace, false), alone);
            let doubtful = ended(&dispatch, &keyspace, true);
            assert!(matches!(doubtful, Refusal::Unknown { .. }), "{doubtful:?}");
            assert_eq!(dispatch.metrics.under_way.get(), 0);
        }
    }

    #[tokio::test]
    async fn what_was_lost_is_in_doubt_when_it_comes_back() {
        let (dispatch, keyspace) = dispatch(9);
        for lost in [false, true] {
            let (now, (tell, told)) = (Instant::now(), oneshot::channel());
            let group = keyspace.group_of(b"k");
            let order = order::write(keyspace.clone(), group, Operation::Joint(Vec::new()), now);
            let journey = Journey {
                under_way: dispatch.admit(1).unwrap(),
                attempts: Attempts::new(group, order.kind, 0),
                order,
                started: now,
                map_version: MapVersion(1),
                node: NodeId(1),
                span: Span::none(),
                _held: None,
                done: |order: Order, _| tell.send(order.in_doubt).unwrap(),
            };
            let reason = "reset".into();
            let failure = match lost {
                true => Failure::Lost(reason),
                false => Failure::NotSent(reason),
            };
            Box::new(journey).answered(Err(failure), now);
            assert_eq!(told.await.unwrap(), lost);
        }
    }
}
