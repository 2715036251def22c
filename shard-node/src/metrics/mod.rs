//! What a node tells Prometheus (DESIGN section 10): one registry a node, fed by the effect runner and by [`refresh`].
//!
//! Labels are keyspaces, groups held here and peers: their number is the cluster's, never the clients' or the keys'.

mod placement;
mod refresh;
mod requests;

pub(crate) use placement::PlacementMetrics;
pub(crate) use requests::{Kind, RequestMetrics};

use crate::event::{FailoverPhases, Observation};
use fulcrum_common::metrics::{LATENCY_BUCKETS, MetricError, Metrics};
use prometheus::core::Collector;
use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use std::time::Duration;

const COUNT_BUCKETS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
];
const PHASE_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
];

/// All metrics of a node but those of requests, which [`RequestMetrics`] keeps by keyspace.
pub(crate) struct NodeMetrics {
    metrics: Metrics,
    pub(crate) latency: HistogramVec,
    pub(crate) staleness: HistogramVec,
    pub(crate) refusals: IntCounterVec,

    role_changes: IntCounterVec,
    phases: HistogramVec,
    evictions: IntCounterVec,
    admissions: IntCounterVec,
    certificates: IntCounterVec,
    diverged: IntCounterVec,
    acknowledged_lost: IntCounterVec,
    snapshots: IntCounterVec,
    rebuilds: IntCounterVec,
    applied: IntCounterVec,

    lock_waits: HistogramVec,
    transactions_committed: IntCounterVec,
    transactions_aborted: IntCounterVec,
    in_doubt_time: HistogramVec,
    contradictions: IntCounterVec,
    in_doubt: IntGaugeVec,
    in_doubt_age: GaugeVec,
    unresolved: IntGaugeVec,
    locked_keys: IntGaugeVec,
    lock_waiters: IntGaugeVec,

    pub(crate) turns: IntCounter,
    pub(crate) turn_operations: Histogram,
    pub(crate) write: Histogram,
    pub(crate) fsync: Histogram,
    /// Requests answered for each fsync: what group commit shares.
    pub(crate) writes_per_fsync: Histogram,
    metadata_calls: IntCounterVec,

    shed: IntCounterVec,
    peer_dropped: IntCounterVec,
    peer_sent: IntCounterVec,
    depth: IntGaugeVec,
    link_up: IntGaugeVec,
    replicas: IntGaugeVec,
    epoch: IntGaugeVec,
    in_sync: IntGaugeVec,
    min_in_sync: IntGaugeVec,
    ready: IntGaugeVec,
    lag_entries: IntGaugeVec,
    lag_seconds: GaugeVec,
    commit_waits: IntCounterVec,
    disk_healthy: IntGauge,
    staged_bytes: IntGauge,
    watching: IntGauge,
    pinned: IntGauge,
    map_version: IntGauge,
}

/// Registers, by names that all begin alike.
struct Maker<'a>(&'a Metrics);

