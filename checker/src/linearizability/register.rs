//! The sequential object: a register whose writes have growing versions.
//!
//! A client is told a version with most answers, and versions are part of the promise: each write of a key has a
//! greater one than the write before it. What is not told stays open until an answer settles it.

use crate::history::{Condition, Seen, ValueId};
use fulcrum_types::Index;

/// The register between two operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State {
    /// What it holds.
    pub(super) value: Option<ValueId>,
    /// The version of what it holds, once told.
    pub(super) version: Option<Index>,
    /// The greatest version told so far.
    pub(super) floor: Index,
    /// How many of the ranked writes have taken effect.
    pub(super) rank: u32,
}

/// What an operation does to the register, seen from its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Action {
    /// Sees it and changes nothing: a read, or a compare-and-set whose condition did not hold.
    Observe {
        seen: Option<Seen>,
        refused: Option<Condition>,
    },
    /// Changes it.
    Write {
        condition: Option<Condition>,
        value: Option<ValueId>,
        version: Option<Index>,
        /// Its place among the key's writes by version, if that is known.
        rank: Option<u32>,
    },
}

/// What follows when an action takes effect in a state.
pub(super) enum Step {
    /// It cannot.
    Illegal,
    /// Nothing changes: it may as well take effect at once.
    Silent,
    /// The register changes, or more becomes known of it.
    Moves(State),
}

impl State {
    /// Lets `action` take effect. `ranked` are the versions of the ranked writes, in order.
    pub(super) fn step(self, action: &Action, ranked: &[Index]) -> Step {
        match *action {
            Action::Observe { seen, refused } => self.observe(seen, refused, ranked),
            Action::Write {
                condition,
                value,
                version,
                rank,
            } => {
                if rank.is_some_and(|rank| rank != self.rank) {
                    return Step::Illegal;
                }
                match self.require(condition, ranked) {
                    Some(state) => state.write(value, version),
                    None => Step::Illegal,
                }
            }
        }
    }

    fn observe(self, seen: Option<Seen>, refused: Option<Condition>, ranked: &[Index]) -> Step {
        let known = match seen {
            None => Some(self),
            Some(Seen::Absent) => Some(self).filter(|s| s.value.is_none()),
            Some(Seen::Present { value, version }) => Some(self)
                .filter(|s| s.value == Some(value))
                .and_then(|s| version.map_or(Some(s), |v| s.settle(v, ranked))),
        };
        match known {
            None => Step::Illegal,
            Some(state) if refused.is_some_and(|c| state.surely(c)) => Step::Illegal,
            Some(state) if state == self => Step::Silent,
            Some(state) => Step::Moves(state),
        }
    }

    fn write(self, value: Option<ValueId>, version: Option<Index>) -> Step {
        if version.is_some_and(|v| v <= self.floor) {
            return Step::Illegal;
        }
        Step::Moves(State {
            value,
            version: version.filter(|_| value.is_some()),
            floor: version.unwrap_or(self.floor),
            rank: self.rank + u32::from(version.is_some()),
        })
    }

    /// The state in which `condition` holds, which may settle an open version; none if it cannot hold.
    fn require(self, condition: Option<Condition>, ranked: &[Index]) -> Option<State> {
        match condition {
            None => Some(self),
            Some(Condition::Absent) => self.value.is_none().then_some(self),
            Some(Condition::Exists) => self.value.is_some().then_some(self),
            Some(Condition::ValueIs(value)) => (self.value == Some(value)).then_some(self),
            Some(Condition::VersionIs(version)) => self.value.and_then(|_| self.settle(version, ranked)),
        }
    }

    /// Whether `condition` holds whatever the open version is.
    fn surely(self, condition: Condition) -> bool {
        match condition {
            Condition::VersionIs(version) => self.value.is_some() && self.version == Some(version),
            other => self.require(Some(other), &[]).is_some(),
        }
    }

    /// The state, now that its version is known to be `version`; none if it cannot be.
    fn settle(self, version: Index, ranked: &[Index]) -> Option<State> {
        if let Some(known) = self.version {
            return (known == version).then_some(self);
        }
        let in_order = version > self.floor && ranked.get(self.rank as usize).is_none_or(|next| version < *next);
        in_order.then_some(State {
            version: Some(version),
            floor: version,
            ..self
        })
    }
}
