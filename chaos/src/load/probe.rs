//! Probes: one key of one group, written without a pause, so that the moment is known when a group takes writes again.

use super::{Place, Scribe, Shared, Told, Write};
use fulcrum_client::Keyspace;
use std::sync::Arc;
use std::time::Duration;

/// Between an answer and the next write.
const PAUSE: Duration = Duration::from_millis(15);

/// Probes one group until the load is over.
pub async fn probe(shared: Arc<Shared>, keyspace: Keyspace, place: Place) -> Told {
    let name = format!("probe of {}", place.group);
    let mut scribe = Scribe::new(shared.clone(), keyspace, name);
    while !shared.is_over() {
        scribe.write(&place, Write::Put).await;
        tokio::time::sleep(PAUSE).await;
    }
    scribe.finish()
}
