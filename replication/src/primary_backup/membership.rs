//! The in-sync set: who is removed, who is added, and the compare-and-swap that does it.
//!
//! Within an epoch only the primary changes it. A member that is silent, lags for too long, has other data than listed or is no replica any
//! more is removed, or one whose node is about to stop: commit passes it only once the compare-and-swap has won. A learner is added by one that is proposed
//! once it has persisted, in this epoch, all committed; from that moment on commit counts it. Under load a learner that is
//! slower than the members would be behind at every moment: in `sync` commit waits a little for one that is near.

use super::core::PrimaryBackup;
use super::progress::{Flow, Progress};
use crate::contract::Effect;
use fulcrum_types::{GroupConfiguration, Index, Member, Mono, Now};
use std::time::Duration;

/// So often a learner's share of the log is doubled.
const MAX_DOUBLINGS: u32 = 4;

impl PrimaryBackup {
    /// Notes who lags, and proposes the set as it should be.
    pub(super) fn tend_membership(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.note_lag(now.mono);
        let Some(primary) = &self.primary else { return };
        if !self.changes.may_try(now.mono) || primary.hand_over.is_some() || !self.is_healthy(now.mono) {
            return;
        }
        if self.is_as_wanted(now.mono) && !self.changes.has_unsettled() {
            return;
        }
        let mut wanted = self.wanted_in_sync(now.mono, self.options.silent_after);
        if wanted.len() < self.options.min_in_sync {
            // Too few to write: those on the other side of a partition get the time to take over first, and who leaves is still needed.
            wanted = self.wanted_in_sync(now.mono, self.options.silent_after + self.options.grace);
        }
        let c = &self.hard.configuration;
        if wanted == c.in_sync && !self.changes.has_unsettled() {
            return;
        }
        let proposal = GroupConfiguration {
            in_sync: wanted,
            ..c.clone()
        };
        self.compare_and_swap(now, proposal, effects);
    }

    fn note_lag(&mut self, now: Mono) {
        let (last, commit, allowed) = (self.log.last().index, self.commit, self.options.lag_entries);
        let c = &self.hard.configuration;
        let may_admit = self.changes.may_try(now);
        let Some(primary) = &mut self.primary else { return };
        let may_admit = may_admit && primary.hand_over.is_none();
        for peer in primary.peers.values_mut() {
            if peer.persisted >= last {
                peer.moved = now;
            }
            let lag = last.0.saturating_sub(peer.persisted.0);
            peer.lagging = if lag > allowed {
                peer.lagging.or(Some(now))
            } else {
                None
            };
            peer.behind = if peer.persisted < commit {
                peer.behind.or(Some(now))
            } else {
                None
            };
            let rested = peer
                .awaited
                .is_none_or(|since| now.since(since) > self.options.lag_after);
            let outside = !c.in_sync.iter().any(|m| m.node == peer.node) && c.replicas.contains(&peer.node);
            if !outside {
                peer.transfers = 0;
            }
            if may_admit && rested && outside && !peer.leaving && peer.is_near(now, last, c.version, &self.options) {
                peer.awaited = Some(now);
            }
        }
    }

    fn wanted_in_sync(&self, now: Mono, patience: Duration) -> Vec<Member> {
        let peers = self.primary.iter().flat_map(|p| p.peers.values());
        let wanted = peers.filter_map(|peer| self.membership_of(now, peer, patience));
        let mut wanted: Vec<_> = wanted.chain([self.me]).collect();
        wanted.sort_unstable();
        wanted
    }

    /// As which member the peer should be listed, if at all.
    fn membership_of(&self, now: Mono, peer: &Progress, patience: Duration) -> Option<Member> {
        let c = &self.hard.configuration;
        if !c.replicas.contains(&peer.node) {
            return None;
        }
        match self.listed(peer) {
            Some(member) => Some(member).filter(|m| self.stays(now, peer, *m, patience)),
            None => {
                let data = peer.data.filter(|_| self.joins(now, peer))?;
                Some(Member { node: peer.node, data })
            }
        }
    }

    fn listed(&self, peer: &Progress) -> Option<Member> {
        let in_sync = &self.hard.configuration.in_sync;
        in_sync.iter().find(|m| m.node == peer.node).copied()
    }

    /// Nobody is to come or go: the usual case, found without allocating.
    fn is_as_wanted(&self, now: Mono) -> bool {
        let mut peers = self.primary.iter().flat_map(|p| p.peers.values());
        peers.all(|peer| self.membership_of(now, peer, self.options.silent_after) == self.listed(peer))
    }

