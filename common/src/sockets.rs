//! Sockets as services want them.

use std::net::SocketAddr;
use tokio::net::{TcpSocket, TcpStream};

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

/// A port of loopback that is kept for a process which will listen there, for as long as this lives.
///
/// A port that was merely found free is given away again by the system before that process starts, to the next connection that anybody
/// makes. A socket that is bound and does not listen keeps it from that, and lets listeners have it that ask to reuse addresses, as
/// listeners of servers do. Until one listens, connections are refused.
#[derive(Debug)]
pub struct ReservedPort(TcpSocket);

impl ReservedPort {
    /// Any that is free.
    ///
    /// # Errors
    /// The system has none.
    pub fn any() -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self(socket))
    }

    /// Where to listen.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_reserved_port_is_given_to_its_listener_only() {
        let reserved: Vec<ReservedPort> = (0..50).map(|_| ReservedPort::any().unwrap()).collect();
        let ports: BTreeSet<u16> = reserved.iter().map(|port| port.address().unwrap().port()).collect();
        assert_eq!(ports.len(), reserved.len(), "none is given twice");
        for port in &reserved {
            TcpStream::connect(port.address().unwrap()).expect_err("nobody listens yet");
            let listener = TcpListener::bind(port.address().unwrap()).unwrap();
            let caller = TcpStream::connect(port.address().unwrap()).unwrap();
            drop((caller, listener));
            // A process that is started again listens where it did.
            TcpListener::bind(port.address().unwrap()).unwrap();
        }
    }

    #[test]
    fn neither_callers_nor_other_listeners_are_given_a_reserved_port() {
        let reserved: Vec<ReservedPort> = (0..200).map(|_| ReservedPort::any().unwrap()).collect();
        let ports: BTreeSet<u16> = reserved.iter().map(|port| port.address().unwrap().port()).collect();
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        for _ in 0..1000 {
            let caller = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            assert!(!ports.contains(&caller.local_addr().unwrap().port()));
            assert!(!ports.contains(&other.local_addr().unwrap().port()));
            drop(server.accept().unwrap());
        }
    }
}
