//! The replica: its fields, the dispatch of inputs, and what every role shares.

use super::backup::Backup;
use super::body::Body;
use super::changes::Changes;
use super::durability::Durability;
use super::log::Log;
use super::pauses::Pauses;
use super::primary::Primary;
use super::replicated_time::GroupTime;
use crate::contract::{
    CasOutcome, Effect, HardState, Header, Input, LogChange, Message, Options, Replica, Restored, Status,
};
use fulcrum_types::{BootId, Epoch, GroupConfiguration, Index, Member, Mode, Mono, NodeId, Now, Role, WriteId};
use std::collections::BTreeMap;

/// One replica of one group under primary/backup replication.
#[derive(Clone, Debug)]
pub struct PrimaryBackup {
    pub(super) options: Options,
    /// This replica, with the data it holds: listed so in `in_sync`, or not a candidate (rule 5).
    pub(super) me: Member,
    pub(super) boot: BootId,
    /// As it is, or is being made, durable.
    pub(super) hard: HardState,
    pub(super) log: Log,
    pub(super) disk: Durability,
    pub(super) commit: Index,
    pub(super) applied: Index,
    pub(super) health: Health,
    pub(super) changes: Changes,
    /// Present while this replica orders entries in `hard.epoch`.
    pub(super) primary: Option<Primary>,
    /// What it knows and has promised as a backup; promises outlive roles.
    pub(super) backup: Backup,
    /// The epoch that this life has marked as led, or is marking: an earlier life's cannot be led on (rule 3).
    pub(super) marked: Epoch,
    /// The last epoch led in this life, and how far it may have acknowledged in it: for certificates.
    pub(super) acknowledged_here: Option<(Epoch, Index)>,
    /// What each peer's wall clock showed, in milliseconds, and when on our monotonic clock (rule 11).
    pub(super) walls: BTreeMap<NodeId, (u64, Mono)>,
    /// What our clocks showed when this life began.
    pub(super) started: Now,
    pub(super) time: GroupTime,
    pub(super) pauses: Pauses,
    pub(super) next_read_of_configuration: Mono,
    /// This node is about to stop.
    pub(super) leaving: bool,
    /// The first step of this life has been taken.
    begun: bool,
    /// The hard state on disk is this data's.
    recorded: bool,
    #[cfg(feature = "planted-bugs")]
    pub(super) bug: Option<super::planted::Bug>,
}

/// Whether this replica is fit to speak for its data ("no zombies").
#[derive(Clone, Debug)]
pub(super) struct Health {
    disk: bool,
    /// Last time that the applied index moved, or there was nothing to apply.
    apply_moved: Mono,
}

/// Header and durability condition of what is said at this moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    header: Header,
    after: Option<WriteId>,
}

impl Envelope {
    pub(super) fn send(self, to: NodeId, body: Body, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send {
            to,
            message: Message {
                header: self.header,
                body,
            },
            after: self.after,
        });
    }
}

