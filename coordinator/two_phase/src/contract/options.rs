//! What a coordinator's core is told of its times and bounds.

use std::time::Duration;

/// Fixed for the life of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often participants that hold locks hear that their transaction is being worked on. Well below a participant's
    /// patience.
    pub heartbeat: Duration,
    /// Longest time for collecting votes, whatever the client's deadline: others wait for the locks meanwhile.
    pub prepare_max: Duration,
    /// What is kept of the client's time for recording the decision.
    pub decide_reserve: Duration,
    /// Pause before a question that was refused is asked again.
    pub pause: Duration,
    /// How long a decided transaction is followed after its client was answered; then the home group finishes it.
    pub linger: Duration,
    /// A home group is told to forget when so many are resolved, or with the next tick.
    pub forget_batch: usize,
    /// Requests and transactions under way; more are refused as overload.
    pub open_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            prepare_max: Duration::from_secs(3),
            decide_reserve: Duration::from_millis(200),
            pause: Duration::from_millis(50),
            linger: Duration::from_secs(10),
            forget_batch: 64,
            open_max: 10_000,
        }
    }
}
