//! Histories known to be right or wrong, and thousands of small random ones judged against the definition.

use super::*;
use crate::history::{Call, Condition, Outcome, Seen, ValueId};
use crate::testing::*;
use fulcrum_types::Level;

fn is_linearizable(operations: impl IntoIterator<Item = Operation>) -> bool {
    match check(&history(operations)).verdict() {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        Verdict::Undecided { why } => panic!("undecided: {why}"),
    }
}

#[test]
fn a_stale_read_is_found_and_explained() {
    let history = history([
        put((0, 10), 1, 5),
        put((20, 30), 2, 6).by(2),
        get((40, 50), present(1, 5)).by(3),
    ]);
    let report = check(&history);
    let violation = &report.violations[0];
    assert_eq!(violation.operations[0], 2, "the read is the culprit");
    assert!(violation.operations.contains(&1), "the write that it missed is named");
    let text = violation.describe(&history);
    assert!(text.contains("key k") && text.contains("held 2 at 6"), "{text}");
}

#[test]
fn a_lost_update_is_found() {
    let both_replace_the_same = [
        put((0, 10), 1, 5),
        cas((20, 40), Condition::VersionIs(Index(5)), 2, written(6)),
        cas((20, 40), Condition::VersionIs(Index(5)), 3, written(7)).by(2),
    ];
    assert!(!is_linearizable(both_replace_the_same));
}

#[test]
fn two_successes_of_create_if_absent_are_found() {
    let both_create = [
        cas((0, 10), Condition::Absent, 1, written(5)),
        cas((0, 10), Condition::Absent, 2, written(6)).by(2),
    ];
    assert!(!is_linearizable(both_create.clone()));
    let removed_between = delete((0, 10), 0).by(3);
    let removed_between = Operation {
        outcome: Outcome::Written { version: None },
        ..removed_between
    };
    assert!(is_linearizable(both_create.into_iter().chain([removed_between])));
}

#[test]
fn a_read_of_a_failed_write_is_found() {
    let failed = op((0, 10), Call::Put(ValueId(1)), Outcome::Failed);
    assert!(!is_linearizable([failed.clone(), get((20, 30), present(1, 5))]));
    assert!(is_linearizable([failed, get((20, 30), Seen::Absent)]));
}

#[test]
fn a_deleted_value_that_comes_back_is_found() {
    let deleted = [put((0, 10), 1, 5), delete((20, 30), 6)];
    let back = get((40, 50), present(1, 5));
    assert!(!is_linearizable(deleted.into_iter().chain([back])));
}

#[test]
fn two_writes_of_one_version_are_found() {
    assert!(!is_linearizable([put((0, 10), 1, 5), put((0, 10), 2, 5)]));
}

#[test]
fn versions_against_real_time_are_found() {
    assert!(!is_linearizable([put((0, 10), 1, 6), put((20, 30), 2, 5)]));
    assert!(
        is_linearizable([put((0, 20), 1, 6), put((20, 30), 2, 5)]),
        "they touch: they overlap"
    );
}

#[test]
fn a_read_that_goes_back_within_one_open_write_is_found() {
    let new_then_old = [
        put((0, 1), 1, 5),
        put((2, 100), 2, 6).by(2),
        get((10, 20), present(2, 6)).by(3),
        get((30, 40), present(1, 5)).by(4),
    ];
    assert!(!is_linearizable(new_then_old.clone()));
    let [first, open, new, old] = new_then_old;
    let overlapping = Operation { invoked: 15, ..old };
    assert!(is_linearizable([first, open, new, overlapping]));
}

#[test]
fn an_unknown_write_may_surface_late_and_only_once() {
    let surfaces = [
        put_unknown(0, 1),
        put((10, 20), 2, 5).by(2),
        get((30, 40), present(2, 5)).by(2),
        get((50, 60), present(1, 9)).by(3),
    ];
    assert!(is_linearizable(surfaces.clone()));
    let again = [put((70, 80), 3, 10), get((90, 95), present(1, 9))];
    assert!(!is_linearizable(surfaces.iter().cloned().chain(again)));
    let too_early = Operation {
        invoked: 65,
        ..put_unknown(0, 1)
    };
    let [_, second, third, fourth] = surfaces;
    assert!(
        !is_linearizable([too_early, second, third, fourth]),
        "read before it was written"
    );
}

#[test]
fn an_unknown_write_that_was_read_is_held_to_its_version() {
    let two_versions = [
        put_unknown(0, 1),
        get((30, 40), present(1, 5)),
        get((50, 60), present(1, 6)),
    ];
    assert!(!is_linearizable(two_versions));
}

