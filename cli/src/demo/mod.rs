//! `fulcrum demo`: see it work, and see every promise checked.
//!
//! One process: a router, shard-nodes, embedded metadata, real files, real gRPC. Two keyspaces, one `sync` and one `async`,
//! take in a real data set; clients then read and write at every level that each keyspace serves (`load`); half-way a
//! primary is dropped without warning (`incident`). When all is whole again money moves between two more keyspaces while a primary
//! and then the coordinator are dropped (`bank`). What every client was told is written down and judged (`judge`); the
//! end is a table (`outcome`), and a broken promise is an exit code.
//!
//! Left out: crashes at once, and faults of the network; the simulation has those.

mod plan;
mod story;

mod data;
mod setup;

mod bank;
mod incident;
mod load;
mod phases;

mod judge;
mod outcome;
mod series;

use crate::args::DemoArgs;
use crate::commands::dev::{Stopping, serve};
use crate::context::{Context, Ending, note};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::records::Record;
use crate::render::{count, rate, span};
use fulcrum_checker::{ClientLog, History};
use fulcrum_client::{Client, Config};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions, MetricsPorts};
use fulcrum_types::{ClientId, Mode};
use incident::{Conductor, Incident, heal, nanos};
use judge::{Judged, final_reads, judge};
use load::{Recovery, Shared, Told, now};
use outcome::{Line, Outcome};
use phases::Phases;
use plan::{DEADLINE, MODES, all_series, keyspace_of};
use series::{Seen, Window};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use story::Story;
use tokio::task::JoinSet;

/// For what is no load: imports, status, final reads.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the demo.
pub async fn run(context: &Context, args: &DemoArgs) -> Ending {
    let mut stopping = Stopping::listen()?;
    let json = args.json || context.json();
    let story = Story::new(json);
    let mut cluster = start(args, story).await?;
    let performed = tokio::select! {
        performed = perform(args, story, &mut cluster) => Some(performed),
        () = stopping.asked() => None,
    };
    let Some(performed) = performed else {
        note("stopped before the end");
        cluster.stop().await;
        return Ok(Exit::Failed);
    };
    let outcome = performed?;
    if json {
        context.print_json(&outcome.as_json())?;
    }
    if args.keep {
        keep(&mut cluster, story, &mut stopping).await?;
    }
    cluster.stop().await;
    Ok(if outcome.holds() { Exit::Ok } else { Exit::Violation })
}

async fn start(args: &DemoArgs, story: Story) -> Result<LocalCluster, Failure> {
    let head = "Fulcrum: a cluster in this process, a real data set, a crash, and every promise checked";
    story.say(&story.paint.bold(head))?;
    story.chapter(
        1,
        "Start",
        "real services and real files; metadata embedded, no etcd needed",
    )?;
    let began = now();
    let options = LocalClusterOptions {
        nodes: args.nodes,
        metrics: MetricsPorts::Any,
        ..LocalClusterOptions::default()
    };
    let cluster = LocalCluster::start(options)
        .await
        .map_err(|error| Failure::start("cannot start the cluster", &error))?;
    let text = format!(
        "1 router at {} and {} shard-nodes are up after {}; fsync before every acknowledgement",
        cluster.router_address(),
        args.nodes,
        span(since(began))
    );
    story.line(None, &text)?;
    Ok(cluster)
}

fn since(began: u64) -> Duration {
    Duration::from_nanos(now().saturating_sub(began))
}

async fn connect(cluster: &LocalCluster, deadline: Duration) -> Result<Client, Failure> {
    let config = Config::new(cluster.router_address().to_string()).deadline(deadline);
    Client::connect(config)
        .await
        .map_err(|error| Failure::client("cannot connect", &error))
}

