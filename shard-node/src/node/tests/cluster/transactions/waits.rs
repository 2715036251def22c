//! Waiting for locks: woken in order, cut in time, never lost.

use super::*;
use crate::storage::testing::Random;

#[test]
fn a_write_waits_for_a_lock_and_is_done_when_it_goes() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(primary, prepare(id, part(&[], &[("a", "1")])))));
    let [first, second] = ["2", "3"].map(|value| world.begin(primary, write(vec![put("a", value)])));
    let other = world.ask(primary, write(vec![put("b", "1")]));
    assert!(other.is_ok(), "other keys are free");
    world.pass(300);
    assert!(world.is_waiting(first) && world.is_waiting(second));
    world.ask(primary, commit(id)).unwrap();
    let versions = [first, second].map(|request| match world.reply(request) {
        Some(Ok(answered)) => answered.receipt.index,
        other => panic!("{other:?}"),
    });
    assert!(versions[0] < versions[1], "in the order of arrival");
    assert_eq!(world.value(primary, "a").as_deref(), Some("3"));
    let waits: Vec<_> = world
        .observed
        .iter()
        .filter(|(_, fact)| matches!(fact, Observation::LockWaited { cut: false, .. }))
        .collect();
    assert_eq!(waits.len(), 2);
}

#[test]
fn a_wait_is_cut_and_nothing_was_applied() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(primary, prepare(id, part(&[], &[("a", "1")])))));
    let waiting = world.begin(primary, write(vec![put("a", "2")]));
    world.pass(580);
    assert!(world.is_waiting(waiting));
    world.pass(60);
    assert_eq!(world.reply(waiting), Some(Err(Refusal::Locked { by: id })));
    world.ask(primary, abort(id)).unwrap();
    world.pass(200);
    assert_eq!(world.value(primary, "a"), None);
}

#[test]
fn a_client_that_goes_leaves_no_waiter_behind() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(primary, prepare(id, part(&[], &[("a", "1")])))));
    let waiting = world.begin(primary, write(vec![put("a", "2")]));
    let id_of = RequestId(waiting);
    world.inbox.push_back((primary, Event::Cancel { id: id_of }));
    world.settle();
    world.ask(primary, abort(id)).unwrap();
    world.pass(700);
    assert!(world.is_waiting(waiting), "nobody is answered");
    assert_eq!(world.value(primary, "a"), None);
}

#[test]
fn a_deposed_primary_answers_its_waiters_that_they_were_not_ordered() {
    let (mut world, old) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(old, prepare(id, part(&[], &[("a", "1")])))));
    let waiting = world.begin(old, write(vec![put("a", "2")]));
    world.inbox.push_back((old, Event::Drain));
    world.settle();
    for _ in 0..25 {
        if !world.is_waiting(waiting) {
            break;
        }
        world.pass(20);
    }
    let refused = world.reply(waiting).expect("answered").unwrap_err();
    assert_eq!(refused.code(), "NOT_PRIMARY");
}

#[test]
fn prepares_wait_or_die_and_the_oldest_gets_its_turn() {
    let (mut world, primary) = World::settled();
    let ids: Vec<TransactionId> = (0..10).map(|n| world.id(n)).collect();
    let wanted = || part(&[], &[("a", "x")]);
    assert!(is_prepared(world.ask(primary, prepare(ids[9], wanted()))));
    let dies = world.ask(
        primary,
        prepare(
            TransactionId {
                sequence: Sequence(10),
                ..ids[9]
            },
            wanted(),
        ),
    );
    let conflict = AbortCause::Conflict { with: ids[9] };
    assert_eq!(answer_of(dies), TransactionAnswer::Vote(Vote::Refused(conflict)));
    let waiting: Vec<u64> = [4, 2, 6]
        .map(|n| world.begin(primary, prepare(ids[n], wanted())))
        .to_vec();
    assert!(waiting.iter().all(|request| world.is_waiting(*request)));
    for (holder, next) in [(9, 2), (6, 0), (4, 1)] {
        world.ask(primary, abort(ids[holder])).unwrap();
        let reply = world.reply(waiting[next]).expect("the youngest of those that wait");
        assert!(is_prepared(reply));
    }
    world.ask(primary, commit(ids[2])).unwrap();
    assert!(world.has_no_locks(primary));
}

#[test]
fn a_prepare_that_was_sent_twice_is_answered_twice() {
    let (mut world, primary) = World::settled();
    let [young, old] = [world.id(2), world.id(1)];
    assert!(is_prepared(
        world.ask(primary, prepare(young, part(&[], &[("a", "x")])))
    ));
    let twice = [(); 2].map(|()| world.begin(primary, prepare(old, part(&[], &[("a", "y")]))));
    assert!(twice.iter().all(|request| world.is_waiting(*request)));
    world.ask(primary, abort(young)).unwrap();
    for request in twice {
        assert!(is_prepared(world.reply(request).expect("both at once")));
    }
}

#[test]
fn readers_give_way_to_an_older_writer_that_waits() {
    let (mut world, primary) = World::settled();
    let ids: Vec<TransactionId> = (0..4).map(|n| world.id(n)).collect();
    assert!(is_prepared(
        world.ask(primary, prepare(ids[1], part(&["a"], &[("b", "1")])))
    ));
    let writer = world.begin(primary, prepare(ids[0], part(&[], &[("a", "x")])));
    assert!(world.is_waiting(writer));
    let reader = world.ask(primary, prepare(ids[2], part(&["a"], &[("c", "1")])));
    let conflict = AbortCause::Conflict { with: ids[0] };
    assert_eq!(answer_of(reader), TransactionAnswer::Vote(Vote::Refused(conflict)));
    world.ask(primary, abort(ids[1])).unwrap();
    assert!(is_prepared(world.reply(writer).expect("its turn")));
}

