//! Namespaces around the whole command, so that nothing of it can be left behind.
//!
//! As root the command runs itself again as the first process of namespaces of its own: of processes, mounts and network. When it ends, for
//! whatever reason, the kernel ends every process in there, and with the last one go mounts, links and routes. Nothing is
//! ever made in the machine's own network, and no name or address can clash with one of the machine, or with another run.
//!
//! Without root, or where the kernel refuses, the command goes on outside, on loopback.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Says to the inner command that it is inside.
const INSIDE: &str = "FULCRUM_CHAOS_ENCLOSED";
const WALLS: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Whether this process is the one inside.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Why there can be no enclosure here; none if there can.
#[must_use]
pub fn refused() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let tried = Command::new("unshare")
        .args(WALLS)
        .args(["ip", "link", "set", "lo", "up"])
        .stdin(Stdio::null())
        .output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "this system makes no network namespaces: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("unshare (util-linux) and ip (iproute2) are needed: {error}")),
    }
}

/// Becomes the command inside. Returns only if that fails.
///
/// # Errors
/// It could not be started.
pub fn enter() -> Result<std::convert::Infallible> {
    let own = std::env::current_exe().context("find the own program")?;
    let failed = Command::new("unshare")
        .args(WALLS)
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(failed).context("start unshare")
}

/// Once inside: loopback, routing, and a place for names that goes with this process.
///
/// # Errors
/// The system refuses.
pub async fn furnish() -> Result<()> {
    command("ip", &["link", "set", "lo", "up"]).await?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("switch routing on")?;
    std::fs::create_dir_all("/run/netns").context("make /run/netns")?;
    command("mount", &["-t", "tmpfs", "fulcrum-chaos", "/run/netns"]).await
}

/// Runs a command that must succeed.
///
/// # Errors
/// It did not.
pub async fn command(program: &str, arguments: &[&str]) -> Result<()> {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{program} {}: {reason}", arguments.join(" "));
    }
    Ok(())
}
