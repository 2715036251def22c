//! The machine against a memory store.

mod changes;
mod joint;
mod transactions;

use super::*;
use crate::storage::testing::Random;
use crate::storage::{GroupStore, MemoryDisk, Store};
use bytes::Bytes;
use fulcrum_types::{ClientId, Epoch, LogPosition, Sequence};
use std::sync::Arc;

const GROUP: GroupId = GroupId(4);

struct Bench {
    store: Store,
    machine: StateMachine,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let (backend, _) = MemoryDisk::new().open(Arc::new(|_| {}));
        let store = Store::new(Box::new(backend));
        let generation = GroupStore::open(&store, GROUP).unwrap().storage.generation();
        let machine = StateMachine::open(&store, GROUP, generation, limits, 10_000).unwrap();
        Bench { store, machine }
    }

    fn apply(&mut self, time: u64, payload: Payload) -> Result<ApplyOutcome, ApplyError> {
        let index = self.machine.applied().position.index.next();
        let entry = Entry {
            position: LogPosition { epoch: Epoch(1), index },
            time: ReplicatedTime(time),
            payload,
        };
        self.machine.apply(&mut self.store, &entry)
    }

    fn write(&mut self, time: u64, idempotency: Option<IdempotencyKey>, op: WriteOp) -> ApplyOutcome {
        let command = encode_write(idempotency.as_ref(), &[op]);
        self.apply(time, Payload::Command(command)).unwrap()
    }

    fn get(&mut self, key: &'static str) -> Option<(Bytes, u64)> {
        let found = self.machine.get(&self.store, &Bytes::from(key)).unwrap();
        found.map(|v| (v.value, v.version.0))
    }

    /// Records of a kind in the store.
    fn count(&self, kind: StateKind) -> usize {
        let (start, end) = crate::storage::state_range(GROUP, self.machine.generation, kind);
        self.store.range(Space::State, &start, &end).count()
    }
}

fn put(key: &'static str, value: &'static str) -> WriteOp {
    put_if(key, value, Condition::None)
}

fn put_if(key: &'static str, value: &'static str, condition: Condition) -> WriteOp {
    WriteOp {
        key: key.into(),
        condition,
        mutation: Mutation::Put {
            value: value.into(),
            ttl: None,
        },
    }
}

fn put_for(key: &'static str, value: &'static str, ms: u64) -> WriteOp {
    let ttl = Some(Duration::from_millis(ms));
    WriteOp {
        key: key.into(),
        condition: Condition::None,
        mutation: Mutation::Put {
            value: value.into(),
            ttl,
        },
    }
}

fn delete(key: &'static str) -> WriteOp {
    WriteOp {
        key: key.into(),
        condition: Condition::None,
        mutation: Mutation::Delete,
    }
}

fn request(sequence: u64, issued_at_ms: u64, low_water: u64) -> Option<IdempotencyKey> {
    let (client, sequence, low_water) = (ClientId(9), Sequence(sequence), Sequence(low_water));
    Some(IdempotencyKey {
        client,
        sequence,
        issued_at_ms,
        low_water,
    })
}

fn applied(version: u64, existed: bool) -> ApplyOutcome {
    ApplyOutcome::Written(vec![WriteOutcome::Applied {
        version: Version(version),
        existed,
    }])
}

fn failed(current: Option<u64>) -> ApplyOutcome {
    ApplyOutcome::Written(vec![WriteOutcome::ConditionFailed {
        current: current.map(Version),
    }])
}

#[test]
fn writes_and_deletes_carry_the_index_as_version() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.write(1, None, put("a", "x")), applied(1, false));
    assert_eq!(bench.write(1, None, put("a", "y")), applied(2, true));
    assert_eq!(bench.get("a"), Some(("y".into(), 2)));
    assert_eq!(bench.write(1, None, delete("a")), applied(3, true));
    assert_eq!(bench.write(1, None, delete("a")), applied(4, false));
    assert_eq!(bench.get("a"), None);
}

