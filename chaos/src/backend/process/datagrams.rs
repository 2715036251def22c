//! The two ends of a datagram, each a process of its own inside a member's namespace: whether something gets through, one way.

use crate::args::Datagram;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Sent so often, in case one is lost.
const TIMES: u32 = 3;
const APART: Duration = Duration::from_millis(40);
const HEARD_WITHIN: Duration = Duration::from_millis(400);
const WORD: &[u8] = b"fulcrum chaos";

/// Plays one end; 0 if it was heard, or said.
#[must_use]
pub fn run(end: &Datagram) -> u8 {
    let done = match end {
        Datagram::Hear { at } => hear(*at),
        Datagram::Say { to } => say(*to),
    };
    u8::from(done.is_err())
}

fn hear(at: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind(at)?;
    socket.set_read_timeout(Some(HEARD_WITHIN))?;
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
