//! What every answer says about itself: what was asked, what was got, and what it cost.

use crate::ids::{Epoch, GroupId, Index, MapVersion, NodeId};
use crate::mode::{Level, Mode};
use std::fmt;
use std::time::Duration;

/// What a replica is to its group at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Orders writes.
    Primary,
    /// In the in-sync set.
    Backup,
    /// Catching up.
    Learner,
}

impl Role {
    /// The name in API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Backup => "backup",
            Role::Learner => "learner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the staleness bound of a receipt may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StalenessBasis {
    /// The primary's lease held after the read was evaluated: nothing newer was acknowledged by anyone.
    Lease,
    /// Every in-sync replica confirmed the primary after the read arrived.
    ConfirmingRound,
    /// The primary echoed this replica's own clock while its lease held (DESIGN section 6).
    Echo,
    /// No proof at hand: the bound is unknown.
    None,
}

impl StalenessBasis {
    /// The name in API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            StalenessBasis::Lease => "lease",
            StalenessBasis::ConfirmingRound => "confirming_round",
            StalenessBasis::Echo => "echo",
            StalenessBasis::None => "none",
        }
    }
}

/// The proof that comes with every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The keyspace's replication mode.
    pub mode: Mode,
    /// Level asked for; writes count as linearizable in `sync` and as eventual in `async`.
    pub asked: Level,
    /// Level achieved: the one asked, or one that the request listed as acceptable.
    pub achieved: Level,
    /// The group that answered.
    pub group: GroupId,
    /// The node that answered.
    pub replica: NodeId,
    /// What it was to the group.
    pub role: Role,
    /// Epoch of the *entry* at `index` (for session tokens, rule 8).
    pub epoch: Epoch,
    /// Applied index that a read saw, or index of the write (also of one that was looked up).
    pub index: Index,
    /// Who had made a write durable when it was acknowledged; empty for reads.
    pub acknowledged_by: Vec<NodeId>,
    /// Whether the write was on disk at each of them. Never with `fsync` other than `always`.
    pub durable: bool,
    /// Upper bound of staleness, if one can be proved. Relative to the surviving history in `async` keyspaces.
    pub staleness: Option<Duration>,
    /// Why that bound holds.
    pub basis: StalenessBasis,
    /// Cluster map that the answering node went by.
    pub map_version: MapVersion,
    /// Rounds of messages to other replicas that the answer had to wait for.
    pub rounds: u32,
    /// Time spent in the node that answered, from arrival to answer.
    pub elapsed: Duration,
}

impl Receipt {
    /// Whether a read was served at a weaker level than the one asked, as its request allows.
    #[must_use]
    pub fn is_weaker(&self) -> bool {
        self.achieved.name() != self.asked.name()
    }
}
