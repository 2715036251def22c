//! Snapshots whose parts come late.

use crate::rig::{Rig, append, at, beat, changes, configuration, entries};
use bytes::Bytes;
use fulcrum_replication::primary_backup::Body;
use fulcrum_replication::{Effect, LogChange, SnapshotChunk, SnapshotMeta, TransferId};
use fulcrum_types::{Epoch, Index, Mode, ReplicatedTime};

fn learner() -> Rig {
    let mut rig = Rig::new(Mode::Sync, |_, _| {});
    rig.configure(configuration(4, 1, 2, &[2]));
    rig
}

fn part(transfer: u64, number: u64, last: Option<u64>) -> Body {
    let meta = |index| SnapshotMeta {
        position: at(index, 1),
        time: ReplicatedTime(index),
        epoch_starts: vec![(Epoch(1), Index(1))],
    };
    Body::Snapshot {
        transfer: TransferId(transfer),
        chunk: SnapshotChunk {
            number,
            data: Bytes::from_static(b"part"),
            last: last.map(meta),
        },
    }
}

fn installs(effects: &[Effect]) -> bool {
    changes(effects)
        .iter()
        .any(|change| matches!(change, LogChange::InstallSnapshot { .. }))
}

#[test]
fn a_late_part_of_an_abandoned_transfer_does_not_derail_the_present_one() {
    let mut rig = learner();
    rig.hear(2, 1, 4, part(1, 0, None));
    rig.hear(2, 1, 4, part(2, 0, None));
    rig.hear(2, 1, 4, part(1, 0, None));
    let effects = rig.hear(2, 1, 4, part(2, 1, Some(28)));
    assert!(installs(&effects), "the second transfer goes on: {effects:?}");
}

#[test]
fn a_late_snapshot_does_not_shrink_what_was_acknowledged() {
    let mut rig = learner();
    rig.hear(2, 1, 4, append(at(0, 0), entries(1..=30, 1), 5, beat(10)));
    let effects = rig.hear(2, 1, 4, part(1, 0, Some(28)));
    assert!(!installs(&effects), "the log holds all that and more: {effects:?}");
    assert_eq!(rig.status().last, at(30, 1), "29 and 30 were acknowledged as durable");
}
