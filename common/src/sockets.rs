//! Sockets as services want them.

use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Switches Nagle's algorithm off for an accepted connection: left on, it costs a factor of a hundred in latency (DESIGN section 13). A server leaves
/// sockets that come as a stream as they are.
pub fn without_delay(accepted: &TcpStream) {
    if let Err(error) = accepted.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY on an accepted connection");
    }
}

/// A port that is taken, and at which nobody listens yet: connections are refused until somebody does.
///
/// A service takes its port before it does anything else, so that a port in use is told at once, and listens once it can answer: whoever
/// connected earlier would wait for an answer instead of asking somebody else.
///
/// It also keeps a port for a process that will listen there, for as long as this lives. A port that was merely found free is given away
/// again by the system before that process starts, to the next connection that anybody makes. A socket that is bound and does not
/// listen keeps it from that, and lets listeners have it that ask to reuse addresses, as listeners of servers do.
#[derive(Debug)]
pub struct ReservedPort(TcpSocket);

impl ReservedPort {
    /// This one; with port 0, any that is free there.
    ///
    /// # Errors
    /// Somebody listens there, or the address is not of this machine.
    pub fn at(address: SocketAddr) -> std::io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self(socket))
    }

    /// Any that is free, of loopback.
    ///
    /// # Errors
    /// The system has none.
    pub fn any() -> std::io::Result<Self> {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Where to listen.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Listens there. Must be called within a runtime.
    ///
    /// # Errors
    /// Somebody else does.
    pub fn listen(self) -> std::io::Result<TcpListener> {
        self.0.listen(BACKLOG)
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

    #[tokio::test]
    async fn a_port_is_taken_before_anybody_listens_there() {
        let reserved = ReservedPort::any().unwrap();
        let address = reserved.address().unwrap();
        TcpStream::connect(address).expect_err("nobody listens yet");
        let listener = reserved.listen().unwrap();
        TcpStream::connect(address).unwrap();
        let in_use = ReservedPort::at(address).unwrap_err();
        assert_eq!(in_use.kind(), std::io::ErrorKind::AddrInUse);
        drop(listener);
        ReservedPort::at(address).unwrap();
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
