//! Which rows of the table of crash points in `docs/transactions.md` a run has hit: where each transaction stood when a process died that it
//! rested on. What stood is judged by what the groups had recorded, not by what the dead one knew.

use crate::sim::world::World;
use fulcrum_two_phase::{Effect, Input, Shape};
use fulcrum_types::{GroupId, NodeId, Operation, Participant, TransactionId, TransactionOperation, Verdict};
use std::collections::BTreeSet;

/// What a coordinator has done for a transaction of several groups, in this life.
#[derive(Clone, Debug)]
pub struct Followed {
    home: Participant,
    others: Vec<Participant>,
    prepares: usize,
    asked: Option<bool>,
    answered: bool,
    forgotten: bool,
    request: fulcrum_two_phase::RequestId,
}

/// The rows, as the report prints them, also those that were never hit.
pub const ROWS: [&str; 19] = [
    "C1 before any prepare",
    "C2 some prepares sent",
    "C3 all prepared",
    "C4 commit asked, not recorded",
    "C5 recorded, not answered",
    "C6 answered, nothing resolved",
    "C7 some resolved",
    "C8 all resolved, not forgotten",
    "C9 abort asked, not recorded",
    "P1 prepare not ordered",
    "P2 prepare ordered, not committed",
    "P3 prepared, not answered",
    "P4 prepared, not resolved",
    "P5 resolve ordered, not committed",
    "P6 resolved, not answered",
    "H1 decision not ordered",
    "H2 decision ordered, not committed",
    "H3 decided, not answered",
    "H4 not forgotten",
];

impl World {
    /// A coordinator is given a transaction.
    pub(super) fn follow(&mut self, number: usize, input: &Input) {
        let Input::Commit { plan, request, .. } = input else {
            return;
        };
        if plan.shape() != Shape::Spanning {
            return;
        }
        let all = plan.parts.iter().map(|part| part.participant);
        let followed = Followed {
            home: plan.home,
            others: all.filter(|participant| *participant != plan.home).collect(),
            prepares: 0,
            asked: None,
            answered: false,
            forgotten: false,
            request: *request,
        };
        let groups = plan.parts.iter().map(|part| part.participant.group).collect();
        self.watch
            .records
            .begin(plan.id, plan.fingerprint, plan.home.group, groups, self.now);
        self.transactions.coordinators[number]
            .follows
            .entry(plan.id)
            .or_insert(followed);
    }

    /// A coordinator does something.
    pub(super) fn note_effect(&mut self, number: usize, effect: &Effect) {
        let follows = &mut self.transactions.coordinators[number].follows;
        match effect {
            Effect::Ask { operation, .. } => match operation {
                TransactionOperation::Prepare(prepare) => {
                    if let Some(followed) = follows.get_mut(&prepare.id) {
                        match prepare.decides() {
                            true => followed.asked = Some(true),
                            false => followed.prepares += 1,
                        }
                    }
                }
                TransactionOperation::Decide(decide) => {
                    if let Some(followed) = follows.get_mut(&decide.id) {
                        followed.asked = Some(false);
                    }
                }
                TransactionOperation::Forget(ids) => {
                    for id in ids {
                        if let Some(followed) = follows.get_mut(id) {
                            followed.forgotten = true;
                        }
                    }
                }
                _ => {}
            },
            Effect::Reply { request, .. } => {
                for followed in follows.values_mut().filter(|followed| followed.request == *request) {
                    followed.answered = true;
                }
            }
            Effect::Observed(_) => {}
        }
    }

    /// A coordinator is about to die.
    pub(super) fn note_rows_of_coordinator(&mut self, number: usize) {
        let rows: Vec<_> = self.transactions.coordinators[number]
            .follows
            .iter()
            .filter_map(|(id, followed)| self.row_of(*id, followed))
            .collect();
        rows.into_iter().for_each(|row| self.record.row(row));
    }

