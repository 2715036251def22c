//! How etcd is reached: the section `[etcd]` of a service's settings.

use fulcrum_common::config::{ConfigError, Validate, duration, invalid};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::Endpoint;

const PLAIN: &str = "http://";
const ENCRYPTED: &str = "https://";

/// How etcd is reached.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// Where its members serve clients: a list, or one text with commas.
    #[serde(deserialize_with = "list")]
    pub endpoints: Vec<String>,
    /// Put before every key: what else lives in the same etcd is left alone. A cluster's keys begin with its id anyway.
    pub prefix: String,
    /// The user, if etcd asks for one.
    pub user: Option<String>,
    /// Its password. Put it into the environment or into a file that others cannot read.
    pub password: Option<String>,
    /// The certificate of the authority that etcd's own are by: needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// This process's certificate, if etcd asks clients for one.
    pub certificate_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The name in etcd's certificates, if it is not the one in its endpoints.
    pub server_name: Option<String>,
    /// To connect to one endpoint.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// For one call. What is not answered by then counts as unknown.
    #[serde(with = "duration")]
    pub request_timeout: Duration,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: String::new(),
            user: None,
            password: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            server_name: None,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(2),
        }
    }
}

/// Without the password.
impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.user)
            .field("ca_file", &self.ca_file)
            .field("certificate_file", &self.certificate_file)
            .field("key_file", &self.key_file)
            .field("server_name", &self.server_name)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// The endpoints as one text, for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        self.endpoints.join(", ")
    }

    fn is_encrypted(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.starts_with(ENCRYPTED))
    }

    fn validate_endpoints(&self) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() {
            return Err(invalid("etcd.endpoints", "none: use one like http://127.0.0.1:2379"));
        }
        for endpoint in &self.endpoints {
            let has_scheme = endpoint.starts_with(PLAIN) || endpoint.starts_with(ENCRYPTED);
            if !has_scheme || Endpoint::from_shared(endpoint.clone()).is_err() {
                let reason = format!("'{endpoint}' is no address of etcd: use one like http://127.0.0.1:2379");
                return Err(invalid("etcd.endpoints", reason));
            }
        }
        if self.is_encrypted() && self.endpoints.iter().any(|endpoint| endpoint.starts_with(PLAIN)) {
            let reason = "some with encryption and some without: use https:// for all of them";
            return Err(invalid("etcd.endpoints", reason));
        }
        Ok(())
    }

    fn validate_certificates(&self) -> Result<(), ConfigError> {
        if self.is_encrypted() && self.ca_file.is_none() {
            let reason = "https:// needs the certificate of the authority that etcd's own are by";
            return Err(invalid("etcd.ca_file", reason));
        }
        let named = [
            ("etcd.ca_file", self.ca_file.is_some()),
            ("etcd.certificate_file", self.certificate_file.is_some()),
            ("etcd.key_file", self.key_file.is_some()),
            ("etcd.server_name", self.server_name.is_some()),
        ];
        if let Some((key, _)) = named.iter().find(|(_, is_named)| *is_named && !self.is_encrypted()) {
            let reason = "is for encryption, and etcd.endpoints have none: use https:// there";
            return Err(invalid(*key, reason));
        }
        match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => Err(invalid("etcd.key_file", "a certificate needs its key")),
            (None, Some(_)) => Err(invalid("etcd.certificate_file", "a key without a certificate")),
            _ => Ok(()),
        }
    }
}

impl Validate for EtcdConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        self.validate_endpoints()?;
        self.validate_certificates()?;
        match (&self.user, &self.password) {
            (Some(_), None) => return Err(invalid("etcd.password", "a user needs one")),
            (None, Some(_)) => return Err(invalid("etcd.user", "a password without a user")),
            _ => {}
        }
        let times = [
            ("etcd.connect_timeout", self.connect_timeout),
            ("etcd.request_timeout", self.request_timeout),
        ];
        match times.into_iter().find(|(_, time)| time.is_zero()) {
            Some((key, _)) => Err(invalid(key, "0 is no time: use 1ms or more")),
            None => Ok(()),
        }
    }
}

/// A list, as files have it, or one text with commas, as the environment and flags do.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::List(list) => list,
        Written::Text(text) => text
            .split(',')
            .map(|one| one.trim().to_owned())
            .filter(|one| !one.is_empty())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::config::{Overrides, load_from};

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        etcd: EtcdConfig,
    }

    impl Validate for Settings {
        fn validate(&self) -> Result<(), ConfigError> {
            self.etcd.validate()
        }
    }

    #[test]
    fn endpoints_are_a_list_or_a_text_with_commas() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fulcrum.toml");
        std::fs::write(&file, "[etcd]\nendpoints = ['http://a:1', 'http://b:2']\n").unwrap();
        let two = ["http://a:1", "http://b:2"];
        let settings: Settings = load_from(Some(&file), [], &Overrides::default()).unwrap();
        assert_eq!(settings.etcd.endpoints, two);
        let environment = [(
            "FULCRUM__ETCD__ENDPOINTS".to_owned(),
            "http://a:1, http://b:2".to_owned(),
        )];
        let settings: Settings = load_from(None, environment, &Overrides::default()).unwrap();
        assert_eq!(settings.etcd.endpoints, two);
        let flags = Overrides::default().set("etcd.endpoints", Some("http://c:3"));
        let settings: Settings = load_from(Some(&file), [], &flags).unwrap();
        assert_eq!(settings.etcd.endpoints, ["http://c:3"]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        let refused = |change: fn(&mut EtcdConfig), key: &str| {
            let mut config = EtcdConfig::default();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        };
        assert_eq!(EtcdConfig::default().validate(), Ok(()));
        refused(|c| c.endpoints.clear(), "etcd.endpoints");
        refused(|c| c.endpoints = vec!["a:1".into()], "etcd.endpoints");
        refused(|c| c.endpoints = vec!["https://a:1".into()], "etcd.ca_file");
        refused(
            |c| {
                c.endpoints = vec!["https://a:1".into(), "http://b:1".into()];
                c.ca_file = Some("ca.pem".into());
            },
            "etcd.endpoints",
        );
        refused(|c| c.ca_file = Some("ca.pem".into()), "etcd.ca_file");
        refused(|c| c.server_name = Some("etcd".into()), "etcd.server_name");
        refused(
            |c| {
                c.endpoints = vec!["https://a:1".into()];
                c.ca_file = Some("ca.pem".into());
                c.certificate_file = Some("client.pem".into());
            },
            "etcd.key_file",
        );
        refused(|c| c.endpoints = vec!["http://a b".into()], "etcd.endpoints");
        refused(|c| c.user = Some("u".into()), "etcd.password");
        refused(|c| c.password = Some("p".into()), "etcd.user");
        refused(|c| c.request_timeout = Duration::ZERO, "etcd.request_timeout");
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = EtcdConfig {
            user: Some("u".into()),
            password: Some("secret".into()),
            ..EtcdConfig::default()
        };
        assert!(!format!("{config:?}").contains("secret"));
    }
}
