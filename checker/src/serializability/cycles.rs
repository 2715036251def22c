//! Finds cycles and names them.
//!
//! Whether there is a cycle is exact and linear. Which one is shown is a search for the plainest and shortest: each tangle
//! is searched for one with ww edges only, then ww and wr, then with one rw, then with no two rw behind each other.
//! The latter two cost a search for every rw edge; a budget bounds them, and beyond it the cycle that is at hand is shown.
//!
//! Real time needs no edges of its own. Of two real-time edges in a cycle one can always be cut short (if a ends before
//! b begins and c before d, then a ends before d begins, or c before b), so a cycle that needs real time needs one such
//! edge: from a transaction that ended to one that began later and that must come before it.

use super::anomaly::Anomaly;
use super::graph::{Edge, Graph, Kind, Tangles};
use crate::transactions::Transaction;
use std::collections::VecDeque;

/// Edges that may be looked at in search of plain cycles.
const BUDGET: u64 = 20_000_000;
/// Nodes of a tangle from which a cycle is searched, for a short one.
const STARTS: usize = 16;
/// Late ends of real-time cycles that are looked into; more are only counted.
const LATE_ENDS: usize = 64;

/// A cycle: each edge begins where the one before ends. Without the last edge, if real time closes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cycle {
    pub(super) anomaly: Anomaly,
    pub(super) edges: Vec<Edge>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) cycles: Vec<Cycle>,
    /// Transactions that ended before one began that must come before them, beyond those in `cycles`.
    pub(super) more_late: usize,
}

/// One cycle of every tangle, and of every place where real time is contradicted.
pub(super) fn find(graph: &Graph, transactions: &[Transaction]) -> Found {
    let mut search = Search::new(graph);
    let mut found = Found::default();
    let mut tangled = vec![false; graph.nodes()];
    let flow = Tangles::of(graph, Kind::FLOW);
    search.in_tangles(
        &Tangles::of(graph, Kind::WRITES),
        Kind::WRITES,
        &mut tangled,
        &mut found,
    );
    search.in_tangles(&flow, Kind::FLOW, &mut tangled, &mut found);
    let all = Tangles::of(graph, Kind::ALL);
    search.in_tangles(&all, Kind::ALL, &mut tangled, &mut found);
    against_real_time(graph, transactions, &all, &tangled, &mut found);
    found
}

/// A node, and whether it was reached by an rw edge.
type State = (usize, bool);

