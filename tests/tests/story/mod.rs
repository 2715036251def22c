//! Stories of transactions: the shipped coordinators' core and the shipped participants together, on the simulated network and disks, in calm
//! but for what a story says.
//!
//! A block is comments (`#`), commands, `---`, and what they print, up to an empty line. `UPDATE_GOLDEN=1` rewrites the output; read the
//! difference before you keep it. Keys `x`, `y` and `z` lie in groups of their own, over two keyspaces; each is led by another node.
//!
//! | command | does |
//! | --- | --- |
//! | `t1 begins`, `t2 begins after t1` | a new transaction; after: as old as that one, which it runs again |
//! | `t1 reads x y` | from the groups, one after the other |
//! | `t1 reads x y at one moment` | in one round of the coordinator that agrees |
//! | `t1 scans x` | all keys of the group of `x`, without a coordinator |
//! | `t1 writes x=1 x2=1` | kept by the client until it commits; `x2` is another key in the group of `x` |
//! | `t1 commits`, `t1 commits, MISHAP, MISHAP` | with all that it has read and written; a second time: it is sent again, under the same id |
//! | `t1 is looked up`, `t1 is settled` | what became of it; to settle: aborted, if it is undecided |
//! | `t1 sends its commit, MISHAP`, `t1 sends its commit within N ms, MISHAP`, `t1 hears` | the same in two steps |
//! | `the primary of x dies` | at once, with all that it has not synced |
//! | `the coordinator dies` | the one that was asked last; then the other one is asked |
//! | `answers` | what groups have told coordinators and each other since the last look |
//! | `records` | what groups have on record, by their primaries |
//! | `N ms pass` | |
//! | `everything heals` | all machines run again; then no replica may have a lock, an intent, or anything unresolved |
//!
//! | mishap | |
//! | --- | --- |
//! | `its coordinator dies before E`, `before the second E` | E: a question below, or `answer`; then the other one is asked, by the next command |
//! | `the primary of y dies before Q is ordered` | Q: `prepare`, `decide commit`, `decide abort`, `resolve`, `forget`, `heartbeat`. It has arrived, no more |
//! | `... is sent` | it is ordered, and nobody else has heard of it |
//! | `... is committed` | backups are sent the entry, and keep it |
//! | `... is answered` | it is committed, and the answer is lost |
//! | `Q to y is N ms late` | on its way there |

mod clients;
mod machines;

