//! Snapshots, for who lags behind what the log still holds: whole or not at all.
//!
//! The primary's runner cuts the snapshot at its applied index and hands over part after part; at most [`WINDOW`] parts are under way
//! and are sent again when the peer goes silent. The peer stages them and installs the whole with the last one. A transfer
//! belongs to one epoch and to one life of the peer; it is given up when either ends. Meanwhile, and until the peer is
//! in the in-sync set, compaction keeps what follows the snapshot, so that the log can take over; how much at most, see `needed_by_peers`.

use super::body::Body;
use super::core::PrimaryBackup;
use super::progress::{Flow, Progress};
use crate::contract::{Effect, Header, LogChange, SnapshotChunk, SnapshotMeta, TransferId};
use fulcrum_types::{Index, Mono, NodeId, Now};
use std::collections::VecDeque;

/// Parts passed on and not yet held by the peer.
const WINDOW: u64 = 2;

/// A transfer as its sender sees it.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    transfer: TransferId,
    /// Compaction keeps what is behind this.
    pub(super) holds_from: Index,
    /// Asked of the runner: all parts below this.
    asked: u64,
    /// Number of parts, once the last was cut, and where the snapshot ends.
    end: Option<(u64, Index)>,
    /// Parts sent and not yet held by the peer.
    unheld: VecDeque<SnapshotChunk>,
    last_word: Mono,
}

impl Outgoing {
    pub(super) fn done(&self, to: NodeId) -> Effect {
        Effect::SnapshotDone {
            to,
            transfer: self.transfer,
        }
    }

    /// The peer holds, matched in this epoch, all that the snapshot would give it.
    pub(super) fn is_covered_by(&self, persisted: Index) -> bool {
        self.end.is_some_and(|(_, index)| persisted >= index)
    }
}

/// A transfer as its receiver sees it.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    transfer: TransferId,
    next: u64,
}

impl PrimaryBackup {
    /// Begins a transfer to each peer that the log cannot help any more; sends again; gives up on who is gone.
    pub(super) fn tend_snapshots(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let envelope = self.envelope(now);
        let compacted = self.log.compacted().index;
        let (patience, applied) = (self.options.silent_after, self.applied);
        let Some(primary) = &mut self.primary else { return };
        for (node, peer) in &mut primary.peers {
            let silent = now.mono.since(peer.heard) > patience;
            match &mut peer.flow {
                Flow::Snapshot(outgoing) if silent => {
                    effects.push(outgoing.done(*node));
                    let next = peer.next;
                    peer.probe(next);
                }
                Flow::Snapshot(outgoing) => {
                    if now.mono.since(outgoing.last_word) > patience / 4 {
                        outgoing.last_word = now.mono;
                        for chunk in &outgoing.unheld {
                            let (transfer, chunk) = (outgoing.transfer, chunk.clone());
                            envelope.send(*node, Body::Snapshot { transfer, chunk }, effects);
                        }
                    }
                }
                Flow::Probe { .. }
                    if peer.next <= compacted && peer.data.is_some() && !silent && applied >= compacted =>
                {
                    primary.last_transfer += 1;
                    peer.transfers = peer.transfers.saturating_add(1);
                    let transfer = TransferId(primary.last_transfer);
                    effects.push(Effect::SnapshotWanted { to: *node, transfer });
                    peer.flow = Flow::Snapshot(Outgoing {
                        transfer,
                        holds_from: applied,
                        asked: 1,
                        end: None,
                        unheld: VecDeque::new(),
                        last_word: now.mono,
                    });
                }
                Flow::Probe { .. } | Flow::Stream => {}
            }
        }
    }

    /// The runner cut a part: on it goes.
    pub(super) fn on_snapshot_part(
        &mut self,
        now: Now,
        to: NodeId,
        transfer: TransferId,
        mut chunk: SnapshotChunk,
        effects: &mut Vec<Effect>,
    ) {
        let envelope = self.envelope(now);
        let log = &self.log;
        let peer = self.primary.as_mut().and_then(|p| p.peers.get_mut(&to));
        let Some(Flow::Snapshot(outgoing)) = peer.map(|p| &mut p.flow) else {
            effects.push(Effect::SnapshotDone { to, transfer });
            return;
        };
        if outgoing.transfer != transfer || chunk.number >= outgoing.asked {
            return;
        }
        if let Some(meta) = &mut chunk.last {
            let end = meta.position.index;
            meta.epoch_starts = log
                .starts()
                .iter()
                .copied()
                .filter(|(_, first)| *first <= end)
                .collect();
            outgoing.end = Some((chunk.number + 1, end));
        }
        outgoing.unheld.push_back(chunk.clone());
        outgoing.last_word = now.mono;
        envelope.send(to, Body::Snapshot { transfer, chunk }, effects);
        outgoing.ask(to, effects);
    }

