//! What placement tells Prometheus: of all nodes only the one that acts says anything but zero.

use fulcrum_common::metrics::{MetricError, Metrics};
use fulcrum_placement::{Assessment, Placement};
use prometheus::{IntCounterVec, IntGauge};

/// Metrics of placement.
pub(crate) struct PlacementMetrics {
    acting: IntGauge,
    under_replicated: IntGauge,
    rebuilds: IntGauge,
    draining: IntGauge,
    held: IntGauge,
    rebuilt: IntCounterVec,
    changes: IntCounterVec,
}

impl PlacementMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Result<Self, MetricError> {
        let gauge = |name: &str, help: &str| {
            let gauge = metrics.gauge(&format!("fulcrum_placement_{name}"), help, &[])?;
            Ok::<_, MetricError>(gauge.with_label_values(&[] as &[&str]))
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            metrics.counter(&format!("fulcrum_placement_{name}"), help, labels)
        };
        Ok(Self {
            acting: gauge("acting", "1 at the node that acts.")?,
            under_replicated: gauge(
                "under_replicated_groups",
                "Groups with fewer living members in sync than their keyspace wants.",
            )?,
            rebuilds: gauge("rebuilds_running", "Replicas that are brought up in others' place.")?,
            draining: gauge("draining_nodes", "Nodes that are drained and not empty yet.")?,
            held: gauge(
                "held",
                "1 while groups are short and nothing can be done: the log says why.",
            )?,
            rebuilt: counter("rebuilds_done_total", "Replicas brought up that came in sync.", &[])?,
            changes: counter(
                "changes_total",
                "Changes made: rebuild, remove, release, hand_over.",
                &["change"],
            )?,
        })
    }

    /// Another node acts.
    pub(crate) fn rest(&self) {
        let gauges = [
            &self.acting,
            &self.under_replicated,
            &self.rebuilds,
            &self.draining,
            &self.held,
        ];
        gauges.into_iter().for_each(|gauge| gauge.set(0));
    }

    pub(crate) fn looked(&self, assessment: &Assessment, placement: &Placement) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.acting.set(1);
        self.under_replicated.set(count(assessment.under_replicated.len()));
        self.rebuilds.set(count(assessment.rebuilds.len()));
        let draining = assessment.draining.values().filter(|left| left.replicas > 0);
        self.draining.set(count(draining.count()));
        self.held.set(i64::from(placement.held().is_some()));
        let rebuilt = self.rebuilt.with_label_values(&[] as &[&str]);
        rebuilt.inc_by(placement.rebuilt().len() as u64);
    }

    pub(crate) fn changed(&self, change: &str) {
        self.changes.with_label_values(&[change]).inc();
    }
}
