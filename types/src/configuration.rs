//! A group's membership, as the metadata store holds it and compare-and-swap changes it.

use crate::ids::{ConfigVersion, DataId, Epoch, NodeId};

/// A node together with the data it held when it was admitted (rule 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its data; a node that lost what it acknowledged has another one and is no longer this member.
    pub data: DataId,
}

/// `{version, epoch, primary, in_sync, replicas}`: DESIGN section 5.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupConfiguration {
    /// Changes with every successful compare-and-swap.
    pub version: ConfigVersion,
    /// The epoch of `primary`.
    pub epoch: Epoch,
    /// Who orders writes; none only before a group's first start.
    pub primary: Option<NodeId>,
    /// Who holds every committed entry, the primary included. Sorted by node. Empty before a group's first start.
    pub in_sync: Vec<Member>,
    /// All nodes that shall hold a replica, in-sync or learning. In a new group the order decides who stands first.
    pub replicas: Vec<NodeId>,
}

impl GroupConfiguration {
    /// Whether `node` is in the in-sync set with whatever data.
    #[must_use]
    pub fn is_in_sync(&self, node: NodeId) -> bool {
        self.in_sync.iter().any(|m| m.node == node)
    }

    /// Whether this very member is in the in-sync set.
    #[must_use]
    pub fn has_member(&self, member: Member) -> bool {
        self.in_sync.contains(&member)
    }

    /// The primary, with the data that it is listed with.
    #[must_use]
    pub fn listed_primary(&self) -> Option<Member> {
        self.in_sync.iter().find(|m| Some(m.node) == self.primary).copied()
    }
}
