//! Primary/backup after PacificA, with Kafka's in-sync set: the modes `sync` and `async`.

mod body;

pub use body::{Beat, Body};
