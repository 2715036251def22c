//! One key's operations made ready for the search: versions attributed, writes ranked, what cannot matter left out.

use super::register::Action;
use crate::history::{Call, Condition, Operation, Outcome, Seen, ValueId};
use fulcrum_types::{Index, Level};
use std::collections::{BTreeMap, BTreeSet};

/// One operation of the key.
#[derive(Clone, Debug)]
pub(super) struct Op {
    /// Its place in the history.
    pub(super) place: usize,
    pub(super) invoked: u64,
    /// When it must have taken effect; never for one that may not have happened.
    pub(super) deadline: Option<u64>,
    pub(super) action: Action,
    /// For one that may not have happened: an earlier one just like it. They are interchangeable, so it goes first.
    pub(super) twin: Option<u32>,
}

/// One key's operations, in the order in which they began.
pub(super) struct Prepared {
    pub(super) ops: Vec<Op>,
    /// Versions of the ranked writes, in order.
    pub(super) ranked: Vec<Index>,
}

/// Two writes that were told the same version, as places in the history.
pub(super) struct SharedVersion(pub(super) usize, pub(super) usize, pub(super) Index);

/// Picks `places` of the history that linearizability speaks of.
pub(super) fn prepare(operations: &[Operation], places: &[usize]) -> Result<Prepared, SharedVersion> {
    let mut ops: Vec<Op> = places
        .iter()
        .filter_map(|&place| op(place, &operations[place]))
        .collect();
    let evidence = Evidence::of(&ops);
    ops.retain(|o| o.deadline.is_some() || evidence.can_matter(&o.action));
    attribute_versions(&mut ops, &evidence);
    let ranked = rank(&mut ops)?;
    merge_unseen_values(&mut ops, &evidence);
    find_twins(&mut ops);
    Ok(Prepared { ops, ranked })
}

fn op(place: usize, operation: &Operation) -> Option<Op> {
    let (condition, value) = match operation.call {
        Call::Get(_) => (None, None),
        Call::Put(value) => (None, Some(value)),
        Call::Delete => (None, None),
        Call::CompareAndSet { condition, value } => (Some(condition), value),
    };
    let written = |version| Action::Write {
        condition,
        value,
        version,
        rank: None,
    };
    let action = match (&operation.call, operation.outcome) {
        (Call::Get(_), Outcome::Read(seen)) => {
            if operation.read_level() != Some(Level::Linearizable) {
                return None;
            }
            Action::Observe {
                seen: Some(seen),
                refused: None,
            }
        }
        (Call::Get(_), _) | (_, Outcome::Failed | Outcome::Read(_)) => return None,
        (_, Outcome::Mismatch { seen }) => Action::Observe {
            seen,
            refused: condition,
        },
        (_, Outcome::Written { version }) => written(version),
        (_, Outcome::Unknown) => written(None),
    };
    let may_not_have_happened = operation.outcome == Outcome::Unknown;
    let deadline = operation.returned.filter(|_| !may_not_have_happened);
    Some(Op {
        place,
        invoked: operation.invoked,
        deadline: deadline.or((!may_not_have_happened).then_some(u64::MAX)),
        action,
        twin: None,
    })
}

/// What the answers reveal about the key's writes, and which kinds of state some operation needs before it.
#[derive(Clone, Default, PartialEq, Eq)]
struct Evidence {
    values: BTreeSet<ValueId>,
    versions: BTreeMap<Index, ValueId>,
    /// Some operation needs a value, whichever it is.
    presence: bool,
    /// Some operation needs that there is none.
    absence: bool,
}

impl Evidence {
    /// Of the operations that took effect, and of those that may have for a reason: a write that nobody needs is left out
    /// of some order if there is any, and what *it* would need then counts for nothing.
    fn of(ops: &[Op]) -> Self {
        let mut evidence = Evidence::gathered(ops.iter().filter(|o| o.deadline.is_some()));
        loop {
            let counts = |o: &&Op| o.deadline.is_some() || evidence.can_matter(&o.action);
            let more = Evidence::gathered(ops.iter().filter(counts));
            if more == evidence {
                return evidence;
            }
            evidence = more;
        }
    }

