//! What a core is told about its group: a narrow cut of the configuration.

use fulcrum_types::{GroupId, Mode, NodeId};
use std::time::Duration;

/// Fixed for the life of a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The group.
    pub group: GroupId,
    /// The node whose replica this is.
    pub node: NodeId,
    /// `sync` or `async`.
    pub mode: Mode,
    /// Fewest in-sync replicas with which writes are admitted and acknowledged (rule 6). In `async` 1 is usual.
    pub min_in_sync: usize,
    /// Between two heartbeats of a primary.
    pub heartbeat: Duration,
    /// How long a primary may serve linearizable reads on an echo of its clock.
    pub lease: Duration,
    /// How long a backup promises not to take over after a heartbeat. Must exceed `lease x (1 + drift)`.
    pub grace: Duration,
    /// Bound on the difference of the rates of any two clocks, in parts per million.
    pub drift_ppm: u32,
    /// A backup that has not acknowledged anything for so long is removed from the in-sync set.
    pub silent_after: Duration,
    /// A backup that has lagged by more than `lag_entries` for so long is removed, too (`async`; in `sync` commit waits).
    pub lag_after: Duration,
    /// See `lag_after`. A learner is added once it is within a quarter of it (hysteresis) and holds all committed.
    pub lag_entries: u64,
    /// A write that waits longer for `min_in_sync` after a shrink is answered UNKNOWN.
    pub acknowledge_within: Duration,
    /// Between two tries of a compare-and-swap whose outcome is unknown, or of a candidacy.
    pub retry_after: Duration,
    /// After a failover the next one of the group waits so long from then on, unless the primary's node has no lease; twice as long after each that
    /// came within twice the last pause.
    pub failover_pause: Duration,
    /// The longest such pause.
    pub failover_pause_max: Duration,
    /// Most bytes of entries in one message.
    pub append_bytes: usize,
    /// Most bytes of entries sent to one peer and not yet acknowledged.
    pub in_flight_bytes: usize,
    /// Bytes of applied entries kept for peers that lag; who lags more gets a snapshot. For who is being sent one, more is kept:
    /// eight times as much or `in_flight_bytes`, and twice that after each transfer that the load has outrun, up to 16 times.
    pub retain_bytes: usize,
    /// A node whose wall clock is further than this from its peers' does not stand for primary (rule 11).
    pub wall_skew_max: Duration,
    /// Most proposals and reads that may wait in the core; more are refused as overload.
    pub waiting_max: usize,
}

impl Options {
    /// Defaults for a group: failover within 3 s on a busy machine.
    #[must_use]
    pub fn new(group: GroupId, node: NodeId, mode: Mode) -> Self {
        Self {
            group,
            node,
            mode,
            min_in_sync: match mode {
                Mode::Sync => 2,
                Mode::Async => 1,
            },
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_millis(1000),
            grace: Duration::from_millis(1300),
            drift_ppm: 10_000,
            silent_after: Duration::from_millis(1000),
            lag_after: Duration::from_secs(2),
            lag_entries: 20_000,
            acknowledge_within: Duration::from_secs(2),
            retry_after: Duration::from_millis(200),
            failover_pause: Duration::from_secs(2),
            failover_pause_max: Duration::from_secs(30),
            append_bytes: 512 * 1024,
            in_flight_bytes: 4 * 1024 * 1024,
            retain_bytes: 4 * 1024 * 1024,
            wall_skew_max: Duration::from_secs(10),
            waiting_max: 10_000,
        }
    }

    /// A duration on another node's clock, as long as it can be on ours.
    #[must_use]
    pub fn stretched(&self, duration: Duration) -> Duration {
        duration + duration * self.drift_ppm / 1_000_000
    }

    /// Whether the promises can be kept: each contradiction names the options.
    ///
    /// # Errors
    /// What contradicts what.
    pub fn validate(&self) -> Result<(), String> {
        if self.grace <= self.stretched(self.lease) {
            return Err(format!(
                "grace ({:?}) must exceed lease x (1 + drift) ({:?}): else two primaries could serve at once",
                self.grace,
                self.stretched(self.lease)
            ));
        }
        if self.lease < self.heartbeat * 2 {
            return Err(format!(
                "lease ({:?}) must be at least two heartbeats ({:?} each)",
                self.lease, self.heartbeat
            ));
        }
        if self.min_in_sync == 0 {
            return Err("min_in_sync must be at least 1: the primary itself".into());
        }
        Ok(())
    }
}
