//! Who must come before whom: edges ww, wr and rw of all keys, and the tangles (strongly connected components) in them.
//!
//! An append that nobody has seen comes after every list that was read. Its edges from all readers of the longest
//! list go through one node of the key, so that their number stays linear.

use super::order::Order;
use std::collections::HashSet;

/// Why one transaction must come before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Its append stands before the other's.
    Ww,
    /// The other read it.
    Wr,
    /// It read a list that lacks the other's append.
    Rw,
    /// From a key's node to an append that nobody has seen: the second half of an rw edge.
    Unseen,
}

impl Kind {
    /// A set of kinds, as bits.
    pub(super) const WRITES: u8 = Kind::Ww.bit();
    pub(super) const FLOW: u8 = Kind::Ww.bit() | Kind::Wr.bit();
    pub(super) const ALL: u8 = u8::MAX;

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    pub(super) const fn is_in(self, kinds: u8) -> bool {
        kinds & self.bit() != 0
    }
}

/// One edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) kind: Kind,
    pub(super) key: usize,
    /// The version of the key in question: the elements before the edge.
    pub(super) version: usize,
}

/// The edges by the node from which they go. Transactions are nodes by their place; nodes of keys come after them.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) transactions: usize,
    pub(super) edges: Vec<Edge>,
    /// Where the edges of each node begin, and one more.
    starts: Vec<usize>,
}

impl Graph {
    pub(super) fn of(transactions: usize, orders: &[Order<'_>]) -> Self {
        let mut edges = Vec::new();
        for (key, order) in orders.iter().enumerate() {
            let hub = transactions + key;
            add_edges(key, hub, order, &mut edges);
        }
        edges.retain(|edge| edge.from != edge.to);
        Graph::from_edges(transactions, transactions + orders.len(), edges)
    }

    fn from_edges(transactions: usize, nodes: usize, mut edges: Vec<Edge>) -> Self {
        edges.sort_unstable_by_key(|e| (e.from, e.kind, e.to, e.key, e.version));
        let mut starts = vec![0; nodes + 1];
        for edge in &edges {
            starts[edge.from + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        Graph {
            transactions,
            edges,
            starts,
        }
    }

    pub(super) fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    /// Places of the edges that go out from a node, ww first, rw last.
    pub(super) fn out(&self, node: usize) -> std::ops::Range<usize> {
        self.starts[node]..self.starts[node + 1]
    }

    /// The edge that goes out from a node and is of this kind, to this node, for this key and version.
    pub(super) fn find(&self, from: usize, edge: (Kind, usize, usize, usize)) -> Option<Edge> {
        let out = &self.edges[self.out(from)];
        let found = out.binary_search_by_key(&edge, |e| (e.kind, e.to, e.key, e.version));
        found.ok().map(|at| out[at])
    }

    /// The same graph with every edge turned round.
    pub(super) fn reversed(&self) -> Graph {
        let turn = |edge: &Edge| Edge {
            from: edge.to,
            to: edge.from,
            ..*edge
        };
        Graph::from_edges(self.transactions, self.nodes(), self.edges.iter().map(turn).collect())
    }
}

fn add_edges(key: usize, hub: usize, order: &Order<'_>, edges: &mut Vec<Edge>) {
    let last = order.elements.len();
    let mut add = |from, to, kind, version| {
        edges.push(Edge {
            from,
            to,
            kind,
            key,
            version,
        });
    };
    for version in 1..last {
        add(order.writers[version - 1], order.writers[version], Kind::Ww, version);
    }
    for &(writer, _) in &order.unobserved {
        if let Some(&before) = order.writers.last() {
            add(before, writer, Kind::Ww, last);
        }
        add(hub, writer, Kind::Unseen, last);
    }
    let unobserved: HashSet<usize> = order.unobserved.iter().map(|(writer, _)| *writer).collect();
    let mut both = Vec::new();
    for &(reader, version) in &order.reads {
        if version > 0 {
            add(order.writers[version - 1], reader, Kind::Wr, version);
        }
        match order.writers.get(version) {
            Some(&next) => add(reader, next, Kind::Rw, version),
            None if unobserved.contains(&reader) => both.push(reader),
            None if !unobserved.is_empty() => add(reader, hub, Kind::Rw, version),
            None => {}
        }
    }
    // Who read the whole list and appended to it cannot go through the hub, for it would come before itself. Of two
    // such each must come before the other: that is a violation already, and edges of more of them would be too many.
    for &reader in both.iter().take(2) {
        for &(writer, _) in &order.unobserved {
            add(reader, writer, Kind::Rw, last);
        }
    }
}

/// The tangles of a graph: its strongly connected components.
#[derive(Debug)]
pub(super) struct Tangles {
    /// The component of each node. Edges between components go from larger numbers to smaller.
    pub(super) of: Vec<usize>,
    pub(super) count: usize,
}

impl Tangles {
    /// By Tarjan's algorithm over the edges of these kinds, without recursion.
    pub(super) fn of(graph: &Graph, kinds: u8) -> Self {
        const UNSEEN: usize = usize::MAX;
        let nodes = graph.nodes();
        let mut found = Tangles {
            of: vec![UNSEEN; nodes],
            count: 0,
        };
        let (mut index, mut low) = (vec![UNSEEN; nodes], vec![0; nodes]);
        let (mut stack, mut path) = (Vec::new(), Vec::new());
        let mut next = 0;
        for root in 0..nodes {
            if index[root] == UNSEEN {
                path.push((root, graph.out(root)));
            }
            while let Some((node, rest)) = path.last_mut() {
                let node = *node;
                if index[node] == UNSEEN {
                    (index[node], low[node]) = (next, next);
                    next += 1;
                    stack.push(node);
                }
                let edge = rest.find(|&e| graph.edges[e].kind.is_in(kinds));
                if let Some(to) = edge.map(|e| graph.edges[e].to) {
                    match (index[to] == UNSEEN, found.of[to] == UNSEEN) {
                        (true, _) => path.push((to, graph.out(to))),
                        (false, true) => low[node] = low[node].min(index[to]),
                        (false, false) => {}
                    }
                    continue;
                }
                path.pop();
                if let Some((parent, _)) = path.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
                if low[node] == index[node] {
                    found.close(node, &mut stack);
                }
            }
        }
        found
    }

    fn close(&mut self, root: usize, stack: &mut Vec<usize>) {
        while let Some(member) = stack.pop() {
            self.of[member] = self.count;
            if member == root {
                break;
            }
        }
        self.count += 1;
    }

    /// The members of each component, by its number.
    pub(super) fn members(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.count];
        for (node, &component) in self.of.iter().enumerate() {
            members[component].push(node);
        }
        members
    }
}
