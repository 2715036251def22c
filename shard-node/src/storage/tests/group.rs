//! One group's view: log, hard state, certificates, snapshots, damage.

use crate::state_machine::{Applied, Limits, StateMachine, encode_write};
use crate::storage::*;
use bytes::Bytes;
use fulcrum_replication::{Divergence, HardState, LogChange, SnapshotChunk, SnapshotMeta, TransferId};
use fulcrum_types::*;
use std::sync::Arc;

const GROUP: GroupId = GroupId(3);

fn open(disk: &MemoryDisk) -> Store {
    Store::new(Box::new(disk.open(Arc::new(|_| {})).0))
}

fn settle(store: &mut Store, disk: &MemoryDisk) {
    while store.flush(Durability::Synced).is_some() {
        store.persisted(disk.complete().unwrap().id);
    }
}

fn entry(epoch: u64, index: u64) -> Entry {
    let key = Bytes::from(format!("key{:03}", index % 300));
    let mutation = Mutation::Put {
        value: vec![index as u8; 2000].into(),
        ttl: None,
    };
    let idempotency = IdempotencyKey {
        client: ClientId(index % 5),
        sequence: Sequence(index),
        issued_at_ms: 1000,
        low_water: Sequence(index.saturating_sub(20)),
    };
    let op = WriteOp {
        key,
        condition: Condition::None,
        mutation,
    };
    Entry {
        position: LogPosition {
            epoch: Epoch(epoch),
            index: Index(index),
        },
        time: ReplicatedTime(1000 + index),
        payload: Payload::Command(encode_write(Some(&idempotency), &[op])),
    }
}

fn entries(epoch: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    indexes.map(|index| entry(epoch, index)).collect()
}

fn change(group: &mut GroupStore, store: &mut Store, change: LogChange) {
    group.change(store, &change).unwrap();
}

fn machine(store: &Store, group: &GroupStore) -> StateMachine {
    StateMachine::open(store, GROUP, group.generation(), Limits::default(), 100_000).unwrap()
}

#[test]
fn a_log_comes_back_as_it_was_left() {
    let disk = MemoryDisk::new();
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    change(&mut group, &mut store, LogChange::Append(entries(1, 1..=10)));
    change(&mut group, &mut store, LogChange::Truncate { from: Index(8) });
    change(&mut group, &mut store, LogChange::Append(entries(2, 8..=12)));
    let through = LogPosition {
        epoch: Epoch(1),
        index: Index(3),
    };
    let mut machine = machine(&store, &group);
    for entry in entries(1, 1..=3) {
        machine.apply(&mut store, &entry).unwrap();
    }
    change(&mut group, &mut store, LogChange::Compact { through });
    let hard = HardState {
        epoch: Epoch(2),
        commit: Index(9),
        ..HardState::default()
    };
    change(&mut group, &mut store, LogChange::HardState(hard.clone()));
    settle(&mut store, &disk);
    let opened = GroupStore::open(&open(&disk), GROUP).unwrap();
    assert_eq!(opened.hard_state, Some(hard));
    assert_eq!(
        opened.base,
        LogBase {
            position: through,
            time: ReplicatedTime(1003)
        }
    );
    assert_eq!(opened.log, [entries(1, 4..=7), entries(2, 8..=12)].concat());
    // The run of 1 to 7 stays as long as part of it is needed.
    assert_eq!(disk.dump(Space::Log).len(), 2);
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    let mut machine = self::machine(&store, &group);
    for entry in entries(1, 4..=7) {
        machine.apply(&mut store, &entry).unwrap();
    }
    let through = LogPosition {
        epoch: Epoch(1),
        index: Index(7),
    };
    change(&mut group, &mut store, LogChange::Compact { through });
    settle(&mut store, &disk);
    assert_eq!(disk.dump(Space::Log).len(), 1, "what was compacted is gone");
    let opened = GroupStore::open(&open(&disk), GROUP).unwrap();
    assert_eq!((opened.base.position, opened.log), (through, entries(2, 8..=12)));
}

