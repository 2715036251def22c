//! Thousands of small random histories judged against the definition, their cycles against all cycles that there are,
//! and histories as large as a long run makes them.

use super::brute_force;
use super::cycles::{self, Cycle};
use super::graph::{Edge, Graph, Kind};
use super::*;
use crate::testing::Rng;
use crate::transactions::{Element, Step, Transaction, TransactionKey};
use bytes::Bytes;
use fulcrum_types::{ClientId, KeyspaceId};
use std::collections::{BTreeMap, BTreeSet};

/// How a made-up store treats its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    /// One after the other, each at an instant between its begin and its end.
    Serial,
    /// Each step at an instant of its own.
    Unisolated,
    /// Reads from the state at its begin, appends at its end.
    Snapshot,
    /// Some lists from a replica that lags behind.
    Stale,
    /// Some appends have no effect, some that failed do.
    Careless,
}

const STORES: [Store; 5] = [
    Store::Serial,
    Store::Unisolated,
    Store::Snapshot,
    Store::Stale,
    Store::Careless,
];

struct Workload {
    rng: Rng,
    store: Store,
    keys: u64,
    steps: u64,
    /// One in so many has no known outcome.
    unknown: u64,
}

type State = BTreeMap<u64, Vec<Element>>;

impl Workload {
    fn key(n: u64) -> TransactionKey {
        TransactionKey {
            keyspace: KeyspaceId(1 + n % 2),
            key: Bytes::from(format!("key{n}")),
        }
    }

    /// `count` transactions that begin within `span`.
    fn run(&mut self, count: u64, span: u64) -> Vec<Transaction> {
        let mut instants: Vec<(u64, u64, usize)> = Vec::new();
        let mut planned = Vec::new();
        for n in 0..count {
            let begin = self.rng.below(span);
            let effect = begin + self.rng.below(25);
            let steps: Vec<(u64, bool)> = (0..1 + self.rng.below(self.steps))
                .map(|_| (self.rng.below(self.keys), self.rng.below(2) == 0))
                .collect();
            let place = planned.len();
            match self.store {
                Store::Unisolated => instants.extend(steps.iter().map(|_| (begin + self.rng.below(25), n, place))),
                _ => instants.push((effect, n, place)),
            }
            let outcome = match self.rng.below(10) {
                0 => TransactionOutcome::Failed,
                _ if self.rng.one_in(self.unknown) => TransactionOutcome::Unknown,
                _ => TransactionOutcome::Committed,
            };
            let returned = (outcome != TransactionOutcome::Unknown).then_some(begin + 25 + self.rng.below(20));
            let transaction = Transaction {
                client: ClientId(n),
                steps: Vec::new(),
                invoked: begin,
                returned,
                outcome,
            };
            let happens = outcome == TransactionOutcome::Committed
                || outcome == TransactionOutcome::Unknown && self.rng.below(2) == 0
                || self.store == Store::Careless && self.rng.one_in(8);
            planned.push((transaction, steps.into_iter(), happens, effect));
        }
        instants.sort_unstable();
        let mut states: Vec<(u64, State)> = vec![(0, State::new())];
        let mut element = 0;
        for (now, _, place) in instants {
            let (transaction, steps, happens, _) = &mut planned[place];
            let take = if self.store == Store::Unisolated { 1 } else { usize::MAX };
            let mut state = states.last().expect("never empty").1.clone();
            let mut view = self.view(&states, transaction.invoked);
            for (key, appends) in steps.by_ref().take(take) {
                if !appends {
                    let seen = view.get(&key).cloned().unwrap_or_default();
                    transaction.steps.push(Step::Read {
                        key: Self::key(key),
                        seen,
                    });
                    continue;
                }
                element += 1;
                let element = Element(element);
                transaction.steps.push(Step::Append {
                    key: Self::key(key),
                    element,
                });
                view.entry(key).or_default().push(element);
                let forgotten = self.store == Store::Careless && self.rng.one_in(8);
                if *happens && !forgotten {
                    state.entry(key).or_default().push(element);
                }
            }
            match states.len() < 2_000 {
                true => states.push((now, state)),
                false => *states.last_mut().expect("never empty") = (now, state),
            }
        }
        planned.into_iter().map(|(transaction, ..)| transaction).collect()
    }

