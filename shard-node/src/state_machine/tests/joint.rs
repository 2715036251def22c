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
