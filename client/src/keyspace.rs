//! A handle on one keyspace, and the requests that it makes.
//!
//! A request is built by naming what differs from the defaults, and sent by awaiting it.

use crate::answer::{Got, GotMany, Written, WrittenMany};
use crate::client::Client;
use crate::error::Error;
use crate::identity::Held;
use crate::pipeline::{Pending, Pipeline};
use crate::scan::{Range, Scan};
use crate::session::Session;
use crate::watch::Watch;
use bytes::Bytes;
use fulcrum_common::wire::types::{condition_to_wire, millis};
use fulcrum_common::wire::v1;
use fulcrum_types::{Condition, Level, Mutation, Version, WriteOp};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// What can be a key or a value: text or bytes.
pub trait IntoBytes {
    /// As bytes.
    fn into_bytes(self) -> Bytes;
}

macro_rules! into_bytes {
    ($($owned:ty),*; $($copied:ty),*) => {
        $(impl IntoBytes for $owned {
            fn into_bytes(self) -> Bytes {
                self.into()
            }
        })*
        $(impl IntoBytes for $copied {
            fn into_bytes(self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        })*
    };
}
into_bytes!(Bytes, Vec<u8>, String; &str, &[u8], &String, &Vec<u8>);

impl IntoBytes for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

/// A keyspace, with the choices that its requests start from. Cheap to clone.
#[derive(Clone)]
pub struct Keyspace {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) choices: Choices,
}

/// What every request may choose.
#[derive(Clone, Default)]
pub(crate) struct Choices {
    pub(crate) level: Option<Level>,
    pub(crate) acceptable: Vec<Level>,
    pub(crate) session: Option<Session>,
    pub(crate) deadline: Option<Duration>,
}

impl Choices {
    pub(crate) fn read_options(&self) -> Option<v1::ReadOptions> {
        if self.level.is_none() && self.acceptable.is_empty() && self.session.is_none() {
            return None;
        }
        Some(v1::ReadOptions {
            consistency: self.level.map(Into::into),
            acceptable: self.acceptable.iter().copied().map(Into::into).collect(),
            session: self.token(),
        })
    }

    pub(crate) fn token(&self) -> Option<v1::SessionToken> {
        self.session.as_ref().map(Session::wire)
    }

    pub(crate) fn observe(&self, receipt: &fulcrum_types::Receipt) {
        if let Some(session) = &self.session {
            session.observe(receipt);
        }
    }

    fn observe_all(&self, receipts: &[fulcrum_types::Receipt]) {
        receipts.iter().for_each(|receipt| self.observe(receipt));
    }
}

impl Keyspace {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self {
            client,
            name,
            choices: Choices::default(),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same keyspace, with all requests in a session: each sees what the session has seen, and adds to it.
    #[must_use]
    pub fn in_session(mut self, session: &Session) -> Self {
        self.choices.session = Some(session.clone());
        self
    }

    /// The same keyspace, read at this level unless a request says otherwise. If never set: the keyspace's own default.
    #[must_use]
    pub fn at(mut self, level: Level) -> Self {
        self.choices.level = Some(level);
        self
    }

    /// The same keyspace, with this deadline unless a request says otherwise.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.choices.deadline = Some(deadline);
        self
    }

    /// Reads a key.
    pub fn get(&self, key: impl IntoBytes) -> Get<'_> {
        Get {
            keyspace: self,
            choices: self.choices.clone(),
            key: key.into_bytes(),
        }
    }

    /// Sets a key's value.
    pub fn put(&self, key: impl IntoBytes, value: impl IntoBytes) -> Write<'_> {
        let value = value.into_bytes();
        self.write(key, Mutation::Put { value, ttl: None })
    }

    /// Removes a key's value.
    pub fn delete(&self, key: impl IntoBytes) -> Write<'_> {
        self.write(key, Mutation::Delete)
    }

    /// Sets a key's value if it still has this version: [`Written::applied`] tells. For other conditions see
    /// [`Write::only_if`].
    pub fn compare_and_set(&self, key: impl IntoBytes, expected: Version, value: impl IntoBytes) -> Write<'_> {
        self.put(key, value).only_if(Condition::VersionIs(expected))
    }

    fn write(&self, key: impl IntoBytes, mutation: Mutation) -> Write<'_> {
        Write {
            keyspace: self,
            choices: self.choices.clone(),
            op: WriteOp {
                key: key.into_bytes(),
                condition: Condition::None,
                mutation,
            },
        }
    }

    /// Reads many keys at once, each on its own: not a snapshot across groups. Up to 1024.
    pub fn batch_get<K: IntoBytes>(&self, keys: impl IntoIterator<Item = K>) -> BatchGet<'_> {
        BatchGet {
            keyspace: self,
            choices: self.choices.clone(),
            keys: keys.into_iter().map(IntoBytes::into_bytes).collect(),
        }
    }

    /// Writes many keys at once, each on its own condition; those of one group are one log entry. Up to 1024.
    pub fn batch_write(&self, ops: impl IntoIterator<Item = WriteOp>) -> BatchWrite<'_> {
        BatchWrite {
            keyspace: self,
            choices: self.choices.clone(),
            ops: ops.into_iter().collect(),
        }
    }

    /// Reads keys in order. See [`Scan`].
    pub fn scan(&self, range: Range) -> Scan {
        Scan::new(self.clone(), range)
    }

    /// Tells what changes, from now on. See [`Watch`].
    pub fn watch(&self) -> Watch {
        Watch::new(self.clone())
    }
}

