//! What each transaction did to each key, seen from outside, and which of them count.
//!
//! Inside a transaction a read sees its own appends. Taken away, they leave its *external* read: the list as it was
//! before the transaction. A serial order has to explain external reads and appends, nothing else.

use super::anomaly::Anomaly;
use super::findings::Findings;
use crate::transactions::{Element, List, Step, Transaction, TransactionKey, TransactionOutcome};
use std::collections::{HashMap, HashSet};

/// One transaction on one key.
#[derive(Debug)]
pub(super) struct Touch<'a> {
    pub(super) key: usize,
    /// What it appended, in its order.
    pub(super) appended: Vec<Element>,
    /// The list before it, if it was read.
    pub(super) read: Option<&'a [Element]>,
    /// What it got wrong about itself.
    inconsistency: Option<String>,
}

/// The history by transaction and key.
#[derive(Debug)]
pub(super) struct Views<'a> {
    pub(super) keys: Vec<&'a TransactionKey>,
    /// For each transaction, each key that it touched.
    pub(super) touches: Vec<Vec<Touch<'a>>>,
    /// Who appended an element to a key, whatever became of it.
    pub(super) writers: HashMap<(usize, Element), usize>,
    /// Whether it has taken effect: acknowledged, or observed by one that has.
    pub(super) committed: Vec<bool>,
    /// Keys to which the workload appended an element twice: nothing can be told about them.
    pub(super) ambiguous: HashSet<usize>,
}

impl<'a> Views<'a> {
    pub(super) fn of(transactions: &'a [Transaction], findings: &mut Findings) -> Self {
        let mut numbers: HashMap<&TransactionKey, usize> = HashMap::new();
        let mut views = Views {
            keys: Vec::new(),
            touches: Vec::with_capacity(transactions.len()),
            writers: HashMap::new(),
            committed: Vec::new(),
            ambiguous: HashSet::new(),
        };
        for (place, transaction) in transactions.iter().enumerate() {
            let touches = touches(&transaction.steps, |key| {
                let number = *numbers.entry(key).or_insert(views.keys.len());
                if number == views.keys.len() {
                    views.keys.push(key);
                }
                number
            });
            for touch in &touches {
                for &element in &touch.appended {
                    let Some(other) = views.writers.insert((touch.key, element), place) else {
                        continue;
                    };
                    if views.ambiguous.insert(touch.key) {
                        let key = views.keys[touch.key];
                        let why = format!("key {key}: {element} was appended by #{other} and again by #{place}");
                        findings.undecided.push(why);
                    }
                }
            }
            views.touches.push(touches);
        }
        views.settle_unknown(transactions);
        views.judge_each_alone(findings);
        views
    }

    /// An unknown transaction has taken effect if one that has taken effect has read from it.
    fn settle_unknown(&mut self, transactions: &[Transaction]) {
        let acknowledged = |t: &Transaction| t.outcome == TransactionOutcome::Committed;
        self.committed = transactions.iter().map(acknowledged).collect();
        let mut open: Vec<usize> = (0..transactions.len()).filter(|&t| self.committed[t]).collect();
        // The longest list of each key whose elements have been looked at: most lists are a beginning of it.
        let mut looked_at: Vec<&[Element]> = vec![&[]; self.keys.len()];
        while let Some(reader) = open.pop() {
            for touch in &self.touches[reader] {
                let list = touch.read.unwrap_or(&[]);
                let known = &mut looked_at[touch.key];
                if known.starts_with(list) || self.ambiguous.contains(&touch.key) {
                    continue;
                }
                let news = list.strip_prefix(*known).unwrap_or(list);
                for element in news {
                    let Some(&writer) = self.writers.get(&(touch.key, *element)) else {
                        continue;
                    };
                    if !self.committed[writer] && transactions[writer].outcome == TransactionOutcome::Unknown {
                        self.committed[writer] = true;
                        open.push(writer);
                    }
                }
                if known.len() < list.len() {
                    *known = list;
                }
            }
        }
    }

    /// Reports what transactions got wrong about themselves, and leaves those reads out.
    fn judge_each_alone(&mut self, findings: &mut Findings) {
        for (place, touches) in self.touches.iter_mut().enumerate() {
            if !self.committed[place] {
                continue;
            }
            for touch in touches {
                let early = touch
                    .read
                    .and_then(|list| touch.appended.iter().find(|e| list.contains(e)));
                if let Some(element) = early {
                    let why = format!("#{place} read {element} before it appended it");
                    touch.inconsistency.get_or_insert(why);
                }
                if let Some(why) = touch.inconsistency.take() {
                    touch.read = None;
                    findings.on_key(Anomaly::Internal, self.keys[touch.key], vec![place], why);
                }
            }
        }
    }
}

fn touches<'a>(steps: &'a [Step], mut number: impl FnMut(&'a TransactionKey) -> usize) -> Vec<Touch<'a>> {
    let mut touches: Vec<Touch<'a>> = Vec::new();
    for step in steps {
        let key = number(step.key());
        let at = touches.iter().position(|t| t.key == key).unwrap_or(touches.len());
        if at == touches.len() {
            touches.push(Touch {
                key,
                appended: Vec::new(),
                read: None,
                inconsistency: None,
            });
        }
        let touch = &mut touches[at];
        match step {
            Step::Append { element, .. } => touch.appended.push(*element),
            Step::Read { seen, .. } => touch.see(seen),
        }
    }
    touches
}

impl<'a> Touch<'a> {
    fn see(&mut self, seen: &'a [Element]) {
        let own = List(&self.appended);
        let Some(outside) = seen.strip_suffix(self.appended.as_slice()) else {
            let why = format!("read {}, which does not end with its own {own}", List(seen));
            self.inconsistency.get_or_insert(why);
            return;
        };
        match self.read {
            Some(before) if before != outside => {
                let why = format!("read {} and later {}", List(before), List(outside));
                self.inconsistency.get_or_insert(why);
            }
            _ => self.read = Some(outside),
        }
    }
}
