//! The event loop: one task that owns the node and works in turns.
//!
//! A turn takes all that waits in the inbox, steps the node through it, ends the turn, and runs what the node asks for. What
//! arrives meanwhile goes into the next turn; so requests that come together share a log write, a message to each peer and
//! an fsync, and the number of fsyncs does not grow with the number of groups (DESIGN section 8).
//!
//! The services run on the same thread: while they decode and submit, the loop sleeps, and it is woken once for all of them.

use crate::disk::DiskWatch;
use crate::effects::Effects;
use crate::event::{Event, Output};
use crate::inbox::{Inbox, Notice, Submission, Waiting};
use crate::metrics::{Kind, NodeMetrics};
use crate::node::{GroupStatus, Node, NodeStatus};
use crate::storage::{BatchDone, Certificate, StorageError};
use fulcrum_common::Clock;
use fulcrum_types::{Mono, Now, Operation};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Requests that one turn takes: those behind them come after the answers have left, so that whoever sent them is at work, too.
const REQUESTS_A_TURN: usize = 512;
/// Requests that a turn takes before it looks which of them can be answered.
const REQUESTS_AT_A_TIME: usize = 64;
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// What is asked about the node itself.
pub(crate) enum Inquiry {
    /// How it and its replicas are.
    Status(oneshot::Sender<(NodeStatus, Vec<GroupStatus>)>),
    /// The loss certificates that it keeps.
    Certificates(oneshot::Sender<Result<Vec<Certificate>, StorageError>>),
}

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was asked to.
    Asked,
    /// The node's storage failed: it must not be touched again.
    Fatal(String),
}

/// The node and the world around it.
pub(crate) struct EventLoop {
    node: Node,
    effects: Effects,
    inbox: Arc<Inbox>,
    clock: Arc<dyn Clock>,
    disk: Arc<DiskWatch>,
    metrics: Arc<NodeMetrics>,
    /// Told with every refresh whether the node is ready, or why not.
    ready: watch::Sender<Result<(), String>>,
    outputs: Vec<Output>,
    writes_since_sync: u64,
    next_refresh: Mono,
}

impl EventLoop {
    pub(crate) fn new(
        node: Node,
        effects: Effects,
        inbox: Arc<Inbox>,
        clock: Arc<dyn Clock>,
        disk: Arc<DiskWatch>,
        metrics: Arc<NodeMetrics>,
        ready: watch::Sender<Result<(), String>>,
    ) -> Self {
        let next_refresh = clock.now().mono;
        Self {
            node,
            effects,
            inbox,
            clock,
            disk,
            metrics,
            ready,
            outputs: Vec::new(),
            writes_since_sync: 0,
            next_refresh,
        }
    }

    /// Runs turn after turn until asked to stop or until storage fails.
    pub(crate) async fn run(mut self) -> (Node, End) {
        let mut waiting = Waiting::default();
        loop {
            self.inbox.take(&mut waiting).await;
            if let Some(end) = self.turn(&mut waiting) {
                return (self.node, end);
            }
        }
    }

    fn turn(&mut self, waiting: &mut Waiting) -> Option<End> {
        self.metrics.turns.inc();
        self.effects.traces().turn_begins();
        self.metrics.turn_operations.observe(waiting.len() as f64);
        let mut now = self.clock.now();
        let before = self.effects.waiting() + waiting.requests.len();
        let mut end = None;
        for notice in waiting.notices.drain(..) {
            match notice {
                Notice::Event(event) => self.event(now, *event),
                Notice::Inquiry(inquiry) => self.answer(now, inquiry),
                Notice::Stop => end = Some(End::Asked),
            }
        }
        for peer in waiting.peers.drain(..) {
            let traces = self.effects.traces();
            traces.received(peer.from, peer.group, &peer.message, &peer.traced, now.mono);
            let event = Event::Peer {
                from: peer.from,
                group: peer.group,
                message: peer.message,
            };
            self.node.handle(now, event);
        }
        let taken = a_turns_share(&waiting.requests);
        let mut at_hand = 0;
        for submission in waiting.requests.drain(..taken) {
            at_hand += submission.request.operation.requests();
            self.request(now, submission);
            // What is evaluated leaves while it is at hand: a thousand reads of a turn would fall out of the processor's caches.
            if at_hand >= REQUESTS_AT_A_TIME {
                at_hand = 0;
                // What comes after it must not be told an earlier time.
                now = self.clock.now();
                self.node.release(now, &mut self.outputs);
                end = end.or(self.run_outputs());
            }
        }
        waiting.drop_cancelled();
        for id in waiting.cancelled.drain(..) {
            if self.effects.forget(id) {
                self.node.handle(now, Event::Cancel { id });
            }
        }
        if std::mem::take(&mut waiting.tick) {
            self.tick(now);
        }
        // A fresh reading: reads leave only if their lease still holds now that they are evaluated.
        now = self.clock.now();
        let batch = self.node.open_batch();
        if self.node.end_turn(now, &mut self.outputs) {
            self.inbox.nudge();
        }
        self.effects.traces().turn_ended(&self.node, batch, now.mono);
        end = self.run_outputs().or(end);
        let after = self.effects.waiting() + waiting.requests.len();
        self.inbox.done(before.saturating_sub(after));
        end
    }

