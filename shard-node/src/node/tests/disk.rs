//! Starts, damage, and the end.

use super::fake::*;
use crate::event::{Event, Observation, Output};
use crate::storage::{MemoryDisk, StorageError};
use fulcrum_common::map::{ClusterMap, NodeInfo};
use fulcrum_replication::{Divergence, Effect, HardState, Input, LogChange};
use fulcrum_types::*;
use std::sync::Arc;

fn hard(data: u64) -> LogChange {
    LogChange::HardState(HardState {
        data: DataId(data),
        ..HardState::default()
    })
}

/// A life that wrote a hard state and two entries, applied the first, and ended.
fn earlier_life(disk: &MemoryDisk, fsync: Fsync, clean: bool) {
    let mut bench = Bench::on(disk.clone(), options(Mode::Sync, fsync));
    bench.effects(
        0,
        vec![
            Effect::Write {
                id: WriteId(1),
                change: hard(5),
            },
            append(2, 1, 1, &[put("a", "1"), put("b", "2")]),
            Effect::Commit { through: Index(1) },
        ],
    );
    bench.sync(1);
    if clean {
        bench.node.close().unwrap();
        while disk.complete().is_some() {}
    } else {
        drop(bench.node);
        disk.crash(usize::MAX);
    }
}

fn restored(bench: &Bench) -> (DataId, Vec<Index>, Index) {
    let restored = bench.stage.restored.lock().unwrap();
    let last = restored.last().unwrap();
    (
        last.data,
        last.log.iter().map(|e| e.position.index).collect(),
        last.applied,
    )
}

#[test]
fn an_empty_disk_has_fresh_data() {
    let bench = Bench::new(options(Mode::Sync, Fsync::Always));
    assert_eq!(restored(&bench), (DataId(101), vec![], Index(0)));
}

#[test]
fn a_start_trusts_what_was_synced_or_closed_and_nothing_else() {
    let cases = [
        (Fsync::Always, false, 5),
        (Fsync::Always, true, 5),
        (Fsync::Interval, true, 5),
        (Fsync::Interval, false, 101),
        (Fsync::Never, false, 101),
    ];
    for (fsync, clean, data) in cases {
        let disk = MemoryDisk::new();
        earlier_life(&disk, fsync, clean);
        let bench = Bench::on(disk, options(Mode::Sync, fsync));
        let (found, log, _) = restored(&bench);
        assert_eq!(found, DataId(data), "{fsync}, clean: {clean}");
        assert_eq!(log, [Index(1), Index(2)]);
    }
}

#[test]
fn what_was_applied_is_known_to_be_committed_although_the_state_was_lost() {
    let disk = MemoryDisk::new();
    earlier_life(&disk, Fsync::Always, false);
    let bench = Bench::on(disk, options(Mode::Sync, Fsync::Always));
    let restored = bench.stage.restored.lock().unwrap();
    let last = restored.last().unwrap();
    assert_eq!(
        (last.applied, last.hard_state.as_ref().map(|hard| hard.commit)),
        (Index(0), Some(Index(1)))
    );
}

#[test]
fn entries_not_applied_before_the_end_are_applied_after_the_start() {
    let disk = MemoryDisk::new();
    earlier_life(&disk, Fsync::Always, true);
    let mut bench = Bench::on(disk, options(Mode::Sync, Fsync::Always));
    bench.effects(0, vec![Effect::Commit { through: Index(2) }]);
    assert!(
        bench
            .inputs()
            .iter()
            .any(|i| matches!(i, Input::Applied { through: Index(2) }))
    );
    assert_eq!(
        bench.node.checksum(GROUP).unwrap().map(|(index, _)| index),
        Some(Index(2))
    );
}

#[test]
fn a_replica_that_had_to_leave_comes_back_with_new_data_however_far_its_removal_got() {
    let disk = MemoryDisk::new();
    earlier_life(&disk, Fsync::Always, true);
    let options = options(Mode::Sync, Fsync::Always);
    let mut bench = Bench::on(disk, options.clone());
    let id = map(options.clone()).cluster_id().clone();
    let without = ClusterMap::new(id).with_version(MapVersion(1000));
    bench.handle(0, Event::Map(Arc::new(without)));
    let again = map(options).with_version(MapVersion(1001));
    bench.handle(1, Event::Map(Arc::new(again)));
    let (data, log, applied) = restored(&bench);
    assert_ne!(data, DataId(5));
    assert_eq!((log, applied), (vec![], Index(0)));
}

