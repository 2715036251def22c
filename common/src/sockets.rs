//! Sockets as services want them.

use tokio::net::TcpStream;

/// An accepted connection without Nagle's algorithm: left on, it costs a factor of a hundred in latency (DESIGN section 13).
///
/// # Errors
/// The one it is given.
pub fn without_delay(accepted: std::io::Result<TcpStream>) -> std::io::Result<TcpStream> {
    accepted.inspect(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY on an accepted connection");
        }
    })
}
