//! What a primary knows of one peer, in its own epoch.

use super::snapshot::Outgoing;
use crate::contract::Options;
use fulcrum_types::{BootId, ConfigVersion, DataId, Index, Member, Mono, NodeId};
use std::collections::VecDeque;

/// How entries go to a peer.
#[derive(Clone, Debug)]
pub(super) enum Flow {
    /// Looking for the last common position: one message at a time.
    Probe {
        /// When the last one went out, if none has been answered since.
        asked: Option<Mono>,
    },
    /// Optimistically, up to the bytes allowed in flight.
    Stream,
    /// The log no longer reaches back far enough.
    Snapshot(Outgoing),
}

#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) node: NodeId,
    /// The life that the peer's acknowledgements come from; none before the first (rule 4).
    pub(super) boot: Option<BootId>,
    pub(super) data: Option<DataId>,
    /// Newest configuration that the peer has accepted.
    pub(super) version: ConfigVersion,
    /// Durable on the peer and matched in this epoch.
    pub(super) persisted: Index,
    pub(super) applied: Index,
    /// The next entry to send.
    pub(super) next: Index,
    pub(super) flow: Flow,
    in_flight: VecDeque<(Index, usize)>,
    in_flight_bytes: usize,
    /// Newest reading of our clock that the peer has echoed.
    pub(super) echo: Option<Mono>,
    /// Newest reading echoed by anything that this life of the peer has said.
    pub(super) newest_echo: Mono,
    /// Newest confirming round that the peer has answered.
    pub(super) round: u64,
    /// Newest reading of the peer's clock.
    pub(super) own_clock: Option<Mono>,
    /// Last sign of life that counts.
    pub(super) heard: Mono,
    /// Last time that `persisted` moved, or nothing was missing.
    pub(super) moved: Mono,
    /// Since when it has been further behind than allowed.
    pub(super) lagging: Option<Mono>,
    /// Since when it has been behind the commit index.
    pub(super) behind: Option<Mono>,
    /// Snapshots begun for it since it was last in the in-sync set.
    pub(super) transfers: u32,
    /// When commit last began to wait for this learner.
    pub(super) awaited: Option<Mono>,
    /// This life of it is about to stop.
    pub(super) leaving: bool,
    /// Last configuration sent to a peer that shows an older one.
    pub(super) told: Option<Mono>,
}

impl Progress {
    pub(super) fn new(node: NodeId, next: Index, now: Mono) -> Self {
        Self {
            node,
            boot: None,
            data: None,
            version: ConfigVersion::ZERO,
            persisted: Index::ZERO,
            applied: Index::ZERO,
            next,
            flow: Flow::Probe { asked: None },
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            echo: None,
            newest_echo: Mono::default(),
            round: 0,
            own_clock: None,
            heard: now,
            moved: now,
            lagging: None,
            behind: None,
            transfers: 0,
            awaited: None,
            leaving: false,
            told: None,
        }
    }

    /// Whether what this peer acknowledged counts for the member listed.
    pub(super) fn is(&self, member: Member) -> bool {
        self.node == member.node && self.data == Some(member.data)
    }

    /// Alive, of the present configuration, and close behind: all but caught up.
    pub(super) fn is_near(&self, now: Mono, last: Index, current: ConfigVersion, options: &Options) -> bool {
        let alive = now.since(self.heard) <= options.heartbeat * 4 && self.echo.is_some();
        let close = last.0.saturating_sub(self.persisted.0) <= options.lag_entries / 4;
        alive && self.version == current && close && matches!(self.flow, Flow::Stream)
    }

    /// Commit waits for it to catch up: not for long, and not soon again.
    pub(super) fn is_awaited(&self, now: Mono, options: &Options) -> bool {
        self.awaited
            .is_some_and(|since| now.since(since) < options.heartbeat * 2)
    }

    /// A new life: what it echoed and what is in flight to it are gone; what it had durable is not.
    pub(super) fn reborn(&mut self, boot: BootId, data: DataId) {
        if self.data.is_some_and(|d| d != data) {
            self.persisted = Index::ZERO;
            self.applied = Index::ZERO;
        }
        self.boot = Some(boot);
        self.data = Some(data);
        self.echo = None;
        self.round = 0;
        self.own_clock = None;
        self.leaving = false;
    }

    /// What compaction should keep for it: all behind the snapshot that it is being sent, then all that it still lacks.
    pub(super) fn kept_from(&self, compacted: Index) -> Option<Index> {
        match &self.flow {
            Flow::Snapshot(outgoing) => Some(outgoing.holds_from),
            Flow::Probe { .. } | Flow::Stream => {
                Some(self.persisted).filter(|from| self.transfers > 0 && *from >= compacted)
            }
        }
    }

    /// Silence and standstill up to now do not count.
    pub(super) fn excuse(&mut self, now: Mono) {
        self.heard = now;
        self.moved = now;
    }

    pub(super) fn sent(&mut self, last: Index, bytes: usize) {
        self.next = last.next();
        self.in_flight.push_back((last, bytes));
        self.in_flight_bytes += bytes;
    }

    pub(super) fn arrived(&mut self, through: Index) {
        while let Some((last, bytes)) = self.in_flight.front().copied() {
            if last > through {
                break;
            }
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_front();
        }
    }

    pub(super) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Back to looking for the last common position, before `next`.
    pub(super) fn probe(&mut self, next: Index) {
        self.next = next.max(self.persisted.next());
        self.flow = Flow::Probe { asked: None };
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }
}