/// From the keyspaces to the verdict.
async fn perform(args: &DemoArgs, story: Story, cluster: &mut LocalCluster) -> Result<Outcome, Failure> {
    let seed = args.seed.unwrap_or_else(setup::fresh_seed);
    let client = connect(cluster, PATIENCE).await?;
    let records = data::records()?;
    let mut logs = prepare(story, cluster, &client, &records).await?;

    let before = Phases::scrape(cluster, None).await;
    let loaded = load_and_crash(args, seed, story, cluster, &client, &records).await?;
    let after = Phases::scrape(cluster, Some(loaded.incident.victim)).await;

    story.chapter(
        5,
        "Heal",
        "replicas catch up; the crashed node shows what it had that the others lacked",
    )?;
    let healed = heal(&client.admin()).await?;
    let text = match &healed.missing {
        None => format!(
            "all replicas in sync and level after {}; every loss certificate is complete",
            span(healed.took)
        ),
        Some(missing) => story
            .paint
            .red(&format!("not whole after {}: {missing}", span(healed.took))),
    };
    story.line(None, &text)?;

    let mut finals = Vec::new();
    for mode in MODES {
        finals.push(final_reads(&client, mode).await?);
    }

    story.chapter(
        6,
        "Transact",
        "money moves between accounts; a primary is dropped, then the coordinator",
    )?;
    let bank = bank::run(cluster, &client, story, seed).await?;

    story.chapter(
        7,
        "Check",
        "what the clients were told, held against what the store promises",
    )?;
    let series = all_series();
    let mut clients_of: BTreeMap<ClientId, usize> = BTreeMap::new();
    let samples: Vec<(usize, Vec<load::Sample>)> = loaded
        .told
        .into_iter()
        .map(|told| {
            for (client, log) in told.logs {
                clients_of.insert(client, told.series);
                logs.entry(series[told.series].mode).or_default().push(log);
            }
            (told.series, told.samples)
        })
        .collect();
    let checking = tokio::task::spawn_blocking(move || {
        let judged = MODES.into_iter().zip(finals).map(|(mode, finals)| {
            let history = History::merge(logs.remove(&mode).unwrap_or_default());
            judge(mode, &history, &finals, &healed)
        });
        (judged.collect::<Vec<Judged>>(), healed)
    });
    let began = now();
    let (judged, healed) = checking
        .await
        .map_err(|error| Failure::file("the checkers ended early", error))?;
    story.line(None, &format!("judged in {}", span(since(began))))?;

    let outcome = Outcome {
        seed,
        nodes: args.nodes,
        records: records.len(),
        run: loaded.run,
        lines: lines(&samples, &clients_of, &judged, loaded.run, &loaded.incident),
        judged,
        incident: loaded.incident,
        recovered: loaded.recovered,
        before,
        after,
        healed,
        bank,
    };
    outcome.tell(story)?;
    Ok(outcome)
}

/// Keyspaces and import; answers with what was written down of it.
async fn prepare(
    story: Story,
    cluster: &LocalCluster,
    client: &Client,
    records: &[Record],
) -> Result<BTreeMap<Mode, Vec<ClientLog>>, Failure> {
    story.chapter(2, "Keyspaces", "consistency is chosen for each keyspace")?;
    let began = now();
    setup::create_keyspaces(client).await?;
    story.line(
        None,
        &format!(
            "{}: acknowledged when durable on all in-sync replicas",
            keyspace_of(Mode::Sync)
        ),
    )?;
    story.line(
        None,
        &format!("{}: acknowledged when durable on the primary", keyspace_of(Mode::Async)),
    )?;
    story.line(
        None,
        &format!(
            "8 shard groups of 3 replicas each, all serving after {}",
            span(since(began))
        ),
    )?;

    story.chapter(3, "Import", "the Unicode character table, into both")?;
    let map = cluster
        .store()
        .load_map()
        .await
        .map_err(|error| Failure::file("cannot read the cluster map", error))?;
    let progress = Arc::new(Progress::start("  import", Some(2 * records.len() as u64)));
    let mut logs: BTreeMap<Mode, Vec<ClientLog>> = BTreeMap::new();
    for mode in MODES {
        let log = setup::import(client, Arc::clone(&map), mode, records, &progress).await?;
        logs.entry(mode).or_default().push(log);
    }
    let took = Arc::into_inner(progress).map(Progress::finish).unwrap_or_default();
    let total = 2 * records.len() as u64;
    story.line(
        None,
        &format!("{} records in {} ({}/s)", count(total), span(took), rate(total, took)),
    )?;
    Ok(logs)
}

