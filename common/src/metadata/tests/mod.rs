//! What any metadata store must do, run against the embedded one in memory and on disk; then what only the one on disk can
//! get wrong; then the typed layer.

mod cluster;
mod durability;
mod embedded;
mod placing;
mod tokens;

use super::conformance::{delete, leased, next, put, succeeded};
use super::*;
use crate::clock::ManualClock;
use crate::map::ClusterId;
use futures::StreamExt;
use std::path::Path;
use std::sync::Arc;

fn cluster_id() -> ClusterId {
    ClusterId::new("test").unwrap()
}

fn open(directory: &Path, clock: &Arc<ManualClock>) -> EmbeddedMetadata {
    EmbeddedMetadata::open(directory, Some(&cluster_id()), clock.clone()).unwrap()
}
