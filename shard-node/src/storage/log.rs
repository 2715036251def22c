//! A group's log on disk: entries that were appended together share a record.
//!
//! A record is named by the index of its first entry, and holds a run of entries without gaps; runs follow each other
//! without gaps. One write is dear in the engine, whatever its size, so a turn's entries are one write. Where the log is cut
//! inside a run its head is written anew; where it is compacted inside a run, the run stays until all of it may go, and what
//! stands before the log's base is skipped.

use super::backend::{Reader, Space};
use super::codec;
use super::error::StorageError;
use super::group::LogBase;
use super::keys::{group_range, log_key};
use super::store::Store;
use bytes::{Buf, Bytes};
use fulcrum_types::{Entry, GroupId, Index};
use std::collections::VecDeque;

/// Most entries of a run.
const RUN_ENTRIES: usize = 256;
/// Most bytes of a run, about: one entry may be larger.
const RUN_BYTES: usize = 128 * 1024;

/// Where the entries of a group's log are.
#[derive(Debug)]
pub(super) struct Log {
    group: GroupId,
    /// First index of each run, in order.
    runs: VecDeque<Index>,
    /// The last index of the log.
    last: Index,
}

impl Log {
    /// A log without entries behind a base.
    pub(super) fn empty(group: GroupId, base: Index) -> Self {
        Log {
            group,
            runs: VecDeque::new(),
            last: base,
        }
    }

    /// Reads a log and checks that it is whole, without gaps, and goes forward in epoch and time.
    pub(super) fn read(store: &Store, group: GroupId, base: LogBase) -> Result<(Self, Vec<Entry>), StorageError> {
        let mut log = Self::empty(group, base.position.index);
        let mut entries = Vec::new();
        let (start, end) = group_range(group);
        let (mut before, mut time) = (base.position, base.time);
        for record in store.range(Space::Log, &start, &end) {
            let (key, record) = record?;
            let due = before.index.next();
            let first = first_of(&key).ok_or_else(|| log.corrupt(due, "key length"))?;
            // Only the first run may begin before the base.
            if first > due || (first < due && !log.runs.is_empty()) {
                return Err(log.corrupt(due, "missing"));
            }
            let run = codec::decode_run(&record).map_err(|e| log.corrupt(due, e))?;
            if run.first().map(|entry| entry.position.index) != Some(first) {
                return Err(log.corrupt(due, "out of order"));
            }
            for entry in run
                .into_iter()
                .filter(|entry| entry.position.index > base.position.index)
            {
                let due = before.index.next();
                if entry.position.index != due || entry.position.epoch < before.epoch || entry.time < time {
                    return Err(log.corrupt(due, "out of order"));
                }
                (before, time) = (entry.position, entry.time);
                entries.push(entry);
            }
            if before.index < due {
                return Err(log.corrupt(due, "a run before the log begins"));
            }
            log.runs.push_back(first);
        }
        log.last = before.index;
        Ok((log, entries))
    }

    pub(super) fn last(&self) -> Index {
        self.last
    }

    /// Stages entries that follow the last.
    pub(super) fn append(&mut self, store: &mut Store, entries: &[Entry]) {
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let index = first.position.index;
            debug_assert_eq!(index, self.last.next(), "a log has no gaps");
            let (run, after) = rest.split_at(run_length(rest));
            store.put(Space::Log, log_key(self.group, index), codec::encode_run(run));
            self.runs.push_back(index);
            self.last = Index(index.0 + run.len() as u64 - 1);
            rest = after;
        }
    }

    /// Removes the entries from an index on.
    pub(super) fn truncate(&mut self, store: &mut Store, from: Index) -> Result<(), StorageError> {
        if from > self.last {
            return Ok(());
        }
        while let Some(first) = self.runs.pop_back_if(|first| *first >= from) {
            store.delete(Space::Log, log_key(self.group, first));
            self.last = first.prev();
        }
        if let Some(first) = self.runs.back().copied().filter(|_| self.last >= from) {
            let mut run = self.run(store, first)?;
            run.retain(|entry| entry.position.index < from);
            store.put(Space::Log, log_key(self.group, first), codec::encode_run(&run));
        }
        self.last = from.prev();
        Ok(())
    }

    /// Removes the runs that end at or before an index.
    pub(super) fn drop_through(&mut self, store: &mut Store, through: Index) {
        while let Some(first) = self.runs.front().copied() {
            let end = self.runs.get(1).map_or(self.last, |next| next.prev());
            if end > through {
                return;
            }
            store.delete(Space::Log, log_key(self.group, first));
            self.runs.pop_front();
        }
    }

    /// An entry of the log.
    pub(super) fn entry(&self, store: &Store, index: Index) -> Result<Entry, StorageError> {
        let behind = self.runs.partition_point(|first| *first <= index);
        let first = behind.checked_sub(1).and_then(|at| self.runs.get(at));
        let first = *first.ok_or_else(|| self.corrupt(index, "missing"))?;
        let run = self.run(store, first)?;
        let entry = run.into_iter().find(|entry| entry.position.index == index);
        entry.ok_or_else(|| self.corrupt(index, "missing"))
    }

    fn run(&self, store: &Store, first: Index) -> Result<Vec<Entry>, StorageError> {
        let record = store.get(Space::Log, &log_key(self.group, first))?;
        let record = record.ok_or_else(|| self.corrupt(first, "missing"))?;
        codec::decode_run(&record).map_err(|e| self.corrupt(first, e))
    }

    fn corrupt(&self, index: Index, reason: impl ToString) -> StorageError {
        StorageError::Corrupt {
            group: self.group,
            index,
            reason: reason.to_string(),
        }
    }
}

/// How many of these entries make the next run. At least one, if there is one.
fn run_length(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fitting = entries.iter().take(RUN_ENTRIES).take_while(|entry| {
        let fits = bytes < RUN_BYTES;
        bytes += entry.size();
        fits
    });
    fitting.count()
}

fn first_of(key: &[u8]) -> Option<Index> {
    let mut index = key.get(8..)?;
    (index.len() == 8).then(|| Index(index.get_u64()))
}

/// The record that holds an entry, of all the records of the log space.
pub(super) fn record_of(
    records: &std::collections::BTreeMap<Bytes, Bytes>,
    group: GroupId,
    index: Index,
) -> Option<Bytes> {
    let from = log_key(group, Index::ZERO);
    let found = records.range(from..=log_key(group, index)).next_back();
    found.map(|(key, _)| key.clone())
}
