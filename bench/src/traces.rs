//! What it costs that requests are followed by traces: the same load without a collector, and with one at several ratios.
//!
//! A process has one recorder for all its life, so every way is a process of its own with a cluster of its own, and all of them
//! stand by while one has its turn. Turns go round, one way after the other and each time another one first, and a round's figures are compared
//! with those of the first way in the same round. The second way is the first one again: what is between these two is noise.
//! Spans go to a collector in this process, which counts them and does nothing else.

mod collector;

use crate::Plan;
use crate::load::Load;
use crate::report::{Row, median};
use crate::scenario::{self, FEW_KEYS};
use crate::{get, put};
use anyhow::{Context, Result, bail};
use clap::Args;
use collector::Collector;
use fulcrum_client::Client;
use fulcrum_common::telemetry::{self, TelemetryConfig};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// How a way is called, and its ratio if there is a collector.
const WAYS: [(&str, Option<f64>); 5] = [
    ("no collector", None),
    ("no collector, again", None),
    ("ratio 0", Some(0.0)),
    ("ratio 0.01", Some(0.01)),
    ("ratio 1", Some(1.0)),
];
const LOADS: [&str; 4] = ["get", "put", "get, pipeline", "put, pipeline"];
const NODES: u32 = 3;
const GROUPS: u32 = 8;

/// What a way's process is told.
#[derive(Args)]
pub(crate) struct Way {
    /// Be a way of the scenario `traces`: with this ratio.
    #[arg(long, hide = true)]
    ratio: Option<f64>,
    /// Be a way of the scenario `traces`: with this collector.
    #[arg(long, hide = true)]
    collector: Option<String>,
    /// Be a way of the scenario `traces`.
    #[arg(long, hide = true)]
    pub(crate) way: bool,
}

pub(crate) async fn run(plan: Plan) -> Result<Vec<Row>> {
    let collector = Collector::start()?;
    let ways = WAYS
        .iter()
        .map(|(_, ratio)| Process::start(*ratio, collector.address()));
    let mut ways = ways.collect::<Result<Vec<_>>>()?;
    for way in &mut ways {
        way.told()?;
    }
    let mut rounds = Vec::new();
    for round in 0..=plan.rounds {
        let mut loads = Vec::new();
        for load in LOADS {
            loads.push(turns(&mut ways, load, round as usize, plan.round, &collector)?);
        }
        // The first one warms up.
        if round > 0 {
            rounds.push(loads);
        }
    }
    Ok(rows(&rounds))
}

/// A load in each way.
fn turns(
    ways: &mut [Process],
    load: &str,
    first: usize,
    time: Duration,
    collector: &Collector,
) -> Result<Vec<(Load, u64)>> {
    let count = ways.len();
    let mut measured = vec![(Load::default(), 0); count];
    for turn in 0..count {
        let at = (first + turn) % count;
        let before = collector.spans();
        let told = ways[at].ask(load, time)?;
        measured[at] = (told, collector.spans() - before);
    }
    Ok(measured)
}

/// By round, load and way: what was measured, and how many spans came meanwhile.
type Rounds = [Vec<Vec<(Load, u64)>>];

fn rows(rounds: &Rounds) -> Vec<Row> {
    let mut rows = Vec::new();
    for (load, load_name) in LOADS.iter().enumerate() {
        for (way, (way_name, _)) in WAYS.iter().enumerate() {
            let name = format!("{load_name}: {way_name}");
            let ratios = compared(rounds, load, way, |load| load.per_second);
            let row = Row::new(&name, median(ratios), "x", detail(rounds, load, way));
            rows.push(row);
        }
    }
    rows
}

/// A figure of a way as a part of the first way's in the same round.
fn compared(rounds: &Rounds, load: usize, way: usize, figure: fn(&Load) -> f64) -> Vec<f64> {
    let ratios = rounds
        .iter()
        .map(|round| figure(&round[load][way].0) / figure(&round[load][0].0));
    ratios.collect()
}

