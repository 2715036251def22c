//! What watches are told of applied entries, held against the state itself.

use super::*;
use crate::state_machine::changes_of;
use crate::storage::{Durability, Noted};
use fulcrum_replication::LogChange;
use fulcrum_types::{Change, ChangeKind};
use std::collections::BTreeMap;

/// A machine with its log beside it.
pub(super) struct Logged {
    store: Store,
    disk: MemoryDisk,
    log: GroupStore,
    machine: StateMachine,
}

impl Logged {
    pub(super) fn new(disk: MemoryDisk) -> Self {
        let (backend, _) = disk.open(Arc::new(|_| {}));
        let store = Store::new(Box::new(backend));
        let log = GroupStore::open(&store, GROUP).unwrap().storage;
        let machine = StateMachine::open(&store, GROUP, log.generation(), Limits::default(), 10_000).unwrap();
        Logged {
            store,
            disk,
            log,
            machine,
        }
    }

    fn apply(&mut self, time: u64, payload: Payload) -> Index {
        let index = self.machine.applied().position.index.next();
        let entry = Entry {
            position: LogPosition { epoch: Epoch(1), index },
            time: ReplicatedTime(time),
            payload,
        };
        let append = LogChange::Append(vec![entry.clone()]);
        self.log.change(&mut self.store, &append).unwrap();
        self.machine.apply(&mut self.store, &entry).unwrap();
        index
    }

    pub(super) fn write(&mut self, time: u64, idempotency: Option<IdempotencyKey>, ops: &[WriteOp]) -> Vec<String> {
        self.command(time, encode_write(idempotency.as_ref(), ops))
    }

    /// What a watch is told of a command.
    pub(super) fn command(&mut self, time: u64, command: Bytes) -> Vec<String> {
        let index = self.apply(time, Payload::Command(command));
        self.told(index)
    }

    fn pass(&mut self, time: u64) -> Vec<String> {
        let index = self.apply(time, Payload::Noop);
        self.told(index)
    }

    fn noted(&self, first: Index, last: Index) -> Vec<Noted> {
        let entries = self.log.entries(&self.store, first, last).unwrap();
        entries.collect::<Result<_, _>>().unwrap()
    }

    fn changes(&self, index: Index) -> Vec<Change> {
        changes_of(&self.noted(index, index)[0]).unwrap()
    }

    fn told(&self, index: Index) -> Vec<String> {
        self.changes(index).iter().map(show).collect()
    }

    fn save(&mut self) {
        while self.store.flush(Durability::Synced).is_some() {
            self.store.persisted(self.disk.complete().unwrap().id);
        }
    }
}

fn show(change: &Change) -> String {
    let key = String::from_utf8_lossy(&change.key);
    match &change.kind {
        ChangeKind::Put(value) => format!("{key}={}@{}", String::from_utf8_lossy(&value.value), value.version.0),
        ChangeKind::Delete { version } => format!("{key} deleted@{}", version.0),
        ChangeKind::Expire { version } => format!("{key} expired@{}", version.0),
    }
}

#[test]
fn what_took_effect_is_told_and_nothing_else() {
    let mut logged = Logged::new(MemoryDisk::new());
    let ops = [put("a", "1"), put("b", "1"), put_if("a", "2", Condition::Absent)];
    assert_eq!(logged.write(10, request(1, 10, 1), &ops), ["a=1@1", "b=1@1"]);
    assert!(logged.write(10, request(1, 10, 1), &ops).is_empty(), "a retry");
    assert!(
        logged.write(10, request(1, 9, 1), &[put("a", "3")]).is_empty(),
        "refused"
    );
    assert_eq!(
        logged.write(10, None, &[delete("a"), delete("b")]),
        ["a deleted@4", "b deleted@4"]
    );
    assert!(logged.write(10, None, &[delete("a")]).is_empty(), "there was nothing");
    assert!(logged.pass(10).is_empty());
    let twice = [put("a", "4"), delete("a"), put("a", "5")];
    assert_eq!(logged.write(10, None, &twice), ["a=4@7", "a deleted@7", "a=5@7"]);
    let ordinals: Vec<u32> = logged.changes(Index(7)).iter().map(|change| change.ordinal).collect();
    assert_eq!(ordinals, [0, 1, 2]);
}

