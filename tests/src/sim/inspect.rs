//! Reads what a machine's disk holds, as a start after a loss of power would find it: nothing that was not synced counts.

use bytes::Bytes;
use fulcrum_checker::SurvivingLog;
use fulcrum_checker::convergence::ReplicaState;
use fulcrum_replication::HardState;
use fulcrum_shard_node::state_machine::{Limits, StateMachine};
use fulcrum_shard_node::storage::{GroupStore, LogBase, MemoryDisk, Store, certificates};
use fulcrum_types::{Entry, Epoch, GroupId, Index, LogPosition, NodeId, Payload};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

/// One replica as its disk has it.
#[derive(Debug)]
pub struct Inspection {
    /// Hard state, if it has any.
    pub hard_state: Option<HardState>,
    /// What stands before the log.
    pub base: LogBase,
    /// The log.
    pub log: Vec<Entry>,
    /// Entries that certificates on this disk name as lost, and the epoch whose history took their place.
    pub diverged: Vec<(Epoch, LogPosition)>,
    checksum: u64,
}

impl Inspection {
    /// Reads all of one group, and applies what of the log is not applied yet.
    ///
    /// # Errors
    /// What could not be read.
    pub fn of(disk: &MemoryDisk, group: GroupId, limits: Limits) -> Result<Self, Box<dyn Error>> {
        let mut store = open(disk);
        let opened = GroupStore::open(&store, group)?;
        let generation = opened.storage.generation();
        let mut machine = StateMachine::open(&store, group, generation, limits, 0)?;
        let applied = machine.applied().position.index;
        for entry in opened.log.iter().filter(|e| e.position.index > applied) {
            machine.apply(&mut store, entry)?;
        }
        let certificates = certificates(&store, group)?;
        let divergences = certificates.iter().flat_map(|c| &c.diverged);
        let diverged = divergences.flat_map(|d| d.entries.iter().map(|e| (d.new_epoch, e.position)));
        Ok(Self {
            diverged: diverged.collect(),
            checksum: machine.checksum(&store)?,
            hard_state: opened.hard_state,
            base: opened.base,
            log: opened.log,
        })
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.log.last().map_or(self.base.position, |e| e.position)
    }

    /// Where each epoch starts, and where the log ends.
    #[must_use]
    pub fn surviving_log(&self) -> SurvivingLog {
        let kept = self.hard_state.iter().flat_map(|h| &h.epoch_starts);
        let mut starts: BTreeMap<Epoch, Index> = kept.map(|(epoch, start)| (*epoch, *start)).collect();
        for entry in &self.log {
            starts.entry(entry.position.epoch).or_insert(entry.position.index);
        }
        SurvivingLog {
            starts,
            last: self.last().index,
        }
    }

    /// The state at the end of the log.
    #[must_use]
    pub fn state(&self, group: GroupId, node: NodeId) -> ReplicaState {
        ReplicaState {
            group,
            node,
            applied: self.last().index,
            checksum: self.checksum,
        }
    }

    /// Fingerprints of the entries known to be committed here.
    pub fn committed(&self) -> impl Iterator<Item = (LogPosition, u64)> {
        let commit = self.hard_state.as_ref().map_or(Index::ZERO, |h| h.commit);
        let known = self.log.iter().filter(move |e| e.position.index <= commit);
        known.map(|entry| (entry.position, fingerprint(entry)))
    }
}

/// Whether a disk surely holds an entry, or has compacted it away.
///
/// # Errors
/// What could not be read.
pub fn holds(disk: &MemoryDisk, group: GroupId, at: LogPosition) -> Result<bool, Box<dyn Error>> {
    let opened = GroupStore::open(&open(disk), group)?;
    let compacted = opened.base.position.index >= at.index;
    Ok(compacted || opened.log.iter().any(|entry| entry.position == at))
}

fn open(disk: &MemoryDisk) -> Store {
    let (backend, _) = disk.survivor().open(Arc::new(|_| {}));
    Store::new(Box::new(backend))
}

fn fingerprint(entry: &Entry) -> u64 {
    let payload: &Bytes = match &entry.payload {
        Payload::Noop => return 0,
        Payload::Command(command) => command,
    };
    payload.iter().fold(entry.time.0, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
