//! What a node keeps: one ordered store for all its groups, written behind.
//!
//! **The promise.** What is staged can be read at once, but counts as durable only once the batch that holds it is reported
//! durable. A batch is atomic, batches become durable in order, and after a crash the store holds a prefix of them that
//! includes every batch that was reported durable with [`Durability::Synced`].
//!
//! **The protocol.** All groups of a node stage their changes in one open [`Batch`]. [`Store::close_turn`] hands it to the
//! [`Backend`] if none is in flight; otherwise it keeps growing, so that one fsync serves whatever came up during the one
//! before. Reads look through the open batch, then the one in flight, then the backend. When the backend reports the batch
//! in flight done, [`Store::persisted`] forgets it: from then on the backend has it.
//!
//! Applied state is held back: it can be made again from the log, and what is overwritten meanwhile (hot keys, outcomes of
//! finished requests) is never written. It goes with whatever rests on it, a compacted log first of all, or once there is
//! much of it. Only through where entries are applied is on record at once: that they were committed the log does not tell.
//!
//! **The spaces.** [`Space::Meta`] what a group must remember of itself and of its entries,
//! [`Space::Log`] its entries, [`Space::State`] what
//! applying them made, by generation, [`Space::Certificates`] entries that a failover lost. All groups share the spaces, so
//! that their number does not depend on that of the groups. [`GroupStore`] is one group's view.
//!
//! **Damage.** A torn tail, only ever what was not synced, is cut; anything else missing or unreadable is refused by name
//! (`journal` says how one is told from the other, and what cannot be told). Damage to one group's log stops that replica
//! only ([`StorageError::Corrupt`]); damage to what all share stops the node ([`StorageError::CorruptStore`]).
//!
//! Two backends, one promise: [`FjallBackend`] on disk, [`MemoryDisk`] for tests and simulation, where crashes, stalls and
//! corruption are ordered by the caller. What this module leaves out: what commands mean (`state_machine`) and when a batch
//! may be acknowledged (the replication core).

mod backend;
mod batch;
mod certificates;
mod codec;
mod directory;
mod engine;
mod error;
mod fjall;
mod footnotes;
mod group;
mod history;
mod journal;
mod keys;
mod layout;
mod log;
mod memory;
mod record;
mod snapshot;
mod spare;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod watermark;

pub use backend::{Backend, BatchDone, BatchId, Durability, Notifier, RangeIter, Reader, Space};
pub use batch::Batch;
pub use certificates::{Certificate, Opening, Unled, certificates};
pub use directory::Identity;
pub use engine::FjallOptions;
pub use error::StorageError;
pub use fjall::FjallBackend;
pub use footnotes::put_footnote;
pub use group::{GroupStore, Kept, LogBase, OpenedGroup};
pub use history::Noted;
pub(crate) use keys::STATE_PREFIX;
pub use keys::{Generation, StateKind, state_key, state_range};
pub use memory::{MemoryBackend, MemoryDisk};
pub use record::{Decoder, Malformed, put_bytes, put_varint};
pub use snapshot::{SNAPSHOT_PART_BYTES, SnapshotSource};
pub use store::{Store, StoreSnapshot};