#[test]
fn a_damaged_log_is_cleared_away_and_the_data_is_new() {
    let disk = MemoryDisk::new();
    earlier_life(&disk, Fsync::Always, true);
    assert!(disk.corrupt_log_entry(GROUP, Index(1)));
    let bench = Bench::on(disk, options(Mode::Sync, Fsync::Always));
    assert_eq!(restored(&bench), (DataId(101), vec![], Index(0)));
}

#[test]
fn a_failed_disk_ends_the_node_and_acknowledges_nothing() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    let reason = "input/output error".to_owned();
    bench.disk.fail_writes(StorageError::WriteFailed {
        path: "/data".into(),
        reason,
    });
    bench.script(|_, input| match input {
        Input::Propose { commands } => {
            let proposed = commands.iter().map(|proposal| Effect::Proposed {
                id: proposal.id,
                position: position(1, 1),
            });
            std::iter::once(append(1, 1, 1, &[put("a", "1")]))
                .chain(proposed)
                .collect()
        }
        _ => Vec::new(),
    });
    bench.ask(0, 1, write(vec![put("a", "1")]));
    bench.turn(0);
    bench.ask(0, 2, get("a", Level::Linearizable, vec![]));
    bench.sync(1);
    let fatal = bench
        .out
        .iter()
        .any(|o| matches!(o, Output::Fatal { reason } if reason.contains("/data")));
    assert!(fatal, "{:?}", bench.out);
    bench.ask(2, 3, get("a", Level::Eventual, vec![]));
    bench.turn(2);
    let codes: Vec<_> = bench
        .replies()
        .into_iter()
        .map(|(id, r)| (id, r.unwrap_err().code()))
        .collect();
    assert_eq!(codes, [(1, "UNKNOWN"), (2, "STOPPED"), (3, "STOPPED")]);
    assert!(bench.node.status().fatal.is_some());
}

#[test]
fn an_entry_that_cannot_be_understood_stops_the_replica() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    let payload = Payload::Command(bytes::Bytes::from_static(b"\xff?"));
    let entry = Entry {
        position: position(1, 1),
        time: ReplicatedTime(1),
        payload,
    };
    let change = LogChange::Append(vec![entry]);
    bench.effects(
        0,
        vec![
            Effect::Write { id: WriteId(1), change },
            Effect::Commit { through: Index(1) },
        ],
    );
    assert!(bench.node.status().stopped.contains_key(&GROUP));
    bench.ask(1, 1, get("a", Level::Eventual, vec![]));
    bench.turn(1);
    assert_eq!(bench.replies()[0].1.as_ref().unwrap_err().code(), "STOPPED");
}

#[test]
fn a_group_that_leaves_the_map_leaves_the_disk() {
    let disk = MemoryDisk::new();
    earlier_life(&disk, Fsync::Always, true);
    let mut bench = Bench::on(disk, options(Mode::Sync, Fsync::Always));
    let mut without = map(options(Mode::Sync, Fsync::Always));
    without.remove_keyspace("data").unwrap();
    bench.handle(1, Event::Map(Arc::new(without.with_version(MapVersion(2)))));
    for ms in 2..10 {
        bench.handle(ms, Event::Tick { disk_healthy: true });
        bench.turn(ms);
    }
    let removed = |o: &Output| matches!(o, Output::Observed(Observation::ReplicaRemoved { group: GROUP }));
    assert!(bench.out.iter().any(removed));
    assert_eq!(bench.node.status().replicas, 0);
    bench.node.close().unwrap();
    while bench.disk.complete().is_some() {}
    for space in crate::storage::Space::ALL {
        assert_eq!(bench.disk.dump(space), [], "{space:?}");
    }
}

