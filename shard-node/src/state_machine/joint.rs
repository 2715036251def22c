//! Writes that were joined to one entry.
//!
//! **The promise.** Each is judged as it would be in an entry of its own: by its own idempotency key, by the locks on its own key,
//! by its own condition; what becomes of one concerns no other. A retry of one is recognised whichever way it comes, alone or
//! in another joint. No key comes twice in a joint (checked before it is proposed): a key's version is the index of the entry that
//! wrote it, so two writes of one key in one entry would have the same.

use super::{ApplyOutcome, Bug, Moment, StateMachine};
use crate::storage::{StorageError, Store};
use fulcrum_types::{JoinedWrite, Refusal, Version, WriteOutcome};

impl StateMachine {
    pub(super) fn joint(
        &mut self,
        store: &mut Store,
        moment: Moment,
        writes: &[JoinedWrite],
    ) -> Result<ApplyOutcome, StorageError> {
        let mut results = Vec::with_capacity(writes.len());
        for (number, write) in (0..).zip(writes) {
            let idempotency = write.idempotency.as_ref().filter(|_| !self.has(Bug::JoinedWithoutKeys));
            let op = std::slice::from_ref(&write.op);
            let outcome = self.write(store, moment, idempotency, number, op)?;
            if !matches!(outcome, ApplyOutcome::Written(_)) {
                self.footnote.idle.push(number);
            }
            results.push(match outcome {
                ApplyOutcome::Blocked { .. } if self.has(Bug::JoinedPastLocks) => Ok(WriteOutcome::Applied {
                    version: Version(moment.index.0),
                    existed: false,
                }),
                outcome => answer(outcome),
            });
        }
        Ok(ApplyOutcome::Joint(results))
    }
}

fn answer(outcome: ApplyOutcome) -> Result<WriteOutcome, Refusal> {
    match outcome {
        ApplyOutcome::Written(outcomes) | ApplyOutcome::Repeated(outcomes) => match <[_; 1]>::try_from(outcomes) {
            Ok([outcome]) => Ok(outcome),
            Err(_) => Err(Refusal::Invalid {
                reason: "the idempotency key was used for a batch: take a new one for every request".into(),
            }),
        },
        ApplyOutcome::Blocked { by } => Err(Refusal::Locked { by }),
        ApplyOutcome::Refused(refusal) => Err(refusal.into()),
        ApplyOutcome::Noop | ApplyOutcome::Joint(_) | ApplyOutcome::Transaction(_) | ApplyOutcome::Cut(_) => {
            unreachable!("a write has become none of these")
        }
    }
}
