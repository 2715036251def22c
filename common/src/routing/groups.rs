//! Asking a group, whoever leads it at the moment.

use async_trait::async_trait;
use fulcrum_types::{Answered, Operation, Participant, Refusal, TraceContext};
use std::sync::Arc;
use std::time::Duration;

/// Who waits for a group's answer; told once.
pub type Told = Box<dyn FnOnce(Result<Answered, Refusal>) + Send>;

/// A question to a group, on somebody's way through a trace.
#[derive(Debug)]
pub struct Question {
    /// Whom.
    pub to: Participant,
    /// What.
    pub operation: Operation,
    /// For how long an answer is of use.
    pub deadline: Duration,
    /// The span that asks, if its trace is recorded.
    pub trace: Option<TraceContext>,
}

/// Somebody who knows the cluster map and has streams to its nodes.
///
/// The coordinator asks groups through it, and so does a participant that has to ask a home group.
#[async_trait]
pub trait Groups: Send + Sync {
    /// Asks a group, and follows redirects until it answers, refuses for good, or `deadline` has passed. What got lost is sent
    /// again if a repetition does no harm; else the refusal is [`Refusal::Unknown`].
    async fn ask(&self, to: Participant, operation: Operation, deadline: Duration) -> Result<Answered, Refusal>;

    /// The same for who asks much: nobody waits here, and `told` hears of the end once, on whatever task it came to. It comes when the
    /// deadline has passed, or a little later, at the latest. Must be called within a runtime.
    fn submit(self: Arc<Self>, to: Participant, operation: Operation, deadline: Duration, told: Told)
    where
        Self: 'static,
    {
        tokio::spawn(async move {
            let asked = self.ask(to, operation, deadline);
            let result = tokio::time::timeout(deadline, asked).await;
            told(result.unwrap_or_else(|_| {
                Err(Refusal::Unknown {
                    reason: format!("group {} did not answer in time", to.group),
                })
            }));
        });
    }

    /// The same for a question that may belong to a trace. Who knows nothing of traces asks it as any other.
    fn submit_traced(self: Arc<Self>, question: Question, told: Told)
    where
        Self: 'static,
    {
        self.submit(question.to, question.operation, question.deadline, told);
    }
}
