//! The seam: what an engine must do to carry a [`Store`](super::Store).

use super::batch::Batch;
use super::error::StorageError;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One of the ordered maps that a node keeps. All groups share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// What a group must remember of itself: hard state, generation, base of its log, footnotes of its entries.
    Meta,
    /// Log entries.
    Log,
    /// What applying them made.
    State,
    /// Entries that a failover lost.
    Certificates,
}

impl Space {
    /// All of them.
    pub const ALL: [Space; 4] = [Space::Meta, Space::Log, Space::State, Space::Certificates];

    /// The name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Space::Meta => "meta",
            Space::Log => "log",
            Space::State => "state",
            Space::Certificates => "certificates",
        }
    }
}

/// How soon, and how safe, a change must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Some time: it can be made again from the log (applied state).
    #[default]
    Lazy,
    /// With this turn, handed to the operating system: survives the process, not the machine (`fsync = interval | never`).
    Written,
    /// With this turn, on the device (`fsync = always`).
    Synced,
}

/// Names a batch. Batches become durable in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch{}", self.0)
    }
}

/// What became of a submitted batch.
#[derive(Clone, Debug)]
pub struct BatchDone {
    /// Which.
    pub id: BatchId,
    /// Done as asked, or the error that ends the node's life.
    pub result: Result<(), StorageError>,
    /// Time spent in handing it to the operating system.
    pub write: Duration,
    /// Time spent in fsync, if it was synced.
    pub sync: Option<Duration>,
}

/// Where a backend reports. Called from the backend's own thread: it must not block.
pub type Notifier = Arc<dyn Fn(BatchDone) + Send + Sync>;

/// Records in key order.
pub type RangeIter<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StorageError>> + 'a>;

/// Reads from the store, or from a snapshot of it.
pub trait Reader {
    /// The value of a key.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// The records from `start` (inclusive) to `end` (exclusive; empty means no end), in key order.
    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a>;
}

/// An engine. It is given one batch at a time and reports each through the notifier that it was opened with.
pub trait Backend: Reader + Send {
    /// Takes a batch to write; returns at once. Once it is reported done, reads show it; before, they may or may not.
    fn submit(&mut self, id: BatchId, batch: Arc<Batch>, sync: bool);

    /// A view that later batches do not change.
    fn snapshot(&self) -> Box<dyn Reader + Send>;

    /// Ends the handle's life in good order, so that the next open finds it clean. All that was submitted is synced first.
    fn close(self: Box<Self>) -> Result<(), StorageError>;
}
