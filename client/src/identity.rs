//! Idempotency keys: what makes a retry of a write safe (DESIGN rule 10).
//!
//! A server issues the client an id and a time; the client numbers its writes and tells, as low-water mark, the oldest
//! number that is not finished: the groups keep every outcome above it. A number stays unfinished while its write is
//! under way, and after that for as long as somebody holds the [`UnfinishedWrite`](crate::UnfinishedWrite) of an unknown
//! outcome. The id is renewed long before its outcomes could be dropped for age; writes under way keep the old one. Attempts of
//! transactions are numbered along with the writes; their outcomes are kept by age alone. Ages are told by a clock that counts
//! through suspend; what stood still even so has its id refused as too old, and gives it up.

use fulcrum_common::{Clock, SystemClock};
use fulcrum_types::{ClientId, IdempotencyKey, Mono, Sequence, TransactionId};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// After so long, a new id is asked for. The default retention of outcomes is ten times as long.
const RENEW_AFTER: Duration = Duration::from_secs(60);

/// The time by which ids age.
pub(crate) fn now() -> Mono {
    SystemClock.now().mono
}

/// One id, and the numbers given out under it.
#[derive(Debug)]
pub(crate) struct Identity {
    client: ClientId,
    issued_at_ms: u64,
    opened: Mono,
    numbers: Mutex<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    last: Sequence,
    unfinished: BTreeSet<Sequence>,
}

impl Identity {
    pub(crate) fn new(client: ClientId, issued_at_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            client,
            issued_at_ms,
            opened: now(),
            numbers: Mutex::default(),
        })
    }

    pub(crate) fn aged(&self, now: Mono) -> bool {
        now.since(self.opened) > RENEW_AFTER
    }

    pub(crate) fn next(self: &Arc<Self>) -> Held {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = numbers.last.next();
        numbers.last = sequence;
        numbers.unfinished.insert(sequence);
        let low_water = numbers.unfinished.first().copied().unwrap_or(sequence);
        Held {
            key: IdempotencyKey {
                client: self.client,
                sequence,
                issued_at_ms: self.issued_at_ms,
                low_water,
            },
            identity: self.clone(),
        }
    }
}

impl Identity {
    /// The id of a transaction that begins now. Of an identity that is renewed every minute it is never far from the servers'
    /// time: the time that passed is our own clock's, the beginning theirs.
    pub(crate) fn begin(&self, now: Mono) -> TransactionId {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.last = numbers.last.next();
        let passed = u64::try_from(now.since(self.opened).as_millis()).unwrap_or(u64::MAX);
        TransactionId {
            begun_at_ms: self.issued_at_ms.saturating_add(passed),
            client: self.client,
            sequence: numbers.last,
        }
    }
}

/// A number in use. It counts as unfinished until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) key: IdempotencyKey,
    identity: Arc<Identity>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut numbers = self.identity.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.unfinished.remove(&self.key.sequence);
    }
}

impl Held {
    /// A number that was given out elsewhere, to be looked up here.
    pub(crate) fn elsewhere(key: IdempotencyKey) -> Self {
        Held {
            identity: Identity::new(key.client, key.issued_at_ms),
            key,
        }
    }
}

/// The id in force; none before the first write.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    current: Mutex<Option<Arc<Identity>>>,
    /// Held by whoever asks for a new id: one at a time.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

impl Identities {
    pub(crate) fn current(&self) -> Option<Arc<Identity>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, identity: Arc<Identity>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Forgets an id: the groups no longer take what begins under it.
    pub(crate) fn retire(&self, client: ClientId) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|identity| identity.client == client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_water_mark_is_the_oldest_unfinished() {
        let identity = Identity::new(ClientId(7), 100);
        let first = identity.next();
        let second = identity.next();
        assert_eq!(first.key.low_water, Sequence(1));
        assert_eq!(second.key.low_water, Sequence(1));
        drop(first);
        let third = identity.next();
        assert_eq!((third.key.sequence, third.key.low_water), (Sequence(3), Sequence(2)));
        drop(second);
        drop(third);
        let fourth = identity.next();
        assert_eq!((fourth.key.sequence, fourth.key.low_water), (Sequence(4), Sequence(4)));
    }

    #[test]
    fn only_that_id_is_retired() {
        let identities = Identities::default();
        let old = Identity::new(ClientId(1), 100);
        identities.set(Identity::new(ClientId(2), 200));
        identities.retire(old.client);
        assert!(identities.current().is_some());
        identities.set(old.clone());
        identities.retire(old.client);
        assert!(identities.current().is_none());
    }

    #[test]
    fn a_transaction_begins_by_the_servers_time_and_shares_the_numbers() {
        let identity = Identity::new(ClientId(7), 100);
        let held = identity.next();
        let begun = identity.begin(identity.opened + Duration::from_millis(20));
        assert_eq!(begun.to_string(), "120-7-2");
        drop(held);
        let next = identity.next().key;
        assert_eq!((next.sequence, next.low_water), (Sequence(3), Sequence(3)));
        assert!(begun < identity.begin(identity.opened + Duration::from_millis(20)));
    }

    #[test]
    fn an_id_ages() {
        let identity = Identity::new(ClientId(1), 100);
        assert!(!identity.aged(identity.opened + RENEW_AFTER));
        assert!(identity.aged(identity.opened + RENEW_AFTER + Duration::from_secs(1)));
    }
}
