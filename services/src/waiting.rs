//! Who can serve nobody without the cluster map waits for etcd before it listens, and says so: in its log, and where probes look
//! if it is to be probed. It is alive meanwhile, and not ready.

use crate::process::Failure;
use fulcrum_common::metrics::Metrics;
use fulcrum_common::metrics_server::{MetricsServer, Readiness};
use fulcrum_common::tls::{Tls, TlsConfig};
use fulcrum_common::{ClusterId, ClusterStore, Metadata, StartError, StoreError};
use fulcrum_metadata_etcd::{EtcdConfig, EtcdMetadata};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Waits for the cluster's metadata, and says for what it waits; at `probed`, too, until it returns.
///
/// # Errors
/// Metadata that cannot be read, which is no matter of waiting, a port that cannot be had, or certificates that cannot be used.
pub async fn for_metadata(
    etcd: EtcdConfig,
    cluster: ClusterId,
    probed: Option<SocketAddr>,
    tls: &TlsConfig,
) -> Result<ClusterStore, Failure> {
    // What would keep it from serving afterwards is told before.
    let metrics = Metrics::new();
    let tls = Tls::open(tls, &metrics).map_err(StartError::from)?;
    let shown = etcd.shown();
    tracing::info!(%cluster, etcd = %shown, "cluster metadata is in etcd");
    let metadata: Arc<dyn Metadata> = Arc::new(EtcdMetadata::new(etcd).map_err(StartError::from)?);
    let reason = Arc::new(Mutex::new(format!(
        "waiting for the cluster's metadata in etcd at {shown}"
    )));
    let (scraped, ready) = (metrics.registry().clone(), not_ready(reason.clone()));
    let server = MetricsServer::start_if(probed, tls.as_ref(), scraped, ready).await?;
    let mut pause = FIRST_PAUSE;
    let store = loop {
        match ClusterStore::open(metadata.clone(), cluster.clone()).await {
            Ok(store) => break store,
            Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_))) => {
                tracing::warn!(etcd = %shown, %error, "waiting for the cluster's metadata");
                *reason.lock().unwrap_or_else(PoisonError::into_inner) =
                    format!("waiting for the cluster's metadata in etcd at {shown}: {error}");
            }
            Err(error) => return Err(Failure::Service(error.to_string())),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    };
    if let Some(server) = server {
        server.stop().await;
    }
    Ok(store)
}

fn not_ready(reason: Arc<Mutex<String>>) -> Readiness {
    Arc::new(move || Err(reason.lock().unwrap_or_else(PoisonError::into_inner).clone()))
}
