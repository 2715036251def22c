//! Transactions beside plain durable puts of the same keyspace: latency, throughput, and what contention does.
//!
//! Three replicas, eight groups, an fsync before every acknowledgement. What is compared runs in turns within each round.

mod accounts;
mod contention;

use crate::Plan;
use crate::load::{Draw, Load, closed_loop};
use crate::metrics::{Fsyncs, fsyncs, phases};
use crate::report::{Bar, Row, median};
use crate::scenario::{self, CALLERS, FEW_KEYS, annotate};
use accounts::{Accounts, Pair};
use anyhow::{Context, Result, ensure};
use fulcrum_client::{Client, Keyspace};
use fulcrum_local_cluster::LocalCluster;
use std::sync::Arc;
use std::time::Duration;

const NODES: u32 = 3;
const GROUPS: u32 = 8;
/// Pairs of accounts of one caller. With a single one, each of its transfers would meet the locks of the one before, which go a
/// moment after its client was answered: that is contention, too.
const PAIRS_EACH: usize = 16;

pub(crate) async fn run(plan: Plan) -> Result<Vec<Row>> {
    let cluster = scenario::cluster(NODES.into()).await?;
    let client = Client::connect(scenario::config(&cluster)).await?;
    let keyspace = scenario::keyspace(&client, "bank", NODES, GROUPS).await?;
    let accounts = Accounts::new(&client, &keyspace);
    let bench = Bench {
        pairs: accounts.open_pairs("pair", CALLERS * PAIRS_EACH).await?.into(),
        cluster,
        client,
        keyspace,
        accounts,
    };
    let mut rounds = Vec::new();
    for round in 0..=plan.rounds {
        let measured = bench.measure(plan.round).await?;
        // The first one warms up.
        if round > 0 {
            rounds.push(measured);
        }
    }
    let mut rows = rows(&rounds);
    rows.push(bench.phases().await?);
    rows.extend(contention::run(&bench.accounts, plan).await?);
    Ok(rows)
}

struct Bench {
    cluster: LocalCluster,
    client: Client,
    keyspace: Keyspace,
    accounts: Accounts,
    /// [`PAIRS_EACH`] a caller.
    pairs: Arc<[Pair]>,
}

struct Round {
    put: Load,
    put_disk: Fsyncs,
    one: Load,
    one_disk: Fsyncs,
    two: Load,
    two_disk: Fsyncs,
    puts: Load,
    transfers: Load,
    transfers_disk: Fsyncs,
    again: Load,
}

impl Bench {
    async fn measure(&self, time: Duration) -> Result<Round> {
        let start = fsyncs(&self.cluster).await?;
        let put = self.puts(1, time).await?;
        let after_put = fsyncs(&self.cluster).await?;
        let one = self.one_group(time).await?;
        let after_one = fsyncs(&self.cluster).await?;
        let two = self.two_groups(time).await?;
        let after_two = fsyncs(&self.cluster).await?;
        let puts = self.puts(CALLERS, time).await?;
        let between = fsyncs(&self.cluster).await?;
        let transfers = self.transfers(PAIRS_EACH, time).await?;
        let end = fsyncs(&self.cluster).await?;
        let again = self.transfers(1, time).await?;
        Ok(Round {
            put,
            put_disk: after_put.since(start),
            one,
            one_disk: after_one.since(after_put),
            two,
            two_disk: after_two.since(after_one),
            puts,
            transfers,
            transfers_disk: end.since(between),
            again,
        })
    }

    async fn puts(&self, callers: usize, time: Duration) -> Result<Load> {
        let value = scenario::value();
        closed_loop(callers, time, |caller| {
            let (keyspace, value, mut draw) = (self.keyspace.clone(), value.clone(), Draw::new(caller));
            move || {
                let (keyspace, value, number) = (keyspace.clone(), value.clone(), draw.below(FEW_KEYS));
                async move { scenario::put(&keyspace, number, value).await }
            }
        })
        .await
    }

    /// One write in one commit.
    async fn one_group(&self, time: Duration) -> Result<Load> {
        let (client, name, value) = (&self.client, self.keyspace.name(), scenario::value());
        closed_loop(1, time, |caller| {
            let (client, name, value, mut draw) = (client.clone(), name.to_owned(), value.clone(), Draw::new(caller));
            move || {
                let commit = client.commit();
                let commit = commit.put(&name, scenario::key(draw.below(FEW_KEYS)), value.clone());
                async move {
                    let done = commit.send().await.map_err(annotate)?;
                    ensure!(done.rounds == 1, "one group took {} rounds", done.rounds);
                    Ok(())
                }
            }
        })
        .await
    }

