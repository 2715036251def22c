//! `cargo xtask chaos`: faults in a cluster of real processes, with histories that are judged.
//!
//! A run gets keyspaces of its own in a cluster of processes around an etcd ([`cluster`]); clients ask all the time and write down what
//! they are told ([`load`]); faults come in their time ([`scenario`], [`faults`]), each seen to be there and seen to be gone; when all has healed the
//! histories are judged ([`judge`]) by the same checkers as in simulation, and what was counted ([`measure`]) is held against the
//! scenario's bars. [`campaign`] does run after run; [`report`] tells.
//!
//! What simulation has and this has not: every schedule again by its seed. What this has and simulation has not: the kernel's
//! network, real disks, real processes and their end, etcd, the wire.
//!
//! Left out: machines that lose power (no fsync is taken back), more than one etcd member, clocks at different rates.

pub mod args;
pub mod campaign;
pub mod cluster;
pub mod report;
pub mod run;
pub mod site;

pub mod scenario;
pub mod schedule;

pub mod backend;
pub mod faults;

pub mod judge;
pub mod load;
pub mod measure;
