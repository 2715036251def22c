//! What is followed of entries that come from a primary.

use super::*;
use fulcrum_replication::primary_backup::Beat;
use fulcrum_replication::{Header, Message};
use fulcrum_types::{Entry, Epoch, LogPosition, Payload, ReplicatedTime};

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
