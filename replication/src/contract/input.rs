//! All that can happen to a core.

use super::effect::SnapshotMeta;
use super::message::Message;
use super::status::HardState;
use bytes::Bytes;
use fulcrum_types::{BootId, DataId, Entry, GroupConfiguration, Index, LogPosition, NodeId, ReplicatedTime, WriteId};
use std::time::Duration;

/// The runner's name for a proposal, echoed in the effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// A client's command, to be ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The runner's name for it.
    pub id: ProposalId,
    /// Encoded; opaque to the core.
    pub command: Bytes,
    /// It ends what is in doubt: an abort, a resolve. Ordered below `min_in_sync`, too, and answered once it is committed (rule 6).
    pub ends_doubt: bool,
}

impl Proposal {
    /// A command that needs `min_in_sync`.
    #[must_use]
    pub fn new(id: ProposalId, command: Bytes) -> Self {
        Self {
            id,
            command,
            ends_doubt: false,
        }
    }
}

/// The runner's name for a read, echoed in the effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// The core's name for one compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CasId(pub u64);

/// The core's name for one transfer of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u64);

/// What a core starts from.
#[derive(Clone, Debug)]
pub struct Restored {
    /// This life of the process.
    pub boot: BootId,
    /// Identity of the data found. The runner passes a new one if what was acknowledged may be missing (rule 5).
    pub data: DataId,
    /// The last hard state made durable; none on an empty disk.
    pub hard_state: Option<HardState>,
    /// The last entry that compaction or a snapshot removed: the log goes on behind it.
    pub compacted: LogPosition,
    /// Replicated time of the last entry removed.
    pub compacted_time: fulcrum_types::ReplicatedTime,
    /// The retained log, without gaps.
    pub log: Vec<Entry>,
    /// What the stored state has applied.
    pub applied: Index,
}

/// What a read needs from the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadWanted {
    /// Sees all that was acknowledged before.
    Linearizable,
    /// At most this stale.
    Bounded(Duration),
    /// At least this position, in a history that holds it.
    Session(Option<LogPosition>),
    /// Anything.
    Eventual,
}

/// What became of a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CasOutcome {
    /// It took effect; the configuration carries its new version.
    Won(GroupConfiguration),
    /// It did not and never will; this was in force.
    Lost(GroupConfiguration),
    /// It may or may not have, or may yet (rule 2).
    Unknown,
}

/// A part of a snapshot on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Counts from 0.
    pub number: u64,
    /// Opaque to the core.
    pub data: Bytes,
    /// Set on the last chunk: what the whole stands for.
    pub last: Option<SnapshotMeta>,
}

/// The closed list of inputs.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed. At least every quarter of a heartbeat.
    Tick {
        /// Whether the disk has lately completed a sync and none is overdue: without it no heartbeat is sent and
        /// no lease renewed ("no zombies").
        disk_healthy: bool,
    },
    /// A message of a peer. Any order, any number of times.
    Receive {
        /// Who sent it.
        from: NodeId,
        /// What.
        message: Message,
    },
    /// Clients' commands, all that one turn of the event loop collected: they share one write and one message a peer.
    /// Each is answered by [`super::Effect::Proposed`] or [`super::Effect::ProposalRefused`] in the same step.
    Propose {
        /// In the order in which they are to be ordered.
        commands: Vec<Proposal>,
    },
    /// Something is due once the group's time has come to `due`, and only entries carry that time: a primary that could take a write
    /// orders a no-op if it has come, and nothing else is on its way. Else nothing happens: say it again later.
    CarryTime {
        /// Since when.
        due: ReplicatedTime,
    },
    /// A read. Answered by [`super::Effect::AnswerRead`], now or later.
    Read {
        /// The runner's name for it.
        id: ReadId,
        /// What it needs.
        wanted: ReadWanted,
    },
    /// All writes up to this one are durable.
    Persisted {
        /// The last of them.
        through: WriteId,
    },
    /// The state machine has applied all up to here.
    Applied {
        /// The last entry applied.
        through: Index,
    },
    /// The configuration as the metadata store has it: from a watch or a read. May be old or repeated.
    Configuration {
        /// It.
        configuration: GroupConfiguration,
    },
    /// A compare-and-swap has ended.
    CasOutcome {
        /// Which.
        attempt: CasId,
        /// How.
        outcome: CasOutcome,
    },
    /// The next part of a snapshot that the core asked for with [`super::Effect::SnapshotWanted`].
    SnapshotPart {
        /// For whom.
        to: NodeId,
        /// Which transfer.
        transfer: TransferId,
        /// The part.
        chunk: SnapshotChunk,
    },
    /// An operator asks this primary to hand over to another replica (planned: nothing is lost, rule 7).
    HandOver {
        /// To whom; none: to the most advanced.
        to: Option<NodeId>,
    },
    /// A node that was asked about with [`super::Effect::ReadLease`] has no lease at the metadata store.
    LeaseGone {
        /// Which.
        node: NodeId,
    },
    /// This node is about to stop. A primary hands over; a backup asks to be taken out of the in-sync set, which happens if enough others
    /// are in it. For the rest of this life.
    Leave,
    /// An operator's word (or the keyspace's named policy) to start from this replica although no listed data is left.
    ForcePromotion,
}
