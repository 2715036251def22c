//! Everything that spans shard groups: transactions, by two-phase commit.
//!
//! **The promise.** Strict serializability over `sync` keyspaces, across keyspaces too, and nothing left in doubt: whatever dies
//! when, locks and intents are gone within 5 s of the moment from which the home group and the participant each have a
//! primary that can commit.
//!
//! **The path.** `service` decodes a call and takes its deadline, `pipeline` many calls of one stream; [`plan()`] turns a client's [`CommitRequest`] into a
//! [`Plan`](fulcrum_two_phase::Plan) by group and refuses what breaks a limit. The pure core in `two_phase/` carries it out:
//! `event_loop` gives it what happened, and `effects` asks the questions that it names, of groups that
//! [`Groups`](fulcrum_common::routing::Groups) finds. `contents` puts the answer together. What is in doubt (`in_doubt`) is asked of all
//! groups, past the core. A router serves all this in its own process; `server` serves it on its own. `docs/transactions.md` has
//! the commands, the states and every crash point.
//!
//! **A coordinator keeps nothing.** What must not be forgotten lies in the groups' logs. A restarted coordinator starts empty;
//! participants whose coordinator fell silent have an abort recorded in the home group, and a home group that finds a
//! commit unresolved tells the participants. A client that asks again, here or at another coordinator, under the same
//! transaction id, finds or finishes what was begun.

mod config;
mod contents;
mod coordinator;
mod effects;
mod event;
mod event_loop;
mod in_doubt;
mod metrics;
mod pipeline;
mod plan;
mod server;
mod service;
#[cfg(test)]
mod tests;
mod traces;

pub use config::CoordinatorConfig;
pub use coordinator::{Bounds, Coordinator};
pub use metrics::Metrics;
pub use plan::plan;
pub use server::RunningCoordinator;
pub use service::TransactionsService;

/// What a plan is made of.
pub use fulcrum_types::{CommitRequest, InKeyspace};
