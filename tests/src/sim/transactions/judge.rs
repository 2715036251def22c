//! The end of a run with transactions: everything heals, nothing may be left, and the checkers judge what clients were told.

use super::backups;
use super::clients::Client;
use super::jobs::Job;
use crate::sim::judge::broken;
use crate::sim::time::{MS, SEC, Time};
use crate::sim::world::{Failure, World};
use fulcrum_checker::bank::{self, Ledger};
use fulcrum_checker::{TransactionHistory, TransactionOutcome, convergence, serializability};
use fulcrum_shard_node::node::Unfinished;
use fulcrum_types::{Fsync, GroupId, NodeId, TransactionId};
use std::collections::{BTreeMap, BTreeSet};

/// Doubt lasts no longer than this once home and participant have primaries (docs/transactions.md).
const IN_DOUBT_MAX: Time = 5 * SEC;
/// How far apart looks at what is in doubt are.
const LOOK: Time = 20 * MS;
/// How long clients go on after everything has healed.
const CALM_LOAD: Time = 500 * MS;
/// The property of a history that could not be judged: no pass, but nothing is known to be broken either.
pub const UNDECIDED: &str = "transactions (undecided)";

/// Everything heals, progress is due, nothing is left, the checkers judge.
pub fn finish(world: &mut World) {
    world.heal();
    let due = world.now + world.plan.healing;
    world.wait("progress (replicas in sync)", due, World::is_settled);
    let mut doubts = BTreeMap::new();
    let calm = world.now + CALM_LOAD;
    while world.now < calm && world.failure.is_none() {
        look_at_doubts(world, &mut doubts);
        world.run_until(world.now + LOOK);
    }
    world.load = false;
    await_end(world, &mut doubts, due);
    last_reads(world, due);
    // A request that a node was slow to take in may have begun something new meanwhile.
    await_end(world, &mut doubts, due);
    if world.plan.fsync != Fsync::Always {
        // What is compared is what is on disk.
        world.run_until(world.now + 3 * SEC);
    }
    if world.failure.is_none()
        && let Err(failure) = judge(world)
    {
        world.fail(failure.property, failure.reason);
    }
}

/// Waits until nothing is under way, nor left at any replica.
fn await_end(world: &mut World, doubts: &mut BTreeMap<(GroupId, TransactionId), Time>, due: Time) {
    while world.failure.is_none() && !(is_finished(world) && world.is_quiet()) {
        if world.now >= due {
            let (left, state) = (what_is_left(world), world.describe());
            let within = world.plan.healing / SEC;
            return world.fail(
                "progress (transactions)",
                format!("not within {within} s of healing: {left}\n{state}"),
            );
        }
        look_at_doubts(world, doubts);
        world.run_until(world.now + LOOK);
    }
}

fn of_primaries(world: &World) -> Vec<(GroupId, Unfinished)> {
    let led = world.metadata.all().iter();
    let led = led.filter_map(|(group, configuration)| Some((*group, configuration.primary?)));
    led.filter_map(|(group, node)| Some((group, unfinished(world, group, node)?)))
        .collect()
}

fn of_replicas(world: &World) -> Vec<(GroupId, Unfinished)> {
    let replicas = world.plan.groups.iter();
    let replicas = replicas.flat_map(|plan| plan.replicas.iter().map(|node| (plan.group, *node)));
    replicas
        .filter_map(|(group, node)| Some((group, unfinished(world, group, node)?)))
        .collect()
}

fn unfinished(world: &World, group: GroupId, node: NodeId) -> Option<Unfinished> {
    world.hosts[&node].node.as_ref()?.unfinished(group).ok()?
}

/// Nothing is in doubt for longer than its bound, since all groups have primaries.
fn look_at_doubts(world: &mut World, since: &mut BTreeMap<(GroupId, TransactionId), Time>) {
    let now = world.now;
    let mut found = BTreeSet::new();
    for (group, unfinished) in of_primaries(world) {
        found.extend(unfinished.prepared.into_iter().map(|(id, _)| (group, id)));
    }
    since.retain(|known, _| found.contains(known));
    for known in found {
        let first = *since.entry(known).or_insert(now);
        // Clocks run at their own rates, and ticks are apart.
        if now - first > IN_DOUBT_MAX + IN_DOUBT_MAX / 20 {
            let (group, id) = known;
            return world.fail(
                "transactions (in doubt)",
                format!("{id} is in doubt in {group} for {} ms", (now - first) / MS),
            );
        }
    }
}

