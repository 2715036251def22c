//! Who is ready while nodes come, go and come back.

use super::*;

impl World {
    fn readiness(&self, node: NodeId) -> Result<(), String> {
        self.nodes[&node].readiness(at(self.ms), true)
    }

    fn not_ready(&self, node: NodeId, word: &str) {
        let reason = self.readiness(node).unwrap_err();
        assert!(reason.contains(word), "'{word}' is not in: {reason}");
    }
}

#[test]
fn a_node_without_a_map_or_without_a_disk_is_not_ready() {
    let disk = MemoryDisk::new();
    let (backend, clean) = disk.open(Arc::new(|_: BatchDone| {}));
    let boot = Boot { id: BootId(1), clean };
    let store = Store::new(Box::new(backend));
    let node = Node::open(NodeSettings::new(NodeId(1)), store, boot, || 7, at(0)).unwrap();
    assert!(node.readiness(at(0), true).unwrap_err().contains("no cluster map"));

    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    world.until_in_sync(3);
    world.pass(500);
    let stalled = world.nodes[&NodeId(1)].readiness(at(world.ms), false);
    assert!(stalled.unwrap_err().contains("disk"));
    assert_eq!(world.readiness(NodeId(1)), Ok(()));
}

#[test]
fn whoever_restarts_one_node_after_the_other_once_all_are_ready_takes_one_replica_at_a_time() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    for victim in (1..=3).map(NodeId) {
        let mut waited = 0;
        while (1..=3).map(NodeId).any(|node| world.readiness(node).is_err()) {
            world.pass(20);
            waited += 20;
            assert!(waited < 30_000, "never ready: {:?}", world.configuration);
        }
        assert_eq!(world.in_sync().len(), 3, "all ready, and not all in sync");
        world.crash(victim);
        let primary = world.primary();
        world.ask(primary, write(vec![put("a", "1")])).unwrap();
        world.start(victim);
        assert!(world.readiness(victim).is_err(), "{victim} is ready at once");
    }
}

#[test]
fn a_backup_that_is_down_makes_nobody_else_unready() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let primary = world.primary();
    world.until_in_sync(3);
    let backup = (1..=3).map(NodeId).find(|node| *node != primary).unwrap();
    world.crash(backup);
    world.until_in_sync(2);
    world.pass(500);
    for node in world.nodes.keys().copied().collect::<Vec<_>>() {
        assert_eq!(world.readiness(node), Ok(()));
    }
}

#[test]
fn a_node_that_hears_of_no_primary_is_not_ready() {
    let mut world = World::new(options(Mode::Sync, Fsync::Always));
    let primary = world.primary();
    world.until_in_sync(3);
    world.pass(500);
    let alone = (1..=3).map(NodeId).find(|node| *node != primary).unwrap();
    // The others, and time, go on without it.
    let kept = world.nodes.remove(&alone).unwrap();
    world.until_in_sync(2);
    world.pass(5_000);
    world.nodes.insert(alone, kept);
    world.not_ready(alone, "no primary that is heard");
}
