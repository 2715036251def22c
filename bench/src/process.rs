//! What the system knows of this process.

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

/// Resident memory in MiB.
pub(crate) fn resident_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read this process's memory use")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    Ok(kib.context("/proc/self/status has no VmRSS")? / 1024.0)
}

/// CPU time of all threads since the start, in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
