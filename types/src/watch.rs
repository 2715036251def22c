//! What a watch asks of one group, and what it is told: the changes that applied entries made, in order.
//!
//! A watch is a cursor over a group's log. Its position moves on entry by entry, also over entries that changed nothing it
//! looks for, so that a watch which was told nothing knows how far nothing happened.

use crate::entry::LogPosition;
use crate::ids::{GroupId, MapVersion};
use crate::operation::{Version, Versioned};
use crate::time::ReplicatedTime;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Which keys a watch looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All keys of the keyspace.
    #[default]
    All,
    /// Keys that begin so.
    Prefix(Bytes),
    /// One key.
    Key(Bytes),
}

impl Selection {
    /// Whether it looks at that key.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Selection::All => true,
            Selection::Prefix(prefix) => key.starts_with(prefix),
            Selection::Key(wanted) => key == wanted.as_ref(),
        }
    }
}

/// How far a watch has come in a group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The newest entry of which something was said.
    pub position: LogPosition,
    /// How many of that entry's changes were said; none means all. An entry may hold many, and a watch may end between two.
    pub part: Option<u32>,
}

impl Cursor {
    /// Behind all that an entry did.
    #[must_use]
    pub const fn behind(position: LogPosition) -> Self {
        Self { position, part: None }
    }
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was set.
    Put(Versioned),
    /// It was deleted; it had a value.
    Delete {
        /// Version of the tombstone.
        version: Version,
    },
    /// Its time to live ran out.
    Expire {
        /// Version of the value that went.
        version: Version,
    },
}

/// One change that an applied entry made. The same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The entry.
    pub position: LogPosition,
    /// Its number among the changes of that entry, from 0.
    pub ordinal: u32,
    /// The entry's replicated time.
    pub time: ReplicatedTime,
    /// The key.
    pub key: Bytes,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// How far a watch has come in one group: in its log, and before that in its initial state if it asked for that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchPosition {
    /// In the log.
    pub cursor: Cursor,
    /// The initial state was said through this key (empty: nothing yet); none if it was said, or was not asked for. Of
    /// keys behind it no change was said either: their state is still to come.
    pub loading: Option<Bytes>,
}

/// What a watch goes on from, at any router: a position in each of its groups, and the newest cluster map seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchToken {
    /// Newest cluster map seen.
    pub map_version: MapVersion,
    /// Of every group that the watch looks at.
    pub groups: BTreeMap<GroupId, WatchPosition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_takes_what_it_names() {
        let prefix = Selection::Prefix(Bytes::from_static(b"a/"));
        assert!(prefix.matches(b"a/1") && prefix.matches(b"a/") && !prefix.matches(b"a"));
        let key = Selection::Key(Bytes::from_static(b"a"));
        assert!(key.matches(b"a") && !key.matches(b"a/"));
        assert!(Selection::All.matches(b""));
    }
}
