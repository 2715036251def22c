//! What the router counts. One registry a router, so that several live in one process.

use crate::dispatch::Target;
use crate::proof::Reason;
use foldhash::fast::RandomState;
use fulcrum_common::metrics::{LATENCY_BUCKETS, MetricError, Metrics as Registry};
use fulcrum_common::routing::Kind;
use fulcrum_common::wire::shard::Reply;
use fulcrum_types::{KeyspaceId, Refusal};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const STALENESS_BUCKETS: &[f64] = &[0.0, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The router's metrics.
pub(crate) struct Metrics {
    latency: HistogramVec,
    requests: IntCounterVec,
    refusals: IntCounterVec,
    retries: IntCounterVec,
    staleness: HistogramVec,
    downgrades: IntCounterVec,
    receipts_violated: IntCounterVec,
    watches: IntGaugeVec,
    watch_changes: IntCounterVec,
    watches_ended: IntCounterVec,
    pub(crate) watched_groups: IntGauge,
    pub(crate) under_way: IntGauge,
    pub(crate) map_version: IntGauge,
    /// Looked up once a kind of request, not once a request. Grows with the keyspaces, as the metrics do.
    known: Mutex<HashMap<(KeyspaceId, &'static str, &'static str), OfKind, RandomState>>,
}

/// An order that has ended: one request of a client's, or several that were joined and end alike.
pub(crate) struct Ended<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) kind: Kind,
    pub(crate) operation: &'static str,
    pub(crate) requests: usize,
    pub(crate) took: Duration,
    pub(crate) attempts: u32,
}

/// What an answered request of one kind is counted in.
struct OfKind {
    latency: Histogram,
    ok: IntCounter,
    /// Of reads.
    staleness: Option<Histogram>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, MetricError> {
        let by_request = ["keyspace", "mode", "level", "operation"];
        let receipts_violated = registry.counter(
            "fulcrum_router_receipts_violated_total",
            "Answers withheld because their receipts did not hold what was asked, by what did not; those to a joint are one.",
            &["reason"],
        )?;
        // Born with the router: a counter that is born with its first event has no rate.
        for reason in Reason::ALL {
            receipts_violated.with_label_values(&[reason.name()]);
        }
        Ok(Self {
            latency: registry.histogram(
                "fulcrum_router_request_duration_seconds",
                "Time from a group's request to its answer or final refusal, retries included; what a pipeline joined is one.",
                &by_request,
                LATENCY_BUCKETS,
            )?,
            requests: registry.counter(
                "fulcrum_router_requests_total",
                "Requests to groups by outcome: ok, or who must act on the refusal.",
                &["keyspace", "mode", "level", "operation", "outcome"],
            )?,
            refusals: registry.counter(
                "fulcrum_router_refusals_total",
                "Requests that finally failed, by cause.",
                &["keyspace", "mode", "cause"],
            )?,
            retries: registry.counter(
                "fulcrum_router_retries_total",
                "Attempts beyond the first of a request.",
                &["keyspace", "mode"],
            )?,
            staleness: registry.histogram(
                "fulcrum_router_served_staleness_seconds",
                "Upper bound of staleness that the receipts of reads proved; gets that a pipeline joined are one.",
                &["keyspace", "mode", "level"],
                STALENESS_BUCKETS,
            )?,
            downgrades: registry.counter(
                "fulcrum_router_downgrades_total",
                "Reads served at a weaker level that the request listed as acceptable.",
                &["keyspace", "mode", "level"],
            )?,
            receipts_violated,
            watches: registry.gauge("fulcrum_router_watches", "Open watches.", &["keyspace"])?,
            watch_changes: registry.counter(
                "fulcrum_router_watch_changes_total",
                "Changes given to watches, present values included.",
                &["keyspace"],
            )?,
            watches_ended: registry.counter(
                "fulcrum_router_watches_ended_total",
                "Watches that ended, by cause: the client's going away, or a refusal.",
                &["keyspace", "cause"],
            )?,
            watched_groups: registry
                .gauge(
                    "fulcrum_router_watched_groups",
                    "Groups that open watches follow, each watch counted.",
                    &[],
                )?
                .with_label_values(&[] as &[&str]),
            under_way: registry
                .gauge(
                    "fulcrum_router_requests_under_way",
                    "Requests to groups being served now.",
                    &[],
                )?
                .with_label_values(&[] as &[&str]),
            map_version: registry
                .gauge(
                    "fulcrum_router_map_version",
                    "Version of the cluster map in force here.",
                    &[],
                )?
                .with_label_values(&[] as &[&str]),
            known: Mutex::default(),
        })
    }

