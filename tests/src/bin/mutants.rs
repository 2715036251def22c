//! Plants each bug in turn and runs seeds until one finds it; exits with 1 if a bug survives. `cargo xtask mutants` calls it.

use clap::Parser;
use fulcrum_tests::planted::Planted;
use fulcrum_tests::sim::judge::UNDECIDED;
use fulcrum_tests::sim::plan::Choice;
use fulcrum_tests::sim::pool::each;
use fulcrum_tests::sim::run::{Report, quiet_panics, run};
use fulcrum_tests::sim::transactions;
use std::process::ExitCode;

/// Plants bugs and counts the seeds that the simulation needs to find each.
#[derive(Parser)]
#[command(name = "mutants")]
struct Arguments {
    /// Give up on a bug after so many seeds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Only bugs whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Try first the seed that is known to find each bug; leave out those that only golden scripts tell of.
    #[arg(long)]
    quick: bool,
    /// Threads; all processors if not said.
    #[arg(long)]
    threads: Option<usize>,
}

/// Which seed is known to find which bug.
const KNOWN: &str = include_str!("../../mutants.txt");

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    quiet_panics();
    let threads = arguments
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let bugs: Vec<Planted> = Planted::all();
    let bugs = bugs
        .into_iter()
        .filter(|bug| arguments.only.as_ref().is_none_or(|part| bug.name().contains(part)));
    let (mut killed, mut survived, mut hidden) = (0, 0, 0);
    println!("{:<34} {:<34} {:>6} {:>8}", "planted bug", "found by", "seeds", "seed");
    for bug in bugs {
        if let (true, Some(why)) = (arguments.quick, bug.hidden_by()) {
            hidden += 1;
            println!("{:<34} only golden scripts tell: {why}", bug.name());
            continue;
        }
        match hunt(bug, &arguments, threads.unwrap_or(2)) {
            (Some(report), tried) => {
                killed += 1;
                let by = report.failure.map_or("", |f| f.property);
                println!("{:<34} {by:<34} {tried:>6} {:>8}", bug.name(), report.seed);
            }
            (None, tried) if bug.hidden_by().is_some() => {
                hidden += 1;
                let why = bug.hidden_by().unwrap_or_default();
                println!("{:<34} only golden scripts tell ({tried} seeds): {why}", bug.name());
            }
            (None, tried) => {
                survived += 1;
                println!("{:<34} {:<34} {tried:>6} {:>8}", bug.name(), "SURVIVED", "-");
            }
        }
    }
    println!("{killed} found by simulation, {hidden} by golden scripts only, {survived} by nothing");
    println!("{killed} passed, {survived} failed");
    if survived == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs seeds until one finds the bug. Also says how many were run.
fn hunt(bug: Planted, arguments: &Arguments, threads: usize) -> (Option<Report>, u64) {
    let known = KNOWN
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, name)| *name == bug.name());
    let first = known
        .and_then(|(seed, _)| seed.parse().ok())
        .filter(|_| arguments.quick);
    let fresh = arguments.start..arguments.start + arguments.seeds;
    let seeds: Vec<u64> = first.into_iter().chain(fresh).collect();
    let (mut found, mut tried) = (None, 0);
    let choice = Choice {
        transactions: bug.is_of_transactions(),
        ..Choice::default()
    };
    let one = |seed| run(seed, choice, bug, false);
    each(&seeds, threads, one, |report| {
        tried += 1;
        if report
            .failure
            .as_ref()
            .is_some_and(|f| f.property != UNDECIDED && f.property != transactions::judge::UNDECIDED)
        {
            found = Some(report);
        }
        found.is_none()
    });
    (found, tried)
}
