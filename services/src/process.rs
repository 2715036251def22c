//! What every process does around its service: settings, telemetry, one runtime, signals, exit codes.

use fulcrum_common::StartError;
use fulcrum_common::telemetry::{self, TelemetryConfig};
use std::fmt;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why a process ends other than by being asked to.
#[derive(Debug)]
pub enum Failure {
    /// Arguments or settings make no sense: exit code 2.
    Settings(String),
    /// It cannot start or go on: exit code 1.
    Service(String),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(_) => Failure::Settings(error.to_string()),
            other => Failure::Service(other.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Settings(reason) | Failure::Service(reason) => f.write_str(reason),
        }
    }
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Settings(_) => ExitCode::from(2),
            Failure::Service(_) => ExitCode::FAILURE,
        }
    }
}

/// Runs a service to its end: sets up telemetry, waits with it for what it needs, and tells how it ended.
///
/// One thread here is enough: services have threads of their own, and what is left is etcd.
pub fn run<S, F>(
    name: &'static str,
    settings: Result<S, Failure>,
    telemetry: fn(&S) -> TelemetryConfig,
    serve: fn(S, Signals) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), Failure>>,
{
    let ended = settings.and_then(|settings| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Service(format!("cannot make a runtime: {error}")))?;
        let ended = runtime.block_on(async {
            let guard = telemetry::init(name, &telemetry(&settings))?;
            let ended = serve(settings, Signals::listen()?).await;
            if let Err(failure) = &ended {
                tracing::error!(%failure, "stopped");
            }
            guard.shutdown().await;
            ended
        });
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told if standard error is closed.
            let _ = writeln!(std::io::stderr(), "{name}: {failure}");
            failure.exit_code()
        }
    }
}

/// SIGTERM and Ctrl-C.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::Service(format!("cannot wait for signals: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for an end in good order, unless a second signal comes first.
    ///
    /// # Errors
    /// A second signal came.
    pub async fn while_stopping<T>(&mut self, stopping: impl Future<Output = T>) -> Result<T, Failure> {
        tracing::info!("stopping");
        tokio::select! {
            ended = stopping => Ok(ended),
            () = self.next() => Err(Failure::Service("asked to stop twice: stopped at once".to_owned())),
        }
    }
}

/// Says on standard output that the process serves, and where: one line of JSON, for scripts.
///
/// # Errors
/// Standard output is closed.
pub fn announce(what: &str, address: SocketAddr, metrics: Option<SocketAddr>) -> Result<(), Failure> {
    let metrics = metrics.map_or("null".to_owned(), |metrics| format!("\"{metrics}\""));
    let line = format!("{{\"serving\":\"{what}\",\"address\":\"{address}\",\"metrics\":{metrics}}}\n");
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::Service(format!("cannot write to standard output: {error}")))
}
