//! Promises whose decision is not known here, and how the primary of a participant finds it out on its own.
//!
//! **The promise.** Nothing stays in doubt because a coordinator died: within its patience after the last sign of life, and
//! within a bound whatever is heard, a participant asks the home group to record an abort, again and again, and does
//! as is recorded there, this abort or what was recorded before it. A new primary begins with all its patience.
//!
//! **The protocol.** Every prepared transaction has one moment at which it is looked at again. Signs of life move that moment
//! when it comes, not before: they cost nothing.

use super::asking::Purpose;
use super::group::Group;
use super::shared::Shared;
use fulcrum_types::{
    AbortCause, Answer, Answered, Decide, Decision, GroupId, Mono, Now, Refusal, Resolution, Role, TransactionAnswer,
    TransactionId, TransactionOperation, Verdict,
};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Questions to a home group that are under way at a time. One that is silent does not hold up the others.
const QUESTIONS: usize = 256;
/// How long the home group has to answer before it is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Pause before the next try of what did not succeed.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

struct Doubt {
    since: Mono,
    /// When its coordinator was last heard of.
    heard: Option<Mono>,
    /// When it is looked at next, or what for.
    next: Next,
    /// This primary has tried to find its decision out.
    asked_after: bool,
}

#[derive(Clone, Copy)]
enum Next {
    Look(Mono),
    /// Its home group is being asked.
    Asked(GroupId),
    /// Its home group is asked as much as it may be.
    Held(GroupId),
}

/// The transactions in doubt at a primary.
#[derive(Default)]
pub(super) struct InDoubt {
    known: BTreeMap<TransactionId, Doubt>,
    due: BTreeSet<(Mono, TransactionId)>,
    asked: BTreeMap<GroupId, usize>,
    held: BTreeMap<GroupId, BTreeSet<TransactionId>>,
}

impl InDoubt {
    fn insert(&mut self, id: TransactionId, since: Mono, next: Mono) {
        self.due.insert((next, id));
        self.known.insert(
            id,
            Doubt {
                since,
                heard: None,
                next: Next::Look(next),
                asked_after: false,
            },
        );
    }

    /// Whether it was asked after.
    fn remove(&mut self, id: TransactionId) -> bool {
        let Some(doubt) = self.known.remove(&id) else {
            return false;
        };
        self.leave(id, doubt.next);
        doubt.asked_after
    }

    fn leave(&mut self, id: TransactionId, next: Next) {
        match next {
            Next::Look(at) => {
                self.due.remove(&(at, id));
            }
            Next::Asked(home) => {
                if let Entry::Occupied(mut asked) = self.asked.entry(home) {
                    *asked.get_mut() -= 1;
                    if *asked.get() == 0 {
                        asked.remove();
                    }
                }
            }
            Next::Held(home) => self.release(home, id),
        }
    }

    /// Looks again at what was held, as much of it as its home groups may be asked now, the oldest first.
    fn let_go(&mut self) {
        let (mut free, asked) = (Vec::new(), &self.asked);
        for (home, held) in &self.held {
            let room = QUESTIONS.saturating_sub(asked.get(home).copied().unwrap_or(0));
            free.extend(held.iter().copied().take(room));
        }
        for id in free {
            let since = self.known.get(&id).map_or(Mono(0), |doubt| doubt.since);
            self.again(id, since);
        }
    }

