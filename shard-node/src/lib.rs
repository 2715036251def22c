//! A shard-node: stores, replicates and serves the replicas of many groups.
//!
//! Reading order: [`storage`] keeps what a node knows, [`state_machine`] gives a group's log its meaning, [`event`] lists all
//! that can happen to a node and all that it asks of the world, [`node`] is what it does in between. Around it is the shell:
//! the services and the transport put events into the `inbox`, the `event_loop` steps the node through them, `effects` runs
//! what comes out, and [`server`] starts and stops it all. Beside it `placement` acts for the whole cluster, on one node at a time.

pub mod event;
pub mod node;
pub mod state_machine;
pub mod storage;

mod inbox;

mod cluster;
mod disk;
mod effects;
mod event_loop;
mod failpoints;
mod life;
mod listen;
mod metrics;
mod placement;
mod service;
mod traces;
mod transport;

pub mod config;
pub mod server;

pub use config::ShardNodeConfig;
pub use server::{RunningShardNode, ShardNode};
pub use transport::Network;
