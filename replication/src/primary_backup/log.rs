//! The retained log in memory, and the table of epoch starts.
//!
//! The log goes on behind `compacted`, whose entries only the state holds. The table `starts` covers the whole history, also
//! what was compacted away: with it any position can be compared with another replica's history, and a session's position
//! checked (rule 8). Two logs that agree on a position agree on everything before it, since an epoch belongs to one life
//! of one primary (rule 3) that gives each index once.

use fulcrum_types::{Entry, Epoch, Index, LogPosition, ReplicatedTime};
use std::collections::VecDeque;

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    compacted: LogPosition,
    compacted_time: ReplicatedTime,
    entries: VecDeque<Entry>,
    bytes: usize,
    starts: Vec<(Epoch, Index)>,
}

impl Log {
    /// From what was restored. `starts` counts up to `compacted`; behind it the entries themselves say.
    pub(super) fn new(
        compacted: LogPosition,
        compacted_time: ReplicatedTime,
        starts: &[(Epoch, Index)],
        entries: Vec<Entry>,
    ) -> Self {
        let mut log = Self {
            compacted,
            compacted_time,
            starts: starts
                .iter()
                .copied()
                .filter(|(_, first)| *first <= compacted.index)
                .collect(),
            ..Self::default()
        };
        if compacted.index > Index::ZERO && log.epoch_at(compacted.index) != Some(compacted.epoch) {
            log.starts.push((compacted.epoch, compacted.index));
        }
        for entry in entries {
            if entry.position.index == log.last().index.next() {
                log.append(entry);
            }
        }
        log
    }

    pub(super) fn compacted(&self) -> LogPosition {
        self.compacted
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn starts(&self) -> &[(Epoch, Index)] {
        &self.starts
    }

    pub(super) fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.compacted, |e| e.position)
    }

    /// Replicated time of the last entry: a primary's entries never go below it (rule 11).
    pub(super) fn last_time(&self) -> ReplicatedTime {
        self.entries.back().map_or(self.compacted_time, |e| e.time)
    }

    /// Epoch of the entry at `index`, also if it was compacted away; 0 at index 0; none beyond the end.
    pub(super) fn epoch_at(&self, index: Index) -> Option<Epoch> {
        if index == Index::ZERO {
            return Some(Epoch::ZERO);
        }
        if index > self.last().index {
            return None;
        }
        let after = self.starts.partition_point(|(_, first)| *first <= index);
        after.checked_sub(1).map(|i| self.starts[i].0)
    }

    pub(super) fn position_at(&self, index: Index) -> Option<LogPosition> {
        self.epoch_at(index).map(|epoch| LogPosition { epoch, index })
    }

    pub(super) fn holds(&self, position: LogPosition) -> bool {
        self.epoch_at(position.index) == Some(position.epoch)
    }

    /// The last position at or below `index` whose epoch is at most `epoch`: where two histories may still agree.
    pub(super) fn last_within(&self, index: Index, epoch: Epoch) -> LogPosition {
        let index = index.min(self.last().index);
        let reach = match self.starts.iter().find(|(e, _)| *e > epoch) {
            Some((_, first)) => index.min(first.prev()),
            None => index,
        };
        self.position_at(reach).unwrap_or_default()
    }

    /// First index of the first epoch after `epoch`, if this history has one.
    pub(super) fn end_of(&self, epoch: Epoch) -> Option<Index> {
        self.starts.iter().find(|(e, _)| *e > epoch).map(|(_, first)| *first)
    }

    pub(super) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.position.index, last.index.next(), "the log has no gaps");
        assert!(entry.position.epoch >= last.epoch, "epochs never go back along a log");
        if self
            .starts
            .last()
            .is_none_or(|(epoch, _)| *epoch < entry.position.epoch)
        {
            self.starts.push((entry.position.epoch, entry.position.index));
        }
        self.bytes += entry.size();
        self.entries.push_back(entry);
    }

    /// Retained entries from `from` on.
    pub(super) fn entries_from(&self, from: Index) -> impl Iterator<Item = &Entry> {
        let skip = from.0.saturating_sub(self.compacted.index.0 + 1);
        self.entries
            .range(usize::try_from(skip).unwrap_or(usize::MAX).min(self.entries.len())..)
    }

    /// Entries behind `previous`, about `bytes` of them, at least one if there is any.
    pub(super) fn batch(&self, previous: Index, bytes: usize) -> (Vec<Entry>, usize) {
        let mut size = 0;
        let mut batch = Vec::new();
        for entry in self.entries_from(previous.next()) {
            if !batch.is_empty() && size + entry.size() > bytes {
                break;
            }
            size += entry.size();
            batch.push(entry.clone());
        }
        (batch, size)
    }

    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from > self.compacted.index, "what was compacted cannot be truncated");
        while self.entries.back().is_some_and(|e| e.position.index >= from) {
            self.bytes -= self.entries.pop_back().map_or(0, |e| e.size());
        }
        self.starts.retain(|(_, first)| *first < from);
    }

    /// How far to compact so that about `bytes` stay, at most through `limit`.
    pub(super) fn compaction_point(&self, bytes: usize, limit: Index) -> Option<LogPosition> {
        let mut left = self.bytes;
        let mut point = None;
        for entry in &self.entries {
            if left <= bytes || entry.position.index > limit {
                break;
            }
            left -= entry.size();
            point = Some(entry.position);
        }
        point
    }

    pub(super) fn compact(&mut self, through: LogPosition) {
        while self.entries.front().is_some_and(|e| e.position.index <= through.index) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.size();
                self.compacted = entry.position;
                self.compacted_time = entry.time;
            }
        }
    }

    /// Starts anew behind a snapshot.
    pub(super) fn reset(&mut self, position: LogPosition, time: ReplicatedTime, starts: &[(Epoch, Index)]) {
        *self = Self::new(position, time, starts, Vec::new());
    }

    /// What `check_invariants` asks of the log alone.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.starts.windows(2).any(|w| w[0].0 >= w[1].0 || w[0].1 >= w[1].1) {
            return Err(format!("epoch starts do not grow: {:?}", self.starts));
        }
        let expected = self.compacted.index.0 + self.entries.len() as u64;
        if self.last().index.0 != expected {
            return Err(format!(
                "the log ends at {} but holds entries up to {expected}",
                self.last()
            ));
        }
        if self.epoch_at(self.last().index) != Some(self.last().epoch) {
            return Err(format!(
                "the last entry {} is not in the table of epoch starts",
                self.last()
            ));
        }
        Ok(())
    }
}
