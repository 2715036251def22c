//! The settings of a shard-node: `shard_node.toml`, `FULCRUM__...`, flags (DESIGN section 11).
//!
//! A node runs one event loop, on one thread: a process that shall use more cores runs more nodes. Loops that share one
//! journal would share its lock, and the journal is what a node's groups have in common (DESIGN section 8).

use crate::inbox::Bounds;
use fulcrum_common::ClusterId;
use fulcrum_common::auth::AuthConfig;
use fulcrum_common::config::{ConfigError, Validate, check_ports, duration, invalid};
use fulcrum_common::door::ConnectionsConfig;
use fulcrum_common::tls::TlsConfig;
use fulcrum_types::NodeId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// All settings of a shard-node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardNodeConfig {
    /// This node's number, the same in every life: 1 or more.
    pub node: u64,
    /// The cluster that it belongs to.
    pub cluster_id: String,
    /// Where clients, routers and peers find it. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address that others are told, if it is not `listen`.
    pub advertise: Option<String>,
    /// Listen where other machines can connect, without encryption.
    pub insecure_listen: bool,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; nowhere without it.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the data is. Belongs to this node of this cluster only.
    pub data_dir: PathBuf,
    /// Its failure zone: replicas of a group are kept in different ones.
    pub zone: Option<String>,
    /// A file whose lines are faults that the node makes itself, for tests of the whole cluster; none without it, and never with data
    /// that matters.
    pub failpoints: Option<PathBuf>,
    /// How much may wait.
    pub limits: LimitsConfig,
    /// How long things may take.
    pub times: TimesConfig,
    /// How many may connect, and when one that is gone is given up.
    pub connections: ConnectionsConfig,
    /// Who is let in: a section of its own in what operators write.
    #[serde(skip)]
    pub auth: AuthConfig,
    /// Encryption: a section of its own.
    #[serde(skip)]
    pub tls: TlsConfig,
}

/// How much may wait; what is beyond is refused or dropped, and counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Requests that wait for the event loop.
    pub queued_requests: usize,
    /// Requests admitted and not yet answered.
    pub outstanding_requests: usize,
    /// The same, of one stream.
    pub outstanding_per_stream: usize,
    /// Messages of peers that wait for the event loop.
    pub queued_peer_messages: usize,
    /// Bytes that wait to be sent to one peer.
    pub queued_bytes_per_peer: usize,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimesConfig {
    /// Deadline of a request that brings none.
    #[serde(with = "duration")]
    pub default_deadline: Duration,
    /// Between two ticks: at most a quarter of the shortest heartbeat.
    #[serde(with = "duration")]
    pub tick: Duration,
    /// An fsync that takes longer makes the disk unhealthy: the node renews no lease until it returns.
    #[serde(with = "duration")]
    pub sync_overdue: Duration,
    /// One call to the metadata store.
    #[serde(with = "duration")]
    pub metadata_deadline: Duration,
    /// For how long the node counts as alive without a sign of life at the metadata store.
    #[serde(with = "duration")]
    pub node_lease: Duration,
    /// Between two looks of placement, at the node that acts.
    #[serde(with = "duration")]
    pub placement_check: Duration,
    /// After a failover the next one of the same group waits so long, unless the primary's node has no lease; twice as long after each that came soon.
    #[serde(with = "duration")]
    pub failover_pause: Duration,
    /// The longest such pause.
    #[serde(with = "duration")]
    pub failover_pause_max: Duration,
    /// A shutdown hands over what it leads for at most so long.
    #[serde(with = "duration")]
    pub hand_over: Duration,
}

impl Default for ShardNodeConfig {
    fn default() -> Self {
        Self {
            node: 1,
            cluster_id: "fulcrum".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            advertise: None,
            insecure_listen: false,
            metrics_listen: None,
            data_dir: PathBuf::from("data/shard-node"),
            zone: None,
            failpoints: None,
            limits: LimitsConfig::default(),
            times: TimesConfig::default(),
            connections: ConnectionsConfig::default(),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            queued_requests: 8_192,
            outstanding_requests: 32_768,
            outstanding_per_stream: 8_192,
            queued_peer_messages: 16_384,
            queued_bytes_per_peer: 64 * 1024 * 1024,
        }
    }
}

