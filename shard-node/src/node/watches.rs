//! Watches, step by step: a request for changes waits here until there are some, or until its wait is over.
//!
//! **The promise.** A watch is a cursor over the group's log, and nothing of it is kept between two requests. So a slow watcher
//! costs nothing while it does not ask, any replica can serve the next step, and only applied entries are told. Who asks
//! for what the log no longer holds, or for what a failover lost, is refused; nothing is left out in silence.
//!
//! **The protocol.** A request waits with the entry through which nothing was found for it. At the end of a turn a bounded
//! number of those that are behind the applied entry look on, through a bounded part of the log each. One that finds a change,
//! or whose wait is over, becomes a read at the level it asks and is answered as reads are: contradicted histories refused,
//! staleness proved. A wait that ended with nothing is so a proof that nothing happened, not a sign of life only.
//!
//! A group that is watched keeps more of its log than replication needs, on disk, for watches that lag or come back; one that
//! nobody watches keeps nothing and pays nothing.
//! What a transaction over several groups changed is told with the entry that resolves it here, where it became visible.

use super::group::Group;
use super::reads::{Read, Wanted};
use super::shared::{Failure, Shared};
use crate::event::RequestId;
use crate::state_machine::{ApplyError, changes_of};
use fulcrum_types::{
    Answer, Change, ChangeKind, ChangesQuery, Cursor, Index, Mono, Now, Query, Refusal, ReplicatedTime,
};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of log that one step reads at most, about: what does not fit is the next step's.
const LOG_BYTES_A_STEP: usize = 512 * 1024;
/// Entries that one step reads at most.
const ENTRIES_A_STEP: usize = 2_048;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 64;

/// A step of a watch that has found nothing yet.
struct Step {
    /// What it becomes.
    read: Read,
    query: ChangesQuery,
    wait_until: Mono,
    /// Through here nothing was found.
    examined: Index,
}

/// The steps that wait at a replica.
#[derive(Default)]
pub(super) struct Watches {
    waiting: BTreeMap<RequestId, Step>,
    /// By how far they have come: who is behind is in front.
    order: BTreeSet<(Index, RequestId)>,
    waits: BTreeSet<(Mono, RequestId)>,
    /// The log is kept for watches until then.
    watched_until: Option<Mono>,
}

impl Watches {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether some step can look further than it has.
    pub(super) fn is_behind(&self, applied: Index) -> bool {
        self.order.first().is_some_and(|(examined, _)| *examined < applied)
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        self.take(id);
    }

    pub(super) fn take_all(&mut self) -> Vec<RequestId> {
        self.order.clear();
        self.waits.clear();
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    fn insert(&mut self, id: RequestId, step: Step) {
        self.order.insert((step.examined, id));
        self.waits.insert((step.wait_until, id));
        self.waiting.insert(id, step);
    }

    fn take(&mut self, id: RequestId) -> Option<Step> {
        let step = self.waiting.remove(&id)?;
        self.order.remove(&(step.examined, id));
        self.waits.remove(&(step.wait_until, id));
        Some(step)
    }

    /// Takes out one step that is behind the applied entry.
    fn take_behind(&mut self, applied: Index) -> Option<(RequestId, Step)> {
        let (_, id) = *self.order.first().filter(|(examined, _)| *examined < applied)?;
        self.take(id).map(|step| (id, step))
    }

    /// Takes out one step whose wait is over.
    fn take_overdue(&mut self, now: Mono) -> Option<(RequestId, Step)> {
        let (_, id) = *self.waits.first().filter(|(until, _)| *until <= now)?;
        self.take(id).map(|step| (id, step))
    }
}

/// What a part of the log holds for a watch.
struct Found {
    changes: Vec<Change>,
    reached: Cursor,
    time: ReplicatedTime,
}

impl Group {
    /// Takes a step of a watch in.
    pub(super) fn admit_step(
        &mut self,
        shared: &mut Shared,
        now: Now,
        id: RequestId,
        read: Read,
        query: ChangesQuery,
    ) -> Result<(), Failure> {
        if self.watches.len() >= shared.settings.watches_a_group {
            shared.reply(id, Err(Refusal::Overloaded));
            return Ok(());
        }
        self.count_as_watched(shared, now);
        shared.requests.insert(id, self.id, read.deadline);
        let step = Step {
            wait_until: now.mono + query.wait,
            examined: query.after.map(|after| first_of(after).prev()).unwrap_or_default(),
            read,
            query,
        };
        if step.query.after.is_none() || step.query.wait.is_zero() {
            return self.read_changes(shared, now, id, step);
        }
        self.watches.insert(id, step);
        Ok(())
    }

    /// A replica that had kept log for watches before it restarted keeps it on: they will be back.
    pub(super) fn resume_watches(&mut self, shared: &Shared, now: Now) {
        if self.log.kept_after() < self.log.base().position.index {
            self.count_as_watched(shared, now);
        }
    }

