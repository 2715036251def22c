//! One replica: its core, its log, its state, and who waits for what.
//!
//! A replica is moved by [`Group::step`]: one input goes into the core, the effects are run in order, what became committed is
//! applied, and what came up meanwhile for the core (the next part of a snapshot, a read asked again) goes in after it.

use super::asking::Purpose;
use super::cuts::Cuts;
use super::failover::Failover;
use super::history::History;
use super::home::Home;
use super::idle::Idle;
use super::in_doubt::InDoubt;
use super::meeting::Meetings;
use super::reads::Reads;
use super::shared::{Failure, Shared};
use super::snapshots::Transfers;
use super::waiting::Waiting;
use super::watches::Watches;
use super::writes::Writes;
use crate::event::{AskId, Observation, Output, RequestId};
use crate::state_machine::StateMachine;
use crate::storage::{BatchId, GroupStore};
use fulcrum_common::keyspace::Keyspace;
use fulcrum_replication::{Effect, Input, Message, Replica, Status};
use fulcrum_types::{
    ConfigVersion, Entry, Epoch, GroupId, Index, LogPosition, Mode, Mono, NodeId, Now, Receipt, Refusal, Role,
    StalenessBasis, TransactionId, Verdict, WriteId,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What the core said of itself when it was last asked: status is too dear for every read.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) role: Role,
    pub(super) epoch: Epoch,
    pub(super) primary: Option<NodeId>,
    pub(super) ready: bool,
    pub(super) stranded: bool,
    in_sync: Vec<NodeId>,
}

impl View {
    pub(super) fn of(status: &Status) -> Self {
        Self {
            role: status.role,
            epoch: status.epoch,
            primary: status.primary,
            ready: status.ready,
            stranded: status.stranded,
            in_sync: status.configuration.in_sync.iter().map(|m| m.node).collect(),
        }
    }
}

/// A replica.
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) keyspace: Arc<Keyspace>,
    pub(super) core: Box<dyn Replica + Send>,
    pub(super) log: GroupStore,
    pub(super) machine: StateMachine,
    pub(super) history: History,
    /// Entries in the log that are not applied yet, in order.
    pub(super) tail: VecDeque<Entry>,
    pub(super) commit: Index,
    /// Which batch makes which of the core's writes durable.
    pub(super) written: VecDeque<(WriteId, BatchId)>,
    pub(super) persisted: WriteId,
    /// Messages that wait for a write.
    pub(super) held: BTreeMap<WriteId, Vec<(NodeId, Message)>>,
    pub(super) writes: Writes,
    pub(super) reads: Reads,
    pub(super) watches: Watches,
    /// Reads that wait for the decisions of other groups.
    pub(super) meetings: Meetings,
    /// Requests that wait for locks.
    pub(super) waiting: Waiting,
    pub(super) in_doubt: InDoubt,
    pub(super) home: Home,
    pub(super) idle: Idle,
    /// What other groups are asked.
    pub(super) asking: BTreeMap<AskId, Purpose>,
    /// Decisions learned in this turn.
    pub(super) decisions: BTreeMap<TransactionId, Verdict>,
    /// Decisions on promises made here that are known, and on their way through the log.
    pub(super) known: BTreeMap<TransactionId, Verdict>,
    pub(super) transfers: Transfers,
    /// Its state at cuts that are being read.
    pub(super) cuts: Cuts,
    pub(super) view: View,
    pub(super) failover: Failover,
    /// The configuration version of the last message received: another one is a reason to look at the core again.
    pub(super) seen_version: ConfigVersion,
    /// What is to go into the core next.
    pub(super) inputs: VecDeque<Input>,
    effects: Vec<Effect>,
}

/// How far a request had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Forgotten {
    /// Nothing of it was ordered.
    #[default]
    NotOrdered,
    /// It waited for a transaction; nothing of it was ordered.
    Locked { by: TransactionId },
    /// It was ordered: it may be applied.
    Ordered,
}

/// What a replica is made of.
pub(super) struct Parts {
    pub(super) id: GroupId,
    pub(super) keyspace: Arc<Keyspace>,
    pub(super) core: Box<dyn Replica + Send>,
    pub(super) log: GroupStore,
    pub(super) machine: StateMachine,
    pub(super) history: History,
    pub(super) tail: VecDeque<Entry>,
}

