//! Becoming primary: the promise must have run out, the compare-and-swap decides every race.
//!
//! A member of the in-sync set stands when it has heard no primary for its patience, later the higher its rank. It first
//! asks the other members how far they are: in `async` the most advanced that is reachable and able goes first. Other
//! ways in: a new group's first start, a restarted primary that needs a new epoch (rule 3), a planned hand-over (rule 7), an
//! operator's word (rule 5).

use super::body::Body;
use super::core::PrimaryBackup;
use crate::contract::{Effect, Header};
use fulcrum_types::{DataId, Epoch, GroupConfiguration, LogPosition, Member, Mono, NodeId, Now};
use std::collections::BTreeMap;

/// So often a candidate lets a more advanced one go first; then that one cannot, for whatever reason.
const MAX_DEFERRALS: u32 = 3;

#[derive(Clone, Debug, Default)]
pub(super) struct Candidacy {
    /// The primary has given its lease up for us.
    pub(super) planned: bool,
    /// An operator's word, as long as this life lasts.
    forced: bool,
    probing: Option<Probing>,
    deferrals: u32,
    /// Someone less advanced asked: no need to wait for our turn.
    nudged: bool,
    /// Data that other nodes showed while there was no primary.
    seen: BTreeMap<NodeId, DataId>,
    next_search: Mono,
}

#[derive(Clone, Debug)]
struct Probing {
    since: Mono,
    replies: BTreeMap<NodeId, (LogPosition, bool)>,
}

impl Candidacy {
    /// A primary showed itself, or an epoch began.
    pub(super) fn reset(&mut self) {
        self.planned = false;
        self.forced = false;
        self.probing = None;
        self.deferrals = 0;
        self.nudged = false;
    }
}

/// Why this replica may stand at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    NewGroup,
    Restarted,
    Planned,
    Forced,
    PrimarySilent,
}

fn advanced(position: LogPosition) -> (Epoch, fulcrum_types::Index) {
    (position.epoch, position.index)
}

impl PrimaryBackup {
    pub(super) fn promise_is_over(&self, now: Mono) -> bool {
        let started = now >= self.backup.start_grace_until || planted!(self, ForgetGrace);
        started && (now >= self.backup.promise_until || planted!(self, BreakPromise))
    }

    pub(super) fn tick_backup(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.try_to_lead(now, effects);
        self.stand(now, effects);
        self.search(now, effects);
    }

    /// Leads if the configuration says so and every promise that it may have given has run out (rule 1).
    pub(super) fn try_to_lead(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let configuration = &self.hard.configuration;
        let elected = configuration.epoch == self.hard.epoch && configuration.primary == Some(self.me.node);
        if !elected || self.primary.is_some() || !self.is_member() || !self.may_stand(now.mono) {
            return;
        }
        if self.marked != self.hard.epoch && (self.hard.led < self.hard.epoch || planted!(self, ReuseEpoch)) {
            self.mark_as_led(effects);
        }
        if self.marked == self.hard.epoch && self.disk.after_hard_state().is_none() {
            self.lead(now, effects);
        }
    }

    /// An epoch belongs to one life: what this one leads is marked, durably, before it does (rule 3).
    fn mark_as_led(&mut self, effects: &mut Vec<Effect>) {
        self.account_for_own(effects);
        self.marked = self.hard.epoch;
        self.hard.led = self.hard.epoch;
        self.persist_hard_state(effects);
    }

    fn may_stand(&self, now: Mono) -> bool {
        self.promise_is_over(now) && self.is_healthy(now)
    }

    fn ground(&self) -> Option<Ground> {
        let c = &self.hard.configuration;
        if self.backup.candidacy.forced {
            return (self.hard.forced == c.epoch.next()).then_some(Ground::Forced);
        }
        let Some(primary) = c.primary else {
            let new = c.epoch == Epoch::ZERO && c.in_sync.is_empty() && c.replicas.contains(&self.me.node);
            return new.then_some(Ground::NewGroup);
        };
        if !self.is_member() && !planted!(self, PromoteFromOutside) {
            return None;
        }
        if primary == self.me.node {
            let led_before = self.hard.led == c.epoch && self.marked != c.epoch;
            return led_before.then_some(Ground::Restarted);
        }
        Some(if self.backup.candidacy.planned {
            Ground::Planned
        } else {
            Ground::PrimarySilent
        })
    }

