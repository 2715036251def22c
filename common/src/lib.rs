//! What every service shares: a short list of nouns and start-up helpers.
//!
//! Reading order: [`limits`] and [`key`] say what a key is and which slot it falls into; [`ring`] proposes which group takes a slot,
//! and `fulcrum-placement` which nodes hold a group; [`keyspace`] and [`map`] are what is in force. [`metadata`] keeps
//! it, behind a trait that etcd fits. [`routing`] decides where a request goes and when it may go again. [`wire`] is the only
//! module that knows protocol buffers. [`clock`] and [`entropy`] are the only places where real time and chance come in.
//! [`tickets`] and [`budget`] hold what is under way; [`few_lines`] keeps the log short.
//! [`auth`] says who may do what, [`audit`] writes down what operators did.
//! [`tls`] encrypts connections, both ways.
//! [`error`], [`config`], [`telemetry`], [`lifecycle`] and [`metrics`] with its [`metrics_server`] are what a service needs to start and to stop.

pub mod limits;

pub mod failover_budget;
pub mod key;
pub mod keyspace;
pub mod map;
pub mod ring;

pub mod budget;
pub mod clock;
pub mod entropy;
pub mod few_lines;
pub mod tickets;

pub mod audit;
pub mod auth;

pub mod config;
pub mod door;
pub mod error;
pub mod lifecycle;
pub mod metrics;
pub mod metrics_server;
pub mod secret_files;
pub mod sockets;
pub mod telemetry;
pub mod tls;
pub mod trace;

pub mod metadata;
pub mod routing;
pub mod wire;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::StartError;
pub use key::{Partitioning, slot_of};
pub use keyspace::{Keyspace, KeyspaceOptions, KeyspaceSpec, OptionsError, Timing};
pub use map::{ClusterId, ClusterMap, Group, MapError, NodeInfo, SlotTable};
pub use metadata::{CasResult, ClusterEvent, ClusterStore, EmbeddedMetadata, Metadata, StoreError};
