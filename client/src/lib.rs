//! The Rust client of Fulcrum.
//!
//! [`Client::connect`] talks to routers; [`Client::connect_smart`] knows the cluster map and goes straight to the
//! shard-nodes. A [`Keyspace`] makes requests, which are sent by awaiting them; every answer carries a [`Receipt`] that
//! says what was got and what it cost. A [`Session`] keeps what was seen, so that no replica shows anything older. A
//! [`Pipeline`] carries many small requests on one stream; a [`Watch`] tells what changes. [`Client::transaction`] reads and writes
//! many keys at one moment, or not at all. [`Admin`] is for operators, and so is a [`Cut`], of which backups are made.
//!
//! ```no_run
//! use fulcrum_client::{Client, Condition, Config, Level, Session};
//!
//! # async fn example() -> Result<(), fulcrum_client::Error> {
//! let client = Client::connect(Config::new("http://127.0.0.1:7400")).await?;
//! let session = Session::new();
//! let carts = client.keyspace("carts").in_session(&session);
//!
//! let written = carts.put("cart:7", "apples").only_if(Condition::Absent).await?;
//! let version = written.version().unwrap();
//! // Any replica may answer, but none that has not seen the write:
//! let got = carts.get("cart:7").at(Level::Session).await?;
//! assert_eq!(got.value.unwrap().version, version);
//! let won = carts.compare_and_set("cart:7", version, "apples, pears").await?.applied();
//! # Ok(()) }
//! ```
//!
//! How a request travels, top to bottom: `keyspace` builds it, `client` sends it by the shortest way and repeats it
//! as the decision table in `retry` says, under an idempotency key from `identity` if it writes; `routers` and
//! `smart` choose the connection (`transport`), `rpc` holds the methods, `calls` the stream that transactions share, `pages` the streams of scans and cuts, `answer` what comes back. A write is never
//! applied twice, and an [`Error`] says who must act: only [`Error::Unknown`] leaves a doubt, and [`Client::outcome`]
//! settles it.
//!
//! Left out: caching of values.

mod keyspace;
mod pages;
mod pipeline;
mod scan;
mod transaction;
mod watch;

mod backoff;
mod calls;
mod client;
mod identity;
mod retry;

mod routers;
mod rpc;
mod smart;
mod transport;

mod answer;
mod session;

mod admin;
mod backup;
mod config;
#[cfg(feature = "tracing-opentelemetry")]
mod current_span;
mod error;
mod placement;
mod token;
mod tokens;

pub use admin::{
    Admin, Certificate, ClusterStatus, FailoverReport, GroupStatus, KeyspaceInfo, Led, LostEntry, NodeStatus,
    ReplicaStatus,
};
pub use answer::{Got, GotMany, Outcome, Written, WrittenMany};
pub use backup::{Cut, CutGroup, CutPages};
pub use client::Client;
pub use config::{Config, Tls};
#[cfg(feature = "tracing-opentelemetry")]
pub use current_span::current_span;
pub use error::{Error, UnfinishedWrite};
pub use keyspace::{BatchGet, BatchWrite, Get, IntoBytes, Keyspace, Write};
pub use pipeline::{Pending, Pipeline};
pub use placement::{Draining, PlacementChange, PlacementSettings, PlacementStatus};
pub use scan::{Page, Range, Row, Scan};
pub use session::{NotASession, Session};
pub use token::Token;
pub use tokens::{NewToken, TokenInfo};
pub use transaction::{
    Commit, ConditionFailed, Put, Snapshot, Took, Transacted, Transaction, TransactionLookUp, Transactions,
    UnfinishedTransaction,
};
pub use watch::{Progress, Watch, WatchEvent, WatchEvents};

pub use fulcrum_common::auth::{Grant, Scope};
pub use fulcrum_common::keyspace::{KeyspaceOptions, KeyspaceSpec, Timing};
pub use fulcrum_types::{
    AbortCause, Act, Change, ChangeKind, CommittedPart, Condition, Fsync, GroupId, IdempotencyKey, InDoubt, Level,
    ListInDoubt, Mode, Mutation, NodeId, Pending as PendingTransaction, Receipt, Refusal, Right, Role, SessionToken,
    StalenessBasis, TraceContext, TransactionId, TransactionInfo, TransactionOutcome, Version, Versioned,
    WatchPosition, WatchToken, WriteOp, WriteOutcome,
};

/// Keeps the examples of the documents compiling.
#[cfg(doctest)]
#[doc = include_str!("../../docs/transactions.md")]
struct Documents;
