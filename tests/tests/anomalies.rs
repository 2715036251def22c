//! Runs `testscripts/*.txt`: one anomaly each, tried on the shipped coordinators and participants together, in the calm of the simulation.
//!
//! A block is comments (`#`), commands, `---`, and what they print, up to an empty line. `UPDATE_GOLDEN=1` rewrites the output; read the
//! difference before you keep it. Keys `x`, `y` and `z` lie in groups of their own, over two keyspaces.
//!
//! | command | does |
//! | --- | --- |
//! | `t1 begins`, `t2 begins after t1` | a new transaction; after: as old as that one, which it runs again |
//! | `t1 reads x y` | from the groups, one after the other |
//! | `t1 reads x y at one moment` | in one round of the coordinator that agrees |
//! | `t1 scans x` | all keys of the group of `x`, without a coordinator |
//! | `t1 writes x=1 x2=1` | kept by the client until it commits; `x2` is another key in the group of `x` |
//! | `t1 commits` | with all that it has read and written |
//! | `t1 commits, its coordinator dies before E` | E: `decide commit`, `answer`, `resolve`; then the other one is asked |
//! | `N ms pass` | |

use bytes::Bytes;
use fulcrum_coordinator::{CommitRequest, InKeyspace};
use fulcrum_tests::planted::Planted;
use fulcrum_tests::sim::network::Quality;
use fulcrum_tests::sim::plan::{Choice, Plan, Profile};
use fulcrum_tests::sim::time::{MS, SEC, WALL_ORIGIN_MS};
use fulcrum_tests::sim::transactions::workload::{Item, Want, reads_of};
use fulcrum_tests::sim::world::World;
use fulcrum_two_phase::Reply;
use fulcrum_types::{
    Answer, ClientId, KeyWrite, Level, Mutation, Observed, Operation, Priority, Query, ReadCheck, ReadRequest,
    Sequence, SessionToken, TransactionId,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

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
    sequence: u64,
}

type Printed = Result<Vec<String>, String>;

/// A calm world of three nodes with three groups in two keyspaces, and two coordinators.
fn world() -> World {
    let choice = Choice {
        profile: Profile::Calm,
        transactions: true,
        ..Choice::default()
    };
    let fits = |plan: &Plan| plan.nodes.len() == 3 && plan.groups.len() == 3 && plan.groups[0].replicas.len() == 3;
    let mut plan = (1..).map(|seed| Plan::of(seed, choice)).find(fits).unwrap();
    plan.turn_stall_ppm = 0;
    plan.quality = Quality::GOOD;
    let transactions = plan.transactions.as_mut().unwrap();
    (transactions.coordinators, transactions.clients, transactions.crash_ppm) = (2, 1, 0);
    let mut world = World::new(plan, Planted::default(), false);
    world.load = false;
    world.begin();
    world.run_until(2 * SEC);
    assert!(world.is_settled(), "{}", world.describe());
    world
}

impl Story {
    fn new() -> Self {
        Self {
            world: world(),
            transactions: BTreeMap::new(),
            coordinator: 0,
            sequence: 0,
        }
    }

    /// `x`, `y` and `z` stand for groups, what follows for a key there.
    fn item(&self, name: &str) -> Result<Item, String> {
        let group = ["x", "y", "z"].iter().position(|group| name.starts_with(group));
        let group = group.ok_or_else(|| format!("'{name}' is no key: begin with x, y or z"))?;
        let plan = &self.world.plan.groups[group];
        let of = self
            .world
            .transactions
            .workload
            .lists
            .iter()
            .find(|item| item.at.group == plan.group);
        let mut item = of.cloned().ok_or("a group has no key")?;
        let mut names = (0..).map(|n| Bytes::from(format!("{name}.{n}")));
        let own = |key: &Bytes| self.world.plan.map.group_of(plan.keyspace, key) == Some(plan.group);
        item.key.key = names.find(own).unwrap_or_default();
        Ok(item)
    }

