//! A core's view of what it has under way.

use std::time::Duration;

/// What is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Votes are being collected.
    pub preparing: usize,
    /// Votes are complete, the decision is not known to be recorded.
    pub deciding: usize,
    /// Decided; participants are being told.
    pub resolving: usize,
    /// Consistent reads and look-ups.
    pub reading: usize,
    /// Since the oldest transaction that is not decided was asked for.
    pub oldest_undecided: Duration,
}
