//! One request to a group, carried until it is answered, finally refused, or out of time.

use super::backends::{Attempt, Backends, Outcome};
use super::{Attempts, Failure, Kind, Next, RoutingTable};
use crate::wire::shard::Reply;
use fulcrum_types::{Answered, GroupRequest, MapVersion, NodeId, Operation, Participant, Refusal, TraceContext};
use std::time::Duration;
use tokio::time::Instant;

/// An attempt that may be repeated is given up after so long: the node may be paused or cut off.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(900);

/// What is asked of whom, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Errand<'a> {
    /// The group.
    pub to: Participant,
    /// What.
    pub operation: &'a Operation,
    /// Who can serve it, and whether it may be sent twice.
    pub kind: Kind,
    /// When no answer is of use any more.
    pub until: Instant,
    /// The answer goes to a client as it comes: an encoded message of the public API.
    pub pass_on: bool,
    /// The span that runs it, if its trace is recorded.
    pub trace: Option<TraceContext>,
}

impl<'a> Errand<'a> {
    /// The next attempt, made now by a map of that version.
    #[must_use]
    pub fn attempt(&self, map_version: MapVersion, now: Instant) -> Attempt<'a> {
        let left = self.until.saturating_duration_since(now);
        let repeatable = !matches!(self.kind, Kind::Write { safe_twice: false });
        let deadline = if repeatable { left.min(ATTEMPT_TIMEOUT) } else { left };
        let request = GroupRequest {
            keyspace: self.to.keyspace,
            group: self.to.group,
            map_version,
            deadline,
            operation: self.operation,
        };
        Attempt {
            request,
            pass_on: self.pass_on,
            give_up: now + deadline,
            trace: self.trace,
        }
    }

    /// Goes on from `next` to the end, which comes when its time is up at the latest.
    ///
    /// # Errors
    /// The final refusal.
    pub async fn run(
        &self,
        table: &RoutingTable,
        backends: &Backends,
        attempts: &mut Attempts,
        mut next: Next,
        started: Instant,
    ) -> Result<Reply, Refusal> {
        loop {
            next = match next {
                Next::Send(_) if Instant::now() >= self.until => return Err(attempts.out_of_time()),
                Next::Send(node) => match self.send(table, backends, node).await {
                    Ok(reply) => return Ok(reply),
                    Err(failure) => attempts.after(&table.view(), node, failure, started.elapsed()),
                },
                Next::Pause(pause) if Instant::now() + pause >= self.until => return Err(attempts.out_of_time()),
                Next::Pause(pause) => {
                    table.wait(pause).await;
                    attempts.next(&table.view())
                }
                Next::Fail(refusal) => return Err(refusal),
            };
        }
    }

    async fn send(&self, table: &RoutingTable, backends: &Backends, node: NodeId) -> Outcome {
        let view = table.view();
        let address = view.map.address(node).ok_or_else(|| not_in_map(node))?;
        let attempt = self.attempt(view.map.version(), Instant::now());
        backends.call(node, address, attempt).await
    }
}

/// Why nothing was sent to a node that nobody knows.
#[must_use]
pub fn not_in_map(node: NodeId) -> Failure {
    Failure::NotSent(format!("{node} is not in the cluster map"))
}

/// An answer that is not to be passed on.
///
/// # Errors
/// It was encoded for somebody else.
pub fn understood(reply: Reply) -> Result<Answered, Refusal> {
    match reply {
        Reply::Answered(answered) => Ok(*answered),
        Reply::PassedOn { .. } | Reply::PassedOnMany { .. } => Err(Refusal::Unknown {
            reason: "the shard-node's answer was to be understood here, and was not encoded for that".into(),
        }),
    }
}