/// A life that held data and accepted a configuration of version 5, which lists it.
fn listed_life(disk: &MemoryDisk) {
    let mut bench = Bench::on(disk.clone(), options(Mode::Sync, Fsync::Always));
    let configuration = GroupConfiguration {
        version: ConfigVersion(5),
        replicas: vec![ME, NodeId(2), NodeId(3)],
        ..GroupConfiguration::default()
    };
    let state = HardState {
        data: DataId(5),
        configuration,
        ..HardState::default()
    };
    let change = LogChange::HardState(state);
    bench.effects(
        0,
        vec![
            Effect::Write { id: WriteId(1), change },
            append(2, 1, 1, &[put("a", "1")]),
        ],
    );
    bench.sync(1);
    bench.node.close().unwrap();
    while disk.complete().is_some() {}
}

/// The map of version `version`, in which the group exists and is placed on other nodes.
fn elsewhere(version: u64) -> Event {
    let mut map = map(options(Mode::Sync, Fsync::Always));
    let info = NodeInfo {
        address: "127.0.0.1:4".into(),
        zone: None,
    };
    map.set_node(NodeId(4), info);
    map.add_keyspace("later", options(Mode::Sync, Fsync::Always)).unwrap();
    for group in [GROUP, GROUP.next()] {
        assert!(map.set_replicas(group, vec![NodeId(2), NodeId(3), NodeId(4)]));
    }
    Event::Map(Arc::new(map.with_version(MapVersion(version))))
}

#[test]
fn a_map_older_than_the_configuration_takes_no_data() {
    let disk = MemoryDisk::new();
    listed_life(&disk);
    let mut bench = Bench::bare(disk);
    // As an old map that a slow member of the store shows first: there the group was not placed here yet.
    bench.handle(0, elsewhere(4));
    for ms in 1..5 {
        bench.handle(ms, Event::Tick { disk_healthy: true });
        bench.turn(ms);
    }
    let placed = map(options(Mode::Sync, Fsync::Always)).with_version(MapVersion(5));
    bench.handle(5, Event::Map(Arc::new(placed)));
    assert_eq!(restored(&bench), (DataId(5), vec![Index(1)], Index(0)));
    // One made later counts.
    bench.handle(6, elsewhere(6));
    assert_eq!(bench.node.status().replicas, 0);
    let placed = map(options(Mode::Sync, Fsync::Always)).with_version(MapVersion(7));
    bench.handle(7, Event::Map(Arc::new(placed)));
    assert_ne!(restored(&bench).0, DataId(5));
}

#[test]
fn what_a_group_lost_stays_on_record_where_it_was_seen_until_the_group_is_dropped() {
    let disk = MemoryDisk::new();
    let mut bench = Bench::on(disk.clone(), options(Mode::Async, Fsync::Always));
    let change = LogChange::Diverged(divergence());
    bench.effects(0, vec![Effect::Write { id: WriteId(1), change }]);
    bench.sync(1);
    let sweep = |bench: &mut Bench, from: u64| {
        for ms in from..from + 5 {
            bench.handle(ms, Event::Tick { disk_healthy: true });
            bench.turn(ms);
            bench.sync(ms);
        }
    };
    bench.handle(2, elsewhere(6));
    sweep(&mut bench, 3);
    assert_eq!(bench.node.status().replicas, 0);
    assert_eq!(bench.node.certificates().unwrap().len(), 1);
    bench.node.close().unwrap();
    while disk.complete().is_some() {}
    let mut bench = Bench::bare(disk);
    bench.handle(0, elsewhere(6));
    assert_eq!(bench.node.certificates().unwrap().len(), 1, "after a restart, too");
    let mut dropped = map(options(Mode::Async, Fsync::Always));
    dropped
        .add_keyspace("later", options(Mode::Sync, Fsync::Always))
        .unwrap();
    dropped.remove_keyspace("data").unwrap();
    bench.handle(1, Event::Map(Arc::new(dropped.with_version(MapVersion(7)))));
    sweep(&mut bench, 2);
    assert_eq!(bench.node.certificates().unwrap(), []);
}

#[test]
fn an_older_map_changes_nothing() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    let mut without = map(options(Mode::Sync, Fsync::Always));
    without.remove_keyspace("data").unwrap();
    bench.handle(1, Event::Map(Arc::new(without.with_version(MapVersion(1)))));
    assert_eq!(bench.node.status().replicas, 1);
}

