//! The two ends of a datagram, each a process of its own inside a member's namespace: whether something gets through, one way. And one end of a
//! connection, which needs both.

use super::super::Passage;
use crate::args::Datagram;
use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Where datagrams are awaited.
pub(in crate::backend) const PROBE_PORT: u16 = 7900;

/// Sent so often, in case one is lost.
const TIMES: u32 = 3;
const APART: Duration = Duration::from_millis(40);
const HEARD_WITHIN: Duration = Duration::from_millis(400);
const WORD: &[u8] = b"fulcrum chaos";

/// Plays one end; 0 if it was heard, or said.
#[must_use]
pub fn run(end: &Datagram) -> u8 {
    let done = match end {
        Datagram::Hear { at, within_ms } => hear(*at, Duration::from_millis(*within_ms)),
        Datagram::Say { to } => say(*to),
        Datagram::Reach { to } => reach(*to),
    };
    u8::from(done.is_err())
}

/// Sends datagrams from inside the one namespace and awaits them inside the other; each is what puts a command there.
pub(in crate::backend) async fn passage(from: &[String], to: &[String], at: &str) -> Result<Passage> {
    let own = std::env::current_exe().context("find the own program")?;
    passage_by(&own, from, to, at, HEARD_WITHIN).await
}

/// As [`passage`], where this program has another path, and it may take longer until something is said.
pub(in crate::backend) async fn passage_by(
    program: &Path,
    from: &[String],
    to: &[String],
    at: &str,
    within: Duration,
) -> Result<Passage> {
    let within = within.as_millis().to_string();
    let mut hears = inside(program, to, &["hear", at, "--within-ms", &within])?
        .stdout(Stdio::piped())
        .spawn()
        .context("start who hears")?;
    let mut said = BufReader::new(hears.stdout.take().context("who hears says nothing")?).lines();
    if said.next_line().await?.is_none() {
        bail!("who listens for datagrams at {at} has ended");
    }
    let mut says = inside(program, from, &["say", at])?;
    let (heard, said) = tokio::try_join!(hears.wait(), says.status())?;
    match (heard.code(), said.code()) {
        (Some(0), Some(0)) => Ok(Passage::Open),
        // Where the sender's own system refuses to send, nothing passes, either.
        (Some(0 | 1), Some(0 | 1)) => Ok(Passage::Closed),
        // What led into a namespace has failed, which says nothing about the way between them.
        _ => bail!("whether datagrams get to {at} was not seen: who hears ended with {heard}, who says with {said}"),
    }
}

/// Whether a connection from inside a namespace gets an answer, be it a refusal.
pub(in crate::backend) async fn reaches(from: &[String], to: &str) -> Result<bool> {
    let own = std::env::current_exe().context("find the own program")?;
    let reached = inside(&own, from, &["reach", to])?
        .status()
        .await
        .context("start who connects")?;
    Ok(reached.success())
}

fn inside(program: &Path, wrapped: &[String], arguments: &[&str]) -> Result<Command> {
    let (first, others) = wrapped.split_first().context("nothing leads into a namespace")?;
    let mut command = Command::new(first);
    command
        .args(others)
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

fn reach(to: SocketAddr) -> std::io::Result<()> {
    match TcpStream::connect_timeout(&to, HEARD_WITHIN) {
        Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error),
        _ => Ok(()),
    }
}

fn hear(at: SocketAddr, within: Duration) -> std::io::Result<()> {
    let socket = UdpSocket::bind(at)?;
    socket.set_read_timeout(Some(within))?;
    // Who sends waits for this line.
    println!("listening");
    std::io::stdout().flush()?;
    let mut heard = [0; WORD.len()];
    let (read, _) = socket.recv_from(&mut heard)?;
    match &heard[..read] == WORD {
        true => Ok(()),
        false => Err(std::io::Error::other("something else was said")),
    }
}

#[expect(clippy::disallowed_methods, reason = "a process of its own, which does nothing else")]
fn say(to: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    for _ in 0..TIMES {
        socket.send_to(WORD, to)?;
        std::thread::sleep(APART);
    }
    Ok(())
}
