//! Connections to shard-nodes: one long-lived stream each, requests and answers in batches, matched by id.
//!
//! A request is encoded into the node's [`Outbox`] where it is submitted; the task that keeps the stream sends what has come
//! together as one message. A stream that breaks answers all that was sent on it with [`Failure::Lost`]: whether it was
//! applied is not known, and whoever asked decides what that means; what was not sent goes out on the next stream. Queues are
//! bounded: a full one is [`Refusal::Overloaded`].

use super::Failure;
use crate::auth::Internal;
use crate::tickets::Tickets;
use crate::tls::Dialer;
use crate::wire::batch::{BatchBuilder, RequestBatch, ResponseBatch};
use crate::wire::internal::shard_client::ShardClient;
use crate::wire::{Malformed, internal, shard};
use foldhash::fast::RandomState;
use fulcrum_types::{GroupRequest, NodeId, Operation, Refusal, TraceContext};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

/// Requests that may wait for one node's stream.
const QUEUE: usize = 4096;
/// Batches that may wait inside the transport.
const BATCHES_IN_FLIGHT: usize = 8;
/// After a failed connection attempt, requests fail at once for so long instead of piling up.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// For the node to accept a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(1);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(1);
/// How often requests are looked for that no answer has come to in time.
const SWEEP: Duration = Duration::from_millis(25);

/// A client of a node's internal service, which shows it the cluster's secret.
pub type NodeClient = ShardClient<InterceptedService<Channel, Internal>>;

/// What became of an attempt.
pub type Outcome = Result<shard::Reply, Failure>;

/// One attempt of a request.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What is asked.
    pub request: GroupRequest<&'a Operation>,
    /// The answer need not be understood: it is passed on.
    pub pass_on: bool,
    /// When no answer is waited for any more.
    pub give_up: Instant,
    /// The span that asks, of a request whose trace is recorded.
    pub trace: Option<TraceContext>,
}

/// Who has something to ask of a node.
pub trait Asker: Send + 'static {
    /// What is asked; called at most once, before the answer.
    fn attempt(&self) -> Attempt<'_>;

    /// What became of it: called once, on the thread of the node's stream. `now` is one reading for all answers of a message.
    fn answered(self: Box<Self>, outcome: Outcome, now: Instant);
}

/// A task that waits for an outcome.
struct Call {
    request: GroupRequest,
    pass_on: bool,
    give_up: Instant,
    trace: Option<TraceContext>,
    answer: oneshot::Sender<Outcome>,
}

impl Asker for Call {
    fn attempt(&self) -> Attempt<'_> {
        Attempt {
            request: self.request.as_ref(),
            pass_on: self.pass_on,
            give_up: self.give_up,
            trace: self.trace,
        }
    }

    fn answered(self: Box<Self>, outcome: Outcome, _: Instant) {
        // The caller may have gone.
        let _ = self.answer.send(outcome);
    }
}

/// All connections, made when first needed; by default in plain text. Their tasks run where they are made: they are not shared between runtimes.
#[derive(Clone, Default)]
pub struct Backends {
    dialer: Dialer,
    nodes: Arc<Mutex<HashMap<NodeId, Backend, RandomState>>>,
    shows: Internal,
}

struct Backend {
    address: String,
    outbox: Arc<Outbox>,
    channel: Channel,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

impl Backends {
    /// None yet; all will be made so, to nodes that are shown this secret.
    #[must_use]
    pub fn new(dialer: Dialer, shows: Internal) -> Self {
        Self {
            dialer,
            nodes: Arc::default(),
            shows,
        }
    }

    /// Sends a request to a node and waits for its answer, or until `give_up`.
    pub async fn call(&self, node: NodeId, address: &str, attempt: Attempt<'_>) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            request: attempt.request.owned(),
            pass_on: attempt.pass_on,
            give_up: attempt.give_up,
            trace: attempt.trace,
            answer,
        };
        self.submit(node, address, Box::new(call));
        answered
            .await
            .unwrap_or_else(|_| Err(Failure::Lost(format!("connection to {node} ended"))))
    }

