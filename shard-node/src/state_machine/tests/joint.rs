//! Writes that were joined to one entry: each as if it were alone.

use super::changes::Logged;
use super::transactions::{id, part};
use super::*;
use fulcrum_types::JoinedWrite;

fn joined(idempotency: Option<IdempotencyKey>, op: WriteOp) -> JoinedWrite {
    JoinedWrite {
        idempotency,
        seen: None,
        op,
    }
}

fn written(version: u64, existed: bool) -> Result<WriteOutcome, Refusal> {
    Ok(WriteOutcome::Applied {
        version: Version(version),
        existed,
    })
}

impl Bench {
    fn joint(&mut self, time: u64, writes: &[JoinedWrite]) -> Vec<Result<WriteOutcome, Refusal>> {
        match self.apply(time, Payload::Command(encode_joint(writes))) {
            Ok(ApplyOutcome::Joint(results)) => results,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn each_is_judged_by_its_own_condition() {
    let mut bench = Bench::new(Limits::default());
    bench.write(1, None, put("old", "x"));
    let results = bench.joint(
        1,
        &[
            joined(request(1, 1, 1), put("new", "1")),
            joined(request(2, 1, 1), put_if("old", "2", Condition::Absent)),
            joined(None, delete("old")),
        ],
    );
    let failed = WriteOutcome::ConditionFailed {
        current: Some(Version(1)),
    };
    assert_eq!(results[..2], [written(2, false), Ok(failed)]);
    assert_eq!(results[2], written(2, true));
    assert_eq!((bench.get("new"), bench.get("old")), (Some(("1".into(), 2)), None));
}

#[test]
fn a_retry_is_recognised_alone_and_in_another_joint() {
    let mut bench = Bench::new(Limits::default());
    let (first, second) = (request(1, 1, 1), request(2, 1, 1));
    bench.joint(1, &[joined(first, put("a", "1")), joined(second, put("b", "1"))]);
    bench.write(1, request(3, 1, 1), put("c", "1"));

    let alone = bench.write(1, first, put("a", "1"));
    assert_eq!(
        alone,
        ApplyOutcome::Repeated(vec![WriteOutcome::Applied {
            version: Version(1),
            existed: false
        }])
    );
    let again = bench.joint(
        1,
        &[
            joined(request(4, 1, 1), put("d", "1")),
            joined(second, put("b", "1")),
            joined(request(3, 1, 1), put("c", "1")),
        ],
    );
    assert_eq!(again, [written(4, false), written(1, false), written(2, false)]);
    assert_eq!(bench.get("b"), Some(("1".into(), 1)), "written once");
    let known = bench.machine.outcome(&bench.store, &second.unwrap()).unwrap();
    assert!(matches!(known, RecordedOutcome::Known(outcomes) if outcomes.len() == 1));
}

#[test]
fn who_is_refused_or_locked_out_keeps_nobody_else_back() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("locked", "x"));
    let batch = encode_write(request(7, 1, 1).as_ref(), &[put("x", "1"), put("y", "1")]);
    bench.apply(1, Payload::Command(batch)).unwrap();
    let locked = request(1, 1, 1);
    let results = bench.joint(
        1,
        &[
            joined(locked, put("locked", "1")),
            joined(request(2, 5, 1), put("a", "1")),
            joined(request(7, 1, 1), put("b", "1")),
            joined(None, put("c", "1")),
        ],
    );
    assert_eq!(results[0], Err(Refusal::Locked { by: id(1) }));
    assert!(matches!(&results[1], Err(Refusal::Invalid { reason }) if reason.contains("another issue time")));
    assert!(matches!(&results[2], Err(Refusal::Invalid { reason }) if reason.contains("a batch")));
    assert_eq!(results[3], written(3, false));
    for key in ["locked", "a", "b"] {
        assert_eq!(bench.get(key), None, "{key}");
    }
    let known = bench.machine.outcome(&bench.store, &locked.unwrap()).unwrap();
    assert_eq!(known, RecordedOutcome::NotSeen, "it may be sent again");
}

#[test]
fn a_watch_is_told_of_what_took_effect_and_of_nothing_else() {
    let mut logged = Logged::new(MemoryDisk::new());
    logged.write(0, request(1, 1, 1), &[put("a", "1")]);
    logged.write(0, None, &[put_for("late", "1", 100)]);
    let told = logged.command(
        100,
        encode_joint(&[
            joined(request(2, 1, 1), put("b", "2")),
            joined(request(1, 1, 1), put("a", "2")),
            joined(None, put_if("c", "2", Condition::Exists)),
            joined(None, put("late", "2")),
            joined(request(3, 9, 1), put("d", "2")),
        ]),
    );
    assert_eq!(told, ["b=2@3", "late expired@2", "late=2@3"]);
}

#[test]
fn what_is_due_is_swept_faster_than_joints_add_to_it() {
    let mut bench = Bench::new(Limits::default());
    let writes = |round: usize| -> Vec<JoinedWrite> {
        let op = |key| WriteOp {
            key: format!("{round} {key}").into(),
            ..put_for("k", "v", 10)
        };
        (0..200).map(|key| joined(None, op(key))).collect()
    };
    for round in 0..20 {
        bench.joint(100_000 * round as u64, &writes(round));
    }
    // Values of the last round, and tombstones of the two before it.
    let left = bench.count(StateKind::Value);
    assert!(left <= 600, "{left}");
}

/// What became of a write, whichever its version.
fn became(result: Result<WriteOutcome, Refusal>) -> Result<(bool, bool), Refusal> {
    result.map(|outcome| match outcome {
        WriteOutcome::Applied { existed, .. } => (true, existed),
        WriteOutcome::ConditionFailed { current } => (false, current.is_some()),
    })
}

fn alone(outcome: ApplyOutcome) -> Result<WriteOutcome, Refusal> {
    match outcome {
        ApplyOutcome::Written(outcomes) | ApplyOutcome::Repeated(outcomes) => Ok(outcomes[0].clone()),
        ApplyOutcome::Refused(refusal) => Err(refusal.into()),
        ApplyOutcome::Blocked { by } => Err(Refusal::Locked { by }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whatever_is_joined_becomes_what_it_would_have_become_one_after_the_other() {
    const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "locked"];
    let limits = || Limits {
        outcomes_per_client: 6,
        ..Limits::default()
    };
    let mut random = Random::new(7);
    let (mut refused, mut repeated) = (0, 0);
    for _ in 0..50 {
        let (mut one, mut other) = (Bench::new(limits()), Bench::new(limits()));
        for bench in [&mut one, &mut other] {
            bench.prepare(id(1), part().put("locked", "x"));
        }
        let (mut time, mut sequence) = (1, 1);
        for _ in 0..40 {
            time += random.below(30);
            let mut write = |key| {
                sequence += random.below(2);
                let known = 1 + random.below(sequence);
                let low_water = known.min(1 + sequence.saturating_sub(random.below(9)));
                let op = match random.below(5) {
                    0 => put(key, "1"),
                    1 => put_for(key, "2", 40),
                    2 => put_if(key, "3", Condition::Absent),
                    3 => put_if(key, "4", Condition::ValueIs("1".into())),
                    _ => delete(key),
                };
                joined(request(known, 1, low_water).filter(|_| !known.is_multiple_of(7)), op)
            };
            let writes: Vec<JoinedWrite> = KEYS.into_iter().map(&mut write).collect();
            let writes: Vec<JoinedWrite> = writes.into_iter().filter(|_| random.below(3) > 0).collect();
            for (write, result) in writes.iter().zip(one.joint(time, &writes)) {
                let outcome = other.write(time, write.idempotency, write.op.clone());
                repeated += usize::from(matches!(outcome, ApplyOutcome::Repeated(_)));
                refused += usize::from(result.is_err());
                assert_eq!(became(result), became(alone(outcome)), "{write:?}");
            }
            for key in KEYS {
                let value = |bench: &mut Bench| bench.get(key).map(|(value, _)| value);
                assert_eq!(value(&mut one), value(&mut other), "{key}");
            }
            assert_eq!(one.count(StateKind::Outcome), other.count(StateKind::Outcome));
        }
    }
    assert!(refused > 100 && repeated > 100, "{refused} {repeated}");
}