use bytes::Bytes;
use fulcrum_tests::planted::Planted;
use fulcrum_tests::sim::network::Quality;
use fulcrum_tests::sim::plan::{Choice, Plan, Profile};
use fulcrum_tests::sim::time::{MS, SEC};
use fulcrum_tests::sim::transactions::workload::Item;
use fulcrum_tests::sim::transactions::{Called, STORY_WAITS};
use fulcrum_tests::sim::world::World;
use fulcrum_types::{Fsync, GroupId, Observed, Priority, TransactionId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const GROUPS: [&str; 3] = ["x", "y", "z"];

#[derive(Default)]
struct Transaction {
    id: TransactionId,
    priority: Priority,
    reads: Vec<(Item, Observed)>,
    writes: Vec<(Item, Bytes)>,
}

struct Story {
    world: World,
    transactions: BTreeMap<String, Transaction>,
    coordinator: usize,
    called: Option<Called>,
    sequence: u64,
}

type Printed = Result<Vec<String>, String>;

/// A calm world of three nodes with three groups in two keyspaces, each led by another node, and two coordinators.
fn world(planted: Planted) -> World {
    let choice = Choice {
        profile: Profile::Calm,
        transactions: true,
        ..Choice::default()
    };
    let fits = |plan: &Plan| {
        let all_three = plan.nodes.len() == 3 && plan.groups.len() == 3 && plan.groups[0].replicas.len() == 3;
        all_three && plan.fsync == Fsync::Always
    };
    let plans = (1..).map(|seed| Plan::of(seed, choice)).filter(fits);
    plans.map(|plan| calm(plan, planted)).find(is_led_by_all).unwrap()
}

fn calm(mut plan: Plan, planted: Planted) -> World {
    plan.turn_stall_ppm = 0;
    plan.quality = Quality::GOOD;
    let transactions = plan.transactions.as_mut().unwrap();
    (transactions.coordinators, transactions.clients, transactions.crash_ppm) = (2, 1, 0);
    transactions.options = fulcrum_two_phase::Options::default();
    let mut world = World::new(plan, planted, false);
    world.load = false;
    world.transactions.questions.ignorance = 0;
    world.transactions.moments.told = Some(Vec::new());
    world.begin();
    world.run_until(2 * SEC);
    assert!(world.is_settled(), "{}", world.describe());
    world
}

fn is_led_by_all(world: &World) -> bool {
    let led = world.metadata.all().values().map(|configuration| configuration.primary);
    led.collect::<BTreeSet<_>>().len() == world.plan.nodes.len()
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

impl Story {
    fn new(planted: Planted) -> Self {
        Self {
            world: world(planted),
            transactions: BTreeMap::new(),
            coordinator: 0,
            called: None,
            sequence: 0,
        }
    }

    fn group(&self, name: &str) -> Result<GroupId, String> {
        let place = GROUPS.iter().position(|group| name.starts_with(group));
        let place = place.ok_or_else(|| format!("'{name}' is no key and no group: begin with x, y or z"))?;
        Ok(self.world.plan.groups[place].group)
    }

    /// `x`, `y` and `z` stand for groups, what follows for a key there.
    fn item(&self, name: &str) -> Result<Item, String> {
        let group = self.group(name)?;
        let of = (self.world.transactions.workload.lists.iter()).find(|item| item.at.group == group);
        let mut item = of.cloned().ok_or("a group has no key")?;
        let mut names = (0..).map(|n| Bytes::from(format!("{name}.{n}")));
        let keyspace = item.key.keyspace;
        let own = |key: &Bytes| self.world.plan.map.group_of(keyspace, key) == Some(group);
        item.key.key = names.find(own).unwrap_or_default();
        Ok(item)
    }

    fn run(&mut self, command: &str) -> Printed {
        let (command, mishaps) = command.split_once(", ").unwrap_or((command, ""));
        let mishaps: Vec<&str> = mishaps.split(", ").filter(|mishap| !mishap.is_empty()).collect();
        let words: Vec<&str> = command.split(' ').collect();
        match words.as_slice() {
            [name, "commits"] => return self.commit(name, &mishaps),
            [name, "sends", "its", "commit"] => return self.send_commit(name, STORY_WAITS, &mishaps),
            [name, "sends", "its", "commit", "within", ms, "ms"] => {
                return self.send_commit(name, number(ms)? * MS, &mishaps);
            }
            _ if !mishaps.is_empty() => return Err("things go wrong with commits only".into()),
            _ => {}
        }
        match words.as_slice() {
            [ms, "ms", "pass"] => {
                self.world.run_until(self.world.now + number(ms)? * MS);
                Ok(Vec::new())
            }
            [name, "begins"] => self.begin(name, None),
            [name, "begins", "after", first] => self.begin(name, Some(first)),
            [name, "reads", keys @ .., "at", "one", "moment"] => self.read(name, keys, true),
            [name, "reads", keys @ ..] => self.read(name, keys, false),
            [name, "scans", key] => self.scan(name, key),
            [name, "writes", writes @ ..] => self.write(name, writes),
            [name, "hears"] => self.hear(name),
            [name, "is", "looked", "up"] => self.look_up(name, false),
            [name, "is", "settled"] => self.look_up(name, true),
            ["the", "primary", "of", group, "dies"] => self.kill(group),
            ["the", "coordinator", "dies"] => self.kill_coordinator(),
            ["answers"] => self.answers(),
            ["records"] => self.records(),
            ["everything", "heals"] => self.heal(),
            _ => Err("what is that?".into()),
        }
    }
}

fn text(seen: &Observed) -> String {
    let value = seen
        .value
        .as_ref()
        .map(|value| String::from_utf8_lossy(&value.value).into_owned());
    value.unwrap_or_else(|| "nothing".into())
}

fn replay(text: &str, planted: Planted) -> (String, World) {
    let mut story = Story::new(planted);
    let mut out = String::new();
    for block in text.split("\n\n").map(str::trim).filter(|block| !block.is_empty()) {
        let commands = block.split("\n---").next().unwrap_or_default();
        let _ = writeln!(out, "{commands}");
        let mut printed = Vec::new();
        for command in commands.lines().filter(|line| !line.starts_with('#')) {
            match story.run(command) {
                Ok(lines) => printed.extend(lines),
                Err(error) => printed.push(format!("error: {command}: {error}")),
            }
        }
        if let Some(failure) = &story.world.failure {
            printed.push(format!("error: {failure:?}"));
        }
        if !printed.is_empty() {
            let _ = writeln!(out, "---\n{}", printed.join("\n"));
        }
        out.push('\n');
    }
    (out.trim_end().to_string() + "\n", story.world)
}

fn stories(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts").join(folder);
    let files = std::fs::read_dir(&folder).unwrap();
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The stories of a folder that end otherwise if all processes carry this bug.
#[cfg(feature = "planted-bugs")]
pub fn told_otherwise(folder: &str, planted: Planted) -> Vec<String> {
    let differs = |path: &PathBuf| {
        let expected = std::fs::read_to_string(path).unwrap();
        std::panic::catch_unwind(|| replay(&expected, planted)).map_or(true, |(printed, _)| printed != expected)
    };
    let names = stories(folder).into_iter().filter(differs);
    names
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect()
}

/// Replays all stories of a folder; what they print must be what they say, and hold with the check. How many there are.
pub fn tell(folder: &str, mut check: impl FnMut(&Path, &str, &World) -> Result<(), String>) -> usize {
    let paths = stories(folder);
    let mut wrong = Vec::new();
    for path in &paths {
        let expected = std::fs::read_to_string(path).unwrap();
        let (printed, world) = replay(&expected, Planted::default());
        if printed.contains("error:") {
            wrong.push(format!("{}:\n{printed}", path.display()));
        }
        if let Err(reason) = check(path, &printed, &world) {
            wrong.push(format!("{}: {reason}", path.display()));
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &printed).unwrap();
        } else if printed != expected {
            wrong.push(format!("{}:\n{printed}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    paths.len()
}
