//! A disk that is not one: the same promise as the real backend, with crashes, stalls and damage at the caller's command.
//!
//! The disk outlives the backends opened on it, as a disk outlives processes. Batches complete when the caller says so
//! ([`MemoryDisk::complete`]), or at once ([`MemoryDisk::immediate`]). A crash rolls back what was written and not synced; the
//! caller says how much of it survives by luck, so that every prefix that the promise allows can be tried.

use super::backend::{Backend, BatchDone, BatchId, Notifier, RangeIter, Reader, Space};
use super::batch::Batch;
use super::error::StorageError;
use super::log::record_of;
use bytes::Bytes;
use fulcrum_types::{GroupId, Index};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Map = BTreeMap<Bytes, Bytes>;

/// The disk. Clones are handles to the same one.
#[derive(Clone)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Disk>>,
}

struct Disk {
    spaces: [Arc<Map>; Space::ALL.len()],
    /// What the batches written since the last sync replaced, oldest batch first.
    undo: Vec<Vec<(Space, Bytes, Option<Bytes>)>>,
    queue: VecDeque<Submitted>,
    immediate: bool,
    /// Changes with every crash: handles from before it are dead.
    life: u64,
    failure: Option<StorageError>,
    opened: bool,
    clean: bool,
}

struct Submitted {
    id: BatchId,
    batch: Arc<Batch>,
    sync: bool,
}

impl MemoryDisk {
    /// An empty disk whose batches wait for [`MemoryDisk::complete`].
    #[must_use]
    pub fn new() -> Self {
        Self::with(false)
    }

    /// An empty disk whose batches are done as soon as they are submitted.
    #[must_use]
    pub fn immediate() -> Self {
        Self::with(true)
    }

