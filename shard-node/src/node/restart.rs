//! How a replica comes to life: from what the disk holds, and under which data id (rule 5).
//!
//! A replica that may have lost what it acknowledged takes a new data id, by which no configuration lists it: it is a learner
//! until it has caught up. That is so on an empty disk, after an unclean end with `fsync` other than `always`, and when its
//! log or state is damaged; what is damaged is cleared away first and comes again from its peers.

use super::Cores;
use super::bugs::Bug;
use super::group::{Group, Parts};
use super::history::History;
use super::settings::limits;
use super::shared::{Failure, Shared};
use crate::event::Observation;
use crate::state_machine::StateMachine;
use crate::storage::{GroupStore, OpenedGroup, StorageError};
use fulcrum_common::keyspace::Keyspace;
use fulcrum_replication::Restored;
use fulcrum_types::{DataId, Fsync, GroupId, Now};
use std::sync::Arc;

/// What a replica is opened with.
pub(super) struct Opener<'a> {
    pub(super) cores: &'a Cores,
    pub(super) entropy: &'a mut (dyn FnMut() -> u64 + Send),
    /// The store was closed in good order before this life.
    pub(super) clean: bool,
}

impl Opener<'_> {
    /// Opens a group's replica from the disk.
    pub(super) fn open(
        &mut self,
        shared: &mut Shared,
        now: Now,
        group: GroupId,
        keyspace: Arc<Keyspace>,
    ) -> Result<Group, Failure> {
        let opened = GroupStore::open(&shared.store, group).and_then(|opened| {
            let machine = open_machine(shared, &opened, &keyspace)?;
            Ok((opened, machine))
        });
        match opened.map_err(Failure::from) {
            Ok((opened, machine)) => {
                let data = self.data_id(shared, group, &opened, &keyspace);
                Ok(self.assemble(shared, now, opened, machine, keyspace, data))
            }
            Err(Failure::Damaged(reason)) => self.rebuild(shared, now, group, keyspace, reason),
            Err(other) => Err(other),
        }
    }

    /// Clears a replica's log and state away: it comes back as a learner with nothing.
    pub(super) fn rebuild(
        &mut self,
        shared: &mut Shared,
        now: Now,
        group: GroupId,
        keyspace: Arc<Keyspace>,
        reason: String,
    ) -> Result<Group, Failure> {
        let opened = GroupStore::reset(&mut shared.store, group)?;
        let machine = open_machine(shared, &opened, &keyspace)?;
        shared.observe(Observation::Rebuilding { group, reason });
        let data = self.fresh();
        Ok(self.assemble(shared, now, opened, machine, keyspace, data))
    }

    fn fresh(&mut self) -> DataId {
        DataId((self.entropy)().max(1))
    }

    fn data_id(&mut self, shared: &mut Shared, group: GroupId, opened: &OpenedGroup, keyspace: &Keyspace) -> DataId {
        let Some(known) = opened
            .hard_state
            .as_ref()
            .map(|h| h.data)
            .filter(|data| *data != DataId::ZERO)
        else {
            return self.fresh();
        };
        let trusted = self.clean || keyspace.options.fsync == Fsync::Always;
        if trusted || shared.bugs.has(Bug::KeepDataId) {
            return known;
        }
        let reason = "unclean end with fsync other than always: what it acknowledged last may be lost";
        shared.observe(Observation::NewData { group, reason });
        self.fresh()
    }

    fn assemble(
        &mut self,
        shared: &Shared,
        now: Now,
        opened: OpenedGroup,
        machine: StateMachine,
        keyspace: Arc<Keyspace>,
        data: DataId,
    ) -> Group {
        let OpenedGroup {
            storage,
            hard_state,
            base,
            log,
        } = opened;
        let id = storage.group();
        let applied = machine.applied().position.index;
        let starts = hard_state.as_ref().map_or(&[][..], |h| &h.epoch_starts);
        let history = History::new(starts, base.position, &log);
        let tail = log
            .iter()
            .filter(|entry| entry.position.index > applied)
            .cloned()
            .collect();
        let restored = Restored {
            boot: shared.boot,
            data,
            hard_state,
            compacted: base.position,
            compacted_time: base.time,
            log,
            applied,
        };
        let core = (self.cores)(shared.settings.options(id, &keyspace), restored, now);
        Group::new(
            Parts {
                id,
                keyspace,
                core,
                log: storage,
                machine,
                history,
                tail,
            },
            now,
        )
    }
}

fn open_machine(shared: &Shared, opened: &OpenedGroup, keyspace: &Keyspace) -> Result<StateMachine, StorageError> {
    let (group, generation) = (opened.storage.group(), opened.storage.generation());
    let limits = limits(keyspace);
    let machine = StateMachine::open(&shared.store, group, generation, limits, shared.cache_share)?;
    #[cfg(feature = "planted-bugs")]
    let machine = {
        let mut machine = machine;
        machine.plant(shared.bugs.clone());
        machine
    };
    Ok(machine)
}
