//! The certificate in force, and how it is replaced without a restart.
//!
//! The files' contents are looked at every few seconds, not their times: a mounted secret changes by a link. What changed and makes sense is
//! used for connections from then on; those there are go on. What changed and makes none is told, once it has been seen twice: certificate and key
//! are rarely written at one moment.

use super::config::{TlsConfig, check_server_name};
use super::material::{Contents, Material, wall};
use super::refusals::Refusals;
use super::role::RoleName;
use super::serve::{Acceptor, Port};
use crate::config::{ConfigError, Validate, invalid};
use crate::few_lines::Pace;
use crate::metrics::Metrics;
use crate::secret_files::warn_if_open;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

/// Between two warnings of a certificate that is about to end.
const WARN_EVERY: Duration = Duration::from_secs(60 * 60);

/// Encryption of one service's connections, to it and from it.
pub struct Tls {
    config: TlsConfig,
    role: RoleName,
    material: RwLock<Arc<Material>>,
    warned: Mutex<Option<Instant>>,
    pub(super) refusals: Refusals,
    /// Of what is said about connections that could not be made.
    pub(super) dialling: Pace,
}

impl Tls {
    /// Loads what is configured, and keeps it up to date as long as it is used; none if nothing is. Must be called within a runtime that lives as
    /// long.
    ///
    /// # Errors
    /// Files that cannot be read, that do not go together, or that others would refuse.
    pub fn open(config: &TlsConfig, metrics: &Metrics) -> Result<Option<Arc<Self>>, ConfigError> {
        config.validate()?;
        if !config.is_on() {
            return Ok(None);
        }
        let contents = read(config)?;
        if let Some(key) = &config.key {
            warn_if_open("tls.key", key);
        }
        let role = RoleName::new(&config.service_name).map_err(|reason| invalid("tls.service_name", reason))?;
        let material = Material::of(config, &role, &contents)?;
        let tls = Arc::new(Self {
            role,
            config: config.clone(),
            material: RwLock::new(Arc::new(material)),
            warned: Mutex::default(),
            refusals: Refusals::new(metrics).map_err(|error| invalid("tls", error.to_string()))?,
            dialling: Pace::default(),
        });
        tls.tell();
        tokio::spawn(keep_up(Arc::downgrade(&tls), contents.fingerprint()));
        Ok(Some(tls))
    }

    /// For connections to a port of this service.
    #[must_use]
    pub fn acceptor(self: &Arc<Self>, port: Port) -> Acceptor {
        Acceptor::new(self.clone(), port)
    }

    /// The same for its metrics, if they are to be encrypted.
    #[must_use]
    pub fn of_metrics(self: &Arc<Self>) -> Option<Acceptor> {
        self.config.metrics.then(|| self.acceptor(Port::Metrics))
    }

    fn material(&self) -> Arc<Material> {
        self.material.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn server(&self, port: Port) -> Arc<ServerConfig> {
        self.material().server(port)
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        self.material().client.clone()
    }

    pub(super) fn role(&self) -> &RoleName {
        &self.role
    }

    /// Whom a server must be, to be dialled there.
    pub(super) fn server_name(&self, host: &str) -> Result<ServerName<'static>, ConfigError> {
        name_of(self.config.server_name.as_deref().unwrap_or(host))
    }

    /// Says how long our certificate holds, and warns in time.
    fn tell(&self) {
        let not_after = self.material().not_after;
        self.refusals.expires(not_after);
        let Some(left) = not_after.map(|end| end.saturating_sub(wall().as_secs())) else {
            return;
        };
        if left > self.config.warn_before.as_secs() {
            return;
        }
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if warned.is_some_and(|before| now.saturating_duration_since(before) < WARN_EVERY) {
            return;
        }
        *warned = Some(now);
        match left {
            0 => {
                tracing::error!("the certificate in tls.cert has expired: others refuse it; put a new one in its place")
            }
            left => {
                tracing::warn!(
                    days_left = left / 86_400,
                    hours_left = left / 3_600,
                    "the certificate in tls.cert is about to expire: put a new one in its place"
                )
            }
        }
    }

    fn replace(&self, material: Material) {
        *self.material.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
        *self.warned.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!("other certificates are in force for new connections");
    }
}

/// As a name to verify.
pub(super) fn name_of(host: &str) -> Result<ServerName<'static>, ConfigError> {
    check_server_name("tls.server_name", Some(host))?;
    ServerName::try_from(host.to_owned()).map_err(|error| invalid("tls.server_name", error.to_string()))
}

fn read(config: &TlsConfig) -> Result<Contents, ConfigError> {
    let (Some(cert), Some(key), Some(ca)) = (&config.cert, &config.key, &config.ca) else {
        return Err(invalid("tls", "encryption needs tls.cert, tls.key and tls.ca"));
    };
    Contents::read(ca, Some((cert, key)))
}

/// What was found in the files, as far as it is not in force.
#[derive(Debug, Default)]
struct Found {
    in_force: u128,
    /// What made no sense at the last look.
    refused: Option<u128>,
    told: Option<u128>,
}

impl Found {
    /// Whether a fault is to be told: at its second sight, and once.
    fn is_to_be_told(&mut self, fingerprint: u128) -> bool {
        let again = self.refused.replace(fingerprint) == Some(fingerprint);
        again && self.told.replace(fingerprint) != Some(fingerprint)
    }

    fn takes(&mut self, fingerprint: u128) {
        *self = Self {
            in_force: fingerprint,
            ..Self::default()
        };
    }
}

/// Looks at the files until nobody uses them any more.
async fn keep_up(tls: Weak<Tls>, fingerprint: u128) {
    let mut found = Found::default();
    found.takes(fingerprint);
    loop {
        let Some(config) = tls.upgrade().map(|tls| tls.config.clone()) else {
            return;
        };
        tokio::time::sleep(config.reload_every).await;
        let Ok(contents) = tokio::task::spawn_blocking(move || read(&config)).await else {
            // The runtime is going.
            return;
        };
        let Some(tls) = tls.upgrade() else { return };
        look(&tls, &mut found, contents);
        tls.tell();
    }
}

fn look(tls: &Tls, found: &mut Found, contents: Result<Contents, ConfigError>) {
    let (fingerprint, made) = match &contents {
        Ok(contents) if contents.fingerprint() == found.in_force => return found.takes(found.in_force),
        Ok(contents) => (contents.fingerprint(), Material::of(&tls.config, &tls.role, contents)),
        Err(error) => (xxh3_128(error.to_string().as_bytes()), Err(error.clone())),
    };
    match made {
        Ok(material) => {
            found.takes(fingerprint);
            tls.replace(material);
        }
        Err(error) if found.is_to_be_told(fingerprint) => {
            tracing::error!(%error, "the certificates that were put in place cannot be used: set that right; those before stay in force");
        }
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_once_and_not_at_first_sight() {
        let mut found = Found::default();
        found.takes(1);
        assert!(!found.is_to_be_told(2), "it may be half written");
        assert!(found.is_to_be_told(2));
        assert!(!found.is_to_be_told(2));
        assert!(!found.is_to_be_told(3));
        assert!(found.is_to_be_told(3), "another fault");
        found.takes(4);
        assert!(!found.is_to_be_told(3));
        assert!(found.is_to_be_told(3), "it came back");
    }
}
