//! Replicas that belong here no more: when that is certain, and how their data goes.
//!
//! The cluster map says who keeps a group's data, but the map at hand may be old: after a start it is whatever the store shows first. What
//! is missing in an old map may be listed in sync by now. So a replica goes only by a map that is newer than the configuration
//! which it knows, or if that configuration itself names it neither as a replica nor in sync. Map and configurations
//! are versioned by revisions of one store, and who is placed anew gets both in one transaction: a map that does not place it
//! and is newer than its configuration was made after it was taken out. And who is taken out has left the in-sync set before.
//!
//! Loss certificates stay when the group goes on elsewhere; they go only with the group.

use super::Node;
use crate::storage::{GroupStore, Kept};
use fulcrum_common::map::ClusterMap;
use fulcrum_types::{GroupConfiguration, GroupId};

impl Node {
    /// Whether the map does not place a group here, and that is no older than what the replica knows.
    pub(super) fn is_done_with(&mut self, map: &ClusterMap, group: GroupId) -> bool {
        if self.is_placed(map, group) {
            return false;
        }
        let Some(known) = self.known_configuration(group) else {
            return false;
        };
        let me = self.shared.settings.node;
        let named = known.replicas.contains(&me) || known.is_in_sync(me);
        !named || map.version().0 > known.version.0
    }

    /// The newest configuration that a replica has accepted; none if the disk cannot tell.
    fn known_configuration(&mut self, group: GroupId) -> Option<GroupConfiguration> {
        match GroupStore::hard_state(&self.shared.store, group) {
            Ok(hard_state) => Some(hard_state.map(|h| h.configuration).unwrap_or_default()),
            Err(error) => {
                self.die(error.to_string());
                None
            }
        }
    }

    /// Lets go of what the disk held at the start, or still holds of groups that left, and no map places here.
    pub(super) fn leave_orphans(&mut self, map: &ClusterMap) {
        for group in self.found.clone() {
            if self.is_done_with(map, group) {
                self.found.remove(&group);
                self.leave(group);
            }
        }
        // Group ids are given in order and never again: a map that knows a later one is not too old to know this one.
        let newest = map.groups().keys().next_back().copied().unwrap_or_default();
        let dropped = |group: &&GroupId| **group < newest && !map.groups().contains_key(group);
        let dropped: Vec<GroupId> = self.certified.iter().filter(dropped).copied().collect();
        for group in dropped {
            if !self.found.contains(&group) {
                self.leave(group);
            }
        }
    }

    /// Log and hard state go at once: were the group placed here again before the rest is removed, in steps, what is half
    /// there must not pass for the data that it was (rule 5).
    pub(super) fn leave(&mut self, group: GroupId) {
        self.leaving.insert(group);
        self.certified.insert(group);
        if let Err(error) = GroupStore::reset(&mut self.shared.store, group) {
            self.die(error.to_string());
        }
    }

    /// Removes data of groups that left, a bounded number of records at a time.
    pub(super) fn remove_leaving(&mut self) {
        let Some(group) = self.leaving.first().copied() else {
            return;
        };
        let goes_on = self
            .shared
            .map
            .as_ref()
            .is_some_and(|map| map.groups().contains_key(&group));
        let kept = if goes_on { Kept::Certificates } else { Kept::Nothing };
        match GroupStore::remove(&mut self.shared.store, group, self.shared.settings.sweep_records, kept) {
            Ok(true) => {
                self.leaving.remove(&group);
                if !goes_on {
                    self.certified.remove(&group);
                }
            }
            Ok(false) => {}
            Err(error) => self.die(error.to_string()),
        }
    }
}