    fn with(immediate: bool) -> Self {
        MemoryDisk {
            inner: Arc::new(Mutex::new(Disk::new(immediate))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the disk; earlier handles are dead from now on. Says whether it was closed in good order before.
    pub fn open(&self, notifier: Notifier) -> (MemoryBackend, bool) {
        let mut disk = self.lock();
        let clean = disk.clean && !disk.opened;
        disk.life += 1;
        disk.opened = true;
        disk.clean = false;
        disk.queue.clear();
        (
            MemoryBackend {
                disk: self.clone(),
                life: disk.life,
                notifier,
            },
            clean,
        )
    }

    /// Oldest batch that waits to be completed, and whether it asks for a sync.
    #[must_use]
    pub fn pending(&self) -> Option<(BatchId, bool)> {
        self.lock().queue.front().map(|s| (s.id, s.sync))
    }

    /// Does the oldest batch that waits. The caller tells the store; the notifier is not called.
    pub fn complete(&self) -> Option<BatchDone> {
        let mut disk = self.lock();
        let submitted = disk.queue.pop_front()?;
        Some(disk.perform(submitted))
    }

    /// Loses power: of the batches written but not synced, those in the queue last, only the oldest `survivors` remain.
    /// Handles opened before are dead.
    pub fn crash(&self, survivors: usize) {
        let mut disk = self.lock();
        while let Some(submitted) = disk.queue.pop_front() {
            disk.write(&submitted.batch);
        }
        while disk.undo.len() > survivors {
            disk.roll_back();
        }
        disk.undo.clear();
        disk.life += 1;
        disk.opened = false;
        disk.failure = None;
    }

    /// Batches that a crash now could take or leave: the largest useful argument of [`MemoryDisk::crash`].
    #[must_use]
    pub fn unsynced(&self) -> usize {
        let disk = self.lock();
        disk.undo.len() + disk.queue.len()
    }

    /// Another disk with what a crash now would surely leave on this one: for a look at it while it is in use.
    #[must_use]
    pub fn survivor(&self) -> MemoryDisk {
        let disk = self.lock();
        let mut copy = Disk {
            spaces: disk.spaces.clone(),
            undo: disk.undo.clone(),
            ..Disk::new(false)
        };
        while !copy.undo.is_empty() {
            copy.roll_back();
        }
        MemoryDisk {
            inner: Arc::new(Mutex::new(copy)),
        }
    }

    /// From now on every batch fails like this.
    pub fn fail_writes(&self, error: StorageError) {
        self.lock().failure = Some(error);
    }

    /// Flips a bit of the record that holds a log entry. Says whether there was one.
    pub fn corrupt_log_entry(&self, group: GroupId, index: Index) -> bool {
        let mut disk = self.lock();
        let map = Arc::make_mut(&mut disk.spaces[Space::Log as usize]);
        let Some((key, record)) = record_of(map, group, index).and_then(|key| map.get_key_value(&key)) else {
            return false;
        };
        let key = key.clone();
        let mut damaged = record.to_vec();
        let Some(last) = damaged.last_mut() else {
            return false;
        };
        *last ^= 1;
        map.insert(key, Bytes::from(damaged));
        true
    }

    /// Takes the record that holds a log entry away, as a device that lies about its syncs might. Says whether there was one.
    pub fn lose_log_entry(&self, group: GroupId, index: Index) -> bool {
        let mut disk = self.lock();
        let map = Arc::make_mut(&mut disk.spaces[Space::Log as usize]);
        record_of(map, group, index).is_some_and(|key| map.remove(&key).is_some())
    }

    /// Everything on the disk, for comparisons.
    #[must_use]
    pub fn dump(&self, space: Space) -> Vec<(Bytes, Bytes)> {
        self.lock().spaces[space as usize]
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk {
    fn new(immediate: bool) -> Self {
        Disk {
            spaces: std::array::from_fn(|_| Arc::default()),
            undo: Vec::new(),
            queue: VecDeque::new(),
            immediate,
            life: 0,
            failure: None,
            opened: false,
            clean: true,
        }
    }

    fn perform(&mut self, submitted: Submitted) -> BatchDone {
        let result = match self.failure.clone() {
            Some(error) => Err(error),
            None => {
                self.write(&submitted.batch);
                if submitted.sync {
                    self.undo.clear();
                }
                Ok(())
            }
        };
        let sync = submitted.sync.then_some(Duration::ZERO);
        BatchDone {
            id: submitted.id,
            result,
            write: Duration::ZERO,
            sync,
        }
    }

    fn write(&mut self, batch: &Batch) {
        let mut undo = Vec::with_capacity(batch.len());
        for (space, key, change) in batch.changes() {
            let map = Arc::make_mut(&mut self.spaces[space as usize]);
            let old = match change {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
            undo.push((space, key.clone(), old));
        }
        self.undo.push(undo);
    }

    fn roll_back(&mut self) {
        for (space, key, old) in self.undo.pop().unwrap_or_default() {
            let map = Arc::make_mut(&mut self.spaces[space as usize]);
            match old {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
    }

    fn view(&self) -> View {
        View {
            spaces: self.spaces.clone(),
        }
    }
}

/// One node's handle to a [`MemoryDisk`]. Dead after a crash or a later open: what it submits goes nowhere.
pub struct MemoryBackend {
    disk: MemoryDisk,
    life: u64,
    notifier: Notifier,
}

impl Reader for MemoryBackend {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.disk.lock().spaces[space as usize].get(key).cloned())
    }

    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        let map = self.disk.lock().spaces[space as usize].clone();
        Box::new(MapRange::new(map, start, end))
    }
}

impl Backend for MemoryBackend {
    fn submit(&mut self, id: BatchId, batch: Arc<Batch>, sync: bool) {
        let mut disk = self.disk.lock();
        if disk.life != self.life {
            return;
        }
        let submitted = Submitted { id, batch, sync };
        if !disk.immediate {
            disk.queue.push_back(submitted);
            return;
        }
        let done = disk.perform(submitted);
        drop(disk);
        (self.notifier)(done);
    }

    fn snapshot(&self) -> Box<dyn Reader + Send> {
        Box::new(self.disk.lock().view())
    }

    fn close(self: Box<Self>) -> Result<(), StorageError> {
        let mut disk = self.disk.lock();
        if disk.life != self.life {
            return Ok(());
        }
        if let Some(error) = disk.failure.clone() {
            return Err(error);
        }
        while let Some(submitted) = disk.queue.pop_front() {
            disk.write(&submitted.batch);
        }
        disk.undo.clear();
        disk.opened = false;
        disk.clean = true;
        Ok(())
    }
}

struct View {
    spaces: [Arc<Map>; Space::ALL.len()],
}

impl Reader for View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.spaces[space as usize].get(key).cloned())
    }

    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        Box::new(MapRange::new(self.spaces[space as usize].clone(), start, end))
    }
}

/// Walks a shared map a piece at a time: it cannot borrow from what it owns.
struct MapRange {
    map: Arc<Map>,
    from: Bound<Bytes>,
    end: Bytes,
    piece: VecDeque<(Bytes, Bytes)>,
}

impl MapRange {
    const PIECE: usize = 64;

    fn new(map: Arc<Map>, start: &[u8], end: &[u8]) -> Self {
        let from = Bound::Included(Bytes::copy_from_slice(start));
        let end = Bytes::copy_from_slice(if end.is_empty() { end } else { end.max(start) });
        MapRange {
            map,
            from,
            end,
            piece: VecDeque::new(),
        }
    }

    fn refill(&mut self) {
        let end = if self.end.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(&self.end)
        };
        if matches!((&self.from, &end), (Bound::Excluded(a), Bound::Excluded(b)) if a >= *b) {
            return;
        }
        let range = self.map.range::<Bytes, _>((self.from.as_ref(), end)).take(Self::PIECE);
        self.piece.extend(range.map(|(k, v)| (k.clone(), v.clone())));
        if let Some((last, _)) = self.piece.back() {
            self.from = Bound::Excluded(last.clone());
        }
    }
}

impl Iterator for MapRange {
    type Item = Result<(Bytes, Bytes), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.piece.is_empty() {
            self.refill();
        }
        self.piece.pop_front().map(Ok)
    }
}
