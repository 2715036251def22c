//! What has been asked of the disk, and how far it has come.
//!
//! Writes are numbered; the runner reports the last one of which all before it are durable, too. From that follows the persisted index: the
//! end of the log's prefix that is known to be on disk as it is now in memory.

use fulcrum_types::{Index, WriteId};
use std::collections::VecDeque;

#[derive(Clone, Debug)]
pub(super) struct Durability {
    last: WriteId,
    done: WriteId,
    persisted: Index,
    /// Appends (and installs) not yet durable: write, and the index at which the log then ends.
    pending: VecDeque<(WriteId, Index)>,
    /// The last write of hard state: what is said in an epoch waits for it.
    hard_state: WriteId,
}

impl Durability {
    pub(super) fn new(persisted: Index) -> Self {
        Self {
            last: WriteId::ZERO,
            done: WriteId::ZERO,
            persisted,
            pending: VecDeque::new(),
            hard_state: WriteId::ZERO,
        }
    }

    pub(super) fn next(&mut self) -> WriteId {
        self.last = self.last.next();
        self.last
    }

    pub(super) fn wrote_hard_state(&mut self, write: WriteId) {
        self.hard_state = write;
    }

    pub(super) fn appended(&mut self, write: WriteId, end: Index) {
        self.pending.push_back((write, end));
    }

    pub(super) fn truncated(&mut self, from: Index) {
        let end = from.prev();
        self.persisted = self.persisted.min(end);
        for (_, index) in &mut self.pending {
            *index = (*index).min(end);
        }
    }

    /// State and log were replaced by a snapshot that ends at `end` (0: by nothing).
    pub(super) fn replaced(&mut self, write: WriteId, end: Index) {
        self.persisted = Index::ZERO;
        self.pending.clear();
        self.pending.push_back((write, end));
    }

    pub(super) fn completed(&mut self, through: WriteId) {
        self.done = self.done.max(through.min(self.last));
        while let Some((write, end)) = self.pending.front().copied() {
            if write > self.done {
                break;
            }
            self.persisted = self.persisted.max(end);
            self.pending.pop_front();
        }
    }

    pub(super) fn persisted(&self) -> Index {
        self.persisted
    }

    /// What a message that speaks of this replica's epoch and configuration waits for.
    pub(super) fn after_hard_state(&self) -> Option<WriteId> {
        self.pending_only(self.hard_state)
    }

    /// What an acknowledgement of all that was appended so far waits for.
    pub(super) fn after_appends(&self) -> Option<WriteId> {
        let appended = self.pending.back().map_or(WriteId::ZERO, |(write, _)| *write);
        self.pending_only(self.hard_state.max(appended))
    }

    fn pending_only(&self, write: WriteId) -> Option<WriteId> {
        (write > self.done).then_some(write)
    }
}
