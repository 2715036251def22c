//! Verification of whole shard-nodes: deterministic simulation ([`sim`]), properties watched while it runs ([`invariants`]),
//! and bugs planted to prove that it finds them ([`planted`]).
//!
//! `cargo xtask sim` runs seeds, `cargo xtask mutants` the planted bugs.

pub mod invariants;
pub mod planted;
pub mod sim;
