//! A bank: transfers between accounts, statements over all of them. Money is neither made nor lost, every transfer happens
//! wholly or not at all, and never twice.
//!
//! Source: the bank workload of Jepsen; DESIGN section 7. A statement is one read-only transaction, so it has to be
//! explained by the acknowledged ledger: the opening balances, every transfer that was acknowledged before the statement
//! began, and of those that were open during it, or whose outcome is unknown, some choice, each wholly. Then the total is
//! right of itself. An unknown transfer counts from the first statement that cannot be explained without it; from then
//! on it must be there. A failed one must never be. The last statement of a run, taken when all is quiet, shows what
//! was lost or done twice.
//!
//! Weaker than [`serializability`](crate::serializability), which judges orders: statements are judged one by one but for what
//! they settle, and of transfers that were open during a statement a later one may be chosen without an earlier one.
//! Nobody is accused wrongly. Stronger in that it sees balances as an application does.

mod choice;
mod ledger;

#[cfg(test)]
mod tests;

pub use ledger::{Account, BankLog, BankOperation, Call, Ledger, TransferTicket};

use crate::transactions::TransactionOutcome;
use crate::violation::Violation;
use choice::{Choice, Move, choose};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

/// Decisions that may be tried for one statement before it counts as undecided.
const BUDGET: u64 = 200_000;
/// The same where only a better name or more knowledge is sought.
const SMALL_BUDGET: u64 = 1_000;
/// Undecided statements after which the next ones get a small budget.
const PATIENCE: usize = 10;
/// Transfers that are tried as the culprit of a statement, the newest first.
const SUSPECTS: usize = 500;
/// Violations that are explained; one lost transfer makes every later statement one.
const EXPLAINED: usize = 10;
/// Accounts named in an explanation.
const NAMED: usize = 4;

/// What was found, with the number of chances there were to find it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Statements judged.
    pub statements: usize,
    /// Acknowledged transfers.
    pub transfers: usize,
    /// Transfers without a known outcome that some statement shows to have happened.
    pub observed_unknown: usize,
    /// The most transfers that a statement could choose from.
    pub open_at_most: usize,
    /// Statements that nothing explains, the first of them.
    pub violations: Vec<Violation>,
    /// Further such statements.
    pub more: usize,
    /// Statements about which nothing was decided.
    pub undecided: Vec<String>,
}

/// Judges every statement.
#[must_use]
pub fn check(ledger: &Ledger) -> Report {
    let mut judge = Judge::new(ledger);
    for (place, operation) in ledger.operations().iter().enumerate() {
        if let (Call::Statement { balances }, Some(end)) = (&operation.call, operation.returned) {
            judge.statement(place, operation.invoked, end, balances);
        }
    }
    judge.report
}

struct Judge<'a> {
    ledger: &'a Ledger,
    /// Balances after all transfers that are settled.
    settled: Vec<i128>,
    /// Those that are not, by begin and place; failed ones are not in it.
    open: BTreeMap<(u64, usize), Move>,
    /// When a transfer is known to have happened: acknowledged, or shown by a statement.
    known: BinaryHeap<Reverse<(u64, usize)>>,
    /// Those without a known outcome that statements have shown.
    shown: HashSet<usize>,
    report: Report,
}

impl<'a> Judge<'a> {
    fn new(ledger: &'a Ledger) -> Self {
        let mut judge = Judge {
            ledger,
            settled: ledger.accounts().iter().map(|a| i128::from(a.opening)).collect(),
            open: BTreeMap::new(),
            known: BinaryHeap::new(),
            shown: HashSet::new(),
            report: Report::default(),
        };
        for (place, operation) in ledger.operations().iter().enumerate() {
            let Some((one, outcome)) = transfer(operation) else {
                continue;
            };
            if outcome == TransactionOutcome::Committed {
                judge.report.transfers += 1;
                judge.known.extend(operation.returned.map(|end| Reverse((end, place))));
            }
            // One from an account to itself changes nothing.
            if outcome != TransactionOutcome::Failed && one.from != one.to {
                judge.open.insert((operation.invoked, place), one);
            }
        }
        judge
    }

    fn statement(&mut self, place: usize, begin: u64, end: u64, balances: &[Option<i64>]) {
        self.report.statements += 1;
        self.settle(begin);
        if let Some(why) = self.incomplete(balances) {
            return self.violation("missing account", vec![place], format!("#{place} {why}"));
        }
        let seen = balances.iter().flatten().map(|balance| i128::from(*balance));
        let difference: Vec<i128> = seen.zip(&self.settled).map(|(seen, settled)| seen - settled).collect();
        let (places, moves): (Vec<usize>, Vec<Move>) = self
            .open
            .range(..=(end, usize::MAX))
            .map(|((_, place), one)| (*place, *one))
            .unzip();
        self.report.open_at_most = self.report.open_at_most.max(moves.len());
        // Where many statements cannot be decided, more patience with the next one is wasted.
        let budget = if self.report.undecided.len() < PATIENCE {
            BUDGET
        } else {
            SMALL_BUDGET
        };
        match choose(&difference, &moves, budget) {
            Choice::Made(chosen) => self.learn(end, &difference, &places, &moves, &chosen),
            Choice::Impossible => self.unexplained(place, &difference, &moves),
            Choice::Undecided => self.report.undecided.push(format!(
                "statement #{place}: no decision within {budget} steps, {} transfers open",
                moves.len()
            )),
        }
    }

