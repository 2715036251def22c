//! The definition itself, for a handful of transactions: try every order of every subset that contains all acknowledged
//! ones. Shares nothing with the real checker.

use crate::transactions::{Element, Step, Transaction, TransactionKey, TransactionOutcome};
use std::collections::BTreeMap;

type Store = BTreeMap<TransactionKey, Vec<Element>>;

/// Whether some serial order explains all that acknowledged transactions, and unknown ones in it, have seen.
pub(super) fn is_strictly_serializable(transactions: &[Transaction]) -> bool {
    let counts = |t: &&Transaction| t.outcome != TransactionOutcome::Failed;
    let transactions: Vec<&Transaction> = transactions.iter().filter(counts).collect();
    extend(&transactions, &Store::new(), &mut vec![false; transactions.len()])
}

fn extend(transactions: &[&Transaction], store: &Store, used: &mut [bool]) -> bool {
    let missing = |i: usize, used: &[bool]| !used[i] && transactions[i].outcome == TransactionOutcome::Committed;
    if !(0..transactions.len()).any(|i| missing(i, used)) {
        return true;
    }
    for i in 0..transactions.len() {
        let overtakes = (0..transactions.len()).any(|j| !used[j] && transactions[j].precedes(transactions[i]));
        if used[i] || overtakes {
            continue;
        }
        let Some(after) = run(transactions[i], store) else {
            continue;
        };
        used[i] = true;
        if extend(transactions, &after, used) {
            return true;
        }
        used[i] = false;
    }
    false
}

/// The store after a transaction, if it can have seen there what it has seen.
fn run(transaction: &Transaction, store: &Store) -> Option<Store> {
    let mut store = store.clone();
    for step in &transaction.steps {
        let list = store.entry(step.key().clone()).or_default();
        match step {
            Step::Append { element, .. } => list.push(*element),
            Step::Read { seen, .. } if seen != list => return None,
            Step::Read { .. } => {}
        }
    }
    Some(store)
}
