//! From the primary to its peers: entries, beats, and going back to the last common position.

use super::body::{Beat, Body};
use super::core::PrimaryBackup;
use super::progress::{Flow, Progress};
use crate::contract::{Effect, Header};
use fulcrum_types::{Index, LogPosition, Mono, NodeId, Now};

impl PrimaryBackup {
    /// A primary that is not fit or has given its lease up says nothing that would ask for a promise.
    fn may_beat(&self, now: Mono) -> bool {
        let released = self
            .primary
            .as_ref()
            .and_then(|p| p.hand_over.as_ref())
            .is_some_and(|h| h.given_up_at.is_some());
        self.is_healthy(now) && (!released || planted!(self, KeepLeaseAtHandOver))
    }

    /// Sends what the peers lack, as far as their flow allows.
    pub(super) fn replicate(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.may_beat(now.mono) {
            self.each_peer(now, effects, |sender, peer, effects| sender.pump(peer, effects));
        }
    }

    /// A beat to every peer; to one that is being probed, the probe again.
    pub(super) fn beat_all(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.may_beat(now.mono) {
            self.each_peer(now, effects, |sender, peer, effects| sender.beat(peer, effects));
        }
    }

    pub(super) fn beat_one(&mut self, now: Now, to: NodeId, effects: &mut Vec<Effect>) {
        if self.may_beat(now.mono) {
            self.each_peer(now, effects, |sender, peer, effects| {
                if peer.node == to {
                    sender.beat(peer, effects);
                }
            });
        }
    }

    fn each_peer(
        &mut self,
        now: Now,
        effects: &mut Vec<Effect>,
        mut act: impl FnMut(&Sender<'_>, &mut Progress, &mut Vec<Effect>),
    ) {
        let lease = self.serving_lease(now.mono).is_some();
        let held = self.held_by_all();
        let Some(mut primary) = self.primary.take() else { return };
        let sender = Sender {
            core: self,
            envelope: self.envelope(now),
            now: now.mono,
            round: primary.round,
            lease,
            held,
        };
        for peer in primary.peers.values_mut() {
            act(&sender, peer, effects);
        }
        self.primary = Some(primary);
    }

    /// Keeps the lives of a peer apart (rule 4): none if this was said in an earlier one, or by nobody known. Within an epoch
    /// a later life echoes later beats.
    fn hear(
        &mut self,
        now: Now,
        from: NodeId,
        header: Header,
        echo: Mono,
        effects: &mut Vec<Effect>,
    ) -> Option<&mut Progress> {
        let peer = self.primary.as_mut()?.peers.get_mut(&from)?;
        if peer.boot != Some(header.boot) || peer.data != Some(header.data) {
            if peer.boot.is_some() && peer.newest_echo >= echo {
                return None;
            }
            peer.abort_transfer(effects);
            peer.reborn(header.boot, header.data);
            peer.probe(peer.next);
        }
        peer.heard = now.mono;
        peer.newest_echo = peer.newest_echo.max(echo);
        peer.version = peer.version.max(header.version);
        Some(peer)
    }

    pub(super) fn on_acknowledge(
        &mut self,
        now: Now,
        from: NodeId,
        header: Header,
        body: &Body,
        effects: &mut Vec<Effect>,
    ) {
        let Body::Acknowledge {
            persisted,
            matched,
            applied,
            echo,
            round,
            own_clock,
            leaving,
        } = *body
        else {
            return;
        };
        let (last, current, newest_round) = (
            self.log.last().index,
            self.hard.configuration.version,
            self.primary.as_ref().map_or(0, |p| p.round),
        );
        if persisted > matched || matched > last || echo > now.mono || round > newest_round {
            return;
        }
        let heartbeat = self.options.heartbeat;
        let Some(peer) = self.hear(now, from, header, echo, effects) else {
            return;
        };
        // What is said by an older configuration is a sign of life, no more (rule 4).
        if header.version < current {
            if peer.told.is_none_or(|told| now.mono.since(told) >= heartbeat) {
                peer.told = Some(now.mono);
                self.tell_configuration(now, from, effects);
            }
            return;
        }
        if persisted > peer.persisted {
            peer.persisted = persisted;
            peer.moved = now.mono;
        }
        peer.applied = peer.applied.max(applied);
        peer.leaving = leaving;
        peer.echo = peer.echo.max(Some(echo));
        peer.round = peer.round.max(round);
        peer.own_clock = peer.own_clock.max(Some(own_clock));
        peer.arrived(peer.persisted);
        match &peer.flow {
            Flow::Probe { .. } if matched >= peer.next.prev() => {
                peer.next = matched.next();
                peer.flow = Flow::Stream;
            }
            Flow::Snapshot(outgoing) if outgoing.is_covered_by(persisted) => {
                effects.push(outgoing.done(from));
                peer.probe(persisted.next());
                peer.flow = Flow::Stream;
            }
            Flow::Probe { .. } | Flow::Snapshot(_) | Flow::Stream => {}
        }
        self.advance(now, effects);
    }

    pub(super) fn on_mismatch(
        &mut self,
        now: Now,
        from: NodeId,
        header: Header,
        (refused, try_next, echo): (LogPosition, LogPosition, Mono),
        effects: &mut Vec<Effect>,
    ) {
        let holds = self.log.holds(try_next);
        let common = if holds {
            try_next
        } else {
            self.log.last_within(try_next.index, try_next.epoch)
        };
        if echo > now.mono {
            return;
        }
        let Some(peer) = self.hear(now, from, header, echo, effects) else {
            return;
        };
        let current = match peer.flow {
            Flow::Probe { .. } => refused.index == peer.next.prev(),
            Flow::Stream => refused.index < peer.next && refused.index > peer.persisted,
            Flow::Snapshot(_) => false,
        };
        if !current || common.index >= refused.index {
            return;
        }
        peer.probe(common.index.next());
        self.replicate(now, effects);
        self.tend_snapshots(now, effects);
    }
}

/// What sending needs of the core, while its peers are at hand.
struct Sender<'a> {
    core: &'a PrimaryBackup,
    envelope: super::core::Envelope,
    now: Mono,
    round: u64,
    lease: bool,
    held: Index,
}

