//! What is kept of those that were not let in, or lacked a right: a count by reason, and a few lines in the log.
//!
//! The reason is here and nowhere else: a stranger is told none. Strangers must not fill disks: of many lines in a second only the first
//! few are written, and how many were not.

use super::token::TokenId;
use crate::clock::Clock;
use crate::few_lines::FewLines;
use crate::metrics::{MetricError, Metrics};
use fulcrum_types::Refusal;
use prometheus::IntCounterVec;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Characters of a path that a stranger asks for.
const PATH_SHOWN: usize = 100;

/// Why a call was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Missing,
    Malformed,
    Unknown,
    WrongSecret,
    Expired,
    NoTokensKnown,
    NotInternal,
    /// Let in, but a right is missing.
    Denied,
}

impl Reason {
    const ALL: [Self; 8] = [
        Self::Missing,
        Self::Malformed,
        Self::Unknown,
        Self::WrongSecret,
        Self::Expired,
        Self::NoTokensKnown,
        Self::NotInternal,
        Self::Denied,
    ];

    fn label(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::Malformed => "malformed",
            Reason::Unknown => "unknown",
            Reason::WrongSecret => "wrong_secret",
            Reason::Expired => "expired",
            Reason::NoTokensKnown => "no_tokens_known",
            Reason::NotInternal => "not_internal",
            Reason::Denied => "denied",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Missing => "no authorization header",
            Reason::Malformed => "the authorization header is no `Bearer fulcrum_<id>_<secret>`",
            Reason::Unknown => "no such token: never made, or revoked",
            Reason::WrongSecret => "the secret is not that token's",
            Reason::Expired => "the token has expired",
            Reason::NoTokensKnown => "this service has not heard of any tokens yet: is the metadata store there?",
            Reason::NotInternal => {
                "a service that does not show the cluster's secret: compare auth.internal_secret_file"
            }
            Reason::Denied => "the token lacks a right",
        })
    }
}

/// Counts, and writes down.
pub(super) struct Refused {
    clock: Arc<dyn Clock>,
    count: IntCounterVec,
    recent: Mutex<FewLines>,
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").finish_non_exhaustive()
    }
}

impl Refused {
    pub(super) fn new(metrics: &Metrics, clock: Arc<dyn Clock>) -> Result<Self, MetricError> {
        let help = "Calls that were not let in, or lacked a right, by reason.";
        let count = metrics.counter("fulcrum_auth_refused_total", help, &["reason"])?;
        for reason in Reason::ALL {
            count.with_label_values(&[reason.label()]);
        }
        Ok(Self {
            clock,
            count,
            recent: Mutex::default(),
        })
    }

    /// `id`: of the token that was shown, if it has one; never its secret.
    pub(super) fn note(&self, reason: Reason, id: Option<&str>, peer: Option<SocketAddr>, path: &str) {
        if self.counts(reason) {
            let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
            let path: String = path.chars().take(PATH_SHOWN).collect();
            tracing::warn!(%reason, token = id.unwrap_or("-"), %peer, %path, "a call was not let in");
        }
    }

    /// The caller is told as much; here is who it was.
    pub(super) fn denied(&self, id: TokenId, name: &str, refusal: &Refusal) {
        if self.counts(Reason::Denied) {
            tracing::warn!(token = %id, name, %refusal, "a call was refused");
        }
    }

    /// Whether a line is written.
    fn counts(&self, reason: Reason) -> bool {
        self.count.with_label_values(&[reason.label()]).inc();
        let now = self.clock.now().mono;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (shown, left_out) = recent.one_more(now);
        if left_out > 0 {
            tracing::warn!(left_out, "more calls were refused than are written down");
        }
        shown
    }
}
