//! The contract between the core of a coordinator and whoever runs it.

mod effect;
mod input;
mod options;
mod plan;
mod status;

pub use effect::{AskId, Effect, Ended, Observation, Phase, Reply};
pub use input::{Input, RequestId};
pub use options::Options;
pub use plan::{Plan, PlannedPart, PlannedRead, Shape};
pub use status::Status;

use fulcrum_types::Mono;

/// A coordinator's core. Any number of transactions at once; they share nothing but the bound on their number.
pub trait Coordinate {
    /// Takes one input at a moment and pushes what must happen, in order, to `effects`. Readings of `now` never go back.
    fn step(&mut self, now: Mono, input: Input, effects: &mut Vec<Effect>);

    /// What is under way: for metrics and status.
    fn status(&self) -> Status;

    /// Checks every invariant that can be seen from one coordinator:
    /// - every open request belongs to exactly one transaction, read or look-up, and the other way round;
    /// - every open question belongs to one of those, and none that waits is without a question or a timer;
    /// - no commit was asked for without a yes of every participant under the plan's fingerprint;
    /// - no participant was told of an abort, and no client, without a marked no or an abort that is recorded;
    /// - no request was answered twice.
    ///
    /// # Errors
    /// The broken invariant, in words.
    fn check_invariants(&self) -> Result<(), String>;
}
