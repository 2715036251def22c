//! The same seed gives the same run, event by event.

use fulcrum_tests::planted::Planted;
use fulcrum_tests::sim::plan::Choice;
use fulcrum_tests::sim::run::run;

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [2, 3, 34, 111] {
        let [first, second] = [(); 2].map(|()| run(seed, Choice::default(), Planted::default(), false));
        assert!(first.record.events > 1_000, "seed {seed} did next to nothing");
        assert_eq!(first.record.events, second.record.events, "seed {seed}");
        assert_eq!(first.record.hash(), second.record.hash(), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_with_transactions() {
    let choice = Choice {
        transactions: true,
        ..Choice::default()
    };
    for seed in [2, 3, 34, 111] {
        let [first, second] = [(); 2].map(|()| run(seed, choice, Planted::default(), false));
        assert!(first.record.events > 1_000, "seed {seed} did next to nothing");
        assert_eq!(first.record.events, second.record.events, "seed {seed}");
        assert_eq!(first.record.hash(), second.record.hash(), "seed {seed}");
    }
}

#[test]
fn different_seeds_give_different_traces() {
    let [first, second] = [5, 6].map(|seed| run(seed, Choice::default(), Planted::default(), false));
    assert_ne!(first.record.hash(), second.record.hash());
}
