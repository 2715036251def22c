//! When a primary has its core carry the group's time on.

use super::fake::*;
use crate::event::Event;
use crate::state_machine::encode_write;
use bytes::Bytes;
use fulcrum_replication::{Effect, Input, LogChange};
use fulcrum_types::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn entry(index: u64, time: u64, payload: Payload) -> Vec<Effect> {
    let entry = Entry {
        position: position(1, index),
        time: ReplicatedTime(time),
        payload,
    };
    let change = LogChange::Append(vec![entry]);
    vec![
        Effect::Write {
            id: WriteId(index),
            change,
        },
        Effect::Commit { through: Index(index) },
    ]
}

/// A primary whose log has so many values, written at 1,000 for 500 ms.
fn brief_values(count: usize) -> Bench {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    let brief = |n: usize| WriteOp {
        key: Bytes::from(format!("k{n}")),
        condition: Condition::None,
        mutation: Mutation::Put {
            value: Bytes::from_static(b"v"),
            ttl: Some(Duration::from_millis(500)),
        },
    };
    let ops: Vec<WriteOp> = (0..count).map(brief).collect();
    bench.effects(0, entry(1, 1000, Payload::Command(encode_write(None, &ops))));
    bench.inputs();
    bench
}

/// What the core is asked from one moment to another, with a tick every 10 ms.
fn asked(bench: &mut Bench, from_ms: u64, until_ms: u64) -> Vec<u64> {
    for ms in (from_ms..until_ms).step_by(10) {
        bench.handle(ms, Event::Tick { disk_healthy: true });
        bench.turn(ms);
    }
    let due = |input| match input {
        Input::CarryTime { due } => Some(due.0),
        _ => None,
    };
    bench.inputs().into_iter().filter_map(due).collect()
}

#[test]
fn a_core_that_orders_nothing_is_asked_once_in_a_while() {
    let mut bench = brief_values(1);
    bench.script(|_, _| Vec::new());
    assert_eq!(asked(&mut bench, 1_000, 2_000), [1_500; 10]);
    *bench.stage.status.lock().unwrap() = status(Role::Backup);
    assert_eq!(asked(&mut bench, 2_000, 3_000), [0; 0], "only a primary asks");
}

#[test]
fn what_an_entry_left_behind_goes_with_the_next_at_once() {
    let mut bench = brief_values(200);
    let last = AtomicU64::new(1);
    bench.script(move |_, input| match input {
        Input::CarryTime { due } if due.0 == 1_500 => {
            let index = last.fetch_add(1, Ordering::Relaxed) + 1;
            entry(index, 1_600, Payload::Noop)
        }
        _ => Vec::new(),
    });
    // 64 go with an entry; then the tombstones are due, in ten minutes.
    assert_eq!(asked(&mut bench, 1_000, 1_050), [1_500; 4]);
    assert_eq!(asked(&mut bench, 1_050, 1_200), [601_600]);
}
