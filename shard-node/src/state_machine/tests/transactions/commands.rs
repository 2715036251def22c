//! Every row of the table of commands.

use super::*;

#[test]
fn a_transaction_of_one_group_is_done_in_one_entry() {
    let mut bench = Bench::new(Limits::default());
    bench.write(T, None, put("a", "1"));
    let wanted = part().read("a", 1).put("a", "2").put("b", "2").delete("none");
    assert_eq!(bench.transact(T, id(1), wanted.clone()), one_group_commit(id(1), 2));
    assert_eq!(bench.get("a"), Some(("2".into(), 2)));
    assert_eq!(bench.get("b"), Some(("2".into(), 2)));
    assert!(!bench.machine.holds_locks());
    bench.write(T, None, put("a", "3"));
    assert_eq!(
        bench.transact(T, id(1), wanted),
        one_group_commit(id(1), 2),
        "sent again: the same, and nothing done"
    );
    assert_eq!(bench.get("a"), Some(("3".into(), 3)));
}

#[test]
fn a_transaction_that_does_not_hold_is_aborted_for_ever() {
    let mut bench = Bench::new(Limits::default());
    bench.write(T, None, put("a", "1"));
    let stale = part().read("a", 0).put("b", "2");
    let cause = AbortCause::ReadInvalidated { group: GROUP, read: 0 };
    let aborted = voted(Vote::Decided(Decision::Aborted(cause)));
    assert_eq!(bench.transact(T, id(1), stale.clone()), aborted);
    bench.write(T, None, delete("a"));
    assert_eq!(bench.transact(T, id(1), stale), aborted, "even if it would hold now");
    let failing = part().only_if("a", Condition::Exists).put("b", "2");
    let cause = AbortCause::ConditionFailed {
        group: GROUP,
        condition: 0,
        current: None,
    };
    assert_eq!(
        bench.transact(T, id(2), failing),
        voted(Vote::Decided(Decision::Aborted(cause)))
    );
    assert_eq!(bench.get("b"), None);
}

#[test]
fn an_id_is_used_once() {
    let mut bench = Bench::new(Limits::default());
    let reused = ApplyOutcome::Refused(ApplyRefusal::TransactionIdReused(id(1)));
    bench.transact(T, id(1), part().put("a", "1"));
    let mut other = prepare_at(id(1), elsewhere(), part().put("b", "1"));
    other.fingerprint = Fingerprint(7);
    assert_eq!(bench.prepare_with(T, other.clone(), None), reused);
    let reused = |n| ApplyOutcome::Refused(ApplyRefusal::TransactionIdReused(id(n)));
    bench.prepare(id(2), part().put("c", "1"));
    other.id = id(2);
    assert_eq!(bench.prepare_with(T, other.clone(), None), reused(2));
    assert_eq!(bench.transact(T, id(2), part().put("d", "1")), reused(2));
    bench.commit(id(2));
    assert_eq!(bench.prepare_with(T, other, None), reused(2));
    assert_eq!((bench.get("b"), bench.get("d")), (None, None));
}

#[test]
fn a_promise_is_kept_out_of_sight_until_it_is_resolved() {
    let mut bench = Bench::new(Limits::default());
    bench.write(T, None, put("a", "1"));
    let wanted = part().read("a", 1).put("a", "2").put("b", "2").put_for("c", "2", 500);
    assert_eq!(bench.prepare(id(1), wanted.clone()), prepared(2));
    assert_eq!(bench.get("a"), Some(("1".into(), 1)));
    let intent = bench.machine.intent_on(&bench.store, b"b").unwrap().unwrap();
    assert_eq!((intent.id, intent.home), (id(1), elsewhere()));
    assert_eq!(intent.becomes.version, Version(2));
    assert_eq!(
        bench.prepare(id(1), wanted.clone()),
        prepared(2),
        "the old version, again"
    );
    assert_eq!(bench.commit(id(1)), Resolved::Now);
    assert_eq!(
        bench.get("a"),
        Some(("2".into(), 2)),
        "the prepare's index is the version"
    );
    assert_eq!(
        bench
            .machine
            .observe(&bench.store, &"c".into())
            .unwrap()
            .value
            .unwrap()
            .expires_at_ms,
        T + 500
    );
    assert!(!bench.machine.holds_locks());
    assert_eq!(bench.count(StateKind::Intent), 0);
    assert_eq!(bench.commit(id(1)), Resolved::Before);
    assert_eq!(
        bench.prepare(id(1), wanted),
        voted(Vote::Resolved { version: Version(2) }),
        "a late duplicate"
    );
    assert_eq!(bench.get("a"), Some(("2".into(), 2)));
}

