//! The search: just-in-time linearization over sets of configurations.
//!
//! Begins and ends are visited in the order of time. A configuration is one way the operations so far can have taken
//! effect: the register's state, and which of the open operations have already had their effect. Only when an
//! operation ends must it have taken effect; then every configuration in which it has not is led through all orders of
//! open operations that end with it. No configuration left: no order explains the history.
//!
//! Six things keep the sets small, usually at one. All preserve the verdict:
//! - What changes nothing takes effect as soon as it can (moving it earlier disturbs no other operation).
//! - Writes with known versions go in the order of their versions, else a later one could never take effect.
//! - Of like writes that may not have happened, the earliest goes first.
//! - A write that may not have happened, and whose version is not known, goes only right before an operation that could
//!   not take effect without it. If none up to the next write needs it, it can be left out: versions only have to grow, so
//!   what follows misses nothing. If one does, those before the first such one do not, and may as well go before the write.
//! - A configuration is dropped once an open operation has no chance any more: it saw a version that lies behind.
//! - A configuration is dropped if one of the same state has used up no more such writes and answered no fewer
//!   observers: it can do all that the other can.

use super::prepare::{Op, Prepared};
use super::register::{Action, State, Step};
use crate::history::Seen;
use std::collections::HashSet;

/// One way in which the operations so far can have taken effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Configuration {
    pub(super) state: State,
    /// Open operations that have taken effect though they have not ended. Ranked writes are counted in `state.rank`.
    done: Vec<u32>,
    /// Unranked writes without an end that have taken effect.
    spent: Vec<u32>,
}

/// How a search ended.
pub(super) enum Ending {
    /// Some order explains everything.
    Explained,
    /// None explains this operation.
    Stuck(Stuck),
    /// The budget ran out at the operation with this place.
    Exhausted { place: usize },
}

/// Where a search found no way on.
pub(super) struct Stuck {
    /// The operation, by place in the history.
    pub(super) place: usize,
    /// States in which the register could have been before it.
    pub(super) before: Vec<State>,
    /// Other operations that were open when it ended, by place.
    pub(super) open: Vec<usize>,
}

/// Looks for an order, trying at most `budget` configurations.
pub(super) fn search(prepared: &Prepared, budget: u64) -> Ending {
    let mut searcher = Searcher {
        prepared,
        open: Vec::new(),
        hopeless: None,
        budget,
    };
    let mut configurations = vec![Configuration::default()];
    for event in events(&prepared.ops) {
        let op = match event {
            Event::Begin(op) => {
                searcher.open.push(op);
                continue;
            }
            Event::End(op) => op,
        };
        let place = prepared.ops[op as usize].place;
        let Some(next) = searcher.finish(op, configurations.clone()) else {
            return Ending::Exhausted { place };
        };
        searcher.close(op, &next);
        if next.is_empty() {
            let culprit = searcher.hopeless.unwrap_or(op);
            return Ending::Stuck(Stuck {
                place: prepared.ops[culprit as usize].place,
                before: states(configurations),
                open: searcher.places(),
            });
        }
        configurations = next;
    }
    Ending::Explained
}

enum Event {
    Begin(u32),
    End(u32),
}

/// Begins and ends by time; at the same instant begins come first, so that such operations overlap.
fn events(ops: &[Op]) -> impl Iterator<Item = Event> {
    let mut times: Vec<(u64, bool, u32)> = Vec::with_capacity(ops.len() * 2);
    for (i, op) in (0_u32..).zip(ops) {
        times.push((op.invoked, false, i));
        if let Some(deadline) = op.deadline {
            times.push((deadline, true, i));
        }
    }
    times.sort_unstable();
    times.into_iter().map(|(_, ends, op)| match ends {
        false => Event::Begin(op),
        true => Event::End(op),
    })
}

fn states(configurations: Vec<Configuration>) -> Vec<State> {
    let mut states: Vec<State> = configurations.into_iter().map(|c| c.state).collect();
    states.sort_unstable();
    states.dedup();
    states
}

struct Searcher<'a> {
    prepared: &'a Prepared,
    /// Operations that have begun and not ended.
    open: Vec<u32>,
    /// An operation for which some configuration of this step came too late.
    hopeless: Option<u32>,
    budget: u64,
}

