//! Metrics of requests, looked up once a keyspace and kind, not once a request.

use super::NodeMetrics;
use fulcrum_common::ClusterMap;
use fulcrum_types::{Answered, GroupId, GroupRequest, KeyspaceId, Mode, Operation, Query, Refusal};
use prometheus::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What of a request its metrics go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    keyspace: KeyspaceId,
    level: &'static str,
    operation: &'static str,
}

impl Kind {
    pub(crate) fn of(request: &GroupRequest) -> Self {
        let (level, operation) = match &request.operation {
            Operation::Read(read) => match read.query {
                Query::Get(_) | Query::Joint(_) => (read.level.name(), "get"),
                Query::Scan { .. } => (read.level.name(), "scan"),
                Query::Changes(_) => (read.level.name(), "changes"),
            },
            Operation::Write { .. } | Operation::Joint(_) => ("none", "write"),
            Operation::Outcome(_) => ("none", "outcome"),
            Operation::Transaction(step) => ("none", step.name()),
            Operation::Cut(cut) => ("none", cut.name()),
        };
        Self {
            keyspace: request.keyspace,
            level,
            operation,
        }
    }
}

struct KeyspaceMetrics {
    name: String,
    mode: Mode,
    latency: BTreeMap<(&'static str, &'static str), Histogram>,
    staleness: BTreeMap<&'static str, Histogram>,
}

impl KeyspaceMetrics {
    fn new(name: &str, mode: Mode) -> Self {
        Self {
            name: name.to_owned(),
            mode,
            latency: BTreeMap::new(),
            staleness: BTreeMap::new(),
        }
    }
}

/// The request metrics of the keyspaces in the map.
pub(crate) struct RequestMetrics {
    metrics: Arc<NodeMetrics>,
    keyspaces: BTreeMap<KeyspaceId, KeyspaceMetrics>,
    groups: BTreeMap<GroupId, KeyspaceId>,
}

impl RequestMetrics {
    pub(crate) fn new(metrics: Arc<NodeMetrics>) -> Self {
        Self {
            metrics,
            keyspaces: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    /// Learns the names of keyspaces and to which of them a group belongs.
    pub(crate) fn follow(&mut self, map: &ClusterMap) {
        self.keyspaces.retain(|id, _| map.keyspaces().contains_key(id));
        for (id, keyspace) in map.keyspaces() {
            self.keyspaces
                .entry(*id)
                .or_insert_with(|| KeyspaceMetrics::new(&keyspace.name, keyspace.options.mode));
        }
        self.groups = map
            .groups()
            .iter()
            .map(|(group, held)| (*group, held.keyspace))
            .collect();
    }

    /// The name of a group's keyspace, for labels.
    pub(crate) fn keyspace_of(&self, group: GroupId) -> &str {
        let keyspace = self
            .groups
            .get(&group)
            .and_then(|keyspace| self.keyspaces.get(keyspace));
        keyspace.map_or("unknown", |keyspace| &keyspace.name)
    }

    /// Counts an answer.
    pub(crate) fn answered(&mut self, kind: Kind, took: Duration, result: &Result<Answered, Refusal>) {
        let Some(keyspace) = self.keyspaces.get_mut(&kind.keyspace) else {
            if let Err(refusal) = result {
                self.metrics
                    .refusals
                    .with_label_values(&["unknown", refusal.code()])
                    .inc();
            }
            return;
        };
        let metrics = &self.metrics;
        let KeyspaceMetrics {
            name,
            mode,
            latency,
            staleness,
        } = keyspace;
        latency
            .entry((kind.level, kind.operation))
            .or_insert_with(|| {
                metrics
                    .latency
                    .with_label_values(&[name, mode.name(), kind.level, kind.operation])
            })
            .observe(took.as_secs_f64());
        match result {
            Err(refusal) => metrics.refusals.with_label_values(&[name, refusal.code()]).inc(),
            Ok(answered) if kind.level != "none" => {
                if let Some(bound) = answered.receipt.staleness {
                    let level = answered.receipt.achieved.name();
                    staleness
                        .entry(level)
                        .or_insert_with(|| metrics.staleness.with_label_values(&[name, level]))
                        .observe(bound.as_secs_f64());
                }
            }
            Ok(_) => {}
        }
    }
}