#[test]
fn a_key_is_unchanged_since_its_last_write_or_delete() {
    let mut bench = Bench::new(Limits::default());
    let unless_changed = |value, version| put_if("a", value, Condition::UnchangedSince(Version(version)));
    assert_eq!(
        bench.write(1, None, unless_changed("x", 0)),
        applied(1, false),
        "never written"
    );
    assert_eq!(bench.write(1, None, unless_changed("y", 0)), failed(Some(1)));
    assert_eq!(bench.write(1, None, unless_changed("y", 1)), applied(3, true));
    bench.write(1, None, delete("a"));
    assert_eq!(
        bench.write(1, None, unless_changed("z", 3)),
        failed(None),
        "deleted since"
    );
    assert_eq!(bench.write(1, None, unless_changed("z", 4)), applied(6, false));
}

#[test]
fn conditions_decide() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.write(1, None, put_if("a", "x", Condition::Exists)), failed(None));
    assert_eq!(
        bench.write(1, None, put_if("a", "x", Condition::Absent)),
        applied(2, false)
    );
    assert_eq!(
        bench.write(1, None, put_if("a", "y", Condition::Absent)),
        failed(Some(2))
    );
    assert_eq!(
        bench.write(1, None, put_if("a", "y", Condition::VersionIs(Version(1)))),
        failed(Some(2))
    );
    assert_eq!(
        bench.write(1, None, put_if("a", "y", Condition::VersionIs(Version(2)))),
        applied(5, true)
    );
    assert_eq!(
        bench.write(1, None, put_if("a", "z", Condition::ValueIs("x".into()))),
        failed(Some(5))
    );
    assert_eq!(
        bench.write(1, None, put_if("a", "z", Condition::ValueIs("y".into()))),
        applied(7, true)
    );
}

#[test]
fn values_expire_by_replicated_time_and_leave_a_tombstone_for_a_while() {
    let limits = Limits {
        tombstones: Duration::from_millis(100),
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    bench.write(1000, None, put_for("a", "x", 50));
    bench.apply(1049, Payload::Noop).unwrap();
    assert_eq!(bench.get("a"), Some(("x".into(), 1)));
    bench.apply(1050, Payload::Noop).unwrap();
    assert_eq!(bench.get("a"), None);
    assert_eq!(bench.count(StateKind::Value), 1, "a tombstone is left");
    bench.apply(1149, Payload::Noop).unwrap();
    assert_eq!(bench.count(StateKind::Value), 1);
    bench.apply(1150, Payload::Noop).unwrap();
    assert_eq!((bench.count(StateKind::Value), bench.count(StateKind::Due)), (0, 0));
}

#[test]
fn an_overwritten_value_does_not_take_its_successor_with_it() {
    let mut bench = Bench::new(Limits::default());
    bench.write(1000, None, put_for("a", "x", 50));
    bench.write(1001, None, put("a", "y"));
    bench.apply(2000, Payload::Noop).unwrap();
    assert_eq!(bench.get("a"), Some(("y".into(), 2)));
    assert_eq!(bench.count(StateKind::Due), 0);
}

#[test]
fn a_retry_gets_the_first_outcome() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.write(10, request(1, 5, 1), put("a", "x")), applied(1, false));
    bench.write(10, None, put("a", "y"));
    let again = bench.write(10, request(1, 5, 1), put("a", "x"));
    assert_eq!(
        again,
        ApplyOutcome::Repeated(vec![WriteOutcome::Applied {
            version: Version(1),
            existed: false
        }])
    );
    assert_eq!(bench.get("a"), Some(("y".into(), 2)));
}

#[test]
fn overlapping_requests_keep_all_outcomes_above_the_low_water_mark() {
    let mut bench = Bench::new(Limits::default());
    bench.write(10, request(3, 5, 1), put("a", "x"));
    bench.write(10, request(2, 5, 1), put("b", "x"));
    assert!(matches!(
        bench.write(10, request(3, 5, 1), put("a", "x")),
        ApplyOutcome::Repeated(_)
    ));
    bench.write(10, request(4, 5, 3), put("c", "x"));
    assert_eq!(bench.count(StateKind::Outcome), 2);
    let refused = ApplyOutcome::Refused(ApplyRefusal::TooOldToTell);
    assert_eq!(bench.write(10, request(2, 5, 3), put("b", "z")), refused);
    assert!(matches!(
        bench.write(10, request(3, 5, 3), put("a", "x")),
        ApplyOutcome::Repeated(_)
    ));
}