    fn gathered<'a>(ops: impl Iterator<Item = &'a Op>) -> Self {
        let mut evidence = Evidence::default();
        let mut required = Vec::new();
        let mut told = BTreeSet::new();
        for op in ops {
            match op.action {
                Action::Observe { seen, refused } => evidence.observe(seen, refused),
                Action::Write { condition, version, .. } => {
                    told.extend(version);
                    match condition {
                        None => {}
                        Some(Condition::Absent) => evidence.absence = true,
                        Some(Condition::Exists) => evidence.presence = true,
                        Some(Condition::ValueIs(value)) => {
                            evidence.values.insert(value);
                        }
                        Some(Condition::VersionIs(version)) => required.push(version),
                    }
                }
            }
        }
        let known = |v: &Index| told.contains(v) || evidence.versions.contains_key(v);
        evidence.presence |= !required.iter().all(known);
        evidence
    }

    fn observe(&mut self, seen: Option<Seen>, refused: Option<Condition>) {
        if let Some(Condition::ValueIs(value)) = refused {
            self.values.insert(value);
        }
        match (seen, refused) {
            (Some(Seen::Absent), _) | (None, Some(Condition::Exists)) => self.absence = true,
            (Some(Seen::Present { value, version }), _) => {
                self.values.insert(value);
                if let Some(version) = version {
                    self.versions.insert(version, value);
                }
            }
            (None, Some(Condition::Absent)) => self.presence = true,
            // Whatever takes the place of that value or version will do.
            (None, _) => (self.presence, self.absence) = (true, true),
        }
    }

    /// Whether leaving out a write that may not have happened could change the verdict.
    fn can_matter(&self, action: &Action) -> bool {
        let Action::Write { value, .. } = action else {
            return true;
        };
        value.map_or(self.absence, |v| self.presence || self.values.contains(&v))
    }
}

/// A version seen with a value that only one write without a known version can have left belongs to that write.
fn attribute_versions(ops: &mut [Op], evidence: &Evidence) {
    let mut told: BTreeSet<Index> = BTreeSet::new();
    let mut open: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
    for (i, op) in ops.iter().enumerate() {
        match op.action {
            Action::Write { version: Some(v), .. } => {
                told.insert(v);
            }
            Action::Write { value: Some(x), .. } => open.entry(x).or_default().push(i),
            _ => {}
        }
    }
    for (seen_at, value) in &evidence.versions {
        if told.contains(seen_at) {
            continue;
        }
        let Some([only]) = open.get(value).map(Vec::as_slice) else {
            continue;
        };
        if let Action::Write { version, .. } = &mut ops[*only].action {
            version.get_or_insert(*seen_at);
        }
    }
}

fn rank(ops: &mut [Op]) -> Result<Vec<Index>, SharedVersion> {
    let mut order: Vec<(Index, usize)> = ops
        .iter()
        .enumerate()
        .filter_map(|(i, op)| match op.action {
            Action::Write { version, .. } => version.map(|v| (v, i)),
            Action::Observe { .. } => None,
        })
        .collect();
    order.sort_unstable();
    for pair in order.windows(2) {
        if pair[0].0 == pair[1].0 {
            let (first, second) = (ops[pair[0].1].place, ops[pair[1].1].place);
            return Err(SharedVersion(first, second, pair[0].0));
        }
    }
    for (place, (_, i)) in order.iter().enumerate() {
        if let Action::Write { rank, .. } = &mut ops[*i].action {
            *rank = u32::try_from(place).ok();
        }
    }
    Ok(order.into_iter().map(|(version, _)| version).collect())
}

/// Of writes that may not have happened, all values that no answer speaks of are as good as one: more twins.
fn merge_unseen_values(ops: &mut [Op], evidence: &Evidence) {
    let mut unseen = None;
    for op in ops.iter_mut().filter(|o| o.deadline.is_none()) {
        if let Action::Write {
            value: Some(value),
            rank: None,
            ..
        } = &mut op.action
            && !evidence.values.contains(value)
        {
            *value = *unseen.get_or_insert(*value);
        }
    }
}

fn find_twins(ops: &mut [Op]) {
    let mut last: BTreeMap<Action, u32> = BTreeMap::new();
    for (i, op) in (0_u32..).zip(ops.iter_mut()) {
        let unranked = matches!(op.action, Action::Write { rank: None, .. });
        if op.deadline.is_none() && unranked {
            op.twin = last.insert(op.action, i);
        }
    }
}
