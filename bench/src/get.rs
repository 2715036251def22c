//! Linearizable gets: unary through the router and straight to the primary, against a bare echo; and pipelined.

use crate::Plan;
use crate::echo::BareEcho;
use crate::load::{Draw, Load, closed_loop};
use crate::report::{Bar, Row, median};
use crate::scenario::{self, CALLERS, FEW_KEYS};
use anyhow::Result;
use fulcrum_client::{Client, Got, Keyspace, Pending, Pipeline};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Requests that one submitter keeps under way in a pipeline.
const WINDOW: usize = 512;

pub(crate) async fn run(plan: Plan) -> Result<Vec<Row>> {
    let cluster = scenario::cluster(3).await?;
    let client = Client::connect(scenario::config(&cluster)).await?;
    let through_router = scenario::keyspace(&client, "users", 3, 8).await?;
    scenario::fill(&through_router, FEW_KEYS).await?;
    let smart = Client::connect_smart(scenario::config(&cluster))
        .await?
        .keyspace("users");
    let pipeline = client.pipeline();
    let echo = BareEcho::start().await?;

    let mut rounds = Vec::new();
    for round in 0..=plan.rounds {
        let measured = Round {
            echo: bare(&echo, plan.round).await?,
            router: unary(&through_router, plan.round).await?,
            smart: unary(&smart, plan.round).await?,
            pipelined: pipelined(&pipeline, &through_router, plan.round).await?,
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
    pipelined: f64,
}

fn rows(rounds: &[Round]) -> Vec<Row> {
    let each = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let router = each(|round| round.router.per_second);
    let detail = |way: f64, p50: f64, p99: f64| format!("{way:.0}/s, p50 {p50:.0} us, p99 {p99:.0} us");
    vec![
        Row::new(
            "bare tonic echo, 64 callers",
            each(|round| round.echo.per_second),
            "/s",
            format!(
                "p50 {:.0} us, p99 {:.0} us",
                each(|round| round.echo.p50_us),
                each(|round| round.echo.p99_us)
            ),
        ),
        Row::new(
            "linearizable get, router",
            each(|round| round.router.per_second / round.echo.per_second),
            "x echo",
            detail(
                router,
                each(|round| round.router.p50_us),
                each(|round| round.router.p99_us),
            ),
        )
        .bar(Bar::AtLeast(0.40)),
        Row::new(
            "linearizable get, smart client",
            each(|round| round.smart.per_second / round.echo.per_second),
            "x echo",
            detail(
                each(|round| round.smart.per_second),
                each(|round| round.smart.p50_us),
                each(|round| round.smart.p99_us),
            ),
        )
        .bar(Bar::AtLeast(0.75)),
        Row::new(
            "linearizable get, pipeline",
            each(|round| round.pipelined / round.router.per_second),
            "x unary",
            format!("{:.0}/s, both through the router", each(|round| round.pipelined)),
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
    among(keyspace, FEW_KEYS, time).await
}

/// Unary gets of keys drawn from the first `keys`.
pub(crate) async fn among(keyspace: &Keyspace, keys: u64, time: Duration) -> Result<Load> {
    closed_loop(CALLERS, time, |caller| {
        let (keyspace, mut draw) = (keyspace.clone(), Draw::new(caller));
        move || {
            let (keyspace, number) = (keyspace.clone(), draw.below(keys));
            async move { scenario::get(&keyspace, number).await }
        }
    })
    .await
}

/// Operations a second of one submitter.
async fn pipelined(pipeline: &Pipeline, keyspace: &Keyspace, time: Duration) -> Result<f64> {
    let mut pending: VecDeque<Pending<Got>> = VecDeque::with_capacity(WINDOW);
    let mut draw = Draw::new(0);
    let begun = Instant::now();
    let mut answered = 0_u64;
    while begun.elapsed() < time {
        while pending.len() < WINDOW {
            let number = draw.below(FEW_KEYS);
            pending.push_back(keyspace.get(scenario::key(number)).submit(pipeline).await?);
        }
        for got in pending.drain(..WINDOW / 2) {
            anyhow::ensure!(got.await?.value.is_some(), "a key is missing");
            answered += 1;
        }
    }
    for got in pending {
        got.await?;
        answered += 1;
    }
    Ok(answered as f64 / begun.elapsed().as_secs_f64())
}