    /// What a transaction sees that begins at `begin`.
    fn view(&mut self, states: &[(u64, State)], begin: u64) -> State {
        let newest = &states[states.len() - 1].1;
        match self.store {
            Store::Snapshot => {
                let at = states.partition_point(|(at, _)| *at < begin).saturating_sub(1);
                states[at].1.clone()
            }
            Store::Stale => newest.iter().map(|(key, list)| (*key, self.lagging(list))).collect(),
            _ => newest.clone(),
        }
    }

    /// Each list as a replica of its own may have it.
    fn lagging(&mut self, list: &[Element]) -> Vec<Element> {
        let lag = if self.rng.one_in(3) { 1 + self.rng.below(2) } else { 0 };
        list[..list.len().saturating_sub(usize::try_from(lag).expect("small"))].to_vec()
    }
}

fn small(seed: u64, store: Store) -> (Vec<Transaction>, Rng) {
    let mut rng = Rng(seed);
    let mut workload = Workload {
        keys: 1 + rng.below(3),
        steps: 2 + rng.below(4),
        unknown: 5,
        store,
        rng,
    };
    let count = 2 + workload.rng.below(6);
    let span = [1, 30, 80][usize::try_from(workload.rng.below(3)).expect("small")];
    (workload.run(count, span), workload.rng)
}

/// Changes one answer.
fn mutate(transactions: &mut [Transaction], rng: &mut Rng) {
    let pick = |rng: &mut Rng, len: usize| usize::try_from(rng.below(len.max(1) as u64)).expect("small");
    let at = pick(rng, transactions.len());
    let transaction = &mut transactions[at];
    let step = pick(rng, transaction.steps.len());
    match (transaction.steps.get_mut(step), rng.below(6)) {
        (Some(Step::Read { seen, .. }), 0 | 1) => drop(seen.pop()),
        (Some(Step::Read { seen, .. }), 2) => seen.reverse(),
        (Some(Step::Read { seen, .. }), 3) => seen.push(Element(1 + rng.below(8))),
        (_, 4) => transaction.outcome = TransactionOutcome::Failed,
        _ => {
            transaction.outcome = TransactionOutcome::Committed;
            transaction.returned.get_or_insert(transaction.invoked + 5);
        }
    }
}

fn described(history: &TransactionHistory, report: &Report) -> String {
    let found: Vec<String> = report.violations.iter().map(|v| history.describe(v)).collect();
    let all: Vec<String> = history.transactions().iter().map(ToString::to_string).collect();
    format!("{}\nof\n{}", found.join("\n"), all.join("\n"))
}

#[test]
fn histories_of_a_serial_store_pass() {
    for seed in 0..10_000 {
        let history: TransactionHistory = small(seed, Store::Serial).0.into_iter().collect();
        let report = check(&history);
        assert_eq!(
            report.verdict(),
            Verdict::Serializable,
            "seed {seed}: {}",
            described(&history, &report)
        );
    }
}

#[test]
fn the_checker_agrees_with_the_definition() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = 0;
    for seed in 0..30_000 {
        let store = STORES[usize::try_from(seed % 5).expect("small")];
        let (mut transactions, mut rng) = small(seed, store);
        if store == Store::Serial || rng.one_in(2) {
            mutate(&mut transactions, &mut rng);
        }
        let expected = brute_force::is_strictly_serializable(&transactions);
        let history: TransactionHistory = transactions.into_iter().collect();
        let report = check(&history);
        let passes = report.verdict() == Verdict::Serializable;
        assert_eq!(passes, report.counts.is_empty(), "seed {seed} ({store:?})");
        assert_eq!(
            passes,
            expected,
            "seed {seed} ({store:?}): {}",
            described(&history, &report)
        );
        wrong += usize::from(!expected);
        for violation in &report.violations {
            *found.entry(violation.property).or_default() += 1;
        }
    }
    assert!((8_000..25_000).contains(&wrong), "{wrong} histories were wrong");
    for anomaly in Anomaly::ALL {
        assert!(found.contains_key(anomaly.name()), "no {} in {found:?}", anomaly.name());
    }
}

