//! Entries that came from a primary with a trace: one span each, from their arrival until the primary is told that they are on disk here.

use super::{FOLLOWED, PATIENCE, Piece, Traced};
use fulcrum_common::clock::Anchor;
use fulcrum_common::trace::{self, Kind};
use fulcrum_types::{Epoch, GroupId, Index, Mono, TraceContext};
use std::collections::BTreeMap;

struct Held {
    sent_by: TraceContext,
    epoch: Epoch,
    received: Mono,
}

#[derive(Default)]
pub(super) struct Entries {
    held: BTreeMap<(GroupId, Index), Held>,
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn received(&mut self, group: GroupId, epoch: Epoch, traced: &[Traced], now: Mono) {
        for (index, sent_by) in traced {
            let known = self.held.get(&(group, *index));
            // Another epoch's entry in the same place is another one.
            if known.is_some_and(|held| held.epoch >= epoch) || self.held.len() >= FOLLOWED {
                continue;
            }
            let held = Held {
                sent_by: *sent_by,
                epoch,
                received: now,
            };
            self.held.insert((group, *index), held);
        }
    }

    pub(super) fn persisted(&mut self, group: GroupId, through: Index, now: Mono) {
        if self.held.is_empty() {
            return;
        }
        let mut later = self.held.split_off(&(group, Index(through.0.saturating_add(1))));
        let done = self.held.split_off(&(group, Index::ZERO));
        self.held.append(&mut later);
        let anchor = Anchor::now();
        for ((group, index), held) in done {
            let mut piece = Piece::part_of(held.sent_by, "append", held.received, now);
            piece.kind = Kind::Server;
            piece.attributes = vec![
                ("fulcrum.group", group.0.into()),
                ("fulcrum.epoch", held.epoch.0.into()),
                ("fulcrum.index", index.0.into()),
                ("fulcrum.role", "backup".into()),
            ];
            trace::record(piece.into_record(&anchor));
        }
    }

    /// What was never acknowledged is told by nobody: the primary gave it up, or another one's entry took its place.
    pub(super) fn expire(&mut self, now: Mono) {
        self.held.retain(|_, held| now.since(held.received) < PATIENCE);
    }
}
