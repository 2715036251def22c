//! The heart of a shard-node: many replicas of many groups, driven by events, with no clock, chance, thread or network.
//!
//! **The promise.** Nothing is sent or answered before what it rests on is as durable as the keyspace asks. Every request is
//! answered exactly once: with an answer and its receipt, with a refusal (nothing was applied), or with UNKNOWN.
//!
//! **The protocol.** The caller works in turns: it passes what has come up to [`Node::handle`], event by event, then calls
//! [`Node::end_turn`] with a fresh reading of the clock, and runs the outputs. Within a turn
//! 1. an event goes to one replica's core (a tick to all), its effects are run in order (`run`), what became committed is
//!    applied (`apply`), and reads that may be evaluated are (`reads`);
//! 2. the end of the turn releases the reads and `async` writes whose lease still holds, gives each core the writes that
//!    arrived together, lets watches look on in the log (`watches`), and closes the storage batch, *one* for all groups:
//!    what they all wrote shares one fsync.
//!
//! The storage reports a batch with [`Event::BatchDone`]; each core then hears how far it is persisted, and the messages that
//! waited for it go out, in order.
//!
//! **Trouble.** A damaged replica is rebuilt from its peers, one that meets a command it cannot know stops; a node whose disk
//! fails answers everyone, acknowledges nothing more, and asks to be stopped ([`Output::Fatal`]).
//!
//! **Transactions.** What was promised, decided and resolved is replicated state. The primary adds what needs no replication:
//! requests that meet a lock wait (`waiting`), reads that meet an intent ask its home group (`meeting`), a participant that
//! hears nothing asks, too (`in_doubt`), and a home group finishes what a coordinator left (`home`). Every replica pins its state where
//! a backup cuts it (`cuts`).
//!
//! **Time.** What is due by a group's time goes with the entries that carry it; where nobody writes the primary orders one for that (`idle`).
//!
//! **Left out.** Moving slots between groups: it will be further commands and requests.

mod admission;
mod apply;
mod asking;
mod bugs;
mod cuts;
mod failover;
mod group;
mod history;
mod home;
mod hosting;
mod idle;
mod in_doubt;
mod leaving;
mod meeting;
mod readiness;
mod reads;
mod requests;
mod restart;
mod run;
mod settings;
mod shared;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;
mod transactions;
mod waiting;
mod watches;
mod writes;

pub use bugs::Bug;
#[cfg(feature = "planted-bugs")]
pub(crate) use bugs::Bugs;
pub use settings::NodeSettings;
pub use status::{GroupStatus, NodeStatus, TransactionsStatus, Unfinished};

use crate::event::{Event, Output, RequestId};
use crate::storage::{BatchDone, BatchId, Durability, Reader, Space, StorageError, Store};
use bytes::Buf;
use fulcrum_replication::primary_backup::PrimaryBackup;
use fulcrum_replication::{Input, Message, Options, Replica, Restored};
use fulcrum_types::{BootId, Fsync, GroupId, GroupRequest, LogPosition, Mono, NodeId, Now, Refusal};
use group::{Forgotten, Group};
use shared::{Failure, Shared};
use std::collections::{BTreeMap, BTreeSet};

/// Makes the core of a replica.
pub type Cores = Box<dyn Fn(Options, Restored, Now) -> Box<dyn Replica + Send> + Send>;

/// How the life of a node begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// This life.
    pub id: BootId,
    /// The store was closed in good order at the end of the last one, or is new.
    pub clean: bool,
}

/// A shard-node without the world around it.
pub struct Node {
    shared: Shared,
    groups: BTreeMap<GroupId, Group>,
    /// Replicas that must not go on, and why.
    stopped: BTreeMap<GroupId, String>,
    /// Groups that the disk held at the start and that no map has placed here so far.
    found: BTreeSet<GroupId>,
    /// Groups that left, or had left before the start, of which there may be loss certificates.
    certified: BTreeSet<GroupId>,
    /// Groups that belong elsewhere and are hosted until they have given account of what they led.
    debtors: BTreeSet<GroupId>,
    /// Groups whose data is being removed, step by step.
    leaving: BTreeSet<GroupId>,
    cores: Cores,
    entropy: Box<dyn FnMut() -> u64 + Send>,
    clean: bool,
    next_sync: Mono,
    /// So many; who has a turn is told by it.
    ticks: u64,
    fatal: Option<String>,
}

