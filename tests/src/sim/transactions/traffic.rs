//! What the world does for clients, and what it watches.

use super::coordinators::Heard;
use super::jobs::{Job, Wish};
use super::questions::Owner;
use super::twins::Twin;
use super::workload::{Call, Want};
use super::{Step, Transactions, clients::Client};
use crate::sim::network::Endpoint;
use crate::sim::time::{MS, SEC, Time};
use crate::sim::world::{Happening, World};
use fulcrum_checker::TransactionOutcome;
use fulcrum_coordinator::CommitRequest;
use fulcrum_two_phase::Reply;
use fulcrum_types::{Answered, NodeId, Operation, Participant, Refusal, TransactionId};

/// Attempts of calls that nobody waits for are counted from here.
pub(super) const FIRST_ASIDE: u64 = 1 << 40;
/// A commit whose client was told is sent once more within this.
const REPEATED_WITHIN: Time = 6 * SEC;

/// How long a story waits for an answer.
pub const STORY_WAITS: Time = 8 * SEC;
/// An answer at the last moment is heard, too.
const STORY_LINGERS: Time = 100 * MS;

/// A story's call that may still be answered.
#[derive(Debug)]
pub struct Called {
    coordinator: usize,
    attempt: u64,
    life: u64,
    until: Time,
}

/// A call that its client does not wait for.
pub(super) enum Aside {
    /// A commit that was answered is sent once more: the answer must not contradict the first.
    Repeat(TransactionId),
    /// Another transaction under an id used twice.
    Twin(Twin),
    /// A story tells what was answered.
    Story,
}

impl Transactions {
    /// Whether a story waits for this call.
    pub(super) fn is_story(&self, client: usize, attempt: u64) -> bool {
        matches!(self.aside.get(&(client, attempt)), Some(Aside::Story))
    }
}

impl World {
    fn client(&mut self, number: usize) -> &mut Client {
        &mut self.transactions.clients[number]
    }

    pub(super) fn client_begins(&mut self, number: usize) {
        if !self.load || self.client(number).is_busy() {
            return;
        }
        let now = self.now;
        let (clients, workload) = (&mut self.transactions.clients, &self.transactions.workload);
        let wish = clients[number].begin(now, workload);
        self.grant(number, wish);
    }

    /// Has a client do a job, whatever else it would do.
    pub fn have(&mut self, number: usize, job: Job) {
        let now = self.now;
        let (clients, workload) = (&mut self.transactions.clients, &self.transactions.workload);
        let wish = clients[number].start(now, workload, job, None);
        self.grant(number, wish);
    }

    pub(super) fn client_again(&mut self, number: usize) {
        let now = self.now;
        let wish = self.client(number).again(now);
        self.grant(number, wish);
    }

    pub(super) fn client_gives_up(&mut self, number: usize, attempt: u64) {
        let now = self.now;
        if self.client(number).awaits(attempt) {
            self.with_client(number, |client| client.silence(now));
        }
    }

    pub(super) fn client_hears(&mut self, heard: Heard) {
        let Heard {
            client,
            attempt,
            result,
        } = heard;
        let now = self.now;
        if let Some(aside) = self.transactions.aside.remove(&(client, attempt)) {
            return self.heard_aside(client, aside, &result);
        }
        let awaited = self.client(client).awaits(attempt);
        self.record
            .event(now, &[62, client as u64, attempt, u64::from(result.is_ok())], || {
                let late = if awaited { "" } else { " (too late)" };
                format!("client {client} hears{late}: {result:?}")
            });
        if awaited {
            self.with_client(client, |client| client.hears(now, result));
        }
    }

    pub(super) fn client_is_answered(&mut self, number: usize, attempt: u64, result: Result<Answered, Refusal>) {
        let now = self.now;
        if attempt > FIRST_ASIDE {
            self.transactions.answered = Some(result);
        } else if self.client(number).awaits(attempt) {
            self.with_client(number, |client| client.is_answered(now, result));
        }
    }

    fn with_client(&mut self, number: usize, act: impl FnOnce(&mut Client) -> Wish) {
        let job = self.client(number).job().cloned();
        let wish = act(self.client(number));
        if let Some(job) = job.filter(|_| !self.transactions.clients[number].is_busy()) {
            self.has_ended(number, &job);
        }
        self.grant(number, wish);
    }

