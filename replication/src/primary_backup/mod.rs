//! Primary/backup after PacificA, with Kafka's in-sync set: the modes `sync` and `async`.
//!
//! # The promise
//! `sync`: what was acknowledged is durable on every member of the in-sync set and survives as long as one of them does; reads by
//! lease or confirming round are linearizable. `async`: what was acknowledged is durable on the primary; a failover
//! may lose the tail that no other member had, and then says what (see `certificate`). Both: one primary an
//! epoch, an epoch for one life of it, and two primaries never serve or acknowledge at once, as long as clocks keep within the drift bound.
//!
//! # The protocol
//! The group's configuration `{version, epoch, primary, in_sync, replicas}` lives in the metadata store and changes only by
//! compare-and-swap on its version. It decides every race; replicas never vote.
//!
//! 1. *Normal case* (PacificA section 2.2). The primary gives each entry its (epoch, index), appends, sends and persists in
//!    parallel. A backup matches the entry before, appends, persists, acknowledges what it has durably matched in this epoch.
//!    `sync` commits what all members hold, `async` what the primary holds.
//! 2. *A backup falls silent or lags.* The primary removes it by compare-and-swap, and commits past it only then (rule 2).
//!    It catches up as a learner, by log or by snapshot, and is added once it holds all committed.
//! 3. *The primary falls silent.* Heartbeats carry its clock; who echoes one promises not to take over for `grace`. The lease
//!    ends before the promises do. A member whose promises are over compare-and-swaps itself to primary of the next epoch, marks that epoch
//!    as led, orders a no-op, re-replicates its log, and serves once that is committed (rule 3).
//! 4. *Histories meet.* Truncation is by epoch and index, not by a high-water mark (Kafka KIP-101): an old primary's
//!    suffix goes when the new primary's log contradicts it. A replica that may have lost what it acknowledged comes
//!    back with a new data id and is nobody's member (rule 5; Kafka KIP-966 has the same in its eligible leader replicas).
//!
//! # Messages
//! | message | from, to | says |
//! | --- | --- | --- |
//! | `Append` | primary, all | entries behind `previous`; commit index; a beat: clock, round, echo of the backup's clock |
//! | `Acknowledge` | backup, primary | durable and matched in this epoch; echo (the promise); own clock |
//! | `Mismatch` | backup, primary | `previous` is not in my log; try there |
//! | `Stale` | anyone, who is behind | my configuration is newer: here it is |
//! | `Snapshot`, `SnapshotProgress` | primary, learner and back | a part; parts held |
//! | `Probe`, `ProbeReply` | between replicas without a primary | how far are you, what data have you, would you stand? |
//! | `History` | primary, who was replaced | the epochs that go on: of what you led, what is not in them? |
//! | `TakeOver` | primary, its successor | my lease is given up, you hold everything: go (rule 7) |
//!
//! Messages may be lost, doubled, reordered and late. Each carries epoch, configuration version, boot id and data id of its
//! sender (rule 4); a message of an older epoch is answered with the newer configuration and has no other effect.
//!
//! # The files
//! `core` holds the fields and the dispatch; `primary`, `replicate`, `progress`, `membership`, `hand_over` are the primary;
//! `backup`, `candidate`, `pauses`, `staleness` the others; `replicated_time` and `wall` keep the group's time; `lease` and `reads` say who may answer; `certificate` and
//! `snapshot` how histories are replaced; `log`, `durability`, `changes` keep what is retained, durable and proposed; `invariants`
//! is run after every step in tests; `planted` breaks things on purpose.
//!
//! # What is left out, and what it costs
//! - No votes and no quorum: without the metadata store a group that has to change its configuration waits.
//! - A member that stalls without falling silent holds up `sync` commits for `lag_after`.
//! - A primary that is cut off from its peers but not from the metadata store keeps the group to itself if `min_in_sync` allows.
//! - Entries are kept in memory as far as the log is retained; who lags more needs a snapshot.
//! - Witnesses, chain replication, reads at backups by lease.

#[macro_use]
pub mod planted;

mod backup;
mod body;
mod candidate;
mod certificate;
mod changes;
mod core;
mod durability;
mod hand_over;
mod invariants;
mod lease;
mod log;
mod membership;
mod pauses;
mod primary;
mod progress;
mod reads;
mod replicate;
mod replicated_time;
mod snapshot;
mod staleness;
mod wall;

pub use body::{Beat, Body};
pub use core::PrimaryBackup;
