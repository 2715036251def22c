//! Values with a time to live, at the end of a run: once all has healed they go in time, though nobody writes any more.
//!
//! They have keys of their own, one a group, which no checker judges: that a value is gone which nobody has deleted is no history of theirs.

use super::client::Lane;
use super::plan::Plan;
use super::time::{MS, SEC, Time};
use super::world::World;
use bytes::Bytes;
use fulcrum_checker::{History, Outcome, Seen};
use fulcrum_types::{GroupId, Level, Mode};
use std::time::Duration;

const PREFIX: &str = "fleeting ";
const TIME_TO_LIVE: Duration = Duration::from_millis(200);
/// They are gone so long after they were acknowledged: clocks run at their own rates, and replicas hear of it a beat later.
const GONE_WITHIN: Time = 3 * SEC;
const PROPERTY: &str = "time to live (values go though nobody writes)";

/// What is judged of a history.
pub(super) fn without(history: &History) -> History {
    let judged = history.operations().iter();
    judged
        .filter(|operation| !operation.key.starts_with(PREFIX.as_bytes()))
        .cloned()
        .collect()
}

/// Writes a value in each group, lets time pass, and has each read until it is gone.
pub(super) fn values_go(world: &mut World, due: Time) {
    let keys = keys(&world.plan);
    for (group, key) in &keys {
        world.insist(
            "progress (a write with a time to live)",
            due,
            |lane, now, until, process| {
                lane.begin_put(now, until, (*group, key.clone()), Some(TIME_TO_LIVE), process);
            },
        );
    }
    let gone_by = world.now + GONE_WITHIN;
    for (group, key) in keys {
        while world.failure.is_none() && is_there(world, group, &key, due) {
            if world.now >= gone_by {
                let state = world.describe();
                world.fail(PROPERTY, format!("{key:?} of {group} is still there:\n{state}"));
            }
            world.run_until(world.now + 20 * MS);
        }
    }
}

/// A key of each group.
fn keys(plan: &Plan) -> Vec<(GroupId, Bytes)> {
    let groups = plan.groups.iter();
    groups
        .filter_map(|of| {
            let mut names = (0..).map(|number| Bytes::from(format!("{PREFIX}{number}")));
            let own = names.find(|name| plan.map.group_of(of.keyspace, name) == Some(of.group))?;
            Some((of.group, own))
        })
        .collect()
}

fn is_there(world: &mut World, group: GroupId, key: &Bytes, due: Time) -> bool {
    let level = match world.plan.mode {
        Mode::Sync => Level::Linearizable,
        Mode::Async => Level::Session,
    };
    let read = |lane: &mut Lane, now: Time, until: Time, _: &mut _| {
        lane.begin_read(now, until, group, key.clone(), level);
    };
    let outcome = world.insist("progress (a read of a value with a time to live)", due, read);
    matches!(outcome, Some(Outcome::Read(Seen::Present { .. })))
}
