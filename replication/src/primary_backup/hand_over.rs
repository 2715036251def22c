//! The planned hand-over, as its old primary does it (rule 7).
//!
//! 1. Admit nothing more, and wait until the successor holds everything durably and everything is answered.
//! 2. Give the lease up, and from then on ask for no promise. Tell the successor: [`Body::TakeOver`] releases its promises for beats up to that moment.
//! 3. The successor compare-and-swaps at once; the old primary stays in the in-sync set.
//!
//! A node that is about to stop hands over what it leads, and then says with every acknowledgement that it is leaving. Its
//! primaries take it out of the in-sync set while it still acknowledges: commit waits for nobody when it is gone. It is the same
//! compare-and-swap as for a silent member; where `min_in_sync` needs it, it stays.
//!
//! The other backups' promises need no release: each has promised only not to take over *itself*. If no new epoch
//! shows within `grace`, the old primary goes on; its lease then needs echoes of beats sent later, which the successor does not
//! take for released.

use super::body::Body;
use super::core::PrimaryBackup;
use super::progress::Progress;
use crate::contract::Effect;
use fulcrum_types::{Mono, NodeId, Now};

#[derive(Clone, Debug)]
pub(super) struct HandOver {
    to: NodeId,
    since: Mono,
    /// From this moment on there is no lease.
    pub(super) given_up_at: Option<Mono>,
    next_word: Mono,
}

impl PrimaryBackup {
    pub(super) fn on_leave(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.leaving = true;
        self.on_hand_over(now, None, effects);
        self.acknowledge(now, effects);
    }

    pub(super) fn on_hand_over(&mut self, now: Now, to: Option<NodeId>, effects: &mut Vec<Effect>) {
        let members = &self.hard.configuration.in_sync;
        let Some(primary) = &mut self.primary else { return };
        let named = |p: &Progress| to.map_or(!p.leaving, |to| to == p.node);
        let able = |p: &&Progress| members.iter().any(|m| p.is(*m)) && named(p);
        let best = primary
            .peers
            .values()
            .filter(able)
            .max_by_key(|p| p.persisted)
            .map(|p| p.node);
        let Some(to) = best.filter(|_| primary.ready && primary.hand_over.is_none()) else {
            return;
        };
        primary.hand_over = Some(HandOver {
            to,
            since: now.mono,
            given_up_at: None,
            next_word: now.mono,
        });
        self.advance(now, effects);
    }

    pub(super) fn tend_hand_over(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let (last, grace, heartbeat) = (self.log.last(), self.options.grace, self.options.heartbeat);
        let settled = self.commit == last.index && self.disk.persisted() == last.index && self.changes.is_settled();
        let Some(primary) = &mut self.primary else { return };
        let Some(hand_over) = &mut primary.hand_over else {
            return;
        };
        let Some(given_up_at) = hand_over.given_up_at else {
            let complete = primary
                .peers
                .get(&hand_over.to)
                .is_some_and(|p| p.persisted == last.index);
            if settled && complete && primary.acknowledged >= last.index {
                hand_over.given_up_at = Some(now.mono);
                primary.peers.values_mut().for_each(|p| p.echo = None);
                primary.round_open = false;
                self.tend_hand_over(now, effects);
            } else if now.mono.since(hand_over.since) > grace {
                primary.hand_over = None;
            }
            return;
        };
        if now.mono.since(given_up_at) > grace {
            primary.hand_over = None;
            primary.peers.values_mut().for_each(|p| p.excuse(now.mono));
            self.beat_all(now, effects);
            return;
        }
        if now.mono >= hand_over.next_word {
            hand_over.next_word = now.mono + heartbeat;
            let to = hand_over.to;
            self.envelope(now)
                .send(to, Body::TakeOver { last, given_up_at }, effects);
        }
    }
}