    /// A client's transaction is over, as far as the client is concerned.
    fn has_ended(&mut self, number: usize, job: &Job) {
        let client = &self.transactions.clients[number];
        self.transactions.workload.opened |= client.has_opened(job);
        let Some((id, outcome)) = client.last else {
            return;
        };
        self.record.event(self.now, &[64, number as u64, outcome as u64], || {
            format!("client {number} has ended {id}: {outcome:?} ({job:?})")
        });
        if let Some(commit) = self.client(number).repeats() {
            let at = self.now + self.transactions.rng.skewed(MS, REPEATED_WITHIN);
            self.call_aside(number, commit, at, Aside::Repeat(id));
        }
        let told = match outcome {
            TransactionOutcome::Committed => true,
            TransactionOutcome::Failed => false,
            TransactionOutcome::Unknown => return,
        };
        let verdict = self.watch.records.told(id, told);
        self.must("transactions (told)", verdict);
    }

    fn grant(&mut self, number: usize, wish: Wish) {
        if let Some(twin) = self.client(number).take_twin() {
            self.record.reached("id used twice");
            self.watch.records.is_reused(twin.id);
            let commit = twin.commit.clone();
            self.call_aside(number, commit, self.now + MS, Aside::Twin(twin));
        }
        match wish {
            Wish::Call { copies, want, patience } => {
                let attempt = self.client(number).attempt();
                for _ in 0..copies {
                    let want = want.clone();
                    self.call(
                        number,
                        Call {
                            client: number,
                            attempt,
                            patience,
                            want,
                        },
                    );
                }
                self.plan_step(self.now + patience + 100 * MS, Step::GiveUp(number, attempt));
            }
            Wish::Vanish(want) => self.vanish(number, want),
            Wish::Ask {
                to,
                operation,
                patience,
            } => {
                let attempt = self.client(number).attempt();
                self.ask_group(Owner::Client(number, attempt), to, operation, patience);
            }
            Wish::Again(at) => self.plan_step(at, Step::Again(number)),
            Wish::Done => {
                let rest: Time = self.client(number).think();
                self.plan_step(self.now + rest, Step::Begin(number));
            }
            Wish::Broken(reason) => self.fail("transactions (value)", reason),
        }
    }

    /// Sends a commit and is heard of no more; the coordinator may notice, at some time.
    fn vanish(&mut self, number: usize, want: Want) {
        self.record.reached("client that vanished");
        let attempt = self.client(number).attempt();
        let to = self.call(
            number,
            Call {
                client: number,
                attempt,
                patience: 1_000 * MS,
                want,
            },
        );
        if self.transactions.rng.percent(50) {
            let at = self.now + self.transactions.rng.skewed(MS, 400 * MS);
            let left = Call {
                client: number,
                attempt,
                patience: 0,
                want: Want::Leave(attempt),
            };
            self.plan_step(at, Step::Call(to, Box::new(left)));
        }
        let rest: Time = self.client(number).think();
        self.plan_step(self.now + rest, Step::Begin(number));
    }

    /// Calls a coordinator with a commit that the client does not wait for.
    fn call_aside(&mut self, number: usize, commit: Box<CommitRequest>, at: Time, aside: Aside) {
        self.transactions.last_aside += 1;
        let attempt = FIRST_ASIDE + self.transactions.last_aside;
        self.transactions.aside.insert((number, attempt), aside);
        let call = Call {
            client: number,
            attempt,
            patience: self.transactions.rng.range(500 * MS, 2_000 * MS),
            want: Want::Commit(commit),
        };
        let coordinators = self.transactions.coordinators.len();
        let to = self.client(number).pick(coordinators);
        self.plan_step(at, Step::Call(to, Box::new(call)));
    }

    /// A story calls a coordinator and waits; none if nothing comes back.
    pub fn call_of_story(&mut self, coordinator: usize, want: Want) -> Option<Result<Reply, Refusal>> {
        let called = self.begin_call_of_story(coordinator, want, STORY_WAITS);
        self.hear_of_story(&called)
    }

    /// A story calls a coordinator, and gives it so much time.
    pub fn begin_call_of_story(&mut self, coordinator: usize, want: Want, patience: Time) -> Called {
        self.transactions.last_aside += 1;
        let attempt = FIRST_ASIDE + self.transactions.last_aside;
        self.transactions.aside.insert((0, attempt), Aside::Story);
        self.transactions.told = None;
        let client = 0;
        let call = Call {
            client,
            attempt,
            patience,
            want,
        };
        self.plan_step(self.now + MS, Step::Call(coordinator, Box::new(call)));
        Called {
            coordinator,
            attempt,
            life: self.transactions.coordinators[coordinator].life(),
            until: self.now + patience + STORY_LINGERS,
        }
    }