    /// Sends a request to a node; who asks gets the outcome, at `give_up` or a little later at the latest. One timer a stream
    /// serves all of them: one a request would cost more than the rest of this.
    pub fn submit(&self, node: NodeId, address: &str, asker: Box<dyn Asker>) {
        let outbox = {
            let mut nodes = self.nodes();
            self.backend(&mut nodes, node, address)
                .map(|backend| backend.outbox.clone())
        };
        match outbox {
            Ok(outbox) => outbox.submit(asker),
            Err(failure) => asker.answered(Err(failure), Instant::now()),
        }
    }

    /// A client for the node's unary calls.
    ///
    /// # Errors
    /// The address makes no sense.
    pub fn client(&self, node: NodeId, address: &str) -> Result<NodeClient, Failure> {
        let mut nodes = self.nodes();
        let channel = self.backend(&mut nodes, node, address)?.channel.clone();
        Ok(node_client(channel, self.shows.clone()))
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, Backend, RandomState>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to a node, begun anew if there is none or if it is to another address.
    fn backend<'a>(
        &self,
        nodes: &'a mut HashMap<NodeId, Backend, RandomState>,
        node: NodeId,
        address: &str,
    ) -> Result<&'a Backend, Failure> {
        match nodes.entry(node) {
            Entry::Occupied(known) if known.get().address == address => Ok(known.into_mut()),
            Entry::Occupied(mut known) => {
                known.insert(Backend::start(&self.dialer, node, address, &self.shows)?);
                Ok(known.into_mut())
            }
            Entry::Vacant(unknown) => Ok(unknown.insert(Backend::start(&self.dialer, node, address, &self.shows)?)),
        }
    }
}

impl Backend {
    fn start(dialer: &Dialer, node: NodeId, address: &str, shows: &Internal) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Failure::NotSent(format!("address '{address}' of {node} makes no sense: {error}")))?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .keep_alive_while_idle(true);
        let channel = dialer.lazy(&endpoint);
        let outbox = Arc::new(Outbox::new(node));
        tokio::spawn(run(node_client(channel.clone(), shows.clone()), outbox.clone()));
        Ok(Self {
            address: address.to_owned(),
            outbox,
            channel,
        })
    }
}

