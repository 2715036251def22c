//! What is kept, for how long, and that a restart, a snapshot or a repetition changes nothing.

use super::*;
use crate::storage::Reader;
use fulcrum_types::TransactionState;

/// What a sweep has left behind may be long, and be there deleted for a while: the next one does not go through it again. An entry that
/// nobody scheduled stands for all that.
#[test]
fn a_sweep_does_not_look_behind_what_is_due_next() {
    let mut bench = Bench::new(Limits::default());
    bench.decide(T, id(1), AbortCause::Client);
    let behind = crate::storage::state_key(GROUP, bench.machine.generation, StateKind::TransactionDue, &[0; 32]);
    bench.store.put(Space::State, behind.clone(), Bytes::new());
    assert_eq!(bench.count(StateKind::TransactionDue), 2);
    bench.apply(T + HORIZON + 9, Payload::Noop).unwrap();
    assert_eq!(bench.count(StateKind::Transaction), 0, "what is due goes");
    assert_eq!(bench.count(StateKind::TransactionDue), 1);
    assert!(bench.store.get(Space::State, &behind).unwrap().is_some(), "looked at");
}

#[test]
fn marks_go_with_the_horizon() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("a", "1"));
    bench.commit(id(1));
    bench.abort(id(2));
    bench.decide(T, id(3), AbortCause::Client);
    bench.prepare(id(4), part().read("none", 9));
    bench.prepare(id(5), part().put("b", "1"));
    assert_eq!(
        (
            bench.count(StateKind::Transaction),
            bench.count(StateKind::TransactionDue)
        ),
        (5, 4)
    );
    bench.apply(T + HORIZON + 1, Payload::Noop).unwrap();
    assert_eq!(bench.count(StateKind::Transaction), 5);
    bench.apply(T + HORIZON + 9, Payload::Noop).unwrap();
    assert_eq!(
        (
            bench.count(StateKind::Transaction),
            bench.count(StateKind::TransactionDue)
        ),
        (1, 0),
        "a promise goes only by its decision"
    );
    assert!(bench.machine.promise_to(id(5)).is_some());
    assert_eq!(bench.resolve(T + HORIZON + 9, id(5), abort_of(None)), Resolved::Now);
    assert_eq!(bench.count(StateKind::Transaction), 0);
}

