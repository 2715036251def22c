//! The stand-alone processes `fulcrum-shard-node`, `fulcrum-router` and `fulcrum-coordinator`: the libraries of the same name, over
//! etcd.
//!
//! A process takes its arguments and settings ([`arguments`], [`settings`]), sets up telemetry, starts its service and waits
//! for a signal ([`process`]); [`shard_node`], [`router`] and [`coordinator`] are all that is particular to each; [`founding`] keeps a
//! node's data out of a cluster that only has the same name, `claim` keeps two processes from being one node, [`waiting`] waits for etcd. Nothing of a service lives
//! here: `fulcrum dev` runs the same code in one process.
//!
//! They have a crate of their own so that nothing else has to build a client for etcd: neither the services' libraries, nor
//! `cargo demo`, nor the simulation. One crate for all, since settings, start and stop are the same.
//!
//! How they find each other: a node registers its address and zone in the cluster map, and itself under a lease; routers,
//! coordinators and nodes follow the map. The first process to open a cluster makes its empty map. Nothing names another process but etcd's
//! endpoints.

pub mod arguments;
pub mod settings;

pub mod process;

mod claim;
pub mod coordinator;
pub mod founding;
pub mod router;
pub mod shard_node;
pub mod waiting;