    /// Stands for primary, if there is a ground and nothing in the way.
    fn stand(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.primary.is_some() || self.hard.epoch != self.hard.configuration.epoch || !self.may_stand(now.mono) {
            return;
        }
        let Some(ground) = self.ground() else { return };
        // A crash must not forget what the proposal rests on: the data that it lists, an operator's word, who is deposed by it.
        if !self.changes.may_try(now.mono) || self.disk.after_hard_state().is_some() {
            return;
        }
        let ready = match ground {
            Ground::NewGroup => now.mono >= self.backup.patience_until + self.options.retry_after * (2 * self.rank()),
            Ground::PrimarySilent => self.pause_is_over(now, effects) && self.is_my_turn(now, effects),
            Ground::Forced | Ground::Restarted | Ground::Planned => true,
        };
        if ready && !self.wall_is_suspect(now) {
            self.propose_self(now, ground, effects);
        }
    }

    /// Place among those who may stand.
    fn rank(&self) -> u32 {
        let c = &self.hard.configuration;
        let before = match c.primary {
            None => self.rank_in_new_group(&c.replicas),
            Some(old) => c
                .in_sync
                .iter()
                .filter(|m| m.node != old && m.node < self.me.node)
                .count(),
        };
        u32::try_from(before).unwrap_or(u32::MAX / 4)
    }

    /// New groups begin their count at different replicas, so that one node does not come to lead them all. Who founds a group may order
    /// its replicas so that a certain one is first.
    fn rank_in_new_group(&self, replicas: &[NodeId]) -> usize {
        let size = replicas.len().max(1);
        let first = usize::try_from(self.options.group.prev().0 % size as u64).unwrap_or(0);
        let place = replicas.iter().position(|n| *n == self.me.node).unwrap_or(size);
        (place + size - first) % size
    }

    fn is_my_turn(&mut self, now: Now, effects: &mut Vec<Effect>) -> bool {
        let turn = self.backup.patience_until + self.options.retry_after * self.rank();
        let forgot = planted!(self, ForgetGrace) && self.backup.echo.is_none();
        let hasty = forgot || planted!(self, BreakPromise);
        if now.mono < turn && !self.backup.candidacy.nudged && !hasty {
            return false;
        }
        let rivals = self.rivals();
        let Some(probing) = &self.backup.candidacy.probing else {
            if rivals.is_empty() {
                return true;
            }
            let last = self.log.last();
            for to in rivals {
                self.envelope(now).send(to, Body::Probe { last }, effects);
            }
            let replies = BTreeMap::new();
            self.backup.candidacy.probing = Some(Probing {
                since: now.mono,
                replies,
            });
            return false;
        };
        let all_answered = rivals.iter().all(|n| probing.replies.contains_key(n));
        if !all_answered && now.mono.since(probing.since) < self.options.retry_after {
            return false;
        }
        let own = advanced(self.log.last());
        let behind = probing
            .replies
            .values()
            .any(|(last, eligible)| *eligible && advanced(*last) > own);
        self.backup.candidacy.probing = None;
        if behind && self.is_async() && self.backup.candidacy.deferrals < MAX_DEFERRALS {
            self.backup.candidacy.deferrals += 1;
            self.backup.candidacy.nudged = false;
            self.backup.patience_until = now.mono + self.options.retry_after * 2;
            return false;
        }
        true
    }

    /// The other members that may stand.
    fn rivals(&self) -> Vec<NodeId> {
        let c = &self.hard.configuration;
        let others = c
            .in_sync
            .iter()
            .map(|m| m.node)
            .filter(|n| *n != self.me.node && Some(*n) != c.primary);
        others.collect()
    }

