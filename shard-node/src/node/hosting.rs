//! Which replicas are here: by the cluster map.

use super::Node;
use super::group::Group;
use super::leaving::Belonging;
use super::restart::Opener;
use super::shared::Failure;
use crate::event::Observation;
use fulcrum_common::keyspace::Keyspace;
use fulcrum_common::map::ClusterMap;
use fulcrum_replication::Input;
use fulcrum_types::{GroupId, Now, Refusal};
use std::sync::Arc;

impl Node {
    /// Adopts a newer cluster map: replicas placed here start, those that surely belong here no more go, with their data.
    pub(super) fn adopt_map(&mut self, now: Now, map: Arc<ClusterMap>) {
        if self.shared.map.is_some() && map.version() <= self.shared.map_version() {
            return;
        }
        self.shared.map = Some(map.clone());
        let here = self.groups.keys().chain(self.stopped.keys()).copied();
        for group in here.collect::<Vec<GroupId>>() {
            match self.belonging(&map, group) {
                Belonging::Here => {}
                // One that has stopped gives no account any more.
                Belonging::InDebt if self.groups.contains_key(&group) => {
                    self.debtors.insert(group);
                }
                Belonging::InDebt | Belonging::Elsewhere => self.dismiss(group),
            }
        }
        self.leave_orphans(now, &map);
        for group in map.groups_on(self.shared.settings.node) {
            let Some(keyspace) = map.keyspace_of(group).cloned() else {
                continue;
            };
            self.place(now, group, keyspace);
        }
        self.share_cache();
    }

    /// Every group gets the same share of the node's cache.
    fn share_cache(&mut self) {
        self.shared.cache_share = self.shared.settings.cache_bytes / self.groups.len().max(1);
        for group in self.groups.values_mut() {
            group.machine.resize_cache(self.shared.cache_share);
        }
    }

    pub(super) fn is_placed(&self, map: &ClusterMap, group: GroupId) -> bool {
        map.replicas(group).contains(&self.shared.settings.node)
    }

    pub(super) fn place(&mut self, now: Now, id: GroupId, keyspace: Arc<Keyspace>) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.keyspace = keyspace;
            return;
        }
        if self.fatal.is_some() || self.stopped.contains_key(&id) {
            return;
        }
        self.found.remove(&id);
        self.leaving.remove(&id);
        let mut opener = Opener {
            cores: &self.cores,
            entropy: &mut *self.entropy,
            clean: self.clean,
        };
        let opened = opener.open(&mut self.shared, now, id, keyspace.clone());
        self.shared.observe(Observation::ReplicaAdded { group: id });
        match self.begin(now, opened) {
            Err(Failure::Damaged(reason)) => self.rebuild(now, id, keyspace, reason),
            begun => self.settle(id, begun),
        }
    }

    /// Starts a damaged replica anew, with nothing.
    pub(super) fn rebuild(&mut self, now: Now, id: GroupId, keyspace: Arc<Keyspace>, reason: String) {
        let mut opener = Opener {
            cores: &self.cores,
            entropy: &mut *self.entropy,
            clean: self.clean,
        };
        let opened = opener.rebuild(&mut self.shared, now, id, keyspace, reason);
        let begun = self.begin(now, opened);
        self.settle(id, begun);
    }

    /// The first step of a replica's life: what it must remember of its start is staged, what it knows is applied.
    fn begin(&mut self, now: Now, opened: Result<Group, Failure>) -> Result<Group, Failure> {
        let mut group = opened?;
        group.resume_watches(&self.shared, now);
        group.step(&mut self.shared, now, Input::Tick { disk_healthy: true })?;
        group.refresh(&mut self.shared, now);
        Ok(group)
    }

    /// Hosts a replica that could begin; one that could not stops, for an operator to look at.
    fn settle(&mut self, id: GroupId, begun: Result<Group, Failure>) {
        match begun {
            Ok(group) => {
                self.groups.insert(id, group);
            }
            Err(Failure::Node(reason)) => self.die(reason),
            Err(Failure::Damaged(reason) | Failure::Stopped(reason)) => {
                self.stopped.insert(id, reason);
            }
        }
    }

    /// Takes a replica out and answers all who wait for it.
    pub(super) fn give_up(&mut self, id: GroupId, reason: &str) -> Option<Arc<Keyspace>> {
        let mut group = self.groups.remove(&id)?;
        group.give_up(
            &mut self.shared,
            &Refusal::Stopped {
                reason: reason.to_owned(),
            },
        );
        Some(group.keyspace)
    }
}
