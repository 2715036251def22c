//! What can go wrong with storage, each with what is to be done about it.

use super::backend::Space;
use fulcrum_types::{GroupId, Index, NodeId};

/// Why storage could not do what it was asked.
///
/// All but [`StorageError::Corrupt`] concern the whole node: it must stop serving. None is to be retried on the same handle;
/// a failed fsync least of all, since the kernel may have dropped the pages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// Another process, or another node of this one, uses the directory.
    #[error("data directory {path} is in use: stop the process that uses it, or choose another directory")]
    Locked {
        /// The directory.
        path: String,
    },
    /// The directory was written by a newer program.
    #[error(
        "data directory {path} has format {found}, this program reads up to {supported}: start the newer program, or choose another directory"
    )]
    NewerFormat {
        /// The directory.
        path: String,
        /// Its format.
        found: u64,
        /// The newest that this program reads.
        supported: u64,
    },
    /// The directory was written by an older program, in a format that is no longer read.
    #[error(
        "data directory {path} has format {found}, this program reads only {supported}: export the data with the program that wrote it and import it here, or choose another directory"
    )]
    OlderFormat {
        /// The directory.
        path: String,
        /// Its format.
        found: u64,
        /// The only one that this program reads.
        supported: u64,
    },
    /// The directory belongs to another cluster.
    #[error(
        "data directory {path} belongs to cluster {found}, not {expected}: correct the cluster name, or choose another directory"
    )]
    OtherCluster {
        /// The directory.
        path: String,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// The directory belongs to another node.
    #[error(
        "data directory {path} belongs to node {found}, not {expected}: correct the node id, or choose another directory"
    )]
    OtherNode {
        /// The directory.
        path: String,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        expected: NodeId,
    },
    /// The file that says whose directory it is cannot be read.
    #[error(
        "data directory {path}: its identity file is damaged ({reason}): restore it, or empty the directory to start anew"
    )]
    Identity {
        /// The directory.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// One group's log or hard state is damaged. The replica is rebuilt from its peers with a new data id (rule 5); other
    /// groups go on.
    #[error("group {group}: record at index {index} is damaged ({reason}): the replica must be rebuilt from its peers")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// Where in its log; zero if it is not a log record.
        index: Index,
        /// What is wrong.
        reason: String,
    },
    /// Parts of a snapshot do not fit together. The transfer must be started afresh.
    #[error("group {group}: the snapshot offered is unusable ({reason}): it must be sent again")]
    BadSnapshot {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
    /// A read found something that cannot be decoded.
    #[error("damaged record in {space:?}: {reason}: the replica must be rebuilt from its peers")]
    Damaged {
        /// Where.
        space: Space,
        /// What is wrong.
        reason: String,
    },
    /// No room left on the device.
    #[error("no space left for data directory {path}: free some or enlarge the volume, then restart the node")]
    Full {
        /// The directory.
        path: String,
    },
    /// The node's store as a whole cannot be trusted: something acknowledged is missing or unreadable. Started with an empty
    /// directory, the node comes back with new data ids (rule 5) and is rebuilt from its peers.
    #[error(
        "{file} is damaged ({reason}): move data directory {directory} away and restart the node, which then is rebuilt from its peers"
    )]
    CorruptStore {
        /// Where the damage is.
        file: String,
        /// What is wrong.
        reason: String,
        /// The data directory.
        directory: String,
    },
    /// Writing or fsync failed: what is on disk is not known until the node restarts and reads it.
    #[error("writing to data directory {path} failed ({reason}): check the device, then restart the node")]
    WriteFailed {
        /// The directory.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// Opening or reading failed.
    #[error("data directory {path}: {reason}")]
    Io {
        /// The directory.
        path: String,
        /// What the system said.
        reason: String,
    },
}
