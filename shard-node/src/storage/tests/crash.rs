//! Crashes: what is left is a prefix of the batches, with every one that was reported synced.

use super::mirror::{identity, open_fjall};
use crate::storage::testing::Random;
use crate::storage::*;
use bytes::Bytes;
use fulcrum_types::GroupId;
use std::sync::Arc;

fn number(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_be_bytes())
}

/// Batch `n` adds its number and moves the counter to it.
pub(super) fn stage(store: &mut Store, n: u64, durability: Durability) -> BatchId {
    store.put(Space::Log, number(n), Bytes::from(vec![7; 300]));
    store.put(Space::Meta, Bytes::from_static(b"last"), number(n));
    store.require(durability)
}

/// The number of batches in the store, if it is a prefix of them.
pub(super) fn prefix(store: &impl Reader) -> u64 {
    let last = store.get(Space::Meta, b"last").unwrap();
    let last = last.map_or(0, |b| u64::from_be_bytes(b[..].try_into().unwrap()));
    let found: Vec<_> = store.range(Space::Log, &[], &[]).map(|r| r.unwrap().0).collect();
    assert_eq!(found, (1..=last).map(number).collect::<Vec<_>>());
    last
}

#[test]
fn memory_keeps_what_was_synced_and_any_prefix_of_the_rest() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let disk = MemoryDisk::new();
        let (backend, _) = disk.open(Arc::new(|_| {}));
        let mut store = Store::new(Box::new(backend));
        let (mut staged, mut synced) = (0, 0);
        let mut submitted = 0;
        for _ in 0..random.below(40) {
            match random.below(3) {
                0 => {
                    staged += 1;
                    let urgent = [Durability::Lazy, Durability::Written, Durability::Synced];
                    stage(&mut store, staged, urgent[random.below(3) as usize]);
                }
                1 => submitted = store.close_turn().map_or(submitted, |_| staged),
                _ => {
                    let Some(done) = disk.complete() else { continue };
                    store.persisted(done.id);
                    if done.sync.is_some() {
                        synced = submitted;
                    }
                }
            }
        }
        let survivors = random.below(disk.unsynced() as u64 + 1) as usize;
        disk.crash(survivors);
        let (backend, clean) = disk.open(Arc::new(|_| {}));
        assert!(!clean);
        let left = prefix(&Store::new(Box::new(backend)));
        assert!(
            (synced..=submitted).contains(&left),
            "seed {seed}: {synced} <= {left} <= {submitted}"
        );
    }
}

#[test]
fn handles_from_before_a_crash_are_dead() {
    let disk = MemoryDisk::new();
    let (backend, _) = disk.open(Arc::new(|_| {}));
    let mut old = Store::new(Box::new(backend));
    stage(&mut old, 1, Durability::Synced);
    disk.crash(0);
    old.close_turn();
    assert_eq!(disk.pending(), None);
    assert!(disk.dump(Space::Log).is_empty());
}

#[test]
fn a_stalled_disk_makes_one_batch_of_many_turns() {
    let disk = MemoryDisk::new();
    let (backend, _) = disk.open(Arc::new(|_| {}));
    let mut store = Store::new(Box::new(backend));
    let first = stage(&mut store, 1, Durability::Synced);
    assert_eq!(store.close_turn(), Some(first));
    let waiting: Vec<_> = (2..20)
        .map(|n| {
            let id = stage(&mut store, n, Durability::Synced);
            assert_eq!(store.close_turn(), None);
            id
        })
        .collect();
    assert!(waiting.iter().all(|id| *id == waiting[0]));
    assert_eq!(disk.complete().map(|d| d.id), Some(first));
    store.persisted(first);
    assert_eq!(store.close_turn(), Some(waiting[0]));
}

