//! Serves pipelines: many small operations on one stream, one task for all of them.
//!
//! An operation is submitted as it comes in and its answer put in the outbox when it comes up; the task sends all that are
//! there in one message. Gets of a message that agree go jointly, and so do writes; what is followed by a trace goes alone. The stream is read on only while few enough are under way, and while the client reads answers.
//! A router that stops reads no further, answers what it has taken in and ends the stream: the client goes on at another one.

use crate::dispatch::{Dispatch, Order};
use crate::identity::Held;
use crate::joints::{Joint, Joints, SingleGet, SingleWrite, parted};
use crate::order::{self, WriteOfOne};
use crate::service::{KvService, map_read, map_seen, misplaced};
use fulcrum_common::auth::Caller;
use fulcrum_common::budget::{Budget, Share};
use fulcrum_common::key::{bytes_of, validate_key, validate_write};
use fulcrum_common::limits;
use fulcrum_common::routing::View;
use fulcrum_common::trace::{self, Kind, Span};
use fulcrum_common::wire::batch::{
    ANSWER_BYTES, BatchBuilder, PassedOn, PipelineRequest, PipelineResponse, payload_bytes,
};
use fulcrum_common::wire::rights::Needs;
use fulcrum_common::wire::shard::Reply;
use fulcrum_common::wire::v1::pipeline_op::Op;
use fulcrum_common::wire::{self, status, timeout, v1};
use fulcrum_types::{MapVersion, Refusal, TraceContext};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Operations of one pipeline that may be under way at once; the stream is not read further beyond it.
const UNDER_WAY: usize = 4096;
/// Bytes of keys and values that may be under way at once; neither is it then.
const UNDER_WAY_BYTES: usize = 64 * 1024 * 1024;

/// Answers on their way to the client.
struct Outbox {
    answers: Mutex<Answers>,
    filled: Notify,
    budget: Budget,
    /// The stream has ended, and nobody waits for answers any more.
    gone: CancellationToken,
}

struct Answers {
    batch: BatchBuilder<v1::PipelineAnswer>,
    count: usize,
}

impl Outbox {
    fn new() -> Self {
        Self {
            answers: Mutex::new(Answers {
                batch: BatchBuilder::of_at_most(ANSWER_BYTES),
                count: 0,
            }),
            filled: Notify::new(),
            budget: Budget::new(UNDER_WAY_BYTES),
            gone: CancellationToken::new(),
        }
    }

    fn deliver(&self, id: u64, kind: PassedOn, result: Result<Reply, Refusal>) {
        self.fill(1, |batch| match result {
            Ok(Reply::PassedOn { message, .. }) => batch.pass_on(id, kind, &message),
            Ok(other) => batch.push(&refused(id, &misplaced(&other))),
            Err(refusal) => batch.push(&refused(id, &refusal)),
        });
    }

    /// The result of several operations. What of them was refused by itself is left to the caller: their places, in order.
    fn deliver_to_all(&self, ids: &[u64], kind: PassedOn, result: Result<Reply, Refusal>) -> Vec<usize> {
        let refuse = |refusal: &Refusal| {
            self.fill(ids.len(), |batch| {
                ids.iter().for_each(|id| batch.push(&refused(*id, refusal)));
            });
            Vec::new()
        };
        match result {
            Ok(Reply::PassedOnMany { messages, refused, .. }) if messages.len() == ids.len() => {
                let left: Vec<usize> = refused.into_iter().map(|(place, _)| place).collect();
                self.fill(ids.len() - left.len(), |batch| {
                    for (place, (id, message)) in ids.iter().zip(&messages).enumerate() {
                        if left.binary_search(&place).is_err() {
                            batch.pass_on(*id, kind, message);
                        }
                    }
                });
                left
            }
            Ok(other) => refuse(&misplaced(&other)),
            Err(refusal) => refuse(&refusal),
        }
    }

    /// Takes in so many answers, as `put` adds them to the others.
    fn fill(&self, count: usize, put: impl FnOnce(&mut BatchBuilder<v1::PipelineAnswer>)) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        put(&mut answers.batch);
        let first = answers.count == 0;
        answers.count += count;
        drop(answers);
        if first {
            self.filled.notify_one();
        }
    }

    /// All answers there are, in messages, and how many.
    fn take(&self) -> (Vec<PipelineResponse>, usize) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut messages = Vec::with_capacity(1);
        while !answers.batch.is_empty() {
            messages.push(answers.batch.take());
        }
        (messages, std::mem::take(&mut answers.count))
    }
}

