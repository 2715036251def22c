//! The verbs of golden scripts.
//!
//! | verb | what it does |
//! | --- | --- |
//! | `cluster MODE N [min=N] [retain=BYTES] [lag=ENTRIES]` | N nodes with empty disks, a new group, all started |
//! | `run MS [silently]` | real time passes in steps of 25 ms: ticks, disks, network |
//! | `settle` | disks and network come to rest, no time passes |
//! | `resolve NODE TEXT...` | the same as `propose`, of what ends doubt |
//! | `carry NODE MS` | something is due once the group's time is MS |
//! | `propose NODE TEXT...`, `read NODE LEVEL`, `handover NODE [NODE]`, `force NODE` | what clients and operators ask |
//! | `cut A B`, `isolate A`, `hold A B`, `release A B`, `heal` | the network: lose, keep for later, deliver what was kept |
//! | `deliver A B [twice]`, `drop A B`, `overtake A B` | the next message of a held link; the newest becomes the next |
//! | `stall A`, `slow A`, `resume A` | the disk: completes nothing and says so, or says nothing |
//! | `holdapply A`, `apply A` | the state machine stands still, goes on |
//! | `crash A`, `start A`, `wipe A`, `reboot A` | loses what is not durable; `wipe` all; `reboot` also starts its clock anew |
//! | `metadata up/down/answers-lost/late`, `blind A`, `land [A]`, `notify`, `replicas N...` | the metadata store |
//! | `rate A PPM`, `wall A MS`, `clock A` | clocks |
//! | `status`, `log A`, `peers A`, `config`, `staleness A` | look |

use crate::world::{Metadata, World, show};
use fulcrum_core_testing::golden;
use fulcrum_replication::{Input, Options, PeerStatus, ReadWanted};
use fulcrum_types::{Epoch, GroupId, Index, LogPosition, Mode, NodeId, ReplicatedTime};
use std::time::Duration;

#[derive(Default)]
pub struct Script {
    world: Option<World>,
    /// Bug to plant in every core.
    #[cfg(feature = "planted-bugs")]
    bug: Option<fulcrum_replication::primary_backup::planted::Bug>,
}

type Lines = Result<Vec<String>, String>;

fn node(word: Option<&&str>) -> Result<NodeId, String> {
    let word = word.ok_or("which node?")?;
    let id = word
        .trim_start_matches('n')
        .parse()
        .map_err(|_| format!("no node '{word}'"))?;
    Ok(NodeId(id))
}

fn number<T: std::str::FromStr>(word: Option<&&str>) -> Result<T, String> {
    let word = word.ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

fn level(words: &[&str]) -> Result<ReadWanted, String> {
    Ok(match words {
        ["linearizable"] => ReadWanted::Linearizable,
        ["eventual"] => ReadWanted::Eventual,
        ["session", position] => {
            let (index, epoch) = position.split_once("@e").ok_or("a position looks like 7@e2")?;
            ReadWanted::Session(Some(LogPosition {
                epoch: Epoch(number(Some(&epoch))?),
                index: Index(number(Some(&index))?),
            }))
        }
        ["bounded", ms] => ReadWanted::Bounded(Duration::from_millis(number(Some(ms))?)),
        other => return Err(format!("no level {other:?}")),
    })
}

#[cfg(feature = "planted-bugs")]
impl Script {
    pub fn with_bug(bug: fulcrum_replication::primary_backup::planted::Bug) -> Self {
        Self {
            world: None,
            bug: Some(bug),
        }
    }
}

impl golden::Script for Script {
    fn run(&mut self, line: &str) -> Lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, rest) = words.split_first().ok_or("no verb")?;
        if *verb == "cluster" {
            let mut world = group(rest)?;
            #[cfg(feature = "planted-bugs")]
            {
                world.bug = self.bug;
            }
            let ids: Vec<_> = world.nodes.keys().copied().collect();
            ids.into_iter().for_each(|id| world.restart(id));
            world.trace.clear();
            self.world = Some(world);
        }
        let world = self.world.as_mut().ok_or("first: cluster")?;
        let looked = look(world, verb, rest)?;
        if let Some(lines) = looked {
            return Ok(lines);
        }
        if *verb != "cluster" && !act(world, verb, rest)? && !disturb(world, verb, rest)? {
            return Err("no such verb".into());
        }
        let mut lines = std::mem::take(&mut world.trace);
        if rest.last() == Some(&"silently") {
            lines.clear();
        }
        lines.extend(world.checks.broken.drain(..).map(|b| format!("BROKEN: {b}")));
        Ok(lines)
    }
}

