//! Requests of a trace: a span from arrival to answer, and under it where the time went.

use super::{FOLLOWED, PATIENCE, Piece};
use crate::event::RequestId;
use crate::node::Node;
use crate::storage::{BatchDone, BatchId};
use fulcrum_common::clock::Anchor;
use fulcrum_common::trace::{self, Failed, Kind, Record, Value};
use fulcrum_common::wire::internal::TracedEntry;
use fulcrum_common::wire::trace::to_wire;
use fulcrum_types::{
    Answered, GroupId, GroupRequest, Index, LogPosition, Mono, NodeId, Operation, Query, Receipt, Refusal, TraceContext,
};
use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

/// A request that has its turn, or had it.
struct Followed {
    asked_by: TraceContext,
    context: TraceContext,
    name: &'static str,
    group: GroupId,
    arrived: Mono,
    taken: Mono,
    /// In which turn it was taken.
    turn: u64,
    entry: Option<Entry>,
    /// It may be ordered, sooner or later.
    writes: bool,
    /// How often it was ordered again, after it had waited for a lock.
    again: u64,
}

/// Where a request was ordered, and what became of that.
struct Entry {
    position: LogPosition,
    ordered: Mono,
    batch: BatchId,
    durable: Option<(Mono, u64)>,
    /// The span under which backups have theirs.
    replicate: TraceContext,
    sent: Option<Mono>,
    sent_to: Vec<NodeId>,
    acknowledged: Vec<(NodeId, Mono)>,
}

#[derive(Default)]
pub(super) struct Requests {
    followed: HashMap<RequestId, Followed>,
    /// Whose entry stands where. What was answered before its backups had it stays until they have.
    places: BTreeMap<(GroupId, Index), Place>,
    /// How many turns there were.
    turn: u64,
}