#[test]
fn a_commit_is_kept_until_it_is_resolved_everywhere_and_retained() {
    let limits = Limits {
        retention: Duration::from_secs(60),
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    bench.prepare_home(id(1), part().put("a", "1"));
    bench.transact(T, id(2), part().put("b", "1"));
    bench.apply(T + 60_001, Payload::Noop).unwrap();
    assert_eq!(bench.count(StateKind::Transaction), 1, "unresolved: never");
    let state = |bench: &Bench, id| bench.machine.state_of(&bench.store, id).unwrap();
    assert_eq!(
        state(&bench, id(1)),
        Some(TransactionState::Decided(committed(id(1), 1)))
    );
    assert_eq!(state(&bench, id(2)), Some(TransactionState::TooOld));
    bench.command(T + 60_001, Command::Forget(vec![id(1)]));
    bench.apply(T + 60_001, Payload::Noop).unwrap();
    assert_eq!(bench.count(StateKind::Transaction), 0);
    assert_eq!(bench.count(StateKind::TransactionDue), 0);
}

#[test]
fn of_too_many_commits_the_oldest_go_but_not_before_the_horizon() {
    let limits = Limits {
        decided: 3,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    for n in 0..10 {
        bench.transact(T + n, id(n), part().put("a", "1"));
    }
    assert_eq!(bench.count(StateKind::Transaction), 10);
    bench.apply(T + HORIZON + 5, Payload::Noop).unwrap();
    assert_eq!(bench.count(StateKind::Transaction), 5, "five are past");
    bench.apply(T + HORIZON + 100, Payload::Noop).unwrap();
    assert_eq!(bench.count(StateKind::Transaction), 3);
    assert_eq!(bench.count(StateKind::TransactionDue), 3);
    assert!(matches!(
        bench.transact(T + HORIZON + 100, id(9), part().put("a", "1")),
        ApplyOutcome::Transaction(_)
    ));
}

#[test]
fn a_group_tells_what_it_knows() {
    let mut bench = Bench::new(Limits::default());
    let state = |bench: &Bench, id| bench.machine.state_of(&bench.store, id).unwrap();
    bench.apply(T, Payload::Noop).unwrap();
    assert_eq!(state(&bench, id(1)), Some(TransactionState::NotSeen));
    bench.prepare_home(id(1), part().put("a", "1"));
    let decided = TransactionState::Decided(committed(id(1), 2));
    assert_eq!(state(&bench, id(1)), Some(decided.clone()));
    bench.prepare(id(2), part().put("b", "1"));
    bench.prepare(id(4), part().put("c", "1"));
    bench.commit(id(4));
    let promised = TransactionState::Promised { home: elsewhere() };
    assert_eq!(state(&bench, id(2)), Some(promised.clone()));
    assert_eq!(state(&bench, id(4)), None, "its home is elsewhere, and knows");
    bench.apply(T + HORIZON + 9, Payload::Noop).unwrap();
    assert_eq!(state(&bench, id(1)), Some(decided), "unresolved");
    assert_eq!(state(&bench, id(2)), Some(promised));
    assert_eq!(state(&bench, id(3)), Some(TransactionState::TooOld));
}

#[test]
fn a_restart_takes_the_locks_again() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(2), part().put("a", "1").read("b", 0));
    bench.prepare(id(3), part().read("b", 0));
    bench.prepare_home(id(4), part().put("c", "1"));
    bench.reopen();
    assert_eq!(bench.write(T, None, put("a", "x")), blocked(id(2)));
    assert_eq!(bench.write(T, None, put("b", "x")), blocked(id(2)));
    assert_eq!(bench.machine.prepared().count(), 2);
    assert_eq!(bench.machine.unresolved().count(), 1);
    bench.commit(id(2));
    assert_eq!(bench.write(T, None, put("b", "x")), blocked(id(3)));
    assert_eq!(bench.get("a"), Some(("1".into(), 1)));
}

#[test]
fn a_sweep_goes_on_after_a_restart() {
    let mut bench = Bench::new(Limits::default());
    bench.abort(id(1));
    bench.transact(T, id(2), part().put("a", "1"));
    bench.reopen();
    bench.apply(T + 3_700_000, Payload::Noop).unwrap();
    assert_eq!(
        (
            bench.count(StateKind::Transaction),
            bench.count(StateKind::TransactionDue)
        ),
        (0, 0)
    );
}

#[test]
fn locks_intents_and_records_are_in_a_snapshot() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("a", "1"));
    bench.abort(id(2));
    let mut source = crate::storage::SnapshotSource::new(&bench.store, GROUP, bench.machine.generation).unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    let (start, end) = (GROUP.0.to_be_bytes().to_vec(), (GROUP.0 + 1).to_be_bytes().to_vec());
    for record in bench.store.range(Space::State, &start, &end) {
        kinds.insert(record.unwrap().0[12]);
    }
    for kind in [StateKind::Intent, StateKind::Transaction, StateKind::TransactionDue] {
        assert!(kinds.contains(&(kind as u8)), "{kind:?}");
    }
    assert!(source.next_part().unwrap().unwrap().data.len() > 100);
}