/// Whether nobody has anything under way, and nothing is left at any replica that runs.
#[must_use]
pub fn is_finished(world: &World) -> bool {
    let done = |unfinished: &Unfinished| *unfinished == Unfinished::default();
    !world.transactions.clients.iter().any(Client::is_busy)
        && !world.transactions.backups.is_busy()
        && of_replicas(world).iter().all(|(_, unfinished)| done(unfinished))
        && (world.transactions.coordinators.iter()).all(|one| {
            one.status()
                .is_some_and(|s| s.preparing + s.deciding + s.resolving + s.reading == 0)
        })
}

/// Who has what under way.
#[must_use]
pub fn what_is_left(world: &World) -> String {
    let left: Vec<_> = of_replicas(world)
        .into_iter()
        .filter(|(_, unfinished)| *unfinished != Unfinished::default())
        .collect();
    let busy = world
        .transactions
        .clients
        .iter()
        .filter(|client| client.is_busy())
        .count();
    let coordinators: Vec<_> = world
        .transactions
        .coordinators
        .iter()
        .map(super::Coordinator::status)
        .collect();
    format!("{busy} clients are busy, coordinators have {coordinators:?}, groups have {left:?}")
}

/// The newest of all lists and accounts, each in one transaction that only reads.
fn last_reads(world: &mut World, due: Time) {
    let lists = (0..world.transactions.workload.lists.len())
        .map(|list| (list, false))
        .collect();
    let lists = Job::Lists {
        touched: lists,
        tested: false,
        consistent: true,
    };
    insist(world, &lists, due);
    if world.transactions.workload.opened {
        insist(world, &Job::Statement, due);
    }
}

fn insist(world: &mut World, job: &Job, due: Time) {
    while world.failure.is_none() {
        world.have(0, job.clone());
        world.wait("progress (a read of everything)", due, |w| {
            !w.transactions.clients[0].is_busy()
        });
        if matches!(
            world.transactions.clients[0].last,
            Some((_, TransactionOutcome::Committed))
        ) {
            return;
        }
        if world.now >= due {
            return world.fail("progress (a read of everything)", "no success in time");
        }
        world.run_until(world.now + LOOK);
    }
}

fn judge(world: &mut World) -> Result<(), Failure> {
    let (mut logs, mut bank): (Vec<_>, Vec<_>) = world.transactions.clients.iter().map(Client::logs).unzip();
    let told = TransactionHistory::merge(logs.clone());
    backups::judge_cuts(world, told.transactions()).map_err(|why| broken("backup", why))?;
    let (lists, statements) = backups::as_reads(world).map_err(|why| broken("backup", why))?;
    logs.push(lists);
    bank.push(statements);
    let history = TransactionHistory::merge(logs);
    let report = serializability::check(&history);
    if let Some(violation) = report.violations.first() {
        return Err(broken("serializability", history.describe(violation)));
    }
    if let Some(why) = report.undecided.first() {
        return Err(broken(UNDECIDED, why.clone()));
    }
    let ledger = Ledger::merge(world.transactions.workload.ledger(), bank);
    let report = bank::check(&ledger);
    if let Some(violation) = report.violations.first() {
        return Err(broken("bank", ledger.describe(violation)));
    }
    if let Some(why) = report.undecided.first() {
        return Err(broken(UNDECIDED, why.clone()));
    }
    let disks = world.inspect_all().map_err(|reason| broken("storage", reason))?;
    let states: Vec<_> = disks
        .iter()
        .map(|((group, node), disk)| disk.state(*group, *node))
        .collect();
    match convergence::check_settled(&states).first() {
        None => Ok(()),
        Some(violation) => Err(broken(
            "convergence",
            violation.describe(&fulcrum_checker::History::default()),
        )),
    }
}
