//! Asking a group, whoever leads it at the moment.

use async_trait::async_trait;
use fulcrum_types::{Answered, Operation, Participant, Refusal};
use std::time::Duration;

/// Somebody who knows the cluster map and has streams to its nodes.
///
/// The coordinator asks groups through it, and so does a participant that has to ask a home group.
#[async_trait]
pub trait Groups: Send + Sync {
    /// Asks a group, and follows redirects until it answers, refuses for good, or `deadline` has passed. What got lost is sent
    /// again if a repetition does no harm; else the refusal is [`Refusal::Unknown`].
    async fn ask(&self, to: Participant, operation: Operation, deadline: Duration) -> Result<Answered, Refusal>;
}
