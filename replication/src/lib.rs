//! Replication protocols as pure state machines.
//!
//! A core owns one replica of one group. It is driven by [`Replica::step`]`(now, input) -> effects` and by nothing else:
//! it has no clock, no randomness, no I/O, no thread and no log output, so the same inputs always give the same effects.
//! What it may ask of the world is the closed enum [`Effect`]; all that can happen to it is the closed enum [`Input`].
//! When an effect may run is data: [`Effect::Send`] names the write that must be durable first, so "never acknowledge
//! before it is on disk" can be read and tested.
//!
//! [`primary_backup`] serves the modes `sync` and `async`. Other protocols will be adapters to the same contract.

pub mod contract;
pub mod primary_backup;

pub use contract::*;