#[test]
fn an_abort_leaves_a_mark_that_a_late_prepare_finds() {
    let mut bench = Bench::new(Limits::default());
    let marked = refused(AbortCause::Abandoned);
    bench.prepare(id(1), part().put("a", "1"));
    assert_eq!(bench.abort(id(1)), Resolved::Now);
    assert_eq!(bench.prepare(id(1), part().put("a", "1")), marked);
    assert_eq!(bench.abort(id(1)), Resolved::Before);
    assert_eq!(bench.abort(id(2)), Resolved::Nothing, "never heard of");
    assert_eq!(bench.prepare(id(2), part().put("a", "1")), marked);
    assert_eq!(bench.get("a"), None);
    assert!(!bench.machine.holds_locks());
}

#[test]
fn a_no_is_for_ever() {
    let mut bench = Bench::new(Limits::default());
    let wanted = part().read("a", 1).put("b", "1");
    let no = refused(AbortCause::ReadInvalidated { group: GROUP, read: 0 });
    assert_eq!(bench.prepare(id(1), wanted.clone()), no);
    bench.write(T, None, put("a", "1"));
    assert_eq!(bench.prepare(id(1), wanted), no);
    let failing = part().only_if("a", Condition::Absent).put("b", "1");
    let no = refused(AbortCause::ConditionFailed {
        group: GROUP,
        condition: 0,
        current: Some(Version(2)),
    });
    assert_eq!(bench.prepare(id(2), failing), no);
    assert!(!bench.machine.holds_locks());
}

#[test]
fn the_first_record_wins_at_home() {
    let mut bench = Bench::new(Limits::default());
    let wanted = part().put("a", "1");
    assert_eq!(bench.prepare_home(id(1), wanted.clone()), commits(id(1), 1));
    assert_eq!(bench.get("a"), Some(("1".into(), 1)), "in the same step");
    assert!(!bench.machine.holds_locks());
    assert_eq!(
        bench.decide(T, id(1), AbortCause::Operator),
        told(committed(id(1), 1)),
        "whatever is asked for later"
    );
    bench.write(T, None, put("a", "2"));
    assert_eq!(bench.prepare_home(id(1), wanted), commits(id(1), 1), "sent again");
    assert_eq!(bench.get("a"), Some(("2".into(), 3)), "and not done again");

    let aborted = told_aborted(AbortCause::Operator);
    assert_eq!(bench.decide(T, id(2), AbortCause::Operator), aborted, "never heard of");
    assert_eq!(
        bench.prepare_home(id(2), part().put("b", "1")),
        refused(AbortCause::Operator)
    );
    assert_eq!(bench.decide(T, id(2), AbortCause::Client), aborted);
    assert_eq!(bench.get("b"), None);
}

#[test]
fn the_home_commits_only_what_holds_and_what_nobody_is_in_the_way_of() {
    let mut bench = Bench::new(Limits::default());
    bench.write(T, None, put("a", "1"));
    let invalidated = AbortCause::ReadInvalidated { group: GROUP, read: 0 };
    let stale = part().read("a", 0).put("b", "1");
    assert_eq!(bench.prepare_home(id(1), stale), refused(invalidated));
    assert_eq!(
        bench.decide(T, id(1), AbortCause::Client),
        told_aborted(invalidated),
        "its mark is the record"
    );
    bench.prepare(id(5), part().put("c", "1"));
    assert_eq!(
        bench.prepare_home(id(3), part().put("c", "2")),
        blocked(id(5)),
        "the older waits, while others hold locks for it"
    );
    let dies = refused(AbortCause::Conflict { with: id(5) });
    assert_eq!(bench.prepare_home(id(7), part().read("c", 0).put("d", "2")), dies);
    bench.commit(id(5));
    assert_eq!(bench.prepare_home(id(3), part().put("c", "2")), commits(id(3), 8));
    assert_eq!((bench.get("b"), bench.get("d")), (None, None));
}

#[test]
fn only_the_home_group_decides() {
    let mut bench = Bench::new(Limits::default());
    let home = elsewhere();
    let not_here = ApplyOutcome::Refused(ApplyRefusal::NotTheHome { id: id(1), home });
    bench.prepare(id(1), part().put("a", "1"));
    assert_eq!(bench.decide(T, id(1), AbortCause::Client), not_here);
    assert_eq!(bench.prepare_home(id(1), part().put("a", "1")), not_here);
    assert!(bench.machine.promise_to(id(1)).is_some(), "the promise is kept");
    bench.commit(id(1));
    assert_eq!(
        bench.decide(T, id(1), AbortCause::Client),
        not_here,
        "it is resolved, and was decided there"
    );
    assert_eq!(bench.prepare_home(id(1), part().put("a", "1")), not_here);
}

