//! A state on its way from one replica to another.

use super::fake::*;
use crate::event::{Observation, Output};
use bytes::Bytes;
use fulcrum_replication::{Effect, Input, LogChange, SnapshotChunk, TransferId};
use fulcrum_types::*;

const TO: NodeId = NodeId(2);
const TRANSFER: TransferId = TransferId(9);

/// A replica that has applied so many writes of 100 KiB each.
fn source(writes: u64) -> Bench {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    let large = |i: u64| WriteOp {
        key: Bytes::from(format!("key{i}")),
        condition: Condition::None,
        mutation: Mutation::Put {
            value: Bytes::from(vec![b'x'; 100 * 1024]),
            ttl: None,
        },
    };
    let ops: Vec<WriteOp> = (1..=writes).map(large).collect();
    bench.effects(
        0,
        vec![append(1, 1, 1, &ops), Effect::Commit { through: Index(writes) }],
    );
    bench.sync(0);
    bench.inputs();
    bench
}

fn part(bench: &mut Bench, effect: Effect) -> Option<SnapshotChunk> {
    bench.effects(1, vec![effect]);
    bench.inputs().into_iter().find_map(|input| match input {
        Input::SnapshotPart {
            to: TO,
            transfer: TRANSFER,
            chunk,
        } => Some(chunk),
        _ => None,
    })
}

fn all_parts(bench: &mut Bench) -> Vec<SnapshotChunk> {
    let mut parts = vec![
        part(
            bench,
            Effect::SnapshotWanted {
                to: TO,
                transfer: TRANSFER,
            },
        )
        .unwrap(),
    ];
    while parts.last().is_some_and(|last| last.last.is_none()) {
        let number = parts.len() as u64;
        parts.push(
            part(
                bench,
                Effect::SnapshotNext {
                    to: TO,
                    transfer: TRANSFER,
                    number,
                },
            )
            .unwrap(),
        );
    }
    parts
}

fn install(bench: &mut Bench, parts: &[SnapshotChunk]) {
    for chunk in parts {
        bench.effects(
            1,
            vec![Effect::SnapshotStage {
                transfer: TRANSFER,
                chunk: chunk.clone(),
            }],
        );
        bench.sync(1);
    }
    let meta = parts.last().and_then(|chunk| chunk.last.clone()).unwrap();
    let change = LogChange::InstallSnapshot {
        transfer: TRANSFER,
        meta,
    };
    bench.effects(2, vec![Effect::Write { id: WriteId(1), change }]);
    bench.sync(2);
}

#[test]
fn a_snapshot_makes_the_same_state_whatever_was_written_meanwhile() {
    let mut from = source(10);
    let before = from.node.checksum(GROUP).unwrap();
    let mut parts = vec![
        part(
            &mut from,
            Effect::SnapshotWanted {
                to: TO,
                transfer: TRANSFER,
            },
        )
        .unwrap(),
    ];
    from.effects(
        1,
        vec![
            append(2, 1, 11, &[put("late", "1")]),
            Effect::Commit { through: Index(11) },
        ],
    );
    while parts.last().unwrap().last.is_none() {
        let number = parts.len() as u64;
        parts.push(
            part(
                &mut from,
                Effect::SnapshotNext {
                    to: TO,
                    transfer: TRANSFER,
                    number,
                },
            )
            .unwrap(),
        );
    }
    assert!(parts.len() > 2, "{} parts", parts.len());
    let mut to = Bench::new(options(Mode::Sync, Fsync::Always));
    install(&mut to, &parts);
    assert_eq!(to.node.checksum(GROUP).unwrap(), before);
    let installed = |o: &Output| matches!(o, Output::Observed(Observation::SnapshotInstalled { position, .. }) if position.index.0 == 10);
    assert!(to.out.iter().any(installed));
    to.effects(
        3,
        vec![
            append(2, 1, 11, &[put("late", "1")]),
            Effect::Commit { through: Index(11) },
        ],
    );
    assert_eq!(to.node.checksum(GROUP).unwrap(), from.node.checksum(GROUP).unwrap());
}

#[test]
fn a_part_that_was_lost_is_passed_again_and_none_after_the_end() {
    let mut from = source(10);
    let parts = all_parts(&mut from);
    let last = parts.len() as u64 - 1;
    let again = part(
        &mut from,
        Effect::SnapshotNext {
            to: TO,
            transfer: TRANSFER,
            number: last,
        },
    );
    assert_eq!(again.as_ref(), parts.last());
    assert_eq!(
        part(
            &mut from,
            Effect::SnapshotNext {
                to: TO,
                transfer: TRANSFER,
                number: last + 1
            }
        ),
        None
    );
    from.effects(
        2,
        vec![Effect::SnapshotDone {
            to: TO,
            transfer: TRANSFER,
        }],
    );
    assert_eq!(
        part(
            &mut from,
            Effect::SnapshotNext {
                to: TO,
                transfer: TRANSFER,
                number: last
            }
        ),
        None
    );
}

#[test]
fn a_snapshot_with_a_part_missing_is_not_installed() {
    let mut from = source(10);
    let mut parts = all_parts(&mut from);
    parts.remove(1);
    let mut to = Bench::new(options(Mode::Sync, Fsync::Always));
    install(&mut to, &parts);
    let rebuilding = |o: &Output| matches!(o, Output::Observed(Observation::Rebuilding { .. }));
    assert!(to.out.iter().any(rebuilding), "it starts anew");
    assert_eq!(
        to.node.checksum(GROUP).unwrap().map(|(index, _)| index),
        Some(Index::ZERO)
    );
    assert_eq!(to.node.status().fatal, None);
}
