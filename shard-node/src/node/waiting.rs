//! Requests that met a lock: kept here, in the primary's memory, until its holder goes (rule 16).
//!
//! **The promise.** A request that waits is proposed again when the transaction that it waits for has let go, and at the
//! latest its wait is cut: no wake-up is lost, and nobody waits for ever. "Blocked" is no answer and is remembered nowhere:
//! a primary that is deposed answers all of them NOT_PRIMARY, for they were not ordered.
//!
//! **The protocol.** A command is found to be blocked when it is applied; at that moment it is put here under the holder. When
//! the holder's locks go, its waiters are proposed again in one batch: those that hold nothing in the order of arrival, then
//! prepares, the youngest first. Of prepares that want the same key only the first is woken; the others wait for it as they
//! would wait for a holder, which it is about to be. If it is not granted the lock after all, they are woken in their turn.
//! So each holder is older than the one before, and the oldest is served after finitely many.
//!
//! A request for a shared lock on a key for which an older prepare waits gives way to it: else readers that come and go would
//! keep a writer out for ever.

use super::group::Group;
use super::shared::Shared;
use crate::event::{Observation, RequestId};
use crate::state_machine::{ApplyOutcome, Command};
use bytes::Bytes;
use fulcrum_types::{Mono, Now, PrepareRequest, Priority, Refusal, TransactionAnswer, TransactionId, Vote};
use std::collections::{BTreeMap, BTreeSet};

/// Who goes first, by age.
type Rank = (Priority, TransactionId);

/// What a prepare that waits wants.
#[derive(Clone, Debug)]
struct Claim {
    rank: Rank,
    exclusive: BTreeSet<Bytes>,
    shared: BTreeSet<Bytes>,
}

impl Claim {
    fn of(request: &PrepareRequest) -> Self {
        let exclusive: BTreeSet<Bytes> = request.part.writes.iter().map(|write| write.key.clone()).collect();
        let read = request.part.reads.iter().map(|read| &read.key);
        let tested = request.part.conditions.iter().map(|condition| &condition.key);
        let shared = read.chain(tested).filter(|key| !exclusive.contains(*key));
        Self {
            rank: (request.priority, request.id),
            shared: shared.cloned().collect(),
            exclusive,
        }
    }
}

/// A request that met a lock.
#[derive(Debug)]
pub(super) struct Waiter {
    /// To be proposed again as it is.
    pub(super) command: Bytes,
    pub(super) arrived: Mono,
    since: Mono,
    until: Mono,
    by: TransactionId,
    /// None: it holds nothing while it waits.
    claim: Option<Claim>,
}

