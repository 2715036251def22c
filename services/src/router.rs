//! `fulcrum-router`.

use crate::arguments::RouterArguments;
use crate::process::{Failure, Signals, announce, run};
use crate::settings::RouterSettings;
use clap::Parser;
use fulcrum_common::{ClusterId, ClusterStore, Metadata, StartError, StoreError, SystemClock};
use fulcrum_metadata_etcd::EtcdMetadata;
use fulcrum_router::Router;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Runs the process.
#[must_use]
pub fn main() -> ExitCode {
    let settings = RouterSettings::load(&RouterArguments::parse());
    let settings = settings.map_err(|error| StartError::from(error).into());
    run("fulcrum-router", settings, |settings| &settings.telemetry, serve)
}

/// Until it is asked to stop. Without the cluster map a router can serve nobody: it waits for etcd before it listens.
async fn serve(settings: RouterSettings, mut signals: Signals) -> Result<(), Failure> {
    let cluster = settings.cluster().map_err(StartError::from)?;
    let shown = settings.etcd.shown();
    tracing::info!(%cluster, etcd = %shown, "cluster metadata is in etcd");
    let metadata: Arc<dyn Metadata> = Arc::new(EtcdMetadata::new(settings.etcd).map_err(StartError::from)?);
    let store = tokio::select! {
        store = open(metadata, cluster, &shown) => store?,
        () = signals.next() => return Ok(()),
    };
    let router = Router::start(settings.router, store, Arc::new(SystemClock)).await?;
    announce("router", router.address(), router.metrics_address())?;
    signals.next().await;
    // It joins a thread, and calls under way may still need this one for etcd.
    let stopping = tokio::task::spawn_blocking(move || router.shutdown());
    let stopped = signals.while_stopping(stopping).await?;
    stopped.map_err(|error| Failure::Service(format!("the router did not stop in good order: {error}")))
}

/// Waits for the cluster's metadata, and says for what it waits. Metadata that cannot be read is no matter of waiting.
async fn open(metadata: Arc<dyn Metadata>, cluster: ClusterId, etcd: &str) -> Result<ClusterStore, Failure> {
    let mut pause = FIRST_PAUSE;
    loop {
        match ClusterStore::open(metadata.clone(), cluster.clone()).await {
            Ok(store) => return Ok(store),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_))) => {
                tracing::warn!(%etcd, %error, "waiting for the cluster's metadata");
            }
            Err(error) => return Err(Failure::Service(error.to_string())),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
