//! Transactions over any keys behave as if they had run one after the other, in an order that real time allows: strict
//! serializability.
//!
//! Source: Adya, *Weak Consistency* (1999), for the anomalies; Kingsbury and Alvaro, *Elle* (2020), for inferring who came
//! before whom from list-append histories. The order of a key's appends is read off its longest list; edges ww (appended
//! after), wr (read it) and rw (read without it) follow; a serial order exists exactly if they have no cycle, also none
//! that real time closes. What a list alone shows to be wrong is found before that.
//!
//! Which transactions count: acknowledged ones; unknown ones only if one that counts has read from them, for else
//! nothing says that they have happened; failed ones never, and their elements must not be seen. What unknown
//! transactions that count have read is judged, too: they committed with it. What failed ones read is not.
//!
//! The verdict is exact (a brute-force twin agrees in tests) and its cost linear but for one sort. The name of a cycle is
//! the plainest that a bounded search finds. One cycle of each tangle is shown, and ten violations of each anomaly.
//! Left out: predicates (phantoms), and the order of one client's transactions beyond real time.
//!
//! ```
//! use bytes::Bytes;
//! use fulcrum_checker::{Element, Step, TransactionKey, TransactionLog, TransactionHistory, TransactionOutcome, serializability};
//! use fulcrum_types::{ClientId, KeyspaceId};
//!
//! let key = TransactionKey { keyspace: KeyspaceId(1), key: Bytes::from_static(b"x") };
//! let mut log = TransactionLog::new(ClientId(1));
//! let append = log.begin(10);
//! log.step(&append, Step::Append { key: key.clone(), element: Element(1) });
//! log.end(append, 20, TransactionOutcome::Committed);
//! let read = log.begin(30);
//! log.step(&read, Step::Read { key, seen: vec![] });
//! log.end(read, 40, TransactionOutcome::Committed);
//!
//! let history = TransactionHistory::merge([log]);
//! let report = serializability::check(&history);
//! assert_eq!(report.violations[0].property, "lost append");
//! println!("{}", history.describe(&report.violations[0]));
//! ```

mod anomaly;
mod cycles;
mod explain;
mod findings;
mod graph;
mod order;
mod views;

#[cfg(test)]
mod anomalies;
#[cfg(test)]
mod brute_force;
#[cfg(test)]
mod random;

pub use anomaly::Anomaly;

use crate::transactions::{TransactionHistory, TransactionOutcome};
use crate::violation::Violation;
use findings::Findings;
use graph::Graph;
use std::collections::BTreeMap;
use views::Views;

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is a serial order that real time allows.
    Serializable,
    /// There is none.
    Violation(Violation),
    /// Neither was shown. Not a pass.
    Undecided {
        /// What stood in the way.
        why: String,
    },
}

/// What was found out, with the number of chances there were to find it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Transactions judged: acknowledged, or unknown and observed.
    pub transactions: usize,
    /// Of those, unknown ones that were observed.
    pub observed_unknown: usize,
    /// Transactions judged that touched several keys.
    pub several_keys: usize,
    /// Keys touched.
    pub keys: usize,
    /// Lists read, each counted once a transaction.
    pub reads: usize,
    /// Elements appended by transactions judged.
    pub appends: usize,
    /// Dependencies between transactions.
    pub edges: usize,
    /// What is wrong: the plainest of each tangle, a bounded number of each anomaly.
    pub violations: Vec<Violation>,
    /// All that was found, also what is not in `violations`.
    pub counts: BTreeMap<Anomaly, usize>,
    /// Keys about which nothing can be told, because the workload appended an element twice.
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
            None => Verdict::Serializable,
        }
    }
}

/// Judges the whole history. All lists are empty at its beginning.
#[must_use]
pub fn check(history: &TransactionHistory) -> Report {
    let transactions = history.transactions();
    let mut findings = Findings::default();
    let views = Views::of(transactions, &mut findings);
    let orders = order::orders(&views, &mut findings);
    let graph = Graph::of(transactions.len(), &orders);
    let found = cycles::find(&graph, transactions);
    for cycle in &found.cycles {
        let (anomaly, places, why) = explain::explain(cycle, &views, &orders);
        findings.add(anomaly, places, why);
    }
    if found.more_late > 0 {
        *findings.counts.entry(Anomaly::RealTime).or_default() += found.more_late;
    }
    let mut report = Report {
        keys: views.keys.len(),
        edges: graph.edges.len(),
        violations: findings.violations,
        counts: findings.counts,
        undecided: findings.undecided,
        ..Report::default()
    };
    let judged = transactions.iter().zip(&views.touches).zip(&views.committed);
    for ((transaction, touches), _) in judged.filter(|(_, committed)| **committed) {
        report.transactions += 1;
        report.observed_unknown += usize::from(transaction.outcome == TransactionOutcome::Unknown);
        report.several_keys += usize::from(touches.len() > 1);
        report.reads += touches.iter().filter(|t| t.read.is_some()).count();
        report.appends += touches.iter().map(|t| t.appended.len()).sum::<usize>();
    }
    report
}