struct Loaded {
    run: Window,
    incident: Incident,
    recovered: BTreeMap<fulcrum_types::GroupId, Option<Duration>>,
    told: Vec<Told>,
}

async fn load_and_crash(
    args: &DemoArgs,
    seed: u64,
    story: Story,
    cluster: &mut LocalCluster,
    admin: &Client,
    records: &[Record],
) -> Result<Loaded, Failure> {
    let series = all_series();
    let clients = series.len() as u64 * args.clients;
    let about = format!(
        "{clients} clients, {} for each keyspace and read level; half reads, half writes, zipfian; {}; seed {seed}",
        args.clients,
        span(args.duration)
    );
    story.chapter(4, "Load", &about)?;
    let mut connections = Vec::new();
    for _ in &series {
        connections.push(connect(cluster, DEADLINE).await?);
    }
    let began = now();
    let shared = Arc::new(Shared {
        keys: records.iter().map(|record| record.key.clone()).collect(),
        seed,
        until: began + nanos(args.duration),
        answered: AtomicU64::new(0),
        sessions: AtomicU64::new(0),
        recovery: Recovery::default(),
    });
    let chooser = load::chooser(records.len());
    let mut working = JoinSet::new();
    for number in 0..clients {
        let place = usize::try_from(number).unwrap_or(0) % series.len();
        let connection = connections[place].clone();
        let (shared, chooser) = (Arc::clone(&shared), Arc::clone(&chooser));
        working.spawn(load::client(shared, connection, series[place], place, number, chooser));
    }
    let progress = Progress::start("  load", None);
    let conductor = Conductor {
        cluster,
        admin: admin.admin(),
        shared: Arc::clone(&shared),
        story,
        progress: &progress,
        began,
        duration: args.duration,
    };
    let incident = conductor.run().await?;
    let mut told = Vec::new();
    while let Some(ended) = working.join_next().await {
        told.push(ended.map_err(|error| Failure::file("a client of the load ended early", error))?);
    }
    let run = Window {
        from: began,
        to: now().max(shared.until),
    };
    progress.finish();
    let answered: usize = told
        .iter()
        .map(|told| told.samples.iter().filter(|s| s.error.is_none()).count())
        .sum();
    let all: usize = told.iter().map(|told| told.samples.len()).sum();
    let text = format!("{} operations, {} answered", count(all as u64), count(answered as u64));
    story.line(None, &text)?;
    Ok(Loaded {
        run,
        recovered: shared.recovery.times(),
        incident,
        told,
    })
}

fn lines(
    samples: &[(usize, Vec<load::Sample>)],
    clients_of: &BTreeMap<ClientId, usize>,
    judged: &[Judged],
    run: Window,
    incident: &Incident,
) -> Vec<Line> {
    let after = Window::after(incident.crashed_at, run.to);
    let of_series = |(place, series): (usize, plan::Series)| {
        let own = samples.iter().filter(|(at, _)| *at == place);
        let own: Vec<&[load::Sample]> = own.map(|(_, samples)| samples.as_slice()).collect();
        let judged = judged.iter().find(|judged| judged.mode == series.mode);
        let lost = judged.map_or(0, |judged| {
            let lost = judged
                .lost
                .iter()
                .filter(|(client, _)| clients_of.get(client) == Some(&place));
            lost.map(|(_, count)| count).sum()
        });
        Line {
            seen: Seen::of(series, &own, run, after),
            served: judged
                .and_then(|judged| judged.served.get(series.level.name()).cloned())
                .unwrap_or_default(),
            lost,
        }
    };
    all_series().into_iter().enumerate().map(of_series).collect()
}

async fn keep(cluster: &mut LocalCluster, story: Story, stopping: &mut Stopping) -> Result<(), Failure> {
    story.say(&format!(
        "\nThe cluster stays up. In another terminal:\n  export FULCRUM_ROUTER={}\n  fulcrum get {} char/U+00BD -v\n  fulcrum status\n  \
         fulcrum failover report\nCtrl-C stops it.",
        cluster.router_address(),
        keyspace_of(Mode::Sync)
    ))?;
    serve(cluster, stopping).await.map(|_| ())
}
