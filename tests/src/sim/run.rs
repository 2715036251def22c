//! One seed from beginning to verdict: a safety phase full of faults, then everything heals and progress is due.

use super::client::{Lane, Tally};
use super::fleeting;
use super::inspect::Inspection;
use super::judge::{Evidence, judge, watches_told_all};
use super::plan::{Choice, Plan, Profile};
use super::record::Record;
use super::time::{MS, SEC, Time};
use super::transactions;
use super::world::{Failure, World};
use crate::planted::Planted;
use bytes::Bytes;
use fulcrum_checker::{History, Outcome, Seen};
use fulcrum_types::{Fsync, GroupId, Level, Mode, NodeId};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How one seed went.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Its mode.
    pub mode: Mode,
    /// Its profile.
    pub profile: Profile,
    /// What went wrong.
    pub failure: Option<Failure>,
    /// How the operations of its clients ended.
    pub tally: Tally,
    /// Virtual time.
    pub simulated: Time,
    /// Acknowledged writes lost, all certified.
    pub lost: u64,
    /// Hash and counts.
    pub record: Record,
}

/// Seeds that found bugs before: they run first, always. A seed a line, then what it found.
pub const REGRESSIONS: &str = include_str!("../../seeds.txt");

/// The seeds of such a list.
#[must_use]
pub fn seeds_of(list: &str) -> Vec<u64> {
    let words = list.lines().filter_map(|line| line.split_whitespace().next());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// The seeds of such a list that are meant with transactions: they are marked `t`.
#[must_use]
pub fn transaction_seeds_of(list: &str) -> Vec<u64> {
    let words = list.lines().filter_map(|line| line.split_whitespace().next());
    words.filter_map(|word| word.strip_prefix('t')?.parse().ok()).collect()
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, choice: Choice, planted: Planted, trace: bool) -> Report {
    let plan = Plan::of(seed, choice);
    if trace {
        println!("{plan:#?}");
    }
    run_plan(plan, planted, trace)
}

/// Runs one plan. A panic of the code under test is a failure like others.
#[must_use]
pub fn run_plan(plan: Plan, planted: Planted, trace: bool) -> Report {
    let (seed, mode, profile) = (plan.seed, plan.mode, plan.profile);
    let mut world = World::new(plan, planted, trace);
    let ended = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    let lost = match ended {
        Ok(lost) => lost,
        Err(panic) => {
            world.fail("panic", words(panic.as_ref()));
            0
        }
    };
    if let (true, Some(failure)) = (trace, &world.failure) {
        println!("{}: {}", failure.property, failure.reason);
    }
    let lanes = world.lanes.iter().map(|lane| lane.tally);
    let clients = world.transactions.clients.iter().map(|client| client.tally);
    Report {
        seed,
        mode,
        profile,
        failure: world.failure,
        tally: Tally::sum(lanes.chain(clients)),
        simulated: world.now,
        lost,
        record: world.record,
    }
}

/// Panics of the code under test are reported with their seed; they need not be printed, too.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        LAST_PANIC.set(place.unwrap_or_default());
    }));
}

thread_local! {
    /// Where this thread has panicked last.
    static LAST_PANIC: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    format!("{text} ({})", LAST_PANIC.take())
}

fn play(world: &mut World) -> u64 {
    world.begin();
    world.run_until(world.plan.safety);
    if world.plan.transactions.is_some() {
        transactions::judge::finish(world);
        return 0;
    }
    finish(world)
}

/// Everything heals, progress is due, the checkers judge. Returns how many acknowledged writes were lost with a certificate.
pub fn finish(world: &mut World) -> u64 {
    world.heal();
    let due = world.now + world.plan.healing;
    // Under load first; a replica whose allowed lag is next to nothing may catch up only without.
    let half = world.now + world.plan.healing / 2;
    while world.now < half && world.failure.is_none() && !world.is_settled() {
        world.run_until(world.now + 20 * MS);
    }
    world.load = false;
    world.wait("progress (replicas in sync)", due, World::is_settled);
    world.wait("progress (clients done)", due, |w| !w.lanes.iter().any(Lane::is_busy));
    world.write_all(due);
    // A session that has lost its history begins anew and may be served by any replica: all have to hold everything first.
    world.wait("progress (all applied)", due, World::is_quiet);
    let finals = world.read_all(due);
    fleeting::values_go(world, due);
    world.wait("progress (all applied)", due, World::is_quiet);
    world.wait("progress (watches)", due, World::are_watches_done);
    conclude(world, finals)
}

