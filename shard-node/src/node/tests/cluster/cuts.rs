//! Cuts at a group of three: every replica pins the state of the hold, and lets go of it when it should.

use super::*;
use crate::node::cuts::{PIN_LEASE, PINS_MAX};
use bytes::Bytes;

const HOLD: Duration = Duration::from_secs(2);

fn step(step: CutStep) -> Operation {
    Operation::Cut(CutOperation::Step(step))
}

impl World {
    fn step(&mut self, node: NodeId, of: CutStep) -> CutAnswer {
        match self.ask(node, step(of)).unwrap().answer {
            Answer::Cut(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn hold(&mut self, id: u64) -> CutPoint {
        let primary = self.primary();
        let id = CutId(id);
        match self.step(primary, CutStep::Hold { id, hold: HOLD }) {
            CutAnswer::Held(point) => point,
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, id: u64) {
        let primary = self.primary();
        let answer = self.step(primary, CutStep::Release { id: CutId(id) });
        assert!(matches!(answer, CutAnswer::Held(_)), "{answer:?}");
    }

    fn put(&mut self, key: &'static str, value: &'static str) {
        let primary = self.primary();
        let write = Operation::Write {
            idempotency: None,
            seen: None,
            ops: vec![put(key, value)],
        };
        self.ask(primary, write).unwrap();
    }

    /// The values of a cut at one replica, if it has pinned it.
    fn pinned(&mut self, node: NodeId, id: u64, point: CutPoint) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
        let read = CutOperation::Read {
            id: CutId(id),
            at: point.position,
            start: Bytes::new(),
            max_bytes: 1_000,
        };
        match self.ask(node, Operation::Cut(read))?.answer {
            Answer::Cut(CutAnswer::Page(page)) => {
                Ok(page.rows.into_iter().map(|(key, row)| (key, row.value)).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn world() -> World {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    world.until_in_sync(3);
    world
}

fn rows(all: &[(&'static str, &'static str)]) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
    Ok(all
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect())
}

const GONE: Result<Vec<(Bytes, Bytes)>, Refusal> = Err(Refusal::CutGone { group: GROUP });

#[test]
fn every_replica_has_the_state_of_the_hold_whatever_follows() {
    let mut world = world();
    world.put("a", "1");
    let point = world.hold(7);
    // Plain writes go on while it is held, and after.
    world.put("a", "2");
    world.release(7);
    world.put("b", "1");
    world.pass(200);
    for node in (1..=3).map(NodeId) {
        assert_eq!(world.pinned(node, 7, point), rows(&[("a", "1")]), "{node}");
        assert_eq!(world.nodes[&node].status().pinned, 1);
    }
    let elsewhere = CutPoint {
        position: LogPosition {
            epoch: point.position.epoch.next(),
            ..point.position
        },
        ..point
    };
    assert_eq!(world.pinned(NodeId(1), 7, elsewhere), GONE, "of another history");
    let primary = world.primary();
    assert_eq!(world.step(primary, CutStep::End { id: CutId(7) }), CutAnswer::Done);
    world.pass(200);
    for node in (1..=3).map(NodeId) {
        assert_eq!(world.pinned(node, 7, point), GONE);
        assert_eq!(world.nodes[&node].status().pinned, 0);
    }
}

#[test]
fn a_pin_outlives_its_primary_and_comes_back_where_the_log_is_applied_anew() {
    let mut world = world();
    world.put("a", "1");
    let point = world.hold(7);
    world.release(7);
    world.pass(200);
    let first = world.primary();
    world.crash(first);
    world.pass(2_000);
    let second = world.primary();
    assert_ne!(first, second);
    assert_eq!(world.pinned(second, 7, point), rows(&[("a", "1")]));
    // Its state was not written yet: it passes the hold once more, and the state is the same then.
    world.put("a", "2");
    world.start(first);
    world.pass(2_000);
    assert_eq!(world.pinned(first, 7, point), rows(&[("a", "1")]));
}

#[test]
fn a_pin_that_nobody_wants_any_more_goes() {
    let mut world = world();
    world.put("a", "1");
    let point = world.hold(7);
    world.release(7);
    let lease = PIN_LEASE.as_millis() as u64;
    world.pass(lease - 1_000);
    let primary = world.primary();
    assert_eq!(world.step(primary, CutStep::Keep { id: CutId(7) }), CutAnswer::Done);
    world.pass(lease - 1_000);
    assert_eq!(world.pinned(primary, 7, point), rows(&[("a", "1")]));
    world.pass(2_000);
    assert_eq!(world.pinned(primary, 7, point), GONE);
}

#[test]
fn pins_are_few() {
    let mut world = world();
    world.put("a", "1");
    let mut points = Vec::new();
    for id in 0..PINS_MAX as u64 {
        points.push(world.hold(id));
        world.release(id);
        world.pass(20);
    }
    let primary = world.primary();
    let hold = |id| CutStep::Hold {
        id: CutId(id),
        hold: HOLD,
    };
    let refused = world.ask(primary, step(hold(99)));
    let full = Refusal::TooManyCuts {
        group: GROUP,
        most: PINS_MAX as u32,
    };
    assert_eq!(
        refused.map(|answered| answered.answer),
        Err(full),
        "none is taken from who reads it"
    );
    // What comes again, long after its cut was followed by others, is applied and not pinned.
    let again = world.hold(0);
    world.release(0);
    assert_eq!(world.pinned(primary, 0, again), GONE);
    for (id, point) in (0..).zip(&points) {
        assert_eq!(world.pinned(primary, id, *point), rows(&[("a", "1")]));
    }
    // No room is lost: once one is let go of, and once nobody has wanted them for as long as a pin lasts.
    world.step(primary, CutStep::End { id: CutId(1) });
    let point = world.hold(99);
    world.release(99);
    assert_eq!(world.pinned(primary, 99, point), rows(&[("a", "1")]));
    world.pass(PIN_LEASE.as_millis() as u64 + 1_000);
    world.hold(100);
    assert_eq!(world.nodes[&primary].status().pinned, 1);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut world = world();
    let primary = world.primary();
    for hold in [Duration::ZERO, Duration::from_secs(60)] {
        let asked = world.ask(primary, step(CutStep::Hold { id: CutId(1), hold }));
        assert!(matches!(asked, Err(Refusal::Invalid { .. })), "{asked:?}");
    }
    let point = world.hold(7);
    let look_up = CutOperation::LookUp {
        id: CutId(7),
        at: point.position,
        transactions: Vec::new(),
    };
    let asked = world.ask(primary, Operation::Cut(look_up));
    assert!(matches!(asked, Err(Refusal::Invalid { .. })), "{asked:?}");
}
