//! The router: the stateless front door.
//!
//! Life of a request, top to bottom: `service` decodes it and takes its deadline; `dispatch` finds the group by the
//! [view](fulcrum_common::routing::View), sends it to a replica that can serve the level asked, and follows the decision
//! table when it is refused; `proof` holds the receipt of the answer against what was asked; the streams of [`fulcrum_common::routing`] carry it, one long-lived stream a shard-node, in batches.
//! `batch` splits batches by group and joins the answers, `pipeline` serves many operations on one stream, `scan` merges the groups'
//! keys in order, `watch` follows the groups' logs. The view is kept fresh from the metadata store; no request ever waits for metadata. `admin` serves operators, `succession` waits for what they set going, `backup` cuts all groups at one moment and reads the cut.
//!
//! A client that brings no idempotency key gets the router's own for the time of the request (`identity`), so that the
//! router may send a write again after a failover without applying it twice.
//!
//! Left out: caching of values, and any state that a restart would lose.

pub mod config;

pub mod server;

pub mod admin;
mod backup;
pub mod service;

mod batch;
mod certificates;
mod dispatch;
mod joints;
mod order;
mod pipeline;
mod placing;
mod proof;
mod scan;
mod succession;
mod tokens;
mod visible;
mod watch;

mod identity;
mod metrics;

pub use config::RouterConfig;
pub use server::{Router, RunningRouter};
