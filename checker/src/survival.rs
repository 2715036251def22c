//! Which entries are part of the history that survived.

use fulcrum_types::{Epoch, Index, LogPosition};
use std::collections::BTreeMap;

/// The log of a group as its last primary has it: where each epoch starts, and where the log ends.
///
/// An entry survived if its epoch still owns its index. After a loss another entry may stand at the same index, but in
/// a later epoch: positions, not indices, name entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurvivingLog {
    /// First index of each epoch that has entries in the log.
    pub starts: BTreeMap<Epoch, Index>,
    /// Last index.
    pub last: Index,
}

impl SurvivingLog {
    /// Whether the entry at `position` is in this log. Before the first entry there is nothing that could be missing.
    #[must_use]
    pub fn contains(&self, position: LogPosition) -> bool {
        let nothing = position.index == Index::ZERO;
        nothing || (position.index <= self.last && self.epoch_at(position.index) == Some(position.epoch))
    }

    /// The epoch that owns an index.
    #[must_use]
    pub fn epoch_at(&self, index: Index) -> Option<Epoch> {
        let mut owner = None;
        for (epoch, start) in &self.starts {
            if *start <= index {
                owner = Some(*epoch);
            }
        }
        owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, index: u64) -> LogPosition {
        LogPosition {
            epoch: Epoch(epoch),
            index: Index(index),
        }
    }

    #[test]
    fn an_epoch_owns_from_its_start_to_the_next_one() {
        let log = SurvivingLog {
            starts: [(Epoch(1), Index(1)), (Epoch(3), Index(10))].into(),
            last: Index(20),
        };
        assert!(log.contains(at(0, 0)), "nothing is in every log");
        assert!(log.contains(at(1, 9)));
        assert!(!log.contains(at(1, 10)), "overwritten by epoch 3");
        assert!(!log.contains(at(2, 9)), "no entry of epoch 2 is left");
        assert!(log.contains(at(3, 20)));
        assert!(!log.contains(at(3, 21)), "beyond the end");
    }
}
