//! The two command line tools by which all is done: `kubectl` for what the cluster knows, `docker` for the machines that it runs on.

use anyhow::{Context, Result, bail};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// A command that takes longer hangs: on a paused machine, or for want of an API server.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// What a command has written; an error if it failed, with what it complained of.
///
/// # Errors
/// It is not there, takes too long, or failed.
pub(super) async fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let shown = || format!("{program} {}", arguments.join(" "));
    let done = tokio::time::timeout(ENDS_WITHIN, command.output()).await;
    let done = done.with_context(|| format!("no answer within {} s: {}", ENDS_WITHIN.as_secs(), shown()))?;
    let done =
        done.with_context(|| format!("{program} is needed, and cannot be run: install it, or put it on the path"))?;
    if !done.status.success() {
        bail!("{} failed: {}", shown(), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// A release of the chart, as `kubectl` reaches it.
#[derive(Clone, Debug)]
pub struct Release {
    /// The namespace that it is in.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Release {
    /// Asks or tells the cluster something about the release's namespace.
    pub(super) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", &self.namespace, "--request-timeout=15s"];
        all.extend_from_slice(arguments);
        output("kubectl", &all).await
    }
}

/// Runs a line of shell inside a machine, which sees `arguments` as `$1`, `$2` and so on.
pub(super) async fn inside(machine: &str, line: &str, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["exec", machine, "sh", "-c", line, "sh"];
    all.extend_from_slice(arguments);
    output("docker", &all).await
}
