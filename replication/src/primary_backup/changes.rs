//! Compare-and-swaps under way, and what may yet come of them (rule 2).
//!
//! One attempt is in flight at a time. An unknown outcome is settled only by a newer version: until then every proposal
//! that may still land is remembered, and whoever counts an in-sync set counts it, too.

use crate::contract::CasId;
use fulcrum_types::{GroupConfiguration, Mono};
use std::time::Duration;

/// More different proposals than this from one version are not made: one of the old ones is tried again.
const MAX_UNSETTLED: usize = 8;

#[derive(Clone, Debug)]
struct Attempt {
    id: CasId,
    proposal: GroupConfiguration,
    since: Mono,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    last: u64,
    in_flight: Option<Attempt>,
    unsettled: Vec<GroupConfiguration>,
    next_try: Mono,
}

impl Changes {
    /// Whether a new attempt may begin.
    pub(super) fn may_try(&self, now: Mono) -> bool {
        self.in_flight.is_none() && now >= self.next_try
    }

    /// No attempt of ours can change the configuration any more.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_none() && self.unsettled.is_empty()
    }

    pub(super) fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Proposals that may have taken effect or may yet.
    pub(super) fn proposals(&self) -> impl Iterator<Item = &GroupConfiguration> {
        self.in_flight.iter().map(|a| &a.proposal).chain(&self.unsettled)
    }

    /// Begins an attempt and says what to propose under which name.
    pub(super) fn begin(
        &mut self,
        now: Mono,
        retry_after: Duration,
        proposal: GroupConfiguration,
    ) -> (CasId, GroupConfiguration) {
        let proposal = match self.unsettled.first() {
            Some(old) if self.unsettled.len() >= MAX_UNSETTLED => old.clone(),
            _ => proposal,
        };
        self.last += 1;
        let id = CasId(self.last);
        self.in_flight = Some(Attempt {
            id,
            proposal: proposal.clone(),
            since: now,
        });
        self.next_try = now + retry_after;
        (id, proposal)
    }

    /// The attempt ended without a known effect. Whether it was the one in flight.
    pub(super) fn unknown(&mut self, id: CasId) -> bool {
        let Some(attempt) = self.in_flight.take_if(|a| a.id == id) else {
            return false;
        };
        if !self.unsettled.contains(&attempt.proposal) {
            self.unsettled.push(attempt.proposal);
        }
        true
    }

    /// The attempt will never take effect.
    pub(super) fn lost(&mut self, id: CasId) {
        self.in_flight.take_if(|a| a.id == id);
    }

    /// An attempt without an answer for so long counts as unknown; a late answer is then only a configuration read.
    pub(super) fn expire(&mut self, now: Mono, after: Duration) -> bool {
        match &self.in_flight {
            Some(attempt) if now.since(attempt.since) >= after => {
                let id = attempt.id;
                self.unknown(id)
            }
            _ => false,
        }
    }

    /// A newer version is in force: nothing proposed from an older one can land any more.
    pub(super) fn moved(&mut self) {
        self.in_flight = None;
        self.unsettled.clear();
    }
}
