//! What happens to a cluster when nodes go, come back, are emptied: one story a test, and many at random.

mod world;

use fulcrum_placement::{Effect, Held, Reason, assess};
use fulcrum_types::NodeId;
use std::collections::BTreeSet;
use world::{Rng, World};

#[test]
fn while_all_is_well_nothing_moves() {
    for (nodes, zones, groups, wanted) in [(3, 0, 8, 3), (4, 3, 16, 3), (7, 2, 20, 3), (5, 5, 9, 5)] {
        let mut world = World::new(nodes, zones, groups, wanted);
        assert_eq!(world.run_for(300), [], "{nodes} nodes");
    }
}

#[test]
fn a_node_that_dies_for_good_is_replaced_in_its_zone_few_at_a_time() {
    let mut world = World::new(6, 3, 12, 3);
    world.set_alive(1, false);
    assert_eq!(world.run_for(29), [], "not before the time");
    assert_eq!(assess(&world.census).under_replicated.len(), world.replicas_of(1));
    let held = world.replicas_of(1);
    world.run_for(300);
    assert!(world.is_whole(), "{:?}", world.census);
    assert_eq!((world.replicas_of(1), world.rebuilds, world.rebuilt), (0, held, held));
    let assessment = assess(&world.census);
    assert!(
        assessment.narrow.is_empty(),
        "zones are respected: {:?}",
        assessment.narrow
    );
    assert_eq!(world.run_for(300), []);
}

#[test]
fn a_node_that_comes_back_in_time_is_left_as_it_was() {
    let mut world = World::new(4, 0, 8, 3);
    let before: Vec<_> = world.census.groups.values().map(|g| g.placed.clone()).collect();
    world.set_alive(2, false);
    world.run_for(25);
    world.set_alive(2, true);
    world.run_for(120);
    let after: Vec<_> = world.census.groups.values().map(|g| g.placed.clone()).collect();
    assert_eq!((before, world.rebuilds), (after, 0));
    assert!(world.is_whole());
    let led: Vec<usize> = (1..=4).map(|n| world.led_by(n)).collect();
    assert!(led.iter().all(|n| *n == 2), "primaries came back, too: {led:?}");
}

#[test]
fn a_node_that_comes_back_while_it_is_replaced_costs_nobody_data() {
    for late in 30..45 {
        let mut world = World::new(5, 0, 6, 3);
        world.set_alive(1, false);
        world.run_for(late);
        world.set_alive(1, true);
        world.run_for(200);
        assert!(world.is_whole(), "back after {late} s: {:?}", world.census);
        assert_eq!(world.run_for(100), []);
    }
}

#[test]
fn not_looking_is_no_sign_of_death() {
    let mut world = World::new(4, 0, 4, 3);
    world.set_alive(1, false);
    world.run_for(20);
    world.second += 1000;
    assert_eq!(
        world.run_for(25),
        [],
        "the time counts from the first look after the gap"
    );
}

#[test]
fn when_half_of_the_nodes_are_gone_nothing_is_rebuilt() {
    let mut world = World::new(6, 0, 6, 3);
    for node in 1..=3 {
        world.set_alive(node, false);
    }
    world.run_for(100);
    assert_eq!(world.rebuilds, 0);
    assert_eq!(world.placement.held(), Some(&Held::TooManyGone { gone: 3, of: 6 }));
}

#[test]
fn without_another_node_the_group_stays_short_and_that_is_said() {
    let mut world = World::new(3, 0, 2, 3);
    world.set_alive(3, false);
    assert!(world.run_for(100).iter().all(|e| !matches!(e, Effect::Place { .. })));
    assert!(matches!(world.placement.held(), Some(Held::NoRoom { groups }) if groups.len() == 2));
    assert_eq!(assess(&world.census).under_replicated.len(), 2);
}

