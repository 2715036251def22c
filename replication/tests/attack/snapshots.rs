//! Snapshots whose parts come late.

use crate::rig::{Rig, append, at, beat, changes, configuration, entries, new_group};
use bytes::Bytes;
use fulcrum_replication::primary_backup::Body;
use fulcrum_replication::{Effect, Input, LogChange, Proposal, ProposalId, SnapshotChunk, SnapshotMeta, TransferId};
use fulcrum_types::{Epoch, Index, Mode, NodeId, ReplicatedTime};

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

/// Replica 3 as a slow learner: a transfer takes it this many rounds of load.
const ROUNDS: u64 = 12;

/// What replica 3 was sent, and what it holds.
#[derive(Default)]
struct SlowLearner {
    persisted: u64,
    /// The transfer under way: where it ends, and in which round.
    transfer: Option<(TransferId, u64, u64)>,
    transfers: u64,
    joins: bool,
}

impl SlowLearner {
    fn look(&mut self, round: u64, rig: &Rig, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::SnapshotWanted {
                    to: NodeId(3),
                    transfer,
                } => {
                    self.transfers += 1;
                    self.transfer = Some((*transfer, rig.status().applied.0, round + ROUNDS));
                }
                Effect::Send {
                    to: NodeId(3), message, ..
                } => {
                    if let Body::Append { previous, entries, .. } = &message.body
                        && previous.index.0 == self.persisted
                        && self.persisted > 0
                    {
                        self.persisted = entries.last().map_or(self.persisted, |e| e.position.index.0);
                    }
                }
                Effect::CompareAndSwap { proposal, .. } => {
                    self.joins |= proposal.in_sync.iter().any(|member| member.node == NodeId(3));
                }
                _ => {}
            }
        }
    }

    /// The snapshot has arrived as a whole.
    fn install(&mut self, rig: &mut Rig, transfer: TransferId, end: u64) -> Vec<Effect> {
        let chunk = SnapshotChunk {
            number: 0,
            data: Bytes::from_static(b"all"),
            last: Some(SnapshotMeta {
                position: at(end, 1),
                time: ReplicatedTime(end),
                epoch_starts: Vec::new(),
            }),
        };
        let to = NodeId(3);
        rig.take(Input::SnapshotPart { to, transfer, chunk });
        self.persisted = end;
        rig.hear(3, 1, 3, Body::SnapshotProgress { transfer, next: 1 })
    }
}

#[test]
fn a_slow_learner_catches_up_under_constant_load_however_little_the_log_retains() {
    let mut rig = Rig::new(Mode::Sync, |options, _| {
        options.retain_bytes = 200;
        options.in_flight_bytes = 400;
    });
    rig.configure(new_group(&[1, 2, 3]));
    rig.win();
    let joined = (0..40).find_map(|_| {
        let mut effects = rig.acknowledge(2, 2, 1);
        effects.extend(rig.pass(25));
        rig.grant(&effects)
    });
    assert!(joined.is_some(), "replica 2 joins");
    let mut learner = SlowLearner::default();
    for round in 0..40 * ROUNDS {
        let commands = (0..5).map(|i| Proposal::new(ProposalId(round * 5 + i), Bytes::from(vec![b'x'; 100])));
        let mut effects = rig.take(Input::Propose {
            commands: commands.collect(),
        });
        let last = rig.status().last.index.0;
        effects.extend(rig.acknowledge(2, 3, last));
        effects.extend(rig.pass(25));
        if let Some((transfer, end, _)) = learner.transfer.take_if(|(.., done)| *done <= round) {
            effects.extend(learner.install(&mut rig, transfer, end));
        }
        effects.extend(rig.acknowledge(3, 3, learner.persisted));
        learner.look(round, &rig, &effects);
        if learner.joins {
            assert!(learner.transfers > 1, "the first one was too slow for a log that small");
            return;
        }
    }
    panic!("{} transfers in vain: {:?}", learner.transfers, rig.status());
}
