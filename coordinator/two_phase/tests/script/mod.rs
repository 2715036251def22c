//! The verbs of golden scripts.
//!
//! | verb | what it does |
//! | --- | --- |
//! | `groups N [horizon=MS] [open=N]` | N groups, and coordinator `a`; `coordinator b` starts another |
//! | `commit A R T ITEM... [deadline=MS] [as=T]` | request R: commit T at A; items: `g1.x=v` writes, `g1.x?absent`, `?exists`, `?v@3`, `?=v` test, `g1.x@3` was read (`@0` absent) |
//! | `read A R T g1.x ... [consistent] [deadline=MS]` | request R: read |
//! | `lookup A R T g1 ... [settle] [deadline=MS]` | request R: ask what became of T |
//! | `cancel A R` | its client goes away |
//! | `deliver A g1` | the oldest question of A to g1 arrives, and the answer gets back |
//! | `apply A g1`, `pass A g1` | it arrives; its answer gets back |
//! | `again A g1` | it arrives a second time: the answer of the first stands |
//! | `overtake A g1` | the newest question overtakes all others of A to g1 |
//! | `lose A g1`, `loseanswer A g1` | it is lost; its answer is lost |
//! | `refuse A g1 CODE [T]` | it is refused, nothing is done |
//! | `crash A`, `start A` | a coordinator dies, comes back with nothing; `crash A after N` dies after N more effects |
//! | `down g1`, `up g1`, `ahead g1 MS` | a group has no primary, has one again; its replicated time is ahead |
//! | `settle` | all questions arrive, until none is under way |
//! | `run MS [silently]`, `stand MS` | time passes and questions arrive; time passes and nothing arrives |
//! | `records`, `flights`, `status A`, `value g1.x` | look |

use crate::world::group::{Record, place};
use crate::world::{Source, World, show};
use bytes::Bytes;
use fulcrum_core_testing::golden;
use fulcrum_two_phase::{Coordinate, Input, Plan, PlannedPart, PlannedRead, RequestId};
use fulcrum_types::{
    AbortCause, ClientId, Condition, Fingerprint, KeyCondition, KeyWrite, MapVersion, Mutation, Part, Priority,
    ReadCheck, Refusal, Sequence, TransactionId, Version,
};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

type Lines = Result<Vec<String>, String>;

#[derive(Default)]
pub struct Script {
    world: Option<World>,
    ids: BTreeMap<u64, TransactionId>,
    /// Bug to plant in every core.
    #[cfg(feature = "planted-bugs")]
    bug: Option<fulcrum_two_phase::planted::Bug>,
}

fn number(prefix: char, word: Option<&&str>) -> Result<u64, String> {
    let word = word.ok_or_else(|| format!("{prefix} and a number is missing"))?;
    let digits = word
        .strip_prefix(prefix)
        .ok_or_else(|| format!("'{word}' is no {prefix}"))?;
    digits.parse().map_err(|_| format!("'{word}' is no number"))
}

fn plain(word: Option<&&str>) -> Result<u64, String> {
    let word = word.ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

fn name(word: Option<&&str>) -> Result<char, String> {
    let word = word.and_then(|word| word.chars().next());
    word.ok_or_else(|| "which coordinator?".into())
}

fn option<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn deadline(words: &[&str]) -> Result<u64, String> {
    option(words, "deadline").map_or(Ok(5_000), |ms| plain(Some(&ms)))
}

#[cfg(feature = "planted-bugs")]
impl Script {
    pub fn with_bug(bug: fulcrum_two_phase::planted::Bug) -> Self {
        Self {
            bug: Some(bug),
            ..Self::default()
        }
    }
}

impl golden::Script for Script {
    fn run(&mut self, line: &str) -> Lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, rest) = words.split_first().ok_or("no verb")?;
        if *verb == "groups" {
            let horizon = option(rest, "horizon").map_or(Ok(30_000), |ms| plain(Some(&ms)))?;
            let mut world = World::new(plain(rest.first())?, horizon);
            if let Some(most) = option(rest, "open") {
                world.options.open_max = usize::try_from(plain(Some(&most))?).unwrap_or_default();
            }
            #[cfg(feature = "planted-bugs")]
            let world = World { bug: self.bug, ..world };
            self.world = Some(world);
            self.world()?.start('a');
            return Ok(Vec::new());
        }
        if let Some(lines) = self.look(verb, rest)? {
            return Ok(lines);
        }
        if !self.request(verb, rest)? && !self.carry(verb, rest)? && !self.disturb(verb, rest)? {
            return Err("no such verb".into());
        }
        let silently = rest.last() == Some(&"silently");
        let world = self.world()?;
        let mut lines = std::mem::take(&mut world.trace);
        lines.retain(|line| !silently || line.starts_with("BROKEN"));
        let groups = world.groups.values_mut();
        lines.extend(
            groups
                .flat_map(|group| group.history.broken.drain(..))
                .map(|b| format!("BROKEN: {b}")),
        );
        Ok(lines)
    }
}

