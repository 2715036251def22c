//! Linearizable gets: unary through the router and straight to the primary, against a bare echo; and pipelined.
//!
//! One shard group, so that one primary on one thread answers, as in the echo; its two backups run beside it.

use crate::Plan;
use crate::echo::BareEcho;
use crate::load::{Draw, Load, Stopwatch, closed_loop};
use crate::report::{Bar, Row, median};
use crate::scenario::{self, CALLERS, FEW_KEYS};
use anyhow::Result;
use fulcrum_client::{Client, Got, Keyspace, Pending, Pipeline};
use std::collections::VecDeque;
use std::time::Duration;

/// Requests that one submitter keeps under way in a pipeline.
const WINDOW: usize = 4096;
/// Requests that are answered before as many new ones follow: a message's worth.
const REFILL: usize = 256;

pub(crate) async fn run(plan: Plan) -> Result<Vec<Row>> {
    let cluster = scenario::cluster(3).await?;
    let client = Client::connect(scenario::config(&cluster)).await?;
    let through_router = scenario::keyspace(&client, "users", 3, 1).await?;
    scenario::fill(&through_router, FEW_KEYS).await?;
    let smart_client = Client::connect_smart(scenario::config(&cluster)).await?;
    let smart = smart_client.keyspace("users");
    let (pipeline, smart_pipeline) = (client.pipeline(), smart_client.pipeline());
    let echo = BareEcho::start().await?;

    let mut rounds = Vec::new();
    for round in 0..=plan.rounds {
        let measured = Round {
            echo: bare(&echo, plan.round).await?,
            router: unary(&through_router, plan.round).await?,
            smart: unary(&smart, plan.round).await?,
            pipelined: pipelined(&pipeline, &through_router, plan.round).await?,
            smart_pipelined: pipelined(&smart_pipeline, &smart, plan.round).await?,
        };
        // The first one warms up.
        if round > 0 {
            rounds.push(measured);
        }
    }
    Ok(rows(&rounds))
}

struct Round {
    echo: Load,
    router: Load,
    smart: Load,
    pipelined: Load,
    smart_pipelined: Load,
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    let each = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let detail = |way: fn(&Round) -> &Load| {
        format!(
            "{:.0}/s, p50 {:.0} us, p99 {:.0} us, {:.1} us CPU each",
            each(&|round| way(round).per_second),
            each(&|round| way(round).p50_us),
            each(&|round| way(round).p99_us),
            each(&|round| way(round).cpu_us),
        )
    };
    let pipelined = |way: fn(&Round) -> &Load| {
        format!(
            "{:.0}/s, {:.2} us CPU each",
            each(&|round| way(round).per_second),
            each(&|round| way(round).cpu_us),
        )
    };
    let ratio = |name: &str, unit: &str, way: fn(&Round) -> &Load, beside: fn(&Round) -> &Load, detail: String| {
        let measured = each(&|round| way(round).per_second / beside(round).per_second);
        Row::new(name, measured, unit, detail)
    };
    let echo = each(&|round| round.echo.per_second);
    vec![
        Row::new("bare tonic echo, 64 callers", echo, "/s", detail(|round| &round.echo)),
        ratio(
            "linearizable get, router",
            "x echo",
            |round| &round.router,
            |round| &round.echo,
            detail(|round| &round.router),
        )
        .bar(Bar::AtLeast(0.40)),
        ratio(
            "linearizable get, smart client",
            "x echo",
            |round| &round.smart,
            |round| &round.echo,
            detail(|round| &round.smart),
        )
        .bar(Bar::AtLeast(0.75)),
        ratio(
            "linearizable get, pipeline through the router",
            "x unary",
            |round| &round.pipelined,
            |round| &round.router,
            pipelined(|round| &round.pipelined),
        )
        .bar(Bar::AtLeast(10.0)),
        ratio(
            "linearizable get, pipeline of a smart client",
            "x unary",
            |round| &round.smart_pipelined,
            |round| &round.smart,
            pipelined(|round| &round.smart_pipelined),
        )
        .bar(Bar::AtLeast(10.0)),
    ]
}

async fn bare(echo: &BareEcho, time: Duration) -> Result<Load> {
    let payload = scenario::value();
    closed_loop(CALLERS, time, |_| {
        let (echo, payload) = (echo.clone(), payload.clone());
        move || echo.call(payload.clone())
    })
    .await
}

pub(crate) async fn unary(keyspace: &Keyspace, time: Duration) -> Result<Load> {
    among(keyspace, FEW_KEYS, CALLERS, time).await
}

/// Unary gets of keys drawn from the first `keys`.
pub(crate) async fn among(keyspace: &Keyspace, keys: u64, callers: usize, time: Duration) -> Result<Load> {
    closed_loop(callers, time, |caller| {
        let (keyspace, mut draw) = (keyspace.clone(), Draw::new(caller));
        move || {
            let (keyspace, number) = (keyspace.clone(), draw.below(keys));
            async move { scenario::get(&keyspace, number).await }
        }
    })
    .await
}

/// One submitter that keeps a window of requests under way.
pub(crate) async fn pipelined(pipeline: &Pipeline, keyspace: &Keyspace, time: Duration) -> Result<Load> {
    let mut pending: VecDeque<Pending<Got>> = VecDeque::with_capacity(WINDOW);
    let mut draw = Draw::new(0);
    let stopwatch = Stopwatch::start();
    let mut answered = 0;
    while stopwatch.elapsed() < time {
        while pending.len() < WINDOW {
            let number = draw.below(FEW_KEYS);
            pending.push_back(keyspace.get(scenario::key(number)).submit(pipeline).await?);
        }
        for got in pending.drain(..REFILL) {
            anyhow::ensure!(got.await?.value.is_some(), "a key is missing");
            answered += 1;
        }
    }
    for got in pending {
        got.await?;
        answered += 1;
    }
    Ok(stopwatch.stop(answered))
}