/// What waits at a replica for locks.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waiters: BTreeMap<RequestId, Waiter>,
    by_holder: BTreeMap<TransactionId, BTreeSet<RequestId>>,
    ends: BTreeSet<(Mono, RequestId)>,
    /// Keys that waiting prepares want exclusively.
    wanted: BTreeMap<Bytes, BTreeSet<Rank>>,
    /// Prepares that were proposed again and are on their way through the log.
    woken: BTreeMap<TransactionId, RequestId>,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty() && self.woken.is_empty()
    }

    /// For whom a request waits.
    pub(super) fn blocked_by(&self, id: RequestId) -> Option<TransactionId> {
        self.waiters.get(&id).map(|waiter| waiter.by)
    }

    /// To whom a prepare has to give way: an older one that waits for a key which this one would share.
    pub(super) fn gives_way_to(&self, request: &PrepareRequest) -> Option<TransactionId> {
        if self.wanted.is_empty() {
            return None;
        }
        let claim = Claim::of(request);
        let oldest = |key: &Bytes| self.wanted.get(key)?.first().copied();
        let rival = claim.shared.iter().filter_map(oldest).min()?;
        (rival < claim.rank).then_some(rival.1)
    }

    fn insert(&mut self, id: RequestId, waiter: Waiter) {
        self.by_holder.entry(waiter.by).or_default().insert(id);
        self.ends.insert((waiter.until, id));
        if let Some(claim) = &waiter.claim {
            for key in &claim.exclusive {
                self.wanted.entry(key.clone()).or_default().insert(claim.rank);
            }
        }
        self.waiters.insert(id, waiter);
    }

    /// Takes a waiter out.
    pub(super) fn take(&mut self, id: RequestId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        self.ends.remove(&(waiter.until, id));
        if let Some(others) = self.by_holder.get_mut(&waiter.by) {
            others.remove(&id);
            if others.is_empty() {
                self.by_holder.remove(&waiter.by);
            }
        }
        for key in waiter.claim.iter().flat_map(|claim| &claim.exclusive) {
            if let Some(ranks) = self.wanted.get_mut(key) {
                ranks.retain(|rank| Some(*rank) != waiter.claim.as_ref().map(|claim| claim.rank));
                if ranks.is_empty() {
                    self.wanted.remove(key);
                }
            }
        }
        Some(waiter)
    }

    pub(super) fn take_all(&mut self) -> Vec<RequestId> {
        let waiters = std::mem::take(self).waiters;
        waiters.into_keys().collect()
    }

    fn take_overdue(&mut self, now: Mono) -> Option<(RequestId, Waiter)> {
        let (_, id) = *self.ends.first().filter(|(until, _)| *until <= now)?;
        self.take(id).map(|waiter| (id, waiter))
    }

    /// Who is to be proposed again now that a transaction has let go, or was not granted what others waited for behind it.
    fn wake(&mut self, holder: TransactionId) -> Vec<(RequestId, Waiter)> {
        let Some(ids) = self.by_holder.get(&holder).cloned() else {
            return Vec::new();
        };
        let (mut woken, mut prepares) = (Vec::new(), Vec::new());
        for id in ids {
            let Some(waiter) = self.take(id) else { continue };
            match &waiter.claim {
                None => woken.push((id, waiter)),
                Some(claim) => prepares.push((claim.rank, id, waiter)),
            }
        }
        prepares.sort_by_key(|(rank, id, _)| std::cmp::Reverse((*rank, *id)));
        let mut claimed = Claimed::default();
        for (rank, id, mut waiter) in prepares {
            let rival = waiter.claim.as_ref().and_then(|claim| claimed.rival_of(claim));
            match rival {
                Some(rival) => {
                    waiter.by = rival;
                    self.insert(id, waiter);
                }
                None => {
                    waiter.claim.iter().for_each(|claim| claimed.add(claim));
                    self.woken.insert(rank.1, id);
                    woken.push((id, waiter));
                }
            }
        }
        woken
    }

    /// A request that was proposed again will not be applied. Which prepare it was, if others wait behind it.
    fn lost(&mut self, id: RequestId) -> Option<TransactionId> {
        let (transaction, _) = self.woken.iter().find(|(_, request)| **request == id)?;
        let transaction = *transaction;
        self.woken.remove(&transaction);
        Some(transaction)
    }

    /// For whom somebody waits.
    #[cfg(debug_assertions)]
    fn waited_for(&self) -> impl Iterator<Item = TransactionId> {
        self.by_holder.keys().copied()
    }
}

/// What prepares that are woken together want.
#[derive(Default)]
struct Claimed {
    exclusive: BTreeMap<Bytes, TransactionId>,
    shared: BTreeMap<Bytes, TransactionId>,
}

impl Claimed {
    fn rival_of(&self, claim: &Claim) -> Option<TransactionId> {
        // The same prepare may have been sent twice: it is granted its locks once, and answered twice.
        let another = |id: &TransactionId| *id != claim.rank.1;
        let written = |key: &Bytes| self.exclusive.get(key).copied().filter(another);
        let read = |key: &Bytes| self.shared.get(key).copied().filter(another);
        let exclusive = claim
            .exclusive
            .iter()
            .find_map(|key| written(key).or_else(|| read(key)));
        exclusive.or_else(|| claim.shared.iter().find_map(written))
    }

