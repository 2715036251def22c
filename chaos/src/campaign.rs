//! Run after run: clusters, signals, what is told meanwhile, and the exit code.
//!
//! A cluster is used for all runs of a scenario, as long as they hold and it was whole before each; every run has keyspaces of its own. After a run
//! that did not hold the next one gets a cluster of its own.

use crate::args::{LinksChoice, Options, Place};
use crate::backend::process::{self, Links, enclosure, folder};
use crate::backend::{Ability, Setup, kubernetes};
use crate::cluster::Cluster;
use crate::load::now;
use crate::report::{self, Series, Shelf};
use crate::run::{Outcome, run};
use crate::scenario::{ALL, Bars, Scenario, Shape};
use anyhow::{Context, Result, bail};
use fulcrum_cli::render::{Paint, span};
use std::path::PathBuf;
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
pub async fn all(options: &Options, links: Links) -> Result<u8> {
    let mut stop = Stop::listen()?;
    let shelf = Shelf::new(options.output.clone());
    let seed = options.seed.unwrap_or_else(|| now() / 1_000 % 1_000_000);
    let mut summaries = Vec::new();
    let mut code = ALL_HELD;
    for scenario in options.scenarios()? {
        let done = one(options, links, &scenario, seed, &shelf, &mut stop).await?;
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
    println!("\n{}", report::table(&summaries, Paint::for_stdout()));
    println!("reports: {}", options.output.join("report.md").display());
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
    /// None if this place cannot do the scenario.
    series: Option<Series>,
    interrupted: bool,
}

async fn one(
    options: &Options,
    links: Links,
    scenario: &Scenario,
    seed: u64,
    shelf: &Shelf,
    stop: &mut Stop,
) -> Result<Done> {
    let paint = Paint::for_stdout();
    println!("{}  {}", paint.bold(scenario.name), scenario.about);
    let setup = match setup(options, links, scenario) {
        Ok(setup) => setup,
        Err(why) if options.scenario.iter().any(|name| name == "all") => {
            println!("  SKIPPED: {why}");
            return Ok(Done {
                series: None,
                interrupted: false,
            });
        }
        Err(why) => return Err(why),
    };
    let shape = Shape {
        nodes: options.nodes,
        run_time: options.run_time,
    };
    let mut series = Series {
        scenario: scenario.name.to_owned(),
        backend: match options.backend {
            Place::Process => format!("{links:?}").to_lowercase(),
            Place::Kind => "kubernetes".to_owned(),
        },
        nodes: options.nodes,
        runs: Vec::new(),
    };
    let mut cluster: Option<Cluster> = None;
    let mut interrupted = false;
    for number in 0..options.runs {
        let seed = seed + number;
        let doing = async {
            if cluster.is_none() {
                let started = Cluster::start(setup.clone(), &options.output).await?;
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
                failed.backend.end().await?;
            }
            println!(
                "      kept in {}; again: {}",
                kept.display(),
                report::replay(scenario, seed)
            );
        }
        series.runs.push(outcome);
        shelf.put(&series)?;
    }
    if let Some(mut cluster) = cluster {
        cluster.backend.end().await?;
    }
    let series = (!series.runs.is_empty()).then_some(series);
    Ok(Done { series, interrupted })
}

/// How the cluster of a scenario is made.
fn setup(options: &Options, links: Links, scenario: &Scenario) -> Result<Setup> {
    let needs = |ability| scenario.needs.contains(&ability);
    if options.backend == Place::Kind {
        return pods(options, scenario).map(Setup::Kubernetes);
    }
    if needs(Ability::Machines) {
        bail!("{} needs {}", scenario.name, Ability::Machines);
    }
    let links = match links {
        Links::Namespaces if needs(Ability::Delay) && options.links == LinksChoice::Auto => Links::Proxies,
        Links::Namespaces if needs(Ability::Delay) => {
            bail!("{}: {} needs --links proxies or auto", scenario.name, Ability::Delay)
        }
        other => other,
    };
    if needs(Ability::Fill) && links == Links::Proxies {
        bail!("{} needs {}", scenario.name, Ability::Fill);
    }
    let path = |path: &Option<PathBuf>, what: &str| path.clone().with_context(|| format!("{what} is not named"));
    Ok(Setup::Process(process::Setup {
        links,
        nodes: options.nodes,
        routers: 2,
        programs: path(&options.programs, "--programs")?,
        etcd: path(&options.etcd, "--etcd")?,
        small_disks: needs(Ability::Fill),
    }))
}

/// The release on which a scenario is run, if pods can do it.
fn pods(options: &Options, scenario: &Scenario) -> Result<kubernetes::Setup> {
    for need in scenario.needs {
        if let Some(why) = kubernetes::lacks(*need) {
            bail!("{} needs {need}: {why}", scenario.name);
        }
    }
    Ok(kubernetes::Setup {
        release: kubernetes::Release {
            namespace: options.namespace.clone(),
            name: options.release.clone(),
        },
        nodes: options.nodes,
    })
}
