//! Runs what the core asks for: the only match that touches the world.

use crate::event::{Asked, Event};
use crate::metrics::Metrics;
use crate::traces::Traces;
use foldhash::fast::RandomState;
use fulcrum_common::budget::Share;
use fulcrum_common::routing::{Groups, Question};
use fulcrum_common::trace::Span;
use fulcrum_two_phase::{AskId, Effect, Ended, Input, Observation, Reply, RequestId, Status};
use fulcrum_types::{Answered, Mono, Operation, Participant, Refusal, TransactionOperation};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Who waits for an answer.
struct Waiter {
    reply: oneshot::Sender<Result<Reply, Refusal>>,
    ends_with_its_client: bool,
    _share: Share,
}

/// The world, as far as the core touches it.
pub(crate) struct Effects {
    groups: Arc<dyn Groups>,
    metrics: Arc<Metrics>,
    /// Ends of questions, on their way here: no more than are open.
    ends: mpsc::UnboundedSender<Event>,
    ended: mpsc::UnboundedReceiver<Event>,
    questions: usize,
    /// Open at once. The core gives up waiting for a group that is silent; the question stays until its deadline.
    questions_max: usize,
    waiters: HashMap<RequestId, Waiter, RandomState>,
    traces: Traces,
}

impl Effects {
    pub(crate) fn new(groups: Arc<dyn Groups>, metrics: Arc<Metrics>, questions_max: usize) -> Self {
        let (ends, ended) = mpsc::unbounded_channel();
        Self {
            groups,
            metrics,
            ends,
            ended,
            questions: 0,
            questions_max,
            waiters: HashMap::default(),
            traces: Traces::default(),
        }
    }

    /// Somebody waits for the answer to a request.
    pub(crate) fn expect(&mut self, asked: Asked) -> Input {
        let Asked {
            request,
            wanted,
            deadline,
            reply,
            share,
            trace,
        } = asked;
        if let Some(trace) = trace {
            self.traces.asked(request, &wanted, trace);
        }
        let waiter = Waiter {
            reply,
            ends_with_its_client: wanted.ends_with_its_client(),
            _share: share,
        };
        self.waiters.insert(request, waiter);
        wanted.into_input(request, deadline)
    }

    /// A client has gone. Whether its request is of no use any more.
    pub(crate) fn gone(&mut self, request: RequestId) -> bool {
        let ends = |waiter: &Waiter| waiter.ends_with_its_client;
        let gone = self.waiters.get(&request).is_some_and(ends) && self.waiters.remove(&request).is_some();
        if gone {
            self.traces.gone(request);
        }
        gone
    }

    /// The next end of a question.
    pub(crate) async fn answered(&mut self) -> Event {
        match self.ended.recv().await {
            Some(event) => {
                self.questions -= 1;
                event
            }
            None => std::future::pending().await,
        }
    }

    /// What is under way, for metrics.
    pub(crate) fn show(&mut self, now: Mono, status: &Status) {
        self.traces.expire(now);
        self.metrics.status(status, self.questions);
    }

    /// Runs one effect.
    pub(crate) fn run(&mut self, now: Mono, effect: Effect) {
        match effect {
            Effect::Ask {
                ask,
                to,
                operation,
                deadline,
                request,
            } => {
                let span = self.traces.asks(to, &operation, request);
                self.ask(now, ask, to, operation, deadline, span);
            }
            Effect::Reply { request, result } => {
                self.traces.replied(now, request, &result);
                if let Some(waiter) = self.waiters.remove(&request) {
                    // The client may have gone.
                    let _ = waiter.reply.send(result);
                }
            }
            Effect::Observed(observation) => self.observe(&observation),
        }
    }

    /// Asks in the background. Exactly one end comes, about at the deadline at the latest.
    fn ask(
        &mut self,
        now: Mono,
        ask: AskId,
        to: Participant,
        operation: TransactionOperation,
        deadline: Mono,
        span: Span,
    ) {
        let ends = self.ends.clone();
        let trace = span.context();
        let told = move |result: Result<Answered, Refusal>| {
            span.end(result.as_ref().err());
            // The coordinator may have gone.
            let _ = ends.send(Event::Answered { ask, result });
        };
        self.questions += 1;
        if self.questions > self.questions_max {
            // The core asks again after a pause.
            return told(Err(Refusal::Overloaded));
        }
        let groups = self.groups.clone();
        let question = Question {
            to,
            operation: Operation::Transaction(operation),
            deadline: deadline.since(now),
            trace,
        };
        groups.submit_traced(question, Box::new(told));
    }

    fn observe(&self, observation: &Observation) {
        self.metrics.observe(observation);
        match observation {
            Observation::Ended {
                id,
                how: how @ (Ended::Unknown | Ended::Refused | Ended::Cancelled),
                ..
            } => tracing::info!(%id, ?how, "a transaction ended without an outcome"),
            Observation::Ended { id, how, took, .. } => tracing::debug!(%id, ?how, ?took, "a transaction ended"),
            Observation::LeftBehind { id, unresolved } => {
                tracing::warn!(%id, unresolved, "a transaction is left to its groups, which do not answer");
            }
            Observation::Passed { .. } | Observation::ReadAgain { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::metrics::Metrics as Registry;
    use std::time::Duration;

    /// A group that says nothing.
    struct Silent;

    #[async_trait::async_trait]
    impl Groups for Silent {
        async fn ask(&self, _: Participant, _: Operation, _: Duration) -> Result<Answered, Refusal> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_ends_at_its_deadline_and_one_too_many_at_once() {
        let metrics = Arc::new(Metrics::new(&Registry::new()).unwrap());
        let mut effects = Effects::new(Arc::new(Silent), metrics, 1);
        for number in 1..=2 {
            let ask = Effect::Ask {
                ask: AskId(number),
                to: Participant::default(),
                operation: TransactionOperation::List { limit: 1 },
                deadline: Mono(0) + Duration::from_secs(1),
                request: None,
            };
            effects.run(Mono(0), ask);
        }
        let first = effects.answered().await;
        let overloaded = |event: &Event| {
            matches!(
                event,
                Event::Answered {
                    ask: AskId(2),
                    result: Err(Refusal::Overloaded)
                }
            )
        };
        assert!(overloaded(&first), "{first:?}");
        let late = effects.answered().await;
        let unknown = |event: &Event| {
            matches!(
                event,
                Event::Answered {
                    ask: AskId(1),
                    result: Err(Refusal::Unknown { .. })
                }
            )
        };
        assert!(unknown(&late), "{late:?}");
    }
}
