//! Loss certificates: a promotion in `async` (and a start by force) says that something may be missing, the replicas that held
//! more say what.
//!
//! The new primary opens the certificate. A replica whose log diverged records the entries durably before they go
//! ([`LogChange::Diverged`]); an old primary that finds nothing of its own diverged says so with an empty record. Below
//! the commit index the state holds what the surviving history lacks: then the state goes, too, and the replica takes a new data
//! id, so that nobody counts it as the member it was (rule 5).
//!
//! A member of the in-sync set never does that: a compare-and-swap that promotes it, perhaps of an earlier life, might yet land and find
//! its data gone. It answers nothing instead, is removed for its silence, and lets go then.

use super::core::PrimaryBackup;
use crate::contract::{Divergence, Effect, LogChange, SnapshotMeta};
use fulcrum_types::{BootId, DataId, Epoch, Index, LogPosition};

/// A data id that the earlier one and this moment determine: splitmix64.
fn next_data_id(data: DataId, boot: BootId, epoch: Epoch) -> DataId {
    let mut x = data.0 ^ boot.0.rotate_left(24) ^ epoch.0.rotate_left(48);
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    DataId((x ^ (x >> 31)).max(1))
}

impl PrimaryBackup {
    /// Opens the certificate of the epoch that this replica is about to lead, if one is due.
    pub(super) fn open_certificate(&mut self, effects: &mut Vec<Effect>) {
        let epoch = self.hard.epoch;
        let may_lose = self.is_async() && self.backup.candidacy.lossless != Some(epoch);
        if may_lose || self.hard.forced == epoch {
            let change = LogChange::OpenCertificate {
                old_epoch: epoch.prev(),
                new_epoch: epoch,
                promotion: self.log.last(),
            };
            self.write(change, effects);
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
        // Who led that epoch in this life knows what it may have acknowledged; of anyone else's entries all must be taken for
        // acknowledged.
        let acknowledged_through = match self.acknowledged_here {
            Some((epoch, index)) if epoch == old_epoch && epoch == self.log.last().epoch => index.min(last),
            _ => last,
        };
        let divergence = Divergence {
            old_epoch,
            new_epoch,
            common: self.log.position_at(from.prev()).unwrap_or_default(),
            entries: self.log.entries_from(from).cloned().collect(),
            acknowledged_through,
        };
        self.write(LogChange::Diverged(divergence), effects);
        self.hard.led = Epoch::ZERO;
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
        let divergence = Divergence {
            old_epoch: led,
            new_epoch: self.log.epoch_at(end).unwrap_or_default(),
            common,
            entries: Vec::new(),
            acknowledged_through: common.index,
        };
        self.write(LogChange::Diverged(divergence), effects);
        self.hard.led = Epoch::ZERO;
        self.persist_hard_state(effects);
    }

    /// The first index here that is not in the history of a snapshot.
    pub(super) fn first_beyond(&self, meta: &SnapshotMeta) -> Option<Index> {
        let mut common = LogPosition::default();
        let last = self.log.last().index;
        let reach = last.min(meta.position.index);
        for (i, (epoch, first)) in meta.epoch_starts.iter().enumerate() {
            let next = meta.epoch_starts.get(i + 1).map_or(Index(u64::MAX), |(_, n)| *n);
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
