//! Feeds committed entries to the state machine, in order, and hands the outcomes to those who wait.

use super::bugs::Bug;
use super::group::Group;
use super::settings::limits;
use super::shared::{Failure, Shared};
use crate::event::Observation;
use crate::state_machine::{ApplyOutcome, StateMachine, TransactionEvent};
use crate::storage::{Reader, Space, StateKind, state_range};
use fulcrum_replication::Input;
use fulcrum_types::{Now, Refusal, Role};

impl Group {
    /// Applies what is committed. What that changes is staged in the open batch and needs no durability of its own: it can
    /// be made again from the log. How far it is applied goes out with the next batch.
    pub(super) fn apply(&mut self, shared: &mut Shared, now: Now) -> Result<(), Failure> {
        if !self.is_due() {
            return Ok(());
        }
        let applied = self.apply_due(shared, now);
        self.machine.stage_applied(&mut shared.store);
        let entries = applied?;
        let through = self.applied().index;
        self.log.note_applied(&mut shared.store, through);
        shared.observe(Observation::Applied {
            group: self.id,
            through,
            entries,
        });
        self.inputs.push_back(Input::Applied { through });
        self.evaluate_due(shared)
    }

    /// Whether something committed is to be applied.
    fn is_due(&self) -> bool {
        self.tail.front().is_some_and(|e| e.position.index <= self.commit)
    }

    fn apply_due(&mut self, shared: &mut Shared, now: Now) -> Result<usize, Failure> {
        let mut entries = 0;
        while let Some(entry) = self.tail.front().filter(|e| e.position.index <= self.commit) {
            let outcome = self.machine.apply_next(&mut shared.store, entry)?;
            if let Some(entry) = self.tail.pop_front() {
                if let ApplyOutcome::Cut(answer) = &outcome {
                    self.note_cut(shared, now.mono, &entry, answer);
                }
                self.applied_one(shared, now, &entry, outcome);
            }
            if self.machine.has_events() {
                self.note_transactions(shared, now);
            }
            entries += 1;
        }
        Ok(entries)
    }

    /// What an entry did to transactions, for those who wait for it, look after it, or count it.
    fn note_transactions(&mut self, shared: &mut Shared, now: Now) {
        let group = self.id;
        let leads = self.view.role == Role::Primary;
        for event in self.machine.take_events() {
            let counted = match event {
                TransactionEvent::Prepared(id) => {
                    self.begin_doubt(shared, now.mono, id);
                    None
                }
                TransactionEvent::Released { id, committed } => {
                    let took = self.in_doubt.age(id, now.mono).unwrap_or_default();
                    let on_its_own = self.end_doubt(id);
                    self.wake(shared, now, id);
                    Some(Observation::TransactionResolved {
                        group,
                        took,
                        committed,
                        on_its_own,
                    })
                }
                TransactionEvent::Unresolved(id) => {
                    self.begin_telling(now.mono, id);
                    None
                }
                TransactionEvent::Forgotten(id) => {
                    self.home.remove(id);
                    None
                }
                TransactionEvent::Committed(_) => Some(Observation::TransactionCommitted { group }),
                TransactionEvent::Refused(_, cause) | TransactionEvent::Aborted(_, cause) => {
                    Some(Observation::TransactionAborted { group, cause })
                }
                TransactionEvent::Contradicted(id) => Some(Observation::TransactionContradicted { group, id }),
            };
            if let Some(observation) = counted.filter(|_| leads) {
                shared.observe(observation);
            }
        }
    }

    /// Another generation of the state is current: opens it.
    pub(super) fn state_replaced(&mut self, shared: &mut Shared) -> Result<(), Failure> {
        let generation = self.log.generation();
        if shared.bugs.has(Bug::SnapshotWithoutRetryTable) {
            for kind in [StateKind::Outcome, StateKind::Client] {
                let (start, end) = state_range(self.id, generation, kind);
                let doomed: Result<Vec<_>, _> = shared.store.range(Space::State, &start, &end).collect();
                for (key, _) in doomed? {
                    shared.store.delete(Space::State, key);
                }
            }
        }
        let cache = shared.cache_share;
        self.machine = StateMachine::open(&shared.store, self.id, generation, limits(&self.keyspace), cache)?;
        #[cfg(feature = "planted-bugs")]
        self.machine.plant(shared.bugs.clone());
        self.forget_transactions(shared, &Refusal::NotPrimary { hint: None });
        Ok(())
    }
}