/// An operation that waits for its result.
struct Waiter {
    id: u64,
    kind: PassedOn,
    share: Share,
    outbox: Arc<Outbox>,
    span: Span,
}

impl Waiter {
    fn new(id: u64, kind: PassedOn, bytes: usize, outbox: &Arc<Outbox>) -> Self {
        Self {
            id,
            kind,
            share: outbox.budget.take(bytes),
            outbox: outbox.clone(),
            span: Span::none(),
        }
    }

    /// The same for an operation whose trace is recorded.
    fn traced(self, span: Span) -> Self {
        Self { span, ..self }
    }

    fn tell(self, result: Result<Reply, Refusal>) {
        drop(self.share);
        self.span.end(result.as_ref().err());
        self.outbox.deliver(self.id, self.kind, result);
    }
}

fn refused(id: u64, refusal: &Refusal) -> v1::PipelineAnswer {
    v1::PipelineAnswer {
        id,
        answer: Some(v1::pipeline_answer::Answer::Error(Box::new(status::refusal_to_wire(
            refusal,
        )))),
    }
}

/// Serves one pipeline to its end.
pub(crate) async fn serve(
    service: KvService,
    caller: Caller,
    mut requests: Streaming<PipelineRequest>,
    answers: mpsc::Sender<Result<PipelineResponse, Status>>,
) {
    let outbox = Arc::new(Outbox::new());
    let _gone = outbox.gone.clone().drop_guard();
    let mut under_way = 0;
    let mut open = true;
    let life = service.life.clone();
    let mut stopped = pin!(life.stopped());
    while open || under_way > 0 {
        tokio::select! {
            () = outbox.filled.notified() => {
                let (ready, count) = outbox.take();
                under_way -= count;
                for message in ready {
                    if answers.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            }
            message = requests.message(), if open && under_way < UNDER_WAY && !outbox.budget.is_spent() => match message {
                Ok(Some(batch)) => match service.take_in(&caller, batch, &outbox) {
                    Ok(count) => under_way += count,
                    Err(refusal) => {
                        let _ = answers.send(Err(status::refusal_to_status(&refusal))).await;
                        return;
                    }
                },
                Ok(None) => open = false,
                Err(_) => return,
            },
            () = &mut stopped, if open => open = false,
        }
    }
}

fn too_many(ops: usize) -> Refusal {
    let most = limits::MAX_BATCH_OPS;
    let reason = format!("{ops} operations in one message, at most {most} may be: split it");
    Refusal::Invalid { reason }
}

impl KvService {
    /// Submits all operations of a message; says how many.
    fn take_in(&self, caller: &Caller, batch: PipelineRequest, outbox: &Arc<Outbox>) -> Result<usize, Refusal> {
        let count = batch.count();
        if count > limits::MAX_BATCH_OPS {
            return Err(too_many(count));
        }
        let (view, now) = (self.dispatch.table.view(), Instant::now());
        let mut joints = Joints::default();
        for op in batch.items() {
            let op = op?;
            match op.op.as_ref().map(|asked| (kind_of(asked), asked.check(caller))) {
                Some((kind, Err(refusal))) => outbox.deliver(op.id, kind, Err(refusal)),
                _ => self.pipelined(&view, now, op, &mut joints, outbox),
            }
        }
        for joint in joints.rest() {
            self.submit_joint(&view, now, joint, outbox);
        }
        Ok(count)
    }

    fn pipelined(&self, view: &View, now: Instant, op: v1::PipelineOp, joints: &mut Joints, outbox: &Arc<Outbox>) {
        let (id, trace) = (op.id, wire::trace::from_wire(&op.trace));
        let until = now
            + match op.deadline_ms {
                0 => self.default_deadline,
                ms => Duration::from_millis(ms.into()).min(timeout::LONGEST_DEADLINE),
            };
        let Some(op) = op.op else {
            let reason = "op is missing".into();
            return outbox.deliver(id, PassedOn::Get, Err(Refusal::Invalid { reason }));
        };
        let seen = map_of(&op);
        let span = begin(&op, trace);
        match op {
            _ if view.map.version() < seen => {
                let waiter = Waiter::new(id, kind_of(&op), payload_bytes(&op), outbox);
                self.submit_later(seen, op, until, waiter.traced(span));
            }
            // What is followed is followed alone: a joint has one path for all of it.
            _ if span.context().is_some() => {
                let waiter = Waiter::new(id, kind_of(&op), payload_bytes(&op), outbox);
                self.submit(view, now, op, until, waiter.traced(span));
            }
            // A key that will be refused is refused alone.
            Op::Get(get) if validate_key(&get.key).is_ok() => match single_get(view, id, get, until) {
                Ok(single) => {
                    if let Some(joint) = joints.take_get(single) {
                        self.submit_joint(view, now, joint, outbox);
                    }
                }
                Err(refusal) => outbox.deliver(id, PassedOn::Get, Err(refusal)),
            },
            Op::Get(get) => {
                let waiter = Waiter::new(id, PassedOn::Get, get.key.len(), outbox);
                self.submit(view, now, Op::Get(get), until, waiter);
            }
            Op::Put(put) => self.join(view, now, id, WriteOfOne::put(put), until, joints, outbox),
            Op::Delete(delete) => self.join(view, now, id, WriteOfOne::delete(delete), until, joints, outbox),
        }
    }

    /// Joins a write with others, unless it will be refused: then it goes alone.
    #[expect(clippy::too_many_arguments, reason = "what every operation of a message comes with")]
    fn join(
        &self,
        view: &View,
        now: Instant,
        id: u64,
        write: Result<WriteOfOne, Refusal>,
        until: Instant,
        joints: &mut Joints,
        outbox: &Arc<Outbox>,
    ) {
        let joined = write.and_then(|write| Ok((write.keyspace(view)?, write)));
        let (keyspace, write) = match joined {
            Ok((keyspace, write)) if validate_write(&write.op).is_ok() => (keyspace, write),
            Ok((_, write)) => {
                let waiter = Waiter::new(id, PassedOn::Write, bytes_of(&write.op), outbox);
                return self.submit_order(view, now, write.order(view, until), waiter);
            }
            Err(refusal) => return outbox.deliver(id, PassedOn::Write, Err(refusal)),
        };
        let single = SingleWrite {
            id,
            keyspace,
            op: write.op,
            idempotency: write.idempotency,
            session: write.session,
            until,
        };
        if let Some(joint) = joints.take_write(single, &self.dispatch.identity) {
            self.submit_joint(view, now, joint, outbox);
        }
    }

    /// Once the map is here that the operation's session has seen; not at all if its stream ends before.
    fn submit_later(&self, seen: MapVersion, op: Op, until: Instant, waiter: Waiter) {
        let (service, gone) = (self.clone(), waiter.outbox.gone.clone());
        tokio::spawn(async move {
            match gone.run_until_cancelled(service.catch_up(seen, until)).await {
                None => {}
                Some(Ok(())) => {
                    let view = service.dispatch.table.view();
                    service.submit(&view, Instant::now(), op, until, waiter);
                }
                Some(Err(refusal)) => waiter.tell(Err(refusal)),
            }
        });
    }

    fn submit(&self, view: &View, now: Instant, op: Op, until: Instant, waiter: Waiter) {
        let order = match op {
            Op::Get(get) => order::get(view, get, until),
            Op::Put(put) => order::put(view, put, until),
            Op::Delete(delete) => order::delete(view, delete, until),
        };
        self.submit_order(view, now, order, waiter);
    }

    fn submit_order(&self, view: &View, now: Instant, order: Result<Order, Refusal>, waiter: Waiter) {
        match order {
            Ok(order) => {
                let asked_by = waiter.span.context();
                self.dispatch
                    .submit_traced(view, now, order, asked_by, |_, result| waiter.tell(result));
            }
            Err(refusal) => waiter.tell(Err(refusal)),
        }
    }

    fn submit_joint(&self, view: &View, now: Instant, joint: Joint, outbox: &Arc<Outbox>) {
        let Joint {
            order,
            kind,
            ids,
            bytes,
            held,
        } = joint;
        if let [id] = ids[..] {
            let waiter = Waiter::new(id, kind, bytes, outbox);
            return self.dispatch.submit(view, now, order, |_, result| {
                drop(held);
                waiter.tell(result);
            });
        }
        let (share, outbox) = (outbox.budget.take(bytes), outbox.clone());
        let dispatch = self.dispatch.clone();
        self.dispatch.submit(view, now, order, move |order, result| {
            drop(share);
            let left = match order.is_parted_by(&result) {
                true => (0..ids.len()).collect(),
                false => outbox.deliver_to_all(&ids, kind, result),
            };
            if !left.is_empty() {
                part(&dispatch, order, kind, &ids, &left, held, &outbox);
            }
        });
    }
}

/// Sends by itself each operation of a joint that is left: those in these places.
fn part(
    dispatch: &Arc<Dispatch>,
    order: Order,
    kind: PassedOn,
    ids: &[u64],
    left: &[usize],
    held: Vec<Held>,
    outbox: &Arc<Outbox>,
) {
    let (view, now) = (dispatch.table.view(), Instant::now());
    // Until the last of them is done, none of the router's own keys may be forgotten.
    let held = Arc::new(held);
    for (place, ((bytes, order), id)) in parted(order).into_iter().zip(ids).enumerate() {
        if left.binary_search(&place).is_err() {
            continue;
        }
        let (waiter, held) = (Waiter::new(*id, kind, bytes, outbox), held.clone());
        dispatch.submit(&view, now, order, |_, result| {
            drop(held);
            waiter.tell(result);
        });
    }
}

/// A get that may be joined with others.
fn single_get(view: &View, id: u64, get: v1::GetRequest, until: Instant) -> Result<SingleGet<'_>, Refusal> {
    let keyspace = order::keyspace(view, &get.keyspace)?;
    Ok(SingleGet {
        id,
        keyspace,
        key: get.key,
        reading: order::reading(keyspace, get.options)?,
        until,
    })
}

