//! Coordinators: processes that hold the shipped core and run its effects. One may die before any of them, with all that it knew.

use super::Step;
use super::plan::TransactionPlan;
use super::questions::Owner;
use super::rows::{Followed, name_of};
use super::traffic::FIRST_ASIDE;
use super::workload::{Call, Want};
use crate::sim::network::Endpoint;
use crate::sim::rng::Rng;
use crate::sim::time::{MS, NodeClock, Time};
use crate::sim::world::{Happening, World, rate};
use fulcrum_coordinator::plan;
use fulcrum_two_phase::{Coordinate, Effect, Input, Options, Reply, RequestId, Status, TwoPhase};
use fulcrum_types::{Mono, Operation, Refusal, TransactionId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a client hears from a coordinator.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which client.
    pub client: usize,
    /// To which of its attempts.
    pub attempt: u64,
    /// What.
    pub result: Result<Reply, Refusal>,
}

/// A coordinator.
pub struct Coordinator {
    clock: NodeClock,
    life: u64,
    core: Option<TwoPhase>,
    options: Options,
    crash_ppm: u32,
    away_max: Time,
    rng: Rng,
    requests: BTreeMap<RequestId, (usize, u64)>,
    last_request: u64,
    /// A story has it die before an effect of this name, when it has had so many of them.
    pub dies_before: Option<(&'static str, usize)>,
    /// What this life has done for the transactions that it was given.
    pub(super) follows: BTreeMap<TransactionId, Followed>,
}

impl Coordinator {
    pub(super) fn new(chosen: &TransactionPlan, rate_ppm: u64, mut rng: Rng) -> Self {
        Self {
            clock: NodeClock::new(rng.range(0, 1 << 40), rate(&mut rng, rate_ppm)),
            life: 0,
            core: None,
            options: chosen.options,
            crash_ppm: chosen.crash_ppm,
            away_max: chosen.away_max,
            rng,
            requests: BTreeMap::new(),
            last_request: 0,
            dies_before: None,
            follows: BTreeMap::new(),
        }
    }

    /// Whether it runs this life.
    #[must_use]
    pub fn lives(&self, life: u64) -> bool {
        self.core.is_some() && self.life == life
    }

    /// Its present or last life.
    #[must_use]
    pub fn life(&self) -> u64 {
        self.life
    }

    /// What it has under way, if it runs.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.core.as_ref().map(Coordinate::status)
    }

    fn is_doomed(&mut self, effect: &str) -> bool {
        match &mut self.dies_before {
            Some((name, 0)) => *name == effect,
            Some((name, more)) => {
                *more -= usize::from(*name == effect);
                false
            }
            None => false,
        }
    }

    fn now(&self, at: Time) -> Mono {
        self.clock.read(at).mono
    }
}

impl World {
    pub(super) fn start_coordinator(&mut self, number: usize) {
        let planted = self.planted;
        let coordinator = &mut self.transactions.coordinators[number];
        if coordinator.core.is_some() {
            return;
        }
        coordinator.life += 1;
        coordinator.core = Some(planted.plant_in_coordinator(TwoPhase::new(coordinator.options)));
        let life = coordinator.life;
        self.record.event(self.now, &[60, number as u64, life], || {
            format!("coordinator {number} starts its life {life}")
        });
        self.coordinator_tick(number, life);
    }

    pub(super) fn coordinator_tick(&mut self, number: usize, life: u64) {
        let coordinator = &self.transactions.coordinators[number];
        if !coordinator.lives(life) {
            return;
        }
        let every = coordinator.options.heartbeat.as_nanos() as Time / 4;
        let at = self.now + coordinator.clock.true_span(every);
        self.plan_step(at, Step::Tick(number, life));
        self.feed(number, Input::Tick);
    }

    /// Dead coordinators start, and none dies any more.
    pub(in crate::sim) fn heal_coordinators(&mut self) {
        for number in 0..self.transactions.coordinators.len() {
            self.plan_step(self.now + MS, Step::Start(number));
        }
    }

