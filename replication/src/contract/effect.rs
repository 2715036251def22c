//! All that a core may ask of the world.

use super::input::{CasId, ProposalId, ReadId, SnapshotChunk, TransferId};
use super::message::Message;
use super::status::HardState;
use fulcrum_types::{
    ConfigVersion, Entry, Epoch, GroupConfiguration, Index, LogPosition, Member, Mono, NodeId, Payload, ReplicatedTime,
    StalenessBasis, WriteId,
};

/// What a snapshot stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry in it.
    pub position: LogPosition,
    /// That entry's replicated time.
    pub time: ReplicatedTime,
    /// First index of every epoch up to there (rule 8). Filled in by the core when it sends the last chunk.
    pub epoch_starts: Vec<(Epoch, Index)>,
}

/// Entries that one replica held and the surviving history does not: part of a loss certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The last epoch that this replica led, if it gives account of that; else the one in which the last entry was ordered.
    pub old_epoch: Epoch,
    /// The epoch whose history took their place.
    pub new_epoch: Epoch,
    /// The last position that both histories share.
    pub common: LogPosition,
    /// The entries; `acknowledged` ones first: those at or below `acknowledged_through`.
    pub entries: Vec<Entry>,
    /// Up to here the old primary may have acknowledged (in doubt: acknowledged).
    pub acknowledged_through: Index,
    /// By who led `old_epoch`: nothing else that was acknowledged there is lost. Others may have held less.
    pub complete: bool,
}

impl Divergence {
    /// Whether a client may have been told that this entry was applied; nobody waits for a no-op.
    #[must_use]
    pub fn may_be_acknowledged(&self, entry: &Entry) -> bool {
        entry.position.index <= self.acknowledged_through && entry.payload != Payload::Noop
    }

    /// How many acknowledged entries are, or may be, lost. Those that the log had let go before are not shown, but count.
    #[must_use]
    pub fn acknowledged_lost(&self) -> u64 {
        let shown = self
            .entries
            .iter()
            .filter(|entry| self.may_be_acknowledged(entry))
            .count() as u64;
        let first = self
            .entries
            .first()
            .map_or(Index(u64::MAX), |entry| entry.position.index);
        let unseen = self.acknowledged_through.min(first.prev()).0;
        shown + unseen.saturating_sub(self.common.index.0)
    }
}

/// Something to make durable. The runner applies them to storage in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogChange {
    /// Epoch, configuration and promises.
    HardState(HardState),
    /// Entries behind the log's end.
    Append(Vec<Entry>),
    /// Entries from this index on go.
    Truncate {
        /// The first to go.
        from: Index,
    },
    /// Entries up to here go: the state holds them, durably, by the time this write is.
    Compact {
        /// The last to go.
        through: LogPosition,
    },
    /// A promotion opened a loss certificate (`async`), or a start by force did: extent unknown so far.
    OpenCertificate {
        /// The epoch that ended.
        old_epoch: Epoch,
        /// The epoch that began.
        new_epoch: Epoch,
        /// The new primary's last entry when it was promoted: what it lacks of the old epoch may be lost.
        promotion: LogPosition,
        /// Who had won the epoch that ended, as far as known.
        deposed: Option<Member>,
    },
    /// Diverged entries, kept before they are truncated.
    Diverged(Divergence),
    /// In this epoch nothing was acknowledged, surely: certificates are due on what was before it.
    VoidEpoch {
        /// The epoch.
        epoch: Epoch,
    },
    /// This replica has missed these epochs: it led none of them, even if it had won one.
    Unled {
        /// This replica.
        who: Member,
        /// The first of them.
        first: Epoch,
        /// The last of them.
        last: Epoch,
        /// Who had won the epoch before the first, if any.
        before: Option<Member>,
    },
    /// The staged snapshot becomes the state and the log is empty behind it: all or nothing. Permits to read that were
    /// given before and not used yet are void, as with [`LogChange::DropState`]: ask again.
    InstallSnapshot {
        /// Which transfer was staged.
        transfer: TransferId,
        /// What it stands for.
        meta: SnapshotMeta,
    },
    /// State and log go: the replica is to be rebuilt as a learner (diverged below its commit index). The hard state
    /// written just before carries a new data id, by which the replica must be restored from then on (rule 5).
    DropState,
}

/// Leave to answer a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPermit {
    /// Evaluate once the state machine has applied this.
    pub at: Index,
    /// After the evaluation the clock must still be before this; else ask again (the lease re-check).
    pub recheck_before: Option<Mono>,
    /// On this node's clock: everything acknowledged before this moment is in what is read. Staleness = now - this.
    pub fresh_as_of: Option<Mono>,
    /// Multiply `now - fresh_as_of` by 1 + this many parts per million: the drift bound, where two clocks are involved.
    pub drift_ppm: u32,
    /// Why.
    pub basis: StalenessBasis,
    /// Rounds of messages that it took.
    pub rounds: u32,
}