/// A life that led epoch 1 of a group in which a write may be lost.
fn life_that_led(disk: &MemoryDisk) -> HardState {
    let mut bench = Bench::on(disk.clone(), options(Mode::Async, Fsync::Always));
    let configuration = GroupConfiguration {
        version: ConfigVersion(5),
        epoch: Epoch(1),
        primary: Some(ME),
        replicas: vec![ME, NodeId(2), NodeId(3)],
        ..GroupConfiguration::default()
    };
    let state = HardState {
        data: DataId(5),
        configuration,
        epoch: Epoch(1),
        led: Epoch(1),
        ..HardState::default()
    };
    let change = LogChange::HardState(state.clone());
    bench.effects(0, vec![Effect::Write { id: WriteId(1), change }]);
    bench.sync(1);
    bench.node.close().unwrap();
    while disk.complete().is_some() {}
    state
}

/// As [`elsewhere`], in `async`.
fn replaced(version: u64) -> Event {
    let mut map = map(options(Mode::Async, Fsync::Always));
    let info = NodeInfo {
        address: "127.0.0.1:4".into(),
        zone: None,
    };
    map.set_node(NodeId(4), info);
    assert!(map.set_replicas(GROUP, vec![NodeId(2), NodeId(3), NodeId(4)]));
    Event::Map(Arc::new(map.with_version(MapVersion(version))))
}

#[test]
fn a_replica_that_was_replaced_gives_account_of_what_it_led_before_it_goes() {
    let disk = MemoryDisk::new();
    let led = life_that_led(&disk);
    let mut bench = Bench::bare(disk);
    bench.handle(0, replaced(6));
    for ms in 1..20 {
        bench.handle(ms, Event::Tick { disk_healthy: true });
        bench.turn(ms);
    }
    assert_eq!(bench.node.status().replicas, 1, "it knows alone what it led");
    assert_eq!(bench.node.readiness(at(20), true), Ok(()), "and nobody waits for it");
    let paid = HardState {
        led: Epoch::ZERO,
        ..led
    };
    let account = LogChange::Diverged(divergence());
    let writes = [(1, account), (2, LogChange::HardState(paid))];
    let effect = |(id, change)| Effect::Write {
        id: WriteId(id),
        change,
    };
    bench.effects(20, writes.into_iter().map(effect).collect());
    for ms in 21..30 {
        bench.handle(ms, Event::Tick { disk_healthy: true });
        bench.turn(ms);
        bench.sync(ms);
    }
    assert_eq!(bench.node.status().replicas, 0);
    assert_eq!(bench.node.certificates().unwrap().len(), 1);
}

#[test]
fn a_debt_to_a_group_that_was_dropped_keeps_nothing() {
    let disk = MemoryDisk::new();
    life_that_led(&disk);
    let mut bench = Bench::bare(disk);
    bench.handle(0, replaced(6));
    assert_eq!(bench.node.status().replicas, 1);
    let mut dropped = map(options(Mode::Async, Fsync::Always));
    dropped.remove_keyspace("data").unwrap();
    bench.handle(1, Event::Map(Arc::new(dropped.with_version(MapVersion(7)))));
    assert_eq!(bench.node.status().replicas, 0);
}

/// What an old primary had and the surviving history lacks.
fn divergence() -> Divergence {
    let entry = Entry {
        position: position(1, 4),
        time: ReplicatedTime(1),
        payload: Payload::Command(bytes::Bytes::from_static(b"a client's command")),
    };
    Divergence {
        old_epoch: Epoch(1),
        new_epoch: Epoch(2),
        common: position(1, 3),
        entries: vec![entry],
        acknowledged_through: Index(4),
        complete: true,
    }
}

#[test]
fn losses_are_on_record_even_without_fsync() {
    let mut bench = Bench::new(options(Mode::Async, Fsync::Never));
    let change = LogChange::Diverged(divergence());
    bench.effects(0, vec![Effect::Write { id: WriteId(1), change }]);
    assert_eq!(bench.disk.pending().map(|(_, sync)| sync), Some(true));
    let certificates = bench.node.certificates().unwrap();
    assert_eq!(certificates.len(), 1);
    assert_eq!(
        (certificates[0].new_epoch, certificates[0].diverged.len()),
        (Epoch(2), 1)
    );
    let recorded = |o: &Output| {
        matches!(
            o,
            Output::Observed(Observation::DivergenceRecorded {
                entries: 1,
                acknowledged: 1,
                ..
            })
        )
    };
    assert!(bench.out.iter().any(recorded));
}
