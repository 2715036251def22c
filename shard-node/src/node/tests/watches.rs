//! Steps of watches at one replica: what they cost, and how they end.

use super::fake::*;
use crate::event::{Event, RequestId};
use fulcrum_replication::{Answered as Permitted, Effect, Input, ReadId, ReadPermit};
use fulcrum_types::*;
use std::sync::Mutex;
use std::time::Duration;

/// A replica that has applied so many writes, of "a" and "b" in turn, and permits every read.
fn applied(writes: u64) -> Bench {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    more(&mut bench, 1, writes);
    bench
}

fn more(bench: &mut Bench, first: u64, writes: u64) {
    let ops: Vec<WriteOp> = (first..first + writes)
        .map(|n| if n % 2 == 0 { put("a", "even") } else { put("b", "odd") })
        .collect();
    let through = Index(first + writes - 1);
    let made = Mutex::new(vec![append(first, 1, first, &ops), Effect::Commit { through }]);
    bench.script(move |_, input| match input {
        Input::Tick { .. } => std::mem::take(&mut *made.lock().unwrap()),
        Input::Read { id, .. } => vec![permitted(id)],
        _ => Vec::new(),
    });
    bench.handle(1, Event::Tick { disk_healthy: true });
    bench.turn(1);
    bench.sync(1);
}

fn permitted(id: ReadId) -> Effect {
    let permit = ReadPermit {
        at: Index::ZERO,
        recheck_before: None,
        fresh_as_of: None,
        drift_ppm: 0,
        basis: StalenessBasis::None,
        rounds: 0,
    };
    let answer = Permitted::Permit(permit);
    Effect::AnswerRead { id, answer }
}

fn step(after: Cursor, selection: Selection, max_bytes: u32, wait_ms: u64) -> Operation {
    let query = Query::Changes(ChangesQuery {
        after: Some(after),
        selection,
        max_bytes,
        wait: Duration::from_millis(wait_ms),
    });
    Operation::Read(ReadRequest {
        level: Level::Eventual,
        acceptable: vec![],
        seen: None,
        query,
    })
}

fn turns(bench: &mut Bench, ms: u64) -> usize {
    let mut turns = 1;
    while bench.node.end_turn(at(ms), &mut bench.out) {
        turns += 1;
    }
    turns
}

fn told(bench: &mut Bench) -> Vec<(u64, Vec<u64>, Cursor)> {
    let replies = bench.replies().into_iter().map(|(id, result)| {
        let Answer::Changes { changes, reached, .. } = result.unwrap().answer else {
            panic!("not changes")
        };
        let at = changes.iter().map(|change| change.position.index.0).collect();
        (id, at, reached)
    });
    replies.collect()
}

fn behind(index: u64) -> Cursor {
    Cursor::behind(position(1, index))
}

#[test]
fn a_step_takes_what_fits_and_the_next_goes_on_behind_it() {
    let mut bench = applied(10);
    let mut cursor = behind(2);
    let mut seen = Vec::new();
    for id in 1.. {
        if cursor == behind(10) {
            break;
        }
        bench.ask(1, id, step(cursor, Selection::All, 130, 100));
        turns(&mut bench, 1);
        let (_, at, reached) = told(&mut bench).remove(0);
        assert!(!at.is_empty() && at.len() <= 3, "{at:?}");
        seen.extend(at);
        cursor = reached;
    }
    assert_eq!((seen, cursor), ((3..=10).collect(), behind(10)));
}

#[test]
fn what_is_not_selected_only_moves_the_cursor() {
    let mut bench = applied(9);
    bench.ask(1, 1, step(behind(0), Selection::Key("a".into()), 10_000, 100));
    bench.ask(1, 2, step(behind(0), Selection::Prefix("zzz".into()), 10_000, 100));
    turns(&mut bench, 1);
    assert_eq!(told(&mut bench), [(1, vec![2, 4, 6, 8], behind(9))]);
    assert_eq!(bench.node.status().watching, 1, "the other waits");
    bench.handle(102, Event::Tick { disk_healthy: true });
    turns(&mut bench, 102);
    assert_eq!(told(&mut bench), [(2, vec![], behind(9))]);
    assert_eq!((bench.node.status().watching, bench.node.status().waiting), (0, 0));
}

#[test]
fn a_watch_goes_on_within_an_entry() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    let ops = [put("a", "1"), put("b", "2"), put("a", "3")];
    let entry = Entry {
        position: position(1, 1),
        time: ReplicatedTime(5),
        payload: Payload::Command(crate::state_machine::encode_write(None, &ops)),
    };
    let change = fulcrum_replication::LogChange::Append(vec![entry]);
    let write = Effect::Write { id: WriteId(1), change };
    bench.effects(1, vec![write, Effect::Commit { through: Index(1) }]);
    more(&mut bench, 2, 1);
    let half = Cursor {
        position: position(1, 1),
        part: Some(1),
    };
    bench.ask(1, 1, step(half, Selection::All, 10_000, 100));
    let all = Cursor { part: Some(3), ..half };
    bench.ask(1, 2, step(all, Selection::All, 10_000, 100));
    turns(&mut bench, 1);
    let told = told(&mut bench);
    assert_eq!(told, [(1, vec![1, 1, 2], behind(2)), (2, vec![2], behind(2))]);
}

#[test]
fn many_watches_share_the_turns_and_too_many_are_refused() {
    let mut bench = applied(4);
    for id in 1..=1_024 {
        bench.ask(1, id, step(behind(4), Selection::All, 10_000, 500));
    }
    bench.ask(1, 2_000, step(behind(4), Selection::All, 10_000, 500));
    assert_eq!(turns(&mut bench, 1), 1, "nothing to do, nothing done");
    assert_eq!(bench.replies(), [(2_000, Err(Refusal::Overloaded))]);
    more(&mut bench, 5, 1);
    let turns = turns(&mut bench, 1);
    assert_eq!(told(&mut bench).len(), 1_024);
    assert!(turns > 100, "all at once would hold up everybody else: {turns} turns");
}

#[test]
fn who_goes_away_or_runs_out_of_time_is_forgotten() {
    let mut bench = applied(1);
    bench.ask(1, 1, step(behind(1), Selection::All, 10_000, 500));
    bench.ask(1, 2, step(behind(1), Selection::All, 10_000, 5_000));
    bench.handle(1, Event::Cancel { id: RequestId(1) });
    assert_eq!(bench.node.status().watching, 1);
    bench.handle(1_002, Event::Tick { disk_healthy: true });
    turns(&mut bench, 1_002);
    assert_eq!(bench.replies(), [(2, Err(Refusal::DeadlineExceeded))]);
    assert_eq!(bench.node.status().watching, 0);
}

#[test]
fn a_key_of_another_group_is_refused() {
    let mut bench = Bench::new(fulcrum_common::keyspace::KeyspaceOptions {
        groups: 8,
        ..options(Mode::Sync, Fsync::Always)
    });
    let mut refused = 0;
    for key in ["a", "b", "c", "d", "e"] {
        bench.ask(1, 1, step(behind(0), Selection::Key(key.into()), 100, 0));
        bench.turn(1);
        refused += bench
            .replies()
            .iter()
            .filter(|(_, r)| matches!(r, Err(Refusal::WrongGroup { .. })))
            .count();
    }
    assert!(refused >= 3, "{refused}");
}
