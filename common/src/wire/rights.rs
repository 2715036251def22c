//! What each request of the public API needs, keyspace by keyspace, before anything else is looked at.
//!
//! A condition is a read: whether it held says what is there. What became of a write or transaction whoever may write may ask.

use super::status::refusal_to_status;
use super::v1;
use crate::auth::{Caller, Grant, Scope};
use fulcrum_types::{Refusal, Right};
use tonic::{Request, Status};

/// A request that needs rights.
pub trait Needs {
    /// Whether `caller` has them all.
    ///
    /// # Errors
    /// The first that is missing.
    fn check(&self, caller: &Caller) -> Result<(), Refusal>;
}

/// What a call asks, if its caller may ask it.
///
/// # Errors
/// The refusal, as a status.
pub fn permitted<T: Needs>(request: Request<T>) -> Result<T, Status> {
    let caller = Caller::of(&request)?;
    let request = request.into_inner();
    let checked = request.check(&caller);
    checked.map(|()| request).map_err(|refusal| refusal_to_status(&refusal))
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
        write(caller, &self.keyspace, is_conditional(self.condition.as_ref()))
    }
}

impl Needs for v1::DeleteRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        write(caller, &self.keyspace, is_conditional(self.condition.as_ref()))
    }
}

impl Needs for v1::BatchWriteRequest {
    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        let conditional = self.writes.iter().any(|one| is_conditional(one.condition.as_ref()));
        write(caller, &self.keyspace, conditional)
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
            write(caller, &one.keyspace, is_conditional(condition))
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

fn is_conditional(condition: Option<&v1::Condition>) -> bool {
    condition.is_some_and(|condition| condition.must.is_some())
}

fn write(caller: &Caller, keyspace: &str, conditional: bool) -> Result<(), Refusal> {
    caller.may(Right::Write, keyspace)?;
    match conditional {
        true => caller.may(Right::Read, keyspace),
        false => Ok(()),
    }
}

impl From<&Grant> for v1::TokenRight {
    fn from(grant: &Grant) -> Self {
        Self {
            keyspace: grant.scope.name().to_owned(),
            right: grant.right.to_string(),
        }
    }
}

impl TryFrom<&v1::TokenRight> for Grant {
    type Error = String;

    fn try_from(wire: &v1::TokenRight) -> Result<Self, String> {
        Ok(Self {
            scope: Scope::of(&wire.keyspace),
            right: wire.right.parse()?,
        })
    }
}