#[test]
fn an_expiry_is_told_once_by_whatever_comes_first() {
    let mut logged = Logged::new(MemoryDisk::new());
    logged.write(0, None, &[put_for("swept", "x", 100), put_for("again", "x", 100)]);
    logged.write(0, None, &[put_for("gone", "x", 100), put_for("kept", "x", 100)]);
    assert!(logged.pass(99).is_empty());
    let ops = [
        put("again", "y"),
        delete("gone"),
        put_if("kept", "y", Condition::Exists),
    ];
    assert_eq!(
        logged.write(100, None, &ops),
        [
            "again expired@1",
            "again=y@4",
            "gone expired@2",
            "kept expired@2",
            "swept expired@1"
        ]
    );
    assert!(logged.pass(1_000_000).is_empty());
}

#[test]
fn an_entry_that_writes_a_key_twice_leaves_what_it_wrote_last() {
    let mut logged = Logged::new(MemoryDisk::new());
    let ops = [
        put_for("for-ever", "x", 100),
        put("for-ever", "y"),
        delete("anew"),
        put("anew", "y"),
        put_for("longer", "x", 100),
        put_for("longer", "y", 500),
    ];
    logged.write(0, None, &ops);
    for time in [100, 200] {
        assert!(logged.pass(time).is_empty(), "at {time}");
    }
    assert_eq!(logged.pass(500), ["longer expired@1"]);
    logged.pass(1_000_000);
    for key in ["for-ever", "anew"] {
        let found = logged.machine.get(&logged.store, &key.into()).unwrap();
        assert_eq!(found.map(|found| found.value), Some("y".into()), "{key}");
    }
}

#[test]
fn footnotes_survive_a_restart_and_go_with_their_entries() {
    let disk = MemoryDisk::new();
    let mut logged = Logged::new(disk.clone());
    logged.write(0, None, &[put("a", "1")]);
    logged.write(0, None, &[put_if("a", "2", Condition::Absent)]);
    logged.write(0, None, &[delete("b")]);
    logged.save();
    let before = logged.noted(Index(1), Index(3));
    let mut logged = Logged::new(disk);
    assert_eq!(logged.noted(Index(1), Index(3)), before);
    assert!(before[1].footnote.is_some() && before[2].footnote.is_some());
    let through = before[1].entry.position;
    logged
        .log
        .change(&mut logged.store, &LogChange::Compact { through })
        .unwrap();
    assert_eq!(logged.log.kept_after(), Index(2));
    let footnotes = |logged: &Logged| {
        let (start, end) = (GROUP.0.to_be_bytes(), (GROUP.0 + 1).to_be_bytes());
        let all = logged.store.range(Space::Meta, &start, &end);
        all.filter(|record| record.as_ref().unwrap().0.len() == 17).count()
    };
    assert_eq!(footnotes(&logged), 1, "that of the entry still kept");
    logged.log.change(&mut logged.store, &LogChange::DropState).unwrap();
    assert_eq!(footnotes(&logged), 0);
}

/// Whoever plays the changes back has, after each entry, what a reader sees then.
#[test]
fn the_changes_of_a_random_history_make_its_state() {
    const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut logged = Logged::new(MemoryDisk::new());
        let mut model: BTreeMap<Bytes, (u64, Bytes, u64)> = BTreeMap::new();
        let mut time = 1000;
        let mut sequence = 0;
        for _ in 0..300 {
            time += random.below(40);
            let payload = match random.below(20) {
                0 => Payload::Noop,
                _ => {
                    let ops: Vec<WriteOp> = (0..=random.below(4))
                        .map(|_| {
                            let key = KEYS[random.below(6) as usize];
                            random_op(&mut random, key)
                        })
                        .collect();
                    // A retry now and then, of what may have been another write: it must do nothing.
                    sequence += u64::from(random.below(5) > 0);
                    Payload::Command(encode_write(request(sequence, 1000, 0).as_ref(), &ops))
                }
            };
            let index = logged.apply(time, payload);
            for change in logged.changes(index) {
                play(&mut model, change, seed);
            }
            let rows = logged.machine.scan(&logged.store, b"", b"", 100, 1 << 20).unwrap().rows;
            let seen: BTreeMap<Bytes, (u64, Bytes, u64)> = rows
                .into_iter()
                .map(|(key, found)| (key, (found.version.0, found.value, found.expires_at_ms)))
                .collect();
            // A value whose time is up is invisible at once, and told when it is its turn.
            let mut played = model.clone();
            played.retain(|_, (_, _, expires)| *expires == 0 || *expires > time);
            assert_eq!(played, seen, "seed {seed}, entry {index}");
        }
    }
}

