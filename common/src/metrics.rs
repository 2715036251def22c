//! Metrics by Prometheus conventions: one prefix, a help text, and the unit in the name (DESIGN section 10).

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use thiserror::Error;

/// Buckets for latencies, in seconds: 50 microseconds to 10 seconds.
pub const LATENCY_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const PREFIX: &str = "fulcrum_";
/// What a histogram may measure in: base units, or a count of things.
const UNITS: &[&str] = &["_seconds", "_bytes", "_entries", "_operations", "_rounds", "_groups"];

/// Why a metric cannot be registered. A mistake in the program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("metric {name}: {reason}")]
pub struct MetricError {
    /// The metric.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

fn wrong(name: &str, reason: impl ToString) -> MetricError {
    MetricError {
        name: name.to_owned(),
        reason: reason.to_string(),
    }
}

/// A role's metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is served at `/metrics`.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A counter; its name ends with `_total`.
    pub fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricError> {
        check(name, help)?;
        if !name.ends_with("_total") {
            return Err(wrong(name, "the name of a counter ends with _total"));
        }
        self.add(name, IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricError> {
        check(name, help)?;
        if name.ends_with("_total") {
            return Err(wrong(name, "only counters end with _total"));
        }
        self.add(name, IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A histogram; its name ends with a unit.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, MetricError> {
        check(name, help)?;
        if !UNITS.iter().any(|unit| name.ends_with(unit)) {
            return Err(wrong(
                name,
                format!("the name of a histogram ends with a unit: {}", UNITS.join(", ")),
            ));
        }
        self.add(
            name,
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels),
        )
    }

    fn add<M>(&self, name: &str, metric: prometheus::Result<M>) -> Result<M, MetricError>
    where
        M: prometheus::core::Collector + Clone + 'static,
    {
        let metric = metric.map_err(|error| wrong(name, error))?;
        self.registry
            .register(Box::new(metric.clone()))
            .map_err(|error| wrong(name, error))?;
        Ok(metric)
    }
}

fn check(name: &str, help: &str) -> Result<(), MetricError> {
    if !name.starts_with(PREFIX) {
        return Err(wrong(name, "every name begins with fulcrum_"));
    }
    if help.trim().is_empty() {
        return Err(wrong(name, "it has no help text"));
    }
    if name.ends_with("_ms") || name.ends_with("_milliseconds") || name.ends_with("_us") {
        return Err(wrong(name, "times are in seconds"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let metrics = Metrics::new();
        assert!(
            metrics
                .counter("fulcrum_requests_total", "Requests.", &["level"])
                .is_ok()
        );
        assert!(
            metrics
                .gauge("fulcrum_in_sync_replicas", "In-sync replicas.", &[])
                .is_ok()
        );
        assert!(
            metrics
                .histogram("fulcrum_fsync_seconds", "Time of an fsync.", &[], LATENCY_BUCKETS)
                .is_ok()
        );

        assert!(metrics.counter("fulcrum_requests", "Requests.", &[]).is_err());
        assert!(metrics.counter("requests_total", "Requests.", &[]).is_err());
        assert!(metrics.counter("fulcrum_other_total", " ", &[]).is_err());
        assert!(metrics.counter("fulcrum_requests_total", "Twice.", &["level"]).is_err());
        assert!(metrics.gauge("fulcrum_things_total", "Things.", &[]).is_err());
        assert!(metrics.gauge("fulcrum_lag_ms", "Lag.", &[]).is_err());
        assert!(
            metrics
                .histogram("fulcrum_latency", "Latency.", &[], LATENCY_BUCKETS)
                .is_err()
        );
    }
}
