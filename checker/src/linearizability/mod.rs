//! Each key behaves as one register: every operation takes effect at one instant between its begin and its end.
//!
//! Source: Herlihy and Wing, *Linearizability* (1990), which also shows that keys may be judged one by one; the search
//! follows Lowe, *Testing for linearizability* (2017). Versions are part of the object (`register`), and they are what
//! makes histories of any length easy: acknowledged writes have only one order left, and the search verifies that the
//! order is legal, in real time and for every answer. Without versions it is the general, exponential problem, and the
//! answer may be [`Verdict::Undecided`].
//!
//! Judged are all writes and compare-and-sets, and reads at level `linearizable`. A write without a known outcome may
//! take effect at any time after its begin, also after everything else, or never. A failed one never does.

mod prepare;
mod register;
mod search;

#[cfg(test)]
mod brute_force;
#[cfg(test)]
mod tests;

use crate::history::{History, Operation, Seen, ValueId};
use crate::violation::Violation;
use bytes::Bytes;
use fulcrum_types::Index;
use prepare::{SharedVersion, prepare};
use register::State;
use search::{Ending, Stuck, search};
use std::fmt;

/// Configurations that may be tried for one key before it counts as undecided.
pub const BUDGET: u64 = 2_000_000;

/// Operations beside the culprit that an explanation names.
const NAMED: usize = 12;

const PROPERTY: &str = "linearizability";

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every key is linearizable.
    Linearizable,
    /// Some key is not.
    Violation(Violation),
    /// Neither was shown. Not a pass.
    Undecided {
        /// Which key, and what stood in the way.
        why: String,
    },
}

/// What was found out, with the number of chances there were to find it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Keys judged.
    pub keys: usize,
    /// Operations judged.
    pub operations: usize,
    /// Keys that are not linearizable: one violation each.
    pub violations: Vec<Violation>,
    /// Keys on which the budget ran out, and where.
    pub undecided: Vec<String>,
}

impl Report {
    /// The report in one word; a violation counts more than a missing decision.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if let Some(violation) = self.violations.first() {
            return Verdict::Violation(violation.clone());
        }
        match self.undecided.first() {
            Some(why) => Verdict::Undecided { why: why.clone() },
            None => Verdict::Linearizable,
        }
    }
}

/// Judges every key of the history. Keys have no value at its beginning.
#[must_use]
pub fn check(history: &History) -> Report {
    check_within(history, BUDGET)
}

/// As [`check`], trying at most `budget` configurations for each key.
#[must_use]
pub fn check_within(history: &History, budget: u64) -> Report {
    let mut report = Report::default();
    for (key, places) in history.by_key() {
        report.keys += 1;
        check_key(history.operations(), key, &places, budget, &mut report);
    }
    report
}

fn check_key(operations: &[Operation], key: &Bytes, places: &[usize], budget: u64, report: &mut Report) {
    let prepared = match prepare(operations, places) {
        Ok(prepared) => prepared,
        Err(shared) => return report.violations.push(explain_shared(&shared, key)),
    };
    report.operations += prepared.ops.len();
    match search(&prepared, budget) {
        Ending::Explained => {}
        Ending::Stuck(stuck) => report.violations.push(explain(operations, key, places, &stuck)),
        Ending::Exhausted { place } => report.undecided.push(format!(
            "key {}: no decision within {budget} configurations, at operation #{place} {}",
            key.escape_ascii(),
            operations[place]
        )),
    }
}

fn explain_shared(SharedVersion(first, second, version): &SharedVersion, key: &Bytes) -> Violation {
    let why = format!("two writes were told the same version {version}");
    Violation::new(PROPERTY, vec![*first, *second], why).on_key(key)
}

/// Names the operation that does not fit, what the register could have held, who wrote that, and what else was open.
fn explain(operations: &[Operation], key: &Bytes, places: &[usize], stuck: &Stuck) -> Violation {
    let culprit = &operations[stuck.place];
    let held: Vec<String> = stuck.before.iter().take(NAMED).map(ToString::to_string).collect();
    let why = format!(
        "no order of the {} operations open at {} explains #{} {culprit}; before it the register held {}",
        stuck.open.len() + 1,
        culprit.returned.unwrap_or(u64::MAX),
        stuck.place,
        held.join(", or "),
    );
    let writers = places.iter().copied().filter(|&p| {
        let operation = &operations[p];
        let Some(written) = operation.call.writes() else {
            return false;
        };
        let left_it = |s: &State| s.value == written && s.version == operation.written_version();
        let was_read = written.is_some() && written == culprit.seen().and_then(value_of);
        was_read || written.is_some() && stuck.before.iter().any(left_it)
    });
    let mut named: Vec<usize> = writers.chain(stuck.open.iter().copied()).collect();
    named.retain(|&place| place != stuck.place);
    named.sort_unstable();
    named.dedup();
    named.truncate(NAMED);
    named.insert(0, stuck.place);
    Violation::new(PROPERTY, named, why).on_key(key)
}

fn value_of(seen: Seen) -> Option<ValueId> {
    match seen {
        Seen::Absent => None,
        Seen::Present { value, .. } => Some(value),
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.value, self.version) {
            (None, _) => write!(f, "nothing")?,
            (Some(value), Some(version)) => write!(f, "{value} at {version}")?,
            (Some(value), None) => write!(f, "{value} at a version not yet told")?,
        }
        match self.floor > Index::ZERO {
            true => write!(f, " (versions up to {} used)", self.floor),
            false => Ok(()),
        }
    }
}