    fn propose_self(&mut self, now: Now, ground: Ground, effects: &mut Vec<Effect>) {
        let c = &self.hard.configuration;
        let mut in_sync: Vec<Member> = match ground {
            Ground::NewGroup | Ground::Forced => vec![self.me],
            // The old primary holds everything, too: it stays.
            Ground::Restarted | Ground::Planned => c.in_sync.clone(),
            Ground::PrimarySilent => c
                .in_sync
                .iter()
                .copied()
                .filter(|m| Some(m.node) != c.primary)
                .collect(),
        };
        if !in_sync.contains(&self.me) {
            in_sync.retain(|m| m.node != self.me.node);
            in_sync.push(self.me);
            in_sync.sort_unstable();
        }
        let proposal = GroupConfiguration {
            version: c.version,
            epoch: c.epoch.next(),
            primary: Some(self.me.node),
            in_sync,
            replicas: c.replicas.clone(),
        };
        self.compare_and_swap(now, proposal, effects);
    }

    // ---- the search for data and for the most advanced ----

    /// Without a primary for long, replicas show each other their data: so a group that has lost it all is known to be stranded.
    fn search(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let silent = now.mono >= self.backup.patience_until + self.options.grace;
        if !silent || self.primary.is_some() || now.mono < self.backup.candidacy.next_search {
            return;
        }
        self.backup.candidacy.next_search = now.mono + self.options.grace;
        self.read_configuration(now, effects);
        let last = self.log.last();
        for to in self.peers() {
            self.envelope(now).send(to, Body::Probe { last }, effects);
        }
    }

    pub(super) fn on_probe(
        &mut self,
        now: Now,
        from: NodeId,
        header: Header,
        theirs: LogPosition,
        effects: &mut Vec<Effect>,
    ) {
        self.backup.candidacy.seen.insert(from, header.data);
        if self.primary.is_some() {
            self.tell_configuration(now, from, effects);
            self.beat_one(now, from, effects);
            self.tell_history(now, from, effects);
            return;
        }
        let last = self.log.last();
        let able = self.is_healthy(now.mono) && !self.wall_is_suspect(now);
        let eligible = self.is_member() && self.hard.epoch == self.hard.configuration.epoch && able;
        self.envelope(now)
            .send(from, Body::ProbeReply { last, eligible }, effects);
        if eligible && advanced(last) > advanced(theirs) {
            self.backup.candidacy.nudged = true;
        }
    }

    pub(super) fn on_probe_reply(
        &mut self,
        now: Now,
        from: NodeId,
        header: Header,
        last: LogPosition,
        eligible: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.backup.candidacy.seen.insert(from, header.data);
        if let Some(probing) = &mut self.backup.candidacy.probing {
            probing.replies.insert(from, (last, eligible));
            self.stand(now, effects);
        }
    }

    /// Every listed member is known to have other data than listed: only an operator's word starts the group.
    pub(super) fn is_stranded(&self) -> bool {
        let c = &self.hard.configuration;
        let lost = |m: &Member| match self.backup.candidacy.seen.get(&m.node) {
            _ if m.node == self.me.node => m.data != self.me.data,
            Some(data) => *data != m.data,
            None => false,
        };
        self.primary.is_none() && !c.in_sync.is_empty() && c.in_sync.iter().all(lost)
    }

    // ---- an operator's word, and a planned hand-over ----

    pub(super) fn on_force(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let c = &self.hard.configuration;
        let known = c.epoch == self.hard.epoch && c.epoch > Epoch::ZERO && c.replicas.contains(&self.me.node);
        if !known || self.primary.is_some() || self.is_member() || !self.promise_is_over(now.mono) {
            return;
        }
        self.hard.forced = c.epoch.next();
        self.backup.candidacy.forced = true;
        self.persist_hard_state(effects);
    }

    pub(super) fn on_take_over(
        &mut self,
        now: Now,
        from: NodeId,
        last: LogPosition,
        given_up_at: Mono,
        effects: &mut Vec<Effect>,
    ) {
        let c = &self.hard.configuration;
        let by_primary = c.epoch == self.hard.epoch && c.primary == Some(from) && self.primary.is_none();
        let complete =
            self.log.last() == last && self.backup.matched == last.index && self.disk.persisted() == last.index;
        // A promise given for a later beat stands: the primary has changed its mind in between.
        let promised_later = self.backup.echo.is_none_or(|echo| echo > given_up_at);
        if !by_primary || !complete || promised_later || !self.is_member() {
            return;
        }
        self.backup.promise_until = now.mono;
        self.backup.released = Some(given_up_at);
        self.backup.candidacy.planned = true;
        self.stand(now, effects);
    }
}
