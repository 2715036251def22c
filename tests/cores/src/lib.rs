//! What the tests of protocol cores have in common: [golden stories](golden), and [chance](Rng) from a seed.
//!
//! Nothing here knows a core. It is a dev-dependency of the cores, so it depends on nothing.

pub mod golden;
mod rng;

pub use rng::Rng;
