//! How long each phase of a take-over took, as the new primary saw it.

use super::group::View;
use crate::event::FailoverPhases;
use fulcrum_types::{Epoch, Mono, Role};

/// Follows one replica through take-overs.
#[derive(Debug)]
pub(super) struct Failover {
    /// When the primary was last heard.
    heard: Mono,
    /// When the present candidacy's first compare-and-swap went out.
    stood: Option<Mono>,
    epoch: Epoch,
    won: Mono,
    ready: Option<Mono>,
    phases: FailoverPhases,
    /// The first acknowledgement in `epoch` is still to come.
    awaiting: bool,
}

impl Failover {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            heard: now,
            stood: None,
            epoch: Epoch::ZERO,
            won: now,
            ready: None,
            phases: FailoverPhases::default(),
            awaiting: false,
        }
    }

    /// The primary spoke: whoever stood before has lost or won.
    pub(super) fn heard_primary(&mut self, now: Mono) {
        self.heard = now;
        self.stood = None;
    }

    /// This replica asks to become primary.
    pub(super) fn stands(&mut self, now: Mono) {
        self.stood.get_or_insert(now);
    }

    /// Compares with what the core says of itself: the phases so far, at the moment when it is ready to serve.
    pub(super) fn follow(&mut self, view: &View, now: Mono) -> Option<FailoverPhases> {
        if view.role != Role::Primary {
            self.awaiting = false;
            return None;
        }
        if self.epoch != view.epoch {
            let stood = self.stood.take().unwrap_or(now);
            self.epoch = view.epoch;
            self.won = now;
            self.ready = None;
            self.awaiting = true;
            self.phases = FailoverPhases {
                detect: stood.since(self.heard),
                fence: now.since(stood),
                ..Default::default()
            };
        }
        if !view.ready || self.ready.is_some() {
            return None;
        }
        self.ready = Some(now);
        self.phases.catch_up = now.since(self.won);
        Some(self.phases)
    }

    /// A client's write was acknowledged: all phases, if it was the first of the epoch.
    pub(super) fn acknowledged(&mut self, now: Mono) -> Option<(Epoch, FailoverPhases)> {
        let ready = self.ready.filter(|_| self.awaiting)?;
        self.awaiting = false;
        self.phases.first_acknowledgement = now.since(ready);
        Some((self.epoch, self.phases))
    }
}