#[test]
fn a_log_is_cut_anywhere_and_goes_on() {
    for from in 1..=12 {
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
        for run in [1..=1, 2..=6, 7..=11] {
            change(&mut group, &mut store, LogChange::Append(entries(1, run)));
        }
        change(&mut group, &mut store, LogChange::Truncate { from: Index(from) });
        assert_eq!(group.last(), Index(from - 1).min(Index(11)));
        let next = group.last().next().0;
        change(&mut group, &mut store, LogChange::Append(entries(2, next..=next + 1)));
        settle(&mut store, &disk);
        let opened = GroupStore::open(&open(&disk), GROUP).unwrap();
        assert_eq!(
            opened.log,
            [entries(1, 1..=next - 1), entries(2, next..=next + 1)].concat()
        );
    }
}

#[test]
fn the_footnotes_of_what_is_truncated_go_with_it() {
    let disk = MemoryDisk::new();
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    change(&mut group, &mut store, LogChange::Append(entries(1, 1..=6)));
    for index in [2, 4, 6] {
        put_footnote(&mut store, GROUP, Index(index), b"an earlier history's");
    }
    change(&mut group, &mut store, LogChange::Truncate { from: Index(4) });
    change(&mut group, &mut store, LogChange::Append(entries(2, 4..=6)));
    let noted = group.entries(&store, Index(1), Index(6)).unwrap();
    let noted: Vec<_> = noted.map(|noted| noted.unwrap().footnote.is_some()).collect();
    assert_eq!(noted, [false, true, false, false, false, false]);
}

#[test]
fn a_long_append_is_cut_into_runs_of_bounded_size() {
    let disk = MemoryDisk::new();
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    change(&mut group, &mut store, LogChange::Append(entries(1, 1..=1000)));
    settle(&mut store, &disk);
    let records = disk.dump(Space::Log);
    assert!(records.iter().all(|(_, record)| record.len() < 140_000));
    assert!(records.len() < 20, "{}", records.len());
    assert_eq!(GroupStore::open(&open(&disk), GROUP).unwrap().log, entries(1, 1..=1000));
}

#[test]
fn applied_state_waits_for_what_rests_on_it_and_a_crash_before_loses_nothing() {
    let disk = MemoryDisk::new();
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    let mut machine = self::machine(&store, &group);
    let written = |store: &mut Store| {
        store.require(Durability::Synced);
        store.close_turn().unwrap();
        store.persisted(disk.complete().unwrap().id);
    };
    change(&mut group, &mut store, LogChange::Append(entries(1, 1..=30)));
    for entry in entries(1, 1..=30) {
        machine.apply(&mut store, &entry).unwrap();
    }
    written(&mut store);
    assert!(disk.dump(Space::State).is_empty(), "state is made again from the log");
    let after_crash = GroupStore::open(&open(&disk.survivor()), GROUP).unwrap();
    assert_eq!(after_crash.log, entries(1, 1..=30));
    let through = LogPosition {
        epoch: Epoch(1),
        index: Index(10),
    };
    change(&mut group, &mut store, LogChange::Compact { through });
    written(&mut store);
    let reopened = open(&disk.survivor());
    let group = GroupStore::open(&reopened, GROUP).unwrap().storage;
    assert_eq!(self::machine(&reopened, &group).applied().position.index, Index(30));
    // Of 30 outcomes those of finished requests were never written: each client's last ones are left.
    let (start, end) = state_range(GROUP, group.generation(), StateKind::Outcome);
    assert_eq!(reopened.range(Space::State, &start, &end).count(), 25);
}

#[test]
fn what_was_applied_counts_as_committed_after_a_crash_that_lost_the_state() {
    let disk = MemoryDisk::new();
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    change(&mut group, &mut store, LogChange::HardState(HardState::default()));
    change(&mut group, &mut store, LogChange::Append(entries(1, 1..=30)));
    let mut machine = self::machine(&store, &group);
    for entry in entries(1, 1..=20) {
        machine.apply(&mut store, &entry).unwrap();
    }
    group.note_applied(&mut store, Index(20));
    store.require(Durability::Synced);
    store.close_turn().unwrap();
    store.persisted(disk.complete().unwrap().id);
    disk.crash(0);
    let mut store = open(&disk);
    let mut opened = GroupStore::open(&store, GROUP).unwrap();
    assert_eq!(opened.hard_state.map(|hard| hard.commit), Some(Index(20)));
    assert_eq!(self::machine(&store, &opened.storage).applied(), Applied::default());
    // A state that starts afresh has nothing committed.
    change(&mut opened.storage, &mut store, LogChange::DropState);
    settle(&mut store, &disk);
    let opened = GroupStore::open(&open(&disk), GROUP).unwrap();
    assert_eq!(opened.hard_state.map(|hard| hard.commit), Some(Index::ZERO));
}

