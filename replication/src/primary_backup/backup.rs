//! The backup and the learner: match, append, persist, acknowledge, promise.

use super::body::{Beat, Body};
use super::candidate::Candidacy;
use super::core::PrimaryBackup;
use super::snapshot::Incoming;
use super::staleness::Staleness;
use crate::contract::{Effect, HardState, Header, LogChange, Options};
use fulcrum_types::{Entry, Epoch, Index, LogPosition, Member, Mono, NodeId, Now};

#[derive(Clone, Debug)]
pub(super) struct Backup {
    /// Who orders entries in `hard.epoch`, as far as known; never this replica.
    pub(super) leader: Option<NodeId>,
    /// The epoch that this life has seen begin, if it is the present one.
    pub(super) entered: Option<Epoch>,
    /// Up to here the log is known to equal the primary's, in this epoch.
    pub(super) matched: Index,
    /// Up to here every member of the in-sync set holds the log, as last heard in this epoch.
    pub(super) held: Index,
    /// The primary's commit index, as last heard in this epoch.
    pub(super) leader_commit: Index,
    /// Newest reading of the primary's clock and newest round seen in this epoch.
    pub(super) echo: Option<Mono>,
    pub(super) round: u64,
    /// The promise not to take over, on our clock.
    pub(super) promise_until: Mono,
    /// Promises of an earlier life are forgotten: one full grace after the start stands for them (rule 1). No hand-over
    /// releases it.
    pub(super) start_grace_until: Mono,
    /// No promise, only patience: a primary that was just elected gets as long to show itself.
    pub(super) patience_until: Mono,
    /// The primary gave its lease up at this reading of its clock: beats up to then ask for no promise (rule 7).
    pub(super) released: Option<Mono>,
    pub(super) staleness: Staleness,
    pub(super) incoming: Option<Incoming>,
    pub(super) candidacy: Candidacy,
}

impl Backup {
    /// Who led the newest epoch it knows, by that epoch's own configuration, has promised nothing since: a later
    /// promise would have made a newer epoch durable first. All others wait.
    pub(super) fn after_start(options: &Options, hard: &HardState, me: Member, now: Mono) -> Self {
        let c = &hard.configuration;
        let led_last =
            c.epoch == hard.epoch && c.primary == Some(me.node) && hard.led == hard.epoch && c.has_member(me);
        let promised_nothing = led_last || hard.epoch.0 == 0;
        let free = if promised_nothing { now } else { now + options.grace };
        Self {
            leader: c.primary.filter(|p| c.epoch == hard.epoch && *p != me.node),
            entered: None,
            matched: Index::ZERO,
            held: Index::ZERO,
            leader_commit: Index::ZERO,
            echo: None,
            round: 0,
            promise_until: now,
            start_grace_until: free,
            patience_until: free,
            released: None,
            staleness: Staleness::default(),
            incoming: None,
            candidacy: Candidacy::default(),
        }
    }

    /// What was matched, echoed and proved in one epoch says nothing in the next. Promises stay.
    pub(super) fn enter_epoch(&mut self, epoch: Epoch, patience_until: Mono) {
        self.leader = None;
        self.entered = Some(epoch);
        self.matched = Index::ZERO;
        self.held = Index::ZERO;
        self.leader_commit = Index::ZERO;
        self.echo = None;
        self.round = 0;
        self.released = None;
        self.patience_until = patience_until;
        self.staleness = Staleness::default();
        self.incoming = None;
        self.candidacy.reset();
    }

    fn promise(&mut self, now: Mono, options: &Options, beat: Beat) {
        if self.released.is_some_and(|released| beat.primary_clock <= released) {
            return;
        }
        self.promise_until = self.promise_until.max(now + options.grace);
        self.patience_until = self.patience_until.max(self.promise_until);
        self.echo = self.echo.max(Some(beat.primary_clock));
        self.round = self.round.max(beat.round);
        self.candidacy.reset();
    }
}

/// Entries follow `previous` without a gap, and no epoch in them goes back or is newer than the sender's.
fn makes_sense(header: Header, previous: LogPosition, entries: &[Entry]) -> bool {
    let mut last = previous;
    let in_order = entries.iter().all(|entry| {
        let follows = last.index.0.checked_add(1) == Some(entry.position.index.0) && entry.position.epoch >= last.epoch;
        last = entry.position;
        follows
    });
    in_order && last.epoch <= header.epoch && (previous.index > Index::ZERO || previous == LogPosition::default())
}