impl Script {
    fn world(&mut self) -> Result<&mut World, String> {
        self.world.as_mut().ok_or_else(|| "first: groups".into())
    }

    /// A transaction begins when it is first named.
    fn id(&mut self, word: Option<&&str>) -> Result<TransactionId, String> {
        let number = number('t', word)?;
        let begun_at_ms = self.world()?.now_ms;
        let id = TransactionId {
            begun_at_ms,
            client: ClientId(1),
            sequence: Sequence(number),
        };
        Ok(*self.ids.entry(number).or_insert(id))
    }

    /// What clients ask.
    fn request(&mut self, verb: &str, rest: &[&str]) -> Result<bool, String> {
        let asks = ["commit", "read", "lookup", "cancel"];
        if !asks.contains(&verb) {
            return Ok(false);
        }
        let core = name(rest.first())?;
        let request = RequestId(number('r', rest.get(1))?);
        let input = match verb {
            "cancel" => Input::Cancelled { request },
            "commit" => {
                let plan = self.plan(rest)?;
                let deadline = self.world()?.deadline(deadline(rest)?);
                Input::Commit {
                    request,
                    plan,
                    deadline,
                }
            }
            "read" => {
                let id = self.id(rest.get(2))?;
                let deadline = self.world()?.deadline(deadline(rest)?);
                Input::Read {
                    request,
                    id,
                    parts: reads(rest)?,
                    consistent: rest.contains(&"consistent"),
                    deadline,
                }
            }
            _ => {
                let id = self.id(rest.get(2))?;
                let deadline = self.world()?.deadline(deadline(rest)?);
                let places = rest.iter().skip(3).filter(|word| word.starts_with('g'));
                let places: Result<Vec<_>, String> = places.map(|word| Ok(place(number('g', Some(word))?))).collect();
                Input::LookUp {
                    request,
                    id,
                    places: places?,
                    settle: rest.contains(&"settle").then_some(AbortCause::Client),
                    deadline,
                }
            }
        };
        self.world()?.step(core, input);
        Ok(true)
    }

    fn plan(&mut self, words: &[&str]) -> Result<Plan, String> {
        let id = self.id(words.get(2))?;
        let priority = option(words, "as").map_or(Ok(id), |first| self.id(Some(&first)))?;
        let mut parts: BTreeMap<u64, Part> = BTreeMap::new();
        let (mut written, mut first) = (None, None);
        for word in words.iter().skip(3).filter(|word| word.starts_with('g')) {
            let group = item(word, &mut parts)?;
            first.get_or_insert(group);
            if word.contains('=') && !word.contains('?') {
                written.get_or_insert(group);
            }
        }
        let mut hash = DefaultHasher::new();
        format!("{parts:?}").hash(&mut hash);
        let planned = parts.into_iter().map(|(group, part)| PlannedPart {
            participant: place(group),
            seen: None,
            part,
        });
        Ok(Plan {
            id,
            priority: Priority(priority),
            fingerprint: Fingerprint(hash.finish().into()),
            home: place(written.or(first).ok_or("the transaction is empty")?),
            parts: planned.collect(),
        })
    }

