//! Logs, to standard error, and traces, to an OpenTelemetry collector if one is named (DESIGN section 10).
//!
//! Spans that have ended wait in a bounded queue for a thread that sends them by OTLP; what does not fit is dropped, and the log
//! says so once. A collector that is slow or gone is nobody's trouble but its own.

use crate::config::{ConfigError, Validate, invalid};
use crate::entropy::random_u64;
use crate::error::StartError;
use crate::trace::{self, Kind, Record, Recorder, Sink, Value};
use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

const EXPORT_DEADLINE: Duration = Duration::from_secs(3);
const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// Spans that may wait to be sent.
const QUEUE: usize = 8192;
/// The part of the traces that begin in a process that is told where to send them, and no more.
const RATIO: f64 = 0.01;

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
    /// Which part of the traces that could begin here does: 0 to 1. Who comes with a trace of its own has decided already.
    pub trace_ratio: f64,
    /// What traces call this process (`service.instance.id`): a shard-node's name if not set, of others a random one.
    pub instance: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            format: LogFormat::Human,
            otlp_endpoint: None,
            trace_ratio: RATIO,
            instance: None,
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
    exporter: Option<Arc<BatchSpanProcessor>>,
}

impl TelemetryGuard {
    /// Sends what is left, for a short while at most, without blocking the runtime on which the exporter depends.
    pub async fn shutdown(mut self) {
        if let Some(exporter) = self.exporter.take() {
            let sent = tokio::task::spawn_blocking(move || exporter.shutdown_with_timeout(EXPORT_DEADLINE)).await;
            if !matches!(sent, Ok(Ok(()))) {
                tracing::warn!("the last traces could not be sent");
            }
        }
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(exporter) = &self.exporter {
            // Nobody is left to be told.
            let _ = exporter.shutdown_with_timeout(Duration::from_millis(200));
        }
    }
}

/// Sets up logs and traces for this process; once. With an OTLP endpoint it must be called within a runtime.
///
/// # Errors
/// The configuration makes no sense, or it was called before.
pub fn init(service: &'static str, config: &TelemetryConfig) -> Result<TelemetryGuard, StartError> {
    config.validate()?;
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| StartError::Config(error.to_string()))?;
    let again = |error: &dyn std::fmt::Display| StartError::Config(format!("telemetry is set up already: {error}"));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Human => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let layers = tracing_subscriber::registry().with(lines).with(filter);
    layers.try_init().map_err(|error| again(&error))?;
    let Some(endpoint) = config.otlp_endpoint.as_deref() else {
        return Ok(TelemetryGuard { exporter: None });
    };
    let exporter = Arc::new(exporter(service, endpoint, config)?);
    let recorder = Recorder::new(Otlp(exporter.clone()), config.trace_ratio);
    trace::install(recorder).map_err(|error| again(&error))?;
    Ok(TelemetryGuard {
        exporter: Some(exporter),
    })
}

fn exporter(service: &'static str, endpoint: &str, config: &TelemetryConfig) -> Result<BatchSpanProcessor, StartError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_DEADLINE)
        .build();
    let exporter = exporter.map_err(|error| invalid("telemetry.otlp_endpoint", error.to_string()))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_scheduled_delay(EXPORT_EVERY)
        .build();
    let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let instance = config
        .instance
        .clone()
        .unwrap_or_else(|| format!("{:016x}", random_u64()));
    let attributes = [
        KeyValue::new("service.instance.id", instance),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attributes(attributes);
    processor.set_resource(&resource.build());
    Ok(processor)
}

/// Spans go to an OpenTelemetry collector.
struct Otlp(Arc<BatchSpanProcessor>);

impl Sink for Otlp {
    fn take(&self, record: Record) {
        self.0.on_end(span_data(record));
    }
}

fn span_data(record: Record) -> SpanData {
    let context = record.context;
    let flags = TraceFlags::new(u8::from(context.sampled));
    let mut events = SpanEvents::default();
    events.events = record
        .events
        .into_iter()
        .map(|(at, what)| Event::new(what, at, Vec::new(), 0))
        .collect();
    let attributes = record.attributes.into_iter().map(|(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX)),
    });
    let mut attributes: Vec<KeyValue> = attributes.collect();
    let status = match record.failed {
        Some(failed) => {
            attributes.push(KeyValue::new("error.type", failed.code));
            Status::error(failed.reason)
        }
        None => Status::Unset,
    };
    SpanData {
        span_context: SpanContext::new(
            context.trace.into(),
            context.span.into(),
            flags,
            false,
            TraceState::default(),
        ),
        parent_span_id: record.parent.map_or(SpanId::INVALID, Into::into),
        parent_span_is_remote: record.kind == Kind::Server,
        span_kind: match record.kind {
            Kind::Client => SpanKind::Client,
            Kind::Server => SpanKind::Server,
            Kind::Internal => SpanKind::Internal,
        },
        name: record.name.into(),
        start_time: record.start,
        end_time: record.end,
        attributes,
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status,
        instrumentation_scope: InstrumentationScope::builder("fulcrum").build(),
    }
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
        assert!(trace::is_recording());
        trace::wanted(Kind::Client, "nobody sees it").end(None);
        assert!(init("test", &TelemetryConfig::default()).is_err());
        tokio::time::timeout(EXPORT_DEADLINE * 2, guard.shutdown())
            .await
            .unwrap();
    }
}
