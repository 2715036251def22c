//! What a node's data costs: memory, disk, time to open, time of a point read.
//!
//! `footprint DIRECTORY KEYS [GROUPS]` fills an empty directory with KEYS keys of 100-byte values over GROUPS groups (8),
//! through log, state machine and retry table, as a node does; in a directory that was filled before it opens and reads only,
//! so that a second run shows a node after a restart. The last line says what the directory holds on disk.

use bytes::Bytes;
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_replication::LogChange;
use fulcrum_shard_node::state_machine::{Limits, StateMachine, encode_write};
use fulcrum_shard_node::storage::{
    BatchDone, Durability, FjallBackend, FjallOptions, GroupStore, Identity, Notifier, Store,
};
use fulcrum_types::{
    ClientId, Condition, Entry, Epoch, GroupId, IdempotencyKey, LogPosition, Mutation, NodeId, Payload, ReplicatedTime,
    Sequence, WriteOp,
};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const VALUE_BYTES: usize = 100;
/// Entries that share a batch, about what a busy node gathers during one fsync.
const PER_BATCH: u64 = 512;
const CLIENTS: u64 = 64;
const READS: u64 = 300_000;
/// As the replication core's: entries kept for peers that lag.
const RETAIN_BYTES: usize = 4 * 1024 * 1024;
const CACHE_BYTES: usize = 4 * 1024 * 1024;

struct Replica {
    log: GroupStore,
    machine: StateMachine,
    retained: VecDeque<Entry>,
    retained_bytes: usize,
}

struct Node {
    store: Store,
    done: Receiver<BatchDone>,
    replicas: Vec<Replica>,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

impl Node {
    fn open(path: &Path, groups: u64) -> Outcome<Self> {
        let identity = Identity {
            cluster: "footprint".into(),
            node: NodeId(1),
        };
        let start = SystemClock.now().mono;
        let (sender, done) = channel();
        let notifier: Notifier = Arc::new(move |d| {
            let _ = sender.send(d);
        });
        let (backend, _) = FjallBackend::open(path, &identity, FjallOptions::default(), notifier)?;
        println!("engine open after {:?}", SystemClock.now().mono.since(start));
        let store = Store::new(Box::new(backend));
        let mut replicas = Vec::new();
        for group in 0..groups {
            let opened = GroupStore::open(&store, GroupId(group))?;
            let generation = opened.storage.generation();
            let machine = StateMachine::open(&store, GroupId(group), generation, Limits::default(), CACHE_BYTES)?;
            replicas.push(Replica {
                log: opened.storage,
                machine,
                retained_bytes: opened.log.iter().map(Entry::size).sum(),
                retained: opened.log.into(),
            });
        }
        Ok(Node { store, done, replicas })
    }

    fn fill(&mut self, keys: u64) -> Outcome<()> {
        for n in 0..keys {
            let key = scatter(n, keys);
            let group = (key % self.replicas.len() as u64) as usize;
            self.replicas[group].write(&mut self.store, n, key_of(key))?;
            if n % PER_BATCH == PER_BATCH - 1 {
                self.settle()?;
            }
        }
        self.settle()
    }

    fn settle(&mut self) -> Outcome<()> {
        let Some(id) = self.store.flush(Durability::Synced) else {
            return Ok(());
        };
        self.done.recv()?.result?;
        self.store.persisted(id);
        Ok(())
    }

    /// Times of point reads of keys chosen evenly, sorted.
    fn read(&mut self, keys: u64) -> Outcome<Vec<Duration>> {
        let mut times = Vec::with_capacity(READS as usize);
        for n in 0..READS {
            let number = mix(n) % keys;
            let group = (number % self.replicas.len() as u64) as usize;
            let key = key_of(number);
            let start = SystemClock.now().mono;
            let found = self.replicas[group].machine.get(&self.store, &key)?;
            times.push(SystemClock.now().mono.since(start));
            if found.is_none_or(|v| v.value.len() != VALUE_BYTES) {
                return Err(format!("key {number} is missing").into());
            }
        }
        times.sort_unstable();
        Ok(times)
    }
}

impl Replica {
    fn write(&mut self, store: &mut Store, n: u64, key: Bytes) -> Outcome<()> {
        let number = n / CLIENTS + 1;
        let idempotency = IdempotencyKey {
            client: ClientId(n % CLIENTS + 1),
            sequence: Sequence(number),
            issued_at_ms: 1,
            low_water: Sequence(number.saturating_sub(16)),
        };
        let op = WriteOp {
            key,
            condition: Condition::None,
            mutation: Mutation::Put {
                value: Bytes::from(
                    (0..VALUE_BYTES as u64)
                        .map(|i| mix(n ^ i << 32) as u8)
                        .collect::<Vec<_>>(),
                ),
                ttl: None,
            },
        };
        let entry = Entry {
            position: LogPosition {
                epoch: Epoch(1),
                index: self.log.last().next(),
            },
            time: ReplicatedTime(n / 100),
            payload: Payload::Command(encode_write(Some(&idempotency), &[op])),
        };
        self.log.change(store, &LogChange::Append(vec![entry.clone()]))?;
        self.machine.apply(store, &entry)?;
        self.retained_bytes += entry.size();
        self.retained.push_back(entry);
        self.compact(store)
    }

    fn compact(&mut self, store: &mut Store) -> Outcome<()> {
        if self.retained_bytes < RETAIN_BYTES + RETAIN_BYTES / 4 {
            return Ok(());
        }
        let mut through = LogPosition::default();
        while self.retained_bytes > RETAIN_BYTES {
            let Some(entry) = self.retained.pop_front() else { break };
            self.retained_bytes -= entry.size();
            through = entry.position;
        }
        Ok(self.log.change(store, &LogChange::Compact { through })?)
    }
}

fn key_of(number: u64) -> Bytes {
    Bytes::from(format!("user{number:016}"))
}

/// Every number below `keys` once, out of order.
fn scatter(n: u64, keys: u64) -> u64 {
    const PRIME: u64 = 15_485_863;
    (n % keys * PRIME) % keys
}

/// splitmix64.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Memory of this process: what it has now, and the most it ever had.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or_default() / 1024
    };
    format!("{} MiB now, {} MiB at most", field("VmRSS:"), field("VmHWM:"))
}

#[cfg(unix)]
fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: footprint DIRECTORY KEYS [GROUPS]";
    let path = PathBuf::from(arguments.next().ok_or(usage)?);
    let keys: u64 = arguments.next().ok_or(usage)?.parse()?;
    let groups = arguments.next().map_or(Ok(8), |text| text.parse())?;

    let start = SystemClock.now().mono;
    let mut node = Node::open(&path, groups)?;
    println!(
        "open to serving: {:?}; memory {}",
        SystemClock.now().mono.since(start),
        memory()
    );
    if node.replicas.iter().all(|replica| replica.log.last().0 == 0) {
        let start = SystemClock.now().mono;
        node.fill(keys)?;
        println!(
            "filled with {keys} keys: {:?}; memory {}",
            SystemClock.now().mono.since(start),
            memory()
        );
    }
    for round in 1..=2 {
        let times = node.read(keys)?;
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        println!(
            "reads, round {round}: p50 {:?}, p99 {:?}, p99.9 {:?}; memory {}",
            at(0.5),
            at(0.99),
            at(0.999),
            memory()
        );
    }
    // Without order, as in a crash: the next open replays the journal.
    drop(node);
    #[cfg(unix)]
    println!("on disk: {} MiB", disk_bytes(&path) >> 20);
    Ok(())
}