    /// How questions travel.
    fn carry(&mut self, verb: &str, rest: &[&str]) -> Result<bool, String> {
        match verb {
            "settle" => self.world()?.settle(),
            "run" | "stand" => {
                let world = self.world()?;
                for _ in 0..plain(rest.first())? / 25 {
                    world.tick();
                    if verb == "run" {
                        world.settle();
                    }
                }
            }
            "overtake" => {
                let oldest = self.flight(rest, false)?;
                let world = self.world()?;
                let first = world.flights.get(oldest).ok_or("no such question")?;
                let same = |flight: &crate::world::Flight| flight.from == first.from && flight.to == first.to;
                let newest = world.flights.iter().rposition(same).ok_or("no such question")?;
                let overtaking = world.flights.remove(newest);
                world.flights.insert(oldest, overtaking);
            }
            "deliver" | "apply" | "pass" | "again" | "lose" | "loseanswer" | "refuse" => {
                let refusal = if verb == "refuse" {
                    Some(self.refusal(rest)?)
                } else {
                    None
                };
                let answered = matches!(verb, "pass" | "again" | "loseanswer");
                let at = self.flight(rest, answered)?;
                let world = self.world()?;
                let flight = world.flights.get_mut(at).ok_or("no such question")?;
                match verb {
                    "apply" => world.apply(at),
                    "pass" => world.pass(at),
                    "deliver" => world.deliver(at),
                    "again" => {
                        let first = flight.clone();
                        world.apply(at);
                        if let Some(flight) = world.flights.get_mut(at) {
                            *flight = first;
                        }
                    }
                    "refuse" => {
                        flight.answer = refusal.map(Err);
                        world.pass(at);
                    }
                    _ => {
                        flight.answer = None;
                        world.pass(at);
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn flight(&mut self, words: &[&str], answered: bool) -> Result<usize, String> {
        let from = words.first().ok_or("from whom?")?.to_string();
        let to = number('g', words.get(1))?;
        let fits = |flight: &crate::world::Flight| {
            let source = show::source(flight.from);
            source == from && flight.to == to && flight.answer.is_some() == answered
        };
        let at = self.world()?.flights.iter().position(fits);
        at.ok_or_else(|| "no such question is under way".into())
    }

    fn refusal(&mut self, words: &[&str]) -> Result<Refusal, String> {
        let code = words.get(2).ok_or("which refusal?")?;
        Ok(match *code {
            "LOCKED" => Refusal::Locked {
                by: self.id(words.get(3))?,
            },
            "NOT_READY" => Refusal::NotReady,
            "BEING_CUT" => Refusal::BeingCut,
            "NOT_ENOUGH_REPLICAS" => Refusal::NotEnoughReplicas { have: 1, need: 2 },
            "OVERLOADED" => Refusal::Overloaded,
            "TOO_OLD_TO_TELL" => Refusal::TooOldToTell,
            "UNKNOWN" => Refusal::Unknown {
                reason: "the set shrank".into(),
            },
            "INVALID" => Refusal::Invalid {
                reason: "a limit".into(),
            },
            "WRONG_GROUP" => Refusal::WrongGroup {
                map_version: MapVersion(2),
            },
            other => return Err(format!("no refusal '{other}'")),
        })
    }

    /// Faults and their ends.
    fn disturb(&mut self, verb: &str, rest: &[&str]) -> Result<bool, String> {
        match verb {
            "crash" if rest.get(1) == Some(&"after") => self.world()?.effects_left = Some(plain(rest.get(2))? + 1),
            "crash" => self.world()?.crash(name(rest.first())?),
            "start" | "coordinator" => self.world()?.start(name(rest.first())?),
            "down" | "up" | "ahead" => {
                let number = number('g', rest.first())?;
                let group = self.world()?.groups.get_mut(&number).ok_or("no such group")?;
                if verb == "ahead" {
                    group.ahead_ms = plain(rest.get(1))?;
                } else {
                    group.up = verb == "up";
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn look(&mut self, verb: &str, rest: &[&str]) -> Result<Option<Vec<String>>, String> {
        let world = self.world()?;
        Ok(Some(match verb {
            "records" => records(world),
            "flights" => {
                let line = |flight: &crate::world::Flight| {
                    let from = match flight.from {
                        Source::Core(name, life) => format!("{name} (life {life})"),
                        Source::Group(number, _) => show::group(number),
                    };
                    format!("{from} to g{}: {}", flight.to, show::operation(&flight.operation))
                };
                world.flights.iter().map(line).collect()
            }
            "status" => {
                let core = world.cores.get(&name(rest.first())?);
                let status = core.and_then(|core| core.two_phase.as_ref()).map(Coordinate::status);
                vec![format!("{:?}", status.ok_or("it is dead")?)]
            }
            "value" => {
                let (group, key) = rest.first().and_then(|word| word.split_once('.')).ok_or("which?")?;
                let group = world.groups.get(&number('g', Some(&group))?).ok_or("no such group")?;
                let (version, value) = group.values.get(key.as_bytes()).cloned().unwrap_or_default();
                let value = value.map_or("none".to_owned(), |value| value.escape_ascii().to_string());
                vec![format!("{value}@{}", version.0)]
            }
            _ => return Ok(None),
        }))
    }
}

fn records(world: &World) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, group) in &world.groups {
        for (id, record) in &group.records {
            let what = match record {
                Record::Prepared(held) => format!("prepared@{}", held.version.0),
                Record::Refused(cause) => format!("refused ({})", cause.name()),
                Record::Resolved(_, version) => format!("resolved@{}", version.0),
                Record::Committed { unresolved: true, .. } => "committed, unresolved".into(),
                Record::Committed { .. } => "committed".into(),
                Record::Aborted(cause) => format!("aborted ({})", cause.name()),
            };
            lines.push(format!("{} has {} {what}", show::group(*number), show::id(*id)));
        }
    }
    if lines.is_empty() {
        lines.push("nothing".into());
    }
    lines
}

/// Adds one item of a transaction to its group's part.
fn item(word: &str, parts: &mut BTreeMap<u64, Part>) -> Result<u64, String> {
    let (group, what) = word.split_once('.').ok_or("an item looks like g1.x=v")?;
    let group = number('g', Some(&group))?;
    let part = parts.entry(group).or_default();
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    if let Some((key, wanted)) = what.split_once('?') {
        let condition = match wanted {
            "absent" => Condition::Absent,
            "exists" => Condition::Exists,
            other => match (other.strip_prefix("v@"), other.strip_prefix('=')) {
                (Some(version), _) => Condition::VersionIs(Version(plain(Some(&version))?)),
                (_, Some(value)) => Condition::ValueIs(bytes(value)),
                _ => return Err(format!("no condition '{other}'")),
            },
        };
        let key = bytes(key);
        part.conditions.push(KeyCondition { key, condition });
    } else if let Some((key, value)) = what.split_once('=') {
        let mutation = Mutation::Put {
            value: bytes(value),
            ttl: None,
        };
        let key = bytes(key);
        part.writes.push(KeyWrite { key, mutation });
    } else if let Some((key, version)) = what.split_once('@') {
        let version = Version(plain(Some(&version))?);
        part.reads.push(ReadCheck {
            key: bytes(key),
            version,
            exists: version > Version(0),
        });
    } else {
        return Err(format!("'{word}' neither writes, tests nor was read"));
    }
    Ok(group)
}

fn reads(words: &[&str]) -> Result<Vec<PlannedRead>, String> {
    let mut parts: BTreeMap<u64, Vec<Bytes>> = BTreeMap::new();
    for word in words.iter().skip(3).filter(|word| word.starts_with('g')) {
        let (group, key) = word.split_once('.').ok_or("a key looks like g1.x")?;
        let keys = parts.entry(number('g', Some(&group))?).or_default();
        keys.push(Bytes::copy_from_slice(key.as_bytes()));
    }
    let planned = parts.into_iter().map(|(group, keys)| PlannedRead {
        participant: place(group),
        seen: None,
        keys,
    });
    Ok(planned.collect())
}
