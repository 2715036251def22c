//! The current span of `tracing`, as tracing-opentelemetry knows it.

use fulcrum_types::TraceContext;
use opentelemetry::trace::TraceContextExt;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The current span of `tracing`, if it belongs to a trace: for [`Config::trace_parent`](crate::Config::trace_parent).
///
/// ```no_run
/// let config = fulcrum_client::Config::new("127.0.0.1:7400").trace_parent(fulcrum_client::current_span);
/// ```
#[must_use]
pub fn current_span() -> Option<TraceContext> {
    let context = tracing::Span::current().context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| TraceContext {
        trace: u128::from_be_bytes(span.trace_id().to_bytes()),
        span: u64::from_be_bytes(span.span_id().to_bytes()),
        sampled: span.is_sampled(),
    })
}