struct Search<'a> {
    graph: &'a Graph,
    /// How each state was reached in the search of the number noted with it: by which edge, from a state by an rw edge?
    reached: Vec<(u32, usize, bool)>,
    number: u32,
    budget: u64,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph) -> Self {
        Search {
            graph,
            reached: vec![(0, 0, false); 2 * graph.nodes()],
            number: 0,
            budget: BUDGET,
        }
    }

    /// Shows one cycle in each tangle of which no part has one shown already.
    fn in_tangles(&mut self, tangles: &Tangles, kinds: u8, tangled: &mut [bool], found: &mut Found) {
        for members in tangles.members().iter().filter(|m| m.len() > 1) {
            let fresh = !members.iter().any(|&node| tangled[node]);
            for &node in members {
                tangled[node] = true;
            }
            if !fresh {
                continue;
            }
            let rw = self.rw_within(tangles, members, kinds);
            let plain = self.with_one_rw(tangles, &rw);
            let plain = plain.or_else(|| self.with_rw_apart(tangles, &rw));
            let edges = plain.or_else(|| self.short(tangles, members, kinds));
            found.cycles.extend(edges.map(|edges| Cycle {
                anomaly: name(&edges),
                edges: joined(&edges),
            }));
        }
    }

    fn rw_within(&self, tangles: &Tangles, members: &[usize], kinds: u8) -> Vec<Edge> {
        let out = members.iter().flat_map(|&node| self.graph.out(node));
        let edges = out.map(|at| self.graph.edges[at]).filter(|e| e.kind == Kind::Rw);
        let inside = |e: &Edge| e.kind.is_in(kinds) && tangles.of[e.to] == tangles.of[e.from];
        edges.filter(inside).collect()
    }

    /// A short cycle through some member of a tangle; every member has one.
    fn short(&mut self, tangles: &Tangles, members: &[usize], kinds: u8) -> Option<Vec<Edge>> {
        let mut best: Option<Vec<Edge>> = None;
        for &start in members.iter().take(STARTS) {
            let component = tangles.of[start];
            let inside = |e: &Edge| e.kind.is_in(kinds) && tangles.of[e.to] == component;
            let path = self.shortest((start, false), start, |_, e| inside(e).then_some((e.to, false)));
            let shorter = |p: &Vec<Edge>| best.as_ref().is_none_or(|b| p.len() < b.len());
            best = path.filter(shorter).or(best);
        }
        best
    }

    /// The shortest cycle with one rw edge, or a lost update that nobody has read.
    fn with_one_rw(&mut self, tangles: &Tangles, rw: &[Edge]) -> Option<Vec<Edge>> {
        let mut best: Option<Vec<Edge>> = None;
        for edge in rw {
            let inside = |e: &Edge| tangles.of[e.to] == tangles.of[edge.to];
            let flow = |_, e: &Edge| (inside(e) && e.kind != Kind::Rw).then_some((e.to, false));
            let same_list = (Kind::Rw, edge.from, edge.key, edge.version);
            let rest = match self.graph.find(edge.to, same_list) {
                Some(back) => Some(vec![back]),
                None => self.shortest((edge.to, false), edge.from, flow),
            };
            let cycle = rest.map(|rest| [&[*edge], rest.as_slice()].concat());
            // Of cycles as short, a lost update says most.
            let rank = |c: &Vec<Edge>| (c.len(), name(c));
            let better = |c: &Vec<Edge>| best.as_ref().is_none_or(|b| rank(c) < rank(b));
            best = cycle.filter(better).or(best);
            if self.budget == 0 {
                break;
            }
        }
        best
    }

    /// A cycle with several rw edges, no two behind each other.
    fn with_rw_apart(&mut self, tangles: &Tangles, rw: &[Edge]) -> Option<Vec<Edge>> {
        for edge in rw {
            let inside = |e: &Edge| tangles.of[e.to] == tangles.of[edge.to];
            let apart = |(_, after_rw): State, e: &Edge| match e.kind {
                _ if !inside(e) => None,
                Kind::Rw if after_rw || e.to == edge.from => None,
                Kind::Rw => Some((e.to, true)),
                Kind::Unseen => Some((e.to, after_rw)),
                Kind::Ww | Kind::Wr => Some((e.to, false)),
            };
            if let Some(rest) = self.shortest((edge.to, true), edge.from, apart) {
                return Some(simple([&[*edge], rest.as_slice()].concat()));
            }
            if self.budget == 0 {
                break;
            }
        }
        None
    }

    /// The shortest way of at least one edge from a state to a node, in any state but after rw.
    fn shortest(&mut self, from: State, to: usize, step: impl Fn(State, &Edge) -> Option<State>) -> Option<Vec<Edge>> {
        self.number += 1;
        let slot = |(node, after_rw): State| 2 * node + usize::from(after_rw);
        let mut open = VecDeque::from([from]);
        while let Some(state) = open.pop_front() {
            for at in self.graph.out(state.0) {
                self.budget = self.budget.saturating_sub(1);
                let Some(next) = step(state, &self.graph.edges[at]) else {
                    continue;
                };
                let (number, ..) = self.reached[slot(next)];
                if number == self.number {
                    continue;
                }
                self.reached[slot(next)] = (self.number, at, state.1);
                if next == (to, false) {
                    return Some(self.way_back(from, next));
                }
                open.push_back(next);
            }
        }
        None
    }

    fn way_back(&self, from: State, to: State) -> Vec<Edge> {
        let mut edges = Vec::new();
        let mut state = to;
        loop {
            let (_, at, after_rw) = self.reached[2 * state.0 + usize::from(state.1)];
            let edge = self.graph.edges[at];
            edges.push(edge);
            state = (edge.from, after_rw);
            if state == from {
                break;
            }
        }
        edges.reverse();
        edges
    }
}

/// The first closed part of a closed way. A shortest way passes a node twice only if it came by rw and left by another
/// edge first: the part between has no two rw behind each other either.
fn simple(way: Vec<Edge>) -> Vec<Edge> {
    for end in 0..way.len() {
        let begin = way[..=end].iter().position(|e| e.from == way[end].to);
        if let Some(begin) = begin {
            return way[begin..=end].to_vec();
        }
    }
    way
}

