//! Who can serve nobody without the cluster map waits for etcd before it listens, and says so.

use crate::process::Failure;
use fulcrum_common::{ClusterId, ClusterStore, Metadata, StartError, StoreError};
use fulcrum_metadata_etcd::{EtcdConfig, EtcdMetadata};
use std::sync::Arc;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Waits for the cluster's metadata, and says for what it waits.
///
/// # Errors
/// Metadata that cannot be read, which is no matter of waiting.
pub async fn for_metadata(etcd: EtcdConfig, cluster: ClusterId) -> Result<ClusterStore, Failure> {
    let shown = etcd.shown();
    tracing::info!(%cluster, etcd = %shown, "cluster metadata is in etcd");
    let metadata: Arc<dyn Metadata> = Arc::new(EtcdMetadata::new(etcd).map_err(StartError::from)?);
    let mut pause = FIRST_PAUSE;
    loop {
        match ClusterStore::open(metadata.clone(), cluster.clone()).await {
            Ok(store) => return Ok(store),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_))) => {
                tracing::warn!(etcd = %shown, %error, "waiting for the cluster's metadata");
            }
            Err(error) => return Err(Failure::Service(error.to_string())),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
