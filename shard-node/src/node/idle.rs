//! A group's time goes on though nobody writes.
//!
//! **The promise.** What is due by the group's time goes soon after, on every replica, and watches are told of it, also where nobody writes:
//! values that expire, and then their tombstones.
//!
//! Replicated time is carried by the log alone, for all replicas must judge by the same. So a primary that finds something due, and whose
//! entries are all applied, orders an entry that does nothing else. One at a time and one look in [`LOOK_EVERY`]: a group in which nothing is due
//! costs nothing, one in which much is due goes on with it at a pace that nobody feels. It is refused where a write would be (fenced, too
//! few replicas in sync) and is not tried without a lease: who may have been deposed has nothing to say.
//!
//! **Left out.** What retries and transactions leave behind is not looked at: nobody sees it, and it goes with the next write.

use super::bugs::Bug;
use super::group::Group;
use super::shared::Shared;
use crate::state_machine::Command;
use fulcrum_replication::Proposal;
use fulcrum_types::{Mono, Now, Role};
use std::time::Duration;

/// Between two looks at what is due, and so at least between two entries of this kind.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// When a primary looks again whether something is due.
#[derive(Default)]
pub(super) struct Idle {
    next_look: Mono,
}

impl Group {
    /// Has the group's time go on, if something is due by it and nobody else does.
    pub(super) fn let_time_go_on(&mut self, shared: &mut Shared, now: Now) {
        if self.view.role != Role::Primary || now.mono < self.idle.next_look {
            return;
        }
        self.idle.next_look = now.mono + LOOK_EVERY;
        if self.is_something_due(now) && !shared.bugs.has(Bug::TimeStandsStill) {
            let nothing = Command::Forget(Vec::new()).encode();
            let id = shared.own_proposal();
            self.queue_unasked(Proposal::new(id, nothing));
        }
    }

    /// Whether something is due that no entry on its way will take with it, and this replica may say so.
    fn is_something_due(&self, now: Now) -> bool {
        let Some(due) = self.machine.next_due() else {
            return false;
        };
        let status = self.core.status(now);
        let nothing_on_its_way = !self.writes.is_queued() && self.applied() == status.last;
        nothing_on_its_way && status.lease_left.is_some() && status.time.is_some_and(|time| time >= due)
    }
}