/// The span of an operation: under the client's, or perhaps the first of a trace.
fn begin(op: &Op, asked_by: Option<TraceContext>) -> Span {
    let mut span = trace::begin(Kind::Server, "fulcrum.v1.Kv/Pipeline", asked_by);
    span.set_rpc("fulcrum.v1.Kv", "Pipeline");
    let operation = match op {
        Op::Get(_) => "get",
        Op::Put(_) => "put",
        Op::Delete(_) => "delete",
    };
    span.set("db.operation.name", operation);
    span
}

fn kind_of(op: &Op) -> PassedOn {
    match op {
        Op::Get(_) => PassedOn::Get,
        Op::Put(_) | Op::Delete(_) => PassedOn::Write,
    }
}

/// The newest map that the operation's session has seen.
fn map_of(op: &Op) -> MapVersion {
    match op {
        Op::Get(get) => map_read(get.options.as_ref()),
        Op::Put(put) => map_seen(put.session.as_ref()),
        Op::Delete(delete) => map_seen(delete.session.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::tests::dispatch;
    use crate::watch::Watches;
    use fulcrum_common::lifecycle::Lifecycle;

    fn service() -> KvService {
        let dispatch = dispatch(9).0;
        KvService {
            watches: Watches::new(dispatch.metrics.clone(), 1),
            dispatch,
            default_deadline: Duration::from_secs(5),
            life: Lifecycle::of("router"),
        }
    }

    /// A get whose session has seen a map that will never come, with the longest deadline that can be said.
    fn waits_for_ever() -> v1::PipelineOp {
        let session = v1::SessionToken {
            map_version: u64::MAX,
            ..Default::default()
        };
        let options = v1::ReadOptions {
            session: Some(session),
            ..Default::default()
        };
        let get = v1::GetRequest {
            keyspace: "k".into(),
            key: "a".into(),
            options: Some(options),
        };
        v1::PipelineOp {
            id: 1,
            op: Some(Op::Get(get)),
            deadline_ms: u32::MAX,
            ..Default::default()
        }
    }

    fn take_in(service: &KvService, outbox: &Arc<Outbox>) {
        let view = service.dispatch.table.view();
        service.pipelined(&view, Instant::now(), waits_for_ever(), &mut Joints::default(), outbox);
    }

    #[tokio::test(start_paused = true)]
    async fn no_operation_waits_for_longer_than_a_minute_whatever_it_says() {
        let (service, outbox) = (service(), Arc::new(Outbox::new()));
        take_in(&service, &outbox);
        let answered = tokio::time::timeout(Duration::from_secs(61), outbox.filled.notified());
        answered.await.expect("it is refused");
        assert_eq!(outbox.take().1, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_ends_with_its_stream() {
        let (service, outbox) = (service(), Arc::new(Outbox::new()));
        take_in(&service, &outbox);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&outbox), 2, "it waits");
        outbox.gone.cancel();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&outbox), 1, "nobody is left to be told");
    }
}
