//! Synthetic load: which operation comes next, and on which key.
//!
//! After the Yahoo! Cloud Serving Benchmark (Cooper et al., 2010): its six core mixes and its three ways to choose a key.
//! Everything is drawn from a seeded generator, so the same seed asks for the same things. Left out: field-wise
//! records; a record here is one value.

mod keys;
mod mix;
mod rng;
mod zipfian;

pub use keys::{Choice, KeyChooser, key_name};
pub use mix::{Mix, Step};
pub use rng::Rng;
pub use zipfian::Zipfian;
