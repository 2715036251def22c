//! Writes of any keyspaces at one moment, without reading first.

use super::answer::Transacted;
use super::handle::Transaction;
use super::{Choices, Transactions, choices};
use crate::client::Client;
use crate::error::Error;
use crate::keyspace::IntoBytes;
use crate::session::Session;
use bytes::Bytes;
use fulcrum_types::{Condition, Mutation, Version};
use futures::future::BoxFuture;
use std::time::Duration;

/// Writes and conditions that are committed together. Await it.
///
/// ```no_run
/// # async fn example(client: fulcrum_client::Client) -> Result<(), fulcrum_client::Error> {
/// let done = client
///     .commit()
///     .if_absent("orders", "order:7")
///     .if_value_is("stock", "apples", "1")
///     .delete("stock", "apples")
///     .put("orders", "order:7", "apples")
///     .await?;
/// if let Err(failed) = done.outcome {
///     println!("{} has version {:?}", failed.keyspace, failed.current);
/// }
/// # Ok(()) }
/// ```
#[must_use = "a request is sent when awaited"]
pub struct Commit {
    client: Client,
    choices: Choices,
    steps: Vec<Step>,
}

struct Step {
    keyspace: String,
    key: Bytes,
    what: What,
}

enum What {
    Only(Condition),
    Do(Mutation),
}

impl Commit {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            choices: Choices::default(),
            steps: Vec::new(),
        }
    }

    choices!();

    /// Sets a key's value. The group of the first key written keeps the decision; of a key written twice the last write counts.
    pub fn put(self, keyspace: &str, key: impl IntoBytes, value: impl IntoBytes) -> Self {
        let value = value.into_bytes();
        self.step(keyspace, key, What::Do(Mutation::Put { value, ttl: None }))
    }

    /// Sets a key's value, which expires after so long, by the group's replicated time.
    pub fn put_for(self, keyspace: &str, key: impl IntoBytes, value: impl IntoBytes, after: Duration) -> Self {
        let value = value.into_bytes();
        let ttl = Some(after);
        self.step(keyspace, key, What::Do(Mutation::Put { value, ttl }))
    }

    /// Removes a key's value.
    pub fn delete(self, keyspace: &str, key: impl IntoBytes) -> Self {
        self.step(keyspace, key, What::Do(Mutation::Delete))
    }

    /// Only if the key has a value. Conditions are judged on what was there before the writes.
    pub fn if_exists(self, keyspace: &str, key: impl IntoBytes) -> Self {
        self.only_if(keyspace, key, Condition::Exists)
    }

    /// Only if the key has no value.
    pub fn if_absent(self, keyspace: &str, key: impl IntoBytes) -> Self {
        self.only_if(keyspace, key, Condition::Absent)
    }

    /// Only if the key has this value.
    pub fn if_value_is(self, keyspace: &str, key: impl IntoBytes, value: impl IntoBytes) -> Self {
        self.only_if(keyspace, key, Condition::ValueIs(value.into_bytes()))
    }

    /// Only if the key's value has this version.
    pub fn if_version_is(self, keyspace: &str, key: impl IntoBytes, version: Version) -> Self {
        self.only_if(keyspace, key, Condition::VersionIs(version))
    }

    /// Only if this holds of the key.
    pub fn only_if(self, keyspace: &str, key: impl IntoBytes, condition: Condition) -> Self {
        self.step(keyspace, key, What::Only(condition))
    }

    fn step(mut self, keyspace: &str, key: impl IntoBytes, what: What) -> Self {
        self.steps.push(Step {
            keyspace: keyspace.to_owned(),
            key: key.into_bytes(),
            what,
        });
        self
    }

    /// Sends it: what awaiting it does, without a box around the future.
    ///
    /// # Errors
    /// As for [`Transactions::run`].
    pub async fn send(self) -> Result<Transacted<()>, Error> {
        let Self { client, choices, steps } = self;
        Transactions { client, choices }
            .run(async |t| {
                steps.iter().for_each(|step| step.onto(&t));
                Ok(())
            })
            .await
    }
}

impl Step {
    fn onto(&self, t: &Transaction) {
        match &self.what {
            What::Only(condition) => t.only_if(&self.keyspace, &self.key, condition.clone()),
            What::Do(mutation) => t.write(&self.keyspace, &self.key, mutation.clone()),
        }
    }
}

impl IntoFuture for Commit {
    type Output = Result<Transacted<()>, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
