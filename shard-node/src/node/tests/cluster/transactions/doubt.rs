//! Coordinators that fall silent: what participants and home groups do on their own.

use super::*;

fn asked_to_abort(id: TransactionId) -> TransactionOperation {
    TransactionOperation::Decide(Decide {
        id,
        fingerprint: Some(fingerprint(id)),
        cause: AbortCause::Abandoned,
    })
}

/// Passes time until another group is asked.
fn until_asked(world: &mut World, at_most_ms: u64) -> Vec<(NodeId, AskId, Participant, TransactionOperation)> {
    for _ in 0..at_most_ms / 20 {
        let asked = world.questions();
        if !asked.is_empty() {
            return asked;
        }
        world.pass(20);
    }
    panic!("nobody was asked within {at_most_ms} ms");
}

#[test]
fn a_participant_asks_the_home_when_its_patience_is_over() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(primary, prepare(id, part(&[], &[("a", "1")])))));
    world.pass(900);
    assert!(world.questions().is_empty(), "not yet");
    let asked = until_asked(&mut world, 300);
    let [(node, ask, to, operation)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((*node, *to, operation), (primary, elsewhere(), &asked_to_abort(id)));
    world.other_is_silent(*node, *ask);
    let again = until_asked(&mut world, 400);
    assert_eq!(again[0].3, asked_to_abort(id), "again and again");
    world.other_answers(primary, again[0].1, TransactionAnswer::Decision(committed(id)));
    world.pass(20);
    assert_eq!(
        world.value(primary, "a").as_deref(),
        Some("1"),
        "the first record had won"
    );
    assert!(world.has_no_locks(primary));
    let own = |(_, fact): &(NodeId, Observation)| {
        matches!(
            fact,
            Observation::TransactionResolved {
                on_its_own: true,
                committed: true,
                ..
            }
        )
    };
    assert!(world.observed.iter().any(own));
    world.pass(2000);
    assert!(world.questions().is_empty(), "it is settled");
}

#[test]
fn signs_of_life_lengthen_its_patience_but_not_for_ever() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(primary, prepare(id, part(&[], &[("a", "1")])))));
    let heartbeat = Operation::Transaction(TransactionOperation::Heartbeat(vec![id]));
    for _ in 0..7 {
        world.pass(500);
        assert_eq!(
            answer_of(world.ask(primary, heartbeat.clone())),
            TransactionAnswer::Done
        );
        assert!(world.questions().is_empty());
    }
    let info = world.pending(primary);
    assert!(info[0].silent.is_some_and(|silent| silent < Duration::from_millis(100)));
    assert!(info[0].age >= Duration::from_secs(3));
    world.ask(primary, heartbeat).unwrap();
    let asked = until_asked(&mut world, 700);
    assert_eq!(asked[0].3, asked_to_abort(id));
    let backup = (1..=3).map(NodeId).find(|node| *node != primary).unwrap();
    let refused = world.ask(
        backup,
        Operation::Transaction(TransactionOperation::Heartbeat(vec![id])),
    );
    assert_eq!(refused.unwrap_err().code(), "NOT_PRIMARY");
}

#[test]
fn a_new_primary_takes_over_the_doubt_with_all_its_patience() {
    let (mut world, old) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(old, prepare(id, part(&[], &[("a", "1")])))));
    world.crash(old);
    let new = world.primary();
    world.questions();
    let asked = until_asked(&mut world, 1500);
    assert_eq!((asked[0].0, &asked[0].3), (new, &asked_to_abort(id)));
    let aborted = Decision::Aborted(AbortCause::Abandoned);
    world.other_answers(new, asked[0].1, TransactionAnswer::Decision(aborted));
    world.pass(20);
    assert_eq!(world.value(new, "a"), None);
    assert!(world.has_no_locks(new));
}

#[test]
fn a_commit_that_comes_after_the_abort_fails() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    let aborted = Decision::Aborted(AbortCause::Abandoned);
    assert_eq!(
        answer_of(world.ask(primary, decide(id, AbortCause::Abandoned))),
        TransactionAnswer::Decision(aborted),
        "never heard of"
    );
    let late = world.ask(primary, commit_here(id, part(&[], &[("a", "1")])));
    let refused = TransactionAnswer::Vote(Vote::Refused(AbortCause::Abandoned));
    assert_eq!(answer_of(late), refused);
    assert_eq!(world.value(primary, "a"), None);
}

/// It waits for a lock while the others have promised: whoever gives it up has the last word.
#[test]
fn a_commit_that_waits_for_a_lock_is_overtaken_by_the_abort() {
    let (mut world, primary) = World::settled();
    let [old, young] = [world.id(1), world.id(2)];
    assert!(is_prepared(
        world.ask(primary, prepare(young, part(&[], &[("a", "1")])))
    ));
    let waiting = world.begin(primary, commit_here(old, part(&[], &[("a", "2")])));
    assert!(world.is_waiting(waiting), "the older waits");
    world.ask(primary, decide(old, AbortCause::Abandoned)).unwrap();
    world.ask(primary, commit(young)).unwrap();
    let reply = world.reply(waiting).expect("woken");
    let refused = TransactionAnswer::Vote(Vote::Refused(AbortCause::Abandoned));
    assert_eq!(answer_of(reply), refused);
    assert_eq!(world.value(primary, "a").as_deref(), Some("1"));
}

