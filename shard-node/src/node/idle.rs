//! A group's time goes on though nobody writes.
//!
//! **The promise.** What is due by the group's time goes soon after, on every replica, and watches are told of it, also where nobody writes:
//! values that expire, and then their tombstones.
//!
//! **The protocol.** Replicated time is carried by the log alone, for all replicas must judge by the same. So a primary that has something to
//! do once its group's time has come to a moment tells its core, which orders a no-op if a write could be ordered, the time has come and
//! nothing else is on its way ([`Input::CarryTime`]): one at a time. It looks once in [`LOOK_EVERY`], so that a group in which nothing is due
//! costs nothing, and one that is refused (fenced, without a lease, too few replicas in sync) asks no more often. Each entry takes
//! a bounded number of steps; one that was applied and left some behind is followed by the next at once. Of a node with many groups
//! some have a turn each tick, [`A_TICK`] and no more: all that is due at midnight is not to hold up the leases.
//!
//! **Left out.** What retries and transactions leave behind is not looked at: nobody sees it, and it goes with the next entry.

use super::bugs::Bug;
use super::group::Group;
use super::shared::{Failure, Shared};
use fulcrum_replication::Input;
use fulcrum_types::{GroupId, Index, Mono, Now, ReplicatedTime, Role};
use std::time::Duration;

/// Between two looks at what is due, unless an entry has left some of it behind.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Groups of a node that may have their time go on in one tick.
const A_TICK: usize = 16;

/// Whether a group has its turn in a tick of a node with so many groups.
pub(super) fn has_turn(tick: u64, group: GroupId, groups: usize) -> bool {
    let turns = groups.div_ceil(A_TICK).max(1) as u64;
    tick.wrapping_add(group.0).is_multiple_of(turns)
}

/// When a primary looks again whether something is due.
#[derive(Default)]
pub(super) struct Idle {
    next_look: Mono,
    /// What was applied at the last look.
    looked_at: Index,
}

impl Group {
    /// Has the group's time go on, if something is due by it and no write will see to that.
    pub(super) fn let_time_go_on(&mut self, shared: &mut Shared, now: Now) -> Result<(), Failure> {
        if self.view.role != Role::Primary {
            return Ok(());
        }
        let Some(due) = self.machine.next_due() else {
            return Ok(());
        };
        if now.mono < self.idle.next_look && !self.has_left_behind(due) {
            return Ok(());
        }
        self.idle = Idle {
            next_look: now.mono + LOOK_EVERY,
            looked_at: self.applied().index,
        };
        if self.writes.is_queued() || shared.bugs.has(Bug::TimeStandsStill) {
            return Ok(());
        }
        self.step(shared, now, Input::CarryTime { due })
    }

    /// Whether the entries applied since the last look could not take all that was due by their time.
    fn has_left_behind(&self, due: ReplicatedTime) -> bool {
        let applied = self.machine.applied();
        applied.position.index > self.idle.looked_at && due <= applied.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_turn_and_few_have_it_at_once() {
        for groups in [0, 1, 16, 17, 500_usize] {
            let turns = groups.div_ceil(A_TICK).max(1) as u64;
            let mut had = vec![0; groups];
            for tick in 7..7 + turns {
                let mut at_once = 0;
                for (group, had) in (1..).zip(&mut had) {
                    let turn = usize::from(has_turn(tick, GroupId(group), groups));
                    (at_once, *had) = (at_once + turn, *had + turn);
                }
                assert!(at_once <= A_TICK, "{at_once} of {groups}");
            }
            assert!(had.iter().all(|had| *had == 1), "{groups}: {had:?}");
        }
    }
}
