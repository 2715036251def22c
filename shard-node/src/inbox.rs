//! What waits for the next turn of the event loop: bounded queues, one a kind of sender.
//!
//! Requests are admitted or refused at once: with the queue full, or too many admitted and not yet answered, the answer is
//! [`Refusal::Overloaded`] and costs the event loop nothing. Messages of peers have a budget of their own, so that clients
//! cannot starve replication; when it is spent the oldest is dropped, which the protocol takes for a loss on the network.
//! Completions and operators' words are few, bounded by what is under way, and never dropped.

use crate::event::{Event, RequestId};
use crate::event_loop::Inquiry;
use crate::traces::Traced;
use fulcrum_replication::Message;
use fulcrum_types::{Answered, GroupId, GroupRequest, Mono, NodeId, Refusal, TraceContext};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What is done with the answer to a request.
pub(crate) type Reply = Box<dyn FnOnce(Result<Answered, Refusal>) + Send>;

/// An admitted request.
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    pub(crate) request: GroupRequest,
    /// The span that asks, if its trace is recorded.
    pub(crate) trace: Option<TraceContext>,
    pub(crate) reply: Reply,
    pub(crate) arrived: Mono,
}

impl Submission {
    /// The time that it waited for its turn is not given again: what is too late is refused before it is ordered.
    pub(crate) fn age(&mut self, now: Mono) {
        self.request.deadline = self.request.deadline.saturating_sub(now.since(self.arrived));
    }
}

/// A message of a peer.
pub(crate) struct FromPeer {
    pub(crate) from: NodeId,
    pub(crate) group: GroupId,
    pub(crate) message: Message,
    /// Entries in it whose traces are recorded.
    pub(crate) traced: Vec<Traced>,
}

/// What is neither a request nor a peer's message.
pub(crate) enum Notice {
    /// An event for the node as it is.
    Event(Box<Event>),
    /// Somebody asks about the node itself.
    Inquiry(Inquiry),
    /// The event loop shall end, in good order.
    Stop,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Requests that wait for the next turn.
    pub(crate) requests: usize,
    /// Requests admitted and not yet answered.
    pub(crate) outstanding: usize,
    /// Messages of peers that wait for the next turn.
    pub(crate) peer_messages: usize,
}

/// All that waits for one turn. Kept by the event loop between turns for its allocations.
#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) notices: Vec<Notice>,
    pub(crate) peers: VecDeque<FromPeer>,
    pub(crate) requests: VecDeque<Submission>,
    pub(crate) cancelled: Vec<RequestId>,
    pub(crate) tick: bool,
}

impl Waiting {
    fn append(&mut self, more: &mut Waiting) {
        self.notices.append(&mut more.notices);
        self.peers.append(&mut more.peers);
        self.requests.append(&mut more.requests);
        self.cancelled.append(&mut more.cancelled);
        self.tick |= std::mem::take(&mut more.tick);
    }

    /// Drops the requests that wait and were cancelled: a broken stream may cancel thousands, among thousands.
    pub(crate) fn drop_cancelled(&mut self) {
        if self.cancelled.is_empty() || self.requests.is_empty() {
            return;
        }
        self.cancelled.sort_unstable();
        let cancelled = &self.cancelled;
        self.requests
            .retain(|request| cancelled.binary_search(&request.id).is_err());
    }

    /// How many events that makes.
    pub(crate) fn len(&self) -> usize {
        self.notices.len() + self.peers.len() + self.requests.len() + self.cancelled.len()
    }
}

/// What was refused or dropped because queues were full, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shed {
    pub(crate) requests: u64,
    pub(crate) peer_messages: u64,
}

#[derive(Default)]
struct Queues {
    waiting: Waiting,
    last_id: u64,
    outstanding: usize,
    shed: Shed,
    /// The event loop has been woken for what waits.
    woken: bool,
    /// Why the event loop has ended, if it has.
    closed: Option<String>,
}

/// The queues, shared by everybody who has something for the event loop.
pub(crate) struct Inbox {
    queues: Mutex<Queues>,
    wake: Notify,
    bounds: Bounds,
}

