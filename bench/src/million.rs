//! A million keys of 100 bytes on one shard-node: its memory, its latency beside that of few keys, and its restart.

use crate::Plan;
use crate::get::among;
use crate::load::Load;
use crate::process::resident_mib;
use crate::report::{Bar, Row, median};
use crate::scenario::{self, FEW_KEYS};
use anyhow::{Context, Result};
use fulcrum_client::{Client, Keyspace};
use fulcrum_local_cluster::LocalCluster;
use std::time::Duration;
use tokio::time::Instant;

/// Callers that measure latency.
const CALLERS: usize = 8;
/// For a restarted node to serve at all.
const SERVES_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn run(plan: Plan) -> Result<Vec<Row>> {
    let before = resident_mib()?;
    let mut cluster = scenario::cluster(1).await?;
    let client = Client::connect_smart(scenario::config(&cluster)).await?;
    let few = scenario::keyspace(&client, "few", 1, 8).await?;
    let many = scenario::keyspace(&client, "many", 1, 8).await?;
    let empty = resident_mib()?;
    scenario::fill(&few, FEW_KEYS).await?;
    let begun = Instant::now();
    scenario::fill(&many, plan.keys).await?;
    let loading = begun.elapsed().as_secs_f64();
    let loaded = resident_mib()?;

    let (with_few, with_many) = latencies(&few, &many, plan).await?;
    let peak = resident_mib()?.max(loaded);
    let memory = Row::new(
        "memory of a shard-node with 1 million keys",
        peak,
        "MiB",
        format!(
            "the whole process with router and client; {before:.0} at its start, {empty:.0} without keys; loaded in {loading:.0} s",
        ),
    );
    let ratios = with_few
        .iter()
        .zip(&with_many)
        .map(|(few, many)| many.p99_us / few.p99_us);
    let each = |loads: &[Load], figure: fn(&Load) -> f64| median(loads.iter().map(figure).collect());
    let shown = |loads: &[Load]| {
        format!(
            "p50 {:.0} us, p99 {:.0} us, {:.1} us CPU each",
            each(loads, |load| load.p50_us),
            each(loads, |load| load.p99_us),
            each(loads, |load| load.cpu_us)
        )
    };
    let latency = Row::new(
        "get p99, 1 million keys",
        median(ratios.collect()),
        "x of 10,000",
        format!("{}; with 10,000: {}", shown(&with_many), shown(&with_few)),
    );
    let (restart, grace) = restart(&mut cluster, &client, &many).await?;
    let restart = Row::new(
        "restart to serving, 1 million keys",
        restart.as_secs_f64(),
        "s",
        format!("after a crash; of this one grace: {:.1} s", grace.as_secs_f64()),
    )
    .bar(Bar::AtMost(2.0 + grace.as_secs_f64()));
    Ok(vec![
        memory.bar(Bar::AtMost(300.0)),
        restart,
        latency.bar(Bar::AtMost(1.5)),
    ])
}

/// Gets of few and of many keys, in turns. Few callers: with the node saturated, latency would only restate throughput.
async fn latencies(few: &Keyspace, many: &Keyspace, plan: Plan) -> Result<(Vec<Load>, Vec<Load>)> {
    let (mut with_few, mut with_many) = (Vec::new(), Vec::new());
    for round in 0..=plan.rounds {
        let less = among(few, FEW_KEYS, CALLERS, plan.round).await?;
        let more = among(many, plan.keys, CALLERS, plan.round).await?;
        // The first one warms up.
        if round > 0 {
            with_few.push(less);
            with_many.push(more);
        }
    }
    Ok((with_few, with_many))
}

/// Crashes the node and starts it again; the time until it serves a linearizable get.
async fn restart(cluster: &mut LocalCluster, client: &Client, many: &Keyspace) -> Result<(Duration, Duration)> {
    let grace = client.admin().show_keyspace(many.name()).await?.options.timing.grace;
    let node = cluster.nodes().next().context("the cluster has no node")?;
    cluster.crash_node(node).await;
    let begun = Instant::now();
    cluster.restart_node(node).await?;
    many.get(scenario::key(7)).within(SERVES_WITHIN).await?;
    Ok((begun.elapsed(), grace))
}
