//! What a prepared transaction would write: beside the values, out of sight, until the decision is known.

use super::Moment;
use super::codec::{ID_BYTES, id_from_key, id_key};
use super::record::Prepared;
use crate::node::Bug;
use crate::state_machine::footnote::Became;
use crate::state_machine::value::{Content, Record};
use crate::state_machine::{StateMachine, damaged, expiry};
use crate::storage::{Decoder, Reader, Space, StateKind, StorageError, Store, state_key, state_range};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::{
    Fingerprint, KeyWrite, Mutation, Observed, Participant, ReplicatedTime, TransactionId, Version, Versioned,
};

/// An intent that a read met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Whose.
    pub id: TransactionId,
    /// Of that transaction.
    pub fingerprint: Fingerprint,
    /// Where its decision is, or will be.
    pub home: Participant,
    /// What the key becomes if it commits, as of the applied time.
    pub becomes: Observed,
}

impl StateMachine {
    pub(super) fn intent_key(&self, key: &[u8]) -> Bytes {
        state_key(self.group, self.generation, StateKind::Intent, key)
    }

    pub(super) fn store_intent(
        &self,
        store: &mut Store,
        id: TransactionId,
        version: Version,
        now: ReplicatedTime,
        write: &KeyWrite,
    ) {
        let content = match &write.mutation {
            Mutation::Put { value, ttl } => Content::Value {
                value: value.clone(),
                expires_at_ms: ttl.map_or(0, |ttl| expiry(now, ttl)),
            },
            Mutation::Delete => Content::Tombstone,
        };
        let record = Record { version, content }.encode();
        let mut buffer = BytesMut::with_capacity(ID_BYTES + record.len());
        buffer.put_slice(&id_key(id));
        buffer.put_slice(&record);
        let (key, intent) = (self.intent_key(&write.key), buffer.freeze());
        if self.has(Bug::ForgetLocksOnFailover) {
            return store.put(Space::State, key, intent);
        }
        // The lock is exclusive: nobody else's is there, and most go again before they are written.
        store.put_new(Space::State, key, intent);
    }

    /// The intents of a prepared transaction become values, or go.
    pub(super) fn settle_intents(
        &mut self,
        store: &mut Store,
        moment: Moment,
        id: TransactionId,
        prepared: &Prepared,
        commit: bool,
    ) -> Result<(), StorageError> {
        for key in &prepared.exclusive {
            let intent_key = self.intent_key(key);
            let intent = store.get(Space::State, &intent_key)?;
            let own = intent.map(decode).transpose()?.filter(|(owner, _)| *owner == id);
            let Some((_, mut record)) = own else {
                if self.has(Bug::ForgetLocksOnFailover) {
                    continue;
                }
                return Err(damaged("intent", "missing"));
            };
            store.delete(Space::State, intent_key);
            if !commit {
                continue;
            }
            if self.has(Bug::VersionOfTheResolve) {
                record.version = Version(moment.index.0);
            }
            self.keep_applied(id, key, &record);
            self.become_value(store, key, record, moment.time)?;
        }
        Ok(())
    }

    pub(super) fn become_value(
        &mut self,
        store: &mut Store,
        key: &Bytes,
        record: Record,
        now: ReplicatedTime,
    ) -> Result<(), StorageError> {
        let found = self.read_record(store, key)?;
        let upon_expired = found.as_ref().and_then(|record| record.expired(now));
        let existed = found.is_some_and(|record| record.visible(now).is_some());
        match &record.content {
            Content::Value { expires_at_ms, .. } => {
                self.write_record(store, key, &record);
                if *expires_at_ms != 0 {
                    self.schedule(store, *expires_at_ms, key, record.version);
                }
            }
            Content::Tombstone => self.bury(store, key, record.version, now),
        }
        let noticed = existed || !matches!(record.content, Content::Tombstone);
        self.footnote.became.push(Became {
            key: key.clone(),
            upon_expired,
            record: noticed.then_some(record),
        });
        Ok(())
    }

    /// Whether any key is locked: without it there is no intent either.
    #[must_use]
    pub fn holds_locks(&self) -> bool {
        !self.transactions.locks.is_empty()
    }

    /// The intent on a key, if there is one.
    pub fn intent_on(&self, store: &Store, key: &[u8]) -> Result<Option<Intent>, StorageError> {
        if self.transactions.locks.writer(key).is_none() {
            return Ok(None);
        }
        let found = store.get(Space::State, &self.intent_key(key))?;
        found.map(|intent| self.seen(intent)).transpose()
    }

    /// The intents from `start` (inclusive) to `end` (exclusive; empty means no end), at most `limit`.
    pub fn intents_between(
        &self,
        store: &Store,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Intent)>, StorageError> {
        let (first, after) = state_range(self.group, self.generation, StateKind::Intent);
        let to = if end.is_empty() { after } else { self.intent_key(end) };
        let mut intents = Vec::new();
        for record in store.range(Space::State, &self.intent_key(start), &to).take(limit) {
            let (key, intent) = record?;
            intents.push((key.slice(first.len()..), self.seen(intent)?));
        }
        Ok(intents)
    }

    fn seen(&self, intent: Bytes) -> Result<Intent, StorageError> {
        let (id, record) = decode(intent)?;
        let prepared = self.transactions.prepared.get(&id);
        let prepared = prepared.ok_or_else(|| damaged("intent", "of no prepared transaction"))?;
        Ok(Intent {
            id,
            fingerprint: prepared.fingerprint,
            home: prepared.home,
            becomes: observed(Some(record), self.time()),
        })
    }

    /// What a transaction sees of a key: the version of a value that is gone, too.
    pub fn observe(&mut self, store: &Store, key: &Bytes) -> Result<Observed, StorageError> {
        let at = self.time();
        Ok(observed(self.read_record(store, key)?, at))
    }
}

pub(super) fn observed(record: Option<Record>, at: ReplicatedTime) -> Observed {
    let version = record.as_ref().map(|record| record.version).unwrap_or_default();
    let value: Option<Versioned> = record.and_then(|record| record.visible(at));
    Observed { version, value }
}

pub(super) fn decode(intent: Bytes) -> Result<(TransactionId, Record), StorageError> {
    let mut decoder = Decoder::new(intent);
    let wrong = |e| damaged("intent", e);
    let id = id_from_key(&mut decoder).map_err(wrong)?;
    Ok((id, Record::decode(decoder.rest()).map_err(wrong)?))
}
