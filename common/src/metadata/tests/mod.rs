//! What any metadata store must do, run against the embedded one in memory and on disk; then what only the one on disk can
//! get wrong; then the typed layer.

mod cluster;
mod conformance;
mod durability;

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

fn absent(key: &str) -> Compare {
    at(key, Revision::ABSENT)
}

fn at(key: &str, mod_revision: Revision) -> Compare {
    Compare {
        key: key.to_owned(),
        mod_revision,
    }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

fn leased(key: &str, lease: LeaseId) -> Op {
    Op::Put {
        key: key.to_owned(),
        value: "x".into(),
        lease: Some(lease),
    }
}

/// Puts a key without condition; its revision.
async fn put(store: &dyn Metadata, key: &str, value: &'static str) -> Revision {
    succeeded(store.txn(vec![], vec![Op::put(key, value)]).await)
}

fn succeeded(outcome: Result<TxnOutcome, MetadataError>) -> Revision {
    match outcome {
        Ok(TxnOutcome::Succeeded { revision }) => revision,
        other => panic!("{other:?}"),
    }
}

async fn next<T>(stream: &mut (impl futures::Stream<Item = T> + Unpin)) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    waited.expect("nothing came in 20 s").expect("the stream has ended")
}