impl Node {
    /// A node over an opened store. It hosts nothing until it is given the cluster map.
    pub fn open(
        settings: NodeSettings,
        store: Store,
        boot: Boot,
        entropy: impl FnMut() -> u64 + Send + 'static,
        now: Now,
    ) -> Result<Self, StorageError> {
        let cores: Cores = Box::new(|options, restored, now| Box::new(PrimaryBackup::new(options, restored, now)));
        Self::with_cores(settings, store, boot, entropy, now, cores)
    }

    /// A node whose cores are made by the caller: of another protocol, or with a bug planted.
    pub fn with_cores(
        settings: NodeSettings,
        store: Store,
        boot: Boot,
        entropy: impl FnMut() -> u64 + Send + 'static,
        now: Now,
        cores: Cores,
    ) -> Result<Self, StorageError> {
        let found = groups_on_disk(&store, Space::Meta)?;
        let certified = groups_on_disk(&store, Space::Certificates)?;
        let next_sync = now.mono + settings.sync_interval;
        let shared = Shared {
            cache_share: settings.cache_bytes,
            settings,
            boot: boot.id,
            store,
            map: None,
            requests: Default::default(),
            questions: Default::default(),
            own_proposals: 0,
            out: Vec::new(),
            bugs: Default::default(),
        };
        Ok(Self {
            shared,
            groups: BTreeMap::new(),
            stopped: BTreeMap::new(),
            found,
            certified,
            debtors: BTreeSet::new(),
            leaving: BTreeSet::new(),
            cores,
            entropy: Box::new(entropy),
            clean: boot.clean,
            next_sync,
            ticks: 0,
            fatal: None,
        })
    }

