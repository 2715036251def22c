//! One seed: what clients do, what goes wrong, and the healing.

mod judge;

use crate::world::group::place;
use crate::world::{Source, World};
use bytes::Bytes;
use fulcrum_core_testing::Rng;
use fulcrum_two_phase::{Coordinate, Input, Plan, PlannedPart, PlannedRead, Reply, RequestId};
use fulcrum_types::{
    AbortCause, ClientId, Condition, Fingerprint, KeyCondition, KeyWrite, Mutation, Observations, Observed, Part,
    Priority, ReadCheck, Refusal, Sequence, TransactionId,
};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// In milliseconds; short enough to be passed within a seed.
const SHORT_HORIZON: u64 = 2_500;

/// What a request was, and where it went.
enum Asked {
    Commit(Plan),
    Look(TransactionId, u64),
    Values {
        counter: usize,
        consistent: bool,
    },
    /// Whether values read before were of one moment.
    Validity(Vec<Option<Bytes>>),
}

struct Request {
    core: (char, u32),
    asked: Asked,
    cancelled: bool,
    told: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub committed: u64,
    pub aborted: u64,
    pub unknown: u64,
    pub other: u64,
    pub reads: u64,
    /// How often a coordinator died just before such an effect.
    pub crashes: BTreeMap<&'static str, u64>,
}

pub struct Simulation {
    rng: Rng,
    pub world: World,
    names: Vec<char>,
    /// How likely a group without a primary has one again after 25 ms, in percent.
    recovery: u64,
    /// The groups that keep each counter.
    counters: Vec<Vec<u64>>,
    plans: Vec<Plan>,
    requests: BTreeMap<RequestId, Request>,
    /// What is to be asked, when.
    later: Vec<(u64, Plan)>,
    sequence: u64,
    seen: usize,
    pub broken: Vec<String>,
    pub figures: Figures,
}

fn key(counter: usize) -> Bytes {
    Bytes::from(format!("c{counter}"))
}