    fn add(&mut self, claim: &Claim) {
        let id = claim.rank.1;
        self.exclusive
            .extend(claim.exclusive.iter().map(|key| (key.clone(), id)));
        self.shared.extend(claim.shared.iter().map(|key| (key.clone(), id)));
    }
}

impl Group {
    /// Keeps a request that met a lock when it was applied.
    pub(super) fn wait_for_lock(
        &mut self,
        shared: &mut Shared,
        now: Now,
        id: RequestId,
        arrived: Mono,
        by: TransactionId,
        command: &Bytes,
    ) {
        let until = arrived + shared.settings.lock_wait;
        if until <= now.mono {
            return shared.reply(id, Err(Refusal::Locked { by }));
        }
        if self.waiting.len() >= shared.settings.lock_waiters_max {
            return shared.reply(id, Err(Refusal::Overloaded));
        }
        let claim = match Command::decode(command.clone()) {
            Ok(Command::Prepare { request, .. }) => Some(Claim::of(&request)),
            _ => None,
        };
        let waiter = Waiter {
            command: command.clone(),
            arrived,
            since: now.mono,
            until,
            by,
            claim,
        };
        self.waiting.insert(id, waiter);
    }

    /// Proposes again who waited for a transaction.
    pub(super) fn wake(&mut self, shared: &mut Shared, now: Now, holder: TransactionId) {
        for (id, waiter) in self.waiting.wake(holder) {
            shared.observe(Observation::LockWaited {
                group: self.id,
                took: now.mono.since(waiter.since),
                cut: false,
            });
            self.queue_again(id, waiter.arrived, waiter.command);
        }
    }

    /// An entry was applied: if it is a prepare that others wait behind, and it was not granted its locks, they have their turn.
    pub(super) fn passed(&mut self, shared: &mut Shared, now: Now, command: &Bytes, outcome: &ApplyOutcome) {
        if self.waiting.woken.is_empty() {
            return;
        }
        let Ok(Command::Prepare { request, .. }) = Command::decode(command.clone()) else {
            return;
        };
        let was_woken = self.waiting.woken.remove(&request.id).is_some();
        let granted = matches!(
            outcome,
            ApplyOutcome::Transaction(TransactionAnswer::Vote(Vote::Prepared { .. }))
        );
        if was_woken && !granted {
            self.wake(shared, now, request.id);
        }
    }

    /// A request will not be ordered: who waits behind it has its turn.
    pub(super) fn will_not_be_ordered(&mut self, shared: &mut Shared, now: Now, id: RequestId) {
        if let Some(transaction) = self.waiting.lost(id) {
            self.wake(shared, now, transaction);
        }
    }

    /// Answers those who have waited for as long as they may: nothing of theirs was ordered, and they are asked again.
    pub(super) fn cut_waits(&mut self, shared: &mut Shared, now: Now) {
        while let Some((id, waiter)) = self.waiting.take_overdue(now.mono) {
            shared.observe(Observation::LockWaited {
                group: self.id,
                took: now.mono.since(waiter.since),
                cut: true,
            });
            shared.reply(id, Err(Refusal::Locked { by: waiter.by }));
        }
    }

    /// Answers all of them: this replica is no longer primary, or goes.
    pub(super) fn refuse_waiters(&mut self, shared: &mut Shared, refusal: &Refusal) {
        for id in self.waiting.take_all() {
            shared.reply(id, Err(refusal.clone()));
        }
    }

    /// No lost wake-up: whoever is waited for holds locks, or is on its way through the log.
    #[cfg(debug_assertions)]
    pub(super) fn check_waiting(&self) {
        for holder in self.waiting.waited_for() {
            let on_its_way = self.waiting.woken.contains_key(&holder);
            assert!(
                on_its_way || self.machine.promise_to(holder).is_some(),
                "group {}: somebody waits for {holder}, which holds nothing",
                self.id
            );
        }
    }
}
