//! Everything that waits for time to pass, in one queue. Timers fire at a tick, in order of time.

use crate::contract::RequestId;
use crate::transaction::Key;
use fulcrum_types::{Mono, Participant};
use std::collections::BTreeSet;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A client gives up.
    Deadline(RequestId),
    /// No more votes are waited for.
    Votes(Key),
    /// A vote is asked for again.
    Vote(Key, usize),
    /// The home group is asked again.
    Home(Key),
    /// A transaction is left to its groups.
    Leave(Key),
    /// A group is told its decisions again.
    Tell(Participant),
    /// A read or a validation is asked for again.
    Read(RequestId, usize),
    /// A place is asked again.
    LookUp(RequestId, usize),
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Mono, Timer)>,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Mono, timer: Timer) {
        self.queue.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, at: Mono, timer: Timer) {
        self.queue.remove(&(at, timer));
    }

    /// Takes the next one that is due.
    pub(crate) fn due(&mut self, now: Mono) -> Option<Timer> {
        let first = self.queue.first().copied().filter(|(at, _)| *at <= now)?;
        self.queue.remove(&first);
        Some(first.1)
    }

    pub(crate) fn has(&self, at: Mono, timer: Timer) -> bool {
        self.queue.contains(&(at, timer))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Mono, Timer)> + '_ {
        self.queue.iter().copied()
    }
}

/// What something waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing: it is done, or has not begun.
    #[default]
    Nothing,
    /// The end of a question.
    Answer(crate::contract::AskId),
    /// The moment at which it is asked again.
    Until(Mono),
}
