//! Keeps a view fresh from the metadata store. With the store down the view just ages; shard-nodes' redirects mend it.

use super::RoutingTable;
use crate::auth::Guard;
use crate::metadata::{ClusterEvent, ClusterStore};
use fulcrum_types::MapVersion;
use futures::StreamExt;
use std::sync::Arc;

/// Follows the store for ever; `newer` hears of every map, and the guard of every change of the tokens.
pub async fn follow(
    store: ClusterStore,
    table: Arc<RoutingTable>,
    guard: Option<Arc<Guard>>,
    newer: impl Fn(MapVersion) + Send,
) {
    let mut events = store.watch();
    while let Some(event) = events.next().await {
        match event {
            ClusterEvent::Map(map) => {
                newer(map.version());
                table.set_map(map);
            }
            ClusterEvent::Configuration(group, configuration) => table.set_configuration(group, &configuration),
            ClusterEvent::Tokens { table, asked } => {
                if let Some(guard) = &guard {
                    guard.hear(&table, asked);
                }
            }
            ClusterEvent::TokensUnreadable { error, revision, asked } => {
                if let Some(guard) = &guard {
                    guard.cannot_read(&error, revision, asked);
                }
            }
        }
    }
}