/// Why a read cannot be served here and now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadRefusal {
    /// Only the primary can.
    NotPrimary,
    /// A new primary that has not taken over yet gave up waiting.
    NotReady,
    /// No valid lease, and a confirming round did not succeed in time.
    Fenced,
    /// Cannot prove the bound; this is what it could prove at the moment.
    TooStale(Option<std::time::Duration>),
    /// Behind the session's position; the primary is surely not.
    Behind,
    /// The history here lacks what the session has seen (rule 8).
    HistoryLost,
    /// Too many wait.
    Overloaded,
}

/// A read's answer from the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It may be evaluated.
    Permit(ReadPermit),
    /// It may not.
    Refused(ReadRefusal),
}

/// Why a proposal was not ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposalRefusal {
    /// Only the primary orders.
    NotPrimary,
    /// Has not taken over yet.
    NotReady,
    /// Its lease has run out (`async`), or it is handing over.
    Fenced,
    /// Too few in sync (rule 6).
    NotEnoughReplicas {
        /// In sync now.
        have: usize,
        /// Needed.
        need: usize,
    },
    /// Too many wait.
    Overloaded,
}

/// The closed list of effects. They are run in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make durable; report with [`super::Input::Persisted`].
    Write {
        /// Grows by one with each write of this core in this life.
        id: WriteId,
        /// What.
        change: LogChange,
    },
    /// Send to a peer, not before the named write is durable.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// The write that must be durable first.
        after: Option<WriteId>,
    },
    /// Entries up to here may be applied, in order. Never beyond what this replica has appended.
    Commit {
        /// The last of them.
        through: Index,
    },
    /// The proposal was ordered here. If this replica is deposed before it is acknowledged, its outcome is unknown.
    Proposed {
        /// Which proposal.
        id: ProposalId,
        /// Where it stands.
        position: LogPosition,
    },
    /// The proposal was not ordered and never will be.
    ProposalRefused {
        /// Which proposal.
        id: ProposalId,
        /// Why.
        reason: ProposalRefusal,
    },
    /// Proposals up to here may be answered with their outcomes, once applied. Always preceded by their commit.
    Acknowledge {
        /// The last of them.
        through: Index,
        /// Who had them durable.
        by: Vec<NodeId>,
        /// Only to be said before this moment: in `async` the lease may run out before the answer leaves.
        recheck_before: Option<Mono>,
    },
    /// These proposals may be answered with their outcomes, once applied, although others before them may not yet: they end
    /// doubt, and are committed (rule 6).
    AcknowledgeAlone {
        /// Where they stand, in order.
        at: Vec<Index>,
        /// Who had them durable.
        by: Vec<NodeId>,
    },
    /// Proposals ordered here and not yet acknowledged, up to this index, must be answered UNKNOWN.
    Abandon {
        /// The last of them.
        through: Index,
        /// Why, for the client.
        reason: &'static str,
    },
    /// A read's answer.
    AnswerRead {
        /// Which read.
        id: ReadId,
        /// The answer.
        answer: Answered,
    },
    /// Change the group's configuration, if it still has the expected version.
    CompareAndSwap {
        /// The core's name for it.
        attempt: CasId,
        /// The version that must still be in force.
        expected: ConfigVersion,
        /// The new configuration; its version is given by the metadata store.
        proposal: GroupConfiguration,
    },
    /// Read the configuration back: answered by [`super::Input::Configuration`].
    ReadConfiguration,
    /// Ask the metadata store whether a node's lease holds: answered by [`super::Input::LeaseGone`] if it does not, else not at all.
    ReadLease {
        /// Which.
        node: NodeId,
    },
    /// A learner needs a snapshot. The runner takes one at its applied index and passes the parts with
    /// [`super::Input::SnapshotPart`], starting with number 0; for each later part it waits for [`Effect::SnapshotNext`].
    SnapshotWanted {
        /// For whom.
        to: NodeId,
        /// The transfer's name.
        transfer: TransferId,
    },
    /// The peer holds all parts before this number: pass it.
    SnapshotNext {
        /// For whom.
        to: NodeId,
        /// Which transfer.
        transfer: TransferId,
        /// Number of the next part.
        number: u64,
    },
    /// The transfer is over or pointless: release what it holds.
    SnapshotDone {
        /// For whom.
        to: NodeId,
        /// Which transfer.
        transfer: TransferId,
    },
    /// Keep this part of an incoming snapshot aside (number 0 starts afresh). Need not be durable before
    /// [`LogChange::InstallSnapshot`] is.
    SnapshotStage {
        /// Which transfer.
        transfer: TransferId,
        /// The part.
        chunk: SnapshotChunk,
    },
}
