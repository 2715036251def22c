//! What each request of the public API needs, keyspace by keyspace, before anything else is looked at.
//!
//! A condition is a read: whether it held says what is there. What became of a write or transaction whoever may write may ask.

use super::v1;
use crate::auth::{Caller, Scope};
use fulcrum_types::{Refusal, Right};

/// A request that needs rights.
pub trait Needs {
    /// Whether `caller` has them all.
    ///
    /// # Errors
    /// The first that is missing.
    fn check(&self, caller: &Caller) -> Result<(), Refusal>;
}

impl Needs for v1::GetRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        caller.may(Right::Read, &self.keyspace)
    }
}

impl Needs for v1::BatchGetRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        caller.may(Right::Read, &self.keyspace)
    }
}

impl Needs for v1::ScanRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        caller.may(Right::Read, &self.keyspace)
    }
}

impl Needs for v1::WatchRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        caller.may(Right::Read, &self.keyspace)
    }
}

impl Needs for v1::PutRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        write(caller, &self.keyspace, self.condition.as_ref())
    }
}

impl Needs for v1::DeleteRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        write(caller, &self.keyspace, self.condition.as_ref())
    }
}

impl Needs for v1::BatchWriteRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        let conditions = self.writes.iter().map(|write| write.condition.as_ref());
        // A batch of nothing needs no less.
        write(caller, &self.keyspace, None)?;
        conditions
            .into_iter()
            .try_for_each(|condition| write(caller, &self.keyspace, condition))
    }
}

impl Needs for v1::GetOutcomeRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        caller.may(Right::Write, &self.keyspace)
    }
}

impl Needs for v1::pipeline_op::Op {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        match self {
            Self::Get(get) => get.check(caller),
            Self::Put(put) => put.check(caller),
            Self::Delete(delete) => delete.check(caller),
        }
    }
}

impl Needs for v1::TransactionReadRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        self.keys
            .iter()
            .try_for_each(|key| caller.may(Right::Read, &key.keyspace))
    }
}

impl Needs for v1::CommitRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        let reads = self.reads.iter().map(|read| &read.keyspace);
        let conditions = self.conditions.iter().map(|condition| &condition.keyspace);
        reads
            .chain(conditions)
            .try_for_each(|keyspace| caller.may(Right::Read, keyspace))?;
        self.writes.iter().try_for_each(|one| {
            let condition = one.write.as_ref().and_then(|write| write.condition.as_ref());
            write(caller, &one.keyspace, condition)
        })
    }
}

impl Needs for v1::TransactionOutcomeRequest {
    /// Without a key every group is asked.
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        let keyspace = self.first_written.as_ref().map(|key| key.keyspace.as_str());
        caller.may(Right::Write, keyspace.unwrap_or(Scope::ALL))
    }
}

impl Needs for v1::ListInDoubtRequest {
    /// Without a keyspace, those that the caller sees are listed.
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        match self.keyspace.as_str() {
            "" => Ok(()),
            keyspace => caller.may(Right::Read, keyspace),
        }
    }
}

fn write(caller: &Caller, keyspace: &str, condition: Option<&v1::Condition>) -> Result<(), Refusal> {
    caller.may(Right::Write, keyspace)?;
    match condition.is_some_and(|condition| condition.must.is_some()) {
        true => caller.may(Right::Read, keyspace),
        false => Ok(()),
    }
}