enum Place {
    Asked(RequestId),
    Answered(Box<(TraceContext, Entry)>),
}

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.followed.is_empty() && self.places.is_empty()
    }

    pub(super) fn turn_begins(&mut self) {
        self.turn += 1;
    }

    pub(super) fn taken(
        &mut self,
        id: RequestId,
        request: &GroupRequest,
        asked_by: TraceContext,
        arrived: Mono,
        now: Mono,
    ) {
        if self.followed.len() >= FOLLOWED {
            return;
        }
        let followed = Followed {
            asked_by,
            context: trace::reserve(asked_by).unwrap_or(asked_by),
            name: name(&request.operation),
            group: request.group,
            arrived,
            taken: now,
            turn: self.turn,
            entry: None,
            writes: match &request.operation {
                Operation::Write { .. } | Operation::Joint(_) => true,
                Operation::Transaction(step) => !step.is_read(),
                // Cuts are followed by nobody: they belong to no client's request.
                Operation::Read(_) | Operation::Outcome(_) | Operation::Cut(_) => false,
            },
            again: 0,
        };
        self.followed.insert(id, followed);
    }

    pub(super) fn turn_ended(&mut self, node: &Node, batch: BatchId, now: Mono) {
        for (id, followed) in &mut self.followed {
            if !followed.writes {
                continue;
            }
            let Some(position) = node.ordered_at(followed.group, *id) else {
                continue;
            };
            if followed.entry.as_ref().is_some_and(|entry| entry.position == position) {
                continue;
            }
            if let Some(before) = followed.entry.take() {
                followed.again += 1;
                self.places.remove(&(followed.group, before.position.index));
            }
            followed.entry = Some(Entry {
                position,
                ordered: now,
                batch,
                durable: None,
                replicate: trace::reserve(followed.context).unwrap_or(followed.context),
                sent: None,
                sent_to: Vec::new(),
                acknowledged: Vec::new(),
            });
            self.places.insert((followed.group, position.index), Place::Asked(*id));
        }
    }

    pub(super) fn durable(&mut self, done: &BatchDone, now: Mono) {
        let sync = done.sync.unwrap_or_default();
        let sync_us = u64::try_from(sync.as_micros()).unwrap_or(u64::MAX);
        for entry in self
            .followed
            .values_mut()
            .filter_map(|followed| followed.entry.as_mut())
        {
            if done.id >= entry.batch {
                entry.durable.get_or_insert((now, sync_us));
            }
        }
    }

    fn entry_mut<'a>(followed: &'a mut HashMap<RequestId, Followed>, place: &'a mut Place) -> Option<&'a mut Entry> {
        match place {
            Place::Asked(id) => followed.get_mut(id)?.entry.as_mut(),
            Place::Answered(rest) => Some(&mut rest.1),
        }
    }

    pub(super) fn sends(
        &mut self,
        to: NodeId,
        group: GroupId,
        indexes: RangeInclusive<Index>,
        now: Mono,
    ) -> Vec<TracedEntry> {
        let mut traced = Vec::new();
        let range = (group, *indexes.start())..=(group, *indexes.end());
        for ((_, index), place) in self.places.range_mut(range) {
            let Some(entry) = Self::entry_mut(&mut self.followed, place) else {
                continue;
            };
            // What is sent again is no other entry.
            if entry.sent_to.contains(&to) {
                continue;
            }
            entry.sent_to.push(to);
            entry.sent.get_or_insert(now);
            traced.push(TracedEntry {
                index: index.0,
                trace: to_wire(Some(entry.replicate)),
            });
        }
        traced
    }

    pub(super) fn acknowledged(&mut self, from: NodeId, group: GroupId, through: Index, now: Mono) {
        let mut complete = Vec::new();
        for (at, place) in self.places.range_mut((group, Index::ZERO)..=(group, through)) {
            let answered = matches!(place, Place::Answered(_));
            let Some(entry) = Self::entry_mut(&mut self.followed, place) else {
                continue;
            };
            let known = entry.acknowledged.iter().any(|(node, _)| *node == from);
            if !known && entry.sent_to.contains(&from) {
                entry.acknowledged.push((from, now));
            }
            if answered && entry.acknowledged.len() == entry.sent_to.len() {
                complete.push(*at);
            }
        }
        for at in complete {
            if let Some(Place::Answered(rest)) = self.places.remove(&at) {
                let (parent, entry) = *rest;
                record_replication(&Anchor::now(), parent, &entry, now);
            }
        }
    }

    pub(super) fn answered<'a>(
        &mut self,
        id: RequestId,
        keyspace_of: impl FnOnce(GroupId) -> &'a str,
        result: &Result<Answered, Refusal>,
        now: Mono,
    ) {
        let Some(followed) = self.followed.remove(&id) else {
            return;
        };
        let anchor = Anchor::now();
        followed.record(&anchor, keyspace_of(followed.group), result, now);
        if followed.has_waited(self.turn) {
            let wait = Piece::part_of(followed.context, "wait", followed.taken, now);
            trace::record(wait.into_record(&anchor));
        }
        let Followed {
            context, group, entry, ..
        } = followed;
        let Some(entry) = entry else { return };
        let place = (group, entry.position.index);
        self.places.remove(&place);
        let Ok(Answered { receipt, .. }) = result else { return };
        if let Some(done) = entry.replicated(receipt) {
            record_replication(&anchor, context, &entry, done);
        } else if !entry.sent_to.is_empty() {
            self.places.insert(place, Place::Answered(Box::new((context, entry))));
        }
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        let entry = self
            .followed
            .remove(&id)
            .and_then(|followed| Some((followed.group, followed.entry?)));
        if let Some((group, entry)) = entry {
            self.places.remove(&(group, entry.position.index));
        }
    }

    pub(super) fn expire(&mut self, now: Mono) {
        self.places.retain(|_, place| match place {
            Place::Asked(_) => true,
            Place::Answered(rest) => now.since(rest.1.ordered) < PATIENCE,
        });
    }
}

