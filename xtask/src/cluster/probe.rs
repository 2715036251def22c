//! How a process is: its own answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::ledger::Started;
use super::plan::Role;

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
    let answer = get(address, path).map_err(|error| format!("does not answer: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") if started.role != Role::Etcd || body.contains("\"true\"") => Ok(()),
        _ => Err(body.trim().to_owned()),
    }
}

fn get(address: &str, path: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}
