//! One replica's storage: as the runner sees it (volatile) or as a crash leaves it (durable).

use fulcrum_replication::{HardState, LogChange, Restored};
use fulcrum_types::{BootId, DataId, Entry, Index, LogPosition, ReplicatedTime};

#[derive(Clone, Debug)]
pub struct Disk {
    pub data: DataId,
    pub hard: Option<HardState>,
    pub compacted: LogPosition,
    pub compacted_time: ReplicatedTime,
    pub log: Vec<Entry>,
    /// The state machine: the list of all entries applied.
    pub state: Vec<Entry>,
    /// All that was written of certificates.
    pub certificates: Vec<LogChange>,
}

impl Disk {
    pub fn new(data: DataId) -> Self {
        Self {
            data,
            hard: None,
            compacted: LogPosition::default(),
            compacted_time: ReplicatedTime::default(),
            log: Vec::new(),
            state: Vec::new(),
            certificates: Vec::new(),
        }
    }

    pub fn applied(&self) -> Index {
        self.state.last().map_or(Index::ZERO, |e| e.position.index)
    }

    pub fn last(&self) -> Index {
        self.log.last().map_or(self.compacted.index, |e| e.position.index)
    }

    pub fn position_at(&self, index: Index) -> LogPosition {
        let found = self.history_to(index).last().map(|e| e.position);
        found.unwrap_or_default()
    }

    /// All entries up to an index: applied ones from the state, the rest from the log.
    pub fn history_to(&self, through: Index) -> Vec<Entry> {
        let applied = self.applied();
        let rest = self.log.iter().filter(|e| e.position.index > applied);
        let all = self.state.iter().chain(rest);
        all.filter(|e| e.position.index <= through).cloned().collect()
    }

    pub fn holds(&self, position: LogPosition) -> bool {
        self.log.iter().chain(&self.state).any(|e| e.position == position)
    }

    pub fn apply_to(&mut self, through: Index) {
        let applied = self.applied();
        let due = |e: &&Entry| e.position.index > applied && e.position.index <= through;
        let entries: Vec<_> = self.log.iter().filter(due).cloned().collect();
        for entry in entries {
            assert_eq!(entry.position.index, self.applied().next(), "applied in order");
            self.state.push(entry);
        }
    }

    /// The state machine's writes are in the journal with everything else.
    pub fn adopt_state(&mut self, volatile: &Disk) {
        if self.hard.as_ref().map(|h| h.data) != volatile.hard.as_ref().map(|h| h.data) {
            return;
        }
        let reach = self.last().min(volatile.applied());
        if reach > self.applied() {
            self.state = volatile
                .state
                .iter()
                .filter(|e| e.position.index <= reach)
                .cloned()
                .collect();
        }
    }

    pub fn apply(&mut self, change: &LogChange, cut: Option<&Disk>) {
        match change {
            LogChange::HardState(hard) => {
                self.data = hard.data;
                self.hard = Some(hard.clone());
            }
            LogChange::Append(entries) => {
                for entry in entries {
                    assert_eq!(entry.position.index, self.last().next(), "appends leave no gap");
                    self.log.push(entry.clone());
                }
            }
            LogChange::Truncate { from } => {
                self.log.retain(|e| e.position.index < *from);
                self.state.retain(|e| e.position.index < *from);
            }
            LogChange::Compact { through } => {
                self.apply_to(through.index);
                self.compacted = *through;
                self.compacted_time = self.state.last().map(|e| e.time).unwrap_or_default();
                let gone = |e: &&Entry| e.position == *through;
                if let Some(entry) = self.state.iter().find(gone) {
                    self.compacted_time = entry.time;
                }
                self.log.retain(|e| e.position.index > through.index);
            }
            LogChange::OpenCertificate { .. }
            | LogChange::VoidEpoch { .. }
            | LogChange::Unled { .. }
            | LogChange::Diverged(_) => self.certificates.push(change.clone()),
            LogChange::InstallSnapshot { meta, .. } => {
                let cut = cut.expect("a staged snapshot");
                self.state = cut.state.clone();
                assert_eq!(self.applied(), meta.position.index);
                self.compacted = meta.position;
                self.compacted_time = meta.time;
                self.log.clear();
            }
            LogChange::DropState => {
                self.state.clear();
                self.log.clear();
                self.compacted = LogPosition::default();
                self.compacted_time = ReplicatedTime::default();
            }
        }
    }

    pub fn restored(&self, boot: BootId) -> Restored {
        Restored {
            boot,
            data: self.data,
            hard_state: self.hard.clone(),
            compacted: self.compacted,
            compacted_time: self.compacted_time,
            log: self.log.clone(),
            applied: self.applied(),
        }
    }
}
