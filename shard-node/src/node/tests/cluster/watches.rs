//! Watches over failovers: held against what was acknowledged.

use super::*;
use crate::storage::testing::Random;

/// A watch that goes on wherever it is let.
struct Watch {
    cursor: Cursor,
    told: Vec<Change>,
}

const FRESH: Level = Level::Bounded(Duration::from_secs(2));

fn step(after: Option<Cursor>, level: Level, wait_ms: u64) -> Operation {
    let query = Query::Changes(ChangesQuery {
        after,
        selection: Selection::All,
        max_bytes: 1_000,
        wait: Duration::from_millis(wait_ms),
    });
    Operation::Read(ReadRequest {
        level,
        acceptable: vec![],
        seen: None,
        query,
    })
}

fn told(answered: Answered) -> (Vec<Change>, Cursor) {
    match answered.answer {
        Answer::Changes { changes, reached, .. } => (changes, reached),
        other => panic!("not changes: {other:?}"),
    }
}

impl Watch {
    /// From the beginning of the group.
    fn new() -> Self {
        Watch {
            cursor: Cursor::default(),
            told: Vec::new(),
        }
    }

    /// One step at one node, which may refuse it.
    fn step(&mut self, world: &mut World, node: NodeId, wait_ms: u64) -> Result<usize, Refusal> {
        let answered = world.ask(node, step(Some(self.cursor), FRESH, wait_ms))?;
        let (changes, reached) = told(answered);
        let count = changes.len();
        assert!(
            reached.position.index >= self.cursor.position.index,
            "a watch goes forward"
        );
        self.told.extend(changes);
        self.cursor = reached;
        Ok(count)
    }

    /// Steps at one node until there is nothing more.
    fn catch_up(&mut self, world: &mut World, node: NodeId) {
        while self.step(world, node, 40).unwrap() > 0 {}
    }

    fn versions(&self) -> Vec<u64> {
        let version = |change: &Change| match &change.kind {
            ChangeKind::Put(value) => value.version.0,
            other => panic!("only puts are written here: {other:?}"),
        };
        self.told.iter().map(version).collect()
    }
}

fn written(answered: &Answered) -> u64 {
    match &answered.answer {
        Answer::Written(outcomes) => match outcomes[..] {
            [WriteOutcome::Applied { version, .. }] => version.0,
            _ => panic!("{outcomes:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_replica_tells_the_same() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let primary = world.primary();
    world.until_in_sync(3);
    for value in ["1", "2", "3"] {
        world
            .ask(primary, write(vec![put("a", value), put("b", value)]))
            .unwrap();
    }
    world.pass(300);
    let mut first: Option<Vec<Change>> = None;
    for node in (1..=3).map(NodeId) {
        let mut watch = Watch::new();
        watch.catch_up(&mut world, node);
        assert_eq!(watch.told.len(), 6);
        assert_eq!(*first.get_or_insert_with(|| watch.told.clone()), watch.told);
    }
}

#[test]
fn a_watch_that_waits_is_told_at_once_and_one_that_ends_with_nothing_is_fresh() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let primary = world.primary();
    world.until_in_sync(3);
    let from = told(world.ask(primary, step(None, Level::Linearizable, 0)).unwrap()).1;
    let request = |operation| GroupRequest {
        keyspace: KEYSPACE,
        group: GROUP,
        map_version: MapVersion(1),
        deadline: Duration::from_secs(5),
        operation,
    };
    let id = RequestId(9_000);
    let waits = request(step(Some(from), FRESH, 2_000));
    world.inbox.push_back((primary, Event::Request { id, request: waits }));
    world.pass(500);
    assert!(!world.replies.contains_key(&id.0), "it waits");
    let version = written(&world.ask(primary, write(vec![put("a", "1")])).unwrap());
    let answered = world.replies.remove(&id.0).expect("told with the write").unwrap();
    let (changes, reached) = told(answered);
    assert_eq!((changes.len(), reached.position.index), (1, Index(version)));

    let backup = (1..=3).map(NodeId).find(|node| *node != primary).unwrap();
    world.pass(300);
    let answered = world.ask(backup, step(Some(reached), FRESH, 100)).unwrap();
    assert!(
        answered
            .receipt
            .staleness
            .is_some_and(|bound| bound < Duration::from_secs(2))
    );
    assert_eq!(told(answered), (vec![], reached));
    // Alone it can prove nothing: it does not pass for a quiet group.
    for node in (1..=3).map(NodeId).filter(|node| *node != backup) {
        world.crash(node);
    }
    world.pass(600);
    let level = Level::Bounded(Duration::from_millis(300));
    let refused = world.ask(backup, step(Some(reached), level, 100)).unwrap_err();
    assert!(matches!(refused.act(), Act::Redirect | Act::Retry), "{refused:?}");
}

#[test]
fn a_watch_over_failovers_misses_nothing_and_is_told_nothing_twice() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut world = World::new(options(Mode::Sync, Fsync::Always));
        world.primary();
        world.until_in_sync(3);
        let mut watch = Watch::new();
        let mut acknowledged = Vec::new();
        for _ in 0..6 {
            for _ in 0..random.below(6) {
                let primary = world.primary();
                if let Ok(answered) = world.ask(primary, write(vec![put("k", "v")])) {
                    acknowledged.push(written(&answered));
                }
                // Whoever is asked may be behind, deposed or down; then the next step is somebody else's.
                let node = NodeId(1 + random.below(3));
                if world.nodes.contains_key(&node) {
                    let _ = watch.step(&mut world, node, random.below(3) * 20);
                }
            }
            let primary = world.primary();
            if random.below(2) == 0 {
                // One that nobody answers: it may have been sent to the backups, or not.
                let id = RequestId(50_000 + world.ms);
                let request = GroupRequest {
                    keyspace: KEYSPACE,
                    group: GROUP,
                    map_version: MapVersion(1),
                    deadline: Duration::from_secs(5),
                    operation: write(vec![put("k", "in doubt")]),
                };
                world.turn(primary, Event::Request { id, request });
                if random.below(2) == 0 {
                    world.inbox.clear();
                }
            }
            world.crash(primary);
            world.primary();
            world.start(primary);
            world.until_in_sync(3);
        }
        let primary = world.primary();
        watch.catch_up(&mut world, primary);
        let versions = watch.versions();
        assert!(
            versions.windows(2).all(|pair| pair[0] < pair[1]),
            "seed {seed}: twice, or out of order"
        );
        let missed: Vec<&u64> = acknowledged.iter().filter(|v| !versions.contains(v)).collect();
        assert!(missed.is_empty(), "seed {seed}: missed {missed:?}");
        let certain = |change: &&Change| matches!(&change.kind, ChangeKind::Put(v) if v.value == "v");
        let invented = watch.told.iter().filter(certain).count();
        assert_eq!(invented, acknowledged.len(), "seed {seed}: told what was never written");
    }
}

