//! What a core keeps on disk, and what it tells of itself.

use fulcrum_types::{ConfigVersion, DataId, Epoch, GroupConfiguration, Index, LogPosition, NodeId, Role};
use std::time::Duration;

/// What must survive a crash besides the log. Persisted before anything that depends on it leaves the replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Identity of the data.
    pub data: DataId,
    /// The newest configuration accepted; older ones are refused, even from metadata.
    pub configuration: GroupConfiguration,
    /// The newest epoch accepted (at least the configuration's).
    pub epoch: Epoch,
    /// A lower bound of the commit index.
    pub commit: Index,
    /// First index of each epoch in the log, also of those compacted away (rule 8).
    pub epoch_starts: Vec<(Epoch, Index)>,
    /// The epoch that the present life of this replica led, if any: a later life needs a new one (rule 3).
    pub led: Epoch,
    /// The epoch that an operator's word asked this replica to begin although no listed data was left, if any: its
    /// certificate is owed also after a crash in between (rule 5).
    pub forced: Epoch,
}

/// What a primary knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// In the in-sync set.
    pub in_sync: bool,
    /// Durable on the peer, as far as matched in this epoch.
    pub matched: Index,
    /// Since its last acknowledgement.
    pub silent_for: Duration,
    /// Entries behind the primary's log.
    pub lag_entries: u64,
    /// For how long it has been behind the commit index.
    pub lag: Duration,
    /// A snapshot is on its way to it.
    pub snapshot: bool,
}

/// A replica's view of itself and its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its epoch.
    pub epoch: Epoch,
    /// Version of the newest configuration accepted.
    pub version: ConfigVersion,
    /// That configuration.
    pub configuration: GroupConfiguration,
    /// The primary, as far as known.
    pub primary: Option<NodeId>,
    /// Primary only: inherited entries and the no-op are committed.
    pub ready: bool,
    /// Primary only: time left on the lease.
    pub lease_left: Option<Duration>,
    /// End of the log.
    pub last: LogPosition,
    /// Highest index known durable here.
    pub persisted: Index,
    /// Commit index.
    pub commit: Index,
    /// Applied, as reported.
    pub applied: Index,
    /// Log starts behind this position.
    pub compacted: LogPosition,
    /// What staleness this replica could prove for an eventual read now.
    pub staleness: Option<Duration>,
    /// No listed data is left: waits for an operator.
    pub stranded: bool,
    /// Peers, as a primary sees them; empty otherwise.
    pub peers: Vec<PeerStatus>,
}
