//! A shard-node: stores, replicates and serves the replicas of many groups.
//!
//! Reading order: [`storage`] keeps what a node knows, [`state_machine`] gives a group's log its meaning.

pub mod event;
pub mod state_machine;
pub mod storage;
