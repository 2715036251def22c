//! What must have held, once all is over: judged by what every group ever applied and what every client was told.

use super::{Asked, Simulation, key, number, value_of};
use crate::world::group::place;
use fulcrum_two_phase::{Plan, Reply};
use fulcrum_types::{CommittedPart, Decision, Fingerprint, Receipt, Refusal, TransactionId, TransactionState};
use std::collections::{BTreeMap, BTreeSet};

impl Simulation {
    fn applied(&self, id: TransactionId, fingerprint: Fingerprint) -> BTreeSet<u64> {
        let groups = self.world.groups.iter();
        let applied = groups.filter(|(_, group)| group.history.applied.contains_key(&(id, fingerprint)));
        applied.map(|(number, _)| *number).collect()
    }

    pub(super) fn judge(&mut self) {
        let groups = self.world.groups.values_mut();
        self.broken
            .extend(groups.flat_map(|group| group.history.broken.drain(..)));
        let mut broken = Vec::new();
        let plans: BTreeMap<_, _> = self
            .plans
            .iter()
            .map(|plan| ((plan.id, plan.fingerprint), plan))
            .collect();
        for plan in plans.values() {
            let applied = self.applied(plan.id, plan.fingerprint);
            let all: BTreeSet<_> = plan.parts.iter().map(|planned| planned.participant.group.0).collect();
            if !applied.is_empty() && applied != all {
                broken.push(format!("{} of {all:?} was applied at {applied:?} only", plan.id));
            }
        }
        for (request, result) in &self.world.told {
            let Some(known) = self.requests.get(request) else {
                continue;
            };
            match &known.asked {
                Asked::Commit(plan) => broken.extend(self.judge_commit(plan, result)),
                Asked::Look(id, group) => broken.extend(self.judge_look_up(*id, *group, result)),
                Asked::Values { .. } | Asked::Validity(_) => {}
            }
        }
        broken.extend(self.unanswered());
        broken.extend(self.judge_counters());
        self.broken.extend(broken);
        self.figures.crashes = std::mem::take(&mut self.world.crashes);
    }

    fn judge_commit(&self, plan: &Plan, result: &Result<Reply, Refusal>) -> Option<String> {
        let id = plan.id;
        let applied = self.applied(id, plan.fingerprint);
        match result {
            Ok(Reply::Committed { parts, receipts, .. }) => self.judge_parts(plan, parts, receipts),
            Ok(Reply::ConditionFailed { .. })
            | Err(Refusal::Aborted { .. } | Refusal::TransactionIdReused { .. } | Refusal::Invalid { .. })
                if !applied.is_empty() =>
            {
                Some(format!("{id} was told {result:?} and is applied at {applied:?}"))
            }
            _ => None,
        }
    }

    fn judge_parts(&self, plan: &Plan, parts: &[CommittedPart], receipts: &[Receipt]) -> Option<String> {
        let id = plan.id;
        for planned in &plan.parts {
            let group = planned.participant.group;
            let history = &self.world.groups.get(&group.0)?.history;
            let version = history.applied.get(&(id, plan.fingerprint));
            let told = parts.iter().find(|part| part.participant == planned.participant);
            if version.is_none() || told.map(|part| &part.version) != version {
                return Some(format!("{id} was told {parts:?}, but {group} has applied {version:?}"));
            }
            let proof = receipts.iter().find(|receipt| receipt.group == group);
            if proof.map(|receipt| receipt.index.0) < version.map(|version| version.0) {
                return Some(format!("{id} has no receipt of {group} that covers {version:?}"));
            }
        }
        None
    }

    fn judge_look_up(&self, id: TransactionId, group: u64, result: &Result<Reply, Refusal>) -> Option<String> {
        let Ok(Reply::State { state, .. }) = result else {
            return None;
        };
        match state {
            TransactionState::Decided(Decision::Committed { fingerprint, .. }) => {
                let nowhere = self.applied(id, *fingerprint).is_empty();
                nowhere.then(|| format!("{id} was looked up as committed, and is applied nowhere"))
            }
            TransactionState::Decided(Decision::Aborted(cause)) => {
                let meant = self.plans.iter().filter(|plan| plan.id == id);
                let here = meant.filter(|plan| plan.parts.iter().any(|p| p.participant == place(group)));
                let mut applied = here.filter(|plan| !self.applied(id, plan.fingerprint).is_empty());
                applied.next().map(|plan| {
                    format!(
                        "{id} of {:?} was looked up at g{group} as aborted ({cause}), and is applied",
                        plan.home
                    )
                })
            }
            _ => None,
        }
    }

    /// Every request to a coordinator that lived on is answered.
    fn unanswered(&self) -> Vec<String> {
        let lives = |core: (char, u32)| self.world.cores.get(&core.0).is_some_and(|c| c.life == core.1);
        let open = self.requests.iter();
        let open = open.filter(|(_, known)| !known.told && !known.cancelled && lives(known.core));
        let alive = |core: (char, u32)| self.world.cores.get(&core.0).is_some_and(|c| c.two_phase.is_some());
        let open = open.filter(|(_, known)| alive(known.core));
        open.map(|(request, _)| format!("{request:?} was never answered"))
            .collect()
    }

    fn judge_counters(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (counter, groups) in self.counters.iter().enumerate() {
            let key = key(counter);
            for number_of_group in groups {
                let Some(group) = self.world.groups.get(number_of_group) else {
                    continue;
                };
                let applied = self.plans.iter().filter(|plan| {
                    let here = plan.parts.iter().find(|p| p.participant == place(*number_of_group));
                    let writes = here.is_some_and(|p| p.part.writes.iter().any(|w| w.key == key));
                    writes && group.history.applied.contains_key(&(plan.id, plan.fingerprint))
                });
                let plans: BTreeSet<_> = applied.map(|plan| (plan.id, plan.fingerprint)).collect();
                let counted = number(value_of(&group.value(&key)).as_ref());
                if counted != plans.len() as u64 {
                    let applied = plans.len();
                    broken.push(format!(
                        "counter {counter} in g{number_of_group} is {counted} after {applied} additions"
                    ));
                }
            }
        }
        broken
    }
}
