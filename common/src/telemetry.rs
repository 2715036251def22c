//! Logs and traces: `tracing`, to standard error, and to an OpenTelemetry collector if one is named (DESIGN section 10).

use crate::config::{ConfigError, Validate, invalid};
use crate::error::StartError;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use std::time::Duration;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

const EXPORT_DEADLINE: Duration = Duration::from_secs(3);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What is logged and traced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Which events: `info`, or by module as in `info,fulcrum_router=debug`.
    pub filter: String,
    /// How log lines look.
    pub format: LogFormat,
    /// Where traces are sent by OTLP over gRPC, as in `http://127.0.0.1:4317`; nowhere without it.
    pub otlp_endpoint: Option<String>,
    /// Which part of the traces that begin here is sent: 0 to 1.
    pub trace_ratio: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Human,
            otlp_endpoint: None,
            trace_ratio: 1.0,
        }
    }
}

impl Validate for TelemetryConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        EnvFilter::try_new(&self.filter).map_err(|error| invalid("telemetry.filter", error.to_string()))?;
        if let Some(endpoint) = &self.otlp_endpoint {
            let uri: Result<http::Uri, _> = endpoint.parse();
            if !uri.is_ok_and(|uri| uri.scheme().is_some() && uri.authority().is_some()) {
                let reason = format!("'{endpoint}' is no address: use one like http://127.0.0.1:4317");
                return Err(invalid("telemetry.otlp_endpoint", reason));
            }
        }
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            return Err(invalid(
                "telemetry.trace_ratio",
                format!("{} is not within 0 to 1", self.trace_ratio),
            ));
        }
        Ok(())
    }
}

/// Keeps telemetry going. Sends what is left when it is shut down or dropped.
#[derive(Debug)]
#[must_use = "traces are no longer sent once it is dropped"]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

impl TelemetryGuard {
    /// Sends what is left, for a short while at most, without blocking the runtime on which the exporter depends.
    pub async fn shutdown(mut self) {
        if let Some(provider) = self.provider.take() {
            let sent = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(EXPORT_DEADLINE)).await;
            if !matches!(sent, Ok(Ok(()))) {
                tracing::warn!("the last traces could not be sent");
            }
        }
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = &self.provider {
            // Nobody is left to be told.
            let _ = provider.shutdown_with_timeout(Duration::from_millis(200));
        }
    }
}

/// Sets up logs and traces for this process; once. With an OTLP endpoint it must be called within a runtime.
pub fn init(service: &'static str, config: &TelemetryConfig) -> Result<TelemetryGuard, StartError> {
    config.validate()?;
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| StartError::Config(error.to_string()))?;
    let provider = config
        .otlp_endpoint
        .as_deref()
        .map(|to| provider(service, to, config.trace_ratio))
        .transpose()?;
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Human => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let traces = provider
        .as_ref()
        .map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer(service)));
    let layers = tracing_subscriber::registry().with(lines).with(traces).with(filter);
    layers
        .try_init()
        .map_err(|error| StartError::Config(format!("telemetry is set up already: {error}")))?;
    Ok(TelemetryGuard { provider })
}

fn provider(service: &'static str, endpoint: &str, ratio: f64) -> Result<SdkTracerProvider, StartError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_DEADLINE)
        .build();
    let exporter = exporter.map_err(|error| invalid("telemetry.otlp_endpoint", error.to_string()))?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut TelemetryConfig), key: &str) {
        let mut config = TelemetryConfig::default();
        change(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_key() {
        assert_eq!(TelemetryConfig::default().validate(), Ok(()));
        refused(|c| c.filter = "fulcrum=loudly".to_owned(), "telemetry.filter");
        refused(
            |c| c.otlp_endpoint = Some("nowhere".to_owned()),
            "telemetry.otlp_endpoint",
        );
        refused(|c| c.trace_ratio = 1.5, "telemetry.trace_ratio");
        refused(|c| c.trace_ratio = f64::NAN, "telemetry.trace_ratio");
    }

    /// The only test that may: it is once a process.
    #[tokio::test]
    async fn a_collector_that_is_not_there_does_no_harm() {
        let config = TelemetryConfig {
            otlp_endpoint: Some("http://127.0.0.1:9".to_owned()),
            ..Default::default()
        };
        let guard = init("test", &config).unwrap();
        tracing::info_span!("nobody sees it").in_scope(|| {});
        assert!(init("test", &TelemetryConfig::default()).is_err());
        tokio::time::timeout(EXPORT_DEADLINE * 2, guard.shutdown())
            .await
            .unwrap();
    }
}
