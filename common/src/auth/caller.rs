//! Who makes a call, as far as the gate has found out.

use super::refused::Refused;
use super::rights::{Grant, Scope, allows, authorize};
use super::token::{TokenId, TokenRecord};
use super::verbs::Verb;
use fulcrum_types::{Refusal, Right};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// A token in force, shared by all that runs under it.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) id: TokenId,
    pub(super) record: TokenRecord,
    refused: Arc<Refused>,
    /// Why it no longer is.
    why: OnceLock<Over>,
    over: CancellationToken,
}

/// Why what runs under a token is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It was revoked or has expired.
    Gone,
    /// It is still good, but its rights are others: whoever has it asks again.
    Changed,
}

impl InForce {
    pub(super) fn new(id: TokenId, record: TokenRecord, refused: Arc<Refused>) -> Self {
        Self {
            id,
            record,
            refused,
            why: OnceLock::new(),
            over: CancellationToken::new(),
        }
    }

    /// Ends what runs under it. The first reason stands.
    pub(super) fn end(&self, why: Over) {
        let _ = self.why.set(why);
        self.over.cancel();
    }
}

/// Who makes a call.
#[derive(Clone, Debug)]
pub struct Caller(Who);

#[derive(Clone, Debug)]
enum Who {
    /// Anybody, where no token is required.
    Anyone,
    Root,
    Token(Arc<InForce>),
}

const EVERYTHING: &[Grant] = &[Grant::of_root()];

impl Caller {
    /// Somebody of whom nothing is asked.
    #[must_use]
    pub const fn anyone() -> Self {
        Self(Who::Anyone)
    }

    pub(super) const fn root() -> Self {
        Self(Who::Root)
    }

    pub(super) fn with(token: Arc<InForce>) -> Self {
        Self(Who::Token(token))
    }

    /// Whoever makes this call, as the gate has put into it.
    ///
    /// # Errors
    /// There is no gate before this service, which must not be.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| {
            tracing::error!("a service is reached past its gate: nothing is served there");
            Status::internal("this service is set up wrongly: see its log")
        })
    }

    /// Whether it has a right in the keyspace of that name.
    ///
    /// # Errors
    /// It has not; that is counted, and in the log.
    pub fn may(&self, right: Right, keyspace: &str) -> Result<(), Refusal> {
        self.noted(authorize(self.grants(), keyspace, right))
    }

    fn noted(&self, decided: Result<(), Refusal>) -> Result<(), Refusal> {
        if let (Err(refusal), Who::Token(token)) = (&decided, &self.0) {
            token.refused.denied(token.id, &token.record.name, refusal);
        }
        decided
    }

    /// Whether it may use a verb of operators on a keyspace, or on what belongs to none.
    ///
    /// # Errors
    /// It may not.
    pub fn may_use(&self, verb: Verb, keyspace: Option<&str>) -> Result<(), Refusal> {
        let scope = keyspace.filter(|_| verb.is_of_one_keyspace()).unwrap_or(Scope::ALL);
        self.may(Right::Admin, scope)
    }

    /// Whether it may read anything at all: then it may know of nodes, and of what it sees of the rest.
    ///
    /// # Errors
    /// It may not.
    pub fn may_look(&self) -> Result<(), Refusal> {
        if self.grants().iter().any(|grant| grant.right.covers(Right::Read)) {
            return Ok(());
        }
        self.noted(Err(Refusal::Denied {
            scope: "any keyspace".to_owned(),
            right: Right::Read,
        }))
    }

    /// Whether it has any right in a keyspace: then it may know where its keys are.
    #[must_use]
    pub fn knows(&self, keyspace: &str) -> bool {
        let has = |right: Right| allows(self.grants(), keyspace, right);
        Right::ALL.into_iter().any(has)
    }

    /// Whether a keyspace shows in what it is told.
    #[must_use]
    pub fn sees(&self, keyspace: &str) -> bool {
        allows(self.grants(), keyspace, Right::Read)
    }

    /// The token's id and name, for the record of what was done.
    #[must_use]
    pub fn token(&self) -> (Option<String>, &str) {
        match &self.0 {
            Who::Anyone => (None, "anyone"),
            Who::Root => (Some(super::text::ROOT.to_owned()), "root"),
            Who::Token(token) => (Some(token.id.to_string()), &token.record.name),
        }
    }

    fn grants(&self) -> &[Grant] {
        match &self.0 {
            Who::Anyone | Who::Root => EVERYTHING,
            Who::Token(token) => &token.record.grants,
        }
    }

    /// What ends whatever runs for it; none if nothing does.
    pub(super) fn ends(&self) -> Option<&CancellationToken> {
        match &self.0 {
            Who::Anyone | Who::Root => None,
            Who::Token(token) => Some(&token.over),
        }
    }

    /// What is told to whom that ends.
    pub(super) fn farewell(&self) -> Refusal {
        match &self.0 {
            Who::Token(token) if token.why.get() == Some(&Over::Changed) => Refusal::Unknown {
                reason: "the token's rights were changed: begin the stream anew".to_owned(),
            },
            _ => Refusal::Unauthenticated,
        }
    }
}
