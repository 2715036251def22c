//! The router's own idempotency keys, for writes whose client brought none.
//!
//! The router is a client to the groups: it holds an id, numbers its writes, and tells as low-water mark the oldest
//! number still under way. The id is renewed before the groups' retention of outcomes could run out.

use fulcrum_common::clock::Clock;
use fulcrum_common::entropy::random_u64;
use fulcrum_types::{ClientId, IdempotencyKey, Sequence};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// An id is used for so long. Far below any retention.
const RENEW_AFTER_MS: u64 = 60_000;

/// Issues keys.
pub(crate) struct Identity {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    client: ClientId,
    issued_at_ms: u64,
    next: Sequence,
    under_way: BTreeSet<Sequence>,
}

impl State {
    fn new(now_ms: u64) -> Self {
        Self {
            client: ClientId(random_u64()),
            issued_at_ms: now_ms,
            next: Sequence(1),
            under_way: BTreeSet::new(),
        }
    }
}

/// A key in use; its number counts as under way until this is dropped.
pub(crate) struct Held {
    identity: Arc<Identity>,
    pub(crate) key: IdempotencyKey,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.identity.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.client == self.key.client {
            state.under_way.remove(&self.key.sequence);
        }
    }
}

impl Identity {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let now_ms = clock.now().wall_ms;
        Arc::new(Self {
            clock,
            state: Mutex::new(State::new(now_ms)),
        })
    }

    /// The clock that it goes by.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// A fresh identity for a client that asks for one.
    pub(crate) fn for_client(&self) -> (ClientId, u64) {
        (ClientId(random_u64()), self.clock.now().wall_ms)
    }

    /// The next key.
    pub(crate) fn next(self: &Arc<Self>) -> Held {
        let now_ms = self.clock.now().wall_ms;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms.saturating_sub(state.issued_at_ms) > RENEW_AFTER_MS {
            *state = State::new(now_ms);
        }
        let sequence = state.next;
        state.next = sequence.next();
        state.under_way.insert(sequence);
        let low_water = state.under_way.first().copied().unwrap_or(sequence);
        let key = IdempotencyKey {
            client: state.client,
            sequence,
            issued_at_ms: state.issued_at_ms,
            low_water,
        };
        drop(state);
        Held {
            identity: self.clone(),
            key,
        }
    }
}
