//! `cargo xtask dashboards check`: every panel asked of a real Prometheus that watches a real cluster.
//!
//! Starts a cluster of processes and a Prometheus with the committed configuration and rules (looking every second instead of every 15), puts load on it at
//! every level and with transactions, kills a node ([`scenario`]), and asks every question of every dashboard, with all values of the variables. One without an answer that is
//! a number fails the command, by its panel's name ([`verdict`]). Rules are checked and their tests run by `promtool`, and the commands in
//! runbooks must exist ([`runbooks`]). Pictures are drawn from the answers ([`picture`]).
//!
//! Prometheus is that of the system, or Debian's package, unpacked below `target/prometheus`. What is started is ended; logs and data stay in the folder.

mod picture;
pub(crate) mod prometheus;
mod runbooks;
mod scenario;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use super::all;
use super::metrics::Metrics;
use crate::cluster::{Cluster, UpArgs};
use crate::package::{self, Package, Tools, on_path};
use crate::process;
use crate::report::Report;
use crate::workspace::root;
use prometheus::{Prometheus, Span};

const PACKAGE: Package = Package {
    name: "prometheus",
    program: "usr/bin/prometheus",
};
const BASE_PORT: u16 = 17_400;
/// Nothing of a cluster is there.
const PROMETHEUS_AT: u16 = 190;
const PICTURES: &str = "docs/pictures";

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// Where logs, data and answers are [default: target/observe of the workspace]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Take built programs from a folder, and build nothing
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Port of the router; the others are up to 200 above it
    #[arg(long, default_value_t = BASE_PORT, value_parser = clap::value_parser!(u16).range(1024..=60_000), value_name = "PORT")]
    base_port: u16,
    /// Draw the pictures of the docs from the answers
    #[arg(long)]
    pictures: bool,
}

/// Runs it.
///
/// # Errors
/// Something could not be started.
pub(super) fn run(args: &CheckArgs) -> Result<u8> {
    let folder = args.folder.clone().unwrap_or_else(|| root().join("target/observe"));
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let program = prometheus_program(root())?;
    let promtool = program.with_file_name("promtool");

    let mut report = Report::new("dashboards check");
    report.step("rules", || promtool_on(&promtool, &["check", "rules"], "rules"))?;
    report.step("tests of the rules", || {
        promtool_on(&promtool, &["test", "rules"], "tests")
    })?;
    let up = UpArgs {
        base_port: Some(args.base_port),
        programs: args.programs.clone(),
        ..UpArgs::default()
    };
    let mut cluster = Cluster::start(folder.join("cluster"), up)?;
    let address = format!("127.0.0.1:{}", args.base_port + PROMETHEUS_AT);
    let prometheus = Prometheus::start(&program, &folder.join("prometheus"), &address, &cluster.ledger)?;
    report.step("commands in runbooks", || {
        runbooks::check(root(), &cluster.programs.join("fulcrum"))
    })?;
    let begun = prometheus.now()?;
    report.step("load, and a node that is killed", || {
        scenario::run(&mut cluster, &prometheus, &folder.join("load")).map(|()| 0)
    })?;
    let span = Span::until_now(&prometheus, begun)?;
    report.step("rules are evaluated", || prometheus.rules_are_well())?;
    report.step("metrics are known", || {
        verdict::metrics(&prometheus, &Metrics::of_sources(root())?)
    })?;
    report.step("variables have values", || verdict::variables(&prometheus, &all()))?;
    let mut answered = Vec::new();
    report.step("panels have data", || {
        let (code, seen) = verdict::panels(&prometheus, &all(), span)?;
        answered = seen;
        Ok(code)
    })?;
    if args.pictures {
        report.step("pictures", || pictures(&answered))?;
    }
    drop(prometheus);
    drop(cluster);
    Ok(report.finish())
}

fn pictures(answered: &[verdict::Answered]) -> Result<u8> {
    std::fs::create_dir_all(root().join(PICTURES)).with_context(|| format!("make {PICTURES}"))?;
    for (dashboard, answers) in all().iter().zip(answered) {
        let path = format!("{PICTURES}/{}.svg", dashboard.uid);
        std::fs::write(root().join(&path), picture::draw(dashboard, answers))
            .with_context(|| format!("write {path}"))?;
        println!("{path}");
    }
    Ok(0)
}

/// The system's, or one that is fetched.
pub(crate) fn prometheus_program(root: &Path) -> Result<PathBuf> {
    if let Some(program) = on_path("prometheus").filter(|_| on_path("promtool").is_some()) {
        return Ok(program);
    }
    let folder = root.join("target/prometheus");
    let program = folder.join(PACKAGE.program);
    if !program.is_file() {
        println!(
            "Prometheus is missing: apt-get fetches Debian's package into {}; nothing is installed on this system",
            folder.display()
        );
        package::fetch(&folder, PACKAGE, &Tools::default())
            .context("a check needs Prometheus and promtool: install them")?;
    }
    Ok(program)
}

fn promtool_on(promtool: &Path, what: &[&str], kind: &str) -> Result<u8> {
    let folder = root().join("deploy/prometheus").join(kind);
    let entries = std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    process::run(Command::new(promtool).args(what).args(files))
}