impl PrimaryBackup {
    /// A replica as it comes out of a start. It promises nothing it may have promised before: see rule 1.
    #[must_use]
    pub fn new(options: Options, restored: Restored, now: Now) -> Self {
        let known = restored.hard_state.is_some();
        let mut hard = restored.hard_state.unwrap_or_default();
        let recorded = known && hard.data == restored.data;
        hard.data = restored.data;
        if !recorded {
            // What it ordered last may be missing: it cannot certify that nothing of that was lost.
            hard.led = Epoch::ZERO;
        }
        let log = Log::new(
            restored.compacted,
            restored.compacted_time,
            &hard.epoch_starts,
            restored.log,
        );
        let applied = restored.applied.max(log.compacted().index).min(log.last().index);
        let commit = hard.commit.min(log.last().index).max(applied);
        let me = Member {
            node: options.node,
            data: restored.data,
        };
        let backup = Backup::after_start(&options, &hard, me, now.mono);
        Self {
            me,
            boot: restored.boot,
            disk: Durability::new(log.last().index),
            commit,
            applied,
            health: Health {
                disk: true,
                apply_moved: now.mono,
            },
            changes: Changes::default(),
            primary: None,
            backup,
            marked: Epoch::ZERO,
            acknowledged_here: None,
            walls: BTreeMap::new(),
            started: now,
            time: GroupTime::default(),
            pauses: Pauses::default(),
            next_read_of_configuration: now.mono,
            leaving: false,
            begun: false,
            recorded,
            hard,
            log,
            options,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }

    /// Plants a bug that verification must find.
    #[cfg(feature = "planted-bugs")]
    pub fn set_bug(&mut self, bug: super::planted::Bug) {
        self.bug = Some(bug);
    }

    /// The same, on the way out of [`Self::new`].
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn with_bug(mut self, bug: super::planted::Bug) -> Self {
        self.set_bug(bug);
        self
    }

    /// The first step of a life: a new data id is durable before anything is said, and what is known to be committed is
    /// applied.
    fn begin(&mut self, effects: &mut Vec<Effect>) {
        self.begun = true;
        if !self.recorded {
            self.persist_hard_state(effects);
            self.recorded = true;
        }
        if self.commit > self.applied {
            effects.push(Effect::Commit { through: self.commit });
        }
    }

    fn receive(&mut self, now: Now, from: NodeId, message: Message, effects: &mut Vec<Effect>) {
        let header = message.header;
        if from == self.me.node {
            return;
        }
        self.note_wall(now, from, header.wall_ms);
        if header.epoch < self.hard.epoch && !planted!(self, DropFencing) {
            if !matches!(message.body, Body::Stale { .. }) {
                self.tell_configuration(now, from, effects);
            }
            return;
        }
        self.observe_epoch(now, header.epoch, effects);
        match message.body {
            Body::Append {
                previous,
                entries,
                commit,
                held,
                beat,
            } => {
                if self.on_append(now, from, header, (previous, entries, commit, beat), effects) {
                    self.backup.held = self.backup.held.max(held);
                }
            }
            Body::Acknowledge { .. } => self.on_acknowledge(now, from, header, &message.body, effects),
            Body::Mismatch {
                refused,
                try_next,
                echo,
            } => {
                self.on_mismatch(now, from, header, (refused, try_next, echo), effects);
            }
            Body::Stale { configuration } => self.adopt(now, configuration, effects),
            Body::Snapshot { transfer, chunk } => self.on_snapshot(now, from, transfer, chunk, effects),
            Body::SnapshotProgress { transfer, next } => {
                self.on_snapshot_progress(now, from, header, transfer, next, effects)
            }
            Body::Probe { last } => self.on_probe(now, from, header, last, effects),
            Body::ProbeReply { last, eligible } => self.on_probe_reply(now, from, header, last, eligible, effects),
            Body::History {
                committed,
                epoch_starts,
            } => self.on_history(from, committed, &epoch_starts, effects),
            Body::TakeOver { last, given_up_at } => self.on_take_over(now, from, last, given_up_at, effects),
        }
    }

    fn on_persisted(&mut self, now: Now, through: WriteId, effects: &mut Vec<Effect>) {
        self.disk.completed(through);
        if self.primary.is_some() {
            self.advance(now, effects);
        } else {
            self.advance_as_backup(now, effects);
            self.try_to_lead(now, effects);
        }
    }

    fn on_applied(&mut self, now: Now, through: Index, effects: &mut Vec<Effect>) {
        if through > self.commit || through <= self.applied {
            return;
        }
        self.applied = through;
        self.health.apply_moved = now.mono;
        self.backup.staleness.applied(through);
        self.compact(now.mono, effects);
    }

    fn on_tick(&mut self, now: Now, disk_healthy: bool, effects: &mut Vec<Effect>) {
        self.health.disk = disk_healthy;
        if self.changes.expire(now.mono, self.options.retry_after * 10) {
            self.read_configuration(now, effects);
        }
        if self.changes.has_unsettled() || self.hard.epoch > self.hard.configuration.epoch {
            self.read_configuration(now, effects);
        }
        if self.primary.is_some() {
            self.tick_primary(now, effects);
        } else {
            self.tick_backup(now, effects);
        }
    }

    fn on_cas_outcome(
        &mut self,
        now: Now,
        attempt: crate::contract::CasId,
        outcome: CasOutcome,
        effects: &mut Vec<Effect>,
    ) {
        match outcome {
            CasOutcome::Won(configuration) => self.adopt(now, configuration, effects),
            CasOutcome::Lost(configuration) => {
                self.changes.lost(attempt);
                self.adopt(now, configuration, effects);
            }
            CasOutcome::Unknown if planted!(self, UnknownIsLost) => self.changes.lost(attempt),
            CasOutcome::Unknown => {
                if self.changes.unknown(attempt) {
                    self.next_read_of_configuration = now.mono;
                    self.read_configuration(now, effects);
                }
            }
        }
    }

    // ---- what every role shares ----

    /// Fencing: whoever shows a newer epoch was given it by the metadata store. A primary of an older one steps down.
    pub(super) fn observe_epoch(&mut self, now: Now, epoch: Epoch, effects: &mut Vec<Effect>) {
        if epoch <= self.hard.epoch {
            return;
        }
        self.step_down("a newer epoch began", effects);
        self.note_unled(effects);
        self.hard.epoch = epoch;
        self.backup.enter_epoch(epoch, now.mono + self.options.grace);
        self.persist_hard_state(effects);
        self.next_read_of_configuration = now.mono;
    }

    /// Takes a configuration from metadata, from a peer, or from a compare-and-swap of its own; never an older one.
    pub(super) fn adopt(&mut self, now: Now, configuration: GroupConfiguration, effects: &mut Vec<Effect>) {
        let fenced = configuration.epoch < self.hard.epoch && !planted!(self, DropFencing);
        if configuration.version <= self.hard.configuration.version || fenced {
            return;
        }
        self.open_certificate(&configuration, effects);
        self.note_leaseless(&configuration, effects);
        self.note_missed(&configuration, effects);
        self.note_failover(now, &configuration);
        self.changes.moved();
        if configuration.epoch > self.hard.epoch {
            self.step_down("a newer epoch began", effects);
            self.note_unled(effects);
            self.hard.epoch = configuration.epoch;
            self.backup
                .enter_epoch(configuration.epoch, now.mono + self.options.grace);
        }
        if configuration.epoch == Epoch::ZERO {
            self.backup.patience_until = now.mono;
        }
        self.backup.leader = configuration.primary.filter(|p| *p != self.me.node);
        self.hard.configuration = configuration;
        self.persist_hard_state(effects);
        if self.primary.is_some() {
            self.configuration_changed(now, effects);
        } else {
            self.try_to_lead(now, effects);
            self.acknowledge(now, effects);
        }
    }

    pub(super) fn persist_hard_state(&mut self, effects: &mut Vec<Effect>) {
        self.hard.commit = self.commit;
        self.hard.epoch_starts.clear();
        self.hard.epoch_starts.extend_from_slice(self.log.starts());
        let id = self.write(LogChange::HardState(self.hard.clone()), effects);
        self.disk.wrote_hard_state(id);
    }

    pub(super) fn write(&mut self, change: LogChange, effects: &mut Vec<Effect>) -> WriteId {
        let id = self.disk.next();
        effects.push(Effect::Write { id, change });
        id
    }

    /// For what is said at this moment: it waits for the hard state that it depends on.
    pub(super) fn envelope(&self, now: Now) -> Envelope {
        Envelope {
            header: Header {
                epoch: self.hard.epoch,
                version: self.hard.configuration.version,
                boot: self.boot,
                data: self.me.data,
                wall_ms: now.wall_ms,
            },
            after: self.disk.after_hard_state(),
        }
    }

    /// For an acknowledgement of all that was appended so far.
    pub(super) fn envelope_after_appends(&self, now: Now) -> Envelope {
        let after = if planted!(self, AcknowledgeBeforePersist) {
            self.disk.after_hard_state()
        } else {
            self.disk.after_appends()
        };
        Envelope {
            after,
            ..self.envelope(now)
        }
    }

    pub(super) fn tell_configuration(&self, now: Now, to: NodeId, effects: &mut Vec<Effect>) {
        let configuration = self.hard.configuration.clone();
        self.envelope(now).send(to, Body::Stale { configuration }, effects);
    }

    pub(super) fn read_configuration(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if now.mono >= self.next_read_of_configuration {
            self.next_read_of_configuration = now.mono + self.options.retry_after;
            effects.push(Effect::ReadConfiguration);
        }
    }

    pub(super) fn raise_commit(&mut self, now: Now, to: Index, effects: &mut Vec<Effect>) {
        assert!(to <= self.log.last().index, "commit stays within the log");
        if to <= self.commit {
            return;
        }
        if self.applied >= self.commit {
            self.health.apply_moved = now.mono;
        }
        self.commit = to;
        effects.push(Effect::Commit { through: to });
    }

    /// A recent successful fsync, and apply moves: else neither heartbeat nor acknowledgement leaves ("no zombies").
    pub(super) fn is_healthy(&self, now: Mono) -> bool {
        self.health.disk
            && (self.applied >= self.commit || now.since(self.health.apply_moved) < self.options.silent_after)
    }

    pub(super) fn is_member(&self) -> bool {
        let c = &self.hard.configuration;
        c.has_member(self.me) || (planted!(self, IgnoreDataId) && c.is_in_sync(self.me.node))
    }

    pub(super) fn is_async(&self) -> bool {
        self.options.mode == Mode::Async
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = NodeId> {
        let configuration = &self.hard.configuration;
        let others = configuration.in_sync.iter().map(|m| m.node);
        let others = others.filter(|n| !configuration.replicas.contains(n));
        configuration
            .replicas
            .iter()
            .copied()
            .chain(others)
            .filter(|n| *n != self.me.node)
    }

    fn role(&self) -> Role {
        if self.primary.is_some() {
            Role::Primary
        } else if self.is_member() {
            Role::Backup
        } else {
            Role::Learner
        }
    }

    /// Drops log entries that the state holds and nobody in sync still needs; at a backup only what is matched in this epoch:
    /// the rest may have to go into a loss certificate.
    fn compact(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        let retain = self.options.retain_bytes;
        if self.log.bytes() <= retain + retain / 4 {
            return;
        }
        let needed = match &self.primary {
            Some(_) => self.needed_by_peers(now),
            None => self.backup.matched.min(self.backup.held),
        };
        let limit = self.applied.min(self.disk.persisted()).min(needed);
        let Some(through) = self.log.compaction_point(retain, limit) else {
            return;
        };
        if self.hard.epoch_starts != self.log.starts() {
            self.persist_hard_state(effects);
        }
        self.write(LogChange::Compact { through }, effects);
        self.log.compact(through);
    }
}

impl Replica for PrimaryBackup {
    fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        if !self.begun {
            self.begin(effects);
        }
        match input {
            Input::Tick { disk_healthy } => self.on_tick(now, disk_healthy, effects),
            Input::Receive { from, message } => self.receive(now, from, message, effects),
            Input::Propose { commands } => self.on_propose(now, commands, effects),
            Input::CarryTime { due } => self.on_carry_time(now, due, effects),
            Input::Read { id, wanted } => self.on_read(now, id, wanted, effects),
            Input::Persisted { through } => self.on_persisted(now, through, effects),
            Input::Applied { through } => self.on_applied(now, through, effects),
            Input::Configuration { configuration } => self.adopt(now, configuration, effects),
            Input::CasOutcome { attempt, outcome } => self.on_cas_outcome(now, attempt, outcome, effects),
            Input::SnapshotPart { to, transfer, chunk } => self.on_snapshot_part(now, to, transfer, chunk, effects),
            Input::Leave => self.on_leave(now, effects),
            Input::HandOver { to } => self.on_hand_over(now, to, effects),
            Input::LeaseGone { node } => self.on_lease_gone(node),
            Input::ForcePromotion => self.on_force(now, effects),
        }
    }

    fn status(&self, now: Now) -> Status {
        let known = self.hard.configuration.epoch == self.hard.epoch;
        let primary = if known {
            self.hard.configuration.primary
        } else {
            self.backup.leader
        };
        Status {
            role: self.role(),
            epoch: self.hard.epoch,
            version: self.hard.configuration.version,
            configuration: self.hard.configuration.clone(),
            primary,
            ready: self.primary.as_ref().is_some_and(|p| p.ready),
            lease_left: self.lease_until(now.mono).map(|until| until.since(now.mono)),
            last: self.log.last(),
            persisted: self.disk.persisted(),
            commit: self.commit,
            applied: self.applied,
            compacted: self.log.compacted(),
            staleness: self.provable_staleness(now.mono),
            stranded: self.is_stranded(),
            peers: self.peer_status(now.mono),
        }
    }

    fn check_invariants(&self) -> Result<(), String> {
        super::invariants::check(self)
    }
}
