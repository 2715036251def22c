//! Connections to shard-nodes: one long-lived stream each, requests and answers in batches, matched by id.
//!
//! A stream that breaks answers all that was under way on it with [`Failure::Lost`]: whether it was applied is not
//! known, and whoever asked decides what that means. Queues are bounded: a full one is [`Refusal::Overloaded`].

use foldhash::fast::RandomState;
use fulcrum_common::routing::Failure;
use fulcrum_common::wire::batch::{BatchBuilder, ResponseBatch};
use fulcrum_common::wire::internal::shard_client::ShardClient;
use fulcrum_common::wire::{Malformed, internal, shard};
use fulcrum_types::{GroupRequest, NodeId, Refusal};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Requests that may wait for one node's stream.
const QUEUE: usize = 4096;
/// Most requests in one message.
const BATCH: usize = 256;
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

pub(crate) type Outcome = Result<shard::Reply, Failure>;

/// What is done with the outcome; called once, on the router's thread.
type Answer = Box<dyn FnOnce(Outcome) + Send>;

/// One attempt of a request.
pub(crate) struct Attempt {
    pub(crate) request: GroupRequest,
    /// The answer need not be understood: it is passed on.
    pub(crate) pass_on: bool,
    /// When no answer is waited for any more.
    pub(crate) give_up: Instant,
}

struct Call {
    attempt: Attempt,
    answer: Answer,
}

/// All connections, made when first needed.
#[derive(Clone, Default)]
pub(crate) struct Backends {
    nodes: Arc<Mutex<HashMap<NodeId, Backend>>>,
}

struct Backend {
    address: String,
    calls: mpsc::Sender<Call>,
    channel: Channel,
}

impl Backends {
    /// Sends a request to a node and waits for its answer, or until `give_up`.
    pub(crate) async fn call(&self, node: NodeId, address: &str, attempt: Attempt) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let deliver = move |outcome| {
            // The caller may have gone.
            let _ = answer.send(outcome);
        };
        self.submit(node, address, attempt, deliver);
        answered
            .await
            .unwrap_or_else(|_| Err(Failure::Lost(format!("connection to {node} ended"))))
    }

    /// Sends a request to a node; `answer` gets the outcome, at `give_up` or a little later at the latest. One timer a
    /// stream serves all of them: one a request would cost more than the rest of this.
    pub(crate) fn submit(
        &self,
        node: NodeId,
        address: &str,
        attempt: Attempt,
        answer: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let call = Call {
            attempt,
            answer: Box::new(answer),
        };
        let mut nodes = self.nodes();
        let refused = match self.backend(&mut nodes, node, address) {
            Ok(backend) => backend.calls.try_send(call),
            Err(failure) => {
                drop(nodes);
                return (call.answer)(Err(failure));
            }
        };
        drop(nodes);
        match refused {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(call)) => (call.answer)(Err(Failure::Refused(Refusal::Overloaded))),
            Err(mpsc::error::TrySendError::Closed(call)) => {
                (call.answer)(Err(Failure::NotSent(format!("connection to {node} is closing"))));
            }
        }
    }

    /// A client for the node's unary calls.
    pub(crate) fn client(&self, node: NodeId, address: &str) -> Result<ShardClient<Channel>, Failure> {
        let mut nodes = self.nodes();
        let channel = self.backend(&mut nodes, node, address)?.channel.clone();
        Ok(ShardClient::new(channel).max_decoding_message_size(fulcrum_common::limits::MAX_MESSAGE_BYTES))
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, Backend>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to a node, begun anew if there is none or if it is to another address.
    fn backend<'a>(
        &self,
        nodes: &'a mut HashMap<NodeId, Backend>,
        node: NodeId,
        address: &str,
    ) -> Result<&'a Backend, Failure> {
        let usable = |backend: &Backend| backend.address == address && !backend.calls.is_closed();
        match nodes.entry(node) {
            Entry::Occupied(known) if usable(known.get()) => Ok(known.into_mut()),
            Entry::Occupied(mut known) => {
                known.insert(Backend::start(node, address)?);
                Ok(known.into_mut())
            }
            Entry::Vacant(unknown) => Ok(unknown.insert(Backend::start(node, address)?)),
        }
    }
}

impl Backend {
    fn start(node: NodeId, address: &str) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Failure::NotSent(format!("address '{address}' of {node} makes no sense: {error}")))?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_lazy();
        let (calls, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(node, channel.clone(), queue));
        Ok(Self {
            address: address.to_owned(),
            calls,
            channel,
        })
    }
}