fn random_op(random: &mut Random, key: &'static str) -> WriteOp {
    let condition = match random.below(6) {
        0 => Condition::Absent,
        1 => Condition::Exists,
        2 => Condition::VersionIs(Version(random.below(300))),
        _ => Condition::None,
    };
    let op = match random.below(4) {
        0 => delete(key),
        1 => put_for(key, "short", 1 + random.below(100)),
        2 => put_for(key, "long", 1 + random.below(5000)),
        _ => put(key, "for ever"),
    };
    WriteOp { condition, ..op }
}

fn play(model: &mut BTreeMap<Bytes, (u64, Bytes, u64)>, change: Change, seed: u64) {
    let shown = show(&change);
    match change.kind {
        ChangeKind::Put(value) => {
            model.insert(change.key, (value.version.0, value.value, value.expires_at_ms));
        }
        ChangeKind::Delete { .. } => {
            assert!(model.remove(&change.key).is_some(), "seed {seed}: {shown}: of nothing");
        }
        ChangeKind::Expire { version } => {
            let (known, _, expires) = model.remove(&change.key).expect("something to expire");
            assert_eq!(known, version.0, "seed {seed}: {shown}");
            assert!(
                expires != 0 && expires <= change.time.0,
                "seed {seed}: {shown}: too early"
            );
        }
    }
}

/// The writes of a transaction are told where they become visible, with the entry that resolves it.
#[test]
fn a_transaction_is_told_where_it_takes_effect() {
    use super::transactions::{elsewhere, fingerprint, here, id, part, prepare_at};
    use crate::state_machine::Command;
    use fulcrum_types::{AbortCause, Resolution, Verdict};
    const T: u64 = 1_000_000;
    let mut logged = Logged::new(MemoryDisk::new());
    let prepare = |id, home, wanted| Command::Prepare {
        request: Box::new(prepare_at(id, home, wanted)),
        give_way: None,
    };
    let resolve = |id, verdict| Command::Resolve(vec![Resolution { id, verdict }]);
    let mut command = |time: u64, command: Command| {
        let index = logged.apply(time, Payload::Command(command.encode()));
        logged.told(index)
    };
    let write = |op| Command::Write {
        idempotency: None,
        ops: vec![op],
    };
    command(T, write(put("b", "old")));
    command(T, write(put_for("x", "old", 50)));
    let wanted = part().put("a", "1").delete("b").delete("none").put("x", "new");
    assert!(command(T, prepare(id(1), elsewhere(), wanted)).is_empty());
    let commit = resolve(id(1), Verdict::Commit(fingerprint(id(1))));
    assert_eq!(
        command(T + 100, commit.clone()),
        ["a=1@3", "b deleted@3", "x expired@2", "x=new@3"]
    );
    assert!(command(T + 100, commit).is_empty(), "once");

    assert!(command(T + 100, prepare(id(2), elsewhere(), part().put("a", "2"))).is_empty());
    let abort = Verdict::Abort {
        of: Some(fingerprint(id(2))),
        cause: AbortCause::Client,
    };
    let blocked = write(put("a", "3"));
    assert!(command(T + 100, blocked).is_empty(), "blocked");
    assert!(command(T + 100, resolve(id(2), abort)).is_empty());

    let at_home = prepare(id(3), here(), part().put("a", "4").delete("none"));
    assert_eq!(command(T + 100, at_home.clone()), ["a=4@9"], "the home group's commit");
    assert!(command(T + 100, at_home).is_empty(), "once");
    let stale = part().read("a", 1).put("a", "6");
    assert!(command(T + 100, prepare(id(6), here(), stale)).is_empty(), "refused");

    let transact = |n, wanted: super::transactions::Wanted| Command::Transact {
        at: here(),
        request: Box::new(fulcrum_types::Transact {
            id: id(n),
            fingerprint: fingerprint(id(n)),
            seen: None,
            part: wanted.0,
        }),
    };
    assert_eq!(
        command(T + 100, transact(4, part().put("a", "5").delete("none"))),
        ["a=5@12"]
    );
    assert!(command(T + 100, transact(4, part().put("a", "5").delete("none"))).is_empty());
    assert!(command(T + 100, transact(5, part().read("a", 1).put("a", "6"))).is_empty());
}
