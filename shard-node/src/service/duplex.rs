//! A bidirectional stream without a task of its own: one poll takes in what has come and sends what is answered.
//!
//! Answers are put in the stream's [`Outbox`] by the event loop as they come up; one poll sends all of them as one batch.
//! Requests are taken in only while the client reads answers, so a client that does not read stops being served, and costs
//! at most the answers to what it has outstanding.

use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tonic::{Status, Streaming};

/// Messages taken in by one poll, so that one stream cannot hold up the others.
const MESSAGES_A_POLL: usize = 16;

struct State<A> {
    ready: Vec<A>,
    outstanding: usize,
    waker: Option<Waker>,
}

/// Answers on their way to one client.
pub(crate) struct Outbox<A> {
    state: Mutex<State<A>>,
}

impl<A> Outbox<A> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                ready: Vec::new(),
                outstanding: 0,
                waker: None,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer will come.
    pub(super) fn expect(&self) {
        self.state().outstanding += 1;
    }

    /// The answer that was expected.
    pub(super) fn deliver(&self, answer: A) {
        let mut state = self.state();
        state.outstanding = state.outstanding.saturating_sub(1);
        state.ready.push(answer);
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
    fn poll_take(&self, context: &mut Context<'_>, no_more: bool) -> Poll<Option<Vec<A>>> {
        let mut state = self.state();
        if !state.ready.is_empty() {
            return Poll::Ready(Some(std::mem::take(&mut state.ready)));
        }
        if no_more && state.outstanding == 0 {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Submits what a message asks; answers go to the outbox.
pub(super) type TakeIn<In, A> = Box<dyn FnMut(In, &Arc<Outbox<A>>) + Send>;

/// Takes in messages and sends batches of answers.
pub(crate) struct Duplex<In, A, Out> {
    pub(super) input: Streaming<In>,
    pub(super) outbox: Arc<Outbox<A>>,
    pub(super) take_in: TakeIn<In, A>,
    pub(super) batch: fn(Vec<A>) -> Out,
    /// With so many outstanding the input has to wait.
    pub(super) pause_at: usize,
    pub(super) ended: bool,
}

impl<In, A, Out> Duplex<In, A, Out> {
    fn take_in_what_came(&mut self, context: &mut Context<'_>) {
        for _ in 0..MESSAGES_A_POLL {
            if self.ended || self.outbox.outstanding() >= self.pause_at {
                return;
            }
            match self.input.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(message))) => (self.take_in)(message, &self.outbox),
                // A broken client still gets the answers to what it asked before, if it can be reached.
                Poll::Ready(Some(Err(_)) | None) => self.ended = true,
                Poll::Pending => return,
            }
        }
        // There may be more: come back after the others had their turn.
        context.waker().wake_by_ref();
    }
}

impl<In, A, Out> Unpin for Duplex<In, A, Out> {}

impl<In, A, Out> Stream for Duplex<In, A, Out> {
    type Item = Result<Out, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.take_in_what_came(context);
        let batch = self.batch;
        self.outbox
            .poll_take(context, self.ended)
            .map(|answers| answers.map(|answers| Ok(batch(answers))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

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
        outbox.deliver('a');
        outbox.deliver('b');
        assert_eq!(waiting.await.unwrap(), Some(vec!['a', 'b']));
        assert_eq!(outbox.outstanding(), 1);
        outbox.deliver('c');
        assert_eq!(
            poll_fn(|context| outbox.poll_take(context, true)).await,
            Some(vec!['c'])
        );
        assert_eq!(poll_fn(|context| outbox.poll_take(context, true)).await, None);
    }
}
