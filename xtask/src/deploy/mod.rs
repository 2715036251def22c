//! `cargo xtask deploy`: what the Helm chart and `k8s/` must keep, checked without a cluster.
//!
//! The checks are in Python (`deploy/check`), because Helm's own library and the schemas of Kubernetes can be had there; here is
//! what they need around them: an environment of their own ([`python`]) and a kubectl ([`kubectl`]), both below
//! `target/deploy`. None of it is needed to build or test Fulcrum: `.ci/run` runs it where its tools are, and says so where they are not.

mod kubectl;
pub(crate) mod python;

use std::process::Command;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::process;
use crate::workspace::root;

/// There is no Python that can run the checks.
const NO_PYTHON: u8 = 3;

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask deploy check   lint, render, validate by the schemas of 13 versions of Kubernetes, refuse bad values,
                             find planted mistakes, compare k8s/ with the chart
  cargo xtask deploy write   the chart's table of values and its rules, and k8s/base

Needs Python 3.10 or newer. pip installs Helm's library and a validator with the schemas into target/deploy/venv;
FULCRUM_KUBECTL names a kubectl, else that on the path is taken, else apt-get fetches one into target/deploy.

Exit codes: 0 all holds, 1 something is to repair, 3 there is no such Python, or what it needs cannot be installed.";

#[derive(Args)]
pub(crate) struct DeployArgs {
    #[command(subcommand)]
    command: DeployCommand,
}

#[derive(Subcommand)]
enum DeployCommand {
    /// Check the chart and k8s/; writes nothing outside target/
    Check,
    /// Write what is made: the chart's table of values, its copies of the rules for Prometheus, and k8s/base
    Write,
}

/// `cargo xtask deploy ...`
pub(crate) fn run(args: &DeployArgs) -> Result<u8> {
    let folder = root().join("target/deploy");
    let Some(python) = python::ensure_or_say(&folder, &root().join("deploy/check/requirements.txt"))? else {
        return Ok(NO_PYTHON);
    };
    let mut check = Command::new(python);
    check
        .arg(root().join("deploy/check/check.py"))
        .arg("--root")
        .arg(root())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let left_out = match args.command {
        DeployCommand::Write => {
            check.arg("--write");
            None
        }
        DeployCommand::Check => match kubectl::ensure(&folder)? {
            kubectl::Kubectl::There(program) => {
                check.arg("--kubectl").arg(program);
                None
            }
            kubectl::Kubectl::LeftOut(reason) => Some(reason),
        },
    };
    let code = process::run(&mut check)?;
    if let Some(reason) = left_out {
        println!("NOT RUN: k8s/ was not compared with the chart ({reason})");
    }
    Ok(code)
}
