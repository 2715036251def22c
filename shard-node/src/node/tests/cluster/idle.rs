//! Values with a time to live in a group that nobody writes to.

use super::*;

fn put_for(key: &'static str, ttl_ms: u64) -> WriteOp {
    let mut op = put(key, "v");
    if let Mutation::Put { ttl, .. } = &mut op.mutation {
        *ttl = Some(Duration::from_millis(ttl_ms));
    }
    op
}

impl World {
    fn last_of(&self, node: NodeId) -> Index {
        let status = self.nodes[&node].group_status(GROUP, at(self.ms)).unwrap();
        status.last.index
    }

    /// A settled group of three and its primary.
    fn in_peace(mode: Mode) -> (Self, NodeId) {
        let mut world = World::new(options(mode, Fsync::Always));
        let primary = world.primary();
        world.until_in_sync(3);
        (world, primary)
    }
}

#[test]
fn a_value_goes_everywhere_though_nobody_writes() {
    for mode in [Mode::Sync, Mode::Async] {
        let (mut world, primary) = World::in_peace(mode);
        world.ask(primary, write(vec![put_for("brief", 500)])).unwrap();
        world.pass(300);
        for node in (1..=3).map(NodeId) {
            assert!(
                world.read(node, "brief", Level::Eventual).0.is_some(),
                "too early at {node}"
            );
        }
        world.pass(500);
        for node in (1..=3).map(NodeId) {
            assert_eq!(world.read(node, "brief", Level::Eventual).0, None, "{mode} at {node}");
        }
    }
}

#[test]
fn a_watch_is_told_that_a_value_expired() {
    let (mut world, primary) = World::in_peace(Mode::Sync);
    world.ask(primary, write(vec![put_for("brief", 500)])).unwrap();
    world.pass(1_000);
    let query = Query::Changes(ChangesQuery {
        after: Some(Cursor::default()),
        selection: Selection::All,
        max_bytes: 1_000,
        wait: Duration::ZERO,
    });
    let step = Operation::Read(ReadRequest {
        level: Level::Linearizable,
        acceptable: vec![],
        seen: None,
        query,
    });
    let answer = world.ask(primary, step).unwrap().answer;
    let Answer::Changes { changes, .. } = answer else {
        panic!("not changes: {answer:?}")
    };
    let [
        Change {
            kind: ChangeKind::Put(put),
            ..
        },
        Change { key, kind, .. },
    ] = &changes[..]
    else {
        panic!("{changes:?}")
    };
    assert_eq!(
        (&key[..], kind),
        (&b"brief"[..], &ChangeKind::Expire { version: put.version })
    );
}

#[test]
fn a_group_in_which_nothing_is_due_orders_nothing() {
    let (mut world, primary) = World::in_peace(Mode::Sync);
    world
        .ask(primary, write(vec![put("lasting", "v"), put_for("later", 60_000)]))
        .unwrap();
    let before = world.last_of(primary);
    world.pass(5_000);
    assert_eq!(world.last_of(primary), before);
}

#[test]
fn much_that_is_due_goes_in_few_entries_one_after_the_other() {
    let (mut world, primary) = World::in_peace(Mode::Sync);
    let keys: Vec<&'static str> = (0..300).map(|n| &*format!("k{n}").leak()).collect();
    let ops = keys.iter().map(|key| put_for(key, 500)).collect();
    world.ask(primary, write(ops)).unwrap();
    let before = world.last_of(primary);
    // 64 go with an entry, as with a write.
    world.pass(500 + 300);
    let entries = world.last_of(primary).0 - before.0;
    assert_eq!(entries, 5);
    for key in keys {
        assert_eq!(world.read(primary, key, Level::Linearizable).0, None, "{key}");
    }
}

#[test]
fn who_leads_without_a_lease_or_without_the_others_orders_nothing() {
    let (mut world, primary) = World::in_peace(Mode::Sync);
    world.ask(primary, write(vec![put_for("brief", 900)])).unwrap();
    let before = world.last_of(primary);
    for node in (1..=3).map(NodeId).filter(|node| *node != primary) {
        world.crash(node);
    }
    world.pass(400);
    // It is alone with what it knows; its lease is over before anything is due.
    world.pass(4_000);
    let log = world.last_of(primary);
    assert!(log.0 <= before.0 + 1, "{before} to {log}");
}
