//! `fulcrum-shard-node`.

use crate::arguments::ShardNodeArguments;
use crate::founding::OwnCluster;
use crate::process::{Failure, Signals, announce, run};
use crate::settings::ShardNodeSettings;
use clap::Parser;
use fulcrum_common::telemetry::TelemetryConfig;
use fulcrum_common::{Metadata, StartError, SystemClock};
use fulcrum_metadata_etcd::EtcdMetadata;
use fulcrum_shard_node::ShardNode;
use std::process::ExitCode;
use std::sync::Arc;

/// Runs the process.
#[must_use]
pub fn main() -> ExitCode {
    let settings = ShardNodeSettings::load(&ShardNodeArguments::parse());
    let settings = settings.map_err(|error| StartError::from(error).into());
    run("fulcrum-shard-node", settings, telemetry, serve)
}

/// A node is called by its number in traces, unless it is to be called otherwise.
fn telemetry(settings: &ShardNodeSettings) -> TelemetryConfig {
    let mut telemetry = settings.telemetry.clone();
    telemetry
        .instance
        .get_or_insert_with(|| settings.shard_node.node().to_string());
    telemetry
}

/// Until it is asked to stop, or cannot go on. A node starts without etcd: it serves its port, waits for the cluster's
/// metadata, and says so.
async fn serve(settings: ShardNodeSettings, mut signals: Signals) -> Result<(), Failure> {
    let shard_node = settings.shard_node();
    let etcd = settings.etcd;
    tracing::info!(cluster = %shard_node.cluster_id, etcd = %etcd.shown(), "cluster metadata is in etcd");
    let etcd: Arc<dyn Metadata> = Arc::new(EtcdMetadata::new(etcd).map_err(StartError::from)?);
    let cluster = shard_node.cluster().map_err(StartError::from)?;
    let metadata = Arc::new(OwnCluster::new(etcd, cluster, shard_node.node(), &shard_node.data_dir));
    let node = ShardNode::start(shard_node, metadata.clone(), Arc::new(SystemClock)).await?;
    announce(&node.node().to_string(), node.local_addr(), node.metrics_addr())?;
    tokio::select! {
        ended = node.ended() => {
            let reason = ended.err().unwrap_or_else(|| "the node ended".to_owned());
            return Err(Failure::Service(reason));
        }
        reason = metadata.refused() => {
            // It has joined nothing, or another one is this node now: what it leads, others take over.
            let _ = node.shutdown().await;
            return Err(Failure::Service(reason));
        }
        () = signals.next() => {}
    }
    signals.while_stopping(node.shutdown()).await?.map_err(Failure::Service)
}
