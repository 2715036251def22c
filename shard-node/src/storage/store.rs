//! One node's store: two batches in memory over a backend.

use super::backend::{Backend, BatchId, Durability, RangeIter, Reader, Space};
use super::batch::Batch;
use super::error::StorageError;
use bytes::Bytes;
use fulcrum_types::GroupId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Applied state that is held back in memory at most, in bytes of keys and values: what a restart makes again from the log.
const DEFERRED_BYTES: usize = 8 * 1024 * 1024;

/// The write-behind store of a node. See the module's chapter.
pub struct Store {
    backend: Box<dyn Backend>,
    open: Batch,
    open_id: BatchId,
    open_durability: Durability,
    /// Groups of which something in the open batch rests on the state staged before it: they go together.
    anchored: BTreeSet<GroupId>,
    /// Nothing of the open batch is to be held back.
    whole: bool,
    in_flight: Option<(BatchId, Arc<Batch>)>,
    /// The backend was handed something without a sync since the last sync.
    unsynced: bool,
}

impl Store {
    /// A store over a backend that nothing is in flight at.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>) -> Self {
        Store {
            backend,
            open: Batch::default(),
            open_id: BatchId(1),
            open_durability: Durability::Lazy,
            anchored: BTreeSet::new(),
            whole: false,
            in_flight: None,
            unsynced: false,
        }
    }

    /// Sets a value. It is seen by reads at once and becomes durable with the batch that is returned by [`Store::require`].
    pub fn put(&mut self, space: Space, key: Bytes, value: Bytes) {
        self.open.set(space, key, Some(value));
    }

    /// Sets the value of a key that is not there and never was, or was surely removed: if it goes before it is written, the
    /// backend never hears of it.
    pub fn put_new(&mut self, space: Space, key: Bytes, value: Bytes) {
        debug_assert!(
            !matches!(self.get(space, &key), Ok(Some(_))),
            "a key that is put as new has a value"
        );
        self.open.set_new(space, key, value);
    }

    /// States that something staged with this turn rests on the state of its group staged so far (a log whose applied part is
    /// dropped, say): neither is written without the other.
    pub fn anchor(&mut self, group: GroupId) {
        self.anchored.insert(group);
    }

    /// Removes a key.
    pub fn delete(&mut self, space: Space, key: Bytes) {
        self.open.set(space, key, None);
    }

    /// States how soon what has been staged so far must be durable, and names the batch that makes it so. Applied state is
    /// not meant, unless something staged rests on it ([`Store::anchor`]).
    pub fn require(&mut self, durability: Durability) -> BatchId {
        self.open_durability = self.open_durability.max(durability);
        self.open_id
    }

    /// The batch that what is staged now goes into.
    #[must_use]
    pub fn open_batch(&self) -> BatchId {
        self.open_id
    }

    /// Ends a turn of the event loop: submits the open batch if anything in it is urgent, or too much is held back, and none is in
    /// flight.
    ///
    /// Call it at the end of every turn, also of one that did nothing but take in a [`BatchDone`](super::BatchDone).
    pub fn close_turn(&mut self) -> Option<BatchId> {
        let waits = self.open_durability == Durability::Lazy && !self.is_overfull();
        if self.in_flight.is_some() || waits {
            return None;
        }
        let id = self.open_id;
        let sync = self.open_durability == Durability::Synced;
        let batch = Arc::new(self.take_open());
        self.open_id = BatchId(id.0 + 1);
        self.open_durability = Durability::Lazy;
        self.unsynced = !sync;
        self.in_flight = Some((id, batch.clone()));
        self.backend.submit(id, batch, sync);
        Some(id)
    }

    /// What the next batch holds. Applied state waits in memory unless something rests on it, there is much of it, or there
    /// is nothing else: the log has all that it is made of, and what is overwritten or removed meanwhile is never written.
    fn take_open(&mut self) -> Batch {
        if std::mem::take(&mut self.whole) {
            self.anchored.clear();
            return std::mem::take(&mut self.open);
        }
        let mut batch = self.open.take_urgent();
        for group in std::mem::take(&mut self.anchored) {
            batch.take_state(&mut self.open, group);
        }
        // As many as it takes: what stayed behind would count as waiting for the disk, and nothing might come to take it along.
        while self.is_overfull()
            && let Some(group) = self.open.largest_state()
        {
            batch.take_state(&mut self.open, group);
        }
        if batch.is_empty() {
            return std::mem::take(&mut self.open);
        }
        batch
    }

    /// Whether more state is held back than may be.
    fn is_overfull(&self) -> bool {
        self.open.bytes_in(Space::State) >= DEFERRED_BYTES
    }

    /// Asks that all staged so far, and all written earlier, reaches the given durability; submits if it can. The batch
    /// returned is the one to wait for; none if there is nothing left to do.
    pub fn flush(&mut self, durability: Durability) -> Option<BatchId> {
        let resync = durability == Durability::Synced && self.unsynced;
        if self.open.is_empty() && !resync {
            return self.in_flight.as_ref().map(|(id, _)| *id);
        }
        let id = self.require(durability);
        self.whole = true;
        self.close_turn();
        Some(id)
    }

    /// Takes in that the backend has done a batch. The next goes out with the end of this turn.
    pub fn persisted(&mut self, id: BatchId) {
        if self.in_flight.as_ref().is_some_and(|(flying, _)| *flying == id) {
            self.in_flight = None;
        }
    }

    /// Bytes staged that wait for the disk: what the caller bounds by shedding load while it stalls. State that is held back
    /// on purpose does not count.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        let deferred = self.open.bytes_in(Space::State).min(DEFERRED_BYTES);
        self.open.bytes() - deferred + self.in_flight.as_ref().map_or(0, |(_, b)| b.bytes())
    }

    /// Whether a batch is at the backend.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// A view of one group that later changes do not touch. It keeps what it shows from being reclaimed: do not hold it for long.
    #[must_use]
    pub fn snapshot_of(&self, group: GroupId) -> StoreSnapshot {
        self.snapshot_with(self.open.of(group))
    }

    /// The same of all groups.
    #[cfg(test)]
    pub(super) fn snapshot(&self) -> StoreSnapshot {
        self.snapshot_with(self.open.clone())
    }

    fn snapshot_with(&self, open: Batch) -> StoreSnapshot {
        StoreSnapshot {
            open,
            in_flight: self.in_flight.as_ref().map(|(_, batch)| batch.clone()),
            backend: self.backend.snapshot(),
        }
    }

    /// Ends the store's life in good order: writes what is staged, syncs, marks the data as clean.
    ///
    /// A store that is merely dropped loses what was not submitted, as a crash would.
    pub fn close(mut self) -> Result<(), StorageError> {
        let batch = Arc::new(std::mem::take(&mut self.open));
        self.backend.submit(self.open_id, batch, true);
        self.backend.close()
    }
}

