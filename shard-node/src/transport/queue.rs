//! What waits to be sent to one peer: bounded, and the oldest goes first when it is full.
//!
//! The protocol repeats what is lost, and repeats the newest; so dropping the oldest keeps a slow link useful. While there
//! is no connection only the last few messages are kept: what is older has been overtaken by then.

use bytes::Bytes;
use fulcrum_common::wire::internal::{PeerBatch, PeerMessage};
use futures::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Kept while there is no connection.
const KEPT_OFFLINE: usize = 64;
/// A batch is closed when it has grown to this. One larger message still goes, alone.
const BATCH_BYTES: usize = 1024 * 1024;
/// What a message costs beside its body, about.
const MESSAGE_BYTES: usize = 48;

#[derive(Default)]
struct State {
    messages: VecDeque<PeerMessage>,
    bytes: usize,
    online: bool,
    waker: Option<Waker>,
    dropped: u64,
    sent: u64,
}

impl State {
    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.bytes -= size(&oldest.body);
            self.dropped += 1;
        }
    }
}

fn size(body: &Bytes) -> usize {
    MESSAGE_BYTES + body.len()
}

/// The queue to one peer.
pub(crate) struct Outgoing {
    state: Mutex<State>,
    bound_bytes: usize,
}

/// A queue's depth and history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) online: bool,
    pub(crate) dropped: u64,
    pub(crate) sent: u64,
}

impl Outgoing {
    pub(crate) fn new(bound_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            bound_bytes,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, message: PeerMessage) {
        let mut state = self.state();
        state.bytes += size(&message.body);
        state.messages.push_back(message);
        while state.messages.len() > 1 && state.bytes > self.bound_bytes {
            state.drop_oldest();
        }
        while !state.online && state.messages.len() > KEPT_OFFLINE {
            state.drop_oldest();
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn set_online(&self, online: bool) {
        let mut state = self.state();
        state.online = online;
        state.waker = None;
        while !online && state.messages.len() > KEPT_OFFLINE {
            state.drop_oldest();
        }
    }

    pub(crate) fn depth(&self) -> Depth {
        let state = self.state();
        Depth {
            messages: state.messages.len(),
            bytes: state.bytes,
            online: state.online,
            dropped: state.dropped,
            sent: state.sent,
        }
    }

    fn poll_batch(&self, context: &mut Context<'_>) -> Poll<PeerBatch> {
        let mut state = self.state();
        if state.messages.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut batch = PeerBatch::default();
        let mut bytes = 0;
        while let Some(next) = state.messages.front() {
            let more = size(&next.body);
            if bytes > 0 && bytes + more > BATCH_BYTES {
                break;
            }
            bytes += more;
            batch.messages.extend(state.messages.pop_front());
        }
        state.bytes -= bytes;
        state.sent += batch.messages.len() as u64;
        Poll::Ready(batch)
    }
}

/// Everything pushed to a queue, in batches, without end. The first batch introduces the sender.
pub(crate) struct Batches {
    pub(crate) queue: Arc<Outgoing>,
    pub(crate) introduction: Option<PeerBatch>,
}

impl Stream for Batches {
    type Item = PeerBatch;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PeerBatch>> {
        match self.introduction.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.queue.poll_batch(context).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    fn message(group: u64, len: usize) -> PeerMessage {
        PeerMessage {
            group,
            body: vec![0; len].into(),
            ..PeerMessage::default()
        }
    }

    fn groups(batch: &PeerBatch) -> Vec<u64> {
        batch.messages.iter().map(|message| message.group).collect()
    }

    #[tokio::test]
    async fn one_batch_carries_what_came_up_meanwhile() {
        let queue = Outgoing::new(1 << 20);
        queue.set_online(true);
        let mut batches = Batches {
            queue: queue.clone(),
            introduction: None,
        };
        for group in 1..=3 {
            queue.push(message(group, 10));
        }
        assert_eq!(groups(&batches.next().await.unwrap()), [1, 2, 3]);
        assert_eq!(
            queue.depth(),
            Depth {
                online: true,
                sent: 3,
                ..Depth::default()
            }
        );
    }

    #[tokio::test]
    async fn large_messages_are_split_and_a_huge_one_goes_alone() {
        let queue = Outgoing::new(usize::MAX);
        queue.set_online(true);
        for len in [600 << 10, 600 << 10, 3 << 20, 10] {
            queue.push(message(1, len));
        }
        let batches = Batches {
            queue,
            introduction: None,
        };
        let lengths: Vec<_> = batches.take(4).map(|batch| batch.messages.len()).collect().await;
        assert_eq!(lengths, [1, 1, 1, 1]);
    }

    #[test]
    fn the_oldest_is_dropped_and_counted() {
        let queue = Outgoing::new(250);
        queue.set_online(true);
        for group in 1..=4 {
            queue.push(message(group, 100));
        }
        let depth = queue.depth();
        assert_eq!((depth.messages, depth.dropped), (1, 3));
        assert_eq!(queue.state().messages[0].group, 4);
        // Larger than the bound: better sent than never.
        queue.push(message(5, 1000));
        assert_eq!(queue.depth().messages, 1);
    }

    #[test]
    fn little_is_kept_for_a_peer_that_cannot_be_reached() {
        let queue = Outgoing::new(usize::MAX);
        for group in 0..1000 {
            queue.push(message(group, 10));
        }
        assert_eq!(queue.depth().messages, KEPT_OFFLINE);
        assert_eq!(queue.state().messages[0].group, 1000 - KEPT_OFFLINE as u64);
    }
}
