//! Runs seeds of the simulation; exits with 1 if one fails. `cargo xtask sim` calls it.

use clap::Parser;
use fulcrum_tests::planted::Planted;
use fulcrum_tests::sim::plan::{Choice, Profile};
use fulcrum_tests::sim::pool::{Summary, each};
use fulcrum_tests::sim::run::{REGRESSIONS, Report, quiet_panics, run, seeds_of, transaction_seeds_of};
use fulcrum_types::Mode;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Deterministic simulation of whole shard-nodes: one seed decides topology, faults and load.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Run only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the plan and the trace.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// `sync` or `async` only.
    #[arg(long)]
    mode: Option<Mode>,
    /// Which faults: mixed, calm, swarm, network, crash, metadata, hand-over, beyond-bound.
    #[arg(long, default_value_t)]
    profile: Profile,
    /// With transactions over several groups: coordinators, their clients, and what goes wrong with them.
    #[arg(long)]
    transactions: bool,
    /// Threads; all processors if not said.
    #[arg(long)]
    threads: Option<usize>,
    /// Leave out the seeds that found bugs before.
    #[arg(long)]
    no_regressions: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let choice = Choice {
        mode: arguments.mode,
        profile: arguments.profile,
        transactions: arguments.transactions,
    };
    if !arguments.trace {
        quiet_panics();
    }
    let seeds = seeds(&arguments);
    let threads = arguments
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let mut summary = Summary::default();
    let progress = Progress::new(seeds.len());
    let one = |seed| run(seed, choice, Planted::default(), arguments.trace);
    each(&seeds, threads.unwrap_or(2), one, |report| {
        if report.failure.is_some() {
            progress.clear();
            println!("{}", told(&report, &arguments));
        }
        if seeds.len() == 1 {
            println!("seed {}: trace hash {:016x}", report.seed, report.record.hash());
        }
        summary.add(report);
        progress.show(&summary);
        true
    });
    progress.clear();
    for line in summary.lines() {
        println!("{line}");
    }
    let failed = summary.failed.len() as u64;
    println!("{} passed, {failed} failed", summary.seeds - failed);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn seeds(arguments: &Arguments) -> Vec<u64> {
    if let Some(seed) = arguments.seed {
        return vec![seed];
    }
    let known = if arguments.no_regressions {
        Vec::new()
    } else if arguments.transactions {
        transaction_seeds_of(REGRESSIONS)
    } else {
        seeds_of(REGRESSIONS)
    };
    let fresh = arguments.start..arguments.start + arguments.seeds;
    let mut seeds: Vec<u64> = known;
    seeds.extend(fresh.filter(|seed| !seeds.contains(seed)).collect::<Vec<_>>());
    seeds
}

/// What went wrong with a seed, and how to see it again.
fn told(report: &Report, arguments: &Arguments) -> String {
    let Some(failure) = &report.failure else {
        return String::new();
    };
    let mode = arguments.mode.map(|m| format!(" --mode {m}")).unwrap_or_default();
    let profile = match arguments.profile {
        Profile::Mixed => String::new(),
        other => format!(" --profile {other}"),
    };
    let transactions = if arguments.transactions { " --transactions" } else { "" };
    format!(
        "seed {} ({}, {}) FAILED at {} ms: {}: {}\n  replay: cargo xtask sim --seed {} -- --trace{transactions}{mode}{profile}",
        report.seed,
        report.mode,
        report.profile,
        failure.at / 1_000_000,
        failure.property,
        failure.reason,
        report.seed
    )
}

/// A line on a terminal that says how far it is.
struct Progress {
    of: usize,
    terminal: bool,
}

impl Progress {
    fn new(of: usize) -> Self {
        Self {
            of,
            terminal: std::io::stderr().is_terminal() && of > 1,
        }
    }

    fn show(&self, summary: &Summary) {
        if !self.terminal || !summary.seeds.is_multiple_of(8) {
            return;
        }
        eprint!(
            "\r{} of {} seeds, {} failed ",
            summary.seeds,
            self.of,
            summary.failed.len()
        );
        let _ = std::io::stderr().flush();
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
