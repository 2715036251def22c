//! Durable puts on three replicas with an fsync before every acknowledgement: unary with 64 callers, and pipelined.

use crate::Plan;
use crate::load::{Draw, Load, Stopwatch, closed_loop};
use crate::metrics::{Fsyncs, fsyncs};
use crate::report::{Bar, Row, median};
use crate::scenario::{self, CALLERS, FEW_KEYS};
use anyhow::{Result, ensure};
use fulcrum_client::{Client, Keyspace, Pending, Pipeline, Written};
use fulcrum_local_cluster::LocalCluster;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

const NODES: u32 = 3;
const WINDOW: usize = 4096;
/// Requests that are answered before as many new ones follow: a message's worth.
const REFILL: usize = 256;

pub(crate) async fn run(plan: Plan) -> Result<Vec<Row>> {
    let cluster = scenario::cluster(NODES.into()).await?;
    let client = Client::connect(scenario::config(&cluster)).await?;
    let keyspace = scenario::keyspace(&client, "users", NODES, 8).await?;
    let pipeline = client.pipeline();
    let mut rounds = Vec::new();
    for round in 0..=plan.rounds {
        let measured = measure(&cluster, &keyspace, &pipeline, plan.round).await?;
        // The first one warms up.
        if round > 0 {
            rounds.push(measured);
        }
    }
    Ok(rows(&rounds))
}

struct Round {
    unary: Load,
    unary_disk: Fsyncs,
    unary_seconds: f64,
    pipelined: Load,
    pipelined_disk: Fsyncs,
}

async fn measure(cluster: &LocalCluster, keyspace: &Keyspace, pipeline: &Pipeline, time: Duration) -> Result<Round> {
    let before = fsyncs(cluster).await?;
    let begun = Instant::now();
    let unary = unary(keyspace, time).await?;
    let unary_seconds = begun.elapsed().as_secs_f64();
    let between = fsyncs(cluster).await?;
    let pipelined = pipelined(pipeline, keyspace, time).await?;
    let after = fsyncs(cluster).await?;
    Ok(Round {
        unary,
        unary_disk: between.since(before),
        unary_seconds,
        pipelined,
        pipelined_disk: after.since(between),
    })
}

/// Every write is on three disks: that many node-writes share the fsyncs of all nodes.
fn shared(answered: u64, disk: Fsyncs) -> f64 {
    answered as f64 * f64::from(NODES) / disk.count.max(1.0)
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    let each = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let fsync_ms = |disk: Fsyncs| disk.seconds / disk.count.max(1.0) * 1e3;
    vec![
        Row::new(
            "durable put, 3 replicas, 64 callers",
            each(|round| round.unary.per_second),
            "/s",
            format!(
                "p50 {:.0} us, p99 {:.0} us, {:.1} us CPU each",
                each(|round| round.unary.p50_us),
                each(|round| round.unary.p99_us),
                each(|round| round.unary.cpu_us)
            ),
        ),
        Row::new(
            "  operations per fsync",
            each(|round| shared(round.unary.answered, round.unary_disk)),
            "",
            format!(
                "pipelined {:.1}",
                each(|round| shared(round.pipelined.answered, round.pipelined_disk))
            ),
        ),
        Row::new(
            "  share of time in fsync",
            each(|round| round.unary_disk.seconds / (f64::from(NODES) * round.unary_seconds)),
            "",
            format!(
                "mean of the nodes; one fsync takes {:.2} ms",
                median(rounds.iter().map(|round| fsync_ms(round.unary_disk)).collect())
            ),
        ),
        Row::new(
            "durable put, pipeline",
            each(|round| round.pipelined.per_second / round.unary.per_second),
            "x unary",
            format!(
                "{:.0}/s, {:.1} us CPU each",
                each(|round| round.pipelined.per_second),
                each(|round| round.pipelined.cpu_us)
            ),
        )
        .bar(Bar::AtLeast(5.0)),
    ]
}

pub(crate) async fn unary(keyspace: &Keyspace, time: Duration) -> Result<Load> {
    let value = scenario::value();
    closed_loop(CALLERS, time, |caller| {
        let (keyspace, value, mut draw) = (keyspace.clone(), value.clone(), Draw::new(caller));
        move || {
            let (keyspace, value, number) = (keyspace.clone(), value.clone(), draw.below(FEW_KEYS));
            async move { scenario::put(&keyspace, number, value).await }
        }
    })
    .await
}

pub(crate) async fn pipelined(pipeline: &Pipeline, keyspace: &Keyspace, time: Duration) -> Result<Load> {
    let value = scenario::value();
    let mut pending: VecDeque<Pending<Written>> = VecDeque::with_capacity(WINDOW);
    let mut draw = Draw::new(0);
    let stopwatch = Stopwatch::start();
    let mut answered = 0;
    while stopwatch.elapsed() < time {
        while pending.len() < WINDOW {
            let put = keyspace.put(scenario::key(draw.below(FEW_KEYS)), value.clone());
            pending.push_back(put.submit(pipeline).await?);
        }
        for written in pending.drain(..REFILL) {
            ensure!(written.await?.receipt.durable, "a write is not durable");
            answered += 1;
        }
    }
    for written in pending {
        written.await?;
        answered += 1;
    }
    Ok(stopwatch.stop(answered))
}
