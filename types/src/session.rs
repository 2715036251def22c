//! What a client carries so that it never reads older than it has seen.

use crate::entry::LogPosition;
use crate::ids::{GroupId, MapVersion};
use std::collections::BTreeMap;

/// Group -> newest position seen, with that entry's own epoch, and the newest map version seen (rule 8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken {
    /// Newest cluster map seen: who routes by an older one refreshes first.
    pub map_version: MapVersion,
    /// Newest position seen of each group.
    pub groups: BTreeMap<GroupId, LogPosition>,
}

impl SessionToken {
    /// Remembers a position, if it is newer than the one known.
    pub fn observe(&mut self, group: GroupId, position: LogPosition) {
        let known = self.groups.entry(group).or_default();
        if (position.epoch, position.index) > (known.epoch, known.index) {
            *known = position;
        }
    }

    /// Takes in all that another token has seen.
    pub fn merge(&mut self, other: &SessionToken) {
        self.map_version = self.map_version.max(other.map_version);
        for (group, position) in &other.groups {
            self.observe(*group, *position);
        }
    }
}
