//! What a client may be told.

use crate::error::Error;
use crate::transport::Transport;
use fulcrum_common::tls::{ClientFiles, ClientTls};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(5);

/// Where the routers are, and how patient the client is.
///
/// ```
/// use fulcrum_client::Config;
/// use std::time::Duration;
///
/// let config = Config::new("http://127.0.0.1:7400")
///     .or("http://127.0.0.1:7500")
///     .deadline(Duration::from_secs(2));
/// assert_eq!(config.routers().len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    routers: Vec<String>,
    deadline: Duration,
    connect_timeout: Duration,
    tls: Option<Arc<ClientTls>>,
}

/// Whom to take for a server of the cluster, and who to be: files in PEM. They are read again when a connection is made anew.
///
/// ```no_run
/// use fulcrum_client::{Config, Tls};
///
/// # fn main() -> Result<(), fulcrum_client::Error> {
/// let config = Config::new("localhost:7400").tls(Tls::by("ca.pem").certificate("client.pem", "client.key"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tls(ClientFiles);

impl Tls {
    /// Servers have certificates by this authority.
    #[must_use]
    pub fn by(authority: impl Into<PathBuf>) -> Self {
        Self(ClientFiles {
            ca: authority.into(),
            identity: None,
            server_name: None,
        })
    }

    /// Shows this certificate to servers that want one.
    #[must_use]
    pub fn certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.0.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Servers have this name in their certificates, whatever the address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.0.server_name = Some(name.into());
        self
    }
}

impl Config {
    /// One router: `http://host:port`, with encryption `https://host:port`, or `host:port`.
    #[must_use]
    pub fn new(router: impl Into<String>) -> Self {
        Self {
            routers: vec![router.into()],
            deadline: DEADLINE,
            connect_timeout: CONNECT_TIMEOUT,
            tls: None,
        }
    }

    /// Encrypts all connections, to shard-nodes, too. There is no way back to plain text: an address that begins with `http://` is refused.
    ///
    /// # Errors
    /// A file cannot be read or does not hold what it should, or the certificate has expired.
    pub fn tls(mut self, tls: Tls) -> Result<Self, Error> {
        let opened = ClientTls::open(tls.0).map_err(|error| Error::Config {
            reason: error.to_string(),
        })?;
        self.tls = Some(Arc::new(opened));
        Ok(self)
    }

    /// Another router, for when those before it cannot be reached.
    #[must_use]
    pub fn or(mut self, router: impl Into<String>) -> Self {
        self.routers.push(router.into());
        self
    }

    /// How long one request may take, all its retries together, unless it says otherwise. 5 s if not set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one attempt to connect may take. 1 s if not set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The routers as they were named, in the order in which they are tried.
    #[must_use]
    pub fn routers(&self) -> &[String] {
        &self.routers
    }

    pub(crate) fn default_deadline(&self) -> Duration {
        self.deadline
    }

    /// A connection that is made when first needed, and again whenever it breaks.
    pub(crate) fn transport(&self, address: &str) -> Result<Transport, Error> {
        let address = match (address.contains("://"), &self.tls) {
            (true, _) => address.to_owned(),
            (false, Some(_)) => format!("https://{address}"),
            (false, None) => format!("http://{address}"),
        };
        Transport::new(&address, self.connect_timeout, self.tls.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_may_be_left_out() {
        let config = Config::new("127.0.0.1:1").or("http://[::1]:2");
        for router in config.routers() {
            assert!(config.transport(router).is_ok(), "{router}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for nonsense in ["not an address", "https://127.0.0.1:1", "/path"] {
            let error = Config::new("").transport(nonsense).unwrap_err();
            assert!(error.to_string().contains(nonsense), "{error}");
        }
    }
}