    /// A write in each of two groups, in one commit; the next pair each time.
    async fn two_groups(&self, time: Duration) -> Result<Load> {
        let (client, name, value) = (&self.client, self.keyspace.name(), scenario::value());
        closed_loop(1, time, |_| {
            let (client, name, value) = (client.clone(), name.to_owned(), value.clone());
            let (pairs, mut next) = (self.pairs.clone(), 0);
            move || {
                let Pair(from, to) = &pairs[next % pairs.len()];
                next += 1;
                // Beside the accounts: in their groups, by the part of the key that counts.
                let (one, other) = (format!("{{{from}}}beside"), format!("{{{to}}}beside"));
                let commit = client.commit();
                let commit = commit.put(&name, one, value.clone()).put(&name, other, value.clone());
                async move {
                    let done = commit.send().await.map_err(annotate)?;
                    ensure!(done.rounds == 2, "two groups took {} rounds", done.rounds);
                    Ok(())
                }
            }
        })
        .await
    }

    /// Each caller between accounts of its own: so many pairs of them in turn.
    async fn transfers(&self, pairs_each: usize, time: Duration) -> Result<Load> {
        closed_loop(CALLERS, time, |caller| {
            let (accounts, pairs) = (self.accounts.clone(), self.pairs.clone());
            let mut next = 0;
            move || {
                let accounts = accounts.clone();
                let Pair(from, to) = pairs[(caller * PAIRS_EACH + next) % pairs.len()].clone();
                next = (next + 1) % pairs_each;
                async move {
                    let done = accounts.transfer(&from, &to).await?;
                    ensure!(done.rounds == 2, "a transfer took {} rounds", done.rounds);
                    Ok(())
                }
            }
        })
        .await
    }

    /// Where a transaction's time went, as the coordinator in the router saw it.
    async fn phases(&self) -> Result<Row> {
        let router = self.cluster.router_metrics_address();
        let phases = phases(router.context("the router serves no metrics")?).await?;
        let total = phases.iter().map(|(_, ms)| ms).sum();
        let each = phases.iter().map(|(name, ms)| format!("{name} {ms:.2}"));
        Ok(Row::new(
            "  mean of the coordinator's phases, together",
            total,
            "ms",
            each.collect::<Vec<_>>().join(", "),
        ))
    }
}

/// Fsyncs of all nodes for each answer.
fn each_cost(load: &Load, disk: Fsyncs) -> f64 {
    disk.count / load.answered.max(1) as f64
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    let each = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let latency = |way: fn(&Round) -> &Load, disk: fn(&Round) -> Fsyncs| {
        format!(
            "p50 {:.0} us, p99 {:.0} us, {:.1} fsyncs of all nodes each",
            each(&|round| way(round).p50_us),
            each(&|round| way(round).p99_us),
            each(&|round| each_cost(way(round), disk(round))),
        )
    };
    vec![
        Row::new(
            "durable put, one caller",
            each(&|round| round.put.p50_us),
            "us",
            latency(|round| &round.put, |round| round.put_disk),
        ),
        Row::new(
            "transaction of one group: latency",
            each(&|round| round.one.p50_us / round.put.p50_us),
            "x put",
            latency(|round| &round.one, |round| round.one_disk),
        )
        .bar(Bar::AtMost(1.3)),
        Row::new(
            "transaction of two groups: latency",
            each(&|round| round.two.p50_us / round.put.p50_us),
            "x put",
            latency(|round| &round.two, |round| round.two_disk),
        )
        .bar(Bar::AtMost(2.5)),
        Row::new(
            "transfers between two groups, 64 callers",
            each(&|round| round.transfers.per_second / round.puts.per_second),
            "x puts",
            format!(
                "{:.0}/s against {:.0}/s, p50 {:.1} ms, p99 {:.1} ms, {:.0} us CPU each (put {:.0}), {:.2} fsyncs each",
                each(&|round| round.transfers.per_second),
                each(&|round| round.puts.per_second),
                each(&|round| round.transfers.p50_us) / 1e3,
                each(&|round| round.transfers.p99_us) / 1e3,
                each(&|round| round.transfers.cpu_us),
                each(&|round| round.puts.cpu_us),
                each(&|round| each_cost(&round.transfers, round.transfers_disk)),
            ),
        )
        .bar(Bar::AtLeast(0.30)),
        Row::new(
            "  each caller the same pair again and again",
            each(&|round| round.again.per_second / round.puts.per_second),
            "x puts",
            format!(
                "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms, {:.0} us CPU each",
                each(&|round| round.again.per_second),
                each(&|round| round.again.p50_us) / 1e3,
                each(&|round| round.again.p99_us) / 1e3,
                each(&|round| round.again.cpu_us),
            ),
        ),
    ]
}
