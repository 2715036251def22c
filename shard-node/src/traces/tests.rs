//! What is followed of entries that come from a primary, and of reads.

use super::*;
use fulcrum_common::trace::{Recorder, Sink};
use fulcrum_replication::primary_backup::Beat;
use fulcrum_replication::{Header, Message};
use fulcrum_types::{
    Entry, Epoch, KeyspaceId, Level, LogPosition, MapVersion, Operation, Payload, Query, ReadRequest, ReplicatedTime,
};
use std::sync::{Mutex, PoisonError};

const GROUP: GroupId = GroupId(7);

fn context(span: u64) -> TraceContext {
    TraceContext {
        trace: 1,
        span,
        sampled: true,
    }
}

fn message(epoch: u64, body: Body) -> Message {
    let header = Header {
        epoch: Epoch(epoch),
        ..Header::default()
    };
    Message { header, body }
}

fn append(epoch: u64, indexes: std::ops::RangeInclusive<u64>) -> Message {
    let position = |index| LogPosition {
        epoch: Epoch(epoch),
        index: Index(index),
    };
    let entries = indexes.map(|index| Entry {
        position: position(index),
        time: ReplicatedTime::default(),
        payload: Payload::Noop,
    });
    let body = Body::Append {
        previous: LogPosition::default(),
        entries: entries.collect(),
        commit: Index::ZERO,
        held: Index::ZERO,
        beat: Beat::default(),
    };
    message(epoch, body)
}

fn acknowledge(persisted: u64) -> Message {
    let body = Body::Acknowledge {
        persisted: Index(persisted),
        matched: Index(persisted),
        applied: Index::ZERO,
        echo: Mono(0),
        round: 0,
        own_clock: Mono(0),
        leaving: false,
    };
    message(1, body)
}

#[test]
fn an_entry_from_a_primary_is_followed_until_the_primary_hears_that_it_is_on_disk() {
    let mut traces = Traces::default();
    let traced = [(Index(4), context(2)), (Index(6), context(3))];
    traces.received(NodeId(1), GROUP, &append(1, 4..=6), &traced, Mono(1));
    // Sent again: no other entry.
    traces.received(NodeId(1), GROUP, &append(1, 4..=6), &traced, Mono(2));
    assert!(!traces.entries.is_empty());
    for (persisted, left) in [(3, 2), (5, 1), (5, 1), (6, 0)] {
        let sent = traces.sends(NodeId(1), GROUP, &acknowledge(persisted), Mono(9));
        assert!(sent.is_empty());
        assert_eq!(traces.entries.len(), left, "after {persisted}");
    }
}

#[test]
fn what_is_never_acknowledged_is_not_followed_for_ever_and_there_is_a_bound() {
    let mut traces = Traces::default();
    let many: Vec<Traced> = (1..=2 * FOLLOWED as u64)
        .map(|index| (Index(index), context(index)))
        .collect();
    traces.received(NodeId(1), GROUP, &append(1, 1..=1), &many, Mono(0));
    assert_eq!(traces.entries.len(), FOLLOWED);
    traces.tick(Mono(0) + PATIENCE);
    assert!(traces.is_empty());
}

/// All spans of this process.
static SPANS: Mutex<Vec<Record>> = Mutex::new(Vec::new());

struct Kept;

impl Sink for Kept {
    fn take(&self, record: Record) {
        SPANS.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }
}

fn read(query: Query) -> GroupRequest {
    GroupRequest {
        keyspace: KeyspaceId(1),
        group: GROUP,
        map_version: MapVersion(1),
        deadline: Duration::from_secs(1),
        operation: Operation::Read(ReadRequest {
            level: Level::Eventual,
            acceptable: Vec::new(),
            seen: None,
            query,
        }),
    }
}

#[test]
fn a_read_that_is_not_answered_in_its_turn_says_how_long_it_waited() {
    // There is one recorder a process, and this is the only test that needs one.
    trace::install(Recorder::new(Kept, 0.0)).unwrap();
    let mut traces = Traces::default();
    let scan = Query::Scan {
        start: Default::default(),
        end: Default::default(),
        limit: 1,
        max_bytes: 1,
    };
    let [at_once, later] = [(RequestId(1), context(71)), (RequestId(2), context(72))];
    traces.turn_begins();
    traces.taken(at_once.0, &read(Query::Get(Vec::new())), at_once.1, Mono(1), Mono(2));
    traces.taken(later.0, &read(scan), later.1, Mono(1), Mono(2));
    let refused = Err(Refusal::DeadlineExceeded);
    traces.answered(at_once.0, |_| "orders", &refused, Mono(3));
    traces.turn_begins();
    traces.answered(later.0, |_| "orders", &refused, Mono(8));
    let spans = SPANS.lock().unwrap_or_else(PoisonError::into_inner);
    let parts_of = |asked_by: TraceContext| {
        let whole = spans.iter().find(|span| span.parent == Some(asked_by.span)).unwrap();
        let parts = spans.iter().filter(|span| span.parent == Some(whole.context.span));
        let parts = parts.map(|part| (part.name, part.end.duration_since(part.start).unwrap()));
        (whole.name, parts.collect::<Vec<_>>())
    };
    let queue = ("queue", Duration::from_nanos(1));
    assert_eq!(parts_of(at_once.1), ("read", vec![queue]));
    let wait = ("wait", Duration::from_nanos(6));
    assert_eq!(parts_of(later.1), ("scan", vec![queue, wait]));
}