#[test]
fn a_drained_node_ends_up_empty_without_a_group_ever_being_short() {
    let mut world = World::new(5, 0, 10, 3);
    world.census.nodes.get_mut(&NodeId(2)).unwrap().draining = true;
    for _ in 0..300 {
        world.tick(|| false);
        for group in world.census.groups.values() {
            assert!(group.configuration.in_sync.len() >= 3, "{group:?}");
        }
    }
    assert!(world.is_whole());
    assert_eq!((world.replicas_of(2), world.led_by(2)), (0, 0));
    let left = assess(&world.census).draining[&NodeId(2)];
    assert_eq!((left.replicas, left.primaries), (0, 0));
}

#[test]
fn a_drain_that_is_called_off_stops() {
    let mut world = World::new(5, 0, 10, 3);
    world.census.nodes.get_mut(&NodeId(2)).unwrap().draining = true;
    world.run_for(8);
    world.census.nodes.get_mut(&NodeId(2)).unwrap().draining = false;
    world.run_for(60);
    assert!(world.is_whole() && world.replicas_of(2) > 0);
    assert_eq!(world.run_for(60), []);
}

/// The steps of one rebuild, as they are asked for.
#[test]
fn golden() {
    let mut world = World::new(4, 0, 1, 3);
    let dead = world.census.groups.values().next().unwrap().placed[0];
    world.set_alive(dead.0, false);
    let told: Vec<String> = world.run_for(60).iter().map(show).collect();
    assert_eq!(
        told,
        [
            "rebuild g1: replicas n3 n1 n4 n2, data n3 n1 n4 n2",
            "remove g1: replicas n1 n4 n2, data n1 n4 n2",
        ]
    );
}

fn show(effect: &Effect) -> String {
    let names = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ");
    match effect {
        Effect::Place {
            group,
            placed,
            replicas,
            reason,
            ..
        } => format!(
            "{} {group}: replicas {}, data {}",
            reason.name(),
            names(replicas),
            names(placed)
        ),
        Effect::HandOver { group, from, to } => format!("hand over {group}: {from} to {to}"),
    }
}

/// Nodes die, come back and are drained at random, changes get lost. [`World::check`] looks at every effect; at the end all are well.
#[test]
fn at_random() {
    for seed in 0..50 {
        let mut rng = Rng(seed);
        let nodes = 4 + rng.below(5);
        let wanted = if nodes > 5 { 3 + rng.below(2) as usize } else { 3 };
        let mut world = World::new(nodes, rng.below(4), 1 + rng.below(20), wanted);
        world.catch_up = 1 + rng.below(20);
        let mut dead: BTreeSet<u64> = BTreeSet::new();
        for _ in 0..300 {
            if rng.below(20) == 0 {
                let node = 1 + rng.below(nodes);
                let back = dead.remove(&node);
                if !back && (dead.len() as u64 + 1) * 2 < nodes {
                    dead.insert(node);
                }
                world.set_alive(node, !dead.contains(&node));
            }
            if rng.below(60) == 0 {
                let node = world.census.nodes.get_mut(&NodeId(1 + rng.below(nodes))).unwrap();
                node.draining = !node.draining;
            }
            let mut chance = Rng(rng.below(u64::MAX));
            world.tick(|| chance.below(4) == 0);
        }
        (1..=nodes).for_each(|node| world.set_alive(node, true));
        world.census.nodes.values_mut().for_each(|n| n.draining = false);
        world.run_for(900);
        assert!(world.is_whole(), "seed {seed}: {:#?}", world.census.groups);
        assert_eq!(world.run_for(60), [], "seed {seed}");
        no_single_hand_over_helps(&world, seed);
    }
}

fn no_single_hand_over_helps(world: &World, seed: u64) {
    for group in world.census.groups.values() {
        let primary = group.configuration.primary.unwrap();
        for member in &group.configuration.in_sync {
            let (more, less) = (world.led_by(primary.0), world.led_by(member.node.0));
            assert!(
                more < less + 2,
                "seed {seed}: {primary} leads {more}, {} {less}",
                member.node
            );
        }
    }
}

#[test]
fn reasons_have_names() {
    assert_eq!(
        [Reason::Rebuild, Reason::Remove, Reason::Release].map(Reason::name),
        ["rebuild", "remove", "release"]
    );
}