#[test]
fn who_knows_the_id_alone_gets_no_decision_but_from_its_home() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("a", "1"));
    let (home, abort) = (elsewhere(), AbortCause::Operator);
    let not_here = ApplyOutcome::Refused(ApplyRefusal::NotTheHome { id: id(1), home });
    assert_eq!(bench.decide_of(T, id(1), None, abort), not_here);
    assert_eq!(bench.commit(id(1)), Resolved::Now, "the promise was kept");
    assert_eq!(bench.decide_of(T, id(1), None, abort), not_here);
    assert_eq!(bench.get("a"), Some(("1".into(), 1)));
}

#[test]
fn of_another_transaction_under_the_id_a_participant_says_that_it_promised_nothing() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("a", "1"));
    let other = Fingerprint(7);
    let not_prepared = told_aborted(AbortCause::NotPrepared { group: GROUP });
    bench.events();
    let kept = |bench: &Bench| StateKind::ALL.map(|kind| bench.count(kind));
    for _ in ["prepared", "resolved"] {
        let before = kept(&bench);
        let abort = AbortCause::Client;
        assert_eq!(bench.decide_of(T, id(1), Some(other), abort), not_prepared);
        assert_eq!(kept(&bench), before, "it leaves nothing");
        assert_eq!(bench.events(), []);
        bench.commit(id(1));
        bench.events();
    }
    assert_eq!(bench.get("a"), Some(("1".into(), 1)));
}

#[test]
fn an_abort_of_another_transaction_under_the_id_takes_nothing() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("a", "1"));
    assert_eq!(
        bench.resolve(T, id(1), abort_of(Some(Fingerprint(7)))),
        Resolved::Nothing
    );
    assert!(bench.machine.promise_to(id(1)).is_some());
    bench.commit(id(1));
    bench.events();
    assert_eq!(
        bench.resolve(T, id(1), abort_of(Some(Fingerprint(7)))),
        Resolved::Before
    );
    assert_eq!(bench.events(), [], "no contradiction: it is told of the other one");
    bench.prepare(id(2), part().put("a", "2"));
    assert_eq!(
        bench.resolve(T, id(2), abort_of(None)),
        Resolved::Now,
        "whatever is there"
    );
    assert_eq!(bench.get("a"), Some(("1".into(), 1)));
}

#[test]
fn another_transactions_commit_under_the_id_drops_what_is_held() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("a", "1"));
    assert_eq!(bench.resolve(T, id(1), Verdict::Commit(Fingerprint(7))), Resolved::Now);
    assert_eq!(bench.get("a"), None);
    assert_eq!(bench.commit(id(1)), Resolved::Before, "it is marked");
    assert_eq!(bench.get("a"), None);
    assert_eq!(
        bench.prepare(id(1), part().put("a", "1")),
        refused(AbortCause::NotPrepared { group: GROUP })
    );
}

#[test]
fn an_abort_after_a_commit_changes_nothing_and_is_seen() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("a", "1"));
    bench.commit(id(1));
    bench.events();
    assert_eq!(bench.abort(id(1)), Resolved::Before);
    assert_eq!(bench.events(), [TransactionEvent::Contradicted(id(1))]);
    assert_eq!(bench.get("a"), Some(("1".into(), 1)));
}

#[test]
fn ids_out_of_time_get_no_promise() {
    let mut bench = Bench::new(Limits::default());
    let (past, future) = (T + HORIZON + 2, T - HORIZON);
    let old = ApplyOutcome::Refused(ApplyRefusal::TooOldToTell);
    let early = ApplyOutcome::Refused(ApplyRefusal::TransactionOfTheFuture);
    let request = prepare_at(id(1), elsewhere(), part().put("a", "1"));
    assert_eq!(bench.prepare_with(future, request.clone(), None), early);
    assert_eq!(bench.transact(future, id(1), part().put("a", "1")), early);
    assert_eq!(bench.prepare_with(past, request.clone(), None), old);
    assert_eq!(bench.transact(past, id(1), part().put("a", "1")), old);
    assert_eq!(
        bench.prepare_with(past - 1, request, None),
        prepared(5),
        "at the horizon itself it may"
    );
}

#[test]
fn past_the_horizon_no_commit_is_recorded() {
    let mut bench = Bench::new(Limits::default());
    let past = T + HORIZON + 2;
    let request = prepare_at(id(1), here(), part().put("a", "1"));
    let old = ApplyOutcome::Refused(ApplyRefusal::TooOldToTell);
    assert_eq!(bench.prepare_with(past, request, None), old);
    assert_eq!(bench.get("a"), None);
    let too_old = told_aborted(AbortCause::TooOld);
    assert_eq!(
        bench.decide(past, id(1), AbortCause::Client),
        too_old,
        "whatever is asked"
    );
    assert_eq!(bench.count(StateKind::Transaction), 0, "its age says it from now on");
}

