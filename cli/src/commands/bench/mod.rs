//! `fulcrum bench`: YCSB's workloads against a running cluster.
//!
//! A closed loop: each client asks, waits, asks again; with `--pipeline DEPTH` it keeps so many operations under way on one
//! stream. Latencies are those of answered operations, errors are counted by code, and the staleness shown is the bound
//! that receipts proved. Left out: open-loop load; a saturated cluster looks better here than to callers that do not wait.

mod report;
mod worker;

use crate::args::BenchArgs;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::loader::{Attempt, LoadOptions, Numbered, load};
use crate::progress::Progress;
use crate::records::Record;
use crate::render::{count, rate, span};
use crate::workload::{KeyChooser, Rng, key_name};
use fulcrum_client::{Client, Error, Keyspace, KeyspaceSpec, Level, Refusal, Session};
use fulcrum_common::clock::{Clock, SystemClock};
use report::Report;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use worker::{Plan, Tally, Worker};

/// Runs a benchmark.
pub async fn run(context: &Context, args: &BenchArgs) -> Ending {
    let client = context.client().await?;
    let default_level = prepare(&client, args).await?;
    let keyspace = client.keyspace(&args.keyspace);
    if !args.skip_load {
        fill(&keyspace, args).await?;
    }
    let report = measure(&client, args, args.read.level.unwrap_or(default_level)).await?;
    match context.json() {
        true => context.print_json(&report.as_json(args))?,
        false => print(&report.render(args, context.paint))?,
    }
    Ok(if report.answered() == 0 { Exit::Failed } else { Exit::Ok })
}

/// Makes sure that the keyspace is there; answers with its default level.
async fn prepare(client: &Client, args: &BenchArgs) -> Result<Level, Failure> {
    let admin = client.admin();
    let info = match admin.show_keyspace(&args.keyspace).await {
        Err(Error::Refused(Refusal::UnknownKeyspace { .. })) if !args.skip_load => {
            note(&format!("making keyspace '{}' ({})", args.keyspace, args.mode));
            let spec = KeyspaceSpec {
                mode: Some(args.mode.name().to_owned()),
                ..KeyspaceSpec::default()
            };
            admin.create_keyspace(&args.keyspace, spec).await
        }
        other => other,
    };
    let info = info.map_err(|error| Failure::client(format!("cannot use keyspace '{}'", args.keyspace), &error))?;
    Ok(info.options.default_level)
}

async fn fill(keyspace: &Keyspace, args: &BenchArgs) -> Result<(), Failure> {
    let (sender, source) = mpsc::channel(4096);
    let (records, size, seed) = (args.records, value_size(args), args.seed);
    let feeding = tokio::spawn(async move {
        let mut rng = Rng::stream(seed, u64::MAX);
        for record in 0..records {
            let record = Record {
                key: key_name(record),
                value: rng.text(size).into(),
            };
            if sender.send(Numbered::for_ever(0, record)).await.is_err() {
                return;
            }
        }
    });
    let progress = Arc::new(Progress::start("load", Some(records)));
    let shown = Arc::clone(&progress);
    let observe = move |attempt: &Attempt<'_>| {
        if attempt.answer.is_ok() {
            shown.add(attempt.records.len() as u64);
        }
    };
    let options = LoadOptions {
        batch: 256,
        parallel: 8,
    };
    let loaded = load(keyspace, source, options, observe, |_| true).await;
    feeding.abort();
    let took = Arc::into_inner(progress).map(Progress::finish).unwrap_or_default();
    if let Some(refused) = loaded.refused.first() {
        return Err(Failure::client("cannot load the records", &refused.error));
    }
    let speed = rate(loaded.written, took);
    note(&format!(
        "loaded {} records in {} ({speed}/s)",
        count(loaded.written),
        span(took)
    ));
    Ok(())
}

fn value_size(args: &BenchArgs) -> usize {
    usize::try_from(args.value_size).unwrap_or(0)
}

async fn measure(client: &Client, args: &BenchArgs, level: Level) -> Result<Report, Failure> {
    let choice = args.distribution.unwrap_or(args.workload.usual_choice());
    let began = SystemClock.now().mono;
    let plan = Arc::new(Plan {
        mix: args.workload,
        chooser: KeyChooser::new(choice, args.records),
        records: AtomicU64::new(args.records),
        value_size: value_size(args),
        until: began + args.duration,
        read: args.read.clone(),
    });
    let progress = Progress::start("bench", None);
    let mut workers = JoinSet::new();
    for number in 0..args.clients {
        let pipeline = args.pipeline.map(|_| client.pipeline());
        for lane in 0..args.pipeline.unwrap_or(1) {
            let keyspace = client.keyspace(&args.keyspace);
            let keyspace = match level {
                Level::Session => keyspace.in_session(&Session::new()),
                _ => keyspace,
            };
            let rng = Rng::stream(args.seed, number << 16 | lane);
            workers.spawn(Worker::new(Arc::clone(&plan), keyspace, pipeline.clone(), rng).run());
        }
    }
    let mut total = Tally::new();
    while let Some(ended) = workers.join_next().await {
        let tally = ended.map_err(|error| Failure::file("a client of the benchmark ended early", error))?;
        progress.add(tally.operations());
        total.merge(&tally);
    }
    progress.finish();
    let took = SystemClock.now().mono.since(began);
    Ok(Report {
        tally: total,
        took,
        choice,
    })
}
