//! Every way for a bank to go wrong, planted by hand; small random ledgers judged against the definition; large ones.

use super::*;
use crate::testing::Rng;
use crate::transactions::TransactionKey;
use bytes::Bytes;
use fulcrum_types::{ClientId, KeyspaceId};
use std::collections::BTreeSet;

fn accounts(count: u64) -> Vec<Account> {
    let account = |n| Account {
        key: TransactionKey {
            keyspace: KeyspaceId(1 + n % 2),
            key: Bytes::from(format!("account{n}")),
        },
        opening: 100,
    };
    (0..count).map(account).collect()
}

fn transfer_of(times: (u64, u64), from: usize, to: usize, amount: u64) -> BankOperation {
    BankOperation {
        client: ClientId(1),
        invoked: times.0,
        returned: Some(times.1),
        call: Call::Transfer {
            from,
            to,
            amount,
            outcome: TransactionOutcome::Committed,
        },
    }
}

fn statement(times: (u64, u64), balances: &[i64]) -> BankOperation {
    BankOperation {
        client: ClientId(2),
        invoked: times.0,
        returned: Some(times.1),
        call: Call::Statement {
            balances: balances.iter().copied().map(Some).collect(),
        },
    }
}

impl BankOperation {
    fn ended(mut self, ended: TransactionOutcome) -> Self {
        if let Call::Transfer { outcome, .. } = &mut self.call {
            *outcome = ended;
        }
        self.returned = self.returned.filter(|_| ended != TransactionOutcome::Unknown);
        self
    }

    fn precedes(&self, other: &Self) -> bool {
        self.returned.is_some_and(|end| end < other.invoked)
    }

    /// As far as a statement is one of the two.
    fn precedes_around_statement(&self, other: &Self) -> bool {
        let is_statement = |o: &Self| matches!(o.call, Call::Statement { .. });
        self.precedes(other) && (is_statement(self) || is_statement(other))
    }

    fn failed(self) -> Self {
        self.ended(TransactionOutcome::Failed)
    }

    fn unknown(self) -> Self {
        self.ended(TransactionOutcome::Unknown)
    }
}

fn judge(operations: &[BankOperation]) -> (Ledger, Report) {
    let ledger = Ledger::of(accounts(3), operations.to_vec());
    let report = check(&ledger);
    assert!(report.undecided.is_empty());
    (ledger, report)
}

/// The violations by name. None may be one by mistake.
fn broken(operations: &[BankOperation]) -> Vec<&'static str> {
    let report = judge(operations).1;
    assert!(
        report.violations.is_empty() || !has_an_order(operations),
        "{:?}",
        report.violations
    );
    report.violations.iter().map(|v| v.property).collect()
}

/// Of account 0 to account 1.
fn thirty() -> BankOperation {
    transfer_of((0, 10), 0, 1, 30)
}

const BEFORE: [i64; 3] = [100, 100, 100];
const AFTER: [i64; 3] = [70, 130, 100];
const LATER: (u64, u64) = (20, 30);

#[test]
fn a_lost_transfer_is_found() {
    let (ledger, report) = judge(&[thirty(), statement(LATER, &BEFORE)]);
    let text = ledger.describe(&report.violations[0]);
    assert!(
        text.contains("lost transfer: #1 reads as if transfer #0 had been lost"),
        "{text}"
    );
    assert!(text.contains("k1/account0 by +30, k2/account1 by -30"), "{text}");
    assert!(
        text.contains("\n  #0 c1 [0..10] transfer 30 from 0 to 1 -> committed (k1/account0 to k2/account1)"),
        "{text}"
    );
    assert_eq!(broken(&[thirty(), statement(LATER, &AFTER)]), [""; 0]);
    assert_eq!(
        broken(&[thirty(), statement((10, 30), &BEFORE)]),
        [""; 0],
        "they overlap"
    );
    assert_eq!(broken(&[thirty().unknown(), statement(LATER, &BEFORE)]), [""; 0]);
}