    fn release(&mut self, home: GroupId, id: TransactionId) {
        if let Entry::Occupied(mut held) = self.held.entry(home) {
            held.get_mut().remove(&id);
            if held.get().is_empty() {
                held.remove();
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn heard_of(&mut self, ids: &[TransactionId], now: Mono) {
        for id in ids {
            if let Some(doubt) = self.known.get_mut(id) {
                doubt.heard = Some(now);
            }
        }
    }

    /// Since when its coordinator was not heard of, if it ever was.
    pub(super) fn silent(&self, id: TransactionId, now: Mono) -> Option<Duration> {
        Some(now.since(self.known.get(&id)?.heard?))
    }

    /// Since when this primary knows of it.
    pub(super) fn age(&self, id: TransactionId, now: Mono) -> Option<Duration> {
        Some(now.since(self.known.get(&id)?.since))
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// The longest that one has been in doubt, as this primary knows.
    pub(super) fn oldest(&self, now: Mono) -> Duration {
        let since = self.known.values().map(|doubt| doubt.since).min();
        since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// Looks at it again at that moment. An answer may come when it is no longer in doubt.
    fn again(&mut self, id: TransactionId, at: Mono) {
        let Some(doubt) = self.known.get_mut(&id) else { return };
        let before = std::mem::replace(&mut doubt.next, Next::Look(at));
        self.leave(id, before);
        self.due.insert((at, id));
    }

    fn asking(&mut self, id: TransactionId, home: GroupId) {
        let Some(doubt) = self.known.get_mut(&id) else { return };
        doubt.asked_after = true;
        let before = std::mem::replace(&mut doubt.next, Next::Asked(home));
        self.leave(id, before);
        *self.asked.entry(home).or_default() += 1;
    }

    /// Puts it by until a question to its home group has ended.
    fn hold(&mut self, id: TransactionId, home: GroupId) {
        let Some(doubt) = self.known.get_mut(&id) else { return };
        let before = std::mem::replace(&mut doubt.next, Next::Held(home));
        self.leave(id, before);
        self.held.entry(home).or_default().insert(id);
    }

    /// Whether a home group is asked as much as it may be.
    fn is_busy(&self, home: GroupId) -> bool {
        self.asked.get(&home).is_some_and(|asked| *asked >= QUESTIONS)
    }

    fn next_due(&self, now: Mono) -> Option<TransactionId> {
        let (_, id) = *self.due.first().filter(|(next, _)| *next <= now)?;
        Some(id)
    }

    fn patience_ends(&self, id: TransactionId, patience: Duration, at_most: Duration) -> Mono {
        let Some(doubt) = self.known.get(&id) else {
            return Mono(0);
        };
        let quiet = doubt.heard.unwrap_or(doubt.since) + patience;
        quiet.min(doubt.since + at_most)
    }
}

impl Group {
    /// A transaction is prepared here: it is in doubt from now on.
    pub(super) fn begin_doubt(&mut self, shared: &Shared, now: Mono, id: TransactionId) {
        if self.view.role == Role::Primary {
            self.in_doubt.insert(id, now, now + shared.settings.patience);
        }
    }

    /// It is resolved. Whether this primary had to ask for it.
    pub(super) fn end_doubt(&mut self, id: TransactionId) -> bool {
        self.decisions.remove(&id);
        self.known.remove(&id);
        self.in_doubt.remove(id)
    }

    /// A new primary takes over what is in doubt, with all its patience.
    pub(super) fn take_over_doubts(&mut self, shared: &Shared, now: Mono) {
        self.in_doubt.clear();
        let ids: Vec<TransactionId> = self.machine.prepared().map(|(id, _)| id).collect();
        for id in ids {
            self.begin_doubt(shared, now, id);
        }
    }

    /// Asks after those whose patience is over.
    pub(super) fn tend_doubts(&mut self, shared: &mut Shared, now: Now) {
        let (patience, at_most) = (shared.settings.patience, shared.settings.in_doubt_max);
        self.in_doubt.let_go();
        while let Some(id) = self.in_doubt.next_due(now.mono) {
            let ends = self.in_doubt.patience_ends(id, patience, at_most);
            if ends > now.mono {
                self.in_doubt.again(id, ends);
                continue;
            }
            let Some(promise) = self.machine.promise_to(id) else {
                self.in_doubt.remove(id);
                continue;
            };
            let home = promise.home;
            let decide = Decide {
                id,
                fingerprint: Some(promise.fingerprint),
                cause: AbortCause::Abandoned,
            };
            if self.in_doubt.is_busy(home.group) {
                self.in_doubt.hold(id, home.group);
                continue;
            }
            let operation = TransactionOperation::Decide(decide);
            self.ask_group(shared, home, operation, ANSWER_WITHIN, Purpose::Settle(id));
            self.in_doubt.asking(id, home.group);
        }
    }

    /// The home group has answered what became of a transaction in doubt here, or did not.
    pub(super) fn settled(&mut self, now: Mono, id: TransactionId, result: Result<Answered, Refusal>) {
        self.in_doubt.again(id, now + AGAIN_AFTER);
        let Ok(Answered {
            answer: Answer::Transaction(TransactionAnswer::Decision(decision)),
            ..
        }) = result
        else {
            return;
        };
        self.learn(id, verdict_of(&decision));
    }

    /// A decision has become known: it is proposed at the end of the turn, if the promise still stands.
    pub(super) fn learn(&mut self, id: TransactionId, verdict: Verdict) {
        if self.view.role == Role::Primary && self.machine.promise_to(id).is_some() {
            self.note_verdict(id, verdict);
            self.decisions.insert(id, verdict);
        }
    }

    /// Keeps a decision on a promise made here for the reads that meet its intents before it is applied: it is recorded at home, so
    /// it cannot change.
    pub(super) fn note_verdict(&mut self, id: TransactionId, verdict: Verdict) {
        let Some(promise) = self.machine.promise_to(id) else {
            return;
        };
        let is_meant = match verdict {
            Verdict::Commit(fingerprint) => fingerprint == promise.fingerprint,
            Verdict::Abort { of, .. } => of.is_none_or(|of| of == promise.fingerprint),
        };
        if is_meant && self.view.role == Role::Primary {
            self.known.insert(id, verdict);
        }
    }

    /// Proposes what was learned, so many bytes of values an entry.
    pub(super) fn propose_decisions(&mut self, shared: &mut Shared) {
        let learned = std::mem::take(&mut self.decisions);
        let all: Vec<Resolution> = learned
            .into_iter()
            .map(|(id, verdict)| Resolution { id, verdict })
            .collect();
        self.propose_resolutions(shared, all);
    }
}

/// A decision as a participant needs it, who has it from the home group of its own promise.
pub(super) fn verdict_of(decision: &Decision) -> Verdict {
    match decision {
        Decision::Committed { fingerprint, .. } => Verdict::Commit(*fingerprint),
        Decision::Aborted(cause) => Verdict::Abort {
            of: None,
            cause: *cause,
        },
    }
}