    /// A client's call arrives. A process that is off refuses the connection.
    pub(super) fn called(&mut self, number: usize, call: Call) {
        let (client, attempt) = (call.client, call.attempt);
        // Stories have no load; what clients send once more would come too late for what is judged.
        if attempt > FIRST_ASIDE && !self.load && !self.transactions.is_story(client, attempt) {
            return;
        }
        let coordinator = &mut self.transactions.coordinators[number];
        if coordinator.core.is_none() {
            let reason = "connection refused".into();
            let result = Err(Refusal::Unreachable { reason });
            return self.plan_step(
                self.now + MS,
                Step::Heard(Heard {
                    client,
                    attempt,
                    result,
                }),
            );
        }
        if let Want::Leave(before) = call.want {
            let left = |(_, asked): &(&RequestId, &(usize, u64))| **asked == (client, before);
            let request = coordinator.requests.iter().find(left).map(|(request, _)| *request);
            if let Some(request) = request {
                coordinator.requests.remove(&request);
                self.feed(number, Input::Cancelled { request });
            }
            return;
        }
        coordinator.last_request += 1;
        let request = RequestId(coordinator.last_request);
        coordinator.requests.insert(request, (client, attempt));
        let deadline = coordinator.now(self.now) + Duration::from_nanos(call.patience);
        match self.input_of(request, call.want, deadline) {
            Ok(input) => {
                self.follow(number, &input);
                self.feed(number, input);
            }
            Err(refusal) => self.answer_client(number, request, Err(refusal)),
        }
    }

    fn input_of(&self, request: RequestId, want: Want, deadline: Mono) -> Result<Input, Refusal> {
        Ok(match want {
            Want::Read { id, parts, consistent } => Input::Read {
                request,
                id,
                parts,
                consistent,
                deadline,
            },
            Want::Commit(asked) => Input::Commit {
                request,
                plan: plan(&self.plan.map, *asked)?,
                deadline,
            },
            Want::LookUp { id, places, settle } => Input::LookUp {
                request,
                id,
                places,
                settle,
                deadline,
            },
            Want::Leave(_) => return Err(Refusal::DeadlineExceeded),
        })
    }

    /// Gives a coordinator something and runs what it makes of it, as far as it lives.
    pub(super) fn feed(&mut self, number: usize, input: Input) {
        let coordinator = &mut self.transactions.coordinators[number];
        let now = coordinator.now(self.now);
        let Some(core) = &mut coordinator.core else {
            return;
        };
        let mut effects = Vec::new();
        core.step(now, input, &mut effects);
        let verdict = core.check_invariants();
        self.must("coordinator", verdict);
        for effect in effects {
            let coordinator = &mut self.transactions.coordinators[number];
            let doomed = coordinator.is_doomed(name_of(&effect));
            if doomed || (self.hostile && coordinator.rng.ppm(coordinator.crash_ppm)) {
                coordinator.dies_before = None;
                self.record.died_before(name_of(&effect));
                return self.kill_coordinator(number, &format!("before {effect:?}"));
            }
            self.run_effect(number, now, effect);
        }
    }

    fn run_effect(&mut self, number: usize, now: Mono, effect: Effect) {
        self.note_effect(number, &effect);
        match effect {
            Effect::Ask {
                ask,
                to,
                operation,
                deadline,
                request: _,
            } => {
                let coordinator = &self.transactions.coordinators[number];
                let span = coordinator.clock.true_span(deadline.since(now).as_nanos() as Time);
                let owner = Owner::Coordinator(number, coordinator.life, ask);
                self.ask_group(owner, to, Operation::Transaction(operation), span);
            }
            Effect::Reply { request, result } => self.answer_client(number, request, result),
            Effect::Observed(observation) => {
                if let fulcrum_two_phase::Observation::ReadAgain { .. } = observation {
                    self.record.reached("consistent read began again");
                }
            }
        }
    }

    fn answer_client(&mut self, number: usize, request: RequestId, result: Result<Reply, Refusal>) {
        let Some((client, attempt)) = self.transactions.coordinators[number].requests.remove(&request) else {
            return;
        };
        let ends = (Endpoint::Coordinator(number as u64), Endpoint::Client(client as u64));
        self.transmit(ends.0, ends.1, || {
            let result = result.clone();
            Some(Happening::Transactions(Step::Heard(Heard {
                client,
                attempt,
                result,
            })))
        });
    }

    /// It dies at this moment, with all that it knew, and is away for a while.
    pub fn kill_coordinator(&mut self, number: usize, moment: &str) {
        self.note_rows_of_coordinator(number);
        let coordinator = &mut self.transactions.coordinators[number];
        let life = coordinator.life;
        coordinator.core = None;
        coordinator.requests.clear();
        coordinator.follows.clear();
        let at = self.now + coordinator.rng.skewed(5 * MS, coordinator.away_max);
        let whose = |owner: &Owner| matches!(owner, Owner::Coordinator(n, l, _) if (*n, *l) == (number, life));
        self.transactions.questions.forget(whose);
        self.record.event(self.now, &[61, number as u64], || {
            format!("coordinator {number} dies {moment}")
        });
        self.plan_step(at, Step::Start(number));
    }
}
