//! What every service shares.

pub mod wire;