    /// Requests to one group have ended. Each is counted; time and staleness are observed once for all that were joined.
    pub(crate) fn request(&self, ended: &Ended<'_>, result: &Result<Reply, Refusal>) {
        let (target, kind, operation) = (ended.target, ended.kind, ended.operation);
        let mode = target.mode.name();
        let level = match kind {
            Kind::Read(level) => level.name(),
            Kind::Write { .. } => "write",
        };
        let requests = ended.requests as u64;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = known
            .entry((target.keyspace, level, operation))
            .or_insert_with(|| self.of_kind(target, kind, level, operation));
        of_kind.latency.observe(ended.took.as_secs_f64());
        match result {
            Ok(reply) => {
                // What of a joint was refused goes on by itself, and is counted then. An answer to more than was asked may refuse more.
                of_kind.ok.inc_by(requests.saturating_sub(reply.refused().len() as u64));
                if let (Some(histogram), Some(bound)) = (&of_kind.staleness, reply.staleness()) {
                    histogram.observe(bound.as_secs_f64());
                }
            }
            Err(refusal) => self.refused(ended, level, refusal),
        }
        drop(known);
        if ended.attempts > 1 {
            self.retries
                .with_label_values(&[target.name, mode])
                .inc_by(u64::from(ended.attempts - 1) * requests);
        }
        if let (Ok(reply), Kind::Read(_)) = (result, kind)
            && reply.is_weaker()
        {
            self.downgrades
                .with_label_values(&[target.name, mode, level])
                .inc_by(requests);
        }
    }

    fn of_kind(&self, target: Target<'_>, kind: Kind, level: &str, operation: &str) -> OfKind {
        let mode = target.mode.name();
        OfKind {
            latency: self.latency.with_label_values(&[target.name, mode, level, operation]),
            ok: self
                .requests
                .with_label_values(&[target.name, mode, level, operation, "ok"]),
            staleness: matches!(kind, Kind::Read(_))
                .then(|| self.staleness.with_label_values(&[target.name, mode, level])),
        }
    }

    /// An answer was withheld.
    pub(crate) fn receipt_violated(&self, reason: Reason) {
        self.receipts_violated.with_label_values(&[reason.name()]).inc();
    }

    /// A watch begins.
    pub(crate) fn watch_begins(&self, keyspace: &str) {
        self.watches.with_label_values(&[keyspace]).inc();
    }

    /// A watch was given so many changes.
    pub(crate) fn watch_told(&self, keyspace: &str, changes: usize) {
        self.watch_changes.with_label_values(&[keyspace]).inc_by(changes as u64);
    }

    /// A watch has ended: by a refusal, because its client went away, or because the router stops.
    pub(crate) fn watch_ended(&self, keyspace: &str, cause: &str) {
        self.watches.with_label_values(&[keyspace]).dec();
        self.watches_ended.with_label_values(&[keyspace, cause]).inc();
    }

    fn refused(&self, ended: &Ended<'_>, level: &str, refusal: &Refusal) {
        let (target, requests) = (ended.target, ended.requests as u64);
        let mode = target.mode.name();
        let outcome = outcome_name(refusal);
        self.requests
            .with_label_values(&[target.name, mode, level, ended.operation, outcome])
            .inc_by(requests);
        self.refusals
            .with_label_values(&[target.name, mode, cause(refusal)])
            .inc_by(requests);
    }
}

fn outcome_name(refusal: &Refusal) -> &'static str {
    use fulcrum_types::Act;
    match refusal.act() {
        Act::Redirect => "redirect",
        Act::Retry => "retry",
        Act::Abort => "abort",
        Act::Reject => "reject",
        Act::LookUp => "unknown",
        Act::Operator => "operator",
    }
}

/// Causes of unavailability as dashboards group them (DESIGN section 10); a caller's mistake is its own cause.
pub(crate) fn cause(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotEnoughReplicas { .. } | Refusal::NoDataLeft => "no_quorum",
        Refusal::NotPrimary { .. } | Refusal::NotReady | Refusal::Fenced => "fenced",
        Refusal::Overloaded => "overload",
        Refusal::WrongGroup { .. } | Refusal::Unreachable { .. } | Refusal::Stopped { .. } => "routing",
        Refusal::DeadlineExceeded => "deadline",
        Refusal::Unknown { .. } => "unknown_outcome",
        Refusal::CannotServe { .. } => "too_stale",
        Refusal::HistoryLost { .. } => "history_lost",
        Refusal::ReceiptViolated { .. } => "receipt_violated",
        Refusal::Locked { .. } => "locked",
        Refusal::BeingCut => "being_cut",
        Refusal::Aborted { .. } => "aborted",
        Refusal::Compacted { .. } => "compacted",
        Refusal::IllegalLevel { .. }
        | Refusal::UnknownKeyspace { .. }
        | Refusal::Invalid { .. }
        | Refusal::TransactionIdReused { .. }
        | Refusal::NoTransactions { .. }
        | Refusal::Unauthenticated
        | Refusal::Denied { .. }
        | Refusal::CutGone { .. }
        | Refusal::TooManyCuts { .. }
        | Refusal::TooOldToTell => "request",
    }
}
