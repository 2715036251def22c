//! How a process is: its own answer.

use std::time::Duration;

use super::ledger::Started;
use super::plan::Role;
use crate::http;

const WITHIN: Duration = Duration::from_secs(1);
/// No answer of a probe is longer.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Ready, or why not.
pub(crate) fn ready(started: &Started) -> Result<(), String> {
    let path = match started.role {
        Role::Etcd => "/health",
        _ => "/readyz",
    };
    let address = started
        .metrics
        .trim_start_matches("http://")
        .trim_end_matches("/metrics");
    let answer =
        http::get(address, path, WITHIN, MAX_ANSWER_BYTES).map_err(|error| format!("does not answer: {error}"))?;
    match answer.is_ok() && (started.role != Role::Etcd || answer.body.contains("\"true\"")) {
        true => Ok(()),
        false => Err(answer.body.trim().to_owned()),
    }
}
