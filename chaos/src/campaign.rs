//! Run after run: clusters, signals, what is told meanwhile, and the exit code.
//!
//! A cluster is used for all runs of a scenario, as long as they hold and it was whole before each; every run has keyspaces of its own. After a run
//! that did not hold the next one gets a cluster of its own.

use crate::args::{LinksChoice, Options};
use crate::backend::process::{Links, enclosure, folder};
use crate::cluster::Cluster;
use crate::faults::heal;
use crate::load::now;
use crate::report::{self, Series, Shelf};
use crate::run::{Outcome, run};
use crate::scenario::{ALL, Bars, Scenario, Shape};
use crate::site::Site;
use anyhow::{Context, Result, bail};
use fulcrum_cli::render::{Paint, span};
use tokio::signal::unix::{SignalKind, signal};

const ALL_HELD: u8 = 0;
const NOT_ALL_HELD: u8 = 1;
const INTERRUPTED: u8 = 130;

/// What is needed before the enclosure is entered: what dead commands have left is gone, and it is known how members will reach each other.
///
/// # Errors
/// Namespaces were asked for and cannot be had.
pub fn choose_links(options: &Options) -> Result<Links> {
    folder::sweep(&options.output)?;
    let refused = match options.links {
        LinksChoice::Proxies => return Ok(Links::Proxies),
        LinksChoice::Auto | LinksChoice::Namespaces => enclosure::refused(),
    };
    match (refused, options.links) {
        (None, _) => Ok(Links::Namespaces),
        (Some(why), LinksChoice::Namespaces) => bail!("{why}: run as root, or with --links proxies"),
        (Some(why), _) => {
            println!("on loopback, with proxies for links: {why}");
            Ok(Links::Proxies)
        }
    }
}

/// All scenarios, and what must hold.
#[must_use]
pub fn list() -> String {
    let mut lines = String::new();
    for scenario in ALL {
        lines += &format!("{:<18} {}{}\n", scenario.name, scenario.about, shown(&scenario.bars));
    }
    lines
}

fn shown(bars: &Bars) -> String {
    let mut parts = Vec::new();
    parts.extend(
        bars.first_ack
            .map(|bar| format!("first acknowledged write within {}", span(bar))),
    );
    parts.extend(bars.pause.map(|bar| format!("no pause longer than {}", span(bar))));
    parts.extend(bars.no_failure.then(|| "no request fails".to_owned()));
    parts.extend(bars.no_failover.then(|| "no failover".to_owned()));
    match parts.is_empty() {
        true => String::new(),
        false => format!(" [{}]", parts.join(", ")),
    }
}

/// Does all that was asked for; the exit code.
///
/// # Errors
/// The cluster cannot be had, or the report not be written.
pub async fn all(options: &Options, site: &Site) -> Result<u8> {
    let mut stop = Stop::listen()?;
    let shelf = Shelf::new(options.folder(), options.backend);
    let seed = options.seed.unwrap_or_else(|| now() / 1_000 % 1_000_000);
    let mut summaries = Vec::new();
    let mut code = ALL_HELD;
    let mut skipped = Vec::new();
    for scenario in options.scenarios()? {
        if let Some(why) = site.refuses(options, &scenario) {
            println!("{}  SKIPPED: {why}", scenario.name);
            skipped.push(scenario.name);
            continue;
        }
        let done = one(options, site, &scenario, seed, &shelf, &mut stop).await?;
        if let Some(series) = &done.series {
            let summary = series.summary();
            if summary.passed < summary.runs {
                code = NOT_ALL_HELD;
            }
            summaries.push(summary);
        }
        if done.interrupted {
            code = INTERRUPTED;
            break;
        }
    }
    // A start that was interrupted has left what nobody holds.
    site.sweep(options).await?;
    if summaries.is_empty() && code == ALL_HELD {
        bail!("nothing was run: skipped {}", skipped.join(", "));
    }
    println!("\n{}", report::table(&summaries, Paint::for_stdout()));
    if !skipped.is_empty() {
        println!("skipped: {}", skipped.join(", "));
    }
    println!("reports: {}", options.folder().join("report.md").display());
    Ok(code)
}

/// Ctrl-C, or being asked to end.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

struct Done {
    /// None if no run came to its end.
    series: Option<Series>,
    interrupted: bool,
}

async fn one(
    options: &Options,
    site: &Site,
    scenario: &Scenario,
    seed: u64,
    shelf: &Shelf,
    stop: &mut Stop,
) -> Result<Done> {
    let paint = Paint::for_stdout();
    println!("{}  {}", paint.bold(scenario.name), scenario.about);
    let setup = site.setup(options, scenario)?;
    let shape = Shape {
        nodes: options.nodes,
        run_time: options.run_time,
    };
    let mut series = Series {
        scenario: scenario.name.to_owned(),
        backend: site.name(),
        nodes: options.nodes,
        runs: Vec::new(),
    };
    let mut cluster: Option<Cluster> = None;
    let mut interrupted = false;
    for number in 0..options.runs {
        let seed = seed + number;
        let doing = async {
            if cluster.is_none() {
                let started = Cluster::start(setup.clone(), &options.folder()).await?;
                if scenario.bars.no_failover {
                    started.keep_primaries().await?;
                }
                cluster = Some(started);
            }
            let cluster = cluster.as_mut().context("there is no cluster")?;
            run(cluster, scenario, &shape, seed).await
        };
        let done = tokio::select! {
            done = doing => done,
            () = stop.asked() => {
                interrupted = true;
                break;
            }
        };
        let (outcome, evidence) = match done {
            Ok((outcome, evidence)) => (outcome, Some(evidence)),
            Err(why) => (Outcome::invalid(seed, format!("{why:#}")), None),
        };
        println!("{}", report::line(number + 1, options.runs, &outcome, paint));
        if !outcome.holds() {
            report::reasons(&outcome).iter().for_each(|why| println!("      {why}"));
            let kept = shelf.keep(scenario, &outcome, evidence.as_ref())?;
            if let Some(mut failed) = cluster.take() {
                failed.backend.keep_logs(&kept.join("logs")).await?;
                finish(failed).await?;
            }
            println!(
                "      kept in {}; again: {}",
                kept.display(),
                shelf.replay(scenario, seed)
            );
        }
        series.runs.push(outcome);
        shelf.put(&series)?;
    }
    if let Some(cluster) = cluster {
        finish(cluster).await?;
    }
    let series = (!series.runs.is_empty()).then_some(series);
    Ok(Done { series, interrupted })
}

/// Faults end before the cluster does, also after Ctrl-C: a place may outlive it.
async fn finish(mut cluster: Cluster) -> Result<()> {
    if let Err(error) = heal::all(&mut *cluster.backend).await {
        println!("      {error:#}");
    }
    cluster.backend.end().await
}