    /// Runs what the node asks for so far. Why the loop must end, if it must.
    fn run_outputs(&mut self) -> Option<End> {
        let now = self.clock.now().mono;
        let mut end = None;
        for output in self.outputs.drain(..) {
            if let Some(reason) = self.effects.run(now, output) {
                end = Some(End::Fatal(reason));
            }
        }
        end
    }

    fn event(&mut self, now: Now, event: Event) {
        match &event {
            Event::Map(map) => self.effects.follow(map),
            Event::BatchDone(done) => {
                self.count(done);
                self.effects.traces().batch_done(done, now.mono);
            }
            _ => {}
        }
        self.node.handle(now, event);
    }

    fn request(&mut self, now: Now, mut submission: Submission) {
        submission.age(now.mono);
        let Submission {
            id,
            request,
            trace,
            reply,
            arrived,
        } = submission;
        if let Operation::Write { .. } | Operation::Joint(_) = request.operation {
            self.writes_since_sync += request.operation.requests() as u64;
        }
        self.effects.expect(id, Kind::of(&request), arrived, reply);
        if let Some(trace) = trace {
            self.effects.traces().taken(id, &request, trace, arrived, now.mono);
        }
        self.node.handle(now, Event::Request { id, request });
    }

    fn count(&mut self, done: &BatchDone) {
        self.metrics.write.observe(done.write.as_secs_f64());
        let Some(sync) = done.sync else { return };
        self.metrics.fsync.observe(sync.as_secs_f64());
        let writes = std::mem::take(&mut self.writes_since_sync);
        // An fsync of a backup's, or of a hard state, serves no request here.
        if writes > 0 {
            self.metrics.writes_per_fsync.observe(writes as f64);
        }
    }

    fn tick(&mut self, now: Now) {
        self.disk.probe_if_idle(now.mono);
        let disk_healthy = self.disk.is_healthy(now.mono);
        self.node.handle(now, Event::Tick { disk_healthy });
        self.effects.traces().tick(now.mono);
        if now.mono >= self.next_refresh {
            self.next_refresh = now.mono + REFRESH_EVERY;
            self.refresh(now, disk_healthy);
        }
    }

    fn refresh(&self, now: Now, disk_healthy: bool) {
        let statuses: Vec<GroupStatus> = self.node.group_statuses(now).collect();
        self.metrics.replicas(&statuses);
        // What it was before is of no interest.
        let _ = self.ready.send_replace(self.node.readiness(now, disk_healthy));
        let status = self.node.status();
        self.metrics.node(disk_healthy, &status);
        self.metrics.queues(
            self.inbox.outstanding(),
            self.inbox.shed(),
            self.effects.transport().depths(),
        );
    }

    /// Whoever asked may have gone.
    fn answer(&self, now: Now, inquiry: Inquiry) {
        match inquiry {
            Inquiry::Status(to) => {
                let _ = to.send((self.node.status(), self.node.group_statuses(now).collect()));
            }
            Inquiry::Certificates(to) => {
                let _ = to.send(self.node.certificates());
            }
        }
    }
}

/// How many of those that wait one turn takes: a joint counts as what was joined.
fn a_turns_share(requests: &VecDeque<Submission>) -> usize {
    let mut room = REQUESTS_A_TURN;
    let fits = |submission: &&Submission| {
        let begins = room > 0;
        room = room.saturating_sub(submission.request.operation.requests());
        begins
    };
    requests.iter().take_while(fits).count()
}