#[test]
fn an_unknown_delete_may_explain_absence_and_what_follows() {
    let unknown_delete = op((0, 0), Call::Delete, Outcome::Unknown).by(9);
    let vanishes = [put((10, 20), 1, 5), get((30, 40), Seen::Absent)];
    assert!(!is_linearizable(vanishes.clone()));
    assert!(is_linearizable(
        vanishes.clone().into_iter().chain([unknown_delete.clone()])
    ));
    let twice = [put((50, 60), 2, 8), get((70, 80), Seen::Absent)];
    let once_only = vanishes
        .clone()
        .into_iter()
        .chain(twice.clone())
        .chain([unknown_delete.clone()]);
    assert!(!is_linearizable(once_only));
    let two = vanishes
        .into_iter()
        .chain(twice)
        .chain([unknown_delete.clone(), unknown_delete]);
    assert!(is_linearizable(two));
}

#[test]
fn a_mismatch_is_held_to_what_it_found() {
    let refused = |seen| cas((20, 30), Condition::VersionIs(Index(5)), 9, Outcome::Mismatch { seen });
    let wrote = put((0, 10), 1, 5);
    assert!(!is_linearizable([wrote.clone(), refused(None)]), "the condition held");
    assert!(is_linearizable([wrote.clone(), put((0, 10), 2, 6), refused(None)]));
    assert!(!is_linearizable([
        wrote,
        put((0, 10), 2, 6),
        refused(Some(Seen::Absent))
    ]));
}

#[test]
fn weaker_reads_are_not_judged() {
    let eventual = get_at(Level::Eventual, (40, 50), Seen::Absent);
    assert!(is_linearizable([put((0, 10), 1, 5), eventual]));
}

#[test]
fn keys_are_judged_each_by_itself() {
    assert!(is_linearizable([
        put((0, 10), 1, 6).on("a"),
        put((20, 30), 2, 5).on("b")
    ]));
}

#[test]
fn a_search_that_is_too_long_is_no_pass() {
    let without_versions = |i: u64| Operation {
        outcome: Outcome::Written { version: None },
        ..put((0, 100), i, 0).by(i)
    };
    let writes = (1..=24).map(without_versions);
    let reads = [op(
        (200, 210),
        Call::Get(Level::Linearizable),
        Outcome::Read(Seen::Absent),
    )];
    let report = check_within(&history(writes.chain(reads)), 1_000);
    assert!(matches!(report.verdict(), Verdict::Undecided { .. }));
}

/// A register that really is atomic, and clients that overlap at random.
struct Atomic {
    rng: Rng,
    state: Option<(u64, u64)>,
    version: u64,
    unique: bool,
    versions: bool,
    /// One operation in how many gets no answer.
    unanswered: u64,
}

impl Atomic {
    fn small_history(&mut self) -> Vec<Operation> {
        let count = 3 + self.rng.below(5);
        self.history(count, 40)
    }

    fn history(&mut self, count: u64, span: u64) -> Vec<Operation> {
        let mut instants: Vec<(u64, u64, u64)> = Vec::new();
        for i in 0..count {
            let begin = self.rng.below(span);
            let effect = begin + self.rng.below(25);
            instants.push((effect, begin, i));
        }
        instants.sort_unstable();
        let take_effect = |(effect, begin, i)| self.operation(begin, effect, i);
        instants.into_iter().map(take_effect).collect()
    }

    fn operation(&mut self, begin: u64, effect: u64, i: u64) -> Operation {
        let end = effect + self.rng.below(25);
        let value = ValueId(if self.unique { i + 1 } else { 1 + self.rng.below(2) });
        let call = match self.rng.below(8) {
            0..=2 => Call::Get(Level::Linearizable),
            3 | 4 => Call::Put(value),
            5 => Call::Delete,
            _ => Call::CompareAndSet {
                condition: self.condition(),
                value: Some(value),
            },
        };
        if self.rng.one_in(12) && call.writes().is_some() {
            return op((begin, end), call, Outcome::Failed).by(i);
        }
        let mut outcome = self.apply(&call);
        let never_applied = self.rng.one_in(8) && call.writes().is_none();
        if self.rng.one_in(self.unanswered) || never_applied {
            outcome = Outcome::Unknown;
        }
        op((begin, end), call, outcome).by(i)
    }

    fn condition(&mut self) -> Condition {
        match self.rng.below(4) {
            0 => Condition::Absent,
            1 => Condition::Exists,
            2 => Condition::ValueIs(ValueId(self.state.map_or(1, |(value, _)| value))),
            _ => Condition::VersionIs(Index(self.version.max(1))),
        }
    }