fn node_client(channel: Channel, shows: Internal) -> NodeClient {
    ShardClient::with_interceptor(channel, shows)
        .max_decoding_message_size(crate::limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(crate::limits::MAX_MESSAGE_BYTES)
}

/// Requests to one node: those that wait to be sent, encoded already, and those that wait for their answers.
struct Outbox {
    node: NodeId,
    state: Mutex<State>,
    /// Something waits to be sent, or nothing will any more.
    filled: Notify,
}

#[derive(Default)]
struct State {
    requests: BatchBuilder<internal::Request>,
    waiting: usize,
    last_id: u64,
    /// The last request that was sent or refused; those behind it are in `requests`, in order.
    sent: u64,
    unanswered: Tickets<(Instant, Box<dyn Asker>)>,
    /// How everything fails for the moment.
    refusing: Option<Failure>,
    closed: bool,
}

impl Outbox {
    fn new(node: NodeId) -> Self {
        Self {
            node,
            state: Mutex::default(),
            filled: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, asker: Box<dyn Asker>) {
        let mut state = self.state();
        let refused = match &state.refusing {
            Some(failure) => Some(failure.clone()),
            None if state.closed => Some(self.closing()),
            None if state.waiting >= QUEUE => Some(Failure::Refused(Refusal::Overloaded)),
            None => None,
        };
        if let Some(failure) = refused {
            drop(state);
            return asker.answered(Err(failure), Instant::now());
        }
        state.last_id += 1;
        state.waiting += 1;
        let id = state.last_id;
        let attempt = asker.attempt();
        let give_up = attempt.give_up;
        let (pass_on, trace) = (attempt.pass_on, attempt.trace);
        shard::push_traced_request(&mut state.requests, id, &attempt.request, pass_on, trace);
        state.unanswered.insert(id, (give_up, asker));
        let first = state.waiting == 1;
        drop(state);
        if first {
            self.filled.notify_one();
        }
    }

    fn closing(&self) -> Failure {
        Failure::NotSent(format!("connection to {} is closing", self.node))
    }

    /// Nobody will submit anything any more.
    fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits until something waits to be sent, or nothing will any more.
    async fn filled(&self) {
        loop {
            let (waiting, closed) = {
                let state = self.state();
                (state.waiting, state.closed)
            };
            if waiting > 0 || closed {
                return;
            }
            self.filled.notified().await;
        }
    }

    /// What waits to be sent, as much as one message may hold. There may be more.
    fn take(&self) -> RequestBatch {
        let mut state = self.state();
        let batch = state.requests.take();
        if state.requests.is_empty() {
            state.waiting = 0;
            state.sent = state.last_id;
        } else {
            let count = batch.count();
            state.waiting -= count;
            state.sent += count as u64;
        }
        batch
    }

    fn complete(&self, batch: ResponseBatch) -> Result<(), Malformed> {
        let now = Instant::now();
        for response in batch.items() {
            let response = response?;
            let Some((_, asker)) = self.state().unanswered.remove(response.id) else {
                continue;
            };
            let outcome = match shard::response_from_wire(response) {
                Ok(result) => result.map_err(Failure::Refused),
                Err(malformed) => Err(Failure::Lost(format!("answer of {}: {malformed}", self.node))),
            };
            asker.answered(outcome, now);
        }
        Ok(())
    }

    fn has_unanswered(&self) -> bool {
        !self.state().unanswered.is_empty()
    }

    /// Ends what has not been answered in time: the node may be paused or cut off. What was not sent yet may yet be.
    fn give_up(&self) {
        let now = Instant::now();
        let late = Failure::Lost(format!("{} did not answer in time", self.node));
        self.end(|_, give_up| give_up <= now, &late);
    }

    /// The stream is gone: so is what was sent on it.
    fn lost(&self, failure: &Failure) {
        let sent = self.state().sent;
        self.end(|id, _| id <= sent, failure);
    }

    /// The node cannot be reached: nothing that waits will be sent, and for a while nothing else.
    fn refuse_all(&self, failure: &Failure) {
        {
            let mut state = self.state();
            state.requests = BatchBuilder::default();
            state.waiting = 0;
            state.sent = state.last_id;
            state.refusing = Some(failure.clone());
        }
        self.end(|_, _| true, failure);
    }

    /// Answers those that are chosen with a failure. Never under the lock: who is answered may submit again.
    fn end(&self, chosen: impl Fn(u64, Instant) -> bool, failure: &Failure) {
        let ended: Vec<Box<dyn Asker>> = {
            let mut state = self.state();
            let ended = state.unanswered.extract(|id, (give_up, _)| chosen(id, *give_up));
            ended.into_iter().map(|(_, (_, asker))| asker).collect()
        };
        let now = Instant::now();
        for asker in ended {
            asker.answered(Err(failure.clone()), now);
        }
    }
}

/// Keeps a stream to the node open as long as anybody may call.
async fn run(client: NodeClient, outbox: Arc<Outbox>) {
    loop {
        outbox.filled().await;
        if outbox.is_closed() {
            return outbox.refuse_all(&outbox.closing());
        }
        match exchange(client.clone(), &outbox).await {
            failure @ Failure::NotSent(_) => {
                outbox.refuse_all(&failure);
                tokio::time::sleep(RECONNECT_PAUSE).await;
                outbox.state().refusing = None;
            }
            failure => outbox.lost(&failure),
        }
    }
}

/// One life of a stream; says how what was sent on it has failed. Nothing is sent before the node has accepted the stream: one
/// that did not open has carried nothing.
async fn exchange(mut client: NodeClient, outbox: &Outbox) -> Failure {
    let node = outbox.node;
    let (batches, outbound) = mpsc::channel(BATCHES_IN_FLIGHT);
    let opening = client.exchange(ReceiverStream::new(outbound));
    let not_opened = |why: &str| Failure::NotSent(format!("{node} cannot be reached: {why}"));
    let mut inbound = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return not_opened(status.message()),
        Err(_) => return not_opened("no answer"),
    };
    let broke = |why: &str| Failure::Lost(format!("stream to {node} broke: {why}"));
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            received = inbound.message() => match received {
                Ok(Some(batch)) => if let Err(malformed) = outbox.complete(batch) {
                    return broke(&malformed.to_string());
                },
                Ok(None) => return Failure::Lost(format!("{node} closed the stream")),
                Err(status) => return broke(status.message()),
            },
            permit = async { let permit = batches.reserve().await; outbox.filled().await; permit } => {
                let Ok(permit) = permit else {
                    return broke("it was closed");
                };
                if outbox.is_closed() {
                    return Failure::Lost("this process is shutting down".into());
                }
                // One at a time: while the node takes no more, its answers are still read, and it may be waiting for just that.
                permit.send(outbox.take());
            }
            _ = sweep.tick(), if outbox.has_unanswered() => outbox.give_up(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fulcrum_types::{Condition, GroupId, KeyspaceId, MapVersion, Mutation, Operation, WriteOp};

    type Ended = Arc<Mutex<Vec<(u64, Outcome)>>>;

    struct Test {
        request: GroupRequest,
        number: u64,
        ended: Ended,
    }

    impl Asker for Test {
        fn attempt(&self) -> Attempt<'_> {
            Attempt {
                request: self.request.as_ref(),
                pass_on: false,
                give_up: Instant::now(),
                trace: None,
            }
        }

        fn answered(self: Box<Self>, outcome: Outcome, _: Instant) {
            self.ended.lock().unwrap().push((self.number, outcome));
        }
    }

    /// Submits a write of about a mebibyte, which takes its turn as `number`.
    fn submit(outbox: &Outbox, ended: &Ended, number: u64) {
        let op = WriteOp {
            key: Bytes::from_static(b"k"),
            condition: Condition::None,
            mutation: Mutation::Put {
                value: vec![0; 1 << 20].into(),
                ttl: None,
            },
        };
        let request = GroupRequest {
            keyspace: KeyspaceId(1),
            group: GroupId(1),
            map_version: MapVersion(1),
            deadline: Duration::from_secs(1),
            operation: Operation::Write {
                idempotency: None,
                seen: None,
                ops: vec![op],
            },
        };
        outbox.submit(Box::new(Test {
            request,
            number,
            ended: ended.clone(),
        }));
    }

    fn take_ended(ended: &Ended) -> (Vec<u64>, bool) {
        let mut all = std::mem::take(&mut *ended.lock().unwrap());
        all.sort_by_key(|(number, _)| *number);
        let not_sent = all
            .iter()
            .all(|(_, outcome)| matches!(outcome, Err(Failure::NotSent(_))));
        (all.into_iter().map(|(number, _)| number).collect(), not_sent)
    }

    #[test]
    fn only_what_was_sent_is_lost_with_the_stream() {
        let (outbox, ended) = (Outbox::new(NodeId(1)), Ended::default());
        for number in 1..=8 {
            submit(&outbox, &ended, number);
        }
        assert_eq!(outbox.take().count(), 3, "what a message may hold");
        outbox.lost(&Failure::Lost("broke".into()));
        assert_eq!(take_ended(&ended), (vec![1, 2, 3], false));
        assert_eq!(outbox.take().count(), 3);
        outbox.lost(&Failure::Lost("broke".into()));
        assert_eq!(take_ended(&ended), (vec![4, 5, 6], false));
        outbox.refuse_all(&Failure::NotSent("cannot be reached".into()));
        assert_eq!(take_ended(&ended), (vec![7, 8], true));
        assert!(!outbox.has_unanswered() && outbox.state().requests.is_empty());
    }

    #[test]
    fn what_comes_after_a_refusal_is_told_from_what_was_sent() {
        let (outbox, ended) = (Outbox::new(NodeId(1)), Ended::default());
        for number in 1..=5 {
            submit(&outbox, &ended, number);
        }
        outbox.take();
        outbox.lost(&Failure::Lost("broke".into()));
        outbox.refuse_all(&Failure::NotSent("cannot be reached".into()));
        take_ended(&ended);
        outbox.state().refusing = None;
        for number in 6..=10 {
            submit(&outbox, &ended, number);
        }
        assert_eq!(outbox.take().count(), 3);
        outbox.lost(&Failure::Lost("broke".into()));
        assert_eq!(take_ended(&ended), (vec![6, 7, 8], false));
        assert_eq!(outbox.state().waiting, 2);
    }

    #[test]
    fn who_is_given_up_before_it_was_sent_may_yet_be_applied() {
        let (outbox, ended) = (Outbox::new(NodeId(1)), Ended::default());
        submit(&outbox, &ended, 1);
        outbox.give_up();
        assert_eq!(take_ended(&ended), (vec![1], false));
        assert_eq!(outbox.take().count(), 1);
    }
}
