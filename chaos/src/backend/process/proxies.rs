//! A proxy before every member, on loopback: it knows who connects, and holds back what one member sends another.
//!
//! A connection belongs to the process that has its other end open, as the system's table of connections says; so no member need know of proxies. What
//! goes each way is a link of its own. A link that is cut holds bytes back, as a network does that loses every packet and every
//! repetition of it; mended, it delivers what was held, as repetitions would. New connections over a cut link hang. A link that is delayed
//! lets every byte through so much later.
//!
//! Left out: loss of connections' ends (a member that dies is seen to die by those that it was connected to).

use super::super::{Link, Member, Passage};
use super::members::Address;
use anyhow::{Context, Result};
use fulcrum_common::sockets::ReservedPort;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Read at once.
const PIECE: usize = 16 * 1024;
/// Pieces under way on one connection in one direction.
const PIECES: usize = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Members say something to each other more often than that.
const LISTEN_FOR: Duration = Duration::from_millis(400);

/// What a link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    cut: bool,
    delay: Duration,
}

/// A link, as its connections see it.
struct Gate {
    state: watch::Sender<State>,
    /// Bytes that have passed.
    passed: AtomicU64,
    /// How long the last piece took, in microseconds.
    transit: AtomicU64,
}

type Pids = Arc<Mutex<BTreeMap<Member, i32>>>;
type Gates = Arc<Mutex<HashMap<Link, Arc<Gate>>>>;

/// All proxies.
pub(super) struct Proxies {
    addresses: BTreeMap<Member, Address>,
    pids: Pids,
    gates: Gates,
    _serving: JoinSet<()>,
    /// Members are dead now and then: their ports stay theirs.
    _members_ports: Vec<ReservedPort>,
}

impl Proxies {
    pub(super) async fn make(members: &[Member]) -> Result<Self> {
        let pids = Pids::default();
        let gates = Gates::default();
        let mut serving = JoinSet::new();
        let mut fronts = BTreeMap::new();
        let mut members_ports = Vec::new();
        for member in members {
            let proxy = TcpListener::bind(("127.0.0.1", 0)).await.context("make a proxy")?;
            let front = proxy.local_addr()?;
            let ports = [reserved()?, reserved()?, reserved()?];
            let addresses = [ports[0].address()?, ports[1].address()?, ports[2].address()?];
            members_ports.extend(ports);
            let door = Door {
                member: *member,
                back: addresses[0],
                front,
                pids: pids.clone(),
                gates: gates.clone(),
            };
            serving.spawn(door.serve(proxy));
            fronts.insert(*member, (front, addresses));
        }
        let etcd = fronts
            .get(&Member::Etcd)
            .map(|(front, _)| *front)
            .context("a cluster without etcd")?;
        let address = |(member, (front, [listens, probed, peers])): (&Member, &(SocketAddr, [SocketAddr; 3]))| {
            let probed = match member {
                Member::Etcd => listens,
                _ => probed,
            };
            let address = Address {
                listens: listens.to_string(),
                serves: front.to_string(),
                probed: probed.to_string(),
                etcd: format!("http://{etcd}"),
                peers: peers.to_string(),
            };
            (*member, address)
        };
        Ok(Self {
            addresses: fronts.iter().map(address).collect(),
            pids,
            gates,
            _serving: serving,
            _members_ports: members_ports,
        })
    }

    pub(super) fn address(&self, member: Member) -> Address {
        self.addresses[&member].clone()
    }

    /// A member has a new process.
    pub(super) fn tell(&self, member: Member, pid: i32) {
        let mut pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        pids.insert(member, pid);
    }

    fn gate(&self, link: Link) -> Arc<Gate> {
        gate(&self.gates, link)
    }

    pub(super) fn cut(&self, link: Link) {
        self.gate(link).state.send_modify(|state| state.cut = true);
    }

    pub(super) fn mend(&self, link: Link) {
        self.gate(link).state.send_replace(State::OPEN);
    }

