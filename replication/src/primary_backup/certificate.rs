//! Loss certificates: a promotion in `async` (and a start by force) says that something may be missing, the replicas that held
//! more say what.
//!
//! The new primary opens the certificate. A replica whose log diverged records the entries durably before they go
//! ([`LogChange::Diverged`]); an old primary that finds nothing of its own diverged says so with an empty record. The record of an old
//! primary is complete: it held all that it acknowledged, so that the extent is known. Others' records are not.
//!
//! An epoch that was won and never led acknowledged nothing: who won it says so, once a newer one has begun ([`LogChange::VoidEpoch`]; if it
//! never knew that it had won, [`LogChange::Unled`] says which epochs it missed, and the certificate names who was deposed). Its
//! successor can say so, too, if it never echoed a beat of that epoch: without its promise there was no lease, and without a lease nothing
//! is acknowledged. Certificates are then due on the epoch before ([`fulcrum_types::Accounts`]).
//!
//! Below the commit index the state holds what the surviving history lacks: then the state goes, too, and the replica takes a new data
//! id, so that nobody counts it as the member it was (rule 5).
//!
//! Who was replaced while it was away is no peer of any primary that could show it where the histories part. It probes, as every
//! replica that hears no primary, is told the history that goes on ([`Body::History`]), and gives its account before its node lets it go.
//!
//! A member of the in-sync set never drops its state: a compare-and-swap that promotes it, perhaps of an earlier life, might yet land and find
//! its data gone. It answers nothing instead, is removed for its silence, and lets go then.

use super::body::Body;
use super::core::PrimaryBackup;
use crate::contract::{Divergence, Effect, LogChange, SnapshotMeta};
use fulcrum_types::{BootId, DataId, Epoch, GroupConfiguration, Index, LogPosition, NodeId, Now};

/// A data id that the earlier one and this moment determine: splitmix64.
fn next_data_id(data: DataId, boot: BootId, epoch: Epoch) -> DataId {
    let mut x = data.0 ^ boot.0.rotate_left(24) ^ epoch.0.rotate_left(48);
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    DataId((x ^ (x >> 31)).max(1))
}

impl PrimaryBackup {
    /// Opens the certificate of the epoch that this replica has won by the next configuration, if one is due: durable before that is, so
    /// that no crash on the way forgets who was deposed. Nothing is lost if there was no primary, if it was this replica, or if the
    /// old one handed over.
    pub(super) fn open_certificate(&mut self, next: &GroupConfiguration, effects: &mut Vec<Effect>) {
        let current = &self.hard.configuration;
        let epoch = next.epoch;
        if next.primary != Some(self.me.node) || epoch <= current.epoch {
            return;
        }
        let known = epoch == current.epoch.next();
        let led_before = self.hard.led == current.epoch;
        let kept = current
            .primary
            .is_none_or(|p| p == self.me.node && self.is_member() && led_before);
        let lossless = known && (kept || self.backup.candidacy.planned);
        if (self.is_async() && !lossless) || self.hard.forced == epoch {
            let change = LogChange::OpenCertificate {
                old_epoch: epoch.prev(),
                new_epoch: epoch,
                promotion: self.log.last(),
                deposed: current.listed_primary().filter(|_| known),
            };
            self.write(change, effects);
        }
    }

    /// This replica is about to lead: an epoch that it led and gave no account of goes on in its log, whole.
    pub(super) fn account_for_own(&mut self, effects: &mut Vec<Effect>) {
        let epoch = self.hard.epoch;
        if self.is_async() && self.hard.led > Epoch::ZERO && self.hard.led < epoch {
            self.record_nothing_lost(epoch, self.log.last(), effects);
        }
    }

    /// A configuration of a later epoch than the next: this replica led none of those between. If it had won the first of them without
    /// knowing, nobody else may know whom it deposed.
    pub(super) fn note_missed(&mut self, next: &GroupConfiguration, effects: &mut Vec<Effect>) {
        let first = self.hard.configuration.epoch.next();
        if self.is_async() && first < next.epoch {
            let change = LogChange::Unled {
                who: self.me,
                first,
                last: next.epoch.prev(),
                before: self.hard.configuration.listed_primary(),
            };
            self.write(change, effects);
        }
    }

    /// A newer epoch is about to begin: if this replica won the present one and never led it, nothing was acknowledged there.
    pub(super) fn note_unled(&mut self, effects: &mut Vec<Effect>) {
        let c = &self.hard.configuration;
        let won = c.epoch == self.hard.epoch && c.primary == Some(self.me.node) && c.has_member(self.me);
        if self.is_async() && won && self.hard.led != self.hard.epoch {
            let epoch = self.hard.epoch;
            self.write(LogChange::VoidEpoch { epoch }, effects);
        }
    }

