//! A shard-node: stores, replicates and serves the replicas of many groups.
//!
//! Reading order: [`storage`] keeps what a node knows, [`state_machine`] gives a group's log its meaning, [`event`] lists all
//! that can happen to a node and all that it asks of the world, [`node`] is what it does in between.

pub mod event;
pub mod node;
pub mod state_machine;
pub mod storage;
