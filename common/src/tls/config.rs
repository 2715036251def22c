//! What an operator sets: the section `[tls]` of every service.

use super::role::check_role_name;
use crate::config::{ConfigError, Validate, duration, invalid};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The section `[tls]`. Nothing is encrypted without the three files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate of this process, and behind it those that lead to the authority's (PEM).
    pub cert: Option<PathBuf>,
    /// The key of that certificate (PEM).
    pub key: Option<PathBuf>,
    /// The authority that signs for servers, services and clients; several, while one takes the place of another (PEM).
    pub ca: Option<PathBuf>,
    /// Whether clients of a router must show a certificate.
    pub client_certificates: ClientCertificates,
    /// Let clients with a certificate of the authority use the client API of shard-nodes and coordinators.
    pub direct_clients: bool,
    /// The DNS name in a certificate that makes its owner one of the cluster's own processes.
    pub service_name: String,
    /// The name that servers are asked for, in place of the address that is dialled.
    pub server_name: Option<String>,
    /// Encrypt the metrics port, too.
    pub metrics: bool,
    /// How often the files are looked at.
    #[serde(with = "duration")]
    pub reload_every: Duration,
    /// From when before the end of this process's own certificate it is warned of.
    #[serde(with = "duration")]
    pub warn_before: Duration,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// One by the authority, or the connection is refused.
    #[default]
    Required,
    /// One that is shown must be by the authority.
    Optional,
    /// None is asked for.
    None,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            cert: None,
            key: None,
            ca: None,
            client_certificates: ClientCertificates::default(),
            direct_clients: false,
            service_name: "fulcrum-service".to_owned(),
            server_name: None,
            metrics: false,
            reload_every: Duration::from_secs(5),
            warn_before: 14 * DAY,
        }
    }
}

impl TlsConfig {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.cert.is_some()
    }
}

impl Validate for TlsConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let files = [("tls.cert", &self.cert), ("tls.key", &self.key), ("tls.ca", &self.ca)];
        let given = files.iter().any(|(_, file)| file.is_some());
        if let Some((missing, _)) = files.iter().find(|(_, file)| given && file.is_none()) {
            let reason = "encryption needs tls.cert, tls.key and tls.ca: name this one, too, or none of them";
            return Err(invalid(*missing, reason));
        }
        if !given && (self.direct_clients || self.metrics || self.client_certificates != ClientCertificates::default())
        {
            let reason = "set without encryption, which it is about: name tls.cert, tls.key and tls.ca, too";
            return Err(invalid("tls", reason));
        }
        if self.reload_every.is_zero() {
            return Err(invalid("tls.reload_every", "0 would never pause: use 1s or more"));
        }
        check_role_name(&self.service_name).map_err(|reason| invalid("tls.service_name", reason))?;
        check_server_name("tls.server_name", self.server_name.as_deref())
    }
}

/// Refuses what cannot be a server's name.
///
/// # Errors
/// It is neither a DNS name nor an IP address.
pub fn check_server_name(key: &str, name: Option<&str>) -> Result<(), ConfigError> {
    match name.map(|name| (name, ServerName::try_from(name))) {
        Some((name, Err(_))) => Err(invalid(
            key,
            format!("'{name}' is neither a DNS name nor an IP address"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut TlsConfig), words: &[&str]) {
        let file = || Some(PathBuf::from("file.pem"));
        let mut config = TlsConfig {
            cert: file(),
            key: file(),
            ca: file(),
            ..TlsConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
        change(&mut config);
        let message = config.validate().unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
    }

    #[test]
    fn half_a_configuration_is_refused_by_what_is_missing() {
        assert_eq!(TlsConfig::default().validate(), Ok(()), "no encryption is a choice");
        refused(|c| c.ca = None, &["tls.ca", "name this one"]);
        refused(|c| c.key = None, &["tls.key"]);
        refused(|c| c.cert = None, &["tls.cert"]);
        refused(
            |c| {
                (c.cert, c.key, c.ca) = (None, None, None);
                c.client_certificates = ClientCertificates::Optional;
            },
            &["tls", "without encryption"],
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        refused(|c| c.reload_every = Duration::ZERO, &["tls.reload_every"]);
        refused(
            |c| c.server_name = Some("no name".into()),
            &["tls.server_name", "no name"],
        );
        refused(|c| c.service_name = String::new(), &["tls.service_name"]);
        refused(|c| c.service_name = "a.b".into(), &["tls.service_name", "wildcard"]);
    }
}
