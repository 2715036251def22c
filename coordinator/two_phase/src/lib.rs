//! Two-phase commit as a pure state machine: what a coordinator decides, with nothing of the world in it.
//!
//! **The promise.** A client is told "committed" only once the commit is recorded in the home group; it is told "aborted" only
//! once this attempt can never commit: the abort is recorded there, or a participant has marked the attempt as refused. All
//! else is UNKNOWN. What the coordinator forgets when it dies is finished by the groups themselves.
//!
//! **The protocol.** A core is driven by [`Coordinate::step`]`(now, input) -> effects` and by nothing else. A [`Plan`] of
//! several parts is prepared at all of them at once but at the home group; when every vote is yes the home group is asked, with the votes:
//! its yes is the commit. The client is answered, and the other participants are told (DESIGN section 7). A plan of one part is one question. A plan
//! without writes is validated. Every question may be asked again: groups recognise a repetition by the transaction's id.
//!
//! Whether a vote is durable is not this core's business: a group answers only what is committed and applied in its log.
//!
//! **The files.** `core` holds the fields and the dispatch. `transaction` is what is known of one; `votes` is its first phase,
//! `home` its second, `tell` what comes after. `reads` are read-only transactions, `look_up` is for those who ask later. `timers` is
//! the one queue by time, `cut` is how backups get one moment of all groups, `invariants` is run after every step in debug builds, `planted` breaks things on purpose.
//!
//! **Left out.** Which group owns a key (a plan says), which node leads a group (the runner's routing knows), durable state of
//! its own (there is none), one-round commits across groups.

#[macro_use]
pub mod planted;

pub mod contract;
mod core;
pub mod cut;
mod home;
mod invariants;
mod look_up;
mod reads;
mod tell;
mod timers;
mod transaction;
mod votes;

pub use contract::*;
pub use core::TwoPhase;