    /// This replica takes over: if it was a member of the epoch that ends all along and has promised that epoch's primary nothing, there
    /// was no lease. What an earlier life promised is forgotten, so this one must have seen the epoch begin.
    pub(super) fn note_leaseless(&mut self, next: &GroupConfiguration, effects: &mut Vec<Effect>) {
        let ending = &self.hard.configuration;
        let ours = next.primary == Some(self.me.node) && next.epoch == ending.epoch.next();
        let others = ending.primary.is_some_and(|primary| primary != self.me.node);
        let witnessed = self.backup.entered == Some(ending.epoch) && self.backup.echo.is_none();
        if self.is_async() && ours && others && self.is_member() && witnessed && self.log.last().epoch < ending.epoch {
            let epoch = ending.epoch;
            self.write(LogChange::VoidEpoch { epoch }, effects);
        }
    }

    /// The primary's entry at `first` conflicts with ours: ours goes. Whether the log could be kept up to there.
    pub(super) fn yield_to(&mut self, first: LogPosition, effects: &mut Vec<Effect>) -> bool {
        let committed = first.index <= self.commit && !planted!(self, TruncateBelowCommit);
        if committed || self.is_async() {
            self.record_divergence(first.index, first.epoch, effects);
        }
        if committed {
            self.drop_state(effects);
            return false;
        }
        let from = first.index;
        if from <= self.log.compacted().index {
            return false;
        }
        self.write(LogChange::Truncate { from }, effects);
        self.log.truncate(from);
        self.disk.truncated(from);
        self.commit = self.commit.min(from.prev());
        self.applied = self.applied.min(self.commit);
        true
    }

    /// Whether entries from `from` on must stay for now, although they conflict with the primary's.
    pub(super) fn must_keep(&self, from: Index) -> bool {
        from <= self.commit && (self.is_member() || !self.changes.is_settled()) && !planted!(self, TruncateBelowCommit)
    }

    /// Keeps all from `from` on, before anything of it goes.
    fn record_divergence(&mut self, from: Index, new_epoch: Epoch, effects: &mut Vec<Effect>) {
        if planted!(self, ForgetDivergence) {
            return;
        }
        let old_epoch = self.log.epoch_at(from).unwrap_or_default();
        let last = self.log.last().index;
        let led = self.hard.led;
        // What the log holds no more cannot be told.
        let complete = led > Epoch::ZERO && from > self.log.compacted().index;
        // Who led that epoch in this life knows what it may have acknowledged; of anyone else's entries all must be taken for
        // acknowledged.
        let acknowledged_through = match self.acknowledged_here {
            Some((epoch, index)) if epoch == old_epoch && epoch == self.log.last().epoch => index.min(last),
            _ => last,
        };
        let divergence = Divergence {
            old_epoch: if complete { led } else { self.log.last().epoch },
            new_epoch,
            common: self.log.position_at(from.prev()).unwrap_or_default(),
            entries: self.log.entries_from(from).cloned().collect(),
            acknowledged_through,
            complete,
        };
        self.write(LogChange::Diverged(divergence), effects);
        if led > Epoch::ZERO {
            // Before anything goes: a log without it would pass for one of which nothing is lost.
            self.hard.led = Epoch::ZERO;
            self.persist_hard_state(effects);
        }
    }

    /// An old primary has matched an entry of a newer epoch and nothing of its own diverged: the extent is known, and it is nothing.
    pub(super) fn close_certificate(&mut self, effects: &mut Vec<Effect>) {
        let led = self.hard.led;
        if !self.is_async() || led == Epoch::ZERO || led >= self.hard.epoch {
            return;
        }
        let Some(end) = self.log.end_of(led).filter(|end| *end <= self.backup.matched) else {
            return;
        };
        let common = self.log.position_at(end.prev()).unwrap_or_default();
        self.record_nothing_lost(self.log.epoch_at(end).unwrap_or_default(), common, effects);
        self.hard.led = Epoch::ZERO;
        self.persist_hard_state(effects);
    }

    /// All that this replica had when it led last is in the history of a newer epoch.
    fn record_nothing_lost(&mut self, new_epoch: Epoch, common: LogPosition, effects: &mut Vec<Effect>) {
        let divergence = Divergence {
            old_epoch: self.hard.led,
            new_epoch,
            common,
            entries: Vec::new(),
            acknowledged_through: common.index,
            complete: true,
        };
        self.write(LogChange::Diverged(divergence), effects);
    }

