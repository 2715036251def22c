//! Keeps the view fresh from the metadata store. With the store down the view just ages; shard-nodes' redirects mend it.

use fulcrum_common::metadata::{ClusterEvent, ClusterStore};
use fulcrum_common::routing::RoutingTable;
use futures::StreamExt;
use prometheus::IntGauge;
use std::sync::Arc;

pub(crate) async fn watch(store: ClusterStore, table: Arc<RoutingTable>, map_version: IntGauge) {
    let mut events = store.watch();
    while let Some(event) = events.next().await {
        match event {
            ClusterEvent::Map(map) => {
                map_version.set(i64::try_from(map.version().0).unwrap_or(i64::MAX));
                table.set_map(map);
            }
            ClusterEvent::Configuration(group, configuration) => table.set_configuration(group, &configuration),
        }
    }
}
