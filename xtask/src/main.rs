//! Everything that is done *to* the workspace: test it, check it, repair it, measure it, rebuild its data set.
//!
//! Scripts are Rust, so that they run wherever the project does and need nothing but the toolchain. `.ci/run` and a
//! laptop call the same two commands, `test` and `verify`; only `fix` and `dataset` write to the sources. Children run in
//! a process group of their own that dies with this one, and their exit codes are ours ([`process`]).
//!
//! Reading order: [`tasks`] is what each command does, [`report`] what it prints, [`policy`] and [`tidy`] are the checks
//! that no ready-made tool makes.

mod tasks;

mod policy;
mod tidy;

mod chaos;
mod cluster;
mod compose;
mod dashboards;
mod dataset;
mod deploy;
mod etcd;
mod fences;
mod http;
mod image;
mod interop;
mod k8s;
mod package;
mod process;
mod report;
mod rust_source;
mod traces;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Automation for the Fulcrum workspace.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "A change is ready when `cargo xtask test` and `cargo xtask verify` pass; `.ci/run` calls both, and\n\
                  `deploy check` and `interop` where their tools are.\n\
                  Exit code: that of the first command that failed; 130 after Ctrl-C."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pass all tests: unit and end-to-end tests, 2,000 simulation seeds without and 2,000 with transactions, planted bugs
    #[command(
        after_help = "Needs the Rust toolchain and nothing else: cargo fetches the crates, apt-get an etcd for the tests into \
                            target/etcd. FULCRUM_ETCD names another one, or none: then the tests that need it are left out."
    )]
    Test(TestArgs),
    /// Check format, clippy, rustdoc, dependency policy and tidiness; writes nothing
    #[command(after_help = "`cargo xtask fix` repairs what a tool can repair. The policy is in deny.toml.")]
    Verify,
    /// Check what compilers do not: module docs, file length, leftovers, reasons, links
    Tidy,
    /// Format the sources and apply what clippy can repair by itself
    Fix,
    /// Run the deterministic simulation, or replay one seed
    #[command(after_help = "Examples:\n  \
        cargo xtask sim --seeds 10000             10,000 seeds\n  \
        cargo xtask sim --seed 42                 replay one seed; the same seed gives the same trace hash\n  \
        cargo xtask sim --seeds 500 --start 2000  seeds 2000 to 2499\n  \
        cargo xtask sim --transactions --seeds 5000  with transactions; --seed replays one of these, too\n  \
        cargo xtask sim -- --help                 every flag of the simulation")]
    Sim(PassThrough),
    /// Plant each known bug in turn and show that the simulation finds it
    #[command(after_help = "`cargo xtask mutants -- --help` shows every flag.")]
    Mutants(PassThrough),
    /// Measure speed, as ratios within one run (release build)
    #[command(after_help = "`cargo xtask bench -- --help` shows every flag.")]
    Bench(PassThrough),
    /// Hurt a cluster of real processes, and judge what its clients were told
    #[command(after_help = "Examples:\n  \
        cargo xtask chaos --list                            all scenarios\n  \
        cargo xtask chaos --scenario kill-primary --runs 20 20 runs with fresh seeds\n  \
        cargo xtask chaos --backend docker --scenario one-way  in containers; needs docker\n  \
        cargo xtask chaos -- --help                         every flag, and what exit codes mean")]
    Chaos(PassThrough),
    /// Start a cluster of processes on this machine, look at it, end it
    #[command(after_help = "Examples:\n  \
        cargo xtask cluster up                    etcd, 3 shard-nodes, a router and a coordinator; prints what to try\n  \
        cargo xtask cluster status                who runs, who is ready, where\n  \
        cargo xtask cluster up                    again: starts what was killed\n  \
        cargo xtask cluster down                  ends what was started; data and logs stay in target/cluster")]
    Cluster(cluster::ClusterArgs),
    /// Bring deploy/compose.yaml up with local images, and test all of it: needs docker
    #[command(after_help = compose::HELP)]
    Compose(compose::ComposeArgs),
    /// Make Grafana's dashboards and their page of the docs, or check them against a real cluster
    #[command(after_help = "Examples:\n  \
        cargo xtask dashboards                    write deploy/grafana/dashboards and docs/dashboards.md\n  \
        cargo xtask dashboards check              a cluster, load, a killed node, a Prometheus: has every panel data?")]
    Dashboards(dashboards::DashboardsArgs),
    /// Check the Helm chart and k8s/ beside it, or write what is made from the chart
    #[command(after_help = deploy::HELP)]
    Deploy(deploy::DeployArgs),
    /// Check what is traced of requests, through collectors that others wrote
    #[command(after_help = traces::HELP)]
    Traces(traces::TracesArgs),
    /// Build the container image with all programs
    #[command(after_help = image::HELP)]
    Image(image::ImageArgs),
    /// Use a real cluster with clients that no one here wrote, and run the code of their guides
    #[command(after_help = interop::HELP)]
    Interop(interop::InteropArgs),
    /// Run the chart on a real Kubernetes on this machine
    #[command(after_help = k8s::HELP)]
    K8s(k8s::K8sArgs),
    /// Rebuild data/unicode/characters.tsv.gz from a UnicodeData.txt
    Dataset(DatasetArgs),
}

#[derive(Args)]
struct TestArgs {
    /// Seeds of the simulation, without transactions and with
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    seeds: u64,
}

#[derive(Args)]
struct PassThrough {
    /// Flags, handed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

#[derive(Args)]
struct DatasetArgs {
    /// The table to read, from the Unicode Character Database
    #[arg(value_name = "UnicodeData.txt")]
    table: PathBuf,
    /// The file to write [default: data/unicode/characters.tsv.gz of the workspace]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = process::forward_signals().and_then(|()| dispatch(cli.command));
    match outcome {
        Ok(code) => ExitCode::from(process::interrupted().unwrap_or(code)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(process::interrupted().unwrap_or(1))
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Test(args) => tasks::test(args.seeds),
        Command::Verify => tasks::verify(),
        Command::Tidy => tasks::tidy(),
        Command::Fix => tasks::fix(),
        Command::Sim(args) => tasks::run_binary(&tasks::SIM, &args.flags),
        Command::Mutants(args) => tasks::run_binary(&tasks::MUTANTS, &args.flags),
        Command::Bench(args) => tasks::run_binary(&tasks::BENCH, &args.flags),
        Command::Chaos(args) => chaos::run(&args.flags),
        Command::Cluster(args) => cluster::run(&args),
        Command::Compose(args) => compose::run(&args),
        Command::Dashboards(args) => dashboards::run(&args),
        Command::Deploy(args) => deploy::run(&args),
        Command::Traces(args) => traces::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Interop(args) => interop::run(&args),
        Command::K8s(args) => k8s::run(&args),
        Command::Dataset(args) => dataset::rebuild(&args.table, args.output.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
