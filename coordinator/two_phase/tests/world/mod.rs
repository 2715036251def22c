//! Coordinators and groups in small, and the questions between them: lost, late, doubled, overtaken, as a story or a seed wants it.

pub mod group;
pub mod show;

use fulcrum_two_phase::{AskId, Coordinate, Effect, Input, Options, Reply, RequestId, TwoPhase};
use fulcrum_types::{
    AbortCause, Answer, Answered, Decide, Decision, Epoch, Index, Level, MapVersion, Mode, Mono, NodeId, Receipt,
    Refusal, Resolution, Resolved, Role, StalenessBasis, TransactionAnswer, TransactionId, TransactionOperation,
    TransactionState, Verdict,
};
use group::{Group, Outcome, Record, intended, place, values};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Patience of a participant without a heartbeat, in all, and of a home group, in milliseconds.
const PATIENCE: u64 = 1_000;
const PATIENCE_IN_ALL: u64 = 4_000;
const PATIENCE_OF_HOME: u64 = 2_000;
/// The start of time.
const EPOCH_MS: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A coordinator, in one of its lives.
    Core(char, u32),
    /// A group that asks another, and which transaction it asks about.
    Group(u64, TransactionId),
}

/// A question under way, and its answer once the group has said it.
#[derive(Clone, Debug)]
pub struct Flight {
    pub from: Source,
    pub ask: AskId,
    pub to: u64,
    pub operation: TransactionOperation,
    pub deadline_ms: u64,
    pub answer: Option<Outcome>,
    /// The group's index when it answered.
    pub index: u64,
}

#[derive(Default)]
pub struct Core {
    pub two_phase: Option<TwoPhase>,
    pub life: u32,
}

pub struct World {
    pub now_ms: u64,
    pub cores: BTreeMap<char, Core>,
    pub groups: BTreeMap<u64, Group>,
    pub flights: Vec<Flight>,
    pub options: Options,
    pub trace: Vec<String>,
    /// Whether a trace is wanted.
    pub silent: bool,
    /// What clients were told.
    pub told: Vec<(RequestId, Result<Reply, Refusal>)>,
    /// A coordinator dies after so many more effects.
    pub effects_left: Option<u64>,
    /// How often a coordinator died just before such an effect.
    pub crashes: BTreeMap<&'static str, u64>,
    #[cfg(feature = "planted-bugs")]
    pub bug: Option<fulcrum_two_phase::planted::Bug>,
}

