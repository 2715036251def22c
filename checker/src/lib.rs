//! Histories of client operations, and the properties that they must have.
//!
//! The simulator, `fulcrum demo` and the end-to-end tests write down what their clients asked and were told
//! ([`history`]); afterwards each checker judges one property. Checkers believe clients, never the store: what a
//! receipt claims is compared with what other clients saw. "Could not decide" is an answer of its own and no pass.
//!
//! | module | property | source |
//! | --- | --- | --- |
//! | [`linearizability`] | each key behaves as one register with growing versions | Herlihy & Wing 1990; Lowe 2017 |
//! | [`sessions`] | the four session guarantees hold for each client | Terry et al. 1994; DESIGN section 6, rule 8 |
//! | [`staleness`] | no read is staler than its receipt says | DESIGN section 6, rule 9 |
//! | [`durability`] | acknowledged writes survive, or a loss certificate names them | DESIGN section 5, `async` |
//! | [`epochs`] | one primary an epoch, and fencing: positions grow along real time | DESIGN section 5, rules 3 and 4 |
//! | [`receipts`] | no receipt claims more than happened | DESIGN sections 5 and 6, rules 5 and 6 |
//! | [`serializability`] | transactions have a serial order that real time allows | Adya 1999; Kingsbury & Alvaro 2020 |
//! | [`bank`] | transfers happen wholly, once, and the total holds | Jepsen's bank; DESIGN section 7 |
//! | [`convergence`] | replicas that applied the same entries hold the same data | DESIGN section 8 |
//!
//! A [`History`] covers one keyspace; what transactions did, over all keyspaces, is a [`TransactionHistory`] of its own.
//! Left out: expiry by TTL (a key that vanishes by itself looks like a lost write).
//!
//! ```
//! use fulcrum_checker::{Call, ClientLog, History, Outcome, Seen, ValueId, linearizability};
//! use fulcrum_types::{ClientId, Index, Level};
//!
//! let (mut writer, mut reader) = (ClientLog::new(ClientId(1)), ClientLog::new(ClientId(2)));
//! let put = writer.begin(100, "key".into(), Call::Put(ValueId::of(b"value")));
//! let get = reader.begin(120, "key".into(), Call::Get(Level::Linearizable));
//! writer.end(put, 150, Outcome::Written { version: Some(Index(7)) }, None);
//! reader.end(get, 160, Outcome::Read(Seen::Absent), None);
//!
//! let history = History::merge([writer, reader]);
//! assert_eq!(linearizability::check(&history).verdict(), linearizability::Verdict::Linearizable);
//! ```

pub mod history;
pub mod transactions;
pub mod violation;

pub mod bank;
pub mod convergence;
pub mod durability;
pub mod epochs;
pub mod linearizability;
pub mod receipts;
pub mod serializability;
pub mod sessions;
pub mod staleness;

mod removals;
mod survival;

pub use history::{Call, ClientLog, Condition, Facts, History, Operation, Outcome, Seen, ValueId};
pub use survival::SurvivingLog;
pub use transactions::{
    Element, Step, Transaction, TransactionHistory, TransactionKey, TransactionLog, TransactionOutcome,
    TransactionTicket,
};
pub use violation::Violation;

#[cfg(test)]
mod testing;
