//! Followed requests: what the event loop and the effect runner know of them, and the spans that come of it.
//!
//! The node and its cores know nothing of traces. The event loop looks up where a followed request was ordered, and here are
//! put together with that the times that it and the effect runner see anyway: taken, ordered, durable, sent, acknowledged, answered.
//! [`requests`] does that where requests come in, [`entries`] where entries come from a primary. As long as nothing is followed all of
//! this is a look at empty tables.
//!
//! Left out: what nobody asked for (elections, snapshots, a node's own questions about transactions in doubt).

mod entries;
mod requests;

use crate::event::RequestId;
use crate::node::Node;
use crate::storage::{BatchDone, BatchId};
use entries::Entries;
use fulcrum_common::trace::{self, Kind, Record, Value};
use fulcrum_common::wire::internal::TracedEntry;
use fulcrum_replication::Message;
use fulcrum_replication::primary_backup::Body;
use fulcrum_types::{Answered, GroupId, GroupRequest, Index, Mono, NodeId, Refusal, TraceContext};
use requests::Requests;
use std::time::Duration;

/// Requests, and entries of others, that are followed at a time; further ones are served as any other.
const FOLLOWED: usize = 1024;
/// After so long without an end nothing more is expected.
const PATIENCE: Duration = Duration::from_secs(5);

/// An entry of a primary's, by its index, and the span that sends it.
pub(crate) type Traced = (Index, TraceContext);

/// All that is followed here.
#[derive(Default)]
pub(crate) struct Traces {
    requests: Requests,
    entries: Entries,
}

impl Traces {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.entries.is_empty()
    }

    /// A turn begins.
    pub(crate) fn turn_begins(&mut self) {
        self.requests.turn_begins();
    }

    /// A request of a trace has its turn.
    pub(crate) fn taken(
        &mut self,
        id: RequestId,
        request: &GroupRequest,
        trace: TraceContext,
        arrived: Mono,
        now: Mono,
    ) {
        self.requests.taken(id, request, trace, arrived, now);
    }

    /// A turn has ended at that time; what it ordered was staged for that batch.
    pub(crate) fn turn_ended(&mut self, node: &Node, batch: BatchId, now: Mono) {
        if !self.requests.is_empty() {
            self.requests.turn_ended(node, batch, now);
        }
    }

    /// The storage has done a batch.
    pub(crate) fn batch_done(&mut self, done: &BatchDone, now: Mono) {
        if !self.requests.is_empty() && done.result.is_ok() {
            self.requests.durable(done, now);
        }
    }

    /// A message of a peer has its turn.
    pub(crate) fn received(&mut self, from: NodeId, group: GroupId, message: &Message, traced: &[Traced], now: Mono) {
        if !traced.is_empty() {
            self.entries.received(group, message.header.epoch, traced, now);
        }
        if !self.requests.is_empty()
            && let Body::Acknowledge { persisted, .. } = &message.body
        {
            self.requests.acknowledged(from, group, *persisted, now);
        }
    }

    /// A message leaves: what its receiver is to know of the entries in it.
    pub(crate) fn sends(&mut self, to: NodeId, group: GroupId, message: &Message, now: Mono) -> Vec<TracedEntry> {
        if self.is_empty() {
            return Vec::new();
        }
        match &message.body {
            Body::Append { entries, .. } => match (entries.first(), entries.last()) {
                (Some(first), Some(last)) => {
                    let range = first.position.index..=last.position.index;
                    self.requests.sends(to, group, range, now)
                }
                _ => Vec::new(),
            },
            Body::Acknowledge { persisted, .. } => {
                self.entries.persisted(group, *persisted, now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A request is answered. What its group's keyspace is called is asked only if it is followed.
    pub(crate) fn answered<'a>(
        &mut self,
        id: RequestId,
        keyspace_of: impl FnOnce(GroupId) -> &'a str,
        result: &Result<Answered, Refusal>,
        now: Mono,
    ) {
        if !self.requests.is_empty() {
            self.requests.answered(id, keyspace_of, result, now);
        }
    }

    /// Nobody waits for a request any more.
    pub(crate) fn forget(&mut self, id: RequestId) {
        if !self.requests.is_empty() {
            self.requests.forget(id);
        }
    }

    /// Time has passed: nothing is followed for ever.
    pub(crate) fn tick(&mut self, now: Mono) {
        if !self.is_empty() {
            self.requests.expire(now);
            self.entries.expire(now);
        }
    }
}

/// A span under another one, as the shard-node's clock tells it.
struct Piece {
    context: TraceContext,
    parent: u64,
    name: &'static str,
    kind: Kind,
    start: Mono,
    end: Mono,
    attributes: Vec<(&'static str, Value)>,
}

impl Piece {
    /// A part of a request's time in this node.
    fn part_of(parent: TraceContext, name: &'static str, start: Mono, end: Mono) -> Self {
        Self {
            context: trace::reserve(parent).unwrap_or(parent),
            parent: parent.span,
            name,
            kind: Kind::Internal,
            start,
            end,
            attributes: Vec::new(),
        }
    }

    fn into_record(self, anchor: &fulcrum_common::clock::Anchor) -> Record {
        Record {
            context: self.context,
            parent: Some(self.parent),
            name: self.name,
            kind: self.kind,
            start: anchor.at(self.start),
            end: anchor.at(self.end.max(self.start)),
            attributes: self.attributes,
            events: Vec::new(),
            failed: None,
        }
    }
}

#[cfg(test)]
mod tests;