#[test]
fn what_was_noted_of_truncated_entries_goes_with_them() {
    let disk = MemoryDisk::new();
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    change(&mut group, &mut store, LogChange::Append(entries(1, 1..=10)));
    for index in [3, 6, 10] {
        put_footnote(&mut store, GROUP, Index(index), b"noted");
    }
    // The notes are written, the state that they were made with is not: after a crash these entries count as not applied.
    store.require(Durability::Synced);
    store.close_turn().unwrap();
    store.persisted(disk.complete().unwrap().id);
    disk.crash(0);
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    change(&mut group, &mut store, LogChange::Truncate { from: Index(6) });
    change(&mut group, &mut store, LogChange::Append(entries(2, 6..=12)));
    let noted = group.entries(&store, Index(1), Index(12)).unwrap();
    let noted = noted.map(Result::unwrap).filter(|noted| noted.footnote.is_some());
    assert_eq!(noted.map(|noted| noted.entry.position.index.0).collect::<Vec<_>>(), [3]);
}

#[test]
fn damage_is_found_in_the_group_that_has_it_and_in_no_other() {
    type Harm = fn(&MemoryDisk) -> bool;
    let harms: [(Harm, u64); 3] = [
        (|d| d.corrupt_log_entry(GROUP, Index(4)), 4),
        (|d| d.lose_log_entry(GROUP, Index(2)), 2),
        (|d| d.lose_log_entry(GROUP, Index(6)), 4),
    ];
    for (harm, at) in harms {
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        for id in [GROUP, GroupId(4)] {
            let mut group = GroupStore::open(&store, id).unwrap().storage;
            for run in [1..=1, 2..=3, 4..=6] {
                change(&mut group, &mut store, LogChange::Append(entries(1, run)));
            }
            change(
                &mut group,
                &mut store,
                LogChange::HardState(HardState {
                    commit: Index(6),
                    ..HardState::default()
                }),
            );
        }
        settle(&mut store, &disk);
        assert!(harm(&disk));
        let mut store = open(&disk);
        let error = GroupStore::open(&store, GROUP).err().unwrap();
        assert!(
            matches!(error, StorageError::Corrupt { group: GROUP, index: Index(i), .. } if i == at),
            "{error}"
        );
        assert_eq!(GroupStore::open(&store, GroupId(4)).unwrap().log.len(), 6);
        GroupStore::reset(&mut store, GROUP).unwrap();
        settle(&mut store, &disk);
        let opened = GroupStore::open(&open(&disk), GROUP).unwrap();
        assert_eq!((opened.hard_state, opened.log.len()), (None, 0));
    }
}