#[test]
fn the_home_group_tells_participants_what_their_coordinator_did_not() {
    let (mut world, old) = World::settled();
    let id = world.id(1);
    assert!(is_committed(world.ask(old, commit_here(id, part(&[], &[("a", "1")])))));
    assert_eq!(world.value(old, "a").as_deref(), Some("1"));
    world.pass(1800);
    assert!(world.questions().is_empty(), "the coordinator has its time");
    let told = until_asked(&mut world, 400);
    let verdict = Verdict::Commit(fingerprint(id));
    let expected = TransactionOperation::Resolve(vec![Resolution { id, verdict }]);
    assert_eq!((told[0].2, &told[0].3), (elsewhere(), &expected));
    world.other_is_silent(old, told[0].1);
    world.crash(old);
    let new = world.primary();
    world.questions();
    let told = until_asked(&mut world, 2600);
    assert_eq!((told[0].0, &told[0].3), (new, &expected), "its successor, too");
    assert_eq!(world.pending(new)[0].pending, Pending::Unresolved);
    world.other_answers(new, told[0].1, TransactionAnswer::Resolved(vec![Resolved::Before]));
    world.pass(100);
    assert!(world.pending(new).is_empty());
    world.pass(3000);
    assert!(world.questions().is_empty());
}

#[test]
fn many_in_doubt_are_settled_together() {
    let (mut world, primary) = World::settled();
    let keys = ["a", "b", "c", "d", "e"];
    let ids: Vec<TransactionId> = (0..5).map(|n| world.id(n)).collect();
    for (id, key) in ids.iter().zip(keys) {
        assert!(is_prepared(world.ask(primary, prepare(*id, part(&[], &[(key, "1")])))));
    }
    let asked = until_asked(&mut world, 1300);
    let mut asked: Vec<_> = asked.into_iter().collect();
    world.pass(60);
    asked.extend(world.questions());
    assert_eq!(asked.len(), 5);
    for (node, ask, _, _) in asked {
        let aborted = Decision::Aborted(AbortCause::Abandoned);
        let answer = TransactionAnswer::Decision(aborted);
        world.other_answers(node, ask, answer);
    }
    world.pass(20);
    assert!(world.has_no_locks(primary));
}

#[test]
fn what_is_only_unresolved_does_not_crowd_out_what_is_in_doubt() {
    let (mut world, primary) = World::settled();
    for (n, key) in [(1, "a"), (2, "b")] {
        let id = world.id(n);
        let commits = commit_here(id, part(&[], &[(key, "1")]));
        assert!(is_committed(world.ask(primary, commits)));
        world.pass(20);
    }
    let id = world.id(3);
    assert!(is_prepared(world.ask(primary, prepare(id, part(&[], &[("c", "1")])))));
    let listed = world.pending_at_most(primary, 2);
    let told: Vec<_> = listed.iter().map(|info| (info.id.sequence.0, info.pending)).collect();
    assert_eq!(told, [(3, Pending::InDoubt), (1, Pending::Unresolved)]);
}

#[test]
fn a_home_group_that_is_silent_does_not_hold_up_the_others() {
    let (mut world, primary) = World::settled();
    let other = Participant {
        group: GroupId(78),
        ..elsewhere()
    };
    for n in 0..300 {
        let key: &'static str = Box::leak(format!("k{n}").into_boxed_str());
        let promise = prepare(world.id(n), part(&[], &[(key, "1")]));
        assert!(is_prepared(world.ask(primary, promise)));
    }
    let id = world.id(300);
    let promise = TransactionOperation::Prepare(Box::new(PrepareRequest {
        id,
        priority: Priority(id),
        fingerprint: fingerprint(id),
        home: other,
        participants: vec![here(), other],
        seen: None,
        votes: Vec::new(),
        part: part(&[], &[("a", "1")]),
    }));
    assert!(is_prepared(world.ask(primary, Operation::Transaction(promise))));
    world.pass(1500);
    let asked = world.questions();
    let of = |home| asked.iter().filter(|(_, _, to, _)| *to == home).count();
    assert_eq!((of(elsewhere()), of(other)), (256, 1));

    // Once it is back all have their turn.
    let aborted = || TransactionAnswer::Decision(Decision::Aborted(AbortCause::Abandoned));
    for (node, ask, _, _) in asked {
        world.other_answers(node, ask, aborted());
    }
    world.pass(40);
    let rest = world.questions();
    assert_eq!(rest.len(), 300 - 256);
    for (node, ask, _, _) in rest {
        world.other_answers(node, ask, aborted());
    }
    world.pass(40);
    assert!(world.has_no_locks(primary));
}

#[test]
fn a_participant_that_is_asked_for_the_outcome_names_the_home() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(primary, prepare(id, part(&[], &[("a", "1")])))));
    let look_up = Operation::Transaction(TransactionOperation::LookUp(id));
    let home = elsewhere();
    let promised = TransactionAnswer::State(TransactionState::Promised { home });
    assert_eq!(answer_of(world.ask(primary, look_up.clone())), promised);
    world.ask(primary, commit(id)).unwrap();
    let refused = world.ask(primary, look_up).unwrap_err();
    assert_eq!(refused.code(), "INVALID", "the home alone says what became of it");
}
