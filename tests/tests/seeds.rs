//! Seeds that found bugs before find nothing now.

use fulcrum_tests::planted::Planted;
use fulcrum_tests::sim::plan::Choice;
use fulcrum_tests::sim::run::{REGRESSIONS, run, seeds_of, transaction_seeds_of};

#[test]
fn what_was_found_before_stays_fixed() {
    let seeds = seeds_of(REGRESSIONS);
    assert!(!seeds.is_empty());
    for seed in seeds {
        let report = run(seed, Choice::default(), Planted::default(), false);
        assert_eq!(report.failure, None, "seed {seed}");
        assert!(
            report.tally.ok > 100,
            "seed {seed} asked too little: {:?}",
            report.tally
        );
    }
}

#[test]
fn what_was_found_with_transactions_stays_fixed() {
    let choice = Choice {
        transactions: true,
        ..Choice::default()
    };
    let seeds = transaction_seeds_of(REGRESSIONS);
    assert!(!seeds.is_empty());
    for seed in seeds {
        let report = run(seed, choice, Planted::default(), false);
        assert_eq!(report.failure, None, "seed {seed}");
    }
}