impl Group {
    pub(super) fn new(parts: Parts, now: Now) -> Self {
        let view = View::of(&parts.core.status(now));
        Self {
            id: parts.id,
            keyspace: parts.keyspace,
            core: parts.core,
            log: parts.log,
            commit: parts.machine.applied().position.index,
            machine: parts.machine,
            history: parts.history,
            tail: parts.tail,
            written: VecDeque::new(),
            persisted: WriteId::ZERO,
            held: BTreeMap::new(),
            writes: Writes::default(),
            reads: Reads::default(),
            watches: Watches::default(),
            meetings: Meetings::default(),
            waiting: Waiting::default(),
            in_doubt: InDoubt::default(),
            home: Home::default(),
            idle: Idle::default(),
            asking: BTreeMap::new(),
            decisions: BTreeMap::new(),
            known: BTreeMap::new(),
            transfers: Transfers::default(),
            cuts: Cuts::default(),
            view,
            failover: Failover::new(now.mono),
            seen_version: ConfigVersion::ZERO,
            inputs: VecDeque::new(),
            effects: Vec::new(),
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.keyspace.options.mode
    }

    pub(super) fn applied(&self) -> LogPosition {
        self.machine.applied().position
    }

    /// Puts an input into the core, runs what follows, and whatever that brings up for the core.
    pub(super) fn step(&mut self, shared: &mut Shared, now: Now, input: Input) -> Result<(), Failure> {
        self.inputs.push_back(input);
        self.drain(shared, now)
    }

    /// Puts everything that is due into the core.
    pub(super) fn drain(&mut self, shared: &mut Shared, now: Now) -> Result<(), Failure> {
        while let Some(input) = self.inputs.pop_front() {
            let mut effects = std::mem::take(&mut self.effects);
            self.core.step(now, input, &mut effects);
            if cfg!(debug_assertions)
                && let Err(broken) = self.core.check_invariants()
            {
                panic!("group {} on node {}: {broken}", self.id, shared.settings.node);
            }
            for effect in effects.drain(..) {
                self.run(shared, now, effect)?;
            }
            self.effects = effects;
            self.apply(shared, now)?;
        }
        Ok(())
    }

    /// Looks at the core again where its role may have changed, and tells what did.
    pub(super) fn refresh(&mut self, shared: &mut Shared, now: Now) {
        let new = View::of(&self.core.status(now));
        let old = std::mem::replace(&mut self.view, new);
        let (group, new) = (self.id, &self.view);
        if (old.role, old.epoch) != (new.role, new.epoch) {
            shared.observe(Observation::RoleChanged {
                group,
                was: old.role,
                role: new.role,
                epoch: new.epoch,
            });
            self.lead_transactions(shared, now);
        }
        let new = &self.view;
        if new.role != Role::Primary {
            self.transfers = Transfers::default();
        } else {
            for node in old.in_sync.iter().filter(|n| !new.in_sync.contains(n)) {
                shared.observe(Observation::Evicted { group, node: *node });
            }
            for node in new.in_sync.iter().filter(|n| !old.in_sync.contains(n)) {
                shared.observe(Observation::Admitted { group, node: *node });
            }
        }
        if let Some(phases) = self.failover.follow(new, now.mono) {
            shared.observe(Observation::TookOver {
                group,
                epoch: new.epoch,
                phases,
            });
        }
    }

    /// Another role, or the same in another epoch: who waited here is not served here any more, or has to be asked after anew.
    fn lead_transactions(&mut self, shared: &mut Shared, now: Now) {
        let hint = self.hint(shared);
        self.forget_transactions(shared, &Refusal::NotPrimary { hint });
        if self.view.role == Role::Primary {
            #[cfg(feature = "planted-bugs")]
            self.machine.take_over();
            self.take_over_doubts(shared, now.mono);
            self.take_over_commits(now.mono);
        }
    }

    /// Lets go of what only a primary does for transactions. Those who wait for locks were not ordered.
    pub(super) fn forget_transactions(&mut self, shared: &mut Shared, refusal: &Refusal) {
        self.refuse_waiters(shared, refusal);
        self.in_doubt.clear();
        self.home.clear();
        self.decisions.clear();
        self.known.clear();
    }

    /// What time brings for transactions.
    pub(super) fn tend_transactions(&mut self, shared: &mut Shared, now: Now) {
        self.cut_waits(shared, now);
        self.ask_homes_again(shared);
        if self.view.role == Role::Primary {
            self.tend_doubts(shared, now);
            self.tend_commits(shared, now);
        }
        #[cfg(debug_assertions)]
        self.check_waiting();
    }

    /// Whether something is left that a further turn can do at once.
    pub(super) fn has_more_to_do(&self) -> bool {
        self.reads.is_evaluated() || self.writes.is_queued() || self.watches.is_behind(self.applied().index)
    }

    /// Forgets a request whose client is gone or was told, and says how far it had come.
    pub(super) fn forget(&mut self, shared: &mut Shared, now: Now, id: RequestId) -> Forgotten {
        let blocked_by = self.waiting.blocked_by(id).or_else(|| self.meetings.waits_for(id));
        self.reads.forget(id);
        self.meetings.forget(id);
        self.watches.forget(id);
        self.waiting.take(id);
        match (self.writes.forget(id), blocked_by) {
            (Some(true), _) => Forgotten::Ordered,
            (Some(false), _) => {
                self.will_not_be_ordered(shared, now, id);
                Forgotten::NotOrdered
            }
            (None, Some(by)) => Forgotten::Locked { by },
            (None, None) => Forgotten::NotOrdered,
        }
    }

    /// Whether nothing but a new epoch or configuration can change the role: no take-over by this replica is under way.
    pub(super) fn is_settled(&self, shared: &Shared) -> bool {
        let leads = self.view.role == Role::Primary && self.view.ready;
        leads || self.view.primary != Some(shared.settings.node)
    }

    /// The primary to ask instead of this replica, as far as known.
    pub(super) fn hint(&self, shared: &Shared) -> Option<NodeId> {
        self.view.primary.filter(|node| *node != shared.settings.node)
    }

    /// What every receipt of this replica says; the caller fills in the rest.
    pub(super) fn receipt(&self, shared: &Shared, position: LogPosition, arrived: Mono, now: Mono) -> Receipt {
        let level = fulcrum_types::Level::Eventual;
        Receipt {
            mode: self.mode(),
            asked: level,
            achieved: level,
            group: self.id,
            replica: shared.settings.node,
            role: self.view.role,
            epoch: position.epoch,
            index: position.index,
            acknowledged_by: Vec::new(),
            durable: false,
            staleness: None,
            basis: StalenessBasis::None,
            map_version: shared.map_version(),
            rounds: 0,
            elapsed: now.since(arrived),
        }
    }

    /// Answers everyone who waits here: the replica goes. What was ordered has an unknown outcome.
    pub(super) fn give_up(&mut self, shared: &mut Shared, refusal: &Refusal) {
        for id in self.writes.take_unordered() {
            shared.reply(id, Err(refusal.clone()));
        }
        for id in self.writes.take_ordered() {
            shared.reply(id, Err(Refusal::Unknown { reason: refusal.why() }));
        }
        let reads = self.reads.take_all().into_iter().chain(self.meetings.take_all());
        for id in reads.chain(self.watches.take_all()) {
            shared.reply(id, Err(refusal.clone()));
        }
        self.refuse_waiters(shared, refusal);
    }

    /// Releases what waited for writes that are durable now, and tells the core.
    pub(super) fn batch_done(&mut self, shared: &mut Shared, now: Now, done: BatchId) -> Result<(), Failure> {
        let mut through = None;
        while let Some((write, _)) = self.written.front().filter(|(_, batch)| *batch <= done) {
            through = Some(*write);
            self.written.pop_front();
        }
        let Some(through) = through else { return Ok(()) };
        self.persisted = through;
        while let Some(first) = self.held.first_entry().filter(|e| *e.key() <= through) {
            for (to, message) in first.remove() {
                shared.out.push(Output::Send {
                    to,
                    group: self.id,
                    message,
                });
            }
        }
        self.step(shared, now, Input::Persisted { through })?;
        if !self.is_settled(shared) {
            self.refresh(shared, now);
        }
        Ok(())
    }
}
