//! What primary and backups say to each other.

use crate::contract::{SnapshotChunk, TransferId};
use fulcrum_types::{Entry, Index, LogPosition, Mono};

/// A primary's clock reading on its way to a backup and back: the base of leases and staleness bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The primary's clock when it sent.
    pub primary_clock: Mono,
    /// The newest clock reading of *this backup* that the primary has seen, if its lease held when it sent.
    pub echoed_backup_clock: Option<Mono>,
}

/// The bodies of messages between replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Primary to all: entries behind `previous` (none: a heartbeat), and how far commit has come.
    Append {
        /// The entry before the first one sent.
        previous: LogPosition,
        /// Entries in order.
        entries: Vec<Entry>,
        /// The primary's commit index when it sent.
        commit: Index,
        /// Clocks.
        beat: Beat,
    },
    /// Backup to primary: what it holds durably of what it has matched in this epoch, and the echo.
    Acknowledge {
        /// Durable and matched in this epoch.
        persisted: Index,
        /// Applied.
        applied: Index,
        /// The newest primary clock reading seen in this epoch: with it the promise not to take over for `grace`.
        echo: Mono,
        /// This backup's own clock when it sent.
        own_clock: Mono,
    },
    /// Backup to primary: `previous` does not match; go back to this.
    Mismatch {
        /// Where the backup suggests to try next: at most its own end.
        try_next: LogPosition,
    },
    /// Anyone to anyone with an older epoch or configuration: you are behind, read the configuration.
    Stale,
    /// A part of a snapshot.
    Snapshot {
        /// Which transfer.
        transfer: TransferId,
        /// The part.
        chunk: SnapshotChunk,
    },
    /// Learner to primary: holds all parts before `next`.
    SnapshotProgress {
        /// Which transfer.
        transfer: TransferId,
        /// The next part wanted.
        next: u64,
    },
}
