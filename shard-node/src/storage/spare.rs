//! Log records that replication no longer needs, kept a while longer for watches that lag.
//!
//! Nothing is kept so unless somebody asks ([`Spare::keep`]): then about so many bytes behind the base of the log. They lie on
//! disk only. How many bytes lie where is known by marks that are set while entries are appended, so that letting go needs no
//! look at the records; a bounded number goes at a time.

use fulcrum_types::{Entry, Index};
use std::collections::VecDeque;

/// Bytes between two marks, about.
const MARK_BYTES: u64 = 64 * 1024;
/// Records let go with a compaction beside as many as it compacts.
const MORE_AT_A_TIME: u64 = 4_096;

/// What is kept behind a log's base.
#[derive(Debug)]
pub(super) struct Spare {
    kept_after: Index,
    /// Bytes appended through an entry, since the log was opened. In order.
    marks: VecDeque<(Index, u64)>,
    appended: u64,
    most: u64,
}

impl Spare {
    /// Of a log as it was opened, with records behind `kept_after`.
    pub(super) fn new(kept_after: Index, base: Index, log: &[Entry]) -> Self {
        let mut spare = Spare {
            kept_after,
            marks: VecDeque::from([(base, 0)]),
            appended: 0,
            most: 0,
        };
        for entry in log {
            spare.append(entry);
        }
        spare
    }

    pub(super) fn kept_after(&self) -> Index {
        self.kept_after
    }

    /// From now on so many bytes are kept, about.
    pub(super) fn keep(&mut self, bytes: usize) {
        self.most = bytes as u64;
    }

    pub(super) fn append(&mut self, entry: &Entry) {
        self.appended += entry.size() as u64;
        let marked = self.marks.back().map_or(0, |(_, bytes)| *bytes);
        if self.appended >= marked + MARK_BYTES {
            self.marks.push_back((entry.position.index, self.appended));
        }
    }

    /// Entries from this index on are gone.
    pub(super) fn truncate(&mut self, from: Index) {
        while self.marks.back().is_some_and(|(index, _)| *index >= from) {
            self.marks.pop_back();
        }
        self.appended = self.marks.back().map_or(0, |(_, bytes)| *bytes);
    }

    /// The log was compacted from one base to the next: through where records go now.
    pub(super) fn let_go(&mut self, was: Index, base: Index) -> Index {
        let at_once = base.0 - was.0 + MORE_AT_A_TIME;
        let through = self.surplus(base).min(Index(self.kept_after.0 + at_once));
        self.kept_after = self.kept_after.max(through);
        while self.marks.get(1).is_some_and(|(index, _)| *index <= self.kept_after) {
            self.marks.pop_front();
        }
        self.kept_after
    }

    /// Through where there is more than is to be kept.
    fn surplus(&self, base: Index) -> Index {
        if self.most == 0 {
            return base;
        }
        let through = |wanted: &dyn Fn(&(Index, u64)) -> bool| {
            let after = self.marks.iter().take_while(|mark| wanted(mark)).count();
            after.checked_sub(1).map(|at| self.marks[at])
        };
        let behind_base = through(&|(index, _)| *index <= base).map_or(0, |(_, bytes)| bytes);
        let Some(limit) = behind_base.checked_sub(self.most) else {
            return Index::ZERO;
        };
        through(&|(_, bytes)| *bytes <= limit).map_or(Index::ZERO, |(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{Epoch, LogPosition, Payload, ReplicatedTime};

    fn entry(index: u64) -> Entry {
        Entry {
            position: LogPosition {
                epoch: Epoch(1),
                index: Index(index),
            },
            time: ReplicatedTime(0),
            payload: Payload::Command(vec![0; 32 * 1024 - 32].into()),
        }
    }

    fn appended(entries: u64) -> Spare {
        let log: Vec<Entry> = (1..=entries).map(entry).collect();
        Spare::new(Index::ZERO, Index::ZERO, &log)
    }

    #[test]
    fn without_watches_nothing_is_kept() {
        let mut spare = appended(100);
        assert_eq!(spare.let_go(Index(0), Index(40)), Index(40));
        assert_eq!(spare.let_go(Index(40), Index(70)), Index(70));
    }

    #[test]
    fn about_as_much_is_kept_as_was_asked_for() {
        let mut spare = appended(100);
        spare.keep(1024 * 1024);
        assert_eq!(spare.let_go(Index(0), Index(20)), Index(0), "not that much yet");
        assert_eq!(
            spare.let_go(Index(20), Index(60)),
            Index(28),
            "32 entries are a mebibyte"
        );
        assert_eq!(spare.let_go(Index(60), Index(61)), Index(28));
        spare.keep(0);
        assert_eq!(spare.let_go(Index(61), Index(62)), Index(62));
    }

    #[test]
    fn what_an_earlier_life_kept_goes_step_by_step() {
        let mut spare = Spare::new(Index(0), Index(10_000), &[]);
        assert_eq!(spare.let_go(Index(10_000), Index(10_010)), Index(4_106));
        assert_eq!(spare.let_go(Index(10_010), Index(10_020)), Index(8_212));
        assert_eq!(spare.let_go(Index(10_020), Index(10_030)), Index(10_030));
    }

    #[test]
    fn truncated_entries_do_not_count() {
        let mut spare = appended(100);
        spare.truncate(Index(51));
        for index in 51..=60 {
            spare.append(&entry(index));
        }
        spare.keep(1024 * 1024);
        assert_eq!(spare.let_go(Index(0), Index(60)), Index(28));
    }
}
