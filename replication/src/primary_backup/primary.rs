//! The primary: orders, commits, acknowledges.

use super::core::PrimaryBackup;
use super::hand_over::HandOver;
use super::progress::{Flow, Progress};
use super::reads::WaitingRead;
use crate::contract::{Effect, PeerStatus, Proposal, ProposalRefusal, ReadRefusal};
use fulcrum_types::{Entry, Index, LogPosition, Mono, NodeId, Now, Payload, ReplicatedTime};
use std::collections::{BTreeMap, VecDeque};

/// What may be ordered now.
struct Admission {
    room: usize,
    /// What is said without room.
    full: ProposalRefusal,
    /// What is said to all but those that end doubt.
    short: Option<ProposalRefusal>,
}

impl Admission {
    fn take_one(&mut self, ends_doubt: bool) -> Result<(), ProposalRefusal> {
        if self.room == 0 {
            return Err(self.full.clone());
        }
        if let Some(short) = self.short.as_ref().filter(|_| !ends_doubt) {
            return Err(short.clone());
        }
        self.room -= 1;
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub(super) struct Primary {
    pub(super) peers: BTreeMap<NodeId, Progress>,
    /// The no-op of this epoch: once it is committed, so is all that was inherited (rule 3).
    pub(super) noop: Index,
    pub(super) since: Mono,
    pub(super) ready: bool,
    /// Up to here proposals were answered (or given up as unknown).
    pub(super) acknowledged: Index,
    /// Proposals above that which end doubt: they wait for their commit only (rule 6).
    pub(super) ends_doubt: VecDeque<Index>,
    /// The last of them that was answered ahead of others.
    pub(super) answered_alone: Index,
    /// Since when committed entries wait for `min_in_sync`, or in `async` for the lease.
    pub(super) withheld: Option<Mono>,
    pub(super) next_beat: Mono,
    /// The newest confirming round begun, and whether it is still under way.
    pub(super) round: u64,
    pub(super) round_open: bool,
    pub(super) reads: VecDeque<WaitingRead>,
    pub(super) hand_over: Option<HandOver>,
    pub(super) last_transfer: u64,
}

impl Primary {
    /// Takes out the committed proposals that end doubt.
    fn take_ends_of_doubt(&mut self, commit: Index) -> Vec<Index> {
        let committed = self.ends_doubt.partition_point(|index| *index <= commit);
        self.ends_doubt.drain(..committed).collect()
    }
}

impl PrimaryBackup {
    /// Takes over in the epoch that the configuration gives and that is marked as led by this life.
    pub(super) fn lead(&mut self, now: Now, effects: &mut Vec<Effect>) {
        assert!(
            self.is_member() || cfg!(feature = "planted-bugs"),
            "only a member of the in-sync set leads"
        );
        self.backup.staleness = super::staleness::Staleness::default();
        self.backup.incoming = None;
        let noop = self.log.last().index.next();
        let peers = self
            .peers()
            .map(|node| (node, Progress::new(node, noop, now.mono)))
            .collect();
        self.primary = Some(Primary {
            peers,
            noop,
            since: now.mono,
            ready: false,
            acknowledged: noop,
            ends_doubt: VecDeque::new(),
            answered_alone: Index::ZERO,
            withheld: None,
            next_beat: now.mono + self.options.heartbeat,
            round: 0,
            round_open: false,
            reads: VecDeque::new(),
            hand_over: None,
            last_transfer: 0,
        });
        self.tend_time(now);
        let entry = self.next_entry(now, Payload::Noop);
        self.append(vec![entry], effects);
        self.beat_all(now, effects);
        self.advance(now, effects);
    }

    fn next_entry(&self, now: Now, payload: Payload) -> Entry {
        Entry {
            position: LogPosition {
                epoch: self.hard.epoch,
                index: self.log.last().index.next(),
            },
            time: self.time_of_entry(now),
            payload,
        }
    }

    /// Fenced, or the configuration names another: what is not acknowledged has an unknown outcome.
    pub(super) fn step_down(&mut self, reason: &'static str, effects: &mut Vec<Effect>) {
        let Some(primary) = self.primary.take() else { return };
        let answered = primary.acknowledged.max(primary.answered_alone);
        self.acknowledged_here = Some((self.hard.epoch, answered));
        let last = self.log.last().index;
        if last > primary.acknowledged {
            effects.push(Effect::Abandon { through: last, reason });
        }
        for read in &primary.reads {
            effects.push(read.refused(ReadRefusal::NotPrimary));
        }
        for (to, peer) in &primary.peers {
            if let Flow::Snapshot(outgoing) = &peer.flow {
                effects.push(outgoing.done(*to));
            }
        }
    }

    pub(super) fn on_propose(&mut self, now: Now, commands: Vec<Proposal>, effects: &mut Vec<Effect>) {
        let mut admitted = self.admission(now);
        let mut entries = Vec::with_capacity(commands.len());
        for Proposal {
            id,
            command,
            ends_doubt,
        } in commands
        {
            if let Err(reason) = admitted.take_one(ends_doubt) {
                effects.push(Effect::ProposalRefused { id, reason });
                continue;
            }
            let entry = self.next_entry(now, Payload::Command(command));
            effects.push(Effect::Proposed {
                id,
                position: entry.position,
            });
            if let Some(primary) = self.primary.as_mut().filter(|_| ends_doubt) {
                primary.ends_doubt.push_back(entry.position.index);
            }
            self.log.append(entry.clone());
            entries.push(entry);
        }
        if entries.is_empty() {
            return;
        }
        let id = self.write(crate::contract::LogChange::Append(entries), effects);
        self.disk.appended(id, self.log.last().index);
        self.replicate(now, effects);
        if planted!(self, CommitBeforePersist) {
            self.advance(now, effects);
        }
    }

    /// Orders a no-op for what is due by the group's time, as no entry on its way will take it along. Not without a lease, also in `sync`:
    /// who may have been deposed has nothing to say. Nobody waits for it, so that it is in no loss certificate's count.
    pub(super) fn on_carry_time(&mut self, now: Now, due: ReplicatedTime, effects: &mut Vec<Effect>) {
        let on_its_way = self.applied < self.log.last().index;
        if on_its_way || self.lease_until(now.mono).is_none() || self.admission(now).take_one(false).is_err() {
            return;
        }
        let entry = self.next_entry(now, Payload::Noop);
        if entry.time >= due {
            self.append(vec![entry], effects);
            self.replicate(now, effects);
        }
    }

    /// How many more proposals may be ordered, and why none, or only some (rule 6).
    fn admission(&self, now: Now) -> Admission {
        let none = |reason| Admission {
            room: 0,
            full: reason,
            short: None,
        };
        let Some(primary) = &self.primary else {
            return none(ProposalRefusal::NotPrimary);
        };
        if !primary.ready || !self.time.is_anchored() {
            return none(ProposalRefusal::NotReady);
        }
        if primary.hand_over.is_some() || (self.is_async() && !self.may_acknowledge_async(now.mono)) {
            return none(ProposalRefusal::Fenced);
        }
        let (have, need) = (self.hard.configuration.in_sync.len(), self.options.min_in_sync);
        let short = have < need && !planted!(self, IgnoreMinInSync);
        let waiting = self.log.last().index.0.saturating_sub(primary.acknowledged.0);
        let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
        Admission {
            room: self.options.waiting_max.saturating_sub(waiting),
            full: ProposalRefusal::Overloaded,
            short: short.then_some(ProposalRefusal::NotEnoughReplicas { have, need }),
        }
    }

    fn may_acknowledge_async(&self, now: Mono) -> bool {
        self.lease_until(now).is_some() || planted!(self, AcknowledgeWithoutLease)
    }

    /// Commit, acknowledgements, reads, membership and replication after anything that may have moved them.
    pub(super) fn advance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if !self.time.is_anchored() {
            self.tend_time(now);
        }
        let reach = self.committable(now.mono);
        self.raise_commit(now, reach, effects);
        if let Some(primary) = &mut self.primary
            && !primary.ready
            && self.commit >= primary.noop
        {
            primary.ready = true;
            self.hard.commit = self.commit;
        }
        self.answer_proposals(now, effects);
        self.tend_membership(now, effects);
        self.tend_hand_over(now, effects);
        self.tend_snapshots(now, effects);
        self.replicate(now, effects);
        self.tend_reads(now, effects);
    }

    /// `async`: what is durable here. `sync`: what is durable on all of the in-sync set, and of any that may take its place (rule 2).
    fn committable(&self, now: Mono) -> Index {
        let own = if planted!(self, CommitBeforePersist) {
            self.log.last().index
        } else {
            self.disk.persisted()
        };
        let Some(primary) = &self.primary else {
            return self.commit;
        };
        if self.is_async() {
            return own;
        }
        let mut reach = own;
        self.each_counted(|member| {
            let peer = primary.peers.get(&member.node).filter(|p| p.is(member));
            if planted!(self, ForgetLeaving) && peer.is_some_and(|p| p.leaving) {
                return;
            }
            reach = reach.min(peer.map_or(Index::ZERO, |p| p.persisted));
        });
        let awaited = primary.peers.values().filter(|p| p.is_awaited(now, &self.options));
        awaited.fold(reach, |reach, peer| reach.min(peer.persisted))
    }

    /// Answers what is committed, unless `min_in_sync` or (in `async`) the lease stands against it; not for ever.
    fn answer_proposals(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let need = self.options.min_in_sync;
        let listed = self.hard.configuration.in_sync.len() >= need;
        let leased = !self.is_async() || self.may_acknowledge_async(now.mono);
        let recheck_before = self.lease_until(now.mono).filter(|_| self.is_async());
        let ignored = planted!(self, IgnoreMinInSync);
        let (commit, own, is_async) = (self.commit, self.me.node, self.is_async());
        let Some(primary) = &mut self.primary else { return };
        if !primary.ready || primary.acknowledged >= commit {
            primary.withheld = None;
            return;
        }
        let others = primary.peers.values().filter(|p| p.persisted >= commit).map(|p| p.node);
        let by: Vec<NodeId> = std::iter::once(own).chain(others).collect();
        // A member that has just begun another life counts again once it has said what it holds: the answer names who does.
        let enough = (listed && (is_async || by.len() >= need)) || ignored;
        if enough && leased {
            effects.push(Effect::Acknowledge {
                through: commit,
                by,
                recheck_before,
            });
            primary.acknowledged = commit;
            primary.withheld = None;
            primary.take_ends_of_doubt(commit);
            return;
        }
        let at = primary.take_ends_of_doubt(commit);
        if let Some(last) = at.last().copied().filter(|_| leased) {
            primary.answered_alone = last;
            effects.push(Effect::AcknowledgeAlone { at, by });
        }
        let since = *primary.withheld.get_or_insert(now.mono);
        if now.mono.since(since) > self.options.acknowledge_within {
            let reason = if enough {
                "the primary lost its lease"
            } else {
                "fewer replicas in sync than min_in_sync"
            };
            effects.push(Effect::Abandon {
                through: commit,
                reason,
            });
            primary.acknowledged = commit;
            primary.withheld = None;
        }
    }

    pub(super) fn tick_primary(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.tend_time(now);
        let healthy = self.is_healthy(now.mono);
        let Some(primary) = &mut self.primary else { return };
        if !healthy {
            // It asks nobody, so nobody's silence counts against them.
            primary.peers.values_mut().for_each(|p| p.excuse(now.mono));
        }
        if now.mono >= primary.next_beat {
            primary.next_beat = now.mono + self.options.heartbeat;
            self.beat_all(now, effects);
            if self.lease_until(now.mono).is_none() {
                self.read_configuration(now, effects);
            }
        }
        self.advance(now, effects);
    }

    pub(super) fn peer_status(&self, now: Mono) -> Vec<PeerStatus> {
        let last = self.log.last().index;
        let peers = self.primary.iter().flat_map(|p| p.peers.values());
        let status = |peer: &Progress| PeerStatus {
            node: peer.node,
            in_sync: self.hard.configuration.in_sync.iter().any(|m| peer.is(*m)),
            matched: peer.persisted,
            silent_for: now.since(peer.heard),
            lag_entries: last.0.saturating_sub(peer.persisted.0),
            lag: peer.behind.map_or(std::time::Duration::ZERO, |since| now.since(since)),
            snapshot: matches!(peer.flow, Flow::Snapshot(_)),
        };
        peers.map(status).collect()
    }
}