impl Maker<'_> {
    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricError> {
        self.0.counter(&format!("fulcrum_shard_node_{name}"), help, labels)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricError> {
        self.0.gauge(&format!("fulcrum_shard_node_{name}"), help, labels)
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, MetricError> {
        self.0
            .histogram(&format!("fulcrum_shard_node_{name}"), help, labels, LATENCY_BUCKETS)
    }

    fn histogram(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec, MetricError> {
        self.0
            .histogram(&format!("fulcrum_shard_node_{name}"), help, labels, buckets)
    }
}

impl NodeMetrics {
    pub(crate) fn new() -> Result<Self, MetricError> {
        let metrics = Metrics::new();
        let make = Maker(&metrics);
        let by_keyspace = &["keyspace"];
        let by_group = &["keyspace", "group"];
        let by_peer = &["peer"];
        let lag_seconds = GaugeVec::new(
            Opts::new(
                "fulcrum_shard_node_replication_lag_seconds",
                "Longest time that a peer's replicas of groups led here have been behind the commit index.",
            ),
            &["keyspace", "peer"],
        );
        let in_doubt_age = GaugeVec::new(
            Opts::new(
                "fulcrum_shard_node_transactions_in_doubt_oldest_seconds",
                "How long the oldest transaction has been in doubt in groups led here, as their primaries know.",
            ),
            by_keyspace,
        );
        let built = Self {
            latency: make.seconds(
                "request_seconds",
                "Time from arrival to answer, refusals included; gets that a router joined are one request.",
                &["keyspace", "mode", "level", "operation"],
            )?,
            staleness: make.seconds(
                "served_staleness_seconds",
                "Proved bound of staleness of answered reads.",
                &["keyspace", "level"],
            )?,
            refusals: make.counter("refusals_total", "Requests refused, by cause.", &["keyspace", "cause"])?,
            role_changes: make.counter(
                "role_changes_total",
                "Replicas here that took a role.",
                &["keyspace", "role"],
            )?,
            phases: make.histogram(
                "failover_phase_seconds",
                "Phases of take-overs by this node: detect, fence, catch_up, first_acknowledgement.",
                &["keyspace", "phase"],
                PHASE_BUCKETS,
            )?,
            evictions: make.counter(
                "evictions_total",
                "Replicas removed from in-sync sets led here.",
                by_keyspace,
            )?,
            admissions: make.counter(
                "admissions_total",
                "Replicas added to in-sync sets led here.",
                by_keyspace,
            )?,
            certificates: make.counter("loss_certificates_total", "Loss certificates opened here.", by_keyspace)?,
            diverged: make.counter(
                "diverged_entries_total",
                "Entries found here that the surviving history lacks.",
                by_keyspace,
            )?,
            acknowledged_lost: make.counter(
                "acknowledged_lost_entries_total",
                "Of these, entries that had or may have been acknowledged.",
                by_keyspace,
            )?,
            snapshots: make.counter(
                "snapshots_total",
                "Snapshots sent and installed.",
                &["keyspace", "direction"],
            )?,
            rebuilds: make.counter("rebuilds_total", "Replicas here rebuilt from their peers.", by_keyspace)?,
            applied: make.counter("applied_entries_total", "Log entries applied.", by_keyspace)?,
            lock_waits: make.seconds(
                "lock_wait_seconds",
                "Time that requests waited for locks, until they were tried again or refused.",
                &["keyspace", "outcome"],
            )?,
            transactions_committed: make.counter(
                "transactions_committed_total",
                "Transactions committed in home groups led here.",
                by_keyspace,
            )?,
            transactions_aborted: make.counter(
                "transactions_aborted_total",
                "Transactions refused by participants or aborted in home groups led here, by cause.",
                &["keyspace", "cause"],
            )?,
            in_doubt_time: make.histogram(
                "transaction_in_doubt_seconds",
                "From the prepare to its end in participants led here; by: coordinator, or participant if it had to ask.",
                &["keyspace", "by"],
                PHASE_BUCKETS,
            )?,
            contradictions: make.counter(
                "transaction_contradictions_total",
                "Aborts told of committed transactions: none is ever right.",
                by_keyspace,
            )?,
            in_doubt: make.gauge(
                "transactions_in_doubt",
                "Transactions prepared in groups led here and not resolved.",
                by_keyspace,
            )?,
            in_doubt_age: Self::register(metrics.registry(), in_doubt_age)?,
            unresolved: make.gauge(
                "transactions_unresolved",
                "Transactions committed in groups led here and not known to be resolved everywhere.",
                by_keyspace,
            )?,
            locked_keys: make.gauge("locked_keys", "Keys locked in groups led here.", by_keyspace)?,
            lock_waiters: make.gauge(
                "lock_waiters",
                "Requests that wait for locks in groups led here.",
                by_keyspace,
            )?,
            turns: make
                .counter("turns_total", "Turns of the event loop.", &[])?
                .with_label_values::<&str>(&[]),
            turn_operations: make
                .histogram("turn_operations", "Events handled in one turn.", &[], COUNT_BUCKETS)?
                .with_label_values::<&str>(&[]),
            write: make
                .seconds(
                    "storage_write_seconds",
                    "Time to hand a batch to the operating system.",
                    &[],
                )?
                .with_label_values::<&str>(&[]),
            fsync: make
                .seconds("fsync_seconds", "Time of an fsync of the journal.", &[])?
                .with_label_values::<&str>(&[]),
            writes_per_fsync: make
                .histogram(
                    "fsync_operations",
                    "Writes admitted between two fsyncs.",
                    &[],
                    COUNT_BUCKETS,
                )?
                .with_label_values::<&str>(&[]),
            metadata_calls: make.counter(
                "metadata_calls_total",
                "Calls to the metadata store, for groups here and as signs of life: answered, failed or unknown.",
                &["operation", "outcome"],
            )?,
            shed: make.counter(
                "shed_total",
                "Requests and peer messages shed by full queues.",
                &["queue"],
            )?,
            peer_dropped: make.counter(
                "peer_messages_dropped_total",
                "Messages to a peer dropped unsent.",
                by_peer,
            )?,
            peer_sent: make.counter("peer_messages_sent_total", "Messages handed to a peer's link.", by_peer)?,
            depth: make.gauge(
                "queue_depth",
                "Requests outstanding, and messages waiting for peers.",
                &["queue"],
            )?,
            link_up: make.gauge("link_up", "Whether the link to a peer is open.", by_peer)?,
            replicas: make.gauge("replicas", "Replicas here, by role.", &["keyspace", "role"])?,
            epoch: make.gauge("epoch", "Epoch of each group held here.", by_group)?,
            in_sync: make.gauge(
                "in_sync_replicas",
                "Size of the in-sync set of each group led here.",
                by_group,
            )?,
            min_in_sync: make.gauge(
                "min_in_sync",
                "Fewest replicas in sync with which each group led here accepts writes.",
                by_group,
            )?,
            ready: make.gauge(
                "group_ready",
                "Whether a group led here has taken over and serves.",
                by_group,
            )?,
            lag_entries: make.gauge(
                "replication_lag_entries",
                "Most entries that a peer's replica of a group led here is behind.",
                &["keyspace", "peer"],
            )?,
            lag_seconds: Self::register(metrics.registry(), lag_seconds)?,
            commit_waits: make.counter(
                "commit_waits_total",
                "Samples, one a second and group, in which commit waited for this peer only.",
                by_peer,
            )?,
            disk_healthy: make
                .gauge("disk_healthy", "Whether no fsync is overdue.", &[])?
                .with_label_values::<&str>(&[]),
            staged_bytes: make
                .gauge("staged_bytes", "Bytes written to the store and not yet durable.", &[])?
                .with_label_values::<&str>(&[]),
            watching: make
                .gauge("watch_steps_waiting", "Steps of watches that wait for a change.", &[])?
                .with_label_values(&[] as &[&str]),
            pinned: make
                .gauge("cut_pins", "States pinned for the cuts of backups, of all replicas.", &[])?
                .with_label_values(&[] as &[&str]),
            map_version: make
                .gauge("map_version", "Version of the cluster map that this node goes by.", &[])?
                .with_label_values::<&str>(&[]),
            metrics,
        };
        Ok(built)
    }

    fn register<M: Collector + Clone + 'static>(
        registry: &Registry,
        metric: prometheus::Result<M>,
    ) -> Result<M, MetricError> {
        let wrong = |error: prometheus::Error| MetricError {
            name: "a gauge of seconds".to_owned(),
            reason: error.to_string(),
        };
        let metric = metric.map_err(wrong)?;
        registry.register(Box::new(metric.clone())).map_err(wrong)?;
        Ok(metric)
    }

    /// What is served at `/metrics`: others of this node add theirs to it.
    pub(crate) fn served(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn metadata_call(&self, operation: &str, outcome: &str) {
        self.metadata_calls.with_label_values(&[operation, outcome]).inc();
    }

    /// Counts a fact about a group of `keyspace`.
    pub(crate) fn observe(&self, keyspace: &str, observation: &Observation) {
        let count = |counter: &IntCounterVec, by: usize| counter.with_label_values(&[keyspace]).inc_by(by as u64);
        match observation {
            Observation::RoleChanged { role, .. } => {
                self.role_changes.with_label_values(&[keyspace, role.name()]).inc();
            }
            Observation::TookOver { phases, .. } => self.took_over(keyspace, phases),
            Observation::FirstAcknowledgement { phases, .. } => {
                self.phase(keyspace, "first_acknowledgement", phases.first_acknowledgement);
            }
            Observation::Evicted { .. } => count(&self.evictions, 1),
            Observation::Admitted { .. } => count(&self.admissions, 1),
            Observation::CertificateOpened { .. } => count(&self.certificates, 1),
            Observation::DivergenceRecorded {
                entries, acknowledged, ..
            } => {
                count(&self.diverged, *entries);
                count(&self.acknowledged_lost, *acknowledged);
            }
            Observation::SnapshotStarted { .. } => self.snapshots.with_label_values(&[keyspace, "sent"]).inc(),
            Observation::SnapshotInstalled { .. } => self.snapshots.with_label_values(&[keyspace, "installed"]).inc(),
            Observation::Rebuilding { .. } => count(&self.rebuilds, 1),
            Observation::Applied { entries, .. } => count(&self.applied, *entries),
            Observation::LockWaited { took, cut, .. } => {
                let outcome = if *cut { "refused" } else { "tried_again" };
                let labels = &[keyspace, outcome];
                self.lock_waits.with_label_values(labels).observe(took.as_secs_f64());
            }
            Observation::TransactionCommitted { .. } => count(&self.transactions_committed, 1),
            Observation::TransactionAborted { cause, .. } => {
                self.transactions_aborted
                    .with_label_values(&[keyspace, cause.name()])
                    .inc();
            }
            Observation::TransactionResolved { took, on_its_own, .. } => {
                let by = if *on_its_own { "participant" } else { "coordinator" };
                let labels = &[keyspace, by];
                self.in_doubt_time.with_label_values(labels).observe(took.as_secs_f64());
            }
            Observation::TransactionContradicted { .. } => count(&self.contradictions, 1),
            Observation::SnapshotEnded { .. }
            | Observation::NewData { .. }
            | Observation::ReplicaAdded { .. }
            | Observation::ReplicaRemoved { .. } => {}
        }
    }

    fn took_over(&self, keyspace: &str, phases: &FailoverPhases) {
        self.phase(keyspace, "detect", phases.detect);
        self.phase(keyspace, "fence", phases.fence);
        self.phase(keyspace, "catch_up", phases.catch_up);
    }

    fn phase(&self, keyspace: &str, phase: &str, took: Duration) {
        self.phases
            .with_label_values(&[keyspace, phase])
            .observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{GroupStatus, TransactionsStatus};
    use fulcrum_replication::Status;
    use fulcrum_types::{
        ConfigVersion, Epoch, GroupConfiguration, GroupId, Index, KeyspaceId, LogPosition, Mode, NodeId, Role,
    };

    #[test]
    fn every_metric_is_registered_and_losses_are_counted() {
        let metrics = NodeMetrics::new().unwrap();
        let group = GroupId(1);
        let facts = [
            Observation::DivergenceRecorded {
                group,
                entries: 5,
                acknowledged: 2,
            },
            Observation::RoleChanged {
                group,
                was: Role::Backup,
                role: Role::Primary,
                epoch: 2.into(),
            },
            Observation::TookOver {
                group,
                epoch: 2.into(),
                phases: FailoverPhases::default(),
            },
        ];
        for fact in facts {
            metrics.observe("users", &fact);
        }
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&metrics.served().registry().gather())
            .unwrap();
        for line in [
            "fulcrum_shard_node_diverged_entries_total{keyspace=\"users\"} 5",
            "fulcrum_shard_node_acknowledged_lost_entries_total{keyspace=\"users\"} 2",
            "fulcrum_shard_node_role_changes_total{keyspace=\"users\",role=\"primary\"} 1",
            "fulcrum_shard_node_failover_phase_seconds_count{keyspace=\"users\",phase=\"fence\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    fn status(group: u64, role: Role, min_in_sync: u32) -> GroupStatus {
        let core = Status {
            role,
            epoch: Epoch(4),
            version: ConfigVersion(2),
            configuration: GroupConfiguration::default(),
            primary: Some(NodeId(1)),
            ready: true,
            lease_left: None,
            last: LogPosition::default(),
            persisted: Index::ZERO,
            commit: Index::ZERO,
            applied: Index::ZERO,
            compacted: LogPosition::default(),
            staleness: None,
            stranded: false,
            peers: Vec::new(),
        };
        GroupStatus {
            group: GroupId(group),
            keyspace: KeyspaceId(1),
            name: "users".into(),
            mode: Mode::Sync,
            min_in_sync,
            core,
            transactions: TransactionsStatus::default(),
        }
    }

    #[test]
    fn only_a_primary_tells_how_many_have_to_be_in_sync() {
        let metrics = NodeMetrics::new().unwrap();
        let text = || {
            let encoder = prometheus::TextEncoder::new();
            encoder.encode_to_string(&metrics.served().registry().gather()).unwrap()
        };
        let line = |group: u64, value: u32| {
            format!("fulcrum_shard_node_min_in_sync{{group=\"{group}\",keyspace=\"users\"}} {value}\n")
        };
        metrics.replicas(&[
            status(7, Role::Primary, 2),
            status(8, Role::Primary, 3),
            status(9, Role::Backup, 2),
        ]);
        assert!(text().contains(&line(7, 2)) && text().contains(&line(8, 3)));
        assert!(!text().contains(&line(9, 2)));
        metrics.replicas(&[status(7, Role::Backup, 2), status(8, Role::Primary, 3)]);
        assert!(!text().contains(&line(7, 2)) && text().contains(&line(8, 3)));
    }
}