/// All simple cycles of dependencies, as edges, by going through all paths.
fn all_cycles(graph: &Graph) -> Vec<Vec<Edge>> {
    fn walk(graph: &Graph, way: &mut Vec<Edge>, start: usize, found: &mut Vec<Vec<Edge>>) {
        let node = way.last().map_or(start, |e| e.to);
        for edge in graph.out(node).map(|at| graph.edges[at]) {
            let passed = way.iter().any(|e| e.from == edge.to);
            way.push(edge);
            if edge.to == start {
                found.push(way.clone());
            } else if edge.to > start && !passed {
                walk(graph, way, start, found);
            }
            way.pop();
        }
    }
    let mut found = Vec::new();
    for start in 0..graph.nodes() {
        walk(graph, &mut Vec::new(), start, &mut found);
    }
    found
}

/// How plain an anomaly is: the kinds of edges that it needs.
fn rank(anomaly: Anomaly) -> usize {
    match anomaly {
        Anomaly::DirtyWrite => 0,
        Anomaly::CircularInformationFlow => 1,
        Anomaly::LostUpdate | Anomaly::ReadSkew => 2,
        Anomaly::LongFork => 3,
        _ => 4,
    }
}

#[test]
fn cycles_are_real_and_of_the_plainest_kind() {
    let mut ranks = BTreeSet::new();
    for seed in 0..20_000 {
        let store = STORES[1 + usize::try_from(seed % 3).expect("small")];
        let history: TransactionHistory = small(seed, store).0.into_iter().collect();
        let transactions = history.transactions();
        let mut findings = Findings::default();
        let views = Views::of(transactions, &mut findings);
        let orders = order::orders(&views, &mut findings);
        let graph = Graph::of(transactions.len(), &orders);
        let found = cycles::find(&graph, transactions);
        for cycle in &found.cycles {
            assert_is_cycle(cycle, &graph, transactions);
        }
        let dependencies = found.cycles.iter().filter(|c| c.anomaly != Anomaly::RealTime);
        let plainest = dependencies.map(|c| rank(c.anomaly)).min();
        let all = all_cycles(&graph);
        let expected = all.iter().map(|edges| rank(cycles::name(edges))).min();
        assert_eq!(plainest, expected, "seed {seed} ({store:?}): {:?}", found.cycles);
        ranks.extend(plainest);
    }
    assert_eq!(ranks, (0..=4).collect());
}

fn assert_is_cycle(cycle: &Cycle, graph: &Graph, transactions: &[Transaction]) {
    for pair in cycle.edges.windows(2) {
        assert_eq!(pair[0].to, pair[1].from, "{cycle:?}");
    }
    let (first, last) = (cycle.edges[0], cycle.edges[cycle.edges.len() - 1]);
    match cycle.anomaly {
        Anomaly::RealTime => assert!(transactions[last.to].precedes(&transactions[first.from]), "{cycle:?}"),
        _ => assert_eq!(last.to, first.from, "{cycle:?}"),
    }
    let from: BTreeSet<usize> = cycle.edges.iter().map(|e| e.from).collect();
    assert_eq!(
        from.len(),
        cycle.edges.len(),
        "it passes a transaction twice: {cycle:?}"
    );
    for edge in &cycle.edges {
        let through_hub = edge.kind == Kind::Rw && edge.to < graph.transactions;
        let direct = graph.edges.contains(edge);
        let half =
            |e: &&Edge| e.from == edge.from && e.kind == Kind::Rw && e.key == edge.key && e.to >= graph.transactions;
        assert!(
            direct || through_hub && graph.edges.iter().any(|e| half(&e)),
            "{edge:?} in {cycle:?}"
        );
    }
}