macro_rules! deadline {
    () => {
        /// How long it may take, all retries together.
        pub fn within(mut self, deadline: Duration) -> Self {
            self.choices.deadline = Some(deadline);
            self
        }
    };
}

macro_rules! levels {
    () => {
        /// At this level.
        pub fn at(mut self, level: Level) -> Self {
            self.choices.level = Some(level);
            self
        }

        /// A weaker level that will do if the one asked for cannot be had; best first. Never downgraded otherwise, and
        /// the receipt says so.
        pub fn or_at(mut self, level: Level) -> Self {
            self.choices.acceptable.push(level);
            self
        }
    };
}
pub(crate) use {deadline, levels};

macro_rules! awaited {
    ($request:ident -> $answer:ty) => {
        impl<'a> IntoFuture for $request<'a> {
            type Output = Result<$answer, Error>;
            type IntoFuture = BoxFuture<'a, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.send())
            }
        }
    };
}

/// A get. Await it.
#[must_use = "a request is sent when awaited"]
pub struct Get<'a> {
    keyspace: &'a Keyspace,
    choices: Choices,
    key: Bytes,
}

impl Get<'_> {
    levels!();
    deadline!();

    fn request(&self) -> v1::GetRequest {
        v1::GetRequest {
            keyspace: self.keyspace.name.clone(),
            key: self.key.clone(),
            options: self.choices.read_options(),
        }
    }

    /// Sends it: what awaiting it does, without a box around the future.
    ///
    /// # Errors
    /// See [`Error::act`].
    pub async fn send(self) -> Result<Got, Error> {
        let shared = &self.keyspace.client.shared;
        let until = shared.until(self.choices.deadline);
        let answer = shared.call(self.request(), until).await;
        let got = Got::from_wire(answer.map_err(|verdict| verdict.error())?)?;
        self.choices.observe(&got.receipt);
        Ok(got)
    }

    /// Hands it to a pipeline: waits for room in it, and answers with what to await.
    ///
    /// # Errors
    /// The pipeline has no room within the deadline.
    pub async fn submit(self, pipeline: &Pipeline) -> Result<Pending<Got>, Error> {
        let until = self.keyspace.client.shared.until(self.choices.deadline);
        pipeline.get(self.request(), self.choices, until).await
    }
}
awaited!(Get -> Got);

/// A put or delete, perhaps on a condition. Await it.
#[must_use = "a request is sent when awaited"]
pub struct Write<'a> {
    keyspace: &'a Keyspace,
    choices: Choices,
    op: WriteOp,
}