#[test]
fn certificates_are_kept_once_and_survive_a_reset() {
    let disk = MemoryDisk::new();
    let mut store = open(&disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    let promotion = LogPosition {
        epoch: Epoch(1),
        index: Index(4),
    };
    let (old_epoch, new_epoch) = (Epoch(1), Epoch(2));
    change(
        &mut group,
        &mut store,
        LogChange::OpenCertificate {
            old_epoch,
            new_epoch,
            promotion,
            deposed: None,
        },
    );
    let who = Member {
        node: NodeId(3),
        data: DataId(3),
    };
    let missed = LogChange::Unled {
        who,
        first: Epoch(1),
        last: new_epoch,
        before: None,
    };
    change(&mut group, &mut store, missed);
    change(&mut group, &mut store, LogChange::VoidEpoch { epoch: new_epoch });
    let diverged = Divergence {
        old_epoch,
        new_epoch,
        common: promotion,
        entries: entries(1, 5..=7),
        acknowledged_through: Index(6),
        complete: true,
    };
    for _ in 0..2 {
        change(&mut group, &mut store, LogChange::Diverged(diverged.clone()));
    }
    GroupStore::reset(&mut store, GROUP).unwrap();
    settle(&mut store, &disk);
    let store = open(&disk);
    let opening = Some(Opening {
        old_epoch,
        promotion,
        deposed: None,
    });
    let expected = Certificate {
        group: GROUP,
        new_epoch,
        opening,
        diverged: vec![diverged],
        void: true,
        unled: Some(Unled {
            who,
            first: Epoch(1),
            before: None,
        }),
    };
    assert_eq!(certificates(&store, GROUP).unwrap(), [expected]);
    assert!(certificates(&store, GroupId(2)).unwrap().is_empty());
}

/// A store whose group has applied entries up to `last`, with the log compacted away behind `last - 10`.
fn filled(disk: &MemoryDisk, last: u64) -> (Store, GroupStore, StateMachine) {
    let mut store = open(disk);
    let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
    let mut machine = machine(&store, &group);
    for entry in entries(1, 1..=last) {
        change(&mut group, &mut store, LogChange::Append(vec![entry.clone()]));
        machine.apply(&mut store, &entry).unwrap();
    }
    settle(&mut store, disk);
    (store, group, machine)
}

fn parts(store: &Store, group: &GroupStore) -> (Vec<SnapshotChunk>, SnapshotMeta) {
    let mut source = SnapshotSource::new(store, GROUP, group.generation()).unwrap();
    let meta = source.meta().clone();
    (std::iter::from_fn(|| source.next_part().unwrap()).collect(), meta)
}

#[test]
fn recovery_from_any_prefix_and_the_log_gives_the_same_state() {
    let (store, _, machine_) = filled(&MemoryDisk::new(), 200);
    let expected = machine_.checksum(&store).unwrap();
    for survivors in 0..4 {
        let disk = MemoryDisk::new();
        let mut store = open(&disk);
        let mut group = GroupStore::open(&store, GROUP).unwrap().storage;
        let mut live = machine(&store, &group);
        change(&mut group, &mut store, LogChange::Append(entries(1, 1..=200)));
        store.flush(Durability::Synced);
        store.persisted(disk.complete().unwrap().id);
        for (count, entry) in entries(1, 1..=200).iter().enumerate() {
            live.apply(&mut store, entry).unwrap();
            if count % 50 == 40 {
                store.flush(Durability::Written);
                store.persisted(disk.complete().unwrap().id);
            }
        }
        disk.crash(survivors);
        let mut store = open(&disk);
        let opened = GroupStore::open(&store, GROUP).unwrap();
        let mut machine = machine(&store, &opened.storage);
        let applied = machine.applied().position.index;
        assert_eq!(applied, Index([0, 41, 91, 141][survivors]));
        for entry in opened.log.iter().filter(|e| e.position.index > applied) {
            machine.apply(&mut store, entry).unwrap();
        }
        assert_eq!(machine.checksum(&store).unwrap(), expected);
    }
}

#[test]
fn a_snapshot_carries_the_whole_state() {
    let source_disk = MemoryDisk::new();
    let (source, source_group, source_machine) = filled(&source_disk, 900);
    let (parts, meta) = parts(&source, &source_group);
    assert!(parts.len() > 2);
    assert!(parts.iter().all(|p| p.data.len() <= SNAPSHOT_PART_BYTES + 16));
    let disk = MemoryDisk::new();
    let (mut store, mut group, _) = filled(&disk, 40);
    for part in &parts {
        group.stage_snapshot(&mut store, TransferId(7), part).unwrap();
        group.stage_snapshot(&mut store, TransferId(7), part).unwrap();
    }
    change(
        &mut group,
        &mut store,
        LogChange::InstallSnapshot {
            transfer: TransferId(7),
            meta: meta.clone(),
        },
    );
    while group.sweep(&mut store, 10).unwrap() {}
    settle(&mut store, &disk);
    let mut store = open(&disk);
    let opened = GroupStore::open(&store, GROUP).unwrap();
    assert_eq!((opened.base.position, opened.log.len()), (meta.position, 0));
    let mut installed = machine(&store, &opened.storage);
    assert_eq!(
        installed.checksum(&store).unwrap(),
        source_machine.checksum(&source).unwrap()
    );
    let states = |disk: &MemoryDisk| disk.dump(Space::State).len();
    assert_eq!(states(&disk), states(&source_disk), "the old state is swept away");
    let (mut source, mut source_machine) = (source, source_machine);
    for entry in entries(2, 901..=910) {
        let here = installed.apply(&mut store, &entry).unwrap();
        assert_eq!(here, source_machine.apply(&mut source, &entry).unwrap());
    }
}

#[test]
fn an_interrupted_install_leaves_the_old_state() {
    let (source, source_group, _) = filled(&MemoryDisk::new(), 900);
    let (parts, meta) = parts(&source, &source_group);
    let disk = MemoryDisk::new();
    let (mut store, mut group, before) = filled(&disk, 40);
    let checksum = before.checksum(&store).unwrap();
    let records = disk.dump(Space::State).len();
    for part in &parts {
        group.stage_snapshot(&mut store, TransferId(7), part).unwrap();
        settle(&mut store, &disk);
    }
    change(
        &mut group,
        &mut store,
        LogChange::InstallSnapshot {
            transfer: TransferId(7),
            meta,
        },
    );
    disk.crash(0);
    let mut store = open(&disk);
    let mut opened = GroupStore::open(&store, GROUP).unwrap();
    assert_eq!(opened.log.len(), 40);
    assert_eq!(machine(&store, &opened.storage).checksum(&store).unwrap(), checksum);
    while opened.storage.sweep(&mut store, 50).unwrap() {}
    settle(&mut store, &disk);
    assert_eq!(disk.dump(Space::State).len(), records, "leftovers are swept away");
}

#[test]
fn a_snapshot_that_does_not_fit_together_is_refused() {
    let (source, source_group, _) = filled(&MemoryDisk::new(), 900);
    let (parts, meta) = parts(&source, &source_group);
    let disk = MemoryDisk::new();
    let (mut store, mut group, _) = filled(&disk, 10);
    let generation = group.generation();
    let mut install = |chunks: &[&SnapshotChunk], meta: &SnapshotMeta| {
        for chunk in chunks {
            group.stage_snapshot(&mut store, TransferId(1), chunk)?;
        }
        group.change(
            &mut store,
            &LogChange::InstallSnapshot {
                transfer: TransferId(1),
                meta: meta.clone(),
            },
        )
    };
    let all: Vec<_> = parts.iter().collect();
    let mut damaged = parts[0].clone();
    damaged.data = damaged.data.slice(1..);
    let wrong = SnapshotMeta {
        time: ReplicatedTime(1),
        ..meta.clone()
    };
    for outcome in [
        install(&all[1..], &meta),
        install(&[&parts[0], &parts[2]], &meta),
        install(&all[..1], &meta),
        install(&[&damaged], &meta),
        install(&all, &wrong),
    ] {
        assert!(matches!(outcome, Err(StorageError::BadSnapshot { .. })), "{outcome:?}");
    }
    assert_eq!(install(&all, &meta), Ok(()));
    assert_ne!(group.generation(), generation);
}

#[test]
fn dropping_the_state_starts_afresh_but_keeps_the_hard_state() {
    let disk = MemoryDisk::new();
    let (mut store, mut group, _) = filled(&disk, 30);
    change(
        &mut group,
        &mut store,
        LogChange::HardState(HardState {
            epoch: Epoch(4),
            ..HardState::default()
        }),
    );
    change(&mut group, &mut store, LogChange::DropState);
    assert_eq!(machine(&store, &group).applied(), Applied::default());
    settle(&mut store, &disk);
    let mut store = open(&disk);
    let opened = GroupStore::open(&store, GROUP).unwrap();
    assert_eq!(opened.hard_state.map(|h| h.epoch), Some(Epoch(4)));
    assert!(opened.log.is_empty());
    while !GroupStore::remove(&mut store, GROUP, 7, Kept::Nothing).unwrap() {}
    settle(&mut store, &disk);
    assert!(Space::ALL.iter().all(|space| disk.dump(*space).is_empty()));
}