impl Sender<'_> {
    fn pump(&self, peer: &mut Progress, effects: &mut Vec<Effect>) {
        match peer.flow {
            Flow::Snapshot(_) => {}
            Flow::Probe { asked: Some(_) } => {}
            Flow::Probe { asked: None } => self.probe(peer, effects),
            Flow::Stream => self.stream(peer, effects),
        }
    }

    fn beat(&self, peer: &mut Progress, effects: &mut Vec<Effect>) {
        match peer.flow {
            Flow::Probe { .. } => self.probe(peer, effects),
            Flow::Stream => self.append(peer, peer.next.prev(), Vec::new(), effects),
            Flow::Snapshot(_) => self.append(peer, Index::ZERO, Vec::new(), effects),
        }
    }

    fn stream(&self, peer: &mut Progress, effects: &mut Vec<Effect>) {
        let (options, log) = (&self.core.options, &self.core.log);
        while peer.next <= log.last().index && peer.in_flight_bytes() < options.in_flight_bytes {
            if peer.next <= log.compacted().index {
                peer.probe(peer.next);
                return;
            }
            let previous = peer.next.prev();
            let (entries, bytes) = log.batch(previous, options.append_bytes);
            let Some(last) = entries.last().map(|e| e.position.index) else {
                return;
            };
            self.append(peer, previous, entries, effects);
            peer.sent(last, bytes);
        }
    }

    /// One message, and no other before it is answered or a heartbeat has passed.
    fn probe(&self, peer: &mut Progress, effects: &mut Vec<Effect>) {
        let log = &self.core.log;
        if peer.next > log.last().index.next() {
            peer.next = log.last().index.next();
        }
        peer.flow = Flow::Probe { asked: Some(self.now) };
        if peer.next <= log.compacted().index {
            // Only a snapshot helps; the beat still asks for the promise.
            self.append(peer, Index::ZERO, Vec::new(), effects);
            return;
        }
        let (entries, _) = log.batch(peer.next.prev(), self.core.options.append_bytes);
        self.append(peer, peer.next.prev(), entries, effects);
    }

    fn append(
        &self,
        peer: &mut Progress,
        previous: Index,
        entries: Vec<fulcrum_types::Entry>,
        effects: &mut Vec<Effect>,
    ) {
        let beat = Beat {
            primary_clock: self.now,
            round: self.round,
            echoed_backup_clock: peer.own_clock.filter(|_| self.lease),
            echoed_boot: peer.boot.unwrap_or_default(),
            time: self.core.time_to_tell(self.now),
        };
        let body = Body::Append {
            previous: self.core.log.position_at(previous).unwrap_or_default(),
            entries,
            commit: self.core.commit,
            held: self.held,
            beat,
        };
        self.envelope.send(peer.node, body, effects);
    }
}
