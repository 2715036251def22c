//! A bidirectional stream without a task of its own: one poll takes in what has come and sends what is answered.
//!
//! Answers are encoded into the stream's [`Outbox`] by the event loop as they come up; one poll sends all of them as one batch.
//! Requests are taken in only while the client reads answers, so a client that does not read stops being served, and costs
//! at most the answers to what it has outstanding.

use fulcrum_common::wire::Malformed;
use fulcrum_common::wire::batch::{ANSWER_BYTES, Batch, BatchBuilder};
use futures::{Stream, StreamExt};
use prost::Message;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tonic::{Status, Streaming};

/// Messages taken in by one poll, so that one stream cannot hold up the others.
const MESSAGES_A_POLL: usize = 16;

struct State<A> {
    ready: BatchBuilder<A>,
    outstanding: usize,
    waker: Option<Waker>,
}

/// Answers on their way to one client.
pub(crate) struct Outbox<A> {
    state: Mutex<State<A>>,
}

impl<A: Message> Outbox<A> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                ready: BatchBuilder::of_at_most(ANSWER_BYTES),
                outstanding: 0,
                waker: None,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer will come. How many were expected before.
    pub(super) fn expect(&self) -> usize {
        let mut state = self.state();
        state.outstanding += 1;
        state.outstanding - 1
    }

    /// The answer that was expected.
    pub(super) fn deliver(&self, answer: &A) {
        self.fill(|batch| batch.push(answer));
    }

    /// The answer that was expected, as `put` adds it to the others.
    pub(super) fn fill(&self, put: impl FnOnce(&mut BatchBuilder<A>)) {
        let mut state = self.state();
        state.outstanding = state.outstanding.saturating_sub(1);
        put(&mut state.ready);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Answers expected and not yet there.
    pub(super) fn outstanding(&self) -> usize {
        self.state().outstanding
    }

    /// All answers there are; none if there will be no more; else waits.
    fn poll_take(&self, context: &mut Context<'_>, no_more: bool) -> Poll<Option<Batch<A>>> {
        let mut state = self.state();
        if !state.ready.is_empty() {
            return Poll::Ready(Some(state.ready.take()));
        }
        if no_more && state.outstanding == 0 {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Submits the requests of a batch; their answers go to the outbox. An error is a request that makes no sense.
pub(super) type TakeIn<In, A> = Box<dyn FnMut(Batch<In>, &Arc<Outbox<A>>) -> Result<(), Malformed> + Send>;

/// Takes in batches of requests and sends batches of answers.
pub(crate) struct Duplex<In, A> {
    pub(super) input: Streaming<Batch<In>>,
    pub(super) outbox: Arc<Outbox<A>>,
    pub(super) take_in: TakeIn<In, A>,
    /// With so many outstanding the input has to wait.
    pub(super) pause_at: usize,
    pub(super) ended: bool,
}

impl<In: Message + Default, A: Message> Duplex<In, A> {
    fn take_in_what_came(&mut self, context: &mut Context<'_>) {
        for _ in 0..MESSAGES_A_POLL {
            if self.ended || self.outbox.outstanding() >= self.pause_at {
                return;
            }
            match self.input.poll_next_unpin(context) {
                // Whoever sends nonsense is not heard any further.
                Poll::Ready(Some(Ok(batch))) => self.ended = (self.take_in)(batch, &self.outbox).is_err(),
                // A broken client still gets the answers to what it asked before, if it can be reached.
                Poll::Ready(Some(Err(_)) | None) => self.ended = true,
                Poll::Pending => return,
            }
        }
        // There may be more: come back after the others had their turn.
        context.waker().wake_by_ref();
    }
}

impl<In, A> Unpin for Duplex<In, A> {}

impl<In: Message + Default, A: Message> Stream for Duplex<In, A> {
    type Item = Result<Batch<A>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.take_in_what_came(context);
        self.outbox
            .poll_take(context, self.ended)
            .map(|answers| answers.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::wire::batch::PipelineResponse;
    use fulcrum_common::wire::v1;
    use std::future::poll_fn;

    fn answer(id: u64) -> v1::PipelineAnswer {
        v1::PipelineAnswer { id, answer: None }
    }

    fn ids(batch: Option<PipelineResponse>) -> Option<Vec<u64>> {
        batch.map(|batch| batch.items().map(|answer| answer.unwrap().id).collect())
    }

    #[tokio::test]
    async fn answers_that_came_up_meanwhile_share_a_batch() {
        let outbox = Outbox::new();
        for _ in 0..3 {
            outbox.expect();
        }
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { poll_fn(|context| outbox.poll_take(context, true)).await }
        });
        tokio::task::yield_now().await;
        outbox.deliver(&answer(1));
        outbox.deliver(&answer(2));
        assert_eq!(ids(waiting.await.unwrap()), Some(vec![1, 2]));
        assert_eq!(outbox.outstanding(), 1);
        outbox.deliver(&answer(3));
        assert_eq!(
            ids(poll_fn(|context| outbox.poll_take(context, true)).await),
            Some(vec![3])
        );
        assert_eq!(ids(poll_fn(|context| outbox.poll_take(context, true)).await), None);
    }
}
