//! What requests are answered with: the value or outcome, and always the receipts that prove it.

use crate::error::{Error, UnfinishedWrite};
use crate::identity::Held;
use bytes::Bytes;
use fulcrum_common::wire::{Malformed, status, v1};
use fulcrum_types::{IdempotencyKey, Receipt, Refusal, Version, Versioned, WriteOutcome};
use std::sync::Arc;

/// Answer to a get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The value; none if the key has none.
    pub value: Option<Versioned>,
    /// The proof.
    pub receipt: Receipt,
}

impl Got {
    pub(crate) fn from_wire(wire: v1::GetResponse) -> Result<Self, Error> {
        Ok(Self {
            value: wire.value.map(Into::into),
            receipt: receipt(wire.receipt)?,
        })
    }
}

/// Answer to a put, delete or compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What became of it: applied, or its condition did not hold.
    pub outcome: WriteOutcome,
    /// The proof.
    pub receipt: Receipt,
    /// Under which key the servers know it.
    pub idempotency: IdempotencyKey,
}

impl Written {
    pub(crate) fn from_wire(wire: v1::WriteResponse, idempotency: IdempotencyKey) -> Result<Self, Error> {
        let outcome = wire.outcome.ok_or_else(|| Malformed::missing("outcome"))?;
        Ok(Self {
            outcome: outcome.try_into()?,
            receipt: receipt(wire.receipt)?,
            idempotency,
        })
    }

    /// Whether it took effect.
    #[must_use]
    pub fn applied(&self) -> bool {
        matches!(self.outcome, WriteOutcome::Applied { .. })
    }

    /// The key's version now: of this write, or of the value that stood in its way.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        match &self.outcome {
            WriteOutcome::Applied { version, .. } => Some(*version),
            WriteOutcome::ConditionFailed { current } => *current,
        }
    }
}

/// Answer to many gets at once, each on its own.
#[derive(Clone, Debug)]
pub struct GotMany {
    /// In the order of the keys asked: a value or none, or why that key could not be read.
    pub items: Vec<Result<Option<Versioned>, Refusal>>,
    /// The proof, one a group.
    pub receipts: Vec<Receipt>,
}

impl GotMany {
    pub(crate) fn from_wire(wire: v1::BatchGetResponse, expected: usize) -> Result<Self, Error> {
        use v1::batch_get_response::item::Result as R;
        check_count(wire.items.len(), expected)?;
        let items = wire.items.into_iter().map(|item| match item.result {
            Some(R::Value(value)) => Ok(Ok(Some(value.into()))),
            Some(R::Missing(_)) => Ok(Ok(None)),
            Some(R::Error(error)) => Ok(Err(status::refusal_from_wire(error))),
            None => Err(Malformed::missing("item.result")),
        });
        Ok(Self {
            items: items.collect::<Result<_, _>>()?,
            receipts: receipts(wire.receipts)?,
        })
    }
}

/// Answer to many writes at once, each on its own.
#[derive(Clone, Debug)]
pub struct WrittenMany {
    /// In the order of the writes asked: what became of each, or why it was refused.
    pub items: Vec<Result<WriteOutcome, Refusal>>,
    /// The proof, one a group.
    pub receipts: Vec<Receipt>,
    /// Those refused with [`Refusal::Unknown`], to be looked up with [`crate::Client::outcome`].
    pub unfinished: Vec<UnfinishedWrite>,
}

impl WrittenMany {
    pub(crate) fn from_wire(
        wire: v1::BatchWriteResponse,
        keyspace: &str,
        keys: Vec<Bytes>,
        held: Arc<Held>,
    ) -> Result<Self, Error> {
        use v1::batch_write_response::item::Result as R;
        check_count(wire.items.len(), keys.len())?;
        let items = wire.items.into_iter().map(|item| match item.result {
            Some(R::Outcome(outcome)) => outcome.try_into().map(Ok),
            Some(R::Error(error)) => Ok(Err(status::refusal_from_wire(error))),
            None => Err(Malformed::missing("item.result")),
        });
        let items = items.collect::<Result<Vec<Result<WriteOutcome, Refusal>>, _>>()?;
        let in_doubt = items
            .iter()
            .zip(keys)
            .filter(|(item, _)| matches!(item, Err(Refusal::Unknown { .. })));
        let unfinished = in_doubt.map(|(_, key)| UnfinishedWrite {
            keyspace: keyspace.to_owned(),
            key,
            held: held.clone(),
        });
        Ok(Self {
            unfinished: unfinished.collect(),
            items,
            receipts: receipts(wire.receipts)?,
        })
    }
}

/// What is known of an earlier write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was applied, with these outcomes: one for each write of the same group.
    Known(Vec<WriteOutcome>),
    /// It was not applied, as of this answer. It may yet be, if it is still under way.
    NotSeen,
    /// It is no longer kept: nobody can tell.
    TooOld,
}

impl Outcome {
    pub(crate) fn from_wire(wire: v1::GetOutcomeResponse) -> Result<Self, Error> {
        use v1::get_outcome_response::State;
        match State::try_from(wire.state) {
            Ok(State::Known) => {
                let outcomes = wire.outcomes.into_iter().map(TryInto::try_into);
                Ok(Outcome::Known(outcomes.collect::<Result<_, _>>()?))
            }
            Ok(State::NotSeen) => Ok(Outcome::NotSeen),
            Ok(State::TooOld) => Ok(Outcome::TooOld),
            Ok(State::Unspecified) | Err(_) => Err(Malformed(format!("state {} is not known here", wire.state)).into()),
        }
    }
}

pub(crate) fn receipt(wire: Option<v1::Receipt>) -> Result<Receipt, Malformed> {
    wire.ok_or_else(|| Malformed::missing("receipt"))?.try_into()
}

pub(crate) fn receipts(wire: Vec<v1::Receipt>) -> Result<Vec<Receipt>, Malformed> {
    wire.into_iter().map(TryInto::try_into).collect()
}

fn check_count(answered: usize, asked: usize) -> Result<(), Malformed> {
    if answered != asked {
        return Err(Malformed(format!("{answered} items answer {asked}")));
    }
    Ok(())
}