impl Followed {
    /// Whether it is a read that could not be answered in the turn in which it was taken.
    fn has_waited(&self, turn: u64) -> bool {
        !self.writes && self.turn != turn
    }

    fn record(&self, anchor: &Anchor, keyspace: &str, result: &Result<Answered, Refusal>, now: Mono) {
        let mut attributes: Vec<(&'static str, Value)> = vec![
            ("db.system.name", "fulcrum".into()),
            ("db.operation.name", self.name.into()),
            ("fulcrum.keyspace", keyspace.to_owned().into()),
            ("fulcrum.group", self.group.0.into()),
        ];
        if self.again > 0 {
            attributes.push(("fulcrum.lock_waits", self.again.into()));
        }
        match result {
            Ok(answered) => attributes.extend(of_receipt(&answered.receipt)),
            Err(refusal) => attributes.push(("fulcrum.outcome", refusal.code().into())),
        }
        trace::record(Record {
            context: self.context,
            parent: Some(self.asked_by.span),
            name: self.name,
            kind: Kind::Server,
            start: anchor.at(self.arrived),
            end: anchor.at(now),
            attributes,
            events: Vec::new(),
            failed: result.as_ref().err().map(Failed::from),
        });
        let part = |name, start, end| Piece::part_of(self.context, name, start, end);
        trace::record(part("queue", self.arrived, self.taken).into_record(anchor));
        let Some(entry) = &self.entry else { return };
        trace::record(part("propose", self.taken, entry.ordered).into_record(anchor));
        let Some((durable, sync_us)) = entry.durable else {
            return;
        };
        let mut fsync = part("fsync", entry.ordered, durable);
        fsync.attributes.push(("fulcrum.fsync_us", sync_us.into()));
        trace::record(fsync.into_record(anchor));
        if let Ok(answered) = result {
            let committed = entry.replicated(&answered.receipt).unwrap_or(durable).max(durable);
            trace::record(part("apply", committed, now).into_record(anchor));
        }
    }
}

impl Entry {
    /// When the last of those had it that the answer names, if the answer waited for any.
    fn replicated(&self, receipt: &Receipt) -> Option<Mono> {
        let named = |node: &NodeId| receipt.acknowledged_by.contains(node);
        let times = self.acknowledged.iter().filter(|(node, _)| named(node));
        times.map(|(_, at)| *at).max()
    }
}

fn record_replication(anchor: &Anchor, parent: TraceContext, entry: &Entry, done: Mono) {
    let mut piece = Piece::part_of(parent, "replicate", entry.sent.unwrap_or(entry.ordered), done);
    piece.context = entry.replicate;
    piece.kind = Kind::Client;
    piece.attributes = vec![("fulcrum.index", entry.position.index.0.into())];
    let mut record = piece.into_record(anchor);
    let seen = entry.acknowledged.iter().filter(|(_, at)| *at <= done);
    record.events = seen
        .map(|(node, at)| (anchor.at(*at), format!("acknowledged by {node}").into()))
        .collect();
    trace::record(record);
}

fn of_receipt(receipt: &Receipt) -> [(&'static str, Value); 6] {
    [
        ("fulcrum.role", receipt.role.name().into()),
        ("fulcrum.epoch", receipt.epoch.0.into()),
        ("fulcrum.index", receipt.index.0.into()),
        ("fulcrum.level", receipt.achieved.name().into()),
        ("fulcrum.rounds", u64::from(receipt.rounds).into()),
        ("fulcrum.outcome", "ok".into()),
    ]
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Read(read) => match read.query {
            Query::Get(_) | Query::Joint(_) => "read",
            Query::Scan { .. } => "scan",
            Query::Changes(_) => "watch",
        },
        Operation::Write { .. } | Operation::Joint(_) => "write",
        Operation::Outcome(_) => "outcome",
        Operation::Cut(_) => "cut",
        Operation::Transaction(step) => step.name(),
    }
}