    /// `sync`: it must move, or commit waits for ever. `async`: it may not lag by too much for too long.
    fn stays(&self, now: Mono, peer: &Progress, member: Member, patience: Duration) -> bool {
        let options = &self.options;
        let same_data = peer.data.is_none_or(|data| data == member.data) || planted!(self, IgnoreDataId);
        let silent = now.since(peer.heard) > patience;
        let stuck = now.since(peer.moved) > options.lag_after;
        let lags = self.is_async() && peer.lagging.is_some_and(|since| now.since(since) > options.lag_after);
        let leaves = peer.leaving && patience <= options.silent_after;
        same_data && !silent && !stuck && !lags && !leaves
    }

    fn joins(&self, now: Mono, peer: &Progress) -> bool {
        let Some(primary) = &self.primary else { return false };
        // Under load an `async` learner never holds all that is committed at any one moment: near enough is the promise of that mode.
        let holds = if self.is_async() {
            primary.noop
        } else {
            self.commit.max(primary.noop)
        };
        // What it lacks must still be in our log: if it is promoted without, a certificate has to name it.
        let kept = peer.persisted >= self.log.compacted().index;
        let (last, current) = (self.log.last().index, self.hard.configuration.version);
        let near = peer.is_near(now, last, current, &self.options);
        let early = planted!(self, AdmitEarly) && peer.echo.is_some() && peer.version == current;
        (near && kept && peer.persisted >= holds && !peer.leaving) || early
    }

    pub(super) fn compare_and_swap(&mut self, now: Now, proposal: GroupConfiguration, effects: &mut Vec<Effect>) {
        let expected = self.hard.configuration.version;
        let (attempt, proposal) = self.changes.begin(now.mono, self.options.retry_after, proposal);
        effects.push(Effect::CompareAndSwap {
            attempt,
            expected,
            proposal,
        });
    }

    /// A new configuration of the present epoch: peers come and go, all are told, commit is counted anew.
    pub(super) fn configuration_changed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let nodes: Vec<_> = self.peers().collect();
        let next = self.log.last().index.next();
        let Some(primary) = &mut self.primary else { return };
        primary.peers.retain(|node, peer| {
            let stays = nodes.contains(node);
            if let (false, Flow::Snapshot(outgoing)) = (stays, &peer.flow) {
                effects.push(outgoing.done(*node));
            }
            stays
        });
        for node in &nodes {
            let peer = primary
                .peers
                .entry(*node)
                .or_insert_with(|| Progress::new(*node, next, now.mono));
            peer.told = Some(now.mono);
        }
        for node in nodes {
            self.tell_configuration(now, node, effects);
        }
        self.advance(now, effects);
    }

    /// The highest index that every member of the in-sync set holds.
    pub(super) fn held_by_all(&self) -> Index {
        let Some(primary) = &self.primary else {
            return Index::ZERO;
        };
        let mut held = self.disk.persisted();
        self.each_counted(|member| {
            let peer = primary.peers.get(&member.node).filter(|p| p.is(member));
            held = held.min(peer.map_or(Index::ZERO, |p| p.persisted));
        });
        held
    }

    /// The highest index up to which a primary may compact: peers in sync need the rest, and who catches up by a snapshot, within
    /// reason. A transfer that was outrun all the same makes the next one's share twice as large: under any load that a
    /// learner can keep up with at all, one of them is large enough.
    pub(super) fn needed_by_peers(&self, now: Mono) -> Index {
        let needed = self.held_by_all();
        let Some(primary) = &self.primary else { return needed };
        let compacted = self.log.compacted().index;
        let alive = primary
            .peers
            .values()
            .filter(|p| now.since(p.heard) <= self.options.silent_after);
        let within_reason = alive.filter(|p| self.log.bytes() <= self.share_of(p));
        let kept = within_reason.filter_map(|p| p.kept_from(compacted));
        kept.fold(needed, Index::min)
    }

    /// Bytes that the log may grow to for a learner's sake.
    fn share_of(&self, peer: &Progress) -> usize {
        let first = (self.options.retain_bytes.saturating_mul(8)).max(self.options.in_flight_bytes);
        let doublings = peer.transfers.saturating_sub(1).min(MAX_DOUBLINGS);
        first.saturating_mul(1 << doublings)
    }
}
