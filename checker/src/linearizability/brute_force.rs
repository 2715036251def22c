//! The definition itself, for histories of a handful of operations: try every order of every subset that contains all
//! operations known to have taken effect. Shares nothing with the real checker.

use crate::history::{Call, Condition, Operation, Outcome, Seen, ValueId};
use fulcrum_types::Index;

/// Whether the operations, all on one key and all linearizable, have a legal order.
pub(super) fn is_linearizable(operations: &[Operation]) -> bool {
    let counts = |o: &&Operation| {
        let unanswered_read = matches!(o.call, Call::Get(_)) && o.outcome == Outcome::Unknown;
        o.outcome != Outcome::Failed && !unanswered_read
    };
    let operations: Vec<&Operation> = operations.iter().filter(counts).collect();
    extend(&operations, &mut Vec::new(), &mut vec![false; operations.len()])
}

fn extend<'a>(operations: &[&'a Operation], order: &mut Vec<&'a Operation>, used: &mut [bool]) -> bool {
    if !is_legal(order) {
        return false;
    }
    let missing = |i: usize| !used[i] && operations[i].outcome != Outcome::Unknown;
    if !(0..operations.len()).any(missing) {
        return true;
    }
    for i in 0..operations.len() {
        let overtakes = (0..operations.len()).any(|j| missing_before(operations, used, j, i));
        if used[i] || overtakes {
            continue;
        }
        used[i] = true;
        order.push(operations[i]);
        if extend(operations, order, used) {
            return true;
        }
        order.pop();
        used[i] = false;
    }
    false
}

fn missing_before(operations: &[&Operation], used: &[bool], j: usize, i: usize) -> bool {
    !used[j] && operations[j].precedes(operations[i])
}

/// Replays an order. Each write's version is a variable; answers fix it; fixed ones have to grow.
fn is_legal(order: &[&Operation]) -> bool {
    let mut versions: Vec<Option<Index>> = Vec::new();
    let mut value: Option<ValueId> = None;
    for operation in order {
        let condition = match operation.call {
            Call::CompareAndSet { condition, .. } => Some(condition),
            _ => None,
        };
        match operation.outcome {
            Outcome::Read(seen) if !matches(seen, value, &mut versions) => return false,
            Outcome::Mismatch { seen } => {
                if seen.is_some_and(|s| !matches(s, value, &mut versions)) {
                    return false;
                }
                let met = match condition {
                    Some(Condition::VersionIs(v)) => value.is_some() && versions.last() == Some(&Some(v)),
                    other => other.is_some_and(|c| holds(c, value, &mut versions)),
                };
                if met {
                    return false;
                }
            }
            Outcome::Written { .. } | Outcome::Unknown => {
                if condition.is_some_and(|c| !holds(c, value, &mut versions)) {
                    return false;
                }
                value = operation.call.writes().expect("reads without an answer are left out");
                versions.push(operation.written_version());
            }
            Outcome::Read(_) | Outcome::Failed => {}
        }
    }
    let told: Vec<Index> = versions.into_iter().flatten().collect();
    told.windows(2).all(|pair| pair[0] < pair[1])
}

fn matches(seen: Seen, value: Option<ValueId>, versions: &mut [Option<Index>]) -> bool {
    match seen {
        Seen::Absent => value.is_none(),
        Seen::Present { value: v, version } => value == Some(v) && version.is_none_or(|version| fix(versions, version)),
    }
}

fn holds(condition: Condition, value: Option<ValueId>, versions: &mut [Option<Index>]) -> bool {
    match condition {
        Condition::Absent => value.is_none(),
        Condition::Exists => value.is_some(),
        Condition::ValueIs(v) => value == Some(v),
        Condition::VersionIs(version) => value.is_some() && fix(versions, version),
    }
}

fn fix(versions: &mut [Option<Index>], version: Index) -> bool {
    let last = versions.last_mut().expect("a value was written");
    *last.get_or_insert(version) == version
}