impl Reader for Store {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let flying = self.in_flight.as_ref().map(|(_, batch)| &**batch);
        get_through(&self.open, flying, &*self.backend, space, key)
    }

    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        let flying = self.in_flight.as_ref().map(|(_, batch)| &**batch);
        range_through(&self.open, flying, &*self.backend, space, start, end)
    }
}

/// The store as it was at one moment.
pub struct StoreSnapshot {
    open: Batch,
    in_flight: Option<Arc<Batch>>,
    backend: Box<dyn Reader + Send>,
}

impl Reader for StoreSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        get_through(&self.open, self.in_flight.as_deref(), &*self.backend, space, key)
    }

    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        range_through(&self.open, self.in_flight.as_deref(), &*self.backend, space, start, end)
    }
}

fn get_through<R: Reader + ?Sized>(
    open: &Batch,
    in_flight: Option<&Batch>,
    backend: &R,
    space: Space,
    key: &[u8],
) -> Result<Option<Bytes>, StorageError> {
    if let Some(change) = open.change(space, key) {
        return Ok(change.clone());
    }
    if let Some(change) = in_flight.and_then(|batch| batch.change(space, key)) {
        return Ok(change.clone());
    }
    backend.get(space, key)
}

fn range_through<'a, R: Reader + ?Sized>(
    open: &'a Batch,
    in_flight: Option<&'a Batch>,
    backend: &'a R,
    space: Space,
    start: &[u8],
    end: &[u8],
) -> RangeIter<'a> {
    let mut below = backend.range(space, start, end);
    if let Some(batch) = in_flight {
        below = batch.over(space, start, end, below);
    }
    open.over(space, start, end, below)
}
