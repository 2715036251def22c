//! What was refused: counted by few reasons, and logged as long as that is no flood.

use super::explain::{HUNG_UP, Refusal};
use crate::metrics::{MetricError, Metrics};
use prometheus::{IntCounterVec, IntGauge};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Strangers must not fill the log: so many lines of a kind in so much time.
const LINES: u32 = 20;
const IN: Duration = Duration::from_secs(10);

/// Bounds how often something is said: of each kind, since when and how often.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<BTreeMap<&'static str, (Instant, u32)>>);

impl Pace {
    /// Whether one more line of a kind may be written, and how many were not before.
    pub(super) fn admits(&self, kind: &'static str) -> Option<u32> {
        let now = Instant::now();
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, said) = windows.entry(kind).or_insert((now, 0));
        if now.saturating_duration_since(*began) < IN {
            *said += 1;
            return (*said <= LINES).then_some(0);
        }
        let unsaid = said.saturating_sub(LINES);
        (*began, *said) = (now, 1);
        Some(unsaid)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_told_in_few_lines() {
        let pace = Pace::default();
        let said = (0..1000).filter(|_| pace.admits("flood").is_some());
        assert_eq!(said.count(), LINES as usize);
        assert_eq!(pace.admits("another kind"), Some(0));
        tokio::time::advance(IN).await;
        assert_eq!(pace.admits("flood"), Some(1000 - LINES), "what was left out is told");
        assert_eq!(pace.admits("flood"), Some(0));
    }
}