    pub(super) fn on_snapshot_progress(
        &mut self,
        now: Now,
        from: NodeId,
        header: Header,
        transfer: TransferId,
        next: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.primary.as_mut().and_then(|p| p.peers.get_mut(&from)) else {
            return;
        };
        let same_life = peer.boot == Some(header.boot);
        let Flow::Snapshot(outgoing) = &mut peer.flow else {
            return;
        };
        if outgoing.transfer != transfer || next > outgoing.asked || !same_life {
            return;
        }
        peer.heard = now.mono;
        outgoing.last_word = now.mono;
        outgoing.unheld.retain(|chunk| chunk.number >= next);
        outgoing.ask(from, effects);
    }

    pub(super) fn on_snapshot(
        &mut self,
        now: Now,
        from: NodeId,
        transfer: TransferId,
        chunk: SnapshotChunk,
        effects: &mut Vec<Effect>,
    ) {
        if !self.follows(from) {
            return;
        }
        // Transfers of an epoch are numbered in order: a part of one that was given up may come late.
        if chunk.number == 0 && self.backup.incoming.as_ref().is_none_or(|i| i.transfer < transfer) {
            self.backup.incoming = Some(Incoming { transfer, next: 0 });
        }
        let Some(incoming) = self.backup.incoming.as_ref().filter(|i| i.transfer == transfer) else {
            return;
        };
        if chunk.number == incoming.next {
            let replaced = chunk.last.as_ref().filter(|meta| !self.log.holds(meta.position));
            let diverged = replaced.and_then(|meta| self.first_beyond(meta));
            if diverged.is_some_and(|from| self.must_keep(from)) {
                self.read_configuration(now, effects);
                return;
            }
            let Some(incoming) = &mut self.backup.incoming else {
                return;
            };
            incoming.next += 1;
            let meta = chunk.last.clone();
            effects.push(Effect::SnapshotStage { transfer, chunk });
            if let Some(meta) = meta {
                self.install(now, transfer, meta, effects);
            }
        }
        let next = self.backup.incoming.as_ref().map_or(0, |i| i.next);
        let body = Body::SnapshotProgress { transfer, next };
        self.envelope_after_appends(now).send(from, body, effects);
    }

    /// The whole is there: it replaces state and log, unless what is here is at least as good.
    fn install(&mut self, now: Now, transfer: TransferId, meta: SnapshotMeta, effects: &mut Vec<Effect>) {
        let position = meta.position;
        if position.index == Index::ZERO || position.epoch > self.hard.epoch {
            return;
        }
        if self.log.holds(position) {
            // What is here reaches as far, and perhaps further: more may have been acknowledged by now.
            self.backup.matched = self.backup.matched.max(position.index);
            self.backup.leader_commit = self.backup.leader_commit.max(position.index);
            self.advance_as_backup(now, effects);
            self.acknowledge(now, effects);
            return;
        }
        self.yield_to_snapshot(&meta, effects);
        self.log.reset(position, meta.time, &meta.epoch_starts);
        self.commit = position.index;
        self.applied = position.index;
        self.persist_hard_state(effects);
        let id = self.write(LogChange::InstallSnapshot { transfer, meta }, effects);
        self.disk.replaced(id, position.index);
        self.backup.matched = position.index;
        self.acknowledge(now, effects);
    }
}

impl Outgoing {
    fn ask(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        let room = self.unheld.len() as u64 + self.wanted_under_way() < WINDOW;
        if self.end.is_none() && room {
            effects.push(Effect::SnapshotNext {
                to,
                transfer: self.transfer,
                number: self.asked,
            });
            self.asked += 1;
        }
    }

    /// Parts asked of the runner that have not come yet.
    fn wanted_under_way(&self) -> u64 {
        let come = self.unheld.back().map_or(0, |chunk| chunk.number + 1);
        if self.unheld.is_empty() { 0 } else { self.asked - come }
    }
}

impl Progress {
    /// The transfer to this peer ends with its life.
    pub(super) fn abort_transfer(&mut self, effects: &mut Vec<Effect>) {
        if let Flow::Snapshot(outgoing) = &self.flow {
            effects.push(outgoing.done(self.node));
        }
    }
}
