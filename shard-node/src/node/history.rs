//! Which epoch each entry of a log belongs to, also of those compacted away: the table of epoch starts (rule 8).

use fulcrum_types::{Entry, Epoch, Index, LogPosition};

/// First index of each epoch, in order, and the end of the log.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    starts: Vec<(Epoch, Index)>,
    last: Index,
}

impl History {
    /// The history of a log: `starts` of what came before, then the retained entries.
    pub(super) fn new(starts: &[(Epoch, Index)], base: LogPosition, log: &[Entry]) -> Self {
        let mut history = Self {
            starts: starts.to_vec(),
            last: base.index,
        };
        history.truncate(base.index.next());
        history.last = base.index;
        if history.epoch_of(base.index) != base.epoch && base.index > Index::ZERO {
            history.starts.push((base.epoch, base.index));
        }
        history.append(log);
        history
    }

    pub(super) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            let LogPosition { epoch, index } = entry.position;
            if self.starts.last().is_none_or(|(last, _)| *last < epoch) {
                self.starts.push((epoch, index));
            }
            self.last = index;
        }
    }

    /// Entries from this index on are gone.
    pub(super) fn truncate(&mut self, from: Index) {
        while self.starts.last().is_some_and(|(_, start)| *start >= from) {
            self.starts.pop();
        }
        self.last = self.last.min(from.prev());
    }

    /// A snapshot took the place of the log.
    pub(super) fn replace(&mut self, starts: &[(Epoch, Index)], position: LogPosition) {
        *self = Self::new(starts, position, &[]);
    }

    /// The last index.
    pub(super) fn last(&self) -> Index {
        self.last
    }

    /// The epoch in which an entry was ordered; zero if there is none such.
    pub(super) fn epoch_of(&self, index: Index) -> Epoch {
        if index > self.last {
            return Epoch::ZERO;
        }
        let after = self.starts.partition_point(|(_, start)| *start <= index);
        after.checked_sub(1).map_or(Epoch::ZERO, |at| self.starts[at].0)
    }

    /// Whether this history holds that position.
    pub(super) fn holds(&self, seen: LogPosition) -> bool {
        seen.index == Index::ZERO || self.epoch_of(seen.index) == seen.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{Payload, ReplicatedTime};

    fn at(epoch: u64, index: u64) -> LogPosition {
        LogPosition {
            epoch: Epoch(epoch),
            index: Index(index),
        }
    }

    fn entries(positions: &[(u64, u64)]) -> Vec<Entry> {
        positions
            .iter()
            .map(|(e, i)| Entry {
                position: at(*e, *i),
                time: ReplicatedTime(0),
                payload: Payload::Noop,
            })
            .collect()
    }

    #[test]
    fn an_entry_belongs_to_the_epoch_that_ordered_it() {
        let mut history = History::new(&[], at(0, 0), &entries(&[(1, 1), (1, 2), (3, 3)]));
        assert!(history.holds(at(0, 0)) && history.holds(at(1, 2)) && history.holds(at(3, 3)));
        assert!(!history.holds(at(2, 3)) && !history.holds(at(3, 4)));
        history.truncate(Index(2));
        history.append(&entries(&[(4, 2)]));
        assert!(history.holds(at(1, 1)) && history.holds(at(4, 2)) && !history.holds(at(1, 2)));
    }

    #[test]
    fn compacted_entries_keep_their_epochs() {
        let starts = [(Epoch(1), Index(1)), (Epoch(2), Index(5)), (Epoch(4), Index(9))];
        let mut history = History::new(&starts, at(2, 7), &entries(&[(2, 8), (4, 9)]));
        assert!(history.holds(at(1, 4)) && history.holds(at(2, 8)) && history.holds(at(4, 9)));
        history.replace(&starts, at(4, 12));
        assert!(history.holds(at(4, 12)) && history.holds(at(2, 6)) && !history.holds(at(4, 13)));
    }
}