/// The anomaly that a cycle of dependencies is.
pub(super) fn name(edges: &[Edge]) -> Anomaly {
    let rw: Vec<bool> = edges
        .iter()
        .filter(|e| e.kind != Kind::Unseen)
        .map(|e| e.kind == Kind::Rw)
        .collect();
    let count = rw.iter().filter(|is_rw| **is_rw).count();
    let behind_each_other = (0..rw.len()).any(|n| rw[n] && rw[(n + 1) % rw.len()]);
    // Of two appends that nobody has seen one came first, whichever: what looks like several rw edges is one and ww.
    let writes_one_key = || edges.iter().all(|e| e.key == edges[0].key && e.kind != Kind::Wr);
    match count {
        0 if edges.iter().any(|e| e.kind == Kind::Wr) => Anomaly::CircularInformationFlow,
        0 => Anomaly::DirtyWrite,
        _ if writes_one_key() => Anomaly::LostUpdate,
        1 => Anomaly::ReadSkew,
        _ if behind_each_other => Anomaly::WriteSkew,
        _ => Anomaly::LongFork,
    }
}

/// The edges with both halves of each edge through a key's node joined.
fn joined(edges: &[Edge]) -> Vec<Edge> {
    let first = edges.iter().position(|e| e.kind != Kind::Unseen).unwrap_or(0);
    let mut joined: Vec<Edge> = Vec::with_capacity(edges.len());
    for edge in edges[first..].iter().chain(&edges[..first]) {
        match (edge.kind, joined.last_mut()) {
            (Kind::Unseen, Some(half)) => half.to = edge.to,
            _ => joined.push(*edge),
        }
    }
    joined
}

/// Finds each transaction that ended before one began that has to come before it.
fn against_real_time(
    graph: &Graph,
    transactions: &[Transaction],
    tangles: &Tangles,
    tangled: &[bool],
    found: &mut Found,
) {
    let latest = latest_begins(graph, transactions, tangles);
    let is_late = |&place: &usize| {
        let end = transactions[place].returned;
        !tangled[place] && end.is_some_and(|end| end < latest[tangles.of[place]])
    };
    let mut late: Vec<usize> = (0..graph.transactions).filter(is_late).collect();
    if late.is_empty() {
        return;
    }
    late.sort_by_key(|&place| transactions[place].returned);
    let reversed = graph.reversed();
    let mut search = Search::new(&reversed);
    let mut shown = vec![false; graph.nodes()];
    for (n, &place) in late.iter().enumerate() {
        let end = transactions[place].returned.unwrap_or(u64::MAX);
        let begins_later = |node: usize| transactions.get(node).is_some_and(|t| t.invoked > end);
        let edges = match n < LATE_ENDS && !shown[place] {
            true => search.back_to(place, begins_later),
            false => None,
        };
        let Some(edges) = edges.filter(|edges| !edges.iter().any(|e| shown[e.from])) else {
            found.more_late += 1;
            continue;
        };
        // The one that began later may well have missed others, too; what lies behind the late one is the same finding.
        for edge in &edges {
            shown[edge.to] = true;
        }
        found.cycles.push(Cycle {
            anomaly: Anomaly::RealTime,
            edges: joined(&edges),
        });
    }
}

/// For each component, the latest begin of a transaction in it or before it.
fn latest_begins(graph: &Graph, transactions: &[Transaction], tangles: &Tangles) -> Vec<u64> {
    let mut latest = vec![0; tangles.count];
    for (component, members) in tangles.members().iter().enumerate().rev() {
        let begins = members
            .iter()
            .filter_map(|&node| transactions.get(node))
            .map(|t| t.invoked);
        let newest = begins.max().unwrap_or(0).max(latest[component]);
        latest[component] = newest;
        for at in members.iter().flat_map(|&node| graph.out(node)) {
            let to = tangles.of[graph.edges[at].to];
            latest[to] = latest[to].max(newest);
        }
    }
    latest
}

impl Search<'_> {
    /// In a graph turned round: the shortest way from `place` to a node that `is_goal`, as edges of the original.
    fn back_to(&mut self, place: usize, is_goal: impl Fn(usize) -> bool) -> Option<Vec<Edge>> {
        self.number += 1;
        self.reached[2 * place].0 = self.number;
        let mut open = VecDeque::from([place]);
        while let Some(node) = open.pop_front() {
            if is_goal(node) {
                let mut way = self.way_back((place, false), (node, false));
                way.reverse();
                let turn = |e: Edge| Edge {
                    from: e.to,
                    to: e.from,
                    ..e
                };
                return Some(way.into_iter().map(turn).collect());
            }
            for at in self.graph.out(node) {
                let to = self.graph.edges[at].to;
                if self.reached[2 * to].0 != self.number {
                    self.reached[2 * to] = (self.number, at, false);
                    open.push_back(to);
                }
            }
        }
        None
    }
}