#[test]
fn applied_state_alone_waits_for_a_flush() {
    let disk = MemoryDisk::new();
    let (backend, _) = disk.open(Arc::new(|_| {}));
    let mut store = Store::new(Box::new(backend));
    stage(&mut store, 1, Durability::Lazy);
    assert_eq!(store.close_turn(), None);
    let id = store.flush(Durability::Written).unwrap();
    assert_eq!(disk.pending(), Some((id, false)));
    store.persisted(disk.complete().unwrap().id);
    assert_eq!(store.flush(Durability::Written), None, "nothing left to write");
    let id = store.flush(Durability::Synced).unwrap();
    assert_eq!(
        disk.pending(),
        Some((id, true)),
        "what was written is still to be synced"
    );
    store.persisted(disk.complete().unwrap().id);
    assert_eq!(store.flush(Durability::Synced), None);
}

#[test]
fn a_dropped_store_loses_only_what_was_not_submitted() {
    let directory = tempfile::tempdir().unwrap();
    let (backend, clean, done) = open_fjall(directory.path());
    assert!(clean);
    let mut store = Store::new(Box::new(backend));
    for n in 1..=20 {
        let id = stage(&mut store, n, Durability::Synced);
        store.close_turn();
        assert_eq!(done.recv().unwrap().id, id);
        store.persisted(id);
    }
    stage(&mut store, 21, Durability::Lazy);
    drop(store);
    let (backend, clean, _) = open_fjall(directory.path());
    assert!(!clean);
    let store = Store::new(Box::new(backend));
    assert_eq!(prefix(&store), 20);
    store.close().unwrap();
    assert!(open_fjall(directory.path()).1);
}

#[test]
fn a_second_handle_is_refused_while_the_first_lives() {
    let directory = tempfile::tempdir().unwrap();
    let (backend, _, _done) = open_fjall(directory.path());
    let snapshot = backend.snapshot();
    drop(backend);
    let again = || FjallBackend::open(directory.path(), &identity(), FjallOptions::default(), Arc::new(|_| {}));
    assert!(
        matches!(again(), Err(StorageError::Locked { .. })),
        "a snapshot holds the directory"
    );
    drop(snapshot);
    assert!(again().is_ok());
}

#[test]
fn a_failed_write_is_told_and_not_retried() {
    let disk = MemoryDisk::new();
    let (backend, _) = disk.open(Arc::new(|_| {}));
    let mut store = Store::new(Box::new(backend));
    let full = StorageError::Full { path: "x".into() };
    disk.fail_writes(full.clone());
    stage(&mut store, 1, Durability::Synced);
    store.close_turn();
    assert_eq!(disk.complete().unwrap().result, Err(full.clone()));
    assert_eq!(store.close(), Err(full));
}

/// State of one group, of about so many KiB.
fn stage_state(store: &mut Store, group: u64, kib: usize) {
    for n in 0..kib {
        let key = state_key(GroupId(group), Generation(0), StateKind::Value, &number(n as u64));
        store.put(Space::State, key, Bytes::from(vec![7; 1024]));
    }
}

#[test]
fn what_is_held_back_stays_within_its_bound_whatever_the_number_of_groups() {
    let disk = MemoryDisk::new();
    let (backend, _) = disk.open(Arc::new(|_| {}));
    let mut store = Store::new(Box::new(backend));
    stage(&mut store, 1, Durability::Synced);
    store.close_turn().unwrap();
    // The disk stalls meanwhile.
    for group in 1..=64 {
        stage_state(&mut store, group, 1024);
    }
    stage(&mut store, 2, Durability::Synced);
    assert_eq!(store.close_turn(), None);
    store.persisted(disk.complete().unwrap().id);
    store.close_turn().unwrap();
    store.persisted(disk.complete().unwrap().id);
    assert_eq!(
        store.pending_bytes(),
        0,
        "nothing that a batch left behind waits for the disk"
    );
}

#[test]
fn too_much_state_leaves_although_nothing_else_does() {
    let disk = MemoryDisk::new();
    let (backend, _) = disk.open(Arc::new(|_| {}));
    let mut store = Store::new(Box::new(backend));
    for group in 1..=20 {
        stage_state(&mut store, group, 1024);
    }
    let id = store.close_turn().expect("there is too much of it");
    store.persisted(disk.complete().unwrap().id);
    assert_eq!((id, store.pending_bytes()), (BatchId(1), 0));
    assert_eq!(store.close_turn(), None, "the rest can wait");
}
