//! A group that is held for a cut, and the state of the cut as it is read.

use super::*;
use crate::state_machine::{page, verdicts};
use fulcrum_types::{CutId, CutPage, CutPoint, CutStep, CutVerdict};

const CUT: CutId = CutId(70);
const HOLD: Duration = Duration::from_millis(100);

fn held(index: u64, time: u64) -> ApplyOutcome {
    ApplyOutcome::Cut(CutAnswer::Held(CutPoint {
        position: LogPosition {
            epoch: Epoch(1),
            index: Index(index),
        },
        time: ReplicatedTime(time),
    }))
}

const LAPSED: ApplyOutcome = ApplyOutcome::Cut(CutAnswer::Lapsed);
const DONE: ApplyOutcome = ApplyOutcome::Cut(CutAnswer::Done);
const BEING_CUT: ApplyOutcome = ApplyOutcome::Refused(ApplyRefusal::BeingCut);

impl Bench {
    fn hold(&mut self, time: u64, id: CutId) -> ApplyOutcome {
        self.command(time, Command::Cut(CutStep::Hold { id, hold: HOLD }))
    }

    fn release(&mut self, time: u64, id: CutId) -> ApplyOutcome {
        self.command(time, Command::Cut(CutStep::Release { id }))
    }

    fn page(&self, start: &'static str, max_bytes: usize) -> CutPage {
        let machine = &self.machine;
        let (at, start) = (machine.time(), start.as_bytes());
        page(&self.store, GROUP, machine.generation, at, start, max_bytes).unwrap()
    }
}

fn bench() -> Bench {
    Bench::new(Limits {
        horizon: Duration::from_millis(HORIZON),
        ..Limits::default()
    })
}

#[test]
fn a_held_group_promises_and_commits_nothing_and_does_all_else() {
    let mut bench = bench();
    assert_eq!(bench.prepare(id(1), part().put("a", "1")), prepared(1));
    assert_eq!(bench.prepare(id(2), part().put("b", "1")), prepared(2));
    assert_eq!(bench.hold(T, CUT), held(3, T));
    assert_eq!(bench.prepare(id(3), part().put("c", "1")), BEING_CUT);
    assert_eq!(bench.prepare_home(id(4), part().put("c", "1")), BEING_CUT);
    assert_eq!(bench.transact(T, id(5), part().put("c", "1")), BEING_CUT);
    // Nothing of it is remembered, and what was promised before is said again.
    assert_eq!(bench.count(StateKind::Transaction), 2);
    assert_eq!(bench.prepare(id(1), part().put("a", "1")), prepared(1));
    assert_eq!(bench.commit(id(1)), Resolved::Now);
    assert_eq!(bench.abort(id(2)), Resolved::Now);
    assert_eq!(
        bench.decide(T, id(6), AbortCause::Abandoned),
        told_aborted(AbortCause::Abandoned)
    );
    assert_eq!(bench.write(T, None, put("c", "2")), applied(11, false));
    assert_eq!(bench.release(T, CUT), held(3, T));
    assert_eq!(bench.prepare(id(3), part().put("d", "1")), prepared(13));
    assert_eq!(
        bench.transact(T, id(5), part().put("e", "1")),
        one_group_commit(id(5), 14)
    );
}

#[test]
fn a_hold_ends_by_the_time_of_the_log_and_the_release_says_so() {
    let mut bench = bench();
    assert_eq!(bench.hold(T, CUT), held(1, T));
    assert_eq!(bench.transact(T + 100, id(1), part().put("a", "1")), BEING_CUT);
    assert_eq!(
        bench.transact(T + 101, id(1), part().put("a", "1")),
        one_group_commit(id(1), 3)
    );
    assert_eq!(bench.release(T + 101, CUT), LAPSED);
    assert_eq!(bench.release(T + 101, CutId(5)), LAPSED);
    // It does not begin anew.
    assert_eq!(bench.hold(T + 101, CUT), LAPSED);
}

#[test]
fn steps_that_come_twice_find_what_was_done() {
    let mut bench = bench();
    assert_eq!(bench.hold(T, CUT), held(1, T));
    assert_eq!(bench.hold(T + 50, CUT), held(1, T));
    assert_eq!(bench.hold(T + 50, CutId(71)), BEING_CUT);
    bench.reopen();
    assert_eq!(bench.release(T + 60, CUT), held(1, T));
    assert_eq!(bench.release(T + 600, CUT), held(1, T));
    assert_eq!(bench.hold(T + 600, CUT), LAPSED);
    assert_eq!(bench.hold(T + 600, CutId(71)), held(7, T + 600));
    assert_eq!(bench.command(T + 600, Command::Cut(CutStep::Keep { id: CUT })), DONE);
    assert_eq!(bench.command(T + 600, Command::Cut(CutStep::End { id: CUT })), DONE);
    assert_eq!(bench.transact(T + 600, id(1), part().put("a", "1")), BEING_CUT);
    assert_eq!(
        bench.command(T + 600, Command::Cut(CutStep::End { id: CutId(71) })),
        DONE
    );
    assert_eq!(bench.release(T + 600, CutId(71)), LAPSED);
    assert_eq!(
        bench.transact(T + 600, id(1), part().put("a", "1")),
        one_group_commit(id(1), 13)
    );
}