    fn seen(&self) -> Seen {
        self.state.map_or(Seen::Absent, |(value, version)| Seen::Present {
            value: ValueId(value),
            version: self.versions.then_some(Index(version)),
        })
    }

    fn apply(&mut self, call: &Call) -> Outcome {
        let Some(value) = call.writes() else {
            return Outcome::Read(self.seen());
        };
        if let Call::CompareAndSet { condition, .. } = call {
            let met = match condition {
                Condition::Absent => self.state.is_none(),
                Condition::Exists => self.state.is_some(),
                Condition::ValueIs(v) => self.state.is_some_and(|(value, _)| value == v.0),
                Condition::VersionIs(v) => self.state.is_some_and(|(_, version)| version == v.0),
            };
            if !met {
                let seen = Some(self.seen()).filter(|_| self.rng.below(2) == 0);
                return Outcome::Mismatch { seen };
            }
        }
        self.version += 1 + self.rng.below(2);
        self.state = value.map(|v| (v.0, self.version));
        let version = self.versions.then_some(Index(self.version));
        Outcome::Written { version }
    }

    /// Changes one answer.
    fn mutate(&mut self, operations: &mut [Operation]) {
        let count = u64::try_from(operations.len()).expect("small");
        let at = usize::try_from(self.rng.below(count)).expect("small");
        let value = 1 + self.rng.below(4);
        let version = 1 + self.rng.below(10);
        let other = match self.rng.one_in(4) {
            true => Seen::Absent,
            false => Seen::Present {
                value: ValueId(value),
                version: self.versions.then_some(Index(version)),
            },
        };
        let outcome = &mut operations[at].outcome;
        match outcome {
            Outcome::Read(seen) => *seen = other,
            Outcome::Mismatch { .. } => {
                *outcome = Outcome::Written {
                    version: Some(Index(version)),
                }
            }
            Outcome::Written { version: v } if v.is_some() => *v = Some(Index(version)),
            Outcome::Written { .. } | Outcome::Unknown => *outcome = Outcome::Failed,
            Outcome::Failed => {}
        }
    }
}

fn random_histories(seed: u64, count: usize) -> impl Iterator<Item = (Vec<Operation>, Vec<Operation>)> {
    let mut rng = Rng(seed);
    (0..count).map(move |_| {
        let mut register = Atomic {
            unique: rng.below(3) > 0,
            versions: rng.below(3) > 0,
            rng: Rng(rng.next()),
            state: None,
            version: 0,
            unanswered: 2 + rng.below(4),
        };
        let valid = register.small_history();
        let mut mutated = valid.clone();
        register.mutate(&mut mutated);
        (valid, mutated)
    })
}

fn text(operations: &[Operation]) -> String {
    let lines: Vec<String> = operations.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn histories_of_an_atomic_register_pass() {
    for (valid, _) in random_histories(1, 20_000) {
        let report = check(&history(valid.iter().cloned()));
        assert_eq!(report.verdict(), Verdict::Linearizable, "{}", text(&valid));
    }
}

#[test]
fn the_checker_agrees_with_the_definition() {
    let mut violations = 0;
    for (_, mutated) in random_histories(2, 20_000) {
        let expected = brute_force::is_linearizable(&mutated);
        violations += usize::from(!expected);
        let found = is_linearizable(mutated.iter().cloned());
        assert_eq!(found, expected, "{}", text(&mutated));
    }
    assert!(
        (4_000..18_000).contains(&violations),
        "{violations} histories were wrong"
    );
}

/// Clients that never find out what became of most of their writes, on one key that all of them use.
#[test]
fn crowded_keys_with_many_unknown_outcomes_are_decided() {
    let mut undecided = Vec::new();
    for seed in 0..40 {
        let mut register = Atomic {
            rng: Rng(seed),
            state: None,
            version: 0,
            unique: true,
            versions: true,
            unanswered: 2,
        };
        let operations = register.history(300, 600);
        let report = check_within(&history(operations), 100_000);
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
        undecided.extend(report.undecided.iter().map(|why| format!("seed {seed}: {why}")));
    }
    assert!(undecided.is_empty(), "{undecided:#?}");
}

#[test]
fn long_histories_with_many_open_writes_are_decided() {
    for seed in 0..20 {
        let mut register = Atomic {
            rng: Rng(seed),
            state: None,
            version: 0,
            unique: true,
            versions: true,
            unanswered: 20,
        };
        let operations = register.history(400, 2_000);
        let report = check(&history(operations));
        assert_eq!(report.verdict(), Verdict::Linearizable, "seed {seed}");
    }
}