/// Transactions of a serial store in which keys come and go, so that lists stay short: `open` at a time.
fn large(count: u64, list: u64, open: u64) -> Vec<Transaction> {
    let mut rng = Rng(7);
    let mut state = State::new();
    let mut transactions = Vec::new();
    let mut element = 0;
    for n in 0..count {
        // Instants of effect are 100 apart; others overlap.
        let effect = 10_000 + n * 100;
        let outcome = match rng.below(100) {
            0 => TransactionOutcome::Unknown,
            1 | 2 => TransactionOutcome::Failed,
            _ => TransactionOutcome::Committed,
        };
        let happens =
            outcome == TransactionOutcome::Committed || outcome == TransactionOutcome::Unknown && rng.one_in(2);
        let mut steps = Vec::new();
        for _ in 0..1 + rng.below(4) {
            let number = n / list * 10 + rng.below(10);
            let key = Workload::key(number);
            let list = state.entry(number).or_default();
            let touched = steps.iter().any(|s: &Step| *s.key() == key);
            match rng.one_in(2) && !touched {
                true => steps.push(Step::Read {
                    key,
                    seen: list.clone(),
                }),
                false => {
                    element += 1;
                    steps.push(Step::Append {
                        key,
                        element: Element(element),
                    });
                    if happens {
                        list.push(Element(element));
                    }
                }
            }
        }
        let end = effect + 1 + rng.below(open * 100);
        transactions.push(Transaction {
            client: ClientId(n % 64),
            steps,
            invoked: effect - rng.below(open * 100),
            returned: (outcome != TransactionOutcome::Unknown).then_some(end),
            outcome,
        });
    }
    transactions
}

/// Far above what it takes (a second at most), far below what anything quadratic would.
const BOUND: std::time::Duration = std::time::Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "measures the program itself")]
fn timed(transactions: Vec<Transaction>) -> Report {
    let history: TransactionHistory = transactions.into_iter().collect();
    let start = std::time::Instant::now();
    let report = check(&history);
    let took = start.elapsed();
    println!("{} transactions, {} edges: {took:?}", report.transactions, report.edges);
    assert!(took < BOUND, "it took {took:?}");
    report
}

#[test]
fn fifty_thousand_transactions_are_judged_in_seconds() {
    let report = timed(large(50_000, 500, 30));
    assert_eq!(report.verdict(), Verdict::Serializable);
    assert!(report.transactions > 48_000 && report.observed_unknown > 100);
}

#[test]
fn one_wrong_answer_among_fifty_thousand_is_found() {
    let mut transactions = large(50_000, 500, 30);
    let newest = transactions
        .iter_mut()
        .skip(25_000)
        .flat_map(|t| &mut t.steps)
        .find_map(|step| match step {
            Step::Read { seen, .. } if seen.len() > 30 => Some(seen),
            _ => None,
        });
    newest.expect("there are long lists").truncate(3);
    let report = timed(transactions);
    assert!(!report.violations.is_empty());
}

#[test]
fn a_history_that_is_one_tangle_is_judged_in_seconds() {
    let mut transactions = large(50_000, 500, 30);
    // Every hundredth read is an older list: thousands of cycles that hang together.
    let reads = transactions
        .iter_mut()
        .flat_map(|t| &mut t.steps)
        .filter_map(|step| match step {
            Step::Read { seen, .. } if seen.len() > 4 => Some(seen),
            _ => None,
        });
    for seen in reads.step_by(100) {
        seen.truncate(seen.len() / 2);
    }
    for transaction in &mut transactions {
        // One key that all read and nobody's append to it is ever seen ties everything together.
        let key = Workload::key(u64::MAX);
        transaction.steps.push(Step::Read { key, seen: Vec::new() });
    }
    for (n, transaction) in transactions.iter_mut().enumerate().step_by(10) {
        let element = Element(10_000_000 + n as u64);
        let key = Workload::key(u64::MAX);
        transaction.steps.push(Step::Append { key, element });
    }
    let report = timed(transactions);
    assert!(report.counts.len() > 1, "{:?}", report.counts);
}
