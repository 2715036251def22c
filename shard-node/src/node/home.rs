//! The home group's primary finishes what its coordinator left: it tells the participants of every commit that they are not
//! known to have resolved, and forgets it once all of them have.
//!
//! A live coordinator does both within a moment. Only what is still unresolved after [`TELL_AFTER`] is told from here, and again
//! until every participant has answered; a new primary begins anew, with all that its state says is unresolved.

use super::asking::Purpose;
use super::group::Group;
use super::shared::Shared;
use crate::state_machine::Command;
use fulcrum_types::{
    Answer, Answered, Mono, Now, Participant, Refusal, Resolution, Role, TransactionAnswer, TransactionId,
    TransactionOperation, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the coordinator has to do it.
const TELL_AFTER: Duration = Duration::from_secs(2);
/// How long participants have to answer before they are told again.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Transactions told of in one turn.
const AT_ONCE: usize = 256;

struct Telling {
    since: Mono,
    next: Mono,
    /// Who has not answered.
    remaining: BTreeSet<Participant>,
}

/// Commits that are not known to be resolved everywhere, at the primary of their home.
#[derive(Default)]
pub(super) struct Home {
    known: BTreeMap<TransactionId, Telling>,
    due: BTreeSet<(Mono, TransactionId)>,
    /// Resolved everywhere: to be forgotten at the end of the turn.
    finished: BTreeSet<TransactionId>,
}

impl Home {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Since when this primary knows of it.
    pub(super) fn age(&self, id: TransactionId, now: Mono) -> Option<Duration> {
        Some(now.since(self.known.get(&id)?.since))
    }

    fn insert(&mut self, id: TransactionId, since: Mono, remaining: BTreeSet<Participant>) {
        let next = since + TELL_AFTER;
        self.due.insert((next, id));
        self.known.insert(id, Telling { since, next, remaining });
    }

    pub(super) fn remove(&mut self, id: TransactionId) {
        if let Some(telling) = self.known.remove(&id) {
            self.due.remove(&(telling.next, id));
        }
        self.finished.remove(&id);
    }

    /// Takes the first that is due, and looks at it again at `next`.
    fn take_due(&mut self, now: Mono, next: Mono) -> Option<TransactionId> {
        let (at, id) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, id));
        let telling = self.known.get_mut(&id)?;
        telling.next = next;
        self.due.insert((next, id));
        Some(id)
    }
}

impl Group {
    /// A commit was recorded here in which other groups have a part.
    pub(super) fn begin_telling(&mut self, now: Mono, id: TransactionId) {
        if self.view.role != Role::Primary {
            return;
        }
        let Some(committed) = self.machine.unresolved_one(id) else {
            return;
        };
        let others = committed.parts.iter().map(|part| part.participant);
        let remaining = others.filter(|other| other.group != self.id).collect();
        self.home.insert(id, now, remaining);
    }

    pub(super) fn take_over_commits(&mut self, now: Mono) {
        self.home.clear();
        let ids: Vec<TransactionId> = self.machine.unresolved().map(|(id, _)| id).collect();
        for id in ids {
            self.begin_telling(now, id);
        }
    }

    /// Tells participants of what they should have heard by now.
    pub(super) fn tend_commits(&mut self, shared: &mut Shared, now: Now) {
        let mut to_tell: BTreeMap<Participant, Vec<Resolution>> = BTreeMap::new();
        let next = now.mono + ANSWER_WITHIN + ANSWER_WITHIN / 2;
        for _ in 0..AT_ONCE {
            let Some(id) = self.home.take_due(now.mono, next) else {
                break;
            };
            let Some(committed) = self.machine.unresolved_one(id) else {
                self.home.remove(id);
                continue;
            };
            let verdict = Verdict::Commit(committed.fingerprint);
            let remaining = self.home.known.get(&id).map(|telling| &telling.remaining);
            let remaining = remaining.into_iter().flatten();
            for participant in remaining {
                to_tell
                    .entry(*participant)
                    .or_default()
                    .push(Resolution { id, verdict });
            }
            if self
                .home
                .known
                .get(&id)
                .is_some_and(|telling| telling.remaining.is_empty())
            {
                self.home.finished.insert(id);
            }
        }
        for (to, resolutions) in to_tell {
            let ids = resolutions.iter().map(|resolution| resolution.id).collect();
            let operation = TransactionOperation::Resolve(resolutions);
            self.ask_group(shared, to, operation, ANSWER_WITHIN, Purpose::Tell { to, ids });
        }
    }

    /// A participant has answered what it was told, or did not.
    pub(super) fn told(&mut self, to: Participant, ids: &[TransactionId], result: &Result<Answered, Refusal>) {
        let Ok(Answered {
            answer: Answer::Transaction(TransactionAnswer::Resolved(_)),
            ..
        }) = result
        else {
            return;
        };
        for id in ids {
            let Some(telling) = self.home.known.get_mut(id) else {
                continue;
            };
            telling.remaining.remove(&to);
            if telling.remaining.is_empty() {
                self.home.finished.insert(*id);
            }
        }
    }

    /// Proposes to forget what is resolved everywhere.
    pub(super) fn propose_forgetting(&mut self, shared: &mut Shared) {
        if !self.home.finished.is_empty() {
            let finished = std::mem::take(&mut self.home.finished);
            self.propose_own(shared, &Command::Forget(finished.into_iter().collect()));
        }
    }
}
