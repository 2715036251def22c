//! The nouns of Fulcrum, with nothing behind them: no I/O, no clock, no async, no wire format.
//!
//! Every crate speaks in these words; the protocol cores depend on nothing else. Reading order: [`ids`] names things,
//! [`time`] says what a core may know of time, [`mode`] holds the choices of a keyspace and of a request,
//! [`configuration`] is a group's membership as the metadata store holds it, [`entry`] is one position of a group's log,
//! [`receipt`] and [`session`] are what a client is told and what it carries back.

pub mod ids;
pub mod time;

pub mod configuration;
pub mod entry;
pub mod mode;
pub mod receipt;
pub mod session;

pub use configuration::{GroupConfiguration, Member};
pub use entry::{Entry, LogPosition, Payload};
pub use ids::*;
pub use mode::{Fsync, Level, Mode};
pub use receipt::{Receipt, Role, StalenessBasis};
pub use session::SessionToken;
pub use time::{Mono, Now, ReplicatedTime};