    fn count_as_watched(&mut self, shared: &Shared, now: Now) {
        if self.watches.watched_until.is_none() {
            self.log.keep_for_watches(shared.settings.watch_log_bytes);
        }
        self.watches.watched_until = Some(now.mono + shared.settings.watched_for);
    }

    /// Lets steps that are behind look on; a bounded number in a turn.
    pub(super) fn look_for_changes(&mut self, shared: &mut Shared, now: Now) -> Result<(), Failure> {
        for _ in 0..shared.settings.watch_steps_a_turn {
            let Some((id, step)) = self.watches.take_behind(self.applied().index) else {
                break;
            };
            self.look_on(shared, now, id, step)?;
        }
        Ok(())
    }

    /// Answers the steps whose wait is over: with how far nothing happened.
    pub(super) fn end_waits(&mut self, shared: &mut Shared, now: Now) -> Result<(), Failure> {
        while let Some((id, step)) = self.watches.take_overdue(now.mono) {
            self.read_changes(shared, now, id, step)?;
        }
        if self.watches.watched_until.is_some_and(|until| until <= now.mono) {
            self.watches.watched_until = None;
            self.log.keep_for_watches(0);
        }
        Ok(())
    }

    fn look_on(&mut self, shared: &mut Shared, now: Now, id: RequestId, mut step: Step) -> Result<(), Failure> {
        let after = step.query.after.unwrap_or_default();
        if !self.history.holds(after.position) || first_of(after) <= self.log.kept_after() {
            // The read will say what is wrong.
            return self.read_changes(shared, now, id, step);
        }
        let first_only = ChangesQuery {
            after: Some(after),
            max_bytes: 1,
            ..step.query.clone()
        };
        let found = self.find(shared, after, &first_only)?;
        if !found.changes.is_empty() {
            return self.read_changes(shared, now, id, step);
        }
        step.examined = found.reached.position.index;
        step.query.after = Some(found.reached);
        self.watches.insert(id, step);
        Ok(())
    }

    fn read_changes(&mut self, shared: &mut Shared, now: Now, id: RequestId, step: Step) -> Result<(), Failure> {
        let Step { mut read, query, .. } = step;
        read.seen = query.after.map(|after| after.position).or(read.seen);
        read.wanted = Wanted::Query(Query::Changes(query));
        self.start_read(shared, now, id, read)
    }

    /// What a read of changes is answered.
    pub(super) fn changes(&self, shared: &Shared, query: &ChangesQuery) -> Result<Result<Answer, Refusal>, Failure> {
        let applied = self.machine.applied();
        let Some(after) = query.after else {
            return Ok(Ok(Answer::Changes {
                changes: Vec::new(),
                reached: Cursor::behind(applied.position),
                time: applied.time,
            }));
        };
        if first_of(after) <= self.log.kept_after() {
            return Ok(Err(Refusal::Compacted {
                group: self.id,
                after: after.position,
                kept_after: self.log.kept_after(),
            }));
        }
        let Found { changes, reached, time } = self.find(shared, after, query)?;
        Ok(Ok(Answer::Changes { changes, reached, time }))
    }

    /// Reads the log behind a cursor. Stops where enough was found, or looked at, for one step.
    fn find(&self, shared: &Shared, after: Cursor, query: &ChangesQuery) -> Result<Found, Failure> {
        let applied = self.machine.applied();
        let mut found = Found {
            changes: Vec::new(),
            reached: after,
            time: applied.time,
        };
        let first = first_of(after);
        let last = applied.position.index.min(Index(first.0 + ENTRIES_A_STEP as u64 - 1));
        if first > last {
            return Ok(found);
        }
        let (mut read, mut bytes) = (0, 0);
        for noted in self.log.entries(&shared.store, first, last)? {
            let noted = noted?;
            let position = noted.entry.position;
            let index = position.index;
            let said = if index == after.position.index {
                after.part.unwrap_or(0)
            } else {
                0
            };
            let changes = changes_of(&noted).map_err(|error| ApplyError::Command { index, error })?;
            for change in changes.into_iter().skip(said as usize) {
                if query.selection.matches(&change.key) {
                    bytes += size(&change);
                    found.changes.push(change);
                }
            }
            found.reached = Cursor::behind(position);
            found.time = noted.entry.time;
            read += noted.entry.size() + ENTRY_BYTES;
            if bytes >= query.max_bytes as usize || read >= LOG_BYTES_A_STEP {
                break;
            }
        }
        Ok(found)
    }
}

/// The first entry to be read: one of which only a part was said, once more.
fn first_of(after: Cursor) -> Index {
    match after.part {
        Some(_) => after.position.index.max(Index(1)),
        None => after.position.index.next(),
    }
}

fn size(change: &Change) -> usize {
    let value = match &change.kind {
        ChangeKind::Put(value) => value.value.len(),
        _ => 0,
    };
    change.key.len() + value + ENTRY_BYTES
}