#[test]
fn a_repeated_transfer_is_found() {
    assert_eq!(
        broken(&[thirty(), statement(LATER, &[40, 160, 100])]),
        ["repeated transfer"]
    );
    assert_eq!(
        broken(&[thirty().unknown(), statement(LATER, &[40, 160, 100])]),
        ["repeated transfer"]
    );
    assert_eq!(
        broken(&[thirty(), thirty(), statement(LATER, &[40, 160, 100])]),
        [""; 0]
    );
}

#[test]
fn half_a_transfer_is_found() {
    for half in [[70, 100, 100], [100, 130, 100]] {
        for transfer in [
            thirty(),
            thirty().unknown(),
            thirty().failed(),
            transfer_of((0, 25), 0, 1, 30),
        ] {
            assert_eq!(broken(&[transfer, statement(LATER, &half)]), ["half a transfer"]);
        }
    }
    assert_eq!(broken(&[thirty().unknown(), statement(LATER, &AFTER)]), [""; 0]);
}

#[test]
fn a_failed_transfer_that_was_done_is_found() {
    assert_eq!(
        broken(&[thirty().failed(), statement(LATER, &AFTER)]),
        ["failed transfer applied"]
    );
    assert_eq!(broken(&[thirty().failed(), statement(LATER, &BEFORE)]), [""; 0]);
}

#[test]
fn a_wrong_total_is_found() {
    assert_eq!(broken(&[thirty(), statement(LATER, &[70, 130, 107])]), ["wrong total"]);
    assert_eq!(broken(&[statement(LATER, &[100, 100, 100])]), [""; 0]);
}

#[test]
fn balances_that_nothing_explains_are_found_though_the_total_is_right() {
    assert_eq!(
        broken(&[thirty(), statement(LATER, &[71, 130, 99])]),
        ["unexplained balances"]
    );
}

#[test]
fn an_account_that_is_gone_is_found() {
    let mut gone = statement(LATER, &AFTER);
    gone.call = Call::Statement {
        balances: vec![Some(70), None, Some(100)],
    };
    assert_eq!(broken(&[thirty(), gone]), ["missing account"]);
    assert_eq!(broken(&[thirty(), statement(LATER, &[70, 130])]), ["missing account"]);
}

#[test]
fn an_unknown_transfer_that_was_seen_may_not_vanish() {
    let seen = [thirty().unknown(), statement((20, 30), &AFTER)];
    let then = |later: BankOperation| broken(&[seen.as_slice(), &[later]].concat());
    assert_eq!(then(statement((40, 50), &BEFORE)), ["lost transfer"]);
    assert_eq!(then(statement((40, 50), &AFTER)), [""; 0]);
    assert_eq!(then(statement((30, 50), &BEFORE)), [""; 0], "the two overlap");
    assert_eq!(judge(&seen).1.observed_unknown, 1);
    let late = [
        thirty().unknown(),
        statement((20, 30), &BEFORE),
        statement((40, 50), &AFTER),
    ];
    assert_eq!(broken(&late), [""; 0], "it may take effect late");
}

#[test]
fn what_might_have_been_another_transfer_is_not_held_against_one() {
    let either = [thirty().unknown(), thirty().unknown(), statement((20, 30), &AFTER)];
    assert_eq!(judge(&either).1.observed_unknown, 0);
    let around = [
        transfer_of((0, 9), 1, 2, 5).unknown(),
        transfer_of((0, 9), 2, 1, 5).unknown(),
    ];
    assert_eq!(
        broken(&[around.as_slice(), &[statement(LATER, &BEFORE)]].concat()),
        [""; 0]
    );
}

#[test]
fn a_transfer_of_the_future_is_found() {
    assert_eq!(
        broken(&[transfer_of((40, 50), 0, 1, 30), statement(LATER, &AFTER)]),
        ["unexplained balances"]
    );
    assert_eq!(
        broken(&[transfer_of((30, 50), 0, 1, 30), statement(LATER, &AFTER)]),
        [""; 0]
    );
}

#[test]
fn a_transfer_to_itself_changes_nothing() {
    assert_eq!(
        broken(&[transfer_of((0, 10), 1, 1, 30), statement(LATER, &BEFORE)]),
        [""; 0]
    );
}