impl Inbox {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            queues: Mutex::default(),
            wake: Notify::new(),
            bounds,
        }
    }

    /// The queues hold no invariant that a panic elsewhere could break.
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut queues: MutexGuard<'_, Queues>) {
        let was_woken = std::mem::replace(&mut queues.woken, true);
        drop(queues);
        if !was_woken {
            self.wake.notify_one();
        }
    }

    /// Admits a request, or says why not.
    pub(crate) fn submit(
        &self,
        request: GroupRequest,
        trace: Option<TraceContext>,
        arrived: Mono,
        reply: Reply,
    ) -> Result<RequestId, Refusal> {
        let mut queues = self.queues();
        if let Some(reason) = &queues.closed {
            return Err(Refusal::Stopped { reason: reason.clone() });
        }
        if queues.outstanding >= self.bounds.outstanding || queues.waiting.requests.len() >= self.bounds.requests {
            queues.shed.requests += 1;
            return Err(Refusal::Overloaded);
        }
        queues.outstanding += 1;
        queues.last_id += 1;
        let id = RequestId(queues.last_id);
        queues.waiting.requests.push_back(Submission {
            id,
            request,
            trace,
            reply,
            arrived,
        });
        self.wake(queues);
        Ok(id)
    }

    /// Nobody waits for that answer any more.
    pub(crate) fn cancel(&self, id: RequestId) {
        let mut queues = self.queues();
        if queues.closed.is_none() {
            queues.waiting.cancelled.push(id);
            self.wake(queues);
        }
    }

    /// Takes in messages of a peer.
    pub(crate) fn receive(&self, messages: impl Iterator<Item = FromPeer>) {
        let mut queues = self.queues();
        if queues.closed.is_some() {
            return;
        }
        queues.waiting.peers.extend(messages);
        let over = queues.waiting.peers.len().saturating_sub(self.bounds.peer_messages);
        queues.waiting.peers.drain(..over);
        queues.shed.peer_messages += over as u64;
        self.wake(queues);
    }

    /// Takes in something that happened.
    pub(crate) fn event(&self, event: Event) {
        self.notice(Notice::Event(Box::new(event)));
    }

    /// Takes in anything else.
    pub(crate) fn notice(&self, notice: Notice) {
        let mut queues = self.queues();
        if queues.closed.is_none() {
            queues.waiting.notices.push(notice);
            self.wake(queues);
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&self) {
        let mut queues = self.queues();
        queues.waiting.tick = true;
        self.wake(queues);
    }

    /// The next turn shall come even if nothing happens.
    pub(crate) fn nudge(&self) {
        self.wake(self.queues());
    }

    /// Waits until something waits, and takes it all. If the last turn left requests, only the others on this thread have a
    /// turn first, and what has come meanwhile is added.
    pub(crate) async fn take(&self, into: &mut Waiting) {
        if into.requests.is_empty() {
            self.wake.notified().await;
        } else {
            tokio::task::yield_now().await;
        }
        let mut queues = self.queues();
        queues.woken = false;
        if into.requests.is_empty() {
            std::mem::swap(&mut queues.waiting, into);
        } else {
            into.append(&mut queues.waiting);
        }
    }

    /// So many admitted requests are done with.
    pub(crate) fn done(&self, requests: usize) {
        if requests > 0 {
            let mut queues = self.queues();
            queues.outstanding = queues.outstanding.saturating_sub(requests);
        }
    }

    /// The event loop has ended: everything from now on is refused or ignored, and what waits is dropped.
    pub(crate) fn close(&self, reason: String) {
        let mut queues = self.queues();
        queues.closed.get_or_insert(reason);
        let dropped = std::mem::take(&mut queues.waiting);
        drop(queues);
        drop(dropped);
    }

    /// Requests admitted and not yet answered.
    pub(crate) fn outstanding(&self) -> usize {
        self.queues().outstanding
    }

    /// What was shed since the start.
    pub(crate) fn shed(&self) -> Shed {
        self.queues().shed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fulcrum_replication::Header;
    use fulcrum_replication::primary_backup::Body;
    use fulcrum_types::{KeyspaceId, Level, LogPosition, MapVersion, Operation, Query, ReadRequest};
    use std::time::Duration;

    fn inbox() -> Inbox {
        Inbox::new(Bounds {
            requests: 3,
            outstanding: 4,
            peer_messages: 2,
        })
    }

    fn request() -> GroupRequest {
        let query = Query::Get(vec![Bytes::from_static(b"k")]);
        let read = ReadRequest {
            level: Level::Eventual,
            acceptable: Vec::new(),
            seen: None,
            query,
        };
        GroupRequest {
            keyspace: KeyspaceId(1),
            group: GroupId(1),
            map_version: MapVersion(1),
            deadline: Duration::from_secs(1),
            operation: Operation::Read(read),
        }
    }

    fn submit(inbox: &Inbox) -> Result<RequestId, Refusal> {
        inbox.submit(request(), None, Mono(0), Box::new(|_| {}))
    }

    fn probe(epoch: u64) -> FromPeer {
        let message = Message {
            header: Header::default(),
            body: Body::Probe {
                last: LogPosition::default(),
            },
        };
        FromPeer {
            from: NodeId(epoch),
            group: GroupId(1),
            message,
            traced: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_turn_makes_room() {
        let inbox = inbox();
        for _ in 0..3 {
            submit(&inbox).unwrap();
        }
        assert_eq!(submit(&inbox), Err(Refusal::Overloaded));
        let mut waiting = Waiting::default();
        inbox.take(&mut waiting).await;
        assert_eq!(waiting.len(), 3);
        // Four may be unanswered, and three are.
        assert!(submit(&inbox).is_ok());
        assert_eq!(submit(&inbox), Err(Refusal::Overloaded));
        inbox.done(2);
        assert!(submit(&inbox).is_ok());
        assert_eq!((inbox.outstanding(), inbox.shed().requests), (3, 2));
    }

    #[tokio::test]
    async fn peers_lose_the_oldest_and_clients_do_not_crowd_them_out() {
        let inbox = inbox();
        for _ in 0..3 {
            submit(&inbox).unwrap();
        }
        inbox.receive((1..=3).map(probe));
        let mut waiting = Waiting::default();
        inbox.take(&mut waiting).await;
        let from: Vec<_> = waiting.peers.iter().map(|peer| peer.from.0).collect();
        assert_eq!(
            (from, waiting.requests.len(), inbox.shed().peer_messages),
            (vec![2, 3], 3, 1)
        );
    }

    #[tokio::test]
    async fn what_a_turn_leaves_is_joined_by_what_has_come() {
        let inbox = inbox();
        let first = submit(&inbox).unwrap();
        let mut waiting = Waiting::default();
        inbox.take(&mut waiting).await;
        let second = submit(&inbox).unwrap();
        inbox.receive([probe(1)].into_iter());
        inbox.tick();
        inbox.take(&mut waiting).await;
        let ids: Vec<_> = waiting.requests.iter().map(|request| request.id).collect();
        assert_eq!(ids, [first, second]);
        assert_eq!((waiting.peers.len(), waiting.tick), (1, true));
    }

    #[tokio::test]
    async fn time_spent_waiting_counts() {
        let inbox = inbox();
        submit(&inbox).unwrap();
        let mut waiting = Waiting::default();
        inbox.take(&mut waiting).await;
        let submission = &mut waiting.requests[0];
        submission.age(Mono(0) + Duration::from_millis(300));
        assert_eq!(submission.request.deadline, Duration::from_millis(700));
        submission.age(Mono(0) + Duration::from_secs(5));
        assert!(submission.request.deadline.is_zero());
    }

    #[tokio::test]
    async fn cancelled_requests_that_wait_are_dropped_and_the_others_stay() {
        let inbox = inbox();
        let ids: Vec<_> = (0..3).map(|_| submit(&inbox).unwrap()).collect();
        [ids[2], ids[0], RequestId(99)]
            .into_iter()
            .for_each(|id| inbox.cancel(id));
        let mut waiting = Waiting::default();
        inbox.take(&mut waiting).await;
        waiting.drop_cancelled();
        assert_eq!(waiting.requests.iter().map(|r| r.id).collect::<Vec<_>>(), [ids[1]]);
        assert_eq!(waiting.cancelled.len(), 3, "the node is still to be told");
    }

    #[test]
    fn a_closed_inbox_says_why() {
        let inbox = inbox();
        inbox.close("the disk failed".into());
        inbox.close("later".into());
        assert_eq!(
            submit(&inbox),
            Err(Refusal::Stopped {
                reason: "the disk failed".into()
            })
        );
    }
}
