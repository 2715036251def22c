//! Primary/backup after PacificA, with Kafka's in-sync set: the modes `sync` and `async`.

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
mod primary;
mod progress;
mod reads;
mod replicate;
mod snapshot;
mod staleness;
mod wall;

pub use body::{Beat, Body};
pub use core::PrimaryBackup;