#[test]
fn balances_beyond_all_bounds_are_judged() {
    let absurd = [i64::MAX, i64::MIN, i64::MAX];
    assert_eq!(broken(&[thirty(), statement(LATER, &absurd)]), ["wrong total"]);
}

#[test]
fn the_search_gives_up_openly() {
    let moves: Vec<Move> = (0..60)
        .map(|n| Move {
            from: n % 3,
            to: (n + 1) % 3,
            amount: 2,
        })
        .collect();
    assert_eq!(choose(&[1, -1, 0], &moves, 1_000), Choice::Impossible);
    assert_eq!(choose(&[2, -2, 0], &moves, 0), Choice::Undecided);
    assert!(matches!(choose(&[2, -2, 0], &moves, 1_000), Choice::Made(_)));
}

/// The definition: some order of all acknowledged transfers, some unknown ones and all statements explains these.
fn has_an_order(operations: &[BankOperation]) -> bool {
    has_an_order_by(operations, BankOperation::precedes)
}

type Precedes = fn(&BankOperation, &BankOperation) -> bool;

fn has_an_order_by(operations: &[BankOperation], precedes: Precedes) -> bool {
    fn extend(operations: &[&BankOperation], balances: &[i64], used: &mut [bool], precedes: Precedes) -> bool {
        let must = |i: usize| operations[i].returned.is_some();
        if (0..operations.len()).all(|i| used[i] || !must(i)) {
            return true;
        }
        for i in 0..operations.len() {
            if used[i] || (0..operations.len()).any(|j| !used[j] && precedes(operations[j], operations[i])) {
                continue;
            }
            let mut after = balances.to_vec();
            match &operations[i].call {
                Call::Transfer { from, to, amount, .. } => {
                    let amount = i64::try_from(*amount).expect("small");
                    after[*from] -= amount;
                    after[*to] += amount;
                }
                Call::Statement { balances: seen }
                    if *seen != balances.iter().copied().map(Some).collect::<Vec<_>>() =>
                {
                    continue;
                }
                Call::Statement { .. } => {}
            }
            used[i] = true;
            if extend(operations, &after, used, precedes) {
                return true;
            }
            used[i] = false;
        }
        false
    }
    let happens = |o: &&BankOperation| transfer(o).is_none_or(|(_, outcome)| outcome != TransactionOutcome::Failed);
    let operations: Vec<&BankOperation> = operations.iter().filter(happens).collect();
    extend(
        &operations,
        &[100, 100, 100],
        &mut vec![false; operations.len()],
        precedes,
    )
}

/// Transfers and statements at instants between begin and end, and then perhaps one balance or outcome changed.
fn random(rng: &mut Rng, statements: u64, wrong: bool) -> Vec<BankOperation> {
    let mut planned = Vec::new();
    for n in 0..2 + rng.below(4) + statements {
        let begin = rng.below(60);
        planned.push((begin + rng.below(15), begin, n));
    }
    planned.sort_unstable();
    let mut balances = [100_i64; 3];
    let mut operations = Vec::new();
    for (effect, begin, n) in planned {
        let times = (begin, effect + rng.below(15));
        if n < statements {
            operations.push(statement(times, &balances));
            continue;
        }
        let small = |n: u64| usize::try_from(n).expect("small");
        let (from, to, amount) = (small(rng.below(3)), small(rng.below(3)), 1 + rng.below(4));
        let (ended, happens) = match rng.below(6) {
            0 => (TransactionOutcome::Failed, wrong && rng.one_in(4)),
            1 | 2 => (TransactionOutcome::Unknown, rng.one_in(2)),
            _ => (TransactionOutcome::Committed, !wrong || !rng.one_in(4)),
        };
        operations.push(transfer_of(times, from, to, amount).ended(ended));
        if happens {
            let amount = i64::try_from(amount).expect("small");
            balances[from] -= amount;
            balances[to] += amount;
        }
    }
    operations
}

#[test]
fn a_right_bank_passes() {
    for seed in 0..10_000 {
        let mut rng = Rng(seed);
        let operations = random(&mut rng, 1 + seed % 4, false);
        assert_eq!(broken(&operations), [""; 0], "seed {seed}");
    }
}

