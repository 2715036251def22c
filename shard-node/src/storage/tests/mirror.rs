//! Disk and memory side by side: every read of random runs must agree.

use crate::storage::testing::Random;
use crate::storage::*;
use bytes::Bytes;
use fulcrum_types::NodeId;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

pub(super) fn identity() -> Identity {
    Identity {
        cluster: "test".into(),
        node: NodeId(1),
    }
}

pub(super) fn open_fjall(path: &Path) -> (FjallBackend, bool, Receiver<BatchDone>) {
    let (sender, done) = channel();
    let notifier: Notifier = Arc::new(move |d| {
        let _ = sender.send(d);
    });
    let (backend, clean) = FjallBackend::open(path, &identity(), FjallOptions::default(), notifier).unwrap();
    (backend, clean, done)
}

/// Both backends as one; a batch is done once both have it.
struct Mirror {
    disk: FjallBackend,
    disk_done: Receiver<BatchDone>,
    memory: MemoryBackend,
    notifier: Notifier,
}

struct MirrorView {
    disk: Box<dyn Reader + Send>,
    memory: Box<dyn Reader + Send>,
}

fn same_get(disk: &dyn Reader, memory: &dyn Reader, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
    let found = disk.get(space, key)?;
    assert_eq!(found, memory.get(space, key)?, "{space:?} {key:?}");
    Ok(found)
}

fn same_range<'a>(
    disk: &'a dyn Reader,
    memory: &'a dyn Reader,
    space: Space,
    start: &[u8],
    end: &[u8],
) -> RangeIter<'a> {
    let mut memory = memory.range(space, start, end);
    let compared = disk
        .range(space, start, end)
        .map(Some)
        .chain([None])
        .map_while(move |record| {
            assert_eq!(record, memory.next());
            record
        });
    Box::new(compared)
}

impl Reader for Mirror {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        same_get(&self.disk, &self.memory, space, key)
    }
    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        same_range(&self.disk, &self.memory, space, start, end)
    }
}

impl Reader for MirrorView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        same_get(&*self.disk, &*self.memory, space, key)
    }
    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        same_range(&*self.disk, &*self.memory, space, start, end)
    }
}

impl Backend for Mirror {
    fn submit(&mut self, id: BatchId, batch: Arc<Batch>, sync: bool) {
        self.disk.submit(id, batch.clone(), sync);
        let done = self.disk_done.recv().unwrap();
        self.memory.submit(id, batch, sync);
        (self.notifier)(done);
    }
    fn snapshot(&self) -> Box<dyn Reader + Send> {
        Box::new(MirrorView {
            disk: self.disk.snapshot(),
            memory: self.memory.snapshot(),
        })
    }
    fn close(self: Box<Self>) -> Result<(), StorageError> {
        Box::new(self.memory).close()?;
        Box::new(self.disk).close()
    }
}

fn open_mirror(path: &Path, memory: &MemoryDisk) -> (Store, Receiver<BatchDone>) {
    let (disk, _, disk_done) = open_fjall(path);
    let (memory, _) = memory.open(Arc::new(|_| {}));
    let (sender, done) = channel();
    let notifier: Notifier = Arc::new(move |d| {
        let _ = sender.send(d);
    });
    (
        Store::new(Box::new(Mirror {
            disk,
            disk_done,
            memory,
            notifier,
        })),
        done,
    )
}

fn key(random: &mut Random) -> Bytes {
    Bytes::from(format!("key{:02}", random.below(60)))
}

fn check_all(reader: &impl Reader, model: &std::collections::BTreeMap<(Space, Bytes), Bytes>) {
    for space in Space::ALL {
        let found: Vec<_> = reader.range(space, &[], &[]).map(Result::unwrap).collect();
        let expected: Vec<_> = model
            .iter()
            .filter(|((s, _), _)| *s == space)
            .map(|((_, k), v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn disk_memory_and_a_plain_map_agree_at_every_step() {
    for seed in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        let memory = MemoryDisk::immediate();
        let mut model = std::collections::BTreeMap::new();
        let mut random = Random::new(seed);
        let (mut store, mut done) = open_mirror(directory.path(), &memory);
        for step in 0..1500u64 {
            let space = Space::ALL[random.below(4) as usize];
            let key = key(&mut random);
            match random.below(12) {
                0..5 => {
                    let value = Bytes::from(format!("value{step}"));
                    store.put(space, key.clone(), value.clone());
                    model.insert((space, key), value);
                }
                5..7 => {
                    store.delete(space, key.clone());
                    model.remove(&(space, key));
                }
                7 => {
                    store.require(Durability::Synced);
                }
                8 => {
                    store.close_turn();
                }
                9 => {
                    if let Ok(d) = done.try_recv() {
                        assert_eq!(d.result, Ok(()));
                        store.persisted(d.id);
                    }
                }
                10 if random.below(10) == 0 => {
                    let before = model.clone();
                    let snapshot = store.snapshot();
                    store.put(space, key.clone(), Bytes::from_static(b"later"));
                    model.insert((space, key), Bytes::from_static(b"later"));
                    check_all(&snapshot, &before);
                }
                11 if random.below(60) == 0 => {
                    while done.try_recv().is_ok() {}
                    store.close().unwrap();
                    (store, done) = open_mirror(directory.path(), &memory);
                }
                _ => {
                    let expected = model.get(&(space, key.clone())).cloned();
                    assert_eq!(store.get(space, &key).unwrap(), expected);
                }
            }
            if step % 50 == 0 {
                check_all(&store, &model);
            }
        }
        check_all(&store, &model);
    }
}

#[test]
fn ranges_have_an_exclusive_end_and_may_be_empty() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, done) = open_mirror(directory.path(), &MemoryDisk::immediate());
    for key in ["a", "b", "c"] {
        store.put(Space::State, key.into(), Bytes::new());
    }
    let id = store.flush(Durability::Synced).unwrap();
    assert_eq!(done.recv().unwrap().id, id);
    store.persisted(id);
    store.delete(Space::State, "b".into());
    let keys = |start: &[u8], end: &[u8]| {
        store
            .range(Space::State, start, end)
            .map(|r| r.unwrap().0)
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(b"a", b"c"), ["a"]);
    assert_eq!(keys(b"b", b""), ["c"]);
    assert!(keys(b"c", b"a").is_empty());
}