impl Write<'_> {
    deadline!();

    /// Only if this holds; else nothing changes and [`Written::applied`] says so.
    pub fn only_if(mut self, condition: Condition) -> Self {
        self.op.condition = condition;
        self
    }

    /// The value expires after so long, by the group's replicated time. No meaning for a delete.
    pub fn expires_in(mut self, after: Duration) -> Self {
        if let Mutation::Put { ttl, .. } = &mut self.op.mutation {
            *ttl = Some(after);
        }
        self
    }

    /// Sends it: what awaiting it does, without a box around the future.
    ///
    /// # Errors
    /// See [`Error::act`].
    pub async fn send(self) -> Result<Written, Error> {
        let shared = &self.keyspace.client.shared;
        let until = shared.until(self.choices.deadline);
        let name = &self.keyspace.name;
        let key = &self.op.key;
        let (answer, held) = match &self.op.mutation {
            Mutation::Put { value, ttl } => {
                let put = |idempotency| self.put(value.clone(), *ttl, idempotency);
                shared.write(name, key, until, put).await?
            }
            Mutation::Delete => {
                shared
                    .write(name, key, until, |idempotency| self.delete(idempotency))
                    .await?
            }
        };
        let written = Written::from_wire(answer, held.key)?;
        self.choices.observe(&written.receipt);
        Ok(written)
    }

    /// Hands it to a pipeline: waits for room in it, and answers with what to await.
    ///
    /// # Errors
    /// The pipeline has no room within the deadline, or no server gives an idempotency key.
    pub async fn submit(self, pipeline: &Pipeline) -> Result<Pending<Written>, Error> {
        use v1::pipeline_op::Op;
        let shared = &self.keyspace.client.shared;
        let until = shared.until(self.choices.deadline);
        let held: Arc<Held> = Arc::new(shared.next_key(until).await?);
        let op = match &self.op.mutation {
            Mutation::Put { value, ttl } => Op::Put(self.put(value.clone(), *ttl, held.key.into())),
            Mutation::Delete => Op::Delete(self.delete(held.key.into())),
        };
        pipeline.write(op, held, self.choices, until).await
    }

    fn put(&self, value: Bytes, ttl: Option<Duration>, idempotency: v1::IdempotencyKey) -> v1::PutRequest {
        v1::PutRequest {
            keyspace: self.keyspace.name.clone(),
            key: self.op.key.clone(),
            value,
            ttl_ms: ttl.map_or(0, millis),
            condition: condition_to_wire(self.op.condition.clone()),
            idempotency: Some(idempotency),
            session: self.choices.token(),
        }
    }

    fn delete(&self, idempotency: v1::IdempotencyKey) -> v1::DeleteRequest {
        v1::DeleteRequest {
            keyspace: self.keyspace.name.clone(),
            key: self.op.key.clone(),
            condition: condition_to_wire(self.op.condition.clone()),
            idempotency: Some(idempotency),
            session: self.choices.token(),
        }
    }
}
awaited!(Write -> Written);

/// Many gets. Await it.
#[must_use = "a request is sent when awaited"]
pub struct BatchGet<'a> {
    keyspace: &'a Keyspace,
    choices: Choices,
    keys: Vec<Bytes>,
}

impl BatchGet<'_> {
    levels!();
    deadline!();

    async fn send(self) -> Result<GotMany, Error> {
        let shared = &self.keyspace.client.shared;
        let until = shared.until(self.choices.deadline);
        let expected = self.keys.len();
        let request = v1::BatchGetRequest {
            keyspace: self.keyspace.name.clone(),
            keys: self.keys,
            options: self.choices.read_options(),
        };
        let answer = shared.call(request, until).await.map_err(|verdict| verdict.error())?;
        let got = GotMany::from_wire(answer, expected)?;
        self.choices.observe_all(&got.receipts);
        Ok(got)
    }
}
awaited!(BatchGet -> GotMany);

/// Many writes. Await it.
#[must_use = "a request is sent when awaited"]
pub struct BatchWrite<'a> {
    keyspace: &'a Keyspace,
    choices: Choices,
    ops: Vec<WriteOp>,
}

impl BatchWrite<'_> {
    deadline!();

    async fn send(self) -> Result<WrittenMany, Error> {
        let shared = &self.keyspace.client.shared;
        let until = shared.until(self.choices.deadline);
        let name = &self.keyspace.name;
        let keys: Vec<Bytes> = self.ops.iter().map(|op| op.key.clone()).collect();
        let first = keys.first().cloned().unwrap_or_default();
        let writes: Vec<v1::Write> = self.ops.into_iter().map(Into::into).collect();
        let request = |idempotency| v1::BatchWriteRequest {
            keyspace: name.clone(),
            writes: writes.clone(),
            idempotency: Some(idempotency),
            session: self.choices.token(),
        };
        let (answer, held) = shared.write(name, &first, until, request).await?;
        let written = WrittenMany::from_wire(answer, name, keys, held)?;
        self.choices.observe_all(&written.receipts);
        Ok(written)
    }
}
awaited!(BatchWrite -> WrittenMany);
