//! What primary and backups say to each other.

use crate::contract::{SnapshotChunk, TransferId};
use fulcrum_types::{BootId, Entry, Epoch, GroupConfiguration, Index, LogPosition, Mono, ReplicatedTime};

/// A primary's clock reading on its way to a backup and back: the base of leases and staleness bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The primary's clock when it sent.
    pub primary_clock: Mono,
    /// The newest confirming round that had begun when it sent: a round counts only answers to beats sent after it began.
    pub round: u64,
    /// The newest clock reading of *this backup* that the primary has seen, if its lease held when it sent.
    pub echoed_backup_clock: Option<Mono>,
    /// The life of the backup that the echoed reading belongs to: readings of another life prove nothing (rule 4).
    pub echoed_boot: BootId,
    /// The group's time when it sent, once the primary knows it: a backup goes on from there (rule 11).
    pub time: Option<ReplicatedTime>,
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
        /// Every member of the in-sync set holds all up to here: no replica compacts further. What a later primary may
        /// lack, somebody else must still be able to name.
        held: Index,
        /// Clocks.
        beat: Beat,
    },
    /// Backup to primary: what it holds durably of what it has matched in this epoch, and the echo.
    Acknowledge {
        /// Durable and matched in this epoch.
        persisted: Index,
        /// Matched in this epoch, durable or not yet.
        matched: Index,
        /// Applied.
        applied: Index,
        /// The newest primary clock reading seen in this epoch: with it the promise not to take over for `grace`.
        echo: Mono,
        /// The newest confirming round seen in this epoch.
        round: u64,
        /// This backup's own clock when it sent.
        own_clock: Mono,
        /// Its node is about to stop: the primary shall take it out of the in-sync set, so that nothing waits for it then.
        leaving: bool,
    },
    /// Backup to primary: `refused` (the `previous` of an append) does not match; go back to `try_next`.
    Mismatch {
        /// The position that the backup does not hold.
        refused: LogPosition,
        /// Where the backup suggests to try next: at most its own end.
        try_next: LogPosition,
        /// As in an acknowledgement: it tells a later life from an earlier one.
        echo: Mono,
    },
    /// Anyone to anyone with an older epoch or configuration: you are behind; this is the newest that I have accepted.
    Stale {
        /// The sender's configuration: as good as read from the metadata store, which so stays off every path.
        configuration: GroupConfiguration,
    },
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
    /// A replica that hears no primary to its peers: how far are you, and would you stand?
    Probe {
        /// The end of the sender's log.
        last: LogPosition,
    },
    /// The answer.
    ProbeReply {
        /// The end of the sender's log.
        last: LogPosition,
        /// In the in-sync set, disk and clock in order: it would stand as soon as its promise allows.
        eligible: bool,
    },
    /// Primary to a prober that is no replica any more: this is the history that goes on, as far as it is committed. Of what the prober
    /// led and does not find there it can give account before it goes.
    History {
        /// The last committed position.
        committed: LogPosition,
        /// First index of each epoch up to there.
        epoch_starts: Vec<(Epoch, Index)>,
    },
    /// Primary to its chosen successor: I have given my lease up, you hold everything, take over at once (rule 7).
    TakeOver {
        /// The end of the log, which the successor must hold durably.
        last: LogPosition,
        /// When, on the primary's clock. It releases promises given for beats up to then, none given later.
        given_up_at: Mono,
    },
}