#[test]
fn one_statement_is_judged_exactly_but_for_the_order_of_transfers() {
    let mut wrong = 0;
    let mut names = BTreeSet::new();
    for seed in 0..20_000 {
        let operations = random(&mut Rng(seed), 1, true);
        let found = judge(&operations).1.violations;
        let expected = has_an_order_by(&operations, BankOperation::precedes_around_statement);
        assert_eq!(found.is_empty(), expected, "seed {seed}: {found:?}");
        wrong += found.len();
        names.extend(found.iter().map(|v| v.property));
    }
    assert!(wrong > 2_000, "{wrong} ledgers were wrong");
    assert!(
        names.contains("lost transfer") && names.contains("failed transfer applied"),
        "{names:?}"
    );
}

#[test]
fn several_statements_are_never_accused_wrongly_and_seldom_missed() {
    let (mut wrong, mut missed) = (0, 0);
    for seed in 0..20_000 {
        let operations = random(&mut Rng(seed), 3, true);
        let passes = broken(&operations).is_empty();
        if !has_an_order(&operations) {
            wrong += 1;
            missed += usize::from(passes);
        }
    }
    assert!(wrong > 2_500 && missed * 100 < wrong, "{missed} of {wrong} missed");
}

/// Transfers of up to `amounts` between 100 accounts, every tenth operation a statement, one in 200 without an answer.
fn large(amounts: u64) -> Vec<BankOperation> {
    let mut rng = Rng(3);
    let mut balances = [100_i64; 100];
    let mut operations = Vec::new();
    let small = |n: u64| usize::try_from(n).expect("small");
    for n in 0..50_000_u64 {
        let effect = 10_000 + n * 100;
        let times = (effect - rng.below(1_500), effect + rng.below(1_500));
        if n % 10 == 0 {
            operations.push(statement(times, &balances));
            continue;
        }
        let (from, to, amount) = (small(rng.below(100)), small(rng.below(100)), 1 + rng.below(amounts));
        let mut transfer = transfer_of(times, from, to, amount);
        let mut happens = true;
        if rng.one_in(200) {
            happens = rng.one_in(2);
            transfer = transfer.unknown();
        }
        operations.push(transfer);
        if happens {
            let amount = i64::try_from(amount).expect("small");
            balances[from] -= amount;
            balances[to] += amount;
        }
    }
    operations
}

#[expect(clippy::disallowed_methods, reason = "measures the program itself")]
fn timed(operations: Vec<BankOperation>) -> Report {
    let ledger = Ledger::of(accounts(100), operations);
    let start = std::time::Instant::now();
    let report = check(&ledger);
    let took = start.elapsed();
    let decided = report.statements - report.undecided.len();
    println!(
        "{decided} of {} statements, at most {} open: {took:?}",
        report.statements, report.open_at_most
    );
    assert!(took < std::time::Duration::from_secs(10), "it took {took:?}");
    report
}

#[test]
fn fifty_thousand_transfers_are_judged_in_seconds() {
    let report = timed(large(1_000_000));
    assert_eq!(
        (report.violations.len(), report.undecided.len()),
        (0, 0),
        "{:?}",
        report.undecided
    );
    assert!(report.observed_unknown > 80, "{}", report.observed_unknown);
}

#[test]
fn amounts_that_are_much_alike_cost_no_more() {
    let report = timed(large(5));
    assert_eq!(
        (report.violations.len(), report.undecided.len()),
        (0, 0),
        "{:?}",
        report.undecided
    );
}

#[test]
fn one_lost_transfer_among_fifty_thousand_is_found() {
    let lost = transfer_of((1_000_000, 1_000_100), 3, 4, 77);
    let report = timed([large(1_000_000), vec![lost]].concat());
    assert_eq!(report.violations[0].property, "lost transfer");
    assert_eq!(
        (report.violations.len() + report.more) / 1_000,
        4,
        "every statement after it"
    );
}

#[test]
fn a_loss_among_amounts_much_alike_costs_no_more() {
    let lost = transfer_of((1_000_000, 1_000_100), 3, 4, 2);
    timed([large(5), vec![lost]].concat());
}
