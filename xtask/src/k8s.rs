//! `cargo xtask k8s`: the chart on a real Kubernetes, on this machine.
//!
//! Scripts in `tests/k8s/real` do the work: `build.sh` makes Kubernetes' programs from Debian's source package, `cluster.sh` starts and ends a cluster whose
//! machines are docker containers, `test.py` installs the chart and does to it what operators do. Here is what they need around them: tools that are looked for
//! before anything begins, the Python environment of `cargo xtask deploy`, an etcd, and a question before this machine is touched. Programs and state are in
//! `target/k8s`. None of it is needed to build or test Fulcrum, so it is no part of `.ci/run`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::dashboards::check::prometheus_program;
use crate::deploy::python;
use crate::etcd;
use crate::package::{on_path, succeeds};
use crate::process;
use crate::workspace::root;

/// Something that is needed is not there.
const CANNOT: u8 = 3;

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask image --binaries target/release   the image that the cluster will run
  cargo xtask k8s up                            builds Kubernetes 1.20 (30 minutes, once), starts 3 nodes, loads the image
  cargo xtask k8s test                          install, upgrade under load, drain, kill, pause, scale, reinstall; the same with encryption and tokens
  cargo xtask k8s status
  cargo xtask k8s down                          ends and removes what `up` made; the programs stay in target/k8s/bin

Needs root, docker, kubectl, python3 (3.10 or newer, with venv), openssl, ip and Prometheus (else apt-get fetches Debian's into target/prometheus); for the first build Debian 12's apt-get, make and gcc,
and 5 GB in target/k8s, of which 400 MB stay. It touches this machine: docker gets a network, containers, volumes and images named fulcrum-k8s-*, and
this machine routes to pods. All but the images is gone after `down`.

Exit codes: 0 all went well, 1 something did not hold, 3 something that is needed is not there.";

#[derive(Args)]
pub(crate) struct K8sArgs {
    #[command(subcommand)]
    command: K8sCommand,
}

#[derive(Subcommand)]
enum K8sCommand {
    /// Build Kubernetes if it is not there, start the cluster, load the image; again: do what is missing
    Up {
        /// Do not ask before touching this machine
        #[arg(long)]
        yes: bool,
    },
    /// Install the chart, and do to it what operators and machines do
    Test {
        /// Only these steps, by name (`--only list` shows them)
        #[arg(long, value_name = "STEPS", value_delimiter = ',')]
        only: Vec<String>,
        /// More values for the chart
        #[arg(long, value_name = "FILE")]
        values: Option<PathBuf>,
    },
    /// What runs
    Status,
    /// End and remove what `up` made
    Down,
}

/// `cargo xtask k8s ...`
pub(crate) fn run(args: &K8sArgs) -> Result<u8> {
    let missing = missing(&["docker", "kubectl", "python3", "openssl", "ip", "setsid"]);
    if !missing.is_empty() {
        eprintln!(
            "error: a Kubernetes on this machine needs {}: install it, then run this again",
            missing.join(", ")
        );
        return Ok(CANNOT);
    }
    match &args.command {
        K8sCommand::Up { yes } => up(*yes),
        K8sCommand::Test { only, values } => test(only, values.as_deref()),
        K8sCommand::Status => script("cluster.sh", &["status"]),
        K8sCommand::Down => script("cluster.sh", &["down"]),
    }
}

fn missing(programs: &[&'static str]) -> Vec<&'static str> {
    let absent = |program: &&&str| on_path(program).is_none();
    programs.iter().filter(absent).copied().collect()
}

fn cache() -> PathBuf {
    root().join("target/k8s")
}

fn folder() -> PathBuf {
    root().join("tests/k8s/real")
}

fn up(yes: bool) -> Result<u8> {
    let etcd = etcd::required(root())?;
    let built = cache().join("bin/kube-proxy").is_file();
    let lacking = missing(if built {
        &[]
    } else {
        &["apt-get", "dpkg", "make", "gcc"]
    });
    if !lacking.is_empty() {
        eprintln!(
            "error: to build Kubernetes needs {}: install it, then run this again",
            lacking.join(", ")
        );
        return Ok(CANNOT);
    }
    if !built {
        println!("Kubernetes is built first, in target/k8s: 30 minutes and 5 GB, once");
    }
    println!(
        "docker will get a network, three containers with most capabilities, volumes and images, all named fulcrum-k8s-*; this machine, routes to their pods"
    );
    if !yes && !agreed()? {
        println!("nothing was done");
        return Ok(1);
    }
    succeeds(Command::new(folder().join("build.sh")).arg(cache()))?;
    process::run(
        Command::new(folder().join("cluster.sh"))
            .arg("up")
            .arg(cache())
            .env("ETCD", etcd)
            .env("IMAGE", image()),
    )
}

/// Whoever sits at a terminal is asked; a script that calls this has decided.
fn agreed() -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(true);
    }
    print!("Go on? [y/N] ");
    std::io::stdout().flush().context("ask")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("read the answer")?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

fn test(only: &[String], values: Option<&Path>) -> Result<u8> {
    let kubeconfig = cache().join("run/kubeconfig");
    if !kubeconfig.is_file() {
        bail!("there is no cluster: start one with `cargo xtask k8s up`");
    }
    let (folder_of_python, requirements) = ("target/deploy", "deploy/check/requirements.txt");
    let Some(python) = python::ensure_or_say(&root().join(folder_of_python), &root().join(requirements))? else {
        return Ok(CANNOT);
    };
    let mut command = Command::new(python);
    command
        .arg(folder().join("test.py"))
        .args(["--root".as_ref(), root().as_os_str()])
        .args(["--image", &image()])
        .args(["--fulcrum".as_ref(), command_line_tool()?.as_os_str()])
        .args(["--prometheus".as_ref(), prometheus_program(root())?.as_os_str()])
        .env("KUBECONFIG", kubeconfig)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    if !only.is_empty() {
        command.args(["--only", &only.join(",")]);
    }
    if let Some(values) = values {
        command.arg("--values").arg(values);
    }
    process::run(&mut command)
}

fn script(name: &str, arguments: &[&str]) -> Result<u8> {
    process::run(Command::new(folder().join(name)).args(arguments).arg(cache()))
}

fn image() -> String {
    std::env::var("FULCRUM_IMAGE").unwrap_or_else(|_| format!("fulcrum:{}", env!("CARGO_PKG_VERSION")))
}

/// The optimised one if there is one: the load is on the same machine as the cluster.
fn command_line_tool() -> Result<PathBuf> {
    let target = root().join("target");
    let built = ["release", "debug"].map(|profile| target.join(profile).join("fulcrum"));
    let found = built.iter().find(|path: &&PathBuf| Path::is_file(path)).cloned();
    found.context("the load needs the command line tool: cargo build --release -p fulcrum-services -p fulcrum-cli -p fulcrum-chaos --bins")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing(&["sh", "no-such-program"]), ["no-such-program"]);
    }

    #[test]
    fn scripts_are_where_they_are_looked_for() {
        for name in [
            "build.sh",
            "cluster.sh",
            "test.py",
            "ground.py",
            "plain.py",
            "encrypted.py",
        ] {
            assert!(folder().join(name).is_file(), "{name}");
        }
    }
}
