//! What adds up to a failover: the timers between the death of a primary and the first write acknowledged again.
//!
//! The promise: every wait that the protocol may make on purpose is here, with the value that the replicas of the keyspace go by,
//! and named so that an operator knows which setting moves it. What depends on machines and networks (a round, an fsync, a
//! compare-and-swap) is counted as nothing here: the metrics and logs of real failovers have it.
//!
//! Beside the sum stand the [pauses](FailoverPauses) of a failover that comes soon after another one of the same group while the primary's
//! node still has its lease. They are no part of a failover that stands alone but what keeps failovers apart; nodes set them, not keyspaces.
//!
//! Sources: `replication/src/primary_backup/{candidate,membership,pauses}.rs`, and `shard-node/src/node/settings.rs`, which hands these
//! values on.

use crate::keyspace::{CANDIDACY_PAUSE, KeyspaceOptions};
use fulcrum_types::Mode;
use std::time::Duration;

/// So often a candidate of an `async` group lets a more advanced replica go first.
const DEFERRALS: u32 = 3;

/// One wait of a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The phase that it belongs to, as failovers are logged.
    pub phase: Phase,
    /// What is waited for.
    pub what: &'static str,
    /// The setting that decides it; none if it is fixed.
    pub setting: Option<&'static str>,
    /// If all goes well.
    pub least: Duration,
    /// If one more replica, or its answer, is missing.
    pub most: Duration,
}

/// What keeps failovers of one group apart, as a node goes by it (`times.failover_pause`, `times.failover_pause_max`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverPauses {
    /// After the last failover. Zero: none.
    pub first: Duration,
    /// Doubled after each failover that came within twice the last pause, up to this.
    pub longest: Duration,
}

impl FailoverPauses {
    /// The longer of each: what a failover may have to wait, whoever stands.
    #[must_use]
    pub fn or_longer(self, other: Self) -> Self {
        Self {
            first: self.first.max(other.first),
            longest: self.longest.max(other.longest),
        }
    }
}

/// A phase of a failover, as it is logged and exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The old primary's promise runs out, and a backup stands.
    Detect,
    /// The next epoch is put on record.
    Fence,
    /// What the new primary inherited is durable on the in-sync set.
    CatchUp,
}

impl Phase {
    /// As in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Detect => "detect",
            Phase::Fence => "fence",
            Phase::CatchUp => "catch up",
        }
    }
}

/// The waits of a failover in a keyspace, in order.
#[must_use]
pub fn failover_budget(options: &KeyspaceOptions) -> Vec<Wait> {
    let timing = options.timing;
    let wait = |phase, what, setting, least, most| Wait {
        phase,
        what,
        setting,
        least,
        most,
    };
    // The backups that could stand: all replicas but the primary. The first may be gone, too.
    let others_in_line = options.replication_factor.saturating_sub(2);
    let mut waits = vec![
        wait(
            Phase::Detect,
            "a backup's promise runs out, counted from the last heartbeat",
            Some("grace"),
            timing.grace.saturating_sub(timing.heartbeat),
            timing.grace,
        ),
        wait(
            Phase::Detect,
            "the next tick of the backup's clock",
            Some("heartbeat"),
            Duration::ZERO,
            timing.heartbeat / 4,
        ),
        wait(
            Phase::Detect,
            "backups stand one after the other",
            None,
            Duration::ZERO,
            CANDIDACY_PAUSE * others_in_line,
        ),
    ];
    if others_in_line > 0 {
        let what = "the other backups are asked how far they are";
        waits.push(wait(Phase::Detect, what, None, Duration::ZERO, CANDIDACY_PAUSE));
    }
    if options.mode == Mode::Async && others_in_line > 0 {
        let what = "a more advanced backup is let go first, if it does not go";
        // Each time two pauses, and then they are asked again.
        let most = CANDIDACY_PAUSE * 3 * DEFERRALS;
        waits.push(wait(Phase::Detect, what, None, Duration::ZERO, most));
    }
    let what = "a compare-and-swap, once more if its outcome is unknown";
    waits.push(wait(Phase::Fence, what, None, Duration::ZERO, CANDIDACY_PAUSE));
    if options.mode == Mode::Sync && others_in_line > 0 {
        let what = "an in-sync backup that is silent, too, is removed";
        waits.push(wait(
            Phase::CatchUp,
            what,
            Some("lease"),
            Duration::ZERO,
            timing.lease + CANDIDACY_PAUSE,
        ));
    }
    waits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::Timing;

    fn total(options: &KeyspaceOptions, of: fn(&Wait) -> Duration) -> Duration {
        failover_budget(options).iter().map(of).sum()
    }

    #[test]
    fn the_defaults_leave_room_within_3_s() {
        for mode in [Mode::Sync, Mode::Async] {
            let options = KeyspaceOptions::of(mode, 3);
            assert_eq!(total(&options, |wait| wait.least), Duration::from_millis(1200));
            let most = total(&options, |wait| wait.most);
            assert!(most > options.timing.grace, "{most:?}");
        }
        let sync = KeyspaceOptions::of(Mode::Sync, 3);
        // One node lost: nobody else is silent.
        let detected = failover_budget(&sync)
            .iter()
            .filter(|wait| wait.phase != Phase::CatchUp)
            .map(|wait| wait.most)
            .sum::<Duration>();
        assert!(detected < Duration::from_secs(3), "{detected:?}");
    }

    #[test]
    fn a_keyspaces_own_timers_are_what_counts() {
        let slow = KeyspaceOptions {
            timing: Timing {
                heartbeat: Duration::from_millis(400),
                lease: Duration::from_secs(4),
                grace: Duration::from_secs(6),
            },
            ..KeyspaceOptions::of(Mode::Sync, 3)
        };
        assert_eq!(total(&slow, |wait| wait.least), Duration::from_millis(5600));
        let of = |setting: &str| {
            let waits = failover_budget(&slow);
            waits
                .iter()
                .find(|wait| wait.setting == Some(setting))
                .map(|wait| wait.most)
        };
        assert_eq!(of("grace"), Some(Duration::from_secs(6)));
        assert_eq!(of("heartbeat"), Some(Duration::from_millis(100)));
        assert_eq!(of("lease"), Some(Duration::from_secs(4) + CANDIDACY_PAUSE));
    }

    #[test]
    fn two_replicas_have_nobody_to_wait_for() {
        let two = KeyspaceOptions::of(Mode::Sync, 2);
        assert!(failover_budget(&two).iter().all(|wait| wait.phase != Phase::CatchUp));
    }
}
