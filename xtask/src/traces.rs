//! `cargo xtask traces check`: our traces, through collectors that others wrote.
//!
//! The tests of traces run with everything sent to these (`deploy/otel/relay.py`), which pass it on to theirs: what they do not understand, or
//! repeat otherwise than it was meant, the tests miss. pip has them; none of it is needed to build or test Fulcrum, so it is no part of `.ci/run`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::deploy::python;
use crate::process;
use crate::workspace::{cargo, root};

/// There is no Python that can install them.
const NO_PYTHON: u8 = 3;
/// By this the tests hear of them.
const VARIABLE: &str = "FULCRUM_TEST_COLLECTOR";

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask traces check   a cluster that sends its traces through rotel and grpcio: does every trace arrive as it was meant?

Needs Python 3.10 or newer. pip installs both into target/traces/venv.

Exit codes: 0 all holds, 3 there is no such Python, or what it needs cannot be installed, else that of the tests.";

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
    let Some(python) = python::ensure_or_say(&folder, &root().join("deploy/otel/requirements.txt"))? else {
        return Ok(NO_PYTHON);
    };
    // The tests start the command line, which only a build of all examples makes.
    if process::run(&mut cargo(&["build", "-p", "fulcrum-services", "--examples"]))? != 0 {
        bail!("the programs that the tests start do not build");
    }
    process::run(cargo(&["test", "-p", "fulcrum-services", "--test", "traces"]).env(VARIABLE, python))
}
