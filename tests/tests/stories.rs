//! Named stories on the simulator: one misfortune each, on three nodes with one group, and the verdict of all checkers.

use fulcrum_tests::planted::Planted;
use fulcrum_tests::sim::network::Endpoint;
use fulcrum_tests::sim::plan::{Choice, Plan, Profile};
use fulcrum_tests::sim::run::finish;
use fulcrum_tests::sim::time::{MS, SEC, Time};
use fulcrum_tests::sim::world::World;
use fulcrum_types::{GroupId, Mode, NodeId};

const GROUP: GroupId = GroupId(1);

/// A quiet world of three nodes that has served for two seconds: what goes wrong in it is the story's own doing.
fn world(mode: Mode, change: impl FnOnce(&mut Plan)) -> World {
    let choice = Choice {
        mode: Some(mode),
        profile: Profile::Calm,
        ..Choice::default()
    };
    let fits = |plan: &Plan| {
        plan.nodes.len() == 3
            && plan.groups.len() == 1
            && plan.groups[0].replicas.len() == 3
            && (mode == Mode::Async || plan.options.min_in_sync == 2)
            && plan.options.waiting_max > 100
    };
    let mut plan = (1..).map(|seed| Plan::of(seed, choice)).find(fits).unwrap();
    plan.turn_stall_ppm = 0;
    change(&mut plan);
    let mut world = World::new(plan, Planted::default(), false);
    world.begin();
    world.run_until(2 * SEC);
    assert!(world.is_settled(), "{}", world.describe());
    world
}

fn primary(world: &World) -> NodeId {
    world.metadata.read(GROUP).primary.unwrap()
}

fn a_backup(world: &World) -> NodeId {
    let primary = primary(world);
    *world.plan.nodes.iter().find(|node| **node != primary).unwrap()
}

fn answered(world: &World) -> u64 {
    world.lanes.iter().map(|lane| lane.tally.ok).sum()
}

/// Cuts a node off from the other nodes, not from its clients nor from the metadata store.
fn cut_off(world: &mut World, node: NodeId) {
    for other in world.plan.nodes.clone() {
        world.network.cut(Endpoint::Node(node), Endpoint::Node(other));
        world.network.cut(Endpoint::Node(other), Endpoint::Node(node));
    }
}

/// Time in which a failover has to be over.
fn soon(world: &World) -> Time {
    20 * world.plan.options.grace.as_nanos() as Time
}

/// Lets time pass until another node leads and serves.
fn await_failover(world: &mut World, old: NodeId) {
    let due = world.now + soon(world);
    world.wait("failover", due, |w| {
        let new = primary(w);
        new != old && w.status(GROUP, new).is_some_and(|s| s.ready)
    });
    assert_eq!(world.failure, None);
}

/// Everything heals; all checkers pass. How many acknowledged writes were lost with a certificate.
fn happy_end(mut world: World) -> u64 {
    let lost = finish(&mut world);
    assert_eq!(world.failure, None);
    lost
}

#[test]
fn a_failover_keeps_acknowledged_writes() {
    let mut world = world(Mode::Sync, |_| {});
    let old = primary(&world);
    world.power_off(old, 60 * SEC);
    await_failover(&mut world, old);
    let before = answered(&world);
    world.run_until(world.now + 2 * SEC);
    assert!(answered(&world) > before + 20, "the new primary serves");
    assert_eq!(happy_end(world), 0);
}

#[test]
fn an_isolated_primary_serves_no_stale_read() {
    let mut world = world(Mode::Sync, |plan| plan.load.reads = 60);
    let old = primary(&world);
    cut_off(&mut world, old);
    await_failover(&mut world, old);
    world.run_until(world.now + 3 * SEC);
    assert_eq!(happy_end(world), 0);
}

#[test]
fn an_async_loss_is_in_the_certificate_entry_by_entry() {
    let mut world = world(Mode::Async, |plan| plan.load.reads = 10);
    let old = primary(&world);
    cut_off(&mut world, old);
    // It goes on acknowledging for as long as its lease holds.
    world.run_until(world.now + world.plan.options.lease.as_nanos() as Time / 2);
    world.power_off(old, 60 * SEC);
    await_failover(&mut world, old);
    world.run_until(world.now + SEC);
    assert!(happy_end(world) > 0, "something was lost, and certified");
}

#[test]
fn a_backup_that_was_away_catches_up_by_snapshot() {
    let mut world = world(Mode::Sync, |plan| plan.options.retain_bytes = 0);
    let away = a_backup(&world);
    let installed = world.record.reached.get("snapshot installed").copied();
    world.power_off(away, 3 * SEC);
    world.run_until(world.now + 4 * SEC);
    let due = world.now + soon(&world);
    world.wait("catching up", due, World::is_settled);
    assert!(world.record.reached.get("snapshot installed").copied() > installed);
    assert_eq!(happy_end(world), 0);
}

#[test]
fn a_stalled_disk_deposes_a_primary() {
    let mut world = world(Mode::Sync, |_| {});
    let old = primary(&world);
    world.stall_disk(old, 60 * SEC);
    await_failover(&mut world, old);
    let before = answered(&world);
    world.run_until(world.now + 2 * SEC);
    assert!(answered(&world) > before + 20, "the new primary serves");
    assert_eq!(happy_end(world), 0);
}

#[test]
fn a_power_cut_of_all_nodes_loses_nothing() {
    let mut world = world(Mode::Sync, |_| {});
    for node in world.plan.nodes.clone() {
        world.power_off(node, 100 * MS);
    }
    world.run_until(world.now + 2 * SEC);
    assert_eq!(happy_end(world), 0);
}

#[test]
fn a_metadata_outage_does_not_stop_serving() {
    let mut world = world(Mode::Sync, |_| {});
    let before = answered(&world);
    world.run_until(world.now + 2 * SEC);
    let usual = (answered(&world) - before) / 2;
    assert!(usual > 5, "{usual} answered a second: too few to tell");
    world.metadata_outage(5 * SEC);
    for _ in 0..5 {
        let before = answered(&world);
        world.run_until(world.now + SEC - MS);
        let now = answered(&world) - before;
        assert!(
            now > usual / 2,
            "{now} answered in a second without the metadata store, {usual} with it"
        );
    }
    assert_eq!(happy_end(world), 0);
}

#[test]
fn a_lost_disk_is_rebuilt_from_the_others() {
    let mut world = world(Mode::Sync, |_| {});
    let unlucky = primary(&world);
    world.wipe_now(unlucky, 100 * MS);
    await_failover(&mut world, unlucky);
    let due = world.now + soon(&world);
    world.wait("rebuilding", due, World::is_settled);
    assert_eq!(happy_end(world), 0);
}
