//! How long judging a large history takes: one million operations of 64 clients on 30,000 keys, chosen by Zipf's law.
//!
//! `cargo run --release -p fulcrum-checker --example million`

use bytes::Bytes;
use fulcrum_checker::{Call, ClientLog, History, Outcome, Seen, ValueId, linearizability, sessions, staleness};
use fulcrum_types::{ClientId, Index, Level};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

const OPERATIONS: u64 = 1_000_000;
const CLIENTS: u64 = 64;
const KEYS: usize = 30_000;

fn main() -> ExitCode {
    let history = atomic_history();
    let with_anomaly = with_stale_read(&history);
    let busiest = history.by_key().iter().map(|(_, places)| places.len()).max();
    println!(
        "{} operations, {} on the busiest key",
        history.operations().len(),
        busiest.unwrap_or(0)
    );
    let none = BTreeMap::new();
    let broken = [
        timed("linearizability", || {
            let report = linearizability::check(&history);
            report.violations.len() + report.undecided.len()
        }),
        timed("sessions", || sessions::check(&history, &none).violations.len()),
        timed("staleness", || staleness::check(&history, &none).violations.len()),
    ];
    let found = timed("linearizability with one stale read planted", || {
        linearizability::check(&with_anomaly).violations.len()
    });
    ExitCode::from(u8::from(broken != [0; 3] || found != 1))
}

#[expect(clippy::disallowed_methods, reason = "measures the program itself")]
fn timed(what: &str, judge: impl FnOnce() -> usize) -> usize {
    let start = Instant::now();
    let found = judge();
    println!("{what}: {found} violations, {} ms", start.elapsed().as_millis());
    found
}

/// The history with one read of its busiest key answered as a read of that key long before it was.
fn with_stale_read(history: &History) -> History {
    let mut operations = history.operations().to_vec();
    let keys = history.by_key();
    let busiest = keys.iter().max_by_key(|(_, places)| places.len());
    let reads = busiest.into_iter().flat_map(|(_, places)| places.iter().copied());
    let reads: Vec<usize> = reads.filter(|&p| operations[p].read_level().is_some()).collect();
    if let (Some(&old), Some(&late)) = (reads.get(reads.len() / 4), reads.get(reads.len() / 2)) {
        operations[late].outcome = operations[old].outcome;
    }
    operations.into_iter().collect()
}

/// Clients on an atomic store: half reads, half writes, one write in 200 without an answer.
fn atomic_history() -> History {
    let mut random = Random(1);
    let zipf = zipf();
    let names: Vec<Bytes> = (0..KEYS).map(|k| Bytes::from(format!("key{k}"))).collect();
    let mut store: Vec<Option<(ValueId, Index)>> = vec![None; KEYS];
    let mut logs: Vec<ClientLog> = (0..CLIENTS).map(|c| ClientLog::new(ClientId(c))).collect();
    for n in 1..=OPERATIONS {
        let client = usize::try_from(n % CLIENTS).unwrap_or(0);
        let share = random.unit();
        let key = zipf.partition_point(|sum| *sum < share).min(KEYS - 1);
        // Instants of effect are 100 apart; the operations of the other clients lie around each.
        let effect = n * 100;
        let (begin, end) = (effect.saturating_sub(random.below(3_100)), effect + random.below(3_100));
        let reads = random.below(2) == 0;
        let value = ValueId(n);
        let call = match reads {
            true => Call::Get(Level::Linearizable),
            false => Call::Put(value),
        };
        let ticket = logs[client].begin(begin, names[key].clone(), call);
        let unanswered = !reads && random.below(200) == 0;
        let outcome = match (reads, unanswered) {
            (true, _) => Outcome::Read(store[key].map_or(Seen::Absent, |(value, version)| Seen::Present {
                value,
                version: Some(version),
            })),
            (false, true) => Outcome::Unknown,
            (false, false) => Outcome::Written {
                version: Some(Index(n)),
            },
        };
        if !reads && (!unanswered || random.below(2) == 0) {
            store[key] = Some((value, Index(n)));
        }
        logs[client].end(ticket, end, outcome, None);
    }
    History::merge(logs)
}

/// Cumulated shares of the keys, a little more skewed than YCSB, for a busier busiest key.
fn zipf() -> Vec<f64> {
    let mut sum = 0.0;
    let mut sums = Vec::with_capacity(KEYS);
    for rank in 0..KEYS {
        sum += 1.0 / f64::powf(1.0 + u32::try_from(rank).map_or(0.0, f64::from), 1.1);
        sums.push(sum);
    }
    sums.iter().map(|s| s / sum).collect()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Between 0 and 1.
    fn unit(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}
