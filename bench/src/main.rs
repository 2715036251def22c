//! Measures what `Speed` promises, as ratios within one run.
//!
//! Absolute figures drift with the machine; ratios hold. So a bare tonic echo, or the slower of two ways, runs beside what
//! is measured, in turns, with the same runtimes, and medians are compared. Every scenario runs in a process of its own,
//! on a cluster of real services over loopback with real fsyncs.

mod echo;
mod load;
mod metrics;
mod process;
mod report;
mod scenario;

mod failover;
mod get;
mod million;
mod put;
mod traces;
mod txn;

use anyhow::{Context, Result, bail};
use clap::Parser;
use report::Row;
use std::process::ExitCode;
use std::time::Duration;

/// As in `fulcrum` itself; the echo beside it has it, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How fast Fulcrum is on this machine, as ratios within one run.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Options {
    /// Only these scenarios: get, put, txn, million, failover; and traces, which is left out unless it is named.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Rounds of each way; medians are taken.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Milliseconds of each round.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    round_ms: u64,
    /// Keys of the large keyspace.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(20_000..=100_000_000))]
    keys: u64,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
    /// Exit with 1 if a bar is missed.
    #[arg(long)]
    enforce: bool,
    #[command(flatten)]
    traced: traces::Way,
}

/// What every scenario is told.
#[derive(Clone, Copy)]
struct Plan {
    rounds: u32,
    round: Duration,
    keys: u64,
}

const SCENARIOS: [&str; 5] = ["get", "put", "txn", "million", "failover"];
/// No bar is set for it, and five clusters take their time.
const IF_NAMED: &str = "traces";

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.traced.way {
        runtime()?.block_on(traces::serve(&options.traced))?;
        return Ok(ExitCode::SUCCESS);
    }
    let is_known = |name: &str| name == IF_NAMED || SCENARIOS.contains(&name);
    if let Some(unknown) = options.only.iter().find(|name| !is_known(name)) {
        bail!(
            "no scenario '{unknown}': there are {}, {IF_NAMED}",
            SCENARIOS.join(", ")
        );
    }
    let rows = match options.only.as_slice() {
        [one] => run(one, &options)?,
        [] => isolated(&SCENARIOS, &options)?,
        some => isolated(some, &options)?,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", report::table(&rows));
    }
    let missed = rows.iter().any(|row| row.passes() == Some(false));
    Ok(ExitCode::from(u8::from(options.enforce && missed)))
}

fn run(name: &str, options: &Options) -> Result<Vec<Row>> {
    let plan = Plan {
        rounds: options.rounds,
        round: Duration::from_millis(options.round_ms),
        keys: options.keys,
    };
    let rows = runtime()?.block_on(async {
        match name {
            "get" => get::run(plan).await,
            "put" => put::run(plan).await,
            "txn" => txn::run(plan).await,
            "million" => million::run(plan).await,
            "traces" => traces::run(plan).await,
            _ => failover::run().await,
        }
    });
    rows.with_context(|| format!("scenario {name}"))
}

/// Client and server on one thread each (DESIGN section 13).
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Each scenario in a process of its own: memory and threads of one do not disturb the next.
fn isolated(names: &[impl AsRef<str>], options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for name in names.iter().map(AsRef::as_ref) {
        eprintln!("{name} ...");
        let output = std::process::Command::new(std::env::current_exe()?)
            .args(["--json", "--only", name])
            .args(["--rounds", &options.rounds.to_string()])
            .args(["--round-ms", &options.round_ms.to_string()])
            .args(["--keys", &options.keys.to_string()])
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("start a scenario")?;
        if !output.status.success() {
            bail!("scenario {name} failed");
        }
        let more: Vec<Row> = serde_json::from_slice(&output.stdout).context("read a scenario's rows")?;
        rows.extend(more);
    }
    Ok(rows)
}
