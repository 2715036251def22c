//! Which of some transfers, each wholly or not at all, make up a given difference of balances?
//!
//! That is a subset sum in several dimensions: exponential in general, easy while few transfers are open. A budget bounds the
//! search, and "could not decide" is an answer of its own.

use std::collections::HashSet;

/// Sums of one account that are kept; beyond, the search has to do without.
const SUMS: usize = 20_000;

/// A transfer between two different accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) amount: i128,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// These do, by place.
    Made(Vec<usize>),
    /// No choice does.
    Impossible,
    /// The budget ran out.
    Undecided,
}

/// Searches for a choice of `moves` that changes each account by `difference`.
pub(super) fn choose(difference: &[i128], moves: &[Move], budget: u64) -> Choice {
    // Money is only moved: what is missing here has to be there.
    if difference.iter().sum::<i128>() != 0 {
        return Choice::Impossible;
    }
    let mut search = Search::new(difference, moves, budget);
    let open = (0..difference.len()).filter(|&account| difference[account] != 0);
    if open.into_iter().any(|account| !search.is_reachable(account)) {
        return Choice::Impossible;
    }
    match search.run() {
        Some(true) => Choice::Made((0..moves.len()).filter(|&m| search.made[m]).collect()),
        Some(false) => Choice::Impossible,
        None => Choice::Undecided,
    }
}

struct Search<'a> {
    moves: &'a [Move],
    /// The moves of each account.
    of: Vec<Vec<usize>>,
    /// What is still to be made up.
    missing: Vec<i128>,
    /// What the undecided moves can bring each account, and take from it.
    can_bring: Vec<i128>,
    can_take: Vec<i128>,
    undecided: Vec<bool>,
    made: Vec<bool>,
    budget: u64,
}

impl<'a> Search<'a> {
    fn new(difference: &[i128], moves: &'a [Move], budget: u64) -> Self {
        let accounts = difference.len();
        let mut search = Search {
            moves,
            of: vec![Vec::new(); accounts],
            missing: difference.to_vec(),
            can_bring: vec![0; accounts],
            can_take: vec![0; accounts],
            undecided: vec![true; moves.len()],
            made: vec![false; moves.len()],
            budget,
        };
        for (n, one) in moves.iter().enumerate() {
            search.of[one.from].push(n);
            search.of[one.to].push(n);
            search.can_take[one.from] += one.amount;
            search.can_bring[one.to] += one.amount;
        }
        search
    }

    /// Whether the moves of one account, looked at alone, can make up what it is missing.
    fn is_reachable(&self, account: usize) -> bool {
        let mut sums = HashSet::from([0]);
        for &n in &self.of[account] {
            let one = self.moves[n];
            let change = if one.to == account { one.amount } else { -one.amount };
            let more: Vec<i128> = sums.iter().map(|sum| sum + change).collect();
            sums.extend(more);
            if sums.len() > SUMS {
                return true;
            }
        }
        sums.contains(&self.missing[account])
    }

    /// Decides one move after the other, and goes back where that cannot end well. `None` if the budget ran out.
    fn run(&mut self) -> Option<bool> {
        let mut decided: Vec<(usize, bool)> = Vec::new();
        while let Some(account) = self.tightest() {
            if self.budget == 0 {
                return None;
            }
            self.budget -= 1;
            let next = self.of[account].iter().copied().find(|n| self.undecided[*n]);
            let mut goes_on = next.is_some_and(|n| self.decide(n, true));
            decided.extend(next.map(|n| (n, true)));
            while !goes_on {
                let Some((n, made)) = decided.pop() else {
                    return Some(false);
                };
                self.take_back(n, made);
                if made {
                    goes_on = self.decide(n, false);
                    decided.push((n, false));
                }
            }
        }
        Some(true)
    }

    /// Of the accounts that are missing something, the one with the fewest moves left.
    fn tightest(&self) -> Option<usize> {
        let left = |account: &usize| self.of[*account].iter().filter(|n| self.undecided[**n]).count();
        let unbalanced = (0..self.missing.len()).filter(|&account| self.missing[account] != 0);
        unbalanced.min_by_key(left)
    }

    /// Makes a move or not, and says whether both its accounts can still be balanced.
    fn decide(&mut self, n: usize, make: bool) -> bool {
        let one = self.moves[n];
        self.undecided[n] = false;
        self.made[n] = make;
        self.can_take[one.from] -= one.amount;
        self.can_bring[one.to] -= one.amount;
        if make {
            self.missing[one.from] += one.amount;
            self.missing[one.to] -= one.amount;
        }
        self.can_balance(one.from) && self.can_balance(one.to)
    }

    fn take_back(&mut self, n: usize, make: bool) {
        let one = self.moves[n];
        self.undecided[n] = true;
        self.made[n] = false;
        self.can_take[one.from] += one.amount;
        self.can_bring[one.to] += one.amount;
        if make {
            self.missing[one.from] -= one.amount;
            self.missing[one.to] += one.amount;
        }
    }

    /// Whether what an account is missing is within what is left.
    fn can_balance(&self, account: usize) -> bool {
        let missing = self.missing[account];
        -self.can_take[account] <= missing && missing <= self.can_bring[account]
    }
}