impl World {
    pub fn new(groups: u64, horizon_ms: u64) -> Self {
        Self {
            now_ms: EPOCH_MS,
            cores: BTreeMap::new(),
            groups: (1..=groups).map(|g| (g, Group::new(g, horizon_ms))).collect(),
            flights: Vec::new(),
            options: Options::default(),
            trace: Vec::new(),
            silent: false,
            told: Vec::new(),
            effects_left: None,
            crashes: BTreeMap::new(),
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if !self.silent {
            self.trace.push(line());
        }
    }

    pub fn mono(&self) -> Mono {
        Mono(self.now_ms * 1_000_000)
    }

    pub fn start(&mut self, name: char) {
        let two_phase = TwoPhase::new(self.options);
        #[cfg(feature = "planted-bugs")]
        let two_phase = match self.bug {
            Some(bug) => two_phase.with_bug(bug),
            None => two_phase,
        };
        let core = self.cores.entry(name).or_default();
        core.two_phase = Some(two_phase);
        core.life += 1;
    }

    pub fn crash(&mut self, name: char) {
        self.note(|| format!("{name} crashes"));
        if let Some(core) = self.cores.get_mut(&name) {
            core.two_phase = None;
        }
    }

    /// One step of a coordinator; it may die between two of its effects.
    pub fn step(&mut self, name: char, input: Input) {
        let now = self.mono();
        let Some(core) = self.cores.get_mut(&name) else { return };
        let life = core.life;
        let Some(two_phase) = &mut core.two_phase else { return };
        let mut effects = Vec::new();
        two_phase.step(now, input, &mut effects);
        for effect in effects {
            if let Some(left) = &mut self.effects_left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.effects_left = None;
                    *self.crashes.entry(show::kind(&effect)).or_default() += 1;
                    self.crash(name);
                    return;
                }
            }
            self.run(name, life, effect);
        }
    }

    fn run(&mut self, name: char, life: u32, effect: Effect) {
        self.trace
            .extend(if self.silent { None } else { show::effect(name, &effect) });
        match effect {
            Effect::Ask {
                ask,
                to,
                operation,
                deadline,
                request: _,
            } => self.flights.push(Flight {
                from: Source::Core(name, life),
                ask,
                to: to.group.0,
                operation,
                deadline_ms: deadline.0 / 1_000_000,
                answer: None,
                index: 0,
            }),
            Effect::Reply { request, result } => self.told.push((request, result)),
            Effect::Observed(_) => {}
        }
    }

    /// The group takes a question, which stays under way until its answer is passed.
    pub fn apply(&mut self, at: usize) {
        let Some(flight) = self.flights.get(at).cloned() else {
            return;
        };
        let answer = self.execute(flight.to, &flight.operation);
        self.note(|| {
            let (from, to) = (show::source(flight.from), show::group(flight.to));
            format!("{to} answers {from} with {}", show::answer(&answer))
        });
        let index = self.groups.get(&flight.to).map_or(0, |group| group.index);
        if let Some(flight) = self.flights.get_mut(at) {
            flight.answer = Some(answer);
            flight.index = index;
        }
    }

    /// The answer reaches who asked; without one, nothing is known.
    pub fn pass(&mut self, at: usize) {
        if at >= self.flights.len() {
            return;
        }
        let flight = self.flights.remove(at);
        let unknown = || {
            Err(Refusal::Unknown {
                reason: "no answer".into(),
            })
        };
        let answer = flight.answer.clone().unwrap_or_else(unknown);
        match flight.from {
            Source::Core(name, life) => {
                if self.cores.get(&name).is_some_and(|core| core.life == life) {
                    let receipt = receipt(flight.to, flight.index);
                    let result = answer.map(|answer| Answered {
                        answer: Answer::Transaction(answer),
                        receipt,
                    });
                    self.step(
                        name,
                        Input::Answered {
                            ask: flight.ask,
                            result,
                        },
                    );
                }
            }
            Source::Group(group, id) => self.group_answered(group, id, &flight, answer),
        }
    }

    pub fn deliver(&mut self, at: usize) {
        self.apply(at);
        self.pass(at);
    }

    /// Everything arrives, until nothing is under way.
    pub fn settle(&mut self) {
        let mut steps = 0;
        while !self.flights.is_empty() && steps < 10_000 {
            let at = 0;
            if self.flights.first().is_some_and(|flight| flight.answer.is_some()) {
                self.pass(at);
            } else {
                self.deliver(at);
            }
            steps += 1;
        }
    }

    /// Time goes on by one step of 25 ms: ticks, patience, deadlines of questions.
    pub fn tick(&mut self) {
        self.now_ms += 25;
        let late = |flight: &Flight, now: u64| flight.deadline_ms <= now;
        while let Some(at) = self.flights.iter().position(|flight| late(flight, self.now_ms)) {
            if let Some(flight) = self.flights.get_mut(at) {
                flight.answer = None;
            }
            self.pass(at);
        }
        let names: Vec<_> = self.cores.keys().copied().collect();
        for name in names {
            self.step(name, Input::Tick);
        }
        let groups: Vec<_> = self.groups.keys().copied().collect();
        for group in groups {
            self.lose_patience(group);
        }
    }

    /// What a group does about what is in doubt in it, or unresolved.
    fn lose_patience(&mut self, number: u64) {
        let now = self.now_ms;
        let mut questions = Vec::new();
        let Some(group) = self.groups.get_mut(&number) else {
            return;
        };
        group.sweep(now);
        if !group.up {
            return;
        }
        for (id, record) in &group.records {
            if group.asking.contains(id) {
                continue;
            }
            match record {
                Record::Prepared(held) if now >= (held.heard_ms + PATIENCE).min(held.at_ms + PATIENCE_IN_ALL) => {
                    let decide = Decide {
                        id: *id,
                        fingerprint: Some(held.fingerprint),
                        cause: AbortCause::Abandoned,
                    };
                    questions.push((*id, held.home, TransactionOperation::Decide(decide)));
                }
                Record::Committed {
                    fingerprint,
                    parts,
                    unresolved: true,
                    at_ms,
                } if now >= at_ms + PATIENCE_OF_HOME => {
                    let all = parts.iter().map(|part| part.participant).filter(|p| *p != group.me);
                    let others = group.untold.entry(*id).or_insert_with(|| all.collect());
                    for other in others.iter() {
                        let verdict = Verdict::Commit(*fingerprint);
                        let operation = TransactionOperation::Resolve(vec![Resolution { id: *id, verdict }]);
                        questions.push((*id, *other, operation));
                    }
                }
                _ => {}
            }
        }
        group.asking.extend(questions.iter().map(|(id, ..)| *id));
        for (id, to, operation) in questions {
            self.note(|| format!("g{number} asks g{} to {}", to.group.0, show::operation(&operation)));
            self.flights.push(Flight {
                from: Source::Group(number, id),
                ask: AskId(0),
                to: to.group.0,
                operation,
                deadline_ms: now + 500,
                answer: None,
                index: 0,
            });
        }
    }

    fn group_answered(&mut self, number: u64, id: TransactionId, flight: &Flight, answer: Outcome) {
        let now = self.now_ms;
        let Some(group) = self.groups.get_mut(&number) else {
            return;
        };
        group.asking.remove(&id);
        if !group.up {
            return;
        }
        match (&flight.operation, answer) {
            (TransactionOperation::Decide(decide), Ok(TransactionAnswer::Decision(decision))) => {
                let verdict = match decision {
                    Decision::Committed { fingerprint, .. } => Verdict::Commit(fingerprint),
                    Decision::Aborted(cause) => Verdict::Abort {
                        of: decide.fingerprint,
                        cause,
                    },
                };
                group.resolve(&Resolution { id, verdict }, now);
            }
            (TransactionOperation::Resolve(_), Ok(TransactionAnswer::Resolved(_))) => {
                let others = group.untold.entry(id).or_default();
                others.remove(&place(flight.to));
                if others.is_empty() {
                    group.untold.remove(&id);
                    group.forget(id);
                }
            }
            _ => {}
        }
    }

    fn execute(&mut self, number: u64, operation: &TransactionOperation) -> Outcome {
        let now = self.now_ms;
        if let TransactionOperation::Read { keys, .. } = operation {
            return self.read(number, keys);
        }
        let group = self.groups.get_mut(&number).ok_or(Refusal::NotReady)?;
        if !group.up {
            return Err(Refusal::NotReady);
        }
        if !operation.is_read() {
            group.index += 1;
        }
        group.sweep(now);
        match operation {
            TransactionOperation::Transact(transact) => group.transact(transact, now),
            TransactionOperation::Prepare(prepare) => group.prepare(prepare, now),
            TransactionOperation::Decide(decide) => group.decide(decide, now),
            TransactionOperation::Resolve(batch) => {
                let found: Vec<Resolved> = batch.iter().map(|one| group.resolve(one, now)).collect();
                Ok(TransactionAnswer::Resolved(found))
            }
            TransactionOperation::Forget(ids) => {
                ids.iter().for_each(|id| group.forget(*id));
                Ok(TransactionAnswer::Done)
            }
            TransactionOperation::Heartbeat(ids) => {
                for id in ids {
                    if let Some(Record::Prepared(held)) = group.records.get_mut(id) {
                        held.heard_ms = now;
                    }
                }
                Ok(TransactionAnswer::Done)
            }
            TransactionOperation::LookUp(id) => group.look_up(*id, now).map(TransactionAnswer::State),
            TransactionOperation::Validate { reads, .. } => Ok(TransactionAnswer::Validation(group.validate(reads))),
            TransactionOperation::Read { .. } | TransactionOperation::List { .. } => Err(Refusal::NotReady),
        }
    }

    /// A transactional read asks the home groups of the intents that it meets.
    fn read(&mut self, number: u64, keys: &[bytes::Bytes]) -> Outcome {
        let group = self
            .groups
            .get(&number)
            .filter(|group| group.up)
            .ok_or(Refusal::NotReady)?;
        let mut observed: Vec<_> = keys.iter().map(|key| group.value(key)).collect();
        let wanted: Vec<_> = keys.iter().collect();
        let intents = group.intents(&wanted);
        let met = !intents.is_empty();
        for (id, held) in intents {
            let home = self.groups.get(&held.home.group.0).filter(|home| home.up);
            let state = home.ok_or(Refusal::Locked { by: id })?.look_up(id, self.now_ms)?;
            let TransactionState::Decided(Decision::Committed { fingerprint, .. }) = state else {
                continue;
            };
            if fingerprint != held.fingerprint {
                continue;
            }
            for (key, seen) in keys.iter().zip(&mut observed) {
                if let Some(value) = intended(&held, key) {
                    *seen = value;
                }
            }
        }
        Ok(values(observed, met))
    }

    /// Transactions that some group is in doubt about, or has not forgotten.
    #[allow(dead_code, reason = "stories look at records one by one")]
    pub fn unfinished(&self) -> BTreeSet<TransactionId> {
        let records = self.groups.values().flat_map(|group| &group.records);
        let open = records
            .filter(|(_, record)| matches!(record, Record::Prepared(_) | Record::Committed { unresolved: true, .. }));
        open.map(|(id, _)| *id).collect()
    }

    pub fn deadline(&self, ms: u64) -> Mono {
        self.mono() + Duration::from_millis(ms)
    }
}

pub fn receipt(group: u64, index: u64) -> Receipt {
    Receipt {
        mode: Mode::Sync,
        asked: Level::Linearizable,
        achieved: Level::Linearizable,
        group: place(group).group,
        replica: NodeId(1),
        role: Role::Primary,
        epoch: Epoch(1),
        index: Index(index),
        acknowledged_by: Vec::new(),
        durable: true,
        staleness: None,
        basis: StalenessBasis::None,
        map_version: MapVersion(1),
        rounds: 0,
        elapsed: Duration::ZERO,
    }
}
