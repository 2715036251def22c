//! What a one-process cluster may be told.

use fulcrum_common::audit::AuditConfig;
use fulcrum_common::auth::AuthConfig;
use fulcrum_common::error::StartError;
use fulcrum_common::tls::TlsConfig;
use fulcrum_shard_node::config::TimesConfig;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where metrics are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsPorts {
    /// Nowhere.
    #[default]
    None,
    /// On any free ports of the loopback address.
    Any,
    /// The router's here, those of node n at the n-th port after it.
    From(SocketAddr),
}

/// What a one-process cluster may be told.
#[derive(Clone, Debug)]
pub struct LocalClusterOptions {
    /// Shard-nodes: n1, n2 ...
    pub nodes: u64,
    /// Where the data stays; without it, in a temporary directory that goes with the cluster.
    pub data_dir: Option<PathBuf>,
    /// Where the router listens. Port 0: any free one.
    pub listen: SocketAddr,
    /// Let the router listen where other machines can connect, without encryption.
    pub insecure_listen: bool,
    /// Where metrics are served.
    pub metrics: MetricsPorts,
    /// Zones that the nodes are in by turns: z1, z2 ... None by default.
    pub zones: u64,
    /// How long things may take at the nodes.
    pub times: TimesConfig,
    /// Who is let in, by all parts.
    pub auth: AuthConfig,
    /// Where operators' verbs are written down, by all routers.
    pub audit: AuditConfig,
    /// Encryption of all connections but those to metrics.
    pub tls: TlsConfig,
}

impl Default for LocalClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            data_dir: None,
            listen: loopback(),
            insecure_listen: false,
            metrics: MetricsPorts::None,
            zones: 0,
            times: TimesConfig::default(),
            auth: AuthConfig::default(),
            audit: AuditConfig::default(),
            tls: TlsConfig::default(),
        }
    }
}

/// Any free port of the loopback address.
pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl MetricsPorts {
    /// For the router (0) or a node (its number).
    pub(crate) fn address(self, number: u64) -> Result<Option<SocketAddr>, StartError> {
        match self {
            MetricsPorts::None => Ok(None),
            MetricsPorts::Any => Ok(Some(loopback())),
            MetricsPorts::From(first) if first.port() == 0 => Ok(Some(first)),
            MetricsPorts::From(first) => {
                let port = u64::from(first.port()) + number;
                let port = u16::try_from(port).map_err(|_| {
                    StartError::Config(format!(
                        "no port is left for the metrics of all nodes behind {first}: use a lower one"
                    ))
                })?;
                Ok(Some(SocketAddr::new(first.ip(), port)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_follow_each_other_as_long_as_there_are_any() {
        let from = |port| MetricsPorts::From(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(from(9000).address(3).unwrap().map(|a| a.port()), Some(9003));
        assert_eq!(from(0).address(3).unwrap().map(|a| a.port()), Some(0));
        assert!(from(65_534).address(2).is_err());
        assert!(MetricsPorts::None.address(1).unwrap().is_none());
    }
}
