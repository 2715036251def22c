//! What the system knows of this process.

use anyhow::{Context, Result};

/// Resident memory in MiB.
pub(crate) fn resident_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read this process's memory use")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    Ok(kib.context("/proc/self/status has no VmRSS")? / 1024.0)
}
