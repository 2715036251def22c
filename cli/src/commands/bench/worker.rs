//! One client, or one lane of a pipelined one.

use crate::args::ReadArgs;
use crate::context::at_levels;
use crate::workload::{KeyChooser, Mix, Rng, Step, key_name};
use bytes::Bytes;
use fulcrum_client::{Error, Got, Keyspace, Pipeline, Range, Receipt, Write, Written};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_types::{Condition, Mono};
use futures::TryStreamExt;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// After a refusal, so that a cluster that refuses is not asked as fast as it can refuse.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest scan, as in YCSB.
const SCAN_ROWS: u64 = 100;

/// What all clients share.
pub(super) struct Plan {
    pub(super) mix: Mix,
    pub(super) chooser: KeyChooser,
    /// Grows with inserts.
    pub(super) records: AtomicU64,
    pub(super) value_size: usize,
    pub(super) until: Mono,
    pub(super) read: ReadArgs,
}

/// Microseconds, three digits.
pub(super) struct Latency(pub(super) Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        let grown = Histogram::<u64>::new(3);
        // Three significant digits are legal.
        Latency(grown.unwrap_or_else(|error| unreachable!("{error}")))
    }
}

impl Latency {
    fn record(&mut self, time: Duration) {
        self.0
            .saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn merge(&mut self, other: &Latency) {
        // Histograms that grow by themselves take each other's values.
        let _ = self.0.add(&other.0);
    }

    pub(super) fn at(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    pub(super) fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }
}

/// What was measured.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) latencies: BTreeMap<Step, Latency>,
    pub(super) errors: BTreeMap<(Step, &'static str), u64>,
    /// Bounds that receipts of reads stated.
    pub(super) staleness: Latency,
    /// Reads without such a bound.
    pub(super) unproved: u64,
    /// Read-modify-writes that found the key changed since.
    pub(super) conflicts: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn operations(&self) -> u64 {
        self.latencies.values().map(Latency::count).sum()
    }

    pub(super) fn merge(&mut self, other: &Tally) {
        for (step, latency) in &other.latencies {
            self.latencies.entry(*step).or_default().merge(latency);
        }
        for (error, count) in &other.errors {
            *self.errors.entry(*error).or_default() += count;
        }
        self.staleness.merge(&other.staleness);
        self.unproved += other.unproved;
        self.conflicts += other.conflicts;
    }

    fn read(&mut self, receipt: &Receipt) {
        match receipt.staleness {
            Some(bound) => self.staleness.record(bound),
            None => self.unproved += 1,
        }
    }
}

/// One client.
pub(super) struct Worker {
    plan: Arc<Plan>,
    keyspace: Keyspace,
    pipeline: Option<Pipeline>,
    rng: Rng,
    chooser: KeyChooser,
    tally: Tally,
}

impl Worker {
    pub(super) fn new(plan: Arc<Plan>, keyspace: Keyspace, pipeline: Option<Pipeline>, rng: Rng) -> Self {
        Worker {
            chooser: plan.chooser.clone(),
            plan,
            keyspace,
            pipeline,
            rng,
            tally: Tally::new(),
        }
    }

    pub(super) async fn run(mut self) -> Tally {
        loop {
            let began = SystemClock.now().mono;
            if began >= self.plan.until {
                return self.tally;
            }
            let step = self.plan.mix.draw(&mut self.rng);
            let done = self.step(step).await;
            let took = SystemClock.now().mono.since(began);
            match done {
                Ok(()) => self.tally.latencies.entry(step).or_default().record(took),
                Err(error) => {
                    *self.tally.errors.entry((step, error.code())).or_default() += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn step(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Read => {
                let key = self.key();
                self.get(key).await.map(drop)
            }
            Step::Update => {
                let (key, value) = (self.key(), self.value());
                self.send(self.keyspace.put(key, value)).await.map(drop)
            }
            Step::Insert => {
                let record = self.plan.records.fetch_add(1, Ordering::Relaxed);
                let value = self.value();
                self.send(self.keyspace.put(key_name(record), value)).await?;
                self.chooser.grow(record + 1);
                Ok(())
            }
            Step::Scan => self.scan().await,
            Step::ReadModifyWrite => self.read_modify_write().await,
        }
    }

    fn key(&mut self) -> Bytes {
        key_name(self.chooser.choose(&mut self.rng))
    }

    fn value(&mut self) -> Bytes {
        self.rng.text(self.plan.value_size).into()
    }

    async fn get(&mut self, key: Bytes) -> Result<Got, Error> {
        let get = at_levels(self.keyspace.get(key), &self.plan.read);
        let got = match &self.pipeline {
            Some(pipeline) => get.submit(pipeline).await?.await?,
            None => get.send().await?,
        };
        self.tally.read(&got.receipt);
        Ok(got)
    }

    async fn send(&self, write: Write<'_>) -> Result<Written, Error> {
        match &self.pipeline {
            Some(pipeline) => write.submit(pipeline).await?.await,
            None => write.send().await,
        }
    }

    async fn scan(&mut self) -> Result<(), Error> {
        let start = self.key();
        let rows = self.rng.below(SCAN_ROWS) + 1;
        let scan = self.keyspace.scan(Range::from(start)).limit(rows);
        let scan = self
            .plan
            .read
            .accept
            .iter()
            .fold(scan, |scan, level| scan.or_at(*level));
        let scan = match self.plan.read.level {
            Some(level) => scan.at(level),
            None => scan,
        };
        let mut pages = std::pin::pin!(scan.pages());
        while let Some(page) = pages.try_next().await? {
            page.receipts.iter().for_each(|receipt| self.tally.read(receipt));
        }
        Ok(())
    }

    /// A key that changed meanwhile counts as answered, and as a conflict.
    async fn read_modify_write(&mut self) -> Result<(), Error> {
        let (key, value) = (self.key(), self.value());
        let got = self.get(key.clone()).await?;
        let condition = got
            .value
            .map_or(Condition::Absent, |found| Condition::VersionIs(found.version));
        let written = self.send(self.keyspace.put(key, value).only_if(condition)).await?;
        self.tally.conflicts += u64::from(!written.applied());
        Ok(())
    }
}