    fn run(&mut self, command: &str) -> Printed {
        let words: Vec<&str> = command.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [ms, "ms", "pass"] => {
                let ms: u64 = ms.parse().map_err(|_| "a number of milliseconds")?;
                self.world.run_until(self.world.now + ms * MS);
                Ok(Vec::new())
            }
            [name, "begins"] => self.begin(name, None),
            [name, "begins", "after", first] => self.begin(name, Some(first)),
            [name, "reads", keys @ .., "at", "one", "moment"] => self.read(name, keys, true),
            [name, "reads", keys @ ..] => self.read(name, keys, false),
            [name, "scans", key] => self.scan(name, key),
            [name, "writes", writes @ ..] => self.write(name, writes),
            [name, "commits"] => self.commit(name, None),
            [name, "commits", "its", "coordinator", "dies", "before", effect @ ..] => {
                let effect = effect.join(" ");
                let known = ["decide commit", "answer", "resolve"]
                    .into_iter()
                    .find(|known| *known == effect);
                self.commit(name, Some(known.ok_or("what a coordinator does not do")?))
            }
            _ => Err("what is that?".into()),
        }
    }

    fn transaction(&mut self, name: &str) -> Result<&mut Transaction, String> {
        let known = self.transactions.get_mut(name);
        known.ok_or_else(|| format!("{name} has not begun"))
    }

    fn begin(&mut self, name: &str, first: Option<&str>) -> Printed {
        self.world.run_until(self.world.now + MS);
        self.sequence += 1;
        let id = TransactionId {
            begun_at_ms: WALL_ORIGIN_MS + self.world.now / MS,
            client: ClientId(1),
            sequence: Sequence(self.sequence),
        };
        let priority = match first {
            Some(first) => self.transaction(first)?.priority,
            None => Priority(id),
        };
        let begun = Transaction {
            id,
            priority,
            ..Transaction::default()
        };
        self.transactions.insert(name.into(), begun);
        Ok(Vec::new())
    }

    fn read(&mut self, name: &str, keys: &[&str], consistent: bool) -> Printed {
        let items = keys.iter().map(|key| self.item(key)).collect::<Result<Vec<_>, _>>()?;
        let id = self.transaction(name)?.id;
        let (parts, places) = reads_of(&items, &SessionToken::default());
        let want = Want::Read { id, parts, consistent };
        let values = match self.world.call_of_story(self.coordinator, want) {
            Some(Ok(Reply::Values { parts, .. })) => parts,
            other => return Err(format!("no values: {other:?}")),
        };
        let mut seen = vec![Observed::default(); items.len()];
        for (places, part) in places.iter().zip(values) {
            places
                .iter()
                .zip(part.observed)
                .for_each(|(place, value)| seen[*place] = value);
        }
        let told: Vec<String> = keys
            .iter()
            .zip(&seen)
            .map(|(key, seen)| format!("{key}={}", text(seen)))
            .collect();
        self.transaction(name)?.reads.extend(items.into_iter().zip(seen));
        Ok(vec![format!("{name} reads {}", told.join(" "))])
    }

    fn scan(&mut self, name: &str, key: &str) -> Printed {
        let at = self.item(key)?.at;
        let query = Query::Scan {
            start: Bytes::new(),
            end: Bytes::new(),
            limit: 100,
            max_bytes: 1 << 20,
        };
        let operation = Operation::Read(ReadRequest {
            level: Level::Linearizable,
            acceptable: Vec::new(),
            seen: None,
            query,
        });
        match self
            .world
            .ask_of_story(at, operation)
            .map(|answered| answered.map(|a| a.answer))
        {
            Some(Ok(Answer::Rows { rows, .. })) => Ok(vec![format!("{name} finds {} keys", rows.len())]),
            other => Err(format!("no rows: {other:?}")),
        }
    }

    fn write(&mut self, name: &str, writes: &[&str]) -> Printed {
        for write in writes {
            let (key, value) = write.split_once('=').ok_or("a write looks like x=1")?;
            let item = self.item(key)?;
            let value = Bytes::copy_from_slice(value.as_bytes());
            self.transaction(name)?.writes.push((item, value));
        }
        Ok(Vec::new())
    }

    fn commit(&mut self, name: &str, dies_before: Option<&'static str>) -> Printed {
        let transaction = self.transaction(name)?;
        let mut commit = CommitRequest {
            id: transaction.id,
            priority: transaction.priority,
            ..CommitRequest::default()
        };
        for (item, seen) in &transaction.reads {
            let what = ReadCheck {
                key: item.key.key.clone(),
                version: seen.version,
                exists: seen.value.is_some(),
            };
            let keyspace = item.keyspace.clone();
            commit.reads.push(InKeyspace { keyspace, what });
        }
        for (item, value) in &transaction.writes {
            let (key, value) = (item.key.key.clone(), value.clone());
            let mutation = Mutation::Put { value, ttl: None };
            let (keyspace, what) = (item.keyspace.clone(), KeyWrite { key, mutation });
            commit.writes.push(InKeyspace { keyspace, what });
        }
        self.world.transactions.coordinators[self.coordinator].dies_before = dies_before;
        let told = self
            .world
            .call_of_story(self.coordinator, Want::Commit(Box::new(commit)));
        if dies_before.is_some() {
            self.coordinator = 1 - self.coordinator;
        }
        Ok(vec![match told {
            Some(Ok(Reply::Committed { .. })) => format!("{name} is committed"),
            Some(Ok(other)) => format!("{name} is told {other:?}"),
            Some(Err(refusal)) => format!("{name} is refused: {}", self.with_names(&refusal.to_string())),
            None => format!("{name} hears nothing"),
        }])
    }
}

impl Story {
    /// Ids say little to a reader.
    fn with_names(&self, told: &str) -> String {
        let named = self.transactions.iter();
        named.fold(told.to_owned(), |told, (name, one)| {
            told.replace(&one.id.to_string(), name)
        })
    }
}

fn text(seen: &Observed) -> String {
    let value = seen
        .value
        .as_ref()
        .map(|value| String::from_utf8_lossy(&value.value).into_owned());
    value.unwrap_or_else(|| "nothing".into())
}

fn replay(text: &str) -> String {
    let mut story = Story::new();
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
    out.trim_end().to_string() + "\n"
}

#[test]
fn each_anomaly_ends_as_its_story_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 7, "a story for each anomaly");
    let mut wrong = Vec::new();
    for path in paths {
        let expected = std::fs::read_to_string(&path).unwrap();
        let printed = replay(&expected);
        assert!(!printed.contains("error:"), "{}:\n{printed}", path.display());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &printed).unwrap();
        } else if printed != expected {
            wrong.push(format!("{}:\n{printed}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
