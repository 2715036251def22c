//! `fulcrum-router`.

use crate::arguments::RouterArguments;
use crate::process::{Failure, Signals, announce, run};
use crate::settings::RouterSettings;
use crate::waiting;
use clap::Parser;
use fulcrum_common::{StartError, SystemClock};
use fulcrum_router::Router;
use std::process::ExitCode;
use std::sync::Arc;

/// Runs the process.
#[must_use]
pub fn main() -> ExitCode {
    let settings = RouterSettings::load(&RouterArguments::parse());
    let settings = settings.map_err(|error| StartError::from(error).into());
    run("fulcrum-router", settings, |settings| settings.telemetry.clone(), serve)
}

/// Until it is asked to stop.
async fn serve(settings: RouterSettings, mut signals: Signals) -> Result<(), Failure> {
    let cluster = settings.cluster().map_err(StartError::from)?;
    let router = settings.router();
    let store = tokio::select! {
        store = waiting::for_metadata(settings.etcd, cluster, router.metrics_listen, &router.tls) => store?,
        () = signals.next() => return Ok(()),
    };
    let router = Router::start(router, store, Arc::new(SystemClock)).await?;
    announce("router", router.address(), router.metrics_address())?;
    signals.next().await;
    // It joins a thread, and calls under way may still need this one for etcd.
    let stopping = tokio::task::spawn_blocking(move || router.shutdown());
    let stopped = signals.while_stopping(stopping).await?;
    stopped.map_err(|error| Failure::Service(format!("the router did not stop in good order: {error}")))
}
