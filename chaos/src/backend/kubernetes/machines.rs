//! The machines that pods run on: containers of docker, which stand still, break down, and are emptied.
//!
//! What docker says of a machine is held against the world: whoever stands still or is down does not answer another machine.

use super::super::MachineFault;
use super::command::{Release, inside, output};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// As long as a pod's grace, and the budgets, may take.
const EMPTIED_WITHIN: Duration = Duration::from_secs(120);

/// How docker says that a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Paused,
    Down,
}

/// Asks docker.
pub(super) async fn state(machine: &str) -> Result<State> {
    let said = output(
        "docker",
        &["container", "inspect", "--format", "{{.State.Status}}", machine],
    )
    .await?;
    Ok(match said.trim() {
        "running" => State::Running,
        "paused" => State::Paused,
        _ => State::Down,
    })
}

/// The machines of the cluster that are containers of docker, and their addresses.
pub(super) async fn of(release: &Release) -> Result<BTreeMap<String, String>> {
    let line = "jsonpath={range .items[*]}{.metadata.name} {.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}";
    let said = release.kubectl(&["get", "nodes", "--output", line]).await?;
    let mut machines = BTreeMap::new();
    for (machine, address) in said.lines().filter_map(|line| line.split_once(' ')) {
        state(machine)
            .await
            .with_context(|| format!("the machine {machine} is no container of this docker: only such can be hurt"))?;
        machines.insert(machine.to_owned(), address.to_owned());
    }
    match machines.is_empty() {
        true => bail!("the cluster has no machines"),
        false => Ok(machines),
    }
}

/// Stops or breaks a machine. To empty one is the cluster's business, not docker's.
pub(super) async fn hurt(machine: &str, how: MachineFault) -> Result<()> {
    let arguments: &[&str] = match how {
        MachineFault::Pause => &["pause", machine],
        MachineFault::Restart => &["kill", "--signal", "KILL", machine],
        MachineFault::Drain => bail!("{machine} is emptied by the cluster"),
    };
    output("docker", arguments).await.map(drop)
}

/// Lets it go on, whatever it is that it suffers from.
pub(super) async fn heal(machine: &str) -> Result<()> {
    match state(machine).await? {
        State::Running => Ok(()),
        State::Paused => output("docker", &["unpause", machine]).await.map(drop),
        State::Down => output("docker", &["start", machine]).await.map(drop),
    }
}

/// Asks `$1` for its health from another machine; whatever comes back within a second is an answer.
const ASK: &str = r#"
timeout 1 bash -c 'exec 3<>"/dev/tcp/$0/9400" && printf "GET /healthz HTTP/1.0\r\n\r\n" >&3 && head -c 5 <&3' "$1" 2>/dev/null; true"#;

/// Whether a pod answers when another machine asks it.
pub(super) async fn answers(from: &str, address: &str) -> Result<bool> {
    Ok(inside(from, ASK, &[address]).await?.starts_with("HTTP/"))
}

/// Empties a machine as an operator does; budgets are kept.
pub(super) async fn empty(machine: &str) -> Result<()> {
    let mut command = Command::new("kubectl");
    let within = format!("--timeout={}s", EMPTIED_WITHIN.as_secs());
    command
        .args([
            "drain",
            machine,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            &within,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let status = command.status().await.context("run kubectl")?;
    match status.success() {
        true => Ok(()),
        false => bail!("{machine} could not be emptied: kubectl drain ended with {status}"),
    }
}