    fn row_of(&self, id: TransactionId, followed: &Followed) -> Option<&'static str> {
        let recorded = |at: &Participant| self.watch.records.verdict(at.group, id);
        match (recorded(&followed.home), followed.asked) {
            (Some(Verdict::Abort { .. }), _) => None,
            (Some(Verdict::Commit(_)), _) if !followed.answered => Some(ROWS[4]),
            (Some(Verdict::Commit(_)), _) => {
                let resolved = followed.others.iter().filter(|other| recorded(other).is_some()).count();
                if resolved == 0 {
                    Some(ROWS[5])
                } else if resolved < followed.others.len() {
                    Some(ROWS[6])
                } else {
                    (!followed.forgotten).then_some(ROWS[7])
                }
            }
            (None, Some(false)) => Some(ROWS[8]),
            (None, Some(true)) => Some(ROWS[3]),
            (None, None) if followed.prepares == 0 => Some(ROWS[0]),
            (None, None) => {
                let mut others = followed.others.iter();
                let all = others.all(|at| self.watch.records.is_prepared(at.group, id));
                Some(ROWS[if all { 2 } else { 1 }])
            }
        }
    }

    /// A node is about to die: where the transactions stood that the groups it leads have a part in.
    pub(in crate::sim) fn note_rows_of_node(&mut self, node: NodeId) {
        if self.transactions.coordinators.is_empty() {
            return;
        }
        let led: Vec<GroupId> = (self.metadata.all().iter())
            .filter(|(_, configuration)| configuration.primary == Some(node))
            .map(|(group, _)| *group)
            .collect();
        let Some(running) = &self.hosts[&node].node else {
            return;
        };
        let mut rows = Vec::new();
        let mut asked = BTreeSet::new();
        for (number, question) in self.transactions.questions.open() {
            let group = question.to.group;
            if question.at != Some(node) || !led.contains(&group) {
                continue;
            }
            let Operation::Transaction(operation) = &question.operation else {
                continue;
            };
            let taken = self.hosts[&node].has_taken(number);
            let ended = |id| running.verdict_on(group, id).ok().flatten().is_some();
            let prepared = |id| self.watch.records.is_prepared(group, id);
            let decided = |id| match (ended(id), taken) {
                (true, _) => ROWS[17],
                (false, true) => ROWS[16],
                (false, false) => ROWS[15],
            };
            match operation {
                TransactionOperation::Prepare(prepare) if prepare.decides() => rows.push(decided(prepare.id)),
                TransactionOperation::Decide(decide) => rows.push(decided(decide.id)),
                TransactionOperation::Prepare(prepare) => {
                    asked.insert((group, prepare.id));
                    rows.push(match (prepared(prepare.id) || ended(prepare.id), taken) {
                        (true, _) => ROWS[11],
                        (false, true) => ROWS[10],
                        (false, false) => ROWS[9],
                    });
                }
                TransactionOperation::Resolve(all) => rows.extend(all.iter().filter_map(|one| {
                    asked.insert((group, one.id));
                    match (ended(one.id), taken) {
                        (true, _) => Some(ROWS[14]),
                        (false, true) => Some(ROWS[13]),
                        (false, false) => prepared(one.id).then_some(ROWS[12]),
                    }
                })),
                _ => {}
            }
        }
        for group in led {
            let Ok(Some(unfinished)) = running.unfinished(group) else {
                continue;
            };
            let waiting = |(id, _): &&(TransactionId, Participant)| !asked.contains(&(group, *id));
            rows.extend(unfinished.prepared.iter().filter(waiting).map(|_| ROWS[12]));
            rows.extend(unfinished.unresolved.iter().map(|_| ROWS[18]));
        }
        rows.into_iter().for_each(|row| self.record.row(row));
    }
}

/// What an operation is called in reports and stories.
#[must_use]
pub fn name_of_operation(operation: &TransactionOperation) -> &'static str {
    match operation {
        TransactionOperation::Prepare(prepare) if prepare.decides() => "decide commit",
        TransactionOperation::Decide(_) => "decide abort",
        other => other.name(),
    }
}

/// What an effect is called in reports and stories.
pub(super) fn name_of(effect: &Effect) -> &'static str {
    match effect {
        Effect::Ask { operation, .. } => name_of_operation(operation),
        Effect::Reply { .. } => "answer",
        Effect::Observed(_) => "note",
    }
}