impl PrimaryBackup {
    /// Whether `from` may speak as the primary of this epoch; from then on it is known as such.
    pub(super) fn follows(&mut self, from: NodeId) -> bool {
        if self.primary.is_some() {
            return false;
        }
        let configuration = &self.hard.configuration;
        if configuration.epoch == self.hard.epoch && configuration.primary != Some(from) && !planted!(self, DropFencing)
        {
            return false;
        }
        *self.backup.leader.get_or_insert(from) == from || planted!(self, DropFencing)
    }

    /// Takes the primary's entries and its beat. Whether they fit: what is here then equals the primary's log that far.
    pub(super) fn on_append(
        &mut self,
        now: Now,
        from: NodeId,
        header: Header,
        (previous, entries, commit, beat): (LogPosition, Vec<Entry>, Index, Beat),
        effects: &mut Vec<Effect>,
    ) -> bool {
        if !makes_sense(header, previous, &entries) || !self.follows(from) {
            return false;
        }
        self.note_time(now.mono, beat);
        self.backup.promise(now.mono, &self.options, beat);
        if !self.log.holds(previous) {
            self.refuse(now, from, previous, effects);
            return false;
        }
        let through = Index(previous.index.0 + entries.len() as u64);
        let known = entries.iter().take_while(|e| self.log.holds(e.position)).count();
        let fresh = &entries[known..];
        if let Some(first) = fresh.first().map(|e| e.position) {
            let conflict = first.index <= self.log.last().index;
            if conflict && self.must_keep(first.index) {
                // By what it knows it is a member: what is in force may say otherwise.
                self.read_configuration(now, effects);
                return false;
            }
            if conflict && !self.yield_to(first, effects) {
                self.refuse(now, from, previous, effects);
                return false;
            }
            self.append(fresh.to_vec(), effects);
        }
        self.backup.matched = self.backup.matched.max(through);
        self.backup.leader_commit = self.backup.leader_commit.max(commit);
        self.close_certificate(effects);
        self.advance_as_backup(now, effects);
        self.note_proof(now.mono, commit, beat);
        self.acknowledge(now, effects);
        true
    }

    /// The group's time by the newest beat: an older one that comes late would set it back.
    fn note_time(&mut self, now: Mono, beat: Beat) {
        if let Some(time) = beat.time.filter(|_| self.backup.echo <= Some(beat.primary_clock)) {
            self.time.set(time, now);
        }
    }

    /// Not ours: where to look for the last common position.
    fn refuse(&self, now: Now, from: NodeId, refused: LogPosition, effects: &mut Vec<Effect>) {
        let below = if refused.index <= self.log.last().index {
            refused.index.prev()
        } else {
            refused.index
        };
        let try_next = self.log.last_within(below, refused.epoch);
        let echo = self.backup.echo.unwrap_or_default();
        let body = Body::Mismatch {
            refused,
            try_next,
            echo,
        };
        self.envelope(now).send(from, body, effects);
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
        for entry in &entries {
            self.log.append(entry.clone());
        }
        let id = self.write(LogChange::Append(entries), effects);
        self.disk.appended(id, self.log.last().index);
    }

    /// Commit stays within what is durable here and matched in this epoch.
    pub(super) fn advance_as_backup(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let limit = self.backup.matched.min(self.disk.persisted());
        self.raise_commit(now, self.backup.leader_commit.min(limit), effects);
    }

    /// Says what is durable and matched, and with the echo gives the promise: not with a stalled disk or apply.
    pub(super) fn acknowledge(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let (Some(leader), Some(echo)) = (self.backup.leader, self.backup.echo) else {
            return;
        };
        if self.primary.is_some() || !self.is_healthy(now.mono) {
            return;
        }
        let matched = if planted!(self, AcknowledgeUnmatched) {
            self.log.last().index
        } else {
            self.backup.matched
        };
        let body = Body::Acknowledge {
            persisted: matched,
            matched,
            applied: self.applied,
            echo,
            round: self.backup.round,
            own_clock: now.mono,
            leaving: self.leaving,
        };
        self.envelope_after_appends(now).send(leader, body, effects);
    }
}