#[test]
fn a_plain_write_waits_as_a_whole_and_is_not_remembered() {
    let mut bench = Bench::new(Limits::default());
    bench.write(T, None, put("read", "1"));
    bench.prepare(id(1), part().put("a", "1").read("read", 1));
    let twice = request(1, T, 1);
    for key in ["a", "read"] {
        let ops = [put("free", "x"), put(key, "x")];
        let command = encode_write(twice.as_ref(), &ops);
        assert_eq!(bench.apply(T, Payload::Command(command)).unwrap(), blocked(id(1)));
    }
    assert_eq!(bench.get("free"), None);
    assert_eq!(bench.count(StateKind::Outcome), 0);
    assert_eq!(bench.write(T, None, put("free", "y")), applied(5, false));
    bench.abort(id(1));
    assert_eq!(
        bench.write(T, twice, put("a", "x")),
        applied(7, false),
        "the same key again"
    );
}

#[test]
fn a_repetition_of_a_plain_write_needs_no_lock() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.write(T, request(1, T, 1), put("a", "x")), applied(1, false));
    bench.prepare(id(1), part().put("a", "1"));
    let again = bench.write(T, request(1, T, 1), put("a", "x"));
    assert!(matches!(again, ApplyOutcome::Repeated(_)), "{again:?}");
}

#[test]
fn the_older_waits_and_the_younger_dies() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(5), part().put("a", "1"));
    assert_eq!(bench.prepare(id(3), part().put("a", "2").put("b", "2")), blocked(id(5)));
    assert_eq!(bench.count(StateKind::Transaction), 1, "blocked leaves nothing");
    let dies = refused(AbortCause::Conflict { with: id(5) });
    assert_eq!(bench.prepare(id(7), part().read("a", 0)), dies);
    let mut again = prepare_at(id(8), elsewhere(), part().put("a", "3"));
    again.priority = Priority(id(2));
    assert_eq!(
        bench.prepare_with(T, again, None),
        blocked(id(5)),
        "a later attempt is as old as the first"
    );
    assert_eq!(
        bench.transact(T, id(9), part().put("a", "3")),
        blocked(id(5)),
        "who holds nothing waits for anybody"
    );
    bench.commit(id(5));
    assert_eq!(bench.prepare(id(3), part().put("a", "2").put("b", "2")), prepared(7));
}

#[test]
fn readers_share_and_give_way_when_told() {
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(5), part().read("a", 0));
    assert_eq!(bench.prepare(id(6), part().read("a", 0)), prepared(2));
    assert_eq!(bench.prepare(id(4), part().put("a", "1")), blocked(id(5)));
    let late = prepare_at(id(7), elsewhere(), part().read("a", 0));
    let dies = refused(AbortCause::Conflict { with: id(4) });
    assert_eq!(bench.prepare_with(T, late.clone(), Some(id(4))), dies);
    assert_eq!(bench.prepare_with(T, late, None), dies, "marked");
    bench.abort(id(5));
    assert_eq!(bench.prepare(id(4), part().put("a", "1")), blocked(id(6)));
    bench.commit(id(6));
    assert_eq!(bench.prepare(id(4), part().put("a", "1")), prepared(9));
}

#[test]
fn promises_are_bounded() {
    let limits = Limits {
        prepared: 2,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    bench.prepare(id(1), part().put("a", "1"));
    bench.prepare(id(2), part().put("b", "1"));
    let full = ApplyOutcome::Refused(ApplyRefusal::TooManyPrepared);
    assert_eq!(bench.prepare(id(3), part().put("c", "1")), full);
    assert_eq!(
        bench.prepare(id(1), part().put("a", "1")),
        prepared(1),
        "a repetition has its place"
    );
    bench.abort(id(1));
    assert_eq!(bench.prepare(id(3), part().put("c", "1")), prepared(6));
    assert_eq!(
        bench.prepare_home(id(4), part().put("d", "1")),
        commits(id(4), 7),
        "the home group holds nothing"
    );
}

#[test]
fn who_waits_and_who_counts_is_told() {
    use TransactionEvent as E;
    let mut bench = Bench::new(Limits::default());
    bench.prepare(id(1), part().put("a", "1"));
    assert_eq!(bench.events(), [E::Prepared(id(1))]);
    bench.commit(id(1));
    let (released, committed) = (id(1), true);
    assert_eq!(
        bench.events(),
        [E::Released {
            id: released,
            committed
        }]
    );
    bench.prepare_home(id(2), part().put("a", "2"));
    let id = id(2);
    assert_eq!(bench.events(), [E::Committed(id), E::Unresolved(id)]);
    assert_eq!(bench.machine.unresolved().count(), 1);
    assert_eq!(
        bench.command(T, Command::Forget(vec![id])),
        ApplyOutcome::Transaction(TransactionAnswer::Done)
    );
    assert_eq!(bench.events(), [E::Forgotten(id)]);
    assert_eq!(bench.machine.unresolved().count(), 0);
}
