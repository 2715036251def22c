//! The nouns of Fulcrum, with nothing behind them: no I/O, no clock, no async, no wire format.
//!
//! Every crate speaks in these words; the protocol cores depend on nothing else. Reading order: [`ids`] names things,
//! [`time`] says what a core may know of time, [`mode`] holds the choices of a keyspace and of a request,
//! [`configuration`] is a group's membership as the metadata store holds it, [`entry`] is one position of a group's log,
//! [`certificate`] says whose loss a failover has to account for,
//! [`operation`], [`transaction`] and [`error`] are what clients ask and why they may be refused, [`receipt`] and [`session`] what they are told
//! and carry back, [`watch`] what a watch asks and is told, [`transaction_request`] what transactions are to clients, who know no groups.

pub mod ids;
pub mod time;

pub mod certificate;
pub mod configuration;
pub mod cut;
pub mod entry;
pub mod error;
pub mod mode;
pub mod operation;
pub mod receipt;
pub mod right;
pub mod session;
pub mod trace;
pub mod transaction;
pub mod transaction_request;
pub mod watch;

pub use certificate::Accounts;
pub use configuration::{GroupConfiguration, Member};
pub use cut::{Cut, CutAnswer, CutId, CutIntent, CutOperation, CutPage, CutPoint, CutStep, CutVerdict};
pub use entry::{Entry, LogPosition, Payload};
pub use error::{Act, Refusal};
pub use ids::*;
pub use mode::{Fsync, Level, Mode};
pub use operation::{
    Answer, Answered, ChangesQuery, Condition, GroupRequest, IdempotencyKey, JoinedWrite, Mutation, Operation, Query,
    ReadRequest, RecordedOutcome, Version, Versioned, WriteOp, WriteOutcome,
};
pub use receipt::{Receipt, Role, StalenessBasis};
pub use right::Right;
pub use session::SessionToken;
pub use time::{Mono, Now, ReplicatedTime};
pub use trace::TraceContext;
pub use transaction::{
    AbortCause, CommittedPart, Decide, Decision, Fingerprint, IntentSeen, KeyCondition, KeyWrite, Observations,
    Observed, Part, Participant, Pending, PrepareRequest, Priority, ReadCheck, Resolution, Resolved, Transact,
    TransactionAnswer, TransactionId, TransactionInfo, TransactionOperation, TransactionState, Validation, Verdict,
    Vote,
};
pub use transaction_request::{
    Checked, CommitOutcome, CommitRequest, Committed, InDoubt, InKeyspace, ListInDoubt, NamedKey, OutcomeRequest,
    ResolveRequest, Told, TransactionOutcome, TransactionRead, TransactionValues,
};
pub use watch::{Change, ChangeKind, Cursor, NotAToken, Selection, WatchPosition, WatchToken};