    /// Plants a bug that verification must find.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: Bug) {
        self.shared.bugs.plant(bug);
        for group in self.groups.values_mut() {
            group.machine.plant(self.shared.bugs.clone());
        }
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now: Now, event: Event) {
        if self.fatal.is_some() {
            return self.refuse_after_death(event);
        }
        match event {
            Event::Tick { disk_healthy } => self.tick(now, disk_healthy),
            Event::Peer { from, group, message } => self.receive(now, from, group, message),
            Event::Request { id, request } => self.request(now, id, request),
            Event::Cancel { id } => self.cancel(now, id),
            Event::Answered { ask, result } => {
                if let Some(group) = self.shared.questions.close(ask) {
                    self.with(now, group, |group, shared| group.answered(shared, now, ask, result));
                }
            }
            Event::BatchDone(done) => self.batch_done(now, done),
            Event::Map(map) => self.adopt_map(now, map),
            Event::Configuration { group, configuration } => {
                self.step_and_refresh(now, group, Input::Configuration { configuration });
            }
            Event::CasOutcome {
                group,
                attempt,
                outcome,
            } => {
                self.step_and_refresh(now, group, Input::CasOutcome { attempt, outcome });
            }
            Event::LeaseGone { group, node } => self.step_and_refresh(now, group, Input::LeaseGone { node }),
            Event::HandOver { group, to } => self.step_and_refresh(now, group, Input::HandOver { to }),
            Event::ForcePromotion { group } => self.step_and_refresh(now, group, Input::ForcePromotion),
            Event::Drain => {
                for group in self.groups.keys().copied().collect::<Vec<_>>() {
                    self.step_and_refresh(now, group, Input::Leave);
                }
            }
        }
    }

    /// Releases what can be answered in the middle of a turn, and hands out what is asked of the world so far. `now` must have been
    /// read after the last [`Node::handle`], as for [`Node::end_turn`], which must still follow.
    pub fn release(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.fatal.is_none() {
            self.each(now, |group, shared| {
                group.release_reads(shared, now)?;
                group.meetings.questions_leave();
                Ok(())
            });
        }
        out.append(&mut self.shared.out);
    }

    /// Ends a turn. `now` must have been read after the last [`Node::handle`]: reads are released only if their lease still
    /// holds by it. Returns whether something is left that a further turn can do at once.
    pub fn end_turn(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        let mut again = false;
        if self.fatal.is_none() {
            self.each(now, |group, shared| {
                group.release_reads(shared, now)?;
                group.release_writes(shared, now);
                group.propose(shared, now)?;
                group.look_for_changes(shared, now)?;
                group.meetings.questions_leave();
                again |= group.has_more_to_do();
                Ok(())
            });
        }
        if self.fatal.is_none() {
            self.shared.store.close_turn();
        }
        out.append(&mut self.shared.out);
        again && self.fatal.is_none()
    }

    /// The batch that what is staged now goes into.
    pub(crate) fn open_batch(&self) -> BatchId {
        self.shared.store.open_batch()
    }

    /// Where a write or a step of a transaction has been ordered that is not answered yet.
    pub(crate) fn ordered_at(&self, group: GroupId, id: RequestId) -> Option<LogPosition> {
        self.groups.get(&group)?.writes.ordered_at(id)
    }

    /// Ends the node's life in good order: everything staged is made durable, and the next start trusts it.
    pub fn close(self) -> Result<(), StorageError> {
        match self.fatal {
            // What is on the disk is not known: the next start must not take it for complete.
            Some(_) => Ok(()),
            None => self.shared.store.close(),
        }
    }

    fn tick(&mut self, now: Now, disk_healthy: bool) {
        self.expire(now);
        let sweep = self.shared.settings.sweep_records;
        self.ticks = self.ticks.wrapping_add(1);
        let (tick, groups) = (self.ticks, self.groups.len());
        self.each(now, |group, shared| {
            group.step(shared, now, Input::Tick { disk_healthy })?;
            group.refresh(shared, now);
            group.tend_transactions(shared, now);
            if idle::has_turn(tick, group.id, groups) {
                group.let_time_go_on(shared, now)?;
            }
            group.end_waits(shared, now)?;
            group.cuts.expire(now.mono);
            group.log.sweep(&mut shared.store, sweep)?;
            Ok(())
        });
        self.leave_debtors();
        self.remove_leaving();
        if now.mono >= self.next_sync {
            self.next_sync = now.mono + self.shared.settings.sync_interval;
            let by_interval = |group: &Group| group.keyspace.options.fsync == Fsync::Interval;
            if self.groups.values().any(by_interval) {
                self.shared.store.flush(Durability::Synced);
            }
        }
    }

    fn receive(&mut self, now: Now, from: NodeId, group: GroupId, message: Message) {
        let header = message.header;
        self.with(now, group, |group, shared| {
            if group.view.primary == Some(from) {
                group.failover.heard_primary(now.mono);
            }
            let news = header.epoch > group.view.epoch || header.version != group.seen_version;
            group.seen_version = header.version;
            group.step(shared, now, Input::Receive { from, message })?;
            if news || !group.is_settled(shared) {
                group.refresh(shared, now);
            }
            Ok(())
        });
    }

    fn step_and_refresh(&mut self, now: Now, group: GroupId, input: Input) {
        self.with(now, group, |group, shared| {
            group.step(shared, now, input)?;
            group.refresh(shared, now);
            Ok(())
        });
    }

    fn request(&mut self, now: Now, id: RequestId, request: GroupRequest) {
        let group = request.group;
        let refusal = match admission::admit(&self.shared, &request) {
            Err(refusal) => refusal,
            Ok(()) if self.groups.contains_key(&group) => {
                return self.with(now, group, |group, shared| group.request(shared, now, id, request));
            }
            Ok(()) => match self.stopped.get(&group) {
                Some(reason) => Refusal::Stopped { reason: reason.clone() },
                None => Refusal::WrongGroup {
                    map_version: self.shared.map_version(),
                },
            },
        };
        self.shared.reply(id, Err(refusal));
    }

    fn cancel(&mut self, now: Now, id: RequestId) {
        let group = self.shared.requests.remove(id);
        if let Some(group) = group.and_then(|group| self.groups.get_mut(&group)) {
            group.forget(&mut self.shared, now, id);
        }
    }

    /// Answers the requests whose deadline has passed: what was ordered may yet be applied.
    fn expire(&mut self, now: Now) {
        while let Some((id, group)) = self.shared.requests.expired(now.mono) {
            let group = self.groups.get_mut(&group);
            let forgotten = group.map(|group| group.forget(&mut self.shared, now, id));
            let refusal = match forgotten.unwrap_or_default() {
                Forgotten::Ordered => Refusal::Unknown {
                    reason: "the deadline passed before it was acknowledged".into(),
                },
                Forgotten::Locked { by } => Refusal::Locked { by },
                Forgotten::NotOrdered => Refusal::DeadlineExceeded,
            };
            self.shared.reply(id, Err(refusal));
        }
    }

    fn batch_done(&mut self, now: Now, done: BatchDone) {
        if let Err(error) = done.result {
            return self.die(error.to_string());
        }
        self.shared.store.persisted(done.id);
        self.each(now, |group, shared| group.batch_done(shared, now, done.id));
    }

    /// Works on all replicas, in order, and deals with their trouble.
    fn each(&mut self, now: Now, mut work: impl FnMut(&mut Group, &mut Shared) -> Result<(), Failure>) {
        let mut failed = Vec::new();
        for (id, group) in &mut self.groups {
            if let Err(failure) = work(group, &mut self.shared) {
                failed.push((*id, failure));
            }
        }
        for (id, failure) in failed {
            self.fail(now, id, failure);
        }
    }

    /// Works on one replica, and deals with its trouble.
    fn with(&mut self, now: Now, id: GroupId, work: impl FnOnce(&mut Group, &mut Shared) -> Result<(), Failure>) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if let Err(failure) = work(group, &mut self.shared) {
            self.fail(now, id, failure);
        }
    }

    fn fail(&mut self, now: Now, id: GroupId, failure: Failure) {
        match failure {
            Failure::Node(reason) => self.die(reason),
            Failure::Stopped(reason) => {
                self.give_up(id, &reason);
                self.stopped.insert(id, reason);
            }
            Failure::Damaged(reason) => {
                let Some(keyspace) = self.give_up(id, &reason) else {
                    return;
                };
                self.rebuild(now, id, keyspace, reason);
            }
        }
    }

    /// The node's storage failed: everyone is told what can be told, and nothing is acknowledged any more.
    fn die(&mut self, reason: String) {
        if self.fatal.is_some() {
            return;
        }
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            self.give_up(id, &reason);
        }
        self.fatal = Some(reason.clone());
        self.shared.out.push(Output::Fatal { reason });
    }

    fn refuse_after_death(&mut self, event: Event) {
        if let (Event::Request { id, .. }, Some(reason)) = (event, &self.fatal) {
            let refusal = Refusal::Stopped { reason: reason.clone() };
            self.shared.reply(id, Err(refusal));
        }
    }
}

fn groups_on_disk(store: &Store, space: Space) -> Result<BTreeSet<GroupId>, StorageError> {
    let mut found = BTreeSet::new();
    let mut from = 0u64;
    // Each look finds the next group, whatever it has; not every record is read.
    while let Some(record) = store.range(space, &from.to_be_bytes(), &[]).next() {
        let mut key = record?.0;
        let Some(group) = key.try_get_u64().ok().filter(|group| *group >= from) else {
            break;
        };
        found.insert(GroupId(group));
        let Some(next) = group.checked_add(1) else { break };
        from = next;
    }
    Ok(found)
}