/// A machine that is reopened at every turn, one that never is, and one that is given every command twice: the same.
#[test]
fn restarts_and_repetitions_change_nothing() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let limits = Limits {
            tombstones: Duration::from_millis(100),
            retention: Duration::from_millis(90),
            horizon: Duration::from_millis(40),
            decided: 4,
            prepared: 5,
            ..Limits::default()
        };
        let [mut steady, mut restarted] = [(); 2].map(|()| Bench::new(limits.clone()));
        let mut time = T;
        for step in 0..400u64 {
            time += random.below(6);
            let command = any_command(&mut random, time);
            let outcome = steady.command(time, command.clone());
            assert_eq!(
                restarted.command(time, command.clone()),
                outcome,
                "seed {seed} step {step}"
            );
            restarted.reopen();
            assert_eq!(steady.checksum(), restarted.checksum(), "seed {seed} step {step}");
            if random.below(3) == 0 {
                let again = steady.command(time, command.clone());
                assert_eq!(restarted.command(time, command.clone()), again);
                assert!(
                    is_the_same_answer(&outcome, &again),
                    "seed {seed}: {command:?}: {outcome:?}, then {again:?}"
                );
            }
            check_locks(&steady);
        }
    }
}

fn any_command(random: &mut Random, time: u64) -> Command {
    let n = (time - T).saturating_sub(random.below(50));
    let id = id(n / 4 * 4);
    let key = || ["a", "b", "c"];
    let mut wanted = part();
    for key in key() {
        wanted = match random.below(4) {
            0 => wanted.put(key, "x"),
            1 => wanted.delete(key),
            2 => wanted.read(key, 0),
            _ => wanted,
        };
    }
    let home = if n % 8 < 4 { here() } else { elsewhere() };
    match random.below(6) {
        0 => Command::Transact {
            at: here(),
            request: Box::new(Transact {
                id: super::id(n / 4 * 4 + 1),
                fingerprint: Fingerprint(1),
                seen: None,
                part: wanted.0,
            }),
        },
        1 | 2 => Command::Prepare {
            request: Box::new(prepare_at(id, home, wanted)),
            give_way: None,
        },
        3 => Command::Decide(Decide {
            id,
            fingerprint: any_fingerprint(random, id),
            cause: AbortCause::Client,
        }),
        4 => Command::Resolve(vec![Resolution {
            id,
            verdict: match random.below(2) {
                0 => abort_of(any_fingerprint(random, id)),
                _ => Verdict::Commit(fingerprint(id)),
            },
        }]),
        _ => Command::Forget(vec![id]),
    }
}

/// Of the transaction, of another one under its id, or none.
fn any_fingerprint(random: &mut Random, id: TransactionId) -> Option<Fingerprint> {
    match random.below(4) {
        0 => None,
        1 => Some(Fingerprint(7)),
        _ => Some(fingerprint(id)),
    }
}

/// A decision or a vote, once given, is given again.
fn is_the_same_answer(first: &ApplyOutcome, again: &ApplyOutcome) -> bool {
    use ApplyOutcome as O;
    use TransactionAnswer as A;
    match (first, again) {
        (O::Transaction(A::Resolved(_)), O::Transaction(A::Resolved(again))) => {
            again.iter().all(|resolved| *resolved != Resolved::Now)
        }
        // Its age answers what a record would have.
        (O::Transaction(A::Vote(Vote::Refused(_) | Vote::Decided(Decision::Aborted(_)))), O::Refused(refusal)) => {
            *refusal == ApplyRefusal::TooOldToTell
        }
        (O::Transaction(A::Decision(Decision::Aborted(_))), O::Transaction(A::Decision(Decision::Aborted(_)))) => true,
        (O::Blocked { .. }, O::Blocked { .. }) => true,
        (first, again) => first == again,
    }
}

/// Each intent lies under its owner's lock, and nobody else holds one.
fn check_locks(bench: &Bench) {
    let machine = &bench.machine;
    let written: usize = machine.prepared().map(|(_, prepared)| prepared.exclusive.len()).sum();
    assert_eq!(bench.count(StateKind::Intent), written);
    for (id, prepared) in machine.prepared() {
        for key in &prepared.exclusive {
            assert_eq!(machine.transactions.locks.writer(key), Some(id));
            assert_eq!(machine.intent_on(&bench.store, key).unwrap().unwrap().id, id);
        }
    }
    assert_eq!(
        machine.holds_locks(),
        machine.prepared().any(|(_, prepared)| prepared.keys() > 0)
    );
}