#[test]
fn one_that_was_woken_and_is_refused_lets_the_next_have_its_turn() {
    let (mut world, primary) = World::settled();
    let ids: Vec<TransactionId> = (0..4).map(|n| world.id(n)).collect();
    assert!(is_prepared(
        world.ask(primary, prepare(ids[3], part(&[], &[("a", "x")])))
    ));
    let old = world.begin(primary, prepare(ids[0], part(&[], &[("a", "old")])));
    // It wants what it read to be gone, which it will not be.
    let doomed = world.begin(primary, prepare(ids[1], part(&["b"], &[("a", "young")])));
    world.ask(primary, write(vec![put("b", "there")])).unwrap();
    assert!(world.is_waiting(old) && world.is_waiting(doomed));
    world.ask(primary, abort(ids[3])).unwrap();
    let invalidated = AbortCause::ReadInvalidated { group: GROUP, read: 0 };
    let reply = world.reply(doomed).expect("woken first");
    assert_eq!(answer_of(reply), TransactionAnswer::Vote(Vote::Refused(invalidated)));
    world.pass(20);
    assert!(is_prepared(world.reply(old).expect("woken next, at once")));
}

#[test]
fn one_that_was_marked_while_it_waited_finds_its_mark() {
    let (mut world, primary) = World::settled();
    let [young, old] = [world.id(2), world.id(1)];
    assert!(is_prepared(
        world.ask(primary, prepare(young, part(&[], &[("a", "x")])))
    ));
    let waiting = world.begin(primary, prepare(old, part(&[], &[("a", "y")])));
    world.ask(primary, abort(old)).unwrap();
    world.ask(primary, abort(young)).unwrap();
    let reply = world.reply(waiting).expect("woken");
    assert_eq!(
        answer_of(reply),
        TransactionAnswer::Vote(Vote::Refused(AbortCause::Client))
    );
    assert!(world.has_no_locks(primary));
}

/// Writers and transactions crowd on three keys, over failovers: everybody is answered, and nothing is left locked.
#[test]
fn a_crowd_is_served_and_leaves_nothing() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let (mut world, mut primary) = World::settled();
        let (mut open, mut held): (Vec<(u64, Option<TransactionId>)>, Vec<TransactionId>) = (vec![], vec![]);
        for step in 0..250 {
            let key = ["a", "b", "c"][random.below(3) as usize];
            let other = ["a", "b", "c"][random.below(3) as usize];
            match random.below(10) {
                _ if step == 60 + 30 * seed => {
                    world.crash(primary);
                    let old = primary;
                    primary = world.primary();
                    world.start(old);
                }
                0..=2 => {
                    let request = world.begin(primary, write(vec![put(key, "w")]));
                    open.push((request, None));
                }
                3..=6 => {
                    let id = TransactionId {
                        sequence: Sequence(random.below(1_000) * 1_000 + step),
                        ..world.id(0)
                    };
                    let wanted = match other == key {
                        true => part(&[], &[(key, "t")]),
                        false => part(&[], &[(key, "t"), (other, "t")]),
                    };
                    let request = world.begin(primary, prepare(id, wanted));
                    open.push((request, Some(id)));
                }
                _ => world.pass(20),
            }
            open.retain(|(request, transaction)| match (world.reply(*request), transaction) {
                (None, _) => true,
                (Some(Ok(answered)), Some(id)) => {
                    if let Answer::Transaction(TransactionAnswer::Vote(Vote::Prepared { .. })) = answered.answer {
                        held.push(*id);
                    }
                    false
                }
                (Some(_), _) => false,
            });
            if !held.is_empty() && random.below(4) == 0 {
                let id = held.swap_remove(random.below(held.len() as u64) as usize);
                let operation = if random.below(2) == 0 { commit(id) } else { abort(id) };
                let request = world.begin(primary, operation);
                open.push((request, None));
            }
        }
        let waited = |(_, fact): &&(NodeId, Observation)| matches!(fact, Observation::LockWaited { .. });
        assert!(
            world.observed.iter().filter(waited).count() > 20,
            "seed {seed}: it was no crowd"
        );
        world.pass(700);
        world.until_in_sync(3);
        primary = world.primary();
        // Whoever's answer was lost with a primary is in doubt still: it is asked after, and aborted.
        for _ in 0..100 {
            for (node, ask, _, operation) in world.questions() {
                assert!(matches!(operation, TransactionOperation::Decide(_)), "{operation:?}");
                let aborted = Decision::Aborted(AbortCause::Abandoned);
                world.other_answers(node, ask, TransactionAnswer::Decision(aborted));
            }
            world.pass(100);
        }
        assert!(world.has_no_locks(primary), "seed {seed}: {:?}", world.pending(primary));
        let unanswered: Vec<_> = open.iter().filter(|(request, _)| world.is_waiting(*request)).collect();
        assert!(
            unanswered.len() <= 20,
            "only those of a crashed primary: {unanswered:?}"
        );
        assert!(world.ask(primary, write(vec![put("a", "free")])).is_ok());
        world.pass(500);
        let sums = world.checksums();
        assert!(sums.len() == 3 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    }
}
