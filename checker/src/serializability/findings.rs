//! Violations as they are found, so many of each anomaly, the rest counted.

use super::anomaly::Anomaly;
use crate::transactions::TransactionKey;
use crate::violation::Violation;
use std::collections::BTreeMap;

/// Violations of one anomaly that are explained; one bug makes thousands.
const EXPLAINED: usize = 10;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<Violation>,
    pub(super) counts: BTreeMap<Anomaly, usize>,
    pub(super) undecided: Vec<String>,
}

impl Findings {
    pub(super) fn add(&mut self, anomaly: Anomaly, places: Vec<usize>, why: String) {
        if self.count(anomaly) {
            self.violations.push(Violation::new(anomaly.name(), places, why));
        }
    }

    pub(super) fn on_key(&mut self, anomaly: Anomaly, key: &TransactionKey, places: Vec<usize>, why: String) {
        if self.count(anomaly) {
            let why = format!("{why} (keyspace {})", key.keyspace);
            let violation = Violation::new(anomaly.name(), places, why);
            self.violations.push(violation.on_key(&key.key));
        }
    }

    /// Counts one more, and says whether it is still to be explained.
    fn count(&mut self, anomaly: Anomaly) -> bool {
        let count = self.counts.entry(anomaly).or_default();
        *count += 1;
        *count <= EXPLAINED
    }
}
