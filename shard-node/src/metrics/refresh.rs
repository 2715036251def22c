//! Gauges, taken from the replicas' own accounts once a second.

use super::NodeMetrics;
use crate::inbox::Shed;
use crate::node::{GroupStatus, NodeStatus, TransactionsStatus};
use crate::transport::Depth;
use fulcrum_replication::Status;
use fulcrum_types::{NodeId, Role};
use prometheus::IntCounterVec;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a peer's replicas are behind by, at worst.
#[derive(Default)]
struct Lag {
    entries: u64,
    time: Duration,
}

impl NodeMetrics {
    /// Adds what a group led here does for transactions.
    fn transactions(&self, keyspace: &str, status: &TransactionsStatus) {
        for (sum, more) in [
            (&self.in_doubt, status.in_doubt),
            (&self.unresolved, status.unresolved),
            (&self.locked_keys, status.locked_keys),
            (&self.lock_waiters, status.waiting),
        ] {
            sum.with_label_values(&[keyspace]).add(gauge(more as u64));
        }
        let age = self.in_doubt_age.with_label_values(&[keyspace]);
        age.set(age.get().max(status.oldest.as_secs_f64()));
    }

    /// Takes in how the replicas are.
    pub(crate) fn replicas(&self, statuses: &[GroupStatus]) {
        for gauge in [
            &self.replicas,
            &self.epoch,
            &self.in_sync,
            &self.min_in_sync,
            &self.ready,
            &self.lag_entries,
            &self.in_doubt,
            &self.unresolved,
            &self.locked_keys,
            &self.lock_waiters,
        ] {
            gauge.reset();
        }
        self.lag_seconds.reset();
        self.in_doubt_age.reset();
        let mut lags: BTreeMap<(&str, NodeId), Lag> = BTreeMap::new();
        for GroupStatus {
            group,
            name: keyspace,
            min_in_sync,
            core: status,
            transactions,
            ..
        } in statuses
        {
            let group = group.0.to_string();
            let labels = [keyspace.as_str(), &group];
            self.replicas
                .with_label_values(&[keyspace.as_str(), status.role.name()])
                .inc();
            self.epoch.with_label_values(&labels).set(gauge(status.epoch.0));
            if status.role != Role::Primary {
                continue;
            }
            self.in_sync
                .with_label_values(&labels)
                .set(gauge(status.configuration.in_sync.len() as u64));
            self.min_in_sync.with_label_values(&labels).set(i64::from(*min_in_sync));
            self.transactions(keyspace, transactions);
            self.ready.with_label_values(&labels).set(i64::from(status.ready));
            for peer in &status.peers {
                let lag = lags.entry((keyspace, peer.node)).or_default();
                lag.entries = lag.entries.max(peer.lag_entries);
                lag.time = lag.time.max(peer.lag);
            }
            if let Some(peer) = waited_for(status) {
                self.commit_waits.with_label_values(&[peer.to_string()]).inc();
            }
        }
        for ((keyspace, peer), lag) in lags {
            let peer = peer.to_string();
            self.lag_entries
                .with_label_values(&[keyspace, &peer])
                .set(gauge(lag.entries));
            self.lag_seconds
                .with_label_values(&[keyspace, &peer])
                .set(lag.time.as_secs_f64());
        }
    }

    /// Takes in how the queues are.
    pub(crate) fn queues(&self, outstanding: usize, shed: Shed, links: impl Iterator<Item = (NodeId, Depth)>) {
        self.depth
            .with_label_values(&["requests"])
            .set(gauge(outstanding as u64));
        raise(&self.shed, "requests", shed.requests);
        raise(&self.shed, "peer_messages", shed.peer_messages);
        let mut waiting = 0;
        for (peer, link) in links {
            let peer = peer.to_string();
            waiting += link.messages;
            self.link_up.with_label_values(&[&peer]).set(i64::from(link.online));
            raise(&self.peer_dropped, &peer, link.dropped);
            raise(&self.peer_sent, &peer, link.sent);
        }
        self.depth
            .with_label_values(&["peer_messages"])
            .set(gauge(waiting as u64));
    }

    /// Takes in how the node as a whole is.
    pub(crate) fn node(&self, disk_healthy: bool, status: &NodeStatus) {
        self.watching.set(gauge(status.watching as u64));
        self.pinned.set(gauge(status.pinned as u64));
        self.disk_healthy.set(i64::from(disk_healthy));
        self.staged_bytes.set(gauge(status.staged_bytes as u64));
        self.map_version.set(gauge(status.map_version.0));
    }
}

/// The one in-sync peer that has not made durable what all others have, if commit waits.
fn waited_for(status: &Status) -> Option<NodeId> {
    if status.commit >= status.persisted {
        return None;
    }
    let mut behind = status
        .peers
        .iter()
        .filter(|peer| peer.in_sync && peer.matched <= status.commit);
    let first = behind.next()?;
    behind.next().is_none().then_some(first.node)
}

/// Brings a counter to what was counted elsewhere.
fn raise(counter: &IntCounterVec, label: &str, to: u64) {
    let counter = counter.with_label_values(&[label]);
    counter.inc_by(to.saturating_sub(counter.get()));
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
