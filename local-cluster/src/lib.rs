//! A whole cluster in one process: the real services, each on threads of its own, around one embedded metadata store.
//!
//! `fulcrum dev` and `fulcrum demo` run on it, and so do tests. Nothing is simulated: clients, router and shard-nodes talk
//! gRPC over loopback, every node has its own directory and its own journal, and a node that is crashed loses what it had
//! not synced.
//!
//! A data directory holds `metadata/` and `node-1/`, `node-2/` ...; it survives restarts and SIGKILL, is locked while it is
//! in use, and is refused if another release or another cluster wrote it. Ports may differ from start to start: nodes
//! register where they are, and routers follow the map. Left out: more than one router, and nodes in other processes.

mod cluster;
mod options;

pub use cluster::LocalCluster;
pub use options::{LocalClusterOptions, MetricsPorts};
