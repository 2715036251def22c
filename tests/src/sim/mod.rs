//! Deterministic simulation of whole shard-nodes.
//!
//! **The promise.** One seed decides everything: topology, limits, clocks, load, faults and the order of events. The same
//! seed gives the same trace hash, so what a seed finds can be replayed with its trace ([`run::run`]).
//!
//! **What is real.** The shipped node with its protocol core, state machine and storage layer, over the memory twin of the
//! disk. **What is modelled**: time ([`time`]), the network ([`network`]), disks ([`host`]), the metadata store
//! ([`metadata`]), clients ([`client`], [`watcher`]) and misfortune ([`faults`], `nemesis`).
//!
//! **How a run goes** ([`run`]). In the safety phase faults strike at random; invariants are watched at every turn. Then
//! everything heals, and progress is due within a stated time: every replica in sync, a read and a write of every key.
//! At last the checkers judge what clients were told and what the disks hold ([`judge`]).
//!
//! **What is left out.** Sockets, the wire format, threads and the real disk: the end-to-end tests have those.

pub mod network;
pub mod queue;
pub mod rng;
pub mod time;

pub mod client;
pub mod faults;
pub mod host;
pub mod joints;
pub mod metadata;
pub mod plan;
pub mod record;
pub mod watcher;

pub mod transactions;
pub mod world;

mod cluster;
mod fleeting;
mod nemesis;
mod nodes;
mod requests;
mod swaps;

pub mod inspect;
pub mod judge;
pub mod pool;
pub mod run;