#[test]
fn a_watch_that_has_seen_what_a_failover_lost_is_told_so() {
    let mut world = World::new(options(Mode::Async, Fsync::Always));
    let old = world.primary();
    world.until_in_sync(3);
    world.ask(old, write(vec![put("a", "1")])).unwrap();
    world.pass(200);
    let mut watch = Watch::new();
    watch.catch_up(&mut world, old);
    let before = watch.cursor;
    // The backups hear nothing of this one, and of nothing that this node says from now on.
    let request = GroupRequest {
        keyspace: KEYSPACE,
        group: GROUP,
        map_version: MapVersion(1),
        deadline: Duration::from_secs(5),
        operation: write(vec![put("lost", "1")]),
    };
    let id = RequestId(9_999);
    world.turn(old, Event::Request { id, request });
    while let Some(done) = world.disks[&old].complete() {
        world.turn(old, Event::BatchDone(done));
    }
    let request = GroupRequest {
        keyspace: KEYSPACE,
        group: GROUP,
        map_version: MapVersion(1),
        deadline: Duration::from_secs(5),
        operation: step(Some(before), FRESH, 0),
    };
    let id = RequestId(10_000);
    world.turn(old, Event::Request { id, request });
    world.inbox.clear();
    let (changes, reached) = told(world.replies.remove(&id.0).unwrap().unwrap());
    assert_eq!(changes[0].key, "lost");
    world.crash(old);
    let new = world.primary();
    world.ask(new, write(vec![put("b", "1")])).unwrap();
    watch.cursor = reached;
    let refused = watch.step(&mut world, new, 0).unwrap_err();
    assert_eq!((refused.code(), refused.act()), ("HISTORY_LOST", Act::Reject));
    // Who had not seen it goes on: for the surviving history it never was.
    watch.cursor = before;
    watch.catch_up(&mut world, new);
    assert_eq!(watch.told.last().unwrap().key, "b");
}

#[test]
fn a_watch_that_comes_back_after_compaction_is_told_so() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let primary = world.primary();
    world.until_in_sync(3);
    let large = |n: u32| WriteOp {
        key: format!("k{n}").into(),
        condition: Condition::None,
        mutation: Mutation::Put {
            value: vec![7; 1024 * 1024].into(),
            ttl: None,
        },
    };
    let mut watch = Watch::new();
    let early = watch.cursor;
    for n in 0..20 {
        world.ask(primary, write(vec![large(n)])).unwrap();
    }
    // Nobody has watched so far: what replication does not need is gone.
    let compacted = |refused| match refused {
        Refusal::Compacted { after, kept_after, .. } => (after, kept_after),
        other => panic!("{other:?}"),
    };
    let (after, kept_after) = compacted(watch.step(&mut world, primary, 0).unwrap_err());
    assert!(after == early.position && kept_after > Index(10), "{kept_after}");
    watch.cursor = told(world.ask(primary, step(None, Level::Linearizable, 0)).unwrap()).1;
    let began = watch.cursor;
    for n in 0..25 {
        world.ask(primary, write(vec![large(n)])).unwrap();
        if n % 8 == 7 {
            watch.step(&mut world, primary, 0).unwrap();
        }
    }
    watch.catch_up(&mut world, primary);
    assert_eq!(
        watch.told.len(),
        25,
        "a group that is watched keeps its log for those who lag"
    );
    for n in 0..20 {
        world.ask(primary, write(vec![large(n)])).unwrap();
    }
    watch.cursor = began;
    compacted(watch.step(&mut world, primary, 0).unwrap_err());
    let log_bytes = NodeSettings::new(primary).watch_log_bytes as u64 / (1024 * 1024);
    assert!(log_bytes < 45, "else nothing was tried: {log_bytes}");
}
