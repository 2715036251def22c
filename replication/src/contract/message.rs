//! What replicas say to each other.

use fulcrum_types::{BootId, ConfigVersion, DataId, Epoch};

/// Goes with every message: who speaks, from which life, and by which configuration (rule 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The newest configuration that the sender has accepted.
    pub version: ConfigVersion,
    /// The sender's life.
    pub boot: BootId,
    /// The sender's data.
    pub data: DataId,
    /// The sender's wall clock: only to notice one that is far from its peers' (rule 11).
    pub wall_ms: u64,
}

/// A message between two replicas of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub header: Header,
    /// What is said: the bodies of one protocol.
    pub body: crate::primary_backup::Body,
}