/// Keeps a stream to the node open as long as anybody may call.
async fn run(node: NodeId, channel: Channel, mut queue: mpsc::Receiver<Call>) {
    loop {
        let Some(first) = queue.recv().await else { return };
        let client = ShardClient::new(channel.clone())
            .max_decoding_message_size(fulcrum_common::limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(fulcrum_common::limits::MAX_MESSAGE_BYTES);
        let mut stream = Stream::new(node);
        let ended = stream.exchange(client, first, &mut queue).await;
        stream.fail_all(&ended);
        if matches!(ended, Failure::NotSent(_)) {
            refuse_for_a_while(&ended, &mut queue).await;
        }
    }
}

async fn refuse_for_a_while(why: &Failure, queue: &mut mpsc::Receiver<Call>) {
    let until = tokio::time::sleep(RECONNECT_PAUSE);
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => return,
            call = queue.recv() => match call {
                Some(call) => (call.answer)(Err(why.clone())),
                None => return,
            },
        }
    }
}

/// One life of a stream.
struct Stream {
    node: NodeId,
    next_id: u64,
    under_way: HashMap<u64, (Instant, Answer), RandomState>,
    requests: BatchBuilder<internal::Request>,
}

impl Stream {
    fn new(node: NodeId) -> Self {
        Self {
            node,
            next_id: 0,
            under_way: HashMap::default(),
            requests: BatchBuilder::default(),
        }
    }

    /// Runs until the stream breaks; says how the requests then under way failed.
    async fn exchange(
        &mut self,
        mut client: ShardClient<Channel>,
        first: Call,
        queue: &mut mpsc::Receiver<Call>,
    ) -> Failure {
        let (batches, outbound) = mpsc::channel(BATCHES_IN_FLIGHT);
        let opening = client.exchange(ReceiverStream::new(outbound));
        let mut inbound = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return self.not_opened(first, status.message()),
            Err(_) => return self.not_opened(first, "no answer"),
        };
        let mut calls = vec![first];
        self.take_in(calls.drain(..));
        if batches.try_send(self.requests.take()).is_err() {
            return Failure::Lost(format!("stream to {} broke", self.node));
        }
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = inbound.message() => match received {
                    Ok(Some(batch)) => if let Err(malformed) = self.complete(batch) {
                        return Failure::Lost(format!("stream to {} broke: {malformed}", self.node));
                    },
                    Ok(None) => return Failure::Lost(format!("{} closed the stream", self.node)),
                    Err(status) => return Failure::Lost(format!("stream to {} broke: {}", self.node, status.message())),
                },
                permit = async { let permit = batches.reserve().await; queue.recv_many(&mut calls, BATCH).await; permit } => {
                    let Ok(permit) = permit else {
                        return Failure::Lost(format!("stream to {} broke", self.node));
                    };
                    if calls.is_empty() {
                        return Failure::Lost("the router is shutting down".into());
                    }
                    self.take_in(calls.drain(..));
                    permit.send(self.requests.take());
                    while !self.requests.is_empty() {
                        if batches.send(self.requests.take()).await.is_err() {
                            return Failure::Lost(format!("stream to {} broke", self.node));
                        }
                    }
                }
                _ = sweep.tick(), if !self.under_way.is_empty() => self.give_up(),
            }
        }
    }

    /// Nothing is sent before the node has accepted the stream: a stream that did not open has carried nothing.
    fn not_opened(&self, first: Call, why: &str) -> Failure {
        let failure = Failure::NotSent(format!("{} cannot be reached: {why}", self.node));
        (first.answer)(Err(failure.clone()));
        failure
    }

    fn take_in(&mut self, calls: impl Iterator<Item = Call>) {
        for Call { attempt, answer } in calls {
            self.next_id += 1;
            self.under_way.insert(self.next_id, (attempt.give_up, answer));
            let wire = shard::request_to_wire(self.next_id, attempt.request, attempt.pass_on);
            self.requests.push(&wire);
        }
    }

    fn complete(&mut self, batch: ResponseBatch) -> Result<(), Malformed> {
        for response in batch.items() {
            let response = response?;
            let Some((_, answer)) = self.under_way.remove(&response.id) else {
                continue;
            };
            let outcome = match shard::response_from_wire(response) {
                Ok(result) => result.map_err(Failure::Refused),
                Err(malformed) => Err(Failure::Lost(format!("answer of {}: {malformed}", self.node))),
            };
            answer(outcome);
        }
        Ok(())
    }

    /// Ends what has not been answered in time: the node may be paused or cut off.
    fn give_up(&mut self) {
        let now = Instant::now();
        for (_, (_, answer)) in self.under_way.extract_if(|_, (give_up, _)| *give_up <= now) {
            answer(Err(Failure::Lost(format!("{} did not answer in time", self.node))));
        }
    }

    fn fail_all(&mut self, failure: &Failure) {
        for (_, (_, answer)) in self.under_way.drain() {
            answer(Err(failure.clone()));
        }
    }
}