    /// A story waits for the answer to its last call; none if nothing comes back.
    pub fn hear_of_story(&mut self, called: &Called) -> Option<Result<Reply, Refusal>> {
        while self.now < called.until && self.transactions.told.is_none() && self.failure.is_none() {
            self.run_until(self.now + MS);
            if !self.transactions.coordinators[called.coordinator].lives(called.life) {
                // What it sent before it died arrives.
                self.run_until(self.now + 10 * MS);
                break;
            }
        }
        self.transactions.aside.remove(&(0, called.attempt));
        self.transactions.told.take()
    }

    /// A story asks a group without a coordinator and waits.
    pub fn ask_of_story(&mut self, to: Participant, operation: Operation) -> Option<Result<Answered, Refusal>> {
        self.transactions.last_aside += 1;
        let attempt = FIRST_ASIDE + self.transactions.last_aside;
        self.transactions.answered = None;
        self.ask_group(Owner::Client(0, attempt), to, operation, STORY_WAITS);
        let until = self.now + STORY_WAITS;
        while self.now < until && self.transactions.answered.is_none() && self.failure.is_none() {
            self.run_until(self.now + MS);
        }
        self.transactions.answered.take()
    }

    fn heard_aside(&mut self, number: usize, aside: Aside, result: &Result<Reply, Refusal>) {
        let now = self.now;
        self.record
            .event(now, &[65, number as u64, u64::from(result.is_ok())], || {
                format!("client {number} hears aside: {result:?}")
            });
        match (aside, result) {
            (Aside::Story, _) => self.transactions.told = Some(result.clone()),
            (Aside::Twin(twin), _) => self.client(number).twin_ends(now, twin, result),
            (Aside::Repeat(id), Ok(Reply::ConditionFailed { .. }) | Err(Refusal::Aborted { .. })) => {
                let reason = format!("{id} was told as committed, and as aborted when it was sent once more");
                self.fail("transactions (told)", reason);
            }
            (Aside::Repeat(_), Ok(_)) => self.record.reached("commit repeated after its answer"),
            (Aside::Repeat(_), Err(_)) => {}
        }
    }

    /// Sends a call to some coordinator; which one.
    fn call(&mut self, number: usize, call: Call) -> usize {
        let coordinators = self.transactions.coordinators.len();
        let to = self.client(number).pick(coordinators);
        self.record
            .event(self.now, &[63, number as u64, call.attempt, to as u64], || {
                format!("client {number} asks coordinator {to}: {:?}", call.want)
            });
        let mut call = Some(Box::new(call));
        let ends = (Endpoint::Client(number as u64), Endpoint::Coordinator(to as u64));
        // A connection does not double what is sent over it.
        self.transmit(ends.0, ends.1, || {
            Some(Happening::Transactions(Step::Call(to, call.take()?)))
        });
        to
    }

    /// Watches what a node has recorded of transactions.
    pub(in crate::sim) fn watch_transactions(&mut self, node: NodeId) {
        if self.transactions.clients.is_empty() || self.failure.is_some() {
            return;
        }
        let host = &self.hosts[&node];
        let Some(running) = &host.node else {
            return;
        };
        let mut verdict = Ok(());
        for plan in self.plan.groups.iter().filter(|plan| plan.replicas.contains(&node)) {
            let group = plan.group;
            let Some(status) = running.group_status(group, host.now(self.now)) else {
                continue;
            };
            if !self.watch.records.has_moved(group, node, status.applied) {
                continue;
            }
            let unfinished = running.unfinished(group).ok().flatten().unwrap_or_default();
            let prepared = unfinished.prepared.iter().map(|(id, _)| *id).collect();
            self.watch.records.shows(group, status.applied, &prepared);
            let ids: Vec<_> = self.watch.records.to_look_at(group, self.now).collect();
            for id in ids {
                match running.verdict_on(group, id) {
                    Ok(Some(found)) => {
                        verdict = verdict.and(self.watch.records.recorded(group, id, found));
                        if !unfinished.unresolved.contains(&id) {
                            verdict = verdict.and(self.watch.records.resolved_everywhere(group, id));
                        }
                    }
                    Ok(None) => {}
                    Err(error) => verdict = verdict.and(Err(error.to_string())),
                }
            }
        }
        self.must("transactions (records)", verdict);
    }
}
