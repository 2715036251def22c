//! When a read is answered, and what its receipt says.

use super::fake::*;
use crate::event::{Event, RequestId};
use fulcrum_replication::{Answered as Permitted, Effect, Input, ReadPermit, ReadRefusal, ReadWanted};
use fulcrum_types::*;
use std::time::Duration;

fn permit(at: u64, until_ms: Option<u64>) -> ReadPermit {
    ReadPermit {
        at: Index(at),
        recheck_before: until_ms.map(|ms| Mono(ms * 1_000_000)),
        fresh_as_of: Some(Mono(0)),
        drift_ppm: 10_000,
        basis: StalenessBasis::Lease,
        rounds: 0,
    }
}

fn answering(answer: impl Fn(Now, ReadWanted) -> Permitted) -> impl Fn(Now, Input) -> Vec<Effect> {
    move |now, input| match input {
        Input::Read { id, wanted } => vec![Effect::AnswerRead {
            id,
            answer: answer(now, wanted),
        }],
        _ => Vec::new(),
    }
}

/// A primary with `a = 1` at index 1.
fn bench(mode: Mode) -> Bench {
    let mut bench = Bench::new(options(mode, Fsync::Always));
    bench.effects(
        0,
        vec![append(1, 1, 1, &[put("a", "1")]), Effect::Commit { through: Index(1) }],
    );
    bench.sync(0);
    bench.out.clear();
    bench
}

fn value(answered: &Answered) -> Option<Vec<u8>> {
    let Answer::Values(values) = &answered.answer else {
        panic!("{answered:?}")
    };
    values[0].as_ref().map(|v| v.value.to_vec())
}

#[test]
fn a_permitted_read_is_answered_in_its_turn() {
    let mut bench = bench(Mode::Sync);
    bench.script(answering(|_, _| Permitted::Permit(permit(1, Some(500)))));
    bench.ask(100, 1, get("a", Level::Linearizable, vec![]));
    bench.turn(100);
    let replies = bench.replies();
    let (1, Ok(answered)) = &replies[0] else {
        panic!("{replies:?}")
    };
    assert_eq!(value(answered), Some(b"1".to_vec()));
    let receipt = &answered.receipt;
    assert_eq!(
        (receipt.epoch, receipt.index, receipt.basis),
        (Epoch(1), Index(1), StalenessBasis::Lease)
    );
    assert_eq!(
        receipt.staleness,
        Some(Duration::from_millis(101)),
        "now - fresh_as_of, stretched by the drift bound"
    );
    assert!(!receipt.durable && receipt.acknowledged_by.is_empty());
}

#[test]
fn a_lease_that_ran_out_during_the_evaluation_is_asked_for_again() {
    let mut bench = bench(Mode::Sync);
    bench.script(answering(|_, _| Permitted::Permit(permit(1, Some(500)))));
    bench.ask(499, 1, get("a", Level::Linearizable, vec![]));
    bench.script(answering(|_, _| Permitted::Permit(permit(1, Some(900)))));
    bench.turn(500);
    assert!(
        bench.replies().is_empty(),
        "evaluated under a lease that had run out by the turn's end"
    );
    bench.turn(501);
    assert!(bench.replies()[0].1.is_ok());
}

#[test]
fn a_read_gives_up_on_a_lease_that_keeps_running_out() {
    let mut bench = bench(Mode::Sync);
    bench.script(answering(|_, _| Permitted::Permit(permit(1, Some(500)))));
    bench.ask(499, 1, get("a", Level::Linearizable, vec![]));
    for ms in 500..510 {
        bench.turn(ms);
    }
    assert_eq!(bench.replies(), [(1, Err(Refusal::Fenced))]);
}

#[test]
fn a_read_waits_for_its_index_to_be_applied() {
    let mut bench = bench(Mode::Sync);
    bench.script(answering(|_, _| Permitted::Permit(permit(2, None))));
    bench.ask(1, 1, get("a", Level::Session, vec![]));
    bench.turn(1);
    assert!(bench.replies().is_empty());
    bench.effects(
        2,
        vec![append(2, 1, 2, &[put("a", "2")]), Effect::Commit { through: Index(2) }],
    );
    let replies = bench.replies();
    assert_eq!(value(replies[0].1.as_ref().unwrap()), Some(b"2".to_vec()));
}

