//! What was refused: counted by few reasons, and logged as long as that is no flood.

use super::explain::{HUNG_UP, Refusal};
use crate::few_lines::Pace;
use crate::metrics::{MetricError, Metrics};
use prometheus::{IntCounterVec, IntGauge};
use std::net::SocketAddr;

/// What a service tells of its encryption.
#[derive(Debug)]
pub(super) struct Refusals {
    refused: IntCounterVec,
    expires: IntGauge,
    pace: Pace,
}

impl Refusals {
    pub(super) fn new(metrics: &Metrics) -> Result<Self, MetricError> {
        let expires = metrics.gauge(
            "fulcrum_tls_certificate_expires_seconds",
            "When this process's own certificate expires, in seconds since 1970.",
            &[],
        )?;
        Ok(Self {
            refused: metrics.counter(
                "fulcrum_tls_refused_total",
                "Connections that were refused before any request, by reason.",
                &["reason"],
            )?,
            expires: expires.with_label_values(&[] as &[&str]),
            pace: Pace::default(),
        })
    }

    pub(super) fn expires(&self, not_after: Option<u64>) {
        let never = i64::MAX;
        self.expires
            .set(not_after.map_or(never, |seconds| i64::try_from(seconds).unwrap_or(never)));
    }

    pub(super) fn refused(&self, peer: SocketAddr, refusal: Refusal, error: &dyn std::fmt::Display) {
        self.refused.with_label_values(&[refusal.reason]).inc();
        // Probes of open ports do nothing else.
        if refusal == HUNG_UP {
            return tracing::debug!(%peer, %error, "a connection ended before it was encrypted");
        }
        let Some(unsaid) = self.pace.admits(refusal.reason) else {
            return;
        };
        if unsaid > 0 {
            tracing::warn!(
                unsaid,
                reason = refusal.reason,
                "refused more connections than are worth a line each (fulcrum_tls_refused_total)"
            );
        }
        tracing::warn!(%peer, reason = refusal.reason, %error, "refused a connection: {}", refusal.told);
    }
}
