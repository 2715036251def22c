//! The settings of each process: its service's, etcd's and telemetry's, each in a section.

use crate::arguments::{CoordinatorArguments, RouterArguments, ShardNodeArguments};
use fulcrum_common::ClusterId;
use fulcrum_common::audit::AuditConfig;
use fulcrum_common::auth::AuthConfig;
use fulcrum_common::config::{ConfigError, Validate, invalid, load};
use fulcrum_common::telemetry::TelemetryConfig;
use fulcrum_common::tls::TlsConfig;
use fulcrum_coordinator::CoordinatorConfig;
use fulcrum_metadata_etcd::EtcdConfig;
use fulcrum_router::RouterConfig;
use fulcrum_shard_node::ShardNodeConfig;
use serde::{Deserialize, Serialize};

/// All settings of `fulcrum-shard-node`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardNodeSettings {
    /// The node.
    pub shard_node: ShardNodeConfig,
    /// Who is let in.
    pub auth: AuthConfig,
    /// Encryption of all connections but those to the metadata store.
    pub tls: TlsConfig,
    /// The metadata store.
    pub etcd: EtcdConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// All settings of `fulcrum-router`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterSettings {
    /// The cluster that it serves.
    pub cluster_id: String,
    /// The router.
    pub router: RouterConfig,
    /// Who is let in.
    pub auth: AuthConfig,
    /// Where operators' verbs are written down.
    pub audit: AuditConfig,
    /// Encryption of all connections but those to the metadata store.
    pub tls: TlsConfig,
    /// The metadata store.
    pub etcd: EtcdConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

/// All settings of `fulcrum-coordinator`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoordinatorSettings {
    /// The cluster that it serves.
    pub cluster_id: String,
    /// The coordinator.
    pub coordinator: CoordinatorConfig,
    /// Who is let in.
    pub auth: AuthConfig,
    /// Where operators' verbs are written down.
    pub audit: AuditConfig,
    /// Encryption of all connections but those to the metadata store.
    pub tls: TlsConfig,
    /// The metadata store.
    pub etcd: EtcdConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
}