impl Default for TimesConfig {
    fn default() -> Self {
        Self {
            default_deadline: Duration::from_secs(5),
            tick: Duration::from_millis(25),
            sync_overdue: Duration::from_millis(750),
            metadata_deadline: Duration::from_secs(2),
            node_lease: Duration::from_secs(10),
            placement_check: Duration::from_secs(1),
            failover_pause: Duration::from_secs(2),
            failover_pause_max: Duration::from_secs(30),
            hand_over: Duration::from_secs(3),
        }
    }
}

impl ShardNodeConfig {
    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId(self.node)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            requests: self.limits.queued_requests,
            outstanding: self.limits.outstanding_requests,
            peer_messages: self.limits.queued_peer_messages,
        }
    }

    /// The cluster that it belongs to.
    ///
    /// # Errors
    /// The name is none.
    pub fn cluster(&self) -> Result<ClusterId, ConfigError> {
        ClusterId::new(self.cluster_id.clone()).map_err(|error| invalid("cluster_id", error.to_string()))
    }
}

impl Validate for ShardNodeConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.node == 0 {
            return Err(invalid("node", "0 means no node: use 1 or more"));
        }
        self.cluster()?;
        check_ports(self.listen, self.metrics_listen, self.insecure_listen, &self.tls)?;
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            let reason = format!(
                "others cannot connect to {}: set advertise to an address that they can reach",
                self.listen
            );
            return Err(invalid("listen", reason));
        }
        self.limits.validate()?;
        self.connections.validate()?;
        self.times.validate()
    }
}

impl Validate for LimitsConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let counts = [
            ("limits.queued_requests", self.queued_requests),
            ("limits.outstanding_requests", self.outstanding_requests),
            ("limits.outstanding_per_stream", self.outstanding_per_stream),
            ("limits.queued_peer_messages", self.queued_peer_messages),
            ("limits.queued_bytes_per_peer", self.queued_bytes_per_peer),
        ];
        match counts.into_iter().find(|(_, bound)| *bound == 0) {
            Some((key, _)) => Err(invalid(key, "0 admits nothing: use 1 or more")),
            None => Ok(()),
        }
    }
}

impl Validate for TimesConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let times = [
            ("times.default_deadline", self.default_deadline),
            ("times.tick", self.tick),
            ("times.sync_overdue", self.sync_overdue),
            ("times.metadata_deadline", self.metadata_deadline),
            ("times.node_lease", self.node_lease),
            ("times.placement_check", self.placement_check),
        ];
        if let Some((key, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(invalid(key, "0 is no time: use 1ms or more"));
        }
        if self.failover_pause_max < self.failover_pause {
            let reason = "shorter than times.failover_pause, which it bounds: use as much or more";
            return Err(invalid("times.failover_pause_max", reason));
        }
        if self.tick > Duration::from_secs(1) {
            return Err(invalid("times.tick", "at most 1s: deadlines and heartbeats go by it"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::config::{Overrides, load_from};

    fn refused(change: impl FnOnce(&mut ShardNodeConfig), words: &[&str]) {
        let mut config = ShardNodeConfig::default();
        change(&mut config);
        let message = config.validate().unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
    }

    #[test]
    fn defaults_are_valid_and_read_back() {
        let loaded: ShardNodeConfig = load_from(None, [], &Overrides::default()).unwrap();
        assert_eq!(loaded, ShardNodeConfig::default());
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        refused(|c| c.node = 0, &["node", "1 or more"]);
        refused(|c| c.cluster_id = "My Cluster".into(), &["cluster_id"]);
        refused(
            |c| c.listen = "0.0.0.0:1".parse().unwrap(),
            &["listen", "insecure_listen"],
        );
        refused(
            |c| {
                c.listen = "0.0.0.0:1".parse().unwrap();
                c.insecure_listen = true;
            },
            &["listen", "advertise"],
        );
        refused(
            |c| c.metrics_listen = Some("10.0.0.1:1".parse().unwrap()),
            &["metrics_listen"],
        );
        refused(
            |c| c.limits.outstanding_per_stream = 0,
            &["limits.outstanding_per_stream"],
        );
        refused(|c| c.times.tick = Duration::ZERO, &["times.tick"]);
        refused(|c| c.times.placement_check = Duration::ZERO, &["times.placement_check"]);
        refused(
            |c| c.times.failover_pause_max = Duration::ZERO,
            &["times.failover_pause_max"],
        );
        refused(|c| c.times.tick = Duration::from_secs(2), &["times.tick", "1s"]);
    }
}