impl Searcher<'_> {
    /// All configurations that the given ones lead to once `target` has ended; none if the budget is used up.
    fn finish(&mut self, target: u32, from: Vec<Configuration>) -> Option<Vec<Configuration>> {
        let mut reached = Vec::new();
        let mut visited: HashSet<Configuration> = HashSet::new();
        let mut stack = from;
        self.hopeless = None;
        while let Some(mut configuration) = stack.pop() {
            self.let_silent_ones_take_effect(&mut configuration);
            if let Some(op) = self.hopeless_in(&configuration) {
                self.hopeless = Some(op);
                continue;
            }
            if self.has_taken_effect(&configuration, target) {
                configuration.done.retain(|&op| op != target);
                reached.push(configuration);
                continue;
            }
            self.budget = self.budget.checked_sub(1)?;
            if !visited.is_empty() && visited.contains(&configuration) {
                continue;
            }
            stack.extend(self.successors(&configuration));
            visited.insert(configuration);
        }
        Some(undominated(reached, &self.prepared.ops))
    }

    /// Takes `ended` off the open operations, and with it the ranked writes without an end that no configuration still
    /// has before it.
    fn close(&mut self, ended: u32, configurations: &[Configuration]) {
        let passed = configurations.iter().map(|c| c.state.rank).min().unwrap_or(0);
        let ops = &self.prepared.ops;
        self.open.retain(|&op| match ops[op as usize] {
            Op {
                deadline: None,
                action: Action::Write { rank: Some(rank), .. },
                ..
            } => rank >= passed,
            _ => op != ended,
        });
    }

    fn op(&self, op: u32) -> &Op {
        &self.prepared.ops[op as usize]
    }

    fn step(&self, state: State, op: u32) -> Step {
        state.step(&self.op(op).action, &self.prepared.ranked)
    }

    fn has_taken_effect(&self, configuration: &Configuration, op: u32) -> bool {
        match self.op(op).action {
            Action::Write { rank: Some(rank), .. } => configuration.state.rank > rank,
            _ => configuration.done.contains(&op) || configuration.spent.contains(&op),
        }
    }

    fn let_silent_ones_take_effect(&self, configuration: &mut Configuration) {
        for &op in &self.open {
            let observes = matches!(self.op(op).action, Action::Observe { .. });
            if !observes || configuration.done.contains(&op) {
                continue;
            }
            if let Step::Silent = self.step(configuration.state, op) {
                insert(&mut configuration.done, op);
            }
        }
    }

    /// An open operation that saw a version which this configuration has left behind.
    fn hopeless_in(&self, configuration: &Configuration) -> Option<u32> {
        let state = configuration.state;
        let too_late = |version| version <= state.floor && state.version != Some(version);
        let mut open = self.open.iter().copied();
        open.find(|&op| match self.op(op).action {
            Action::Observe {
                seen: Some(Seen::Present { version: Some(v), .. }),
                ..
            } => too_late(v) && !configuration.done.contains(&op),
            _ => false,
        })
    }

    fn successors(&self, configuration: &Configuration) -> Vec<Configuration> {
        let mut successors = Vec::new();
        for op in self.untaken(configuration) {
            let Step::Moves(state) = self.step(configuration.state, op) else {
                continue;
            };
            let next = self.moved(configuration, op, state);
            match self.is_optional(op) {
                true => self.serve_the_needy(configuration.state, &next, &mut successors),
                false => successors.push(next),
            }
        }
        successors
    }

    /// Lets operations take effect in `after`, a write that may not have happened past `before`, that could not have there.
    fn serve_the_needy(&self, before: State, after: &Configuration, successors: &mut Vec<Configuration>) {
        for op in self.untaken(after) {
            if !matches!(self.step(before, op), Step::Illegal) {
                continue;
            }
            match self.step(after.state, op) {
                Step::Illegal => {}
                Step::Moves(state) if self.is_optional(op) => {
                    let next = self.moved(after, op, state);
                    self.serve_the_needy(after.state, &next, successors);
                }
                Step::Moves(state) => successors.push(self.moved(after, op, state)),
                Step::Silent => successors.push(self.moved(after, op, after.state)),
            }
        }
    }

    /// Open operations that may be next to take effect.
    fn untaken<'a>(&'a self, configuration: &'a Configuration) -> impl Iterator<Item = u32> + 'a {
        self.open.iter().copied().filter(|&op| {
            let waits_for_twin = (self.op(op).twin).is_some_and(|t| !configuration.spent.contains(&t));
            !waits_for_twin && !self.has_taken_effect(configuration, op)
        })
    }

    /// A write that may not have happened and whose version nobody was told.
    fn is_optional(&self, op: u32) -> bool {
        let op = self.op(op);
        op.deadline.is_none() && matches!(op.action, Action::Write { rank: None, .. })
    }

    fn moved(&self, from: &Configuration, op: u32, state: State) -> Configuration {
        let mut next = Configuration { state, ..from.clone() };
        match self.op(op) {
            Op {
                action: Action::Write { rank: Some(_), .. },
                ..
            } => {}
            Op { deadline: None, .. } => insert(&mut next.spent, op),
            _ => insert(&mut next.done, op),
        }
        next
    }

    fn places(&self) -> Vec<usize> {
        self.open.iter().map(|&op| self.op(op).place).collect()
    }
}

fn insert(sorted: &mut Vec<u32>, op: u32) {
    if let Err(at) = sorted.binary_search(&op) {
        sorted.insert(at, op);
    }
}

/// Drops configurations to which another one of the same state is as good or better: it has used up no more writes
/// that may not have happened, and it has let no fewer observers have their answer.
fn undominated(mut configurations: Vec<Configuration>, ops: &[Op]) -> Vec<Configuration> {
    if configurations.len() < 2 {
        return configurations;
    }
    configurations.sort_unstable_by(|a, b| {
        let order = |c: &Configuration| (c.state, c.spent.len(), usize::MAX - c.done.len());
        order(a).cmp(&order(b)).then_with(|| a.cmp(b))
    });
    let mut kept: Vec<Configuration> = Vec::with_capacity(configurations.len());
    for candidate in configurations {
        let mut alike = (kept.iter().rev()).take_while(|k| k.state == candidate.state);
        if !alike.any(|k| dominates(k, &candidate, ops)) {
            kept.push(candidate);
        }
    }
    kept
}

fn dominates(better: &Configuration, other: &Configuration, ops: &[Op]) -> bool {
    let observes = |op: &u32| matches!(ops[*op as usize].action, Action::Observe { .. });
    let in_both = |op: &u32| other.done.binary_search(op).is_ok();
    is_subset(&better.spent, &other.spent)
        && is_subset(&other.done, &better.done)
        && better.done.iter().all(|op| observes(op) || in_both(op))
}

fn is_subset(small: &[u32], large: &[u32]) -> bool {
    small.iter().all(|op| large.binary_search(op).is_ok())
}