fn conclude(world: &mut World, finals: BTreeMap<Bytes, Seen>) -> u64 {
    if world.plan.fsync != Fsync::Always {
        // What is judged is what is on disk.
        world.run_until(world.now + 3 * SEC);
    }
    if world.failure.is_some() {
        return 0;
    }
    let disks = match world.inspect_all() {
        Ok(disks) => disks,
        Err(reason) => {
            world.fail("storage", reason);
            return 0;
        }
    };
    let logs = world.lanes.iter_mut().flat_map(Lane::take_logs);
    let evidence = Evidence {
        plan: &world.plan,
        history: fleeting::without(&History::merge(logs)),
        finals,
        disks,
        primaries: world
            .metadata
            .all()
            .iter()
            .filter_map(|(g, c)| Some((*g, c.primary?)))
            .collect(),
        wiped: world.wiped_groups(),
    };
    let watched = watches_told_all(&world.watchers, &evidence);
    match judge(&evidence).and_then(|lost| watched.map(|()| lost)) {
        Ok(lost) => lost,
        Err(failure) => {
            world.fail(failure.property, failure.reason);
            0
        }
    }
}

impl World {
    /// Lets time pass until a condition holds; it is due by a time.
    pub fn wait(&mut self, what: &'static str, due: Time, holds: impl Fn(&World) -> bool) {
        while self.failure.is_none() && !holds(self) {
            if self.now >= due {
                let state = self.describe();
                return self.fail(
                    what,
                    format!("not within {} s of healing:\n{state}", self.plan.healing / SEC),
                );
            }
            self.run_until(self.now + 20 * MS);
        }
    }

    fn all_keys(&self) -> Vec<(GroupId, Bytes)> {
        let groups = self.plan.groups.iter();
        groups
            .flat_map(|g| g.keys.iter().map(|key| (g.group, key.clone())))
            .collect()
    }

    /// Reads every key, as the newest that there is.
    fn read_all(&mut self, due: Time) -> BTreeMap<Bytes, Seen> {
        let level = match self.plan.mode {
            Mode::Sync => Level::Linearizable,
            Mode::Async => Level::Session,
        };
        let mut finals = BTreeMap::new();
        for (group, key) in self.all_keys() {
            let outcome = self.insist("progress (a read of each key)", due, |lane, now, until, _| {
                lane.begin_read(now, until, group, key.clone(), level);
            });
            if let Some(Outcome::Read(seen)) = outcome {
                finals.insert(key, seen);
            }
        }
        finals
    }

    /// Writes every key once more.
    fn write_all(&mut self, due: Time) {
        for (group, key) in self.all_keys() {
            self.insist("progress (a write of each key)", due, |lane, now, until, process| {
                lane.begin_put(now, until, (group, key.clone()), None, process);
            });
        }
    }

    /// Has lane 0 do an operation, again until it succeeds.
    pub(super) fn insist(
        &mut self,
        what: &'static str,
        due: Time,
        begin: impl Fn(&mut Lane, Time, Time, &mut super::client::Process),
    ) -> Option<Outcome> {
        while self.failure.is_none() {
            let until = self.now + self.plan.load.patience;
            let lane = &mut self.lanes[0];
            begin(lane, self.now, until, &mut self.processes[lane.process]);
            self.attempt(0);
            self.wait(what, due, |w| !w.lanes[0].is_busy());
            match self.lanes[0].last_outcome() {
                Some(Outcome::Failed | Outcome::Unknown) | None => self.run_until(self.now + 10 * MS),
                done => return done,
            }
            if self.now >= due {
                let state = self.describe();
                self.fail(what, format!("no success in time:\n{state}"));
            }
        }
        None
    }

    /// What each replica's disk holds.
    pub(super) fn inspect_all(&self) -> Result<BTreeMap<(GroupId, NodeId), Inspection>, String> {
        let mut disks = BTreeMap::new();
        for plan in &self.plan.groups {
            for node in &plan.replicas {
                let inspection = Inspection::of(&self.hosts[node].disk, plan.group, self.plan.limits())
                    .map_err(|e| format!("{node}, {}: {e}", plan.group))?;
                disks.insert((plan.group, *node), inspection);
            }
        }
        Ok(disks)
    }
}
