//! `fulcrum-coordinator`.

use crate::arguments::CoordinatorArguments;
use crate::process::{Failure, Signals, announce, run};
use crate::settings::CoordinatorSettings;
use crate::waiting;
use clap::Parser;
use fulcrum_common::{StartError, SystemClock};
use fulcrum_coordinator::RunningCoordinator;
use std::process::ExitCode;
use std::sync::Arc;

/// Runs the process.
#[must_use]
pub fn main() -> ExitCode {
    let settings = CoordinatorSettings::load(&CoordinatorArguments::parse());
    let settings = settings.map_err(|error| StartError::from(error).into());
    run(
        "fulcrum-coordinator",
        settings,
        |settings| settings.telemetry.clone(),
        serve,
    )
}

/// Until it is asked to stop.
async fn serve(settings: CoordinatorSettings, mut signals: Signals) -> Result<(), Failure> {
    let cluster = settings.cluster().map_err(StartError::from)?;
    let coordinator = settings.coordinator();
    let store = tokio::select! {
        store = waiting::for_metadata(settings.etcd, cluster, coordinator.metrics_listen, &coordinator.tls) => store?,
        () = signals.next() => return Ok(()),
    };
    let coordinator = RunningCoordinator::start(coordinator, store, Arc::new(SystemClock)).await?;
    announce("coordinator", coordinator.address(), coordinator.metrics_address())?;
    signals.next().await;
    // It joins a thread, and calls under way may still need this one for etcd.
    let stopping = tokio::task::spawn_blocking(move || coordinator.shutdown());
    let stopped = signals.while_stopping(stopping).await?;
    stopped.map_err(|error| Failure::Service(format!("the coordinator did not stop in good order: {error}")))
}