impl Default for ShardNodeSettings {
    fn default() -> Self {
        Self {
            // A cluster has one node of a number: nobody is it by accident.
            shard_node: ShardNodeConfig {
                node: 0,
                ..ShardNodeConfig::default()
            },
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            etcd: EtcdConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            cluster_id: ShardNodeConfig::default().cluster_id,
            router: RouterConfig::default(),
            auth: AuthConfig::default(),
            audit: AuditConfig::default(),
            tls: TlsConfig::default(),
            etcd: EtcdConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for CoordinatorSettings {
    fn default() -> Self {
        Self {
            cluster_id: ShardNodeConfig::default().cluster_id,
            coordinator: CoordinatorConfig::default(),
            auth: AuthConfig::default(),
            audit: AuditConfig::default(),
            tls: TlsConfig::default(),
            etcd: EtcdConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

/// The same refusal, with the key as an operator writes it.
fn in_section(section: &str, refused: Result<(), ConfigError>) -> Result<(), ConfigError> {
    refused.map_err(|error| match error {
        ConfigError::Value { key, reason } => invalid(format!("{section}.{key}"), reason),
        other => other,
    })
}

impl Validate for ShardNodeSettings {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.shard_node.node == 0 {
            let reason = "which node of the cluster is this? Give it a number of its own, 1 or more (--node)";
            return Err(invalid("shard_node.node", reason));
        }
        self.auth.validate()?;
        self.tls.validate()?;
        in_section("shard_node", self.shard_node().validate())?;
        self.etcd.validate()?;
        self.telemetry.validate()
    }
}

impl Validate for RouterSettings {
    fn validate(&self) -> Result<(), ConfigError> {
        self.cluster()?;
        self.auth.validate()?;
        self.tls.validate()?;
        in_section("router", self.router().validate())?;
        self.etcd.validate()?;
        self.telemetry.validate()
    }
}

impl Validate for CoordinatorSettings {
    fn validate(&self) -> Result<(), ConfigError> {
        self.cluster()?;
        self.auth.validate()?;
        self.tls.validate()?;
        in_section("coordinator", self.coordinator().validate())?;
        self.etcd.validate()?;
        self.telemetry.validate()
    }
}

fn cluster(name: &str) -> Result<ClusterId, ConfigError> {
    ClusterId::new(name).map_err(|error| invalid("cluster_id", error.to_string()))
}

impl RouterSettings {
    /// The router's own, with how it encrypts.
    #[must_use]
    pub fn router(&self) -> RouterConfig {
        RouterConfig {
            tls: self.tls.clone(),
            auth: self.auth.clone(),
            audit: self.audit.clone(),
            ..self.router.clone()
        }
    }

    /// The cluster that it serves.
    ///
    /// # Errors
    /// The name is none.
    pub fn cluster(&self) -> Result<ClusterId, ConfigError> {
        cluster(&self.cluster_id)
    }
}

impl CoordinatorSettings {
    /// The coordinator's own, with how it encrypts.
    #[must_use]
    pub fn coordinator(&self) -> CoordinatorConfig {
        CoordinatorConfig {
            tls: self.tls.clone(),
            auth: self.auth.clone(),
            audit: self.audit.clone(),
            ..self.coordinator.clone()
        }
    }

    /// The cluster that it serves.
    ///
    /// # Errors
    /// The name is none.
    pub fn cluster(&self) -> Result<ClusterId, ConfigError> {
        cluster(&self.cluster_id)
    }

    /// From all sources.
    ///
    /// # Errors
    /// What is wrong, by its key and where it was said.
    pub fn load(arguments: &CoordinatorArguments) -> Result<Self, ConfigError> {
        load(arguments.shared.config.as_deref(), &arguments.overrides())
    }
}

impl ShardNodeSettings {
    /// The node's own, with how it encrypts.
    #[must_use]
    pub fn shard_node(&self) -> ShardNodeConfig {
        ShardNodeConfig {
            tls: self.tls.clone(),
            auth: self.auth.clone(),
            ..self.shard_node.clone()
        }
    }

    /// From all sources.
    ///
    /// # Errors
    /// What is wrong, by its key and where it was said.
    pub fn load(arguments: &ShardNodeArguments) -> Result<Self, ConfigError> {
        load(arguments.shared.config.as_deref(), &arguments.overrides())
    }
}

impl RouterSettings {
    /// From all sources.
    ///
    /// # Errors
    /// What is wrong, by its key and where it was said.
    pub fn load(arguments: &RouterArguments) -> Result<Self, ConfigError> {
        load(arguments.shared.config.as_deref(), &arguments.overrides())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use fulcrum_common::config::load_from;
    use std::path::Path;

    fn node(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<ShardNodeSettings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let arguments = ShardNodeArguments::parse_from([&["fulcrum-shard-node"], flags].concat());
        load_from(Some(&path), environment, &arguments.overrides()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_source_reaches_every_section() {
        let file = "[shard_node]\nnode = 2\nzone = 'a'\nlimits.queued_requests = 7\n[etcd]\nprefix = '/here'\n";
        let environment = [
            ("FULCRUM__SHARD_NODE__ZONE", "b"),
            ("FULCRUM__SHARD_NODE__TIMES__HAND_OVER", "1s"),
            ("FULCRUM__ETCD__USER", "u"),
            ("FULCRUM__ETCD__PASSWORD", "p"),
        ];
        let flags = ["--zone", "c", "--etcd", "http://a:1,http://b:2", "--log-format", "json"];
        let settings = node(file, &environment, &flags).unwrap();
        assert_eq!(settings.shard_node.node, 2);
        assert_eq!(settings.shard_node.zone.as_deref(), Some("c"));
        assert_eq!(settings.shard_node.limits.queued_requests, 7);
        assert_eq!(settings.shard_node.times.hand_over.as_secs(), 1);
        assert_eq!(
            (settings.etcd.prefix.as_str(), settings.etcd.endpoints.len()),
            ("/here", 2)
        );
        let flags = [
            "fulcrum-router",
            "--listen",
            "127.0.0.1:0",
            "--cluster-id",
            "c2",
            "--insecure-listen",
        ];
        let arguments = RouterArguments::parse_from(flags);
        let settings: RouterSettings = load_from(None, [], &arguments.overrides()).unwrap();
        assert_eq!((settings.cluster_id.as_str(), settings.router.listen.port()), ("c2", 0));
        assert!(settings.router.insecure_listen);
    }

    #[test]
    fn encrypted_ports_need_no_flag_and_plain_ones_do() {
        let everywhere = ["--node", "1", "--listen", "0.0.0.0:1", "--advertise", "a:1"];
        let encrypted = ["--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-ca", "a.pem"];
        let listens = |flags: &[&[&str]], file: &str| node(file, &[], &flags.concat());
        assert!(listens(&[&everywhere], "").unwrap_err().contains("shard_node.listen"));
        let settings = listens(&[&everywhere, &encrypted], "").unwrap();
        assert!(settings.shard_node().tls.is_on());
        let probed = ["--metrics-listen", "0.0.0.0:2"];
        let refused = listens(&[&everywhere, &encrypted, &probed], "").unwrap_err();
        assert!(
            refused.contains("shard_node.metrics_listen") && refused.contains("tls.metrics"),
            "probes are answered in plain text: {refused}"
        );
        assert!(listens(&[&everywhere, &encrypted, &probed], "[tls]\nmetrics = true").is_ok());
        assert!(listens(&[&everywhere, &encrypted, &probed, &["--insecure-listen"]], "").is_ok());

        let arguments = RouterArguments::parse_from(["r", "--metrics-listen", "0.0.0.0:2"]);
        let refused = load_from::<RouterSettings>(None, [], &arguments.overrides()).unwrap_err();
        assert!(refused.to_string().contains("router.metrics_listen"), "{refused}");
        for port in ["--listen", "--metrics-listen"] {
            let arguments = CoordinatorArguments::parse_from(["c", port, "0.0.0.0:2"]);
            let refused = load_from::<CoordinatorSettings>(None, [], &arguments.overrides()).unwrap_err();
            assert!(refused.to_string().contains("insecure_listen"), "{refused}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_whole_key() {
        let refused = |file: &str, flags: &[&str], words: &[&str]| {
            let message = node(file, &[], flags).unwrap_err();
            for word in words {
                assert!(message.contains(word), "'{word}' is not in: {message}");
            }
        };
        refused("", &[], &["shard_node.node", "--node"]);
        refused(
            "",
            &["--node", "1", "--listen", "0.0.0.0:1"],
            &["shard_node.listen", "insecure_listen"],
        );
        refused("", &["--node", "1", "--etcd", "https://a:1"], &["etcd.ca_file"]);
        refused("", &["--node", "1", "--tls-cert", "c.pem"], &["tls.key"]);
        refused("", &["--node", "1", "--log-format", "yaml"], &["telemetry.format"]);
        refused("[shard_node]\ncolour = 1", &["--node", "1"], &["node.toml", "colour"]);
        refused("node = 1", &[], &["node.toml", "node"]);
        let missing = ShardNodeArguments::parse_from(["x", "--config", "/no/such.toml"]);
        assert_eq!(missing.shared.config.as_deref(), Some(Path::new("/no/such.toml")));
        assert!(ShardNodeSettings::load(&missing).is_err());
    }
}