fn group(words: &[&str]) -> Result<World, String> {
    let mode: Mode = words.first().ok_or("sync or async?")?.parse()?;
    let mut options = Options::new(GroupId(1), NodeId(1), mode);
    for word in words.iter().skip(2) {
        match word.split_once('=') {
            Some(("min", n)) => options.min_in_sync = number(Some(&n))?,
            Some(("retain", n)) => options.retain_bytes = number(Some(&n))?,
            Some(("lag", n)) => options.lag_entries = number(Some(&n))?,
            Some(("waiting", n)) => options.waiting_max = number(Some(&n))?,
            _ => return Err(format!("no option '{word}'")),
        }
    }
    options.validate()?;
    let nodes = number(words.get(1))?;
    Ok(World::new(options, nodes))
}

/// What clients, operators and time do.
fn act(world: &mut World, verb: &str, rest: &[&str]) -> Result<bool, String> {
    match verb {
        "run" => world.pass(number(rest.first())?),
        "settle" => world.settle(),
        "tick" => world.tick(node(rest.first())?),
        "propose" => {
            world.propose(node(rest.first())?, &rest[1..]);
            world.settle();
        }
        "resolve" => {
            world.propose_as(node(rest.first())?, &rest[1..], true);
            world.settle();
        }
        "carry" => {
            let due = ReplicatedTime(number(rest.get(1))?);
            world.step(node(rest.first())?, Input::CarryTime { due });
            world.settle();
        }
        "send" => world.propose(node(rest.first())?, &rest[1..]),
        "read" => {
            world.read(node(rest.first())?, level(&rest[1..])?);
            world.settle();
        }
        "handover" => {
            let to = if rest.len() > 1 { Some(node(rest.get(1))?) } else { None };
            world.step(node(rest.first())?, Input::HandOver { to });
            world.settle();
        }
        "leave" => {
            world.step(node(rest.first())?, Input::Leave);
            world.settle();
        }
        "force" => {
            world.checks.forced = true;
            world.step(node(rest.first())?, Input::ForcePromotion);
            world.settle();
        }
        "deliver" => {
            let (from, to) = (node(rest.first())?, node(rest.get(1))?);
            if rest.get(2) == Some(&"twice")
                && let Some(message) = world.wires.get(&(from, to)).and_then(|w| w.front().cloned())
            {
                world.step(to, Input::Receive { from, message });
            }
            if !world.deliver(from, to) {
                return Err("nothing on that wire".into());
            }
        }
        "overtake" => {
            let wire = world.wires.get_mut(&(node(rest.first())?, node(rest.get(1))?));
            let wire = wire.ok_or("nothing on that wire")?;
            let newest = wire.pop_back().ok_or("nothing on that wire")?;
            wire.push_front(newest);
        }
        "drop" => {
            let wire = world.wires.get_mut(&(node(rest.first())?, node(rest.get(1))?));
            wire.and_then(std::collections::VecDeque::pop_front)
                .ok_or("nothing on that wire")?;
        }
        "persist" => {
            world.persist(node(rest.first())?, usize::MAX);
        }
        "land" => {
            let whose = rest.first().map(|_| node(rest.first())).transpose()?;
            let late = std::mem::take(&mut world.late);
            let (now, later): (Vec<_>, Vec<_>) = late.into_iter().partition(|(id, ..)| whose.is_none_or(|w| w == *id));
            world.late = later;
            for (_, _, expected, proposal) in now {
                world.execute(expected, proposal);
            }
        }
        "notify" => {
            world.notify();
            world.settle();
        }
        "replicas" => {
            let nodes: Result<Vec<_>, _> = rest.iter().map(|w| node(Some(w))).collect();
            world.configuration.replicas = nodes?;
            world.configuration.version = world.configuration.version.next();
            world.notify();
            world.settle();
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Faults and their ends.
fn disturb(world: &mut World, verb: &str, rest: &[&str]) -> Result<bool, String> {
    if verb == "heal" {
        world.cut.clear();
        world.blind.clear();
        return Ok(true);
    }
    if verb == "metadata" {
        world.metadata = match rest.first() {
            Some(&"up") => Metadata::Up,
            Some(&"down") => Metadata::Down,
            Some(&"answers-lost") => Metadata::AnswersLost,
            Some(&"late") => Metadata::Late,
            other => return Err(format!("metadata cannot be {other:?}")),
        };
        return Ok(true);
    }
    let id = node(rest.first())?;
    let time = world.time;
    match verb {
        "cut" => {
            world.cut.insert((id, node(rest.get(1))?));
        }
        "isolate" => {
            let others: Vec<_> = world.nodes.keys().copied().filter(|n| *n != id).collect();
            for other in others {
                world.cut.extend([(id, other), (other, id)]);
            }
        }
        "blind" => {
            world.blind.insert(id);
        }
        "hold" => {
            world.held.insert((id, node(rest.get(1))?));
        }
        "release" => {
            world.held.remove(&(id, node(rest.get(1))?));
            world.settle();
        }
        "crash" => world.crash(id),
        "start" => world.restart(id),
        "wipe" => world.wipe(id),
        "reboot" => {
            world.crash(id);
            world
                .nodes
                .get_mut(&id)
                .ok_or("no such node")?
                .set_clock(time, Some(0), 0);
            world.restart(id);
        }
        _ => {
            let offset: Option<i64> = rest.get(1).map(|_| number(rest.get(1))).transpose()?;
            let node = world.nodes.get_mut(&id).ok_or("no such node")?;
            match (verb, offset) {
                ("stall", None) => node.stalled = true,
                ("slow", None) => node.slow = true,
                ("resume", None) => (node.stalled, node.slow) = (false, false),
                ("holdapply", None) => node.apply_held = true,
                ("apply", None) => {
                    node.apply_held = false;
                    world.apply(id);
                }
                ("rate", Some(ppm)) => node.set_clock(time, None, ppm),
                ("wall", Some(ms)) => node.wall_offset = ms,
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}

fn look(world: &World, verb: &str, rest: &[&str]) -> Result<Option<Vec<String>>, String> {
    let statuses = || {
        world
            .nodes
            .iter()
            .filter_map(|(id, n)| Some((*id, n.status(world.time)?)))
    };
    Ok(Some(match verb {
        "status" => statuses().map(|(id, s)| show::status(id, &s)).collect(),
        "config" => vec![show::configuration(&world.configuration)],
        "log" => {
            let id = node(rest.first())?;
            let disk = &world.nodes.get(&id).ok_or("no such node")?.volatile;
            vec![format!("{id} [{}]", show::entries(&disk.history_to(Index(u64::MAX))))]
        }
        "certificates" => {
            let line = |(old, new, known): (Epoch, Epoch, bool)| {
                let extent = if known { "known" } else { "unknown" };
                format!("certificate {old} -> {new}: extent {extent}")
            };
            world.certificates(None).into_iter().map(line).collect()
        }
        "peers" => {
            let id = node(rest.first())?;
            let peers = statuses().filter(|(n, _)| *n == id).flat_map(|(_, s)| s.peers);
            let line = |p: PeerStatus| {
                let set = if p.in_sync { "in-sync" } else { "learner" };
                format!("{id} sees {} {set} matched={} lag={}", p.node, p.matched, p.lag_entries)
            };
            peers.map(line).collect()
        }
        "staleness" => {
            let id = node(rest.first())?;
            let bound = statuses().find(|(n, _)| *n == id).and_then(|(_, s)| s.staleness);
            vec![match bound {
                Some(bound) => format!("{id} can prove {} ms", bound.as_millis()),
                None => format!("{id} can prove nothing"),
            }]
        }
        "times" => {
            let id = node(rest.first())?;
            let disk = &world.nodes.get(&id).ok_or("no such node")?.volatile;
            let times = disk.history_to(Index(u64::MAX));
            vec![times.iter().map(|e| e.time.to_string()).collect::<Vec<_>>().join(" ")]
        }
        _ => return Ok(None),
    }))
}
