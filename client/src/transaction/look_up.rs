//! What became of a transaction whose answer was lost.

use crate::client::Client;
use crate::error::Error;
use crate::keyspace::IntoBytes;
use fulcrum_types::{CommitRequest, NamedKey, OutcomeRequest, TransactionId, TransactionOutcome};
use futures::future::BoxFuture;
use std::time::Duration;

/// A transaction whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedTransaction {
    id: TransactionId,
    first_written: Option<NamedKey>,
}

impl UnfinishedTransaction {
    pub(super) fn of(request: &CommitRequest) -> Self {
        let first = request.writes.first().map(|write| NamedKey {
            keyspace: write.keyspace.clone(),
            what: write.what.key.clone(),
        });
        Self {
            id: request.id,
            first_written: first,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// The first key that it writes: tells the group that keeps the decision.
    #[must_use]
    pub fn first_written(&self) -> Option<&NamedKey> {
        self.first_written.as_ref()
    }

    pub(super) fn request(&self, settle: bool) -> OutcomeRequest {
        OutcomeRequest {
            id: self.id,
            first_written: self.first_written.clone(),
            settle,
        }
    }

    pub(super) fn unknown(self, reason: String) -> Error {
        Error::UnknownTransaction {
            reason,
            transaction: self,
        }
    }
}

impl From<TransactionId> for UnfinishedTransaction {
    fn from(id: TransactionId) -> Self {
        Self {
            id,
            first_written: None,
        }
    }
}

impl From<&UnfinishedTransaction> for UnfinishedTransaction {
    fn from(transaction: &UnfinishedTransaction) -> Self {
        transaction.clone()
    }
}

/// Asks what became of a transaction. Await it.
#[must_use = "a request is sent when awaited"]
pub struct TransactionLookUp {
    client: Client,
    transaction: UnfinishedTransaction,
    settle: bool,
    deadline: Option<Duration>,
}

impl Client {
    /// What became of a transaction, by its id or from [`Error::UnknownTransaction`].
    ///
    /// With an id alone every group is asked, unless [`TransactionLookUp::first_written`] is said.
    pub fn transaction_outcome(&self, transaction: impl Into<UnfinishedTransaction>) -> TransactionLookUp {
        TransactionLookUp {
            client: self.clone(),
            transaction: transaction.into(),
            settle: false,
            deadline: None,
        }
    }
}

impl TransactionLookUp {
    /// The first key that it writes: its group keeps the decision, and is asked alone.
    pub fn first_written(mut self, keyspace: impl Into<String>, key: impl IntoBytes) -> Self {
        self.transaction.first_written = Some(super::handle::named((keyspace, key)));
        self
    }

    /// If it is not decided, aborts it, so that the answer is definite.
    pub fn settle(mut self) -> Self {
        self.settle = true;
        self
    }

    /// How long it may take, all retries together.
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sends it: what awaiting it does, without a box around the future.
    ///
    /// # Errors
    /// As for a read.
    pub async fn send(self) -> Result<TransactionOutcome, Error> {
        let shared = &self.client.shared;
        let until = shared.until(self.deadline);
        let told = shared.outcome_of(self.transaction.request(self.settle), until).await?;
        Ok(told.outcome)
    }
}

impl IntoFuture for TransactionLookUp {
    type Output = Result<TransactionOutcome, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