    /// Takes in all transfers known to have happened before `begin`.
    fn settle(&mut self, begin: u64) {
        while let Some(&Reverse((when, place))) = self.known.peek() {
            if when >= begin {
                break;
            }
            self.known.pop();
            let key = (self.ledger.operations()[place].invoked, place);
            // It may have been shown by a statement before it was acknowledged.
            if let Some(one) = self.open.remove(&key) {
                self.settled[one.from] -= one.amount;
                self.settled[one.to] += one.amount;
            }
        }
    }

    fn incomplete(&self, balances: &[Option<i64>]) -> Option<String> {
        let accounts = self.ledger.accounts().len();
        if balances.len() != accounts {
            return Some(format!("shows {} accounts of {accounts}", balances.len()));
        }
        let missing = balances.iter().position(Option::is_none)?;
        Some(format!("shows no balance of {}", self.ledger.name(missing)))
    }

    /// What a statement shows that cannot be explained without a transfer, has happened before its end.
    fn learn(&mut self, end: u64, difference: &[i128], places: &[usize], moves: &[Move], chosen: &[usize]) {
        for &n in chosen {
            let others: Vec<Move> = moves
                .iter()
                .enumerate()
                .filter(|(m, _)| *m != n)
                .map(|(_, one)| *one)
                .collect();
            if choose(difference, &others, SMALL_BUDGET) != Choice::Impossible {
                continue;
            }
            self.known.push(Reverse((end, places[n])));
            let is_unknown = self.ledger.operations()[places[n]].returned.is_none();
            let is_news = is_unknown && self.shown.insert(places[n]);
            self.report.observed_unknown += usize::from(is_news);
        }
    }

    fn unexplained(&mut self, place: usize, difference: &[i128], moves: &[Move]) {
        if self.report.violations.len() >= EXPLAINED {
            self.report.more += 1;
            return;
        }
        let off = difference.iter().enumerate().filter(|(_, off)| **off != 0);
        let mut named: Vec<String> = off
            .map(|(a, off)| format!("{} by {off:+}", self.ledger.name(a)))
            .collect();
        let accounts = named.len();
        named.truncate(NAMED);
        if accounts > NAMED {
            named.push(format!("{} more", accounts - NAMED));
        }
        let total: i128 = difference.iter().sum();
        let facts = format!(
            "the total is off by {total:+}; against what was acknowledged before it, {}; no choice of the {} transfers open \
             then makes that up",
            named.join(", "),
            moves.len()
        );
        match self.culprit(place, difference, moves) {
            Some((property, culprit, what)) => {
                let why = format!("#{place} reads as if transfer #{culprit} had been {what}: {facts}");
                self.violation(property, vec![place, culprit], why);
            }
            None if total != 0 => self.violation("wrong total", vec![place], format!("#{place}: {facts}")),
            None => self.violation("unexplained balances", vec![place], format!("#{place}: {facts}")),
        }
    }

    /// The one transfer with which, done otherwise than it should be, the statement could be explained.
    fn culprit(
        &self,
        place: usize,
        difference: &[i128],
        moves: &[Move],
    ) -> Option<(&'static str, usize, &'static str)> {
        let operations = self.ledger.operations();
        let end = operations[place].returned;
        let newest_first = operations
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, o)| Some(o.invoked) <= end);
        let transfers = newest_first.filter_map(|(place, o)| transfer(o).map(|(one, outcome)| (place, one, outcome)));
        let suspects = transfers.filter(|(_, one, _)| one.from != one.to).take(SUSPECTS);
        for (suspect, one, outcome) in suspects {
            let is_open = self.open.contains_key(&(operations[suspect].invoked, suspect));
            for &(property, what, source, destination) in ways_to_go_wrong(is_open, outcome) {
                let mut otherwise = difference.to_vec();
                otherwise[one.from] -= source * one.amount;
                otherwise[one.to] -= destination * one.amount;
                if matches!(choose(&otherwise, moves, SMALL_BUDGET), Choice::Made(_)) {
                    return Some((property, suspect, what));
                }
            }
        }
        None
    }

    fn violation(&mut self, property: &'static str, places: Vec<usize>, why: String) {
        match self.report.violations.len() < EXPLAINED {
            true => self.report.violations.push(Violation::new(property, places, why)),
            false => self.report.more += 1,
        }
    }
}

/// Name, words, and by how many times its amount source and destination would differ from what they should be.
type WayToGoWrong = (&'static str, &'static str, i128, i128);

const fn ways_to_go_wrong(is_open: bool, outcome: TransactionOutcome) -> &'static [WayToGoWrong] {
    match (is_open, outcome) {
        (_, TransactionOutcome::Failed) => &[
            ("failed transfer applied", "done, though it failed", -1, 1),
            ("half a transfer", "half done, though it failed", -1, 0),
            ("half a transfer", "half done, though it failed", 0, 1),
        ],
        (true, _) => &[
            ("repeated transfer", "done twice", -2, 2),
            ("half a transfer", "done without its second half", -1, 0),
            ("half a transfer", "done without its first half", 0, 1),
        ],
        (false, _) => &[
            ("lost transfer", "lost", 1, -1),
            ("repeated transfer", "done twice", -1, 1),
            ("half a transfer", "done without its first half", 1, 0),
            ("half a transfer", "done without its second half", 0, -1),
        ],
    }
}

fn transfer(operation: &BankOperation) -> Option<(Move, TransactionOutcome)> {
    match operation.call {
        Call::Transfer {
            from,
            to,
            amount,
            outcome,
        } => {
            let amount = i128::from(amount);
            Some((Move { from, to, amount }, outcome))
        }
        Call::Statement { .. } => None,
    }
}