    /// Who asks and is no peer may have led this group before it was replaced.
    pub(super) fn tell_history(&self, now: Now, to: NodeId, effects: &mut Vec<Effect>) {
        let ready = self.primary.as_ref().is_some_and(|p| p.ready);
        if !self.is_async() || !ready || self.peers().any(|peer| peer == to) {
            return;
        }
        let starts = self.log.starts().iter().copied();
        let body = Body::History {
            committed: self.log.position_at(self.commit).unwrap_or_default(),
            epoch_starts: starts.filter(|(_, first)| *first <= self.commit).collect(),
        };
        self.envelope(now).send(to, body, effects);
    }

    /// The history that goes on without this replica, which was replaced: it gives account of what it led, and keeps its data until its node
    /// lets it go. The sender has committed all that it inherited: what is not there of an epoch before its own is lost.
    pub(super) fn on_history(
        &mut self,
        from: NodeId,
        committed: LogPosition,
        epoch_starts: &[(Epoch, Index)],
        effects: &mut Vec<Effect>,
    ) {
        let led = self.hard.led;
        let c = &self.hard.configuration;
        let replaced = c.epoch == self.hard.epoch && !c.replicas.contains(&self.me.node) && !self.is_member();
        if !self.is_async() || !replaced || led == Epoch::ZERO || led >= self.hard.epoch || !self.follows(from) {
            return;
        }
        let Some((new_epoch, _)) = epoch_starts.iter().find(|(epoch, _)| *epoch > led) else {
            return;
        };
        match self.first_outside(committed, epoch_starts) {
            Some(from) => self.record_divergence(from, *new_epoch, effects),
            None => {
                self.record_nothing_lost(*new_epoch, self.log.last(), effects);
                self.hard.led = Epoch::ZERO;
                self.persist_hard_state(effects);
            }
        }
    }

    /// The first index here that is not in the history of a snapshot.
    pub(super) fn first_beyond(&self, meta: &SnapshotMeta) -> Option<Index> {
        self.first_outside(meta.position, &meta.epoch_starts)
    }

    /// The first index here that is not in a history that ends at `end`.
    fn first_outside(&self, end: LogPosition, epoch_starts: &[(Epoch, Index)]) -> Option<Index> {
        let mut common = LogPosition::default();
        let last = self.log.last().index;
        let reach = last.min(end.index);
        for (i, (epoch, first)) in epoch_starts.iter().enumerate() {
            let next = epoch_starts.get(i + 1).map_or(Index(u64::MAX), |(_, n)| *n);
            let end = self.log.last_within(next.prev().min(reach), *epoch);
            if end.epoch == *epoch && end.index >= *first {
                common = end;
            }
        }
        (common.index < last).then(|| common.index.next())
    }

    /// A snapshot is about to replace log and state: what they hold beyond the common history is kept first. A new data
    /// id is due if that is committed here.
    pub(super) fn yield_to_snapshot(&mut self, meta: &SnapshotMeta, effects: &mut Vec<Effect>) {
        let Some(from) = self.first_beyond(meta) else { return };
        let mut starts = meta.epoch_starts.iter().rev();
        let new_epoch = starts
            .find(|(_, first)| *first <= from)
            .map_or(meta.position.epoch, |s| s.0);
        // It may end before the histories part: then they do in the present epoch at the latest.
        let new_epoch = match new_epoch > self.hard.led {
            true => new_epoch,
            false => self.hard.epoch,
        };
        if self.is_async() || from <= self.commit {
            self.record_divergence(from, new_epoch, effects);
        }
        if from <= self.commit {
            self.take_new_data_id();
        }
    }

    fn take_new_data_id(&mut self) {
        self.me.data = next_data_id(self.me.data, self.boot, self.hard.epoch);
        self.hard.data = self.me.data;
    }

    fn drop_state(&mut self, effects: &mut Vec<Effect>) {
        self.take_new_data_id();
        self.log
            .reset(LogPosition::default(), fulcrum_types::ReplicatedTime::default(), &[]);
        self.commit = Index::ZERO;
        self.applied = Index::ZERO;
        self.backup.matched = Index::ZERO;
        self.backup.incoming = None;
        self.backup.staleness = super::staleness::Staleness::default();
        self.persist_hard_state(effects);
        let id = self.write(LogChange::DropState, effects);
        self.disk.replaced(id, Index::ZERO);
    }
}