    /// The links that do not let everything through at once.
    pub(super) fn cuts(&self) -> Vec<Link> {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let hurt = gates.iter().filter(|(_, gate)| *gate.state.borrow() != State::OPEN);
        hurt.map(|(link, _)| *link).collect()
    }

    pub(super) fn delay(&self, link: Link, by: Duration) {
        self.gate(link).state.send_modify(|state| state.delay = by);
    }

    /// Members say something to each other all the time: whether any of it passes.
    pub(super) async fn passage(&self, link: Link) -> Result<Passage> {
        let gate = self.gate(link);
        let before = gate.passed.load(Ordering::SeqCst);
        tokio::time::sleep(LISTEN_FOR).await;
        Ok(match gate.passed.load(Ordering::SeqCst) > before {
            true => Passage::Open,
            false => Passage::Closed,
        })
    }

    pub(super) async fn transit(&self, link: Link) -> Result<Duration> {
        let gate = self.gate(link);
        let before = gate.passed.load(Ordering::SeqCst);
        for _ in 0..10 {
            tokio::time::sleep(LISTEN_FOR).await;
            if gate.passed.load(Ordering::SeqCst) > before {
                return Ok(Duration::from_micros(gate.transit.load(Ordering::SeqCst)));
            }
        }
        anyhow::bail!("nothing passes {link}")
    }
}

impl State {
    const OPEN: State = State {
        cut: false,
        delay: Duration::ZERO,
    };
}

fn reserved() -> Result<ReservedPort> {
    ReservedPort::any().context("reserve a port")
}

fn gate(gates: &Gates, link: Link) -> Arc<Gate> {
    let mut gates = gates.lock().unwrap_or_else(PoisonError::into_inner);
    let made = || {
        Arc::new(Gate {
            state: watch::Sender::new(State::OPEN),
            passed: AtomicU64::new(0),
            transit: AtomicU64::new(0),
        })
    };
    gates.entry(link).or_insert_with(made).clone()
}

/// The proxy before one member.
struct Door {
    member: Member,
    back: SocketAddr,
    front: SocketAddr,
    pids: Pids,
    gates: Gates,
}

impl Door {
    async fn serve(self, proxy: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let Ok((client, from)) = proxy.accept().await else {
                return;
            };
            while connections.try_join_next().is_some() {}
            let caller = self.caller(from);
            connections.spawn(connect(client, self.back, self.links(caller)));
        }
    }

    /// Which member has the other end; none if it is a client.
    fn caller(&self, from: SocketAddr) -> Option<Member> {
        let pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let inode = inode_of(from, self.front)?;
        let holds = |pid: i32| holds_socket(pid, &inode);
        pids.into_iter().find(|(_, pid)| holds(*pid)).map(|(member, _)| member)
    }

    /// There and back. What clients send is never held.
    fn links(&self, caller: Option<Member>) -> Option<[Arc<Gate>; 2]> {
        let other = caller?;
        let there = Link {
            from: other,
            to: self.member,
        };
        let back = Link {
            from: self.member,
            to: other,
        };
        Some([gate(&self.gates, there), gate(&self.gates, back)])
    }
}

async fn connect(client: TcpStream, back: SocketAddr, links: Option<[Arc<Gate>; 2]>) {
    if let Some([there, back]) = &links {
        // Neither the first packet nor its answer would arrive.
        for gate in [there, back] {
            let mut state = gate.state.subscribe();
            if state.wait_for(|state| !state.cut).await.is_err() {
                return;
            }
        }
    }
    let Ok(Ok(server)) = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(back)).await else {
        return;
    };
    // What comes is passed on as it comes.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let [there, back] = links.map_or([None, None], |[there, back]| [Some(there), Some(back)]);
    tokio::join!(pass(from_client, to_server, there), pass(from_server, to_client, back));
}