#[test]
fn a_weaker_level_is_tried_only_if_it_is_listed() {
    let mut bench = bench(Mode::Sync);
    bench.script(answering(|_, wanted| match wanted {
        ReadWanted::Eventual => Permitted::Permit(permit(1, None)),
        ReadWanted::Bounded(_) => Permitted::Refused(ReadRefusal::TooStale(Some(Duration::from_secs(9)))),
        _ => Permitted::Refused(ReadRefusal::Fenced),
    }));
    let bounded = Level::Bounded(Duration::from_secs(1));
    bench.ask(1, 1, get("a", Level::Linearizable, vec![]));
    bench.ask(1, 2, get("a", Level::Linearizable, vec![bounded, Level::Eventual]));
    bench.ask(1, 3, get("a", bounded, vec![]));
    bench.turn(1);
    let mut replies = bench.replies();
    replies.sort_by_key(|(id, _)| *id);
    assert_eq!(replies[0].1, Err(Refusal::Fenced));
    let receipt = &replies[1].1.as_ref().unwrap().receipt;
    assert_eq!(
        (receipt.asked, receipt.achieved),
        (Level::Linearizable, Level::Eventual)
    );
    let bound = Some(Duration::from_secs(9));
    assert_eq!(
        replies[2].1,
        Err(Refusal::CannotServe {
            level: bounded,
            bound,
            hint: None
        })
    );
}

#[test]
fn an_async_keyspace_has_no_linearizable_reads() {
    let mut bench = bench(Mode::Async);
    bench.script(answering(|_, _| Permitted::Permit(permit(1, None))));
    bench.ask(1, 1, get("a", Level::Linearizable, vec![]));
    bench.ask(1, 2, get("a", Level::Linearizable, vec![Level::Session]));
    bench.turn(1);
    let replies = bench.replies();
    assert_eq!(
        replies[0].1,
        Err(Refusal::IllegalLevel {
            level: Level::Linearizable,
            mode: Mode::Async
        })
    );
    assert_eq!(replies[1].1.as_ref().unwrap().receipt.achieved, Level::Session);
}

/// Word of an outcome acknowledges the write: a primary that may have been replaced does not give it.
#[test]
fn an_async_outcome_is_told_only_under_a_lease() {
    let mut bench = bench(Mode::Async);
    bench.script(answering(|now, wanted| match wanted {
        ReadWanted::Linearizable if now.mono < at(200).mono => Permitted::Permit(permit(1, Some(250))),
        _ => Permitted::Refused(ReadRefusal::Fenced),
    }));
    let key = IdempotencyKey {
        client: ClientId(7),
        sequence: Sequence(1),
        issued_at_ms: at(0).wall_ms,
        low_water: Sequence(1),
    };
    bench.ask(100, 1, Operation::Outcome(key));
    bench.turn(100);
    let replies = bench.replies();
    let receipt = &replies[0].1.as_ref().unwrap().receipt;
    assert_eq!(receipt.achieved, Level::Eventual, "as an `async` write counts");
    bench.out.clear();
    bench.ask(100, 2, Operation::Outcome(key));
    bench.turn(300);
    assert_eq!(
        bench.replies(),
        [(2, Err(Refusal::Fenced))],
        "the lease ran out meanwhile"
    );
}

#[test]
fn a_read_that_became_too_stale_while_it_waited_is_not_served_as_bounded() {
    let mut bench = bench(Mode::Sync);
    bench.script(answering(|_, _| Permitted::Permit(permit(1, None))));
    let bounded = Level::Bounded(Duration::from_millis(50));
    bench.ask(1, 1, get("a", bounded, vec![Level::Eventual]));
    for ms in 100..105 {
        bench.turn(ms);
    }
    let replies = bench.replies();
    let receipt = &replies[0].1.as_ref().unwrap().receipt;
    assert_eq!((receipt.asked, receipt.achieved), (bounded, Level::Eventual));
}

#[test]
fn a_read_that_waits_is_answered_by_its_deadline_or_not_at_all() {
    let mut bench = bench(Mode::Sync);
    bench.script(|_, _| Vec::new());
    bench.ask(1, 1, get("a", Level::Linearizable, vec![]));
    bench.ask(1, 2, get("a", Level::Linearizable, vec![]));
    bench.handle(2, Event::Cancel { id: RequestId(2) });
    bench.handle(1001, Event::Tick { disk_healthy: true });
    bench.turn(1001);
    assert_eq!(bench.replies(), [(1, Err(Refusal::DeadlineExceeded))]);
}
