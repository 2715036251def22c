//! Transactions: coordinators as processes around the shipped core, their clients, and all questions to groups.
//!
//! **What is real.** The coordinators' core (`fulcrum_two_phase::TwoPhase`) and its plans ([`fulcrum_coordinator::plan()`]), the participants (the
//! shard-nodes of this simulation), and the decision table by which questions find a primary
//! ([`Attempts`](fulcrum_common::routing::Attempts)). **What is modelled**: the runners around them ([`questions`], [`coordinators`]) and the clients
//! ([`clients`]), and whoever makes backups ([`backups`]). All that they send travels the simulated network.
//!
//! **What goes wrong.** All that goes wrong with nodes; and coordinators die before any effect, several work on one transaction, clients
//! send a commit again elsewhere, have it settled, or vanish, and some ids are near the end of their time.
//!
//! **What is judged** ([`judge`]). What clients were told: strict serializability of lists, and the books of a bank. At every turn what groups have
//! recorded (`invariants::records`). After healing nothing is left: no lock, no intent, no doubt beyond its bound, nothing unresolved.

pub mod backups;
pub mod clients;
pub mod coordinators;
pub mod jobs;
pub mod judge;
pub mod moments;
pub mod plan;
pub mod questions;
pub mod rows;
pub mod twins;
pub mod workload;

mod traffic;

pub use traffic::{Called, STORY_WAITS};

use super::plan::Plan;
use super::rng::Rng;
use super::time::{MS, Time};
use super::world::{Happening, World};
use backups::Backups;
use clients::Client;
pub use coordinators::Coordinator;
use coordinators::Heard;
use fulcrum_two_phase::Reply;
use fulcrum_types::{Answered, Refusal};
use moments::Moments;
use questions::Questions;
use std::collections::BTreeMap;
use traffic::Aside;
use workload::{Call, Workload};

/// What happens in this part of the world.
#[derive(Debug)]
pub enum Step {
    /// A question is sent, for the first time or again.
    Ask(u64),
    /// An attempt of a question was not answered in time.
    Silence(u64, u64),
    /// A question's time is up.
    Expired(u64),
    /// A coordinator's timer, in this life of it.
    Tick(usize, u64),
    /// A coordinator starts.
    Start(usize),
    /// A client's call reaches a coordinator.
    Call(usize, Box<Call>),
    /// A coordinator's answer reaches a client.
    Heard(Heard),
    /// A client begins something.
    Begin(usize),
    /// A client asks again.
    Again(usize),
    /// A client has waited long enough for an answer to its attempt.
    GiveUp(usize, u64),
    /// A backup is begun.
    Backup,
}

/// Coordinators, clients, and questions under way.
pub struct Transactions {
    /// The coordinators.
    pub coordinators: Vec<Coordinator>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What they do.
    pub workload: Workload,
    /// Questions to groups, also those of nodes.
    pub questions: Questions,
    /// What a story has in store for requests.
    pub moments: Moments,
    /// Backups that are made meanwhile.
    pub backups: Backups,
    pub(super) rng: Rng,
    /// Calls that their clients do not wait for, by client and attempt.
    aside: BTreeMap<(usize, u64), Aside>,
    last_aside: u64,
    /// What a story's last call was answered.
    told: Option<Result<Reply, Refusal>>,
    answered: Option<Result<Answered, Refusal>>,
}

impl Transactions {
    /// What a plan asks for: nothing, unless it has transactions.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x7a4e_5ac7);
        let workload = Workload::new(plan);
        let (coordinators, clients) = match &plan.transactions {
            None => (Vec::new(), Vec::new()),
            Some(chosen) => {
                let coordinators =
                    (0..chosen.coordinators).map(|_| Coordinator::new(chosen, plan.rate_ppm, rng.fork()));
                let coordinators = coordinators.collect();
                let clients = (0..chosen.clients).map(|number| Client::new(number, chosen, rng.fork()));
                (coordinators, clients.collect())
            }
        };
        Self {
            coordinators,
            clients,
            workload,
            questions: Questions::new(rng.fork()),
            moments: Moments::default(),
            backups: Backups::new(plan),
            rng,
            aside: BTreeMap::new(),
            last_aside: 0,
            told: None,
            answered: None,
        }
    }
}

impl World {
    pub(super) fn begin_transactions(&mut self) {
        for number in 0..self.transactions.coordinators.len() {
            self.queue
                .at(self.now + MS, Happening::Transactions(Step::Start(number)));
        }
        for number in 0..self.transactions.clients.len() {
            let at = self.transactions.rng.range(300 * MS, 600 * MS);
            self.plan_step(at, Step::Begin(number));
        }
        if self.plan.transactions.as_ref().is_some_and(|plan| plan.backups) {
            self.plan_backup();
        }
    }

    pub(super) fn plan_step(&mut self, at: Time, step: Step) {
        self.queue.at(at, Happening::Transactions(step));
    }

    pub(super) fn transaction_step(&mut self, step: Step) {
        match step {
            Step::Ask(number) => self.ask_or_pause(number),
            Step::Silence(number, attempt) => self.question_silence(number, attempt),
            Step::Expired(number) => self.question_expired(number),
            Step::Tick(number, life) => self.coordinator_tick(number, life),
            Step::Start(number) => self.start_coordinator(number),
            Step::Call(number, call) => self.called(number, *call),
            Step::Heard(heard) => self.client_hears(heard),
            Step::Begin(number) => self.client_begins(number),
            Step::Again(number) => self.client_again(number),
            Step::GiveUp(number, attempt) => self.client_gives_up(number, attempt),
            Step::Backup => self.begin_backup(),
        }
    }
}