/// Passes on what comes until one side closes.
async fn pass(from: OwnedReadHalf, mut to: OwnedWriteHalf, gate: Option<Arc<Gate>>) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let reading = async move {
        let mut from = from;
        let mut piece = vec![0; PIECE];
        while let Ok(read @ 1..) = from.read(&mut piece).await {
            if sender.send((Instant::now(), piece[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((came, piece)) = pieces.recv().await {
            if let Some(gate) = &gate {
                gate.pass(came, piece.len()).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // The other side is told that no more comes; it may be gone itself.
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}

impl Gate {
    /// Waits until a piece that came at this moment may go.
    async fn pass(&self, came: Instant, bytes: usize) {
        let mut state = self.state.subscribe();
        loop {
            // The sender is in `self`: it does not go away.
            let State { cut, delay } = *state.borrow_and_update();
            if cut {
                let _ = state.changed().await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep_until(came + delay) => break,
                _ = state.changed() => {}
            }
        }
        let took = u64::try_from(came.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.transit.store(took, Ordering::SeqCst);
        self.passed
            .fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

/// The socket at the other end of a connection over loopback, by the system's table.
fn inode_of(own: SocketAddr, peer: SocketAddr) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (own, peer) = (in_hex(own)?, in_hex(peer)?);
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1) == Some(&own.as_str()) && fields.get(2) == Some(&peer.as_str());
        is_it.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// An address as the table writes it: bytes as this machine orders them.
fn in_hex(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    let number = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

fn holds_socket(pid: i32, inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    open.flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == wanted.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::NodeId;

    const NODE: Member = Member::Node(NodeId(1));
    const THERE: Link = Link {
        from: Member::Etcd,
        to: NODE,
    };
    const BACK: Link = Link {
        from: NODE,
        to: Member::Etcd,
    };

    async fn hears(stream: &mut TcpStream, word: &[u8]) -> bool {
        let mut heard = vec![0; word.len()];
        let read = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut heard)).await;
        read.is_ok_and(|read| read.is_ok()) && heard == word
    }

    /// This process plays both members.
    async fn connected() -> (Proxies, TcpStream, TcpStream) {
        let proxies = Proxies::make(&[Member::Etcd, NODE]).await.unwrap();
        proxies.tell(Member::Etcd, i32::try_from(std::process::id()).unwrap());
        let address = proxies.address(NODE);
        let member = TcpListener::bind(&address.listens).await.unwrap();
        let caller = TcpStream::connect(&address.serves).await.unwrap();
        let (called, _) = member.accept().await.unwrap();
        (proxies, caller, called)
    }

    #[tokio::test]
    async fn one_direction_is_held_and_delivered_later() {
        let (proxies, mut caller, mut called) = connected().await;
        caller.write_all(b"one").await.unwrap();
        assert!(hears(&mut called, b"one").await);
        proxies.cut(THERE);
        caller.write_all(b"two").await.unwrap();
        assert!(!hears(&mut called, b"two").await, "the link is cut");
        called.write_all(b"back").await.unwrap();
        assert!(hears(&mut caller, b"back").await, "the other direction is not");
        assert_eq!(proxies.passage(THERE).await.unwrap(), Passage::Closed);
        proxies.mend(THERE);
        assert!(
            hears(&mut called, b"two").await,
            "what was held comes when the link is mended"
        );
    }

    #[tokio::test]
    async fn a_slow_link_takes_as_long_as_it_shall() {
        let (proxies, mut caller, mut called) = connected().await;
        let by = Duration::from_millis(80);
        proxies.delay(BACK, by);
        let measured = tokio::join!(proxies.transit(BACK), async {
            called.write_all(b"late").await.unwrap();
            hears(&mut caller, b"late").await
        });
        assert!(measured.0.unwrap() >= by && measured.1);
        proxies.delay(THERE, by);
        proxies.mend(THERE);
        caller.write_all(b"at once").await.unwrap();
        assert!(hears(&mut called, b"at once").await);
        assert!(proxies.gate(THERE).transit.load(Ordering::SeqCst) < 80_000);
    }
}
