//! The commands, one verb a file.

pub mod bench;
pub mod budget;
pub mod cert;
pub mod completions;
pub mod dev;
pub mod failover;
pub mod keyspace;
pub mod node;
pub mod placement;
pub mod replay;
pub mod status;
pub mod token;

pub mod cas;
pub mod delete;
pub mod get;
pub mod outcome;
pub mod put;
pub mod scan;
pub mod txn;
pub mod watch;

pub mod backup;
pub mod export;
pub mod import;

mod written;
