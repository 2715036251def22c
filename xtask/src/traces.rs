//! `cargo xtask traces check`: our traces, through a collector that others wrote.
//!
//! The tests of traces run with everything sent to that collector, which passes it on to theirs: what it does not understand, or repeats
//! otherwise than it was meant, they miss. pip has it; none of it is needed to build or test Fulcrum, so it is no part of `.ci/run`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::deploy::python::{self, Python};
use crate::process;
use crate::workspace::{cargo, root};

/// There is no Python that can install the collector.
const NO_PYTHON: u8 = 3;
/// By this the tests hear of it.
const VARIABLE: &str = "FULCRUM_TEST_COLLECTOR";
const COLLECTOR: &str = "site-packages/rotel/rotel-agent";

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask traces check   a cluster that sends its traces through rotel: does every trace arrive as it was meant?

Needs Python 3.10 or newer. pip installs the collector into target/traces/venv.

Exit codes: 0 all holds, 3 there is no such Python, else that of the tests.";

#[derive(Args)]
pub(crate) struct TracesArgs {
    #[command(subcommand)]
    command: TracesCommand,
}

#[derive(Subcommand)]
enum TracesCommand {
    /// Run the tests of traces through a collector that others wrote
    Check,
}

/// `cargo xtask traces ...`
pub(crate) fn run(args: &TracesArgs) -> Result<u8> {
    let TracesCommand::Check = args.command;
    let folder = root().join("target/traces");
    let program = match python::ensure(&folder, &root().join("deploy/otel/requirements.txt"))? {
        Python::There(_) => collector(&folder.join("venv/lib"))?,
        Python::Missing(reason) => {
            eprintln!("error: {reason}");
            return Ok(NO_PYTHON);
        }
    };
    println!("all traces go through {}", program.display());
    // The tests start the command line, which only a build of all examples makes.
    if process::run(&mut cargo(&["build", "-p", "fulcrum-services", "--examples"]))? != 0 {
        bail!("the programs that the tests start do not build");
    }
    process::run(cargo(&["test", "-p", "fulcrum-services", "--test", "traces"]).env(VARIABLE, program))
}

/// The collector of an environment: below the folder of whichever Python made it.
fn collector(libraries: &Path) -> Result<PathBuf> {
    let pythons = std::fs::read_dir(libraries).with_context(|| format!("look into {}", libraries.display()))?;
    let mut programs = pythons.flatten().map(|python| python.path().join(COLLECTOR));
    programs.find(|program| program.exists()).with_context(|| {
        format!(
            "pip installed no collector for this machine below {}: remove target/traces and try again",
            libraries.display()
        )
    })
}