/// Two backups at once, step by step in between each other. One record is kept, of the last cut: the other one is never told that it was
/// held when it was not, and what it does late harms nobody.
#[test]
fn of_two_cuts_that_interleave_neither_is_told_of_the_others_hold() {
    const OTHER: CutId = CutId(71);
    let end = |id| Command::Cut(CutStep::End { id });
    let mut bench = bench();
    assert_eq!(bench.hold(T, CUT), held(1, T));
    assert_eq!(bench.hold(T, OTHER), BEING_CUT);
    // What the refused one says then is not the other's end.
    assert_eq!(bench.release(T, OTHER), LAPSED);
    assert_eq!(bench.command(T, end(OTHER)), DONE);
    assert_eq!(bench.transact(T, id(1), part().put("a", "1")), BEING_CUT);
    assert_eq!(bench.release(T, CUT), held(1, T));
    // Released here, and not yet elsewhere: the other one may hold, and the first one's record is gone.
    assert_eq!(bench.hold(T, OTHER), held(7, T));
    assert_eq!(bench.release(T, CUT), LAPSED, "an answer that was lost is not made up");
    assert_eq!(bench.command(T, end(CUT)), DONE);
    assert_eq!(bench.transact(T, id(1), part().put("a", "1")), BEING_CUT);
    assert_eq!(bench.hold(T, CUT), BEING_CUT);
    assert_eq!(bench.release(T, OTHER), held(7, T));
    // A hold that was long under way begins anew, elsewhere in the log: no release passes for that of the first.
    assert_eq!(bench.hold(T + 1, CUT), held(13, T + 1));
    assert_eq!(bench.release(T + 1, OTHER), LAPSED);
    assert_eq!(bench.release(T + 1, CUT), held(13, T + 1));
    assert_eq!(
        bench.transact(T + 1, id(1), part().put("a", "1")),
        one_group_commit(id(1), 16)
    );
}

/// A hold that lapsed and was followed by another cut's.
#[test]
fn a_lapsed_cut_is_not_found_again_behind_another_one() {
    const OTHER: CutId = CutId(71);
    let mut bench = bench();
    assert_eq!(bench.hold(T, CUT), held(1, T));
    assert_eq!(bench.hold(T + 101, OTHER), held(2, T + 101));
    assert_eq!(bench.release(T + 101, CUT), LAPSED);
    bench.reopen();
    assert_eq!(bench.release(T + 102, CUT), LAPSED);
    assert_eq!(bench.release(T + 102, OTHER), held(2, T + 101));
}

#[test]
fn pages_have_values_and_intents_of_the_same_keys_once_each() {
    let mut bench = bench();
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "1"), ("e", "1")] {
        bench.write(T, None, put(key, value));
    }
    bench.write(T, None, put_for("gone", "1", 10));
    bench.write(T + 20, None, delete("c"));
    let wanted = part().put("b", "2").delete("d").put_for("f", "2", 1_000);
    bench.prepare_with(T + 20, prepare_at(id(1), elsewhere(), wanted), None);
    let whole = bench.page("", 1_000);
    let keys = |page: &CutPage| page.rows.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&whole), ["a", "b", "e"]);
    let intents: Vec<_> = whole
        .intents
        .iter()
        .map(|intent| {
            assert_eq!((intent.id, intent.home), (id(1), elsewhere()));
            assert_eq!(intent.fingerprint, fingerprint(id(1)));
            let becomes = intent.becomes.as_ref();
            (
                &intent.key[..],
                becomes.map(|value| (&value.value[..], value.expires_at_ms)),
            )
        })
        .collect();
    let b = (&b"b"[..], Some((&b"2"[..], 0)));
    let f = (&b"f"[..], Some((&b"2"[..], T + 1_020)));
    assert_eq!(intents, [b, (&b"d"[..], None), f]);
    assert_eq!(whole.next, None);

    // Page by page it is the same.
    let (mut together, mut start, mut pages) = (CutPage::default(), Bytes::new(), 0);
    loop {
        let machine = &bench.machine;
        let one = page(&bench.store, GROUP, machine.generation, machine.time(), &start, 1).unwrap();
        together.rows.extend(one.rows);
        together.intents.extend(one.intents);
        pages += 1;
        match one.next {
            Some(next) => start = next,
            None => break,
        }
    }
    assert_eq!((together, pages), (whole, 7), "tombstones are looked at, too");
}

#[test]
fn a_home_group_tells_what_it_had_committed() {
    let mut bench = bench();
    bench.prepare_home(id(1), part().put("a", "1"));
    bench.decide(T, id(2), AbortCause::Client);
    bench.prepare(id(3), part().put("b", "1"));
    let ask = |bench: &Bench, ids: &[TransactionId]| {
        let machine = &bench.machine;
        verdicts(&bench.store, GROUP, machine.generation, machine.time(), HORIZON, ids).unwrap()
    };
    let committed = CutVerdict::Committed(fingerprint(id(1)));
    let found = ask(&bench, &[id(1), id(2), id(3), id(4)]);
    let not = CutVerdict::NotCommitted;
    assert_eq!(found, [committed, not, not, not]);
    // Unresolved, the commit stays as long as it takes; of who was never heard of nothing can be said beyond the horizon.
    bench.write(T + HORIZON + 10, None, put("c", "1"));
    assert_eq!(ask(&bench, &[id(1), id(4)]), [committed, CutVerdict::TooOld]);
}