#[test]
fn one_test_of_age_drops_an_outcome_and_refuses_its_request() {
    let limits = Limits {
        retention: Duration::from_millis(100),
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    bench.write(10, request(1, 5, 1), put("a", "x"));
    assert!(matches!(
        bench.write(105, request(1, 5, 1), put("a", "x")),
        ApplyOutcome::Repeated(_)
    ));
    let refused = ApplyOutcome::Refused(ApplyRefusal::TooOldToTell);
    assert_eq!(bench.write(106, request(1, 5, 1), put("a", "x")), refused);
    assert_eq!(
        (bench.count(StateKind::Outcome), bench.count(StateKind::Client)),
        (0, 0)
    );
    let key = request(1, 5, 1).unwrap();
    assert_eq!(
        bench.machine.outcome(&bench.store, &key).unwrap(),
        RecordedOutcome::TooOld
    );
}

#[test]
fn a_client_cannot_fill_the_table() {
    let limits = Limits {
        outcomes_per_client: 2,
        clients: 1,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    bench.write(10, request(1, 5, 1), put("a", "x"));
    bench.write(10, request(2, 5, 1), put("a", "x"));
    let refused = ApplyOutcome::Refused(ApplyRefusal::TooManyOutcomes);
    assert_eq!(bench.write(10, request(3, 5, 1), put("a", "x")), refused);
    assert_eq!(bench.write(10, request(3, 5, 2), put("a", "x")), applied(4, true));
    let other = IdempotencyKey {
        client: ClientId(10),
        ..request(1, 5, 1).unwrap()
    };
    let refused = ApplyOutcome::Refused(ApplyRefusal::TooManyClients);
    assert_eq!(bench.write(10, Some(other), put("a", "x")), refused);
}

#[test]
fn the_table_is_bounded_in_bytes_and_finished_requests_make_room() {
    let limits = Limits {
        retry_bytes: 2000,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits.clone());
    let refused = ApplyOutcome::Refused(ApplyRefusal::RetryTableFull);
    let accepted = (1..100)
        .take_while(|n| bench.write(10, request(*n, 5, 1), put("a", "x")) != refused)
        .count() as u64;
    assert!((20..40).contains(&accepted), "{accepted}");
    let generation = bench.machine.generation;
    bench.machine = StateMachine::open(&bench.store, GROUP, generation, limits, 0).unwrap();
    let again = request(accepted + 1, 5, 1);
    assert_eq!(
        bench.write(10, again, put("a", "x")),
        refused,
        "a restart counts the same"
    );
    let other = IdempotencyKey {
        client: ClientId(10),
        ..request(1, 5, 1).unwrap()
    };
    assert_eq!(bench.write(10, Some(other), put("a", "x")), refused);
    let finished = request(accepted + 1, 5, accepted);
    assert!(matches!(
        bench.write(10, finished, put("a", "x")),
        ApplyOutcome::Written(_)
    ));
    assert!(matches!(
        bench.write(10, Some(other), put("a", "x")),
        ApplyOutcome::Written(_)
    ));
}

#[test]
fn an_unknown_command_stops_the_replica_with_its_index() {
    let mut bench = Bench::new(Limits::default());
    let error = bench
        .apply(1, Payload::Command(Bytes::from_static(&[1, 99])))
        .unwrap_err();
    assert_eq!(
        error,
        ApplyError::Command {
            index: Index(1),
            error: CommandError::UnknownKind(99)
        }
    );
    assert_eq!(bench.machine.applied(), Applied::default());
}

#[test]
fn scans_are_in_order_and_bounded() {
    let mut bench = Bench::new(Limits::default());
    for key in ["c", "a", "b", "d"] {
        bench.write(1, None, put(key, "0123456789"));
    }
    bench.write(1, None, delete("b"));
    let scan = |limit, bytes| bench.machine.scan(&bench.store, b"a", b"d", limit, bytes).unwrap();
    let keys = |rows: &Rows| rows.rows.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>();
    assert_eq!(
        (keys(&scan(10, 1000)), scan(10, 1000).complete),
        (vec!["a".into(), "c".into()], true)
    );
    assert_eq!(
        (keys(&scan(1, 1000)), scan(1, 1000).complete),
        (vec!["a".into()], false)
    );
    assert_eq!((keys(&scan(10, 5)), scan(10, 5).complete), (vec!["a".into()], false));
    assert_eq!(
        keys(&bench.machine.scan(&bench.store, b"", b"", 10, 1000).unwrap()),
        ["a", "c", "d"]
    );
}

/// Clients count up by compare-and-set, repeat themselves, answer late, and restart replicas come from the store alone.
#[test]
fn no_retry_is_ever_applied_twice() {
    let limits = Limits {
        retention: Duration::from_millis(300),
        outcomes_per_client: 6,
        clients: 3,
        ..Limits::default()
    };
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut bench = Bench::new(limits.clone());
        let mut time = 1000;
        let mut requests: Vec<IdempotencyKey> = Vec::new();
        let mut written: std::collections::BTreeMap<(u64, u64, u64), Vec<WriteOutcome>> = Default::default();
        for step in 0..400 {
            time += random.below(6);
            let client = random.below(5);
            let key = if requests.is_empty() || random.below(2) == 0 {
                let issued_at_ms = time / 200 * 200;
                let client = ClientId(client + 10 * (issued_at_ms / 200));
                let low_water = Sequence(step / 2 + random.below(4));
                IdempotencyKey {
                    client,
                    sequence: Sequence(step),
                    issued_at_ms,
                    low_water,
                }
            } else {
                requests[random.below(requests.len() as u64) as usize]
            };
            requests.push(key);
            let name = (key.client.0, key.sequence.0, key.issued_at_ms);
            match bench.write(time, Some(key), put("a", "x")) {
                ApplyOutcome::Written(outcomes) => {
                    assert!(key.issued_at_ms + 300 >= time);
                    assert_eq!(
                        written.insert(name, outcomes),
                        None,
                        "seed {seed}: {key:?} applied twice"
                    );
                }
                ApplyOutcome::Repeated(outcomes) => assert_eq!(written.get(&name), Some(&outcomes)),
                ApplyOutcome::Refused(_) => {}
                other => unreachable!("a write was asked: {other:?}"),
            }
            if random.below(20) == 0 {
                let generation = bench.machine.generation;
                bench.machine = StateMachine::open(&bench.store, GROUP, generation, limits.clone(), 0).unwrap();
            }
        }
        assert!(written.len() > 50);
        bench.apply(time + 1000, Payload::Noop).unwrap();
        assert_eq!(
            (bench.count(StateKind::Outcome), bench.count(StateKind::Client)),
            (0, 0)
        );
    }
}

/// A machine that is reopened at every turn and one that never is must stay the same, sweeps included.
#[test]
fn a_restart_changes_nothing() {
    for seed in 0..10 {
        let mut random = Random::new(seed);
        let limits = Limits {
            tombstones: Duration::from_millis(40),
            retention: Duration::from_millis(90),
            retry_bytes: 440,
            ..Limits::default()
        };
        let (mut steady, mut restarted) = (Bench::new(limits.clone()), Bench::new(limits.clone()));
        let mut time = 100;
        for step in 0..300 {
            time += random.below(20);
            let key = ["a", "b", "c", "d", "e"][random.below(5) as usize];
            let op = match random.below(4) {
                0 => put(key, "x"),
                1 => put_for(key, "y", random.below(100)),
                2 => put_if(key, "z", Condition::Exists),
                _ => delete(key),
            };
            let idempotency = request(step, time / 64 * 64, step.saturating_sub(3));
            let outcome = steady.write(time, idempotency, op.clone());
            assert_eq!(restarted.write(time, idempotency, op), outcome);
            let generation = restarted.machine.generation;
            restarted.machine = StateMachine::open(&restarted.store, GROUP, generation, limits.clone(), 0).unwrap();
            let sums = [&steady, &restarted].map(|b| b.machine.checksum(&b.store).unwrap());
            assert_eq!(sums[0], sums[1], "seed {seed} step {step}");
        }
    }
}
