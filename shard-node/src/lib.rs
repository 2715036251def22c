//! A shard-node: stores, replicates and serves the replicas of many groups.

pub mod event;