fn number(value: Option<&Bytes>) -> u64 {
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn value_of(seen: &Observed) -> Option<Bytes> {
    seen.value.as_ref().map(|value| value.value.clone())
}

fn check(key: &Bytes, seen: &Observed) -> ReadCheck {
    ReadCheck {
        key: key.clone(),
        version: seen.version,
        exists: seen.value.is_some(),
    }
}

impl Simulation {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let groups = 2 + rng.below(3);
        let horizon = if rng.chance(25) { SHORT_HORIZON } else { 30_000 };
        let mut world = World::new(groups, horizon);
        world.silent = true;
        world.options.linger = Duration::from_secs(3);
        world.options.forget_batch = 1 + rng.index(8);
        if rng.chance(30) {
            for group in world.groups.values_mut() {
                group.ahead_ms = rng.below(horizon / 2);
            }
        }
        let names: Vec<char> = ['a', 'b', 'c'].into_iter().take(1 + rng.index(3)).collect();
        let all: Vec<u64> = (1..=groups).collect();
        let mut counters = vec![vec![1], vec![1, 2], all.clone()];
        counters.extend(all.windows(2).map(<[u64]>::to_vec));
        let recovery = if rng.chance(40) { 1 } else { 8 };
        Self {
            rng,
            world,
            names,
            recovery,
            counters,
            plans: Vec::new(),
            requests: BTreeMap::new(),
            later: Vec::new(),
            sequence: 0,
            seen: 0,
            broken: Vec::new(),
            figures: Figures::default(),
        }
    }

    #[cfg(feature = "planted-bugs")]
    pub fn with_bug(seed: u64, bug: fulcrum_two_phase::planted::Bug) -> Self {
        let mut simulation = Self::new(seed);
        simulation.world.bug = Some(bug);
        simulation
    }

    pub fn run(&mut self) {
        for name in self.names.clone() {
            self.world.start(name);
        }
        for _ in 0..160 {
            self.turn();
        }
        self.heal();
        self.judge();
    }

    /// 25 ms of trouble.
    fn turn(&mut self) {
        self.world.tick();
        self.faults();
        self.clients();
        for _ in 0..self.rng.below(12) {
            self.travel();
        }
        self.listen();
    }

    fn faults(&mut self) {
        if self.world.effects_left.is_none() && self.rng.chance(6) {
            self.world.effects_left = Some(1 + self.rng.below(12));
        }
        for name in self.names.clone() {
            let dead = self.world.cores.get(&name).is_none_or(|core| core.two_phase.is_none());
            if dead && self.rng.chance(15) {
                self.world.start(name);
            }
        }
        for group in self.world.groups.values_mut() {
            if group.up && self.rng.chance(1) {
                group.up = false;
            } else if !group.up && self.rng.chance(self.recovery) {
                group.up = true;
            }
        }
    }

    fn clients(&mut self) {
        let now = self.world.now_ms;
        if self.rng.chance(22) {
            let plan = self.plan();
            self.plans.push(plan.clone());
            let copies = if self.rng.chance(35) { 2 } else { 1 };
            for _ in 0..copies {
                let delay = self.delay();
                self.later.push((now + delay, plan.clone()));
            }
        }
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(u64, Plan)> = due;
        for (_, plan) in due {
            self.commit(plan);
        }
        if self.rng.chance(8) {
            self.read();
        }
        if self.rng.chance(5) {
            self.look_up();
        }
        if self.rng.chance(4) {
            self.cancel();
        }
    }

    /// Most are sent at once; some copies come late, and some of them when the horizon is near or past.
    fn delay(&mut self) -> u64 {
        match self.rng.below(10) {
            0..6 => 0,
            6..8 => SHORT_HORIZON - 300 + self.rng.below(900),
            _ => self.rng.below(1_500),
        }
    }

    /// One more, in all groups of a counter, if what was read still holds.
    fn plan(&mut self) -> Plan {
        let reuse = self.rng.chance(6);
        let counter = self.rng.index(self.counters.len());
        let groups = self.counters.get(counter).cloned().unwrap_or_default();
        let known = self.plans.len();
        let id = match self.plans.get(self.rng.index(known)) {
            Some(plan) if reuse => plan.id,
            _ => {
                self.sequence += 1;
                TransactionId {
                    begun_at_ms: self.world.now_ms,
                    client: ClientId(1),
                    sequence: Sequence(self.sequence),
                }
            }
        };
        let key = key(counter);
        let mut parts = Vec::new();
        for number_of_group in groups {
            let Some(group) = self.world.groups.get(&number_of_group) else {
                continue;
            };
            let seen = group.value(&key);
            let next = number(value_of(&seen).as_ref()) + 1;
            let mut part = Part {
                reads: vec![check(&key, &seen)],
                ..Part::default()
            };
            part.writes.push(KeyWrite {
                key: key.clone(),
                mutation: Mutation::Put {
                    value: Bytes::from(next.to_string()),
                    ttl: None,
                },
            });
            if self.rng.chance(10) {
                part.conditions.push(KeyCondition {
                    key: key.clone(),
                    condition: if self.rng.chance(50) {
                        Condition::Exists
                    } else {
                        Condition::Absent
                    },
                });
            }
            parts.push(PlannedPart {
                participant: place(number_of_group),
                seen: None,
                part,
            });
        }
        let mut hash = DefaultHasher::new();
        format!("{parts:?}").hash(&mut hash);
        let home = self.rng.index(parts.len());
        let home = parts.get(home).map(|planned| planned.participant).unwrap_or_default();
        home.hash(&mut hash);
        Plan {
            id,
            priority: Priority(id),
            fingerprint: Fingerprint(hash.finish().into()),
            home,
            parts,
        }
    }

    fn send(&mut self, asked: Asked, input: impl FnOnce(&Self, RequestId) -> Input) {
        let at = self.rng.index(self.names.len());
        let Some(name) = self.names.get(at).copied() else {
            return;
        };
        let Some(life) = self.world.cores.get(&name).map(|core| core.life) else {
            return;
        };
        let request = RequestId(self.requests.len() as u64);
        let input = input(self, request);
        let known = Request {
            core: (name, life),
            asked,
            cancelled: false,
            told: false,
        };
        self.requests.insert(request, known);
        self.world.step(name, input);
    }

    fn commit(&mut self, plan: Plan) {
        let time = 100 + self.rng.below(3_000);
        self.send(Asked::Commit(plan.clone()), |this, request| Input::Commit {
            request,
            plan,
            deadline: this.world.deadline(time),
        });
    }

    fn read(&mut self) {
        let counter = self.rng.index(self.counters.len());
        let consistent = self.rng.chance(60);
        let time = 100 + self.rng.below(2_000);
        let groups = self.counters.get(counter).cloned().unwrap_or_default();
        let parts = groups.into_iter().map(|group| PlannedRead {
            participant: place(group),
            seen: None,
            keys: vec![key(counter)],
        });
        let parts = parts.collect();
        self.send(Asked::Values { counter, consistent }, |this, request| Input::Read {
            request,
            id: this.new_id(),
            parts,
            consistent,
            deadline: this.world.deadline(time),
        });
    }

    fn new_id(&self) -> TransactionId {
        TransactionId {
            begun_at_ms: self.world.now_ms,
            client: ClientId(2),
            sequence: Sequence(self.requests.len() as u64),
        }
    }

    fn look_up(&mut self) {
        let at = self.rng.index(self.plans.len());
        let Some(plan) = self.plans.get(at).cloned() else {
            return;
        };
        let settle = self.rng.chance(50).then_some(AbortCause::Client);
        // Sometimes the asker takes another participant for the home.
        let astray = self.rng.index(plan.parts.len());
        let astray = plan.parts.get(astray).filter(|_| self.rng.chance(30));
        let home = astray.map_or(plan.home, |planned| planned.participant);
        let asked = Asked::Look(plan.id, home.group.0);
        self.send(asked, |this, request| Input::LookUp {
            request,
            id: plan.id,
            places: vec![home],
            settle,
            deadline: this.world.deadline(1_000),
        });
    }

    fn cancel(&mut self) {
        self.listen();
        let open = self
            .requests
            .iter()
            .filter(|(_, request)| !request.told && !request.cancelled);
        let open: Vec<_> = open.map(|(request, known)| (*request, known.core.0)).collect();
        let Some((request, name)) = open.get(self.rng.index(open.len())).copied() else {
            return;
        };
        if let Some(known) = self.requests.get_mut(&request) {
            known.cancelled = true;
        }
        self.world.step(name, Input::Cancelled { request });
    }

    /// Something happens to one question.
    fn travel(&mut self) {
        let at = self.rng.index(self.world.flights.len());
        let Some(flight) = self.world.flights.get_mut(at) else {
            return;
        };
        match self.rng.below(100) {
            0..6 => {
                flight.answer = None;
                self.world.pass(at);
            }
            // A copy that nobody waits for any more, to arrive whenever.
            6..10 => {
                let mut copy = flight.clone();
                if let Source::Core(name, _) = copy.from {
                    copy.from = Source::Core(name, 0);
                    copy.answer = None;
                    copy.deadline_ms += self.rng.below(3_000);
                    self.world.flights.push(copy);
                }
            }
            10..14 if flight.answer.is_some() => {
                let first = flight.clone();
                self.world.apply(at);
                if let Some(flight) = self.world.flights.get_mut(at) {
                    *flight = first;
                }
            }
            _ if flight.answer.is_some() => self.world.pass(at),
            _ => self.world.apply(at),
        }
    }

    /// No more faults. Within the bound nothing is in doubt, coordinators are at rest, and transactions commit.
    fn heal(&mut self) {
        self.world.effects_left = None;
        self.later.clear();
        for name in self.names.clone() {
            if self.world.cores.get(&name).is_none_or(|core| core.two_phase.is_none()) {
                self.world.start(name);
            }
        }
        self.world.groups.values_mut().for_each(|group| group.up = true);
        self.pass_time(200);
        let open = self.world.unfinished();
        if !open.is_empty() {
            self.broken.push(format!("in doubt 5 s after healing: {open:?}"));
        }
        self.pass_time(20);
        for (name, core) in &self.world.cores {
            let status = core.two_phase.as_ref().map(Coordinate::status).unwrap_or_default();
            if status != fulcrum_two_phase::Status::default() {
                self.broken
                    .push(format!("{name} still has something under way: {status:?}"));
            }
        }
        let ahead = self.world.groups.values().map(|group| group.ahead_ms).max();
        for counter in 0..self.counters.len() {
            let mut plan = self.plan_of(counter);
            plan.id.begun_at_ms += ahead.unwrap_or_default() / 2;
            self.plans.push(plan.clone());
            let before = self.figures.committed;
            self.commit(plan);
            self.pass_time(4);
            if self.figures.committed == before {
                self.broken
                    .push(format!("counter {counter} does not count after healing"));
            }
        }
    }

    fn plan_of(&mut self, counter: usize) -> Plan {
        let counters = self.counters.get(counter).cloned().unwrap_or_default();
        let all = std::mem::replace(&mut self.counters, vec![counters]);
        let known = std::mem::take(&mut self.plans);
        let mut plan = self.plan();
        self.counters = all;
        self.plans = known;
        // The plan was made for the only counter there was.
        for planned in &mut plan.parts {
            let key = key(counter);
            let group = self.world.groups.get(&planned.participant.group.0);
            let seen = group.map(|group| group.value(&key)).unwrap_or_default();
            let next = Bytes::from((number(value_of(&seen).as_ref()) + 1).to_string());
            planned.part.reads = vec![check(&key, &seen)];
            planned.part.conditions.clear();
            let mutation = Mutation::Put { value: next, ttl: None };
            planned.part.writes = vec![KeyWrite { key, mutation }];
        }
        plan
    }

    fn pass_time(&mut self, turns: u64) {
        for _ in 0..turns {
            self.world.tick();
            self.world.settle();
            self.listen();
        }
    }

    /// What clients are told is checked at once as far as it can be.
    fn listen(&mut self) {
        while let Some((request, result)) = self.world.told.get(self.seen).cloned() {
            self.seen += 1;
            let Some(known) = self.requests.get_mut(&request) else {
                continue;
            };
            if std::mem::replace(&mut known.told, true) || known.cancelled {
                self.broken.push(format!("{request:?} is told {result:?} unasked"));
            }
            if let (Asked::Validity(values), Ok(Reply::Committed { .. })) = (&known.asked, &result)
                && values.windows(2).any(|two| two.first() != two.last())
            {
                self.broken
                    .push(format!("{request:?} finds {values:?} to be of one moment"));
            }
            if let (Asked::Values { counter, consistent }, Ok(Reply::Values { parts, .. })) = (&known.asked, &result) {
                let (counter, consistent) = (*counter, *consistent);
                self.figures.reads += 1;
                self.values_read(request, counter, consistent, parts);
            }
            match &result {
                Ok(Reply::Committed { parts, .. }) if !parts.is_empty() => self.figures.committed += 1,
                Err(Refusal::Aborted { .. }) | Ok(Reply::ConditionFailed { .. }) => self.figures.aborted += 1,
                Err(Refusal::Unknown { .. }) => self.figures.unknown += 1,
                _ => self.figures.other += 1,
            }
        }
    }

    fn values_read(&mut self, request: RequestId, counter: usize, consistent: bool, parts: &[Observations]) {
        let seen: Vec<_> = parts.iter().filter_map(|part| part.observed.first().cloned()).collect();
        let values: Vec<_> = seen.iter().map(value_of).collect();
        if consistent {
            if values.windows(2).any(|two| two.first() != two.last()) {
                self.broken.push(format!("{request:?} reads {values:?} of one moment"));
            }
            return;
        }
        let groups = self.counters.get(counter).cloned().unwrap_or_default();
        let parts = groups.into_iter().zip(&seen).map(|(group, seen)| PlannedPart {
            participant: place(group),
            seen: None,
            part: Part {
                reads: vec![check(&key(counter), seen)],
                ..Part::default()
            },
        });
        let plan = Plan {
            id: self.new_id(),
            priority: Priority::default(),
            fingerprint: Fingerprint(0),
            home: place(1),
            parts: parts.collect(),
        };
        self.send(Asked::Validity(values), |this, request| Input::Commit {
            request,
            plan,
            deadline: this.world.deadline(1_000),
        });
    }
}