fn detail(rounds: &Rounds, load: usize, way: usize) -> String {
    let each = |figure: fn(&Load) -> f64| median(rounds.iter().map(|round| figure(&round[load][way].0)).collect());
    let ratios = compared(rounds, load, way, |load| load.per_second);
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(least, most), ratio| {
        (least.min(*ratio), most.max(*ratio))
    });
    let spans = rounds.iter().map(|round| {
        let (load, spans) = &round[load][way];
        *spans as f64 / load.answered.max(1) as f64
    });
    // Nobody waits for one answer of a pipeline.
    let latency = match each(|load| load.p99_us) {
        0.0 => String::new(),
        p99_us => format!(
            ", p50 {:.0} us, p99 {p99_us:.0} us ({:.2} x)",
            each(|load| load.p50_us),
            median(compared(rounds, load, way, |load| load.p99_us)),
        ),
    };
    format!(
        "{least:.2} to {most:.2}; {:.0}/s{latency}, {:.1} us CPU each ({:.2} x), {:.2} spans each",
        each(|load| load.per_second),
        each(|load| load.cpu_us),
        median(compared(rounds, load, way, |load| load.cpu_us)),
        median(spans.collect()),
    )
}

/// A way, in its process. It ends with its standard input.
struct Process {
    child: Child,
    asks: Option<ChildStdin>,
    tells: BufReader<ChildStdout>,
}

impl Process {
    fn start(ratio: Option<f64>, collector: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--way");
        if let Some(ratio) = ratio {
            command.args(["--ratio", &ratio.to_string(), "--collector", collector]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (asks, tells) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            asks,
            tells: BufReader::new(tells.context("a way has no standard output")?),
            child,
        })
    }

    fn told(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.tells.read_line(&mut line)? == 0 {
            bail!("a way has ended: what it wrote to standard error says why");
        }
        Ok(line)
    }

    fn ask(&mut self, load: &str, time: Duration) -> Result<Load> {
        let asks = self.asks.as_mut().context("a way has no standard input")?;
        writeln!(asks, "{} {load}", time.as_millis())?;
        Ok(serde_json::from_str(&self.told()?)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.asks.take());
        // It has nothing left to do.
        let _ = self.child.wait();
    }
}

/// A way's process: a cluster, and the loads that it is asked for.
pub(crate) async fn serve(way: &Way) -> Result<()> {
    let config = TelemetryConfig {
        filter: "error".into(),
        otlp_endpoint: way.collector.clone(),
        trace_ratio: way.ratio.unwrap_or_default(),
        ..TelemetryConfig::default()
    };
    let exports = telemetry::init("bench", &config)?;
    let cluster = scenario::cluster(NODES.into()).await?;
    let client = Client::connect(scenario::config(&cluster)).await?;
    let keyspace = scenario::keyspace(&client, "users", NODES, GROUPS).await?;
    scenario::fill(&keyspace, FEW_KEYS).await?;
    let pipeline = client.pipeline();
    println!("ready");
    while let Some(line) = asked().await? {
        let (time, load) = line.trim_end().split_once(' ').context("no load is named")?;
        let time = Duration::from_millis(time.parse()?);
        let measured = match load {
            "get" => get::unary(&keyspace, time).await?,
            "put" => put::unary(&keyspace, time).await?,
            "get, pipeline" => get::pipelined(&pipeline, &keyspace, time).await?,
            "put, pipeline" => put::pipelined(&pipeline, &keyspace, time).await?,
            other => bail!("no load '{other}'"),
        };
        // The last spans leave in their own turn.
        tokio::time::sleep(LAST_SPANS).await;
        println!("{}", serde_json::to_string(&measured)?);
    }
    exports.shutdown().await;
    Ok(())
}

/// Longer than spans wait to be sent.
const LAST_SPANS: Duration = Duration::from_millis(1_200);

/// The next line of standard input, while the cluster goes on.
async fn asked() -> Result<Option<String>> {
    let read = || {
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .map(|bytes| (bytes > 0).then_some(line))
    };
    Ok(tokio::task::spawn_blocking(read).await??)
}
