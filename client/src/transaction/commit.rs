//! Sends a commit until it is known what became of it.
//!
//! A commit is sent again under its id with the same contents, at any router, however often its answer is lost: every step of
//! it is idempotent. When the time for that is up and nobody has answered, the outcome is asked for, and settled: what is not
//! decided then is aborted by the question.

use super::answer::check_count;
use super::look_up::UnfinishedTransaction;
use crate::client::Shared;
use crate::error::Error;
use crate::retry::{Retries, Verdict};
use fulcrum_common::wire::v1;
use fulcrum_types::{
    AbortCause, Act, ClientId, CommitOutcome, CommitRequest, Committed, OutcomeRequest, Receipt, Refusal, Told,
    TransactionOutcome,
};
use std::time::Duration;
use tokio::time::Instant;

/// Kept of the time, a quarter at most, to ask for the outcome of a commit that was not answered.
const SETTLE_RESERVE: Duration = Duration::from_secs(1);
/// Of a commit in a session that only a look-up has told of.
const NOT_TAKEN_IN: &str =
    "it is committed, but not every group has said where, so that its session might read what was before";

/// Why an attempt is not committed.
pub(super) enum Uncommitted {
    /// Surely nothing of it was or will be applied, and it may commit if it is run again.
    Again(Refusal),
    /// The same, but time is up: another attempt could only end unknown.
    TooLate(Refusal),
    /// Running it again is not for the client to decide.
    Final(Error),
}

impl From<Error> for Uncommitted {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(refusal) if may_commit_anew(&refusal) => Uncommitted::Again(refusal),
            // Said of what writes nothing: for the rest it is unknown.
            Error::Refused(refusal @ Refusal::TooOldToTell) => Uncommitted::Again(refusal),
            other => Uncommitted::Final(other),
        }
    }
}

/// An abort for the client's sake is one for ours: nobody else has the id, and it was our own question that wanted a definite outcome.
fn may_commit_anew(refusal: &Refusal) -> bool {
    let for_us = matches!(
        refusal,
        Refusal::Aborted {
            cause: AbortCause::Client,
            ..
        }
    );
    for_us || refusal.act() == Act::Abort
}

impl Shared {
    /// `in_session` if all receipts are needed.
    pub(super) async fn commit(
        &self,
        request: CommitRequest,
        until: Instant,
        in_session: bool,
    ) -> Result<Committed, Uncommitted> {
        let unfinished = UnfinishedTransaction::of(&request);
        let writes = request.writes.len();
        let wire = v1::CommitRequest::from(request);
        let send_until = if writes > 0 { leaving_reserve(until) } else { until };
        let reason = match self.send(wire.clone(), writes, send_until).await {
            Err(Unanswered::Unknown(reason)) => reason,
            Err(Unanswered::Refused(error)) => return Err(error.into()),
            Ok(committed) => return Ok(committed),
        };
        let told = self.outcome_of(unfinished.request(true), until).await;
        let Told { outcome, receipt } = told.map_err(|_| unfinished.clone().unknown(reason.clone()))?;
        let mut groups = 1;
        let decided = match outcome {
            TransactionOutcome::Committed(parts) => {
                groups = parts.len();
                Ok(known_to_be_committed(receipt))
            }
            TransactionOutcome::Aborted(cause) => {
                let id = unfinished.id();
                Err(Error::Refused(Refusal::Aborted { id, cause }))
            }
            TransactionOutcome::Undecided | TransactionOutcome::NotSeen | TransactionOutcome::TooOld => {
                return Err(unfinished.unknown(reason).into());
            }
        };
        // The answer itself has the versions and all receipts, or the key whose condition did not hold.
        let has_more = match &decided {
            Ok(_) => true,
            Err(error) => failed_on_a_condition(error),
        };
        if has_more && let Ok(answer) = self.send(wire, writes, until).await {
            return Ok(answer);
        }
        if in_session && groups > 1 {
            return Err(unfinished.unknown(NOT_TAKEN_IN.into()).into());
        }
        match decided.map_err(Uncommitted::from) {
            Err(Uncommitted::Again(refusal)) if Instant::now() >= send_until => Err(Uncommitted::TooLate(refusal)),
            decided => decided,
        }
    }

    async fn send(&self, wire: v1::CommitRequest, writes: usize, until: Instant) -> Result<Committed, Unanswered> {
        let client = ClientId(wire.id.unwrap_or_default().client);
        let answer = match self.call_router(wire, until, Retries::new(writes > 0)).await {
            Ok(answer) => answer,
            Err(Verdict::Unknown(reason)) => return Err(Unanswered::Unknown(reason)),
            // Of a commit this does not say that nothing was applied: its record may be gone already.
            Err(Verdict::Refused(refusal @ Refusal::TooOldToTell)) if writes > 0 => {
                self.identities.retire(client);
                return Err(Unanswered::Unknown(refusal.to_string()));
            }
            Err(verdict) => return Err(Unanswered::Refused(verdict.error())),
        };
        checked(answer, writes).map_err(Unanswered::Refused)
    }

    /// Asks what became of a transaction.
    pub(super) async fn outcome_of(&self, request: OutcomeRequest, until: Instant) -> Result<Told, Error> {
        let request = v1::TransactionOutcomeRequest::from(request);
        let answer = self.call_router(request, until, Retries::new(false)).await;
        Ok(answer.map_err(|verdict| verdict.error())?.try_into()?)
    }
}

/// A commit that has no answer of its own.
enum Unanswered {
    /// It may be committed.
    Unknown(String),
    /// It is settled otherwise.
    Refused(Error),
}

fn failed_on_a_condition(error: &Error) -> bool {
    let Some(Refusal::Aborted { cause, .. }) = error.refusal() else {
        return false;
    };
    matches!(cause, AbortCause::ConditionFailed { .. })
}

fn checked(answer: v1::CommitResponse, writes: usize) -> Result<Committed, Error> {
    let committed = Committed::try_from(answer)?;
    if let CommitOutcome::Committed { versions, .. } = &committed.outcome {
        check_count("versions", versions.len(), writes)?;
    }
    Ok(committed)
}

fn known_to_be_committed(receipt: Receipt) -> Committed {
    let outcome = CommitOutcome::Committed {
        versions: Vec::new(),
        rounds: 0,
    };
    let receipts = vec![receipt];
    Committed { outcome, receipts }
}

fn leaving_reserve(until: Instant) -> Instant {
    let left = until.saturating_duration_since(Instant::now());
    until - (left / 4).min(SETTLE_RESERVE)
}
