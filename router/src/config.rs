//! What an operator may set.

use fulcrum_common::audit::AuditConfig;
use fulcrum_common::auth::AuthConfig;
use fulcrum_common::config::{ConfigError, Validate, check_deadline, check_most, check_ports, duration};
use fulcrum_common::door::ConnectionsConfig;
use fulcrum_common::tls::TlsConfig;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// Configuration of a router: `FULCRUM__...` environment and TOML keys are spelled like the fields.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfig {
    /// Where clients connect. Port 0: any free one.
    pub listen: SocketAddr,
    /// Where Prometheus scrapes; none: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Allow addresses that other machines can reach, without encryption.
    pub insecure_listen: bool,
    /// For requests that bring no deadline: `5s`.
    #[serde(with = "duration")]
    pub default_deadline: Duration,
    /// Requests to groups under way at once; more are refused as overload.
    pub requests_max: u32,
    /// Groups that all open watches together may follow; a watch beyond is refused as overload.
    pub watched_groups_max: u32,
    /// Transactions under way at once; more are refused as overload.
    pub transactions_max: u32,
    /// How many may connect, and when one that is gone is given up.
    pub connections: ConnectionsConfig,
    /// Who is let in: a section of its own in what operators write.
    #[serde(skip)]
    pub auth: AuthConfig,
    /// Where their verbs are written down: the same.
    #[serde(skip)]
    pub audit: AuditConfig,
    /// Encryption: a section of its own.
    #[serde(skip)]
    pub tls: TlsConfig,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            metrics_listen: None,
            insecure_listen: false,
            default_deadline: Duration::from_secs(5),
            requests_max: 20_000,
            watched_groups_max: 2_048,
            transactions_max: 4_000,
            connections: ConnectionsConfig::default(),
            auth: AuthConfig::default(),
            audit: AuditConfig::default(),
            tls: TlsConfig::default(),
        }
    }
}

impl Validate for RouterConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        check_ports(self.listen, self.metrics_listen, self.insecure_listen, &self.tls)?;
        self.connections.validate()?;
        check_deadline("default_deadline", self.default_deadline)?;
        check_most("transactions_max", self.transactions_max, "transaction")?;
        check_most("requests_max", self.requests_max, "request")
    }
}
