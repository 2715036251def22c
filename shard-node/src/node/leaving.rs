//! Replicas that belong here no more: when that is certain, and how their data goes.
//!
//! The cluster map says who keeps a group's data, but the map at hand may be old: after a start it is whatever the store shows first. What
//! is missing in an old map may be listed in sync by now. So a replica goes only by a map that is newer than the configuration
//! which it knows, or if that configuration itself names it neither as a replica nor in sync. Map and configurations
//! are versioned by revisions of one store, and who is placed anew gets both in one transaction: a map that does not place it
//! and is newer than its configuration was made after it was taken out. And who is taken out has left the in-sync set before.
//!
//! In `async`, who led the group and has not seen since what became of it may alone know what a failover lost. Such a replica is **in
//! debt**: it is hosted until it has asked the group's primary and given its account (`replication/src/primary_backup/certificate.rs`), and
//! goes then. It is in no map, so nobody reads from it, and in no in-sync set, so nobody waits for it.
//!
//! Loss certificates stay when the group goes on elsewhere; they go only with the group.

use super::Node;
use crate::event::Observation;
use crate::storage::{GroupStore, Kept};
use fulcrum_common::map::ClusterMap;
use fulcrum_replication::HardState;
use fulcrum_types::{Epoch, GroupId, Mode, Now};

/// What is to become of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belonging {
    /// It is placed here, or the map may be too old to say so.
    Here,
    /// It belongs elsewhere, and owes an account of what it led.
    InDebt,
    /// It belongs elsewhere: its data may go.
    Elsewhere,
}

impl Node {
    /// Where a group belongs by a map that is no older than what the replica knows.
    pub(super) fn belonging(&mut self, map: &ClusterMap, group: GroupId) -> Belonging {
        if self.is_placed(map, group) {
            return Belonging::Here;
        }
        let Some(known) = self.known_state(group) else {
            return Belonging::Here;
        };
        let me = self.shared.settings.node;
        let configuration = &known.configuration;
        let named = configuration.replicas.contains(&me) || configuration.is_in_sync(me);
        if named && map.version().0 <= configuration.version.0 {
            return Belonging::Here;
        }
        let may_lose = map.keyspace_of(group).is_some_and(|k| k.options.mode == Mode::Async);
        match may_lose && known.led > Epoch::ZERO {
            true => Belonging::InDebt,
            false => Belonging::Elsewhere,
        }
    }

    /// Replicas that are hosted only for their debts go when they have paid.
    pub(super) fn leave_debtors(&mut self) {
        let Some(map) = self.shared.map.clone() else { return };
        for group in self.debtors.clone() {
            match self.belonging(&map, group) {
                Belonging::InDebt => continue,
                Belonging::Elsewhere => self.dismiss(group),
                Belonging::Here => {}
            }
            self.debtors.remove(&group);
        }
    }

    /// Ends a replica that belongs elsewhere, and its data.
    pub(super) fn dismiss(&mut self, group: GroupId) {
        self.give_up(group, "the group is no longer placed on this node");
        self.stopped.remove(&group);
        self.leave(group);
        self.shared.observe(Observation::ReplicaRemoved { group });
    }

    /// What a replica has on disk besides its log; none if the disk cannot tell.
    fn known_state(&mut self, group: GroupId) -> Option<HardState> {
        match GroupStore::hard_state(&self.shared.store, group) {
            Ok(hard_state) => Some(hard_state.unwrap_or_default()),
            Err(error) => {
                self.die(error.to_string());
                None
            }
        }
    }

    /// Lets go of what the disk held at the start, or still holds of groups that left, and no map places here.
    pub(super) fn leave_orphans(&mut self, now: Now, map: &ClusterMap) {
        for group in self.found.clone() {
            match (self.belonging(map, group), map.keyspace_of(group)) {
                (Belonging::Here, _) => {}
                (Belonging::InDebt, Some(keyspace)) => {
                    self.debtors.insert(group);
                    self.place(now, group, keyspace.clone());
                }
                (Belonging::InDebt | Belonging::Elsewhere, _) => {
                    self.found.remove(&group);
                    self.leave(group);
                }
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
