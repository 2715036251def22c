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
use fulcrum_types::{Entry, GroupId, Index, LogPosition, ReplicatedTime};
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

    /// Reads a log and checks that it is whole, without gaps, and goes forward in epoch and time. What is kept before the base
    /// is not read.
    pub(super) fn read(store: &Store, group: GroupId, base: LogBase) -> Result<(Self, Vec<Entry>), StorageError> {
        let mut reading = Reading {
            log: Self::empty(group, base.position.index),
            base: base.position.index,
            before: base.position,
            time: base.time,
            entries: Vec::new(),
        };
        let (start, end) = group_range(group);
        // Where a run ends is known once the next one is: one that ends before the base is passed over.
        let mut pending: Option<(Index, Bytes)> = None;
        for record in store.range(Space::Log, &start, &end) {
            let (key, record) = record?;
            let due = reading.before.index.next();
            let first = first_of(&key).ok_or_else(|| reading.log.corrupt(due, "key length"))?;
            if let Some((run, record)) = pending.replace((first, record))
                && first > due
            {
                reading.take(run, &record)?;
            }
            reading.log.runs.push_back(first);
        }
        if let Some((run, record)) = pending {
            reading.take(run, &record)?;
        }
        reading.log.last = reading.before.index;
        Ok((reading.log, reading.entries))
    }

    /// The first entry that there is a record of.
    pub(super) fn first(&self) -> Option<Index> {
        self.runs.front().copied()
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

    /// Removes the runs that end at or before an index. The entries that went: the first, and the last.
    pub(super) fn drop_through(&mut self, store: &mut Store, through: Index) -> Option<(Index, Index)> {
        let mut gone = None;
        while let Some(first) = self.runs.front().copied() {
            let end = self.runs.get(1).map_or(self.last, |next| next.prev());
            if end > through {
                break;
            }
            store.delete(Space::Log, log_key(self.group, first));
            self.runs.pop_front();
            gone = Some((gone.map_or(first, |(first, _)| first), end));
        }
        gone
    }

    /// An entry of the log.
    pub(super) fn entry(&self, store: &Store, index: Index) -> Result<Entry, StorageError> {
        let run = self.run(store, self.run_of(index)?)?;
        let entry = run.into_iter().find(|entry| entry.position.index == index);
        entry.ok_or_else(|| self.corrupt(index, "missing"))
    }

    /// The entries from `first` through `last`, in order and without gaps, as far as the caller reads.
    pub(super) fn entries<'a>(
        &self,
        store: &'a Store,
        first: Index,
        last: Index,
    ) -> Result<impl Iterator<Item = Result<Entry, StorageError>> + use<'a>, StorageError> {
        let group = self.group;
        let (start, end) = (log_key(group, self.run_of(first)?), log_key(group, last.next()));
        let corrupt = move |index: Index, reason: String| StorageError::Corrupt { group, index, reason };
        let mut due = first;
        let runs = store.range(Space::Log, &start, &end).map(move |record| {
            let (_, record) = record?;
            let mut run = codec::decode_run(&record).map_err(|e| corrupt(due, e.to_string()))?;
            run.retain(|entry| entry.position.index >= first && entry.position.index <= last);
            for entry in &run {
                if entry.position.index != due {
                    return Err(corrupt(due, "missing".into()));
                }
                due = due.next();
            }
            Ok(run)
        });
        Ok(runs.flat_map(|run| match run {
            Ok(run) => run.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }))
    }

    /// The run that holds an entry.
    fn run_of(&self, index: Index) -> Result<Index, StorageError> {
        let behind = self.runs.partition_point(|first| *first <= index);
        let run = behind.checked_sub(1).and_then(|at| self.runs.get(at));
        run.copied().ok_or_else(|| self.corrupt(index, "missing"))
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

/// A log on its way in.
struct Reading {
    log: Log,
    base: Index,
    before: LogPosition,
    time: ReplicatedTime,
    entries: Vec<Entry>,
}

impl Reading {
    /// Takes in the next run that reaches beyond the base.
    fn take(&mut self, first: Index, record: &Bytes) -> Result<(), StorageError> {
        let due = self.before.index.next();
        // Only the first run may begin before the base.
        if first > due || (first < due && !self.entries.is_empty()) {
            return Err(self.log.corrupt(due, "missing"));
        }
        let run = codec::decode_run(record).map_err(|e| self.log.corrupt(due, e))?;
        if run.first().map(|entry| entry.position.index) != Some(first) {
            return Err(self.log.corrupt(due, "out of order"));
        }
        for entry in run.into_iter().filter(|entry| entry.position.index > self.base) {
            let due = self.before.index.next();
            if entry.position.index != due || entry.position.epoch < self.before.epoch || entry.time < self.time {
                return Err(self.log.corrupt(due, "out of order"));
            }
            (self.before, self.time) = (entry.position, entry.time);
            self.entries.push(entry);
        }
        Ok(())
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
