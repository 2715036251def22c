//! What a client may be told.

use crate::error::Error;
use crate::token::Token;
use crate::transport::Transport;
use fulcrum_common::tls::{ClientFiles, ClientTls};
use fulcrum_types::TraceContext;
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
    pub(crate) trace_parent: Option<fn() -> Option<TraceContext>>,
    token: Option<Token>,
    token_in_clear: bool,
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
            trace_parent: None,
            token: None,
            token_in_clear: false,
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

    /// Requests belong to the trace of whoever makes them: `current` says in which span that is, if its trace is recorded, and is
    /// asked once a request. See `current_span` (with the feature `tracing-opentelemetry`). Not asked for if not set.
    #[must_use]
    pub fn trace_parent(mut self, current: fn() -> Option<TraceContext>) -> Self {
        self.trace_parent = Some(current);
        self
    }

    /// The token to show with every call; none is shown if not set. It is sent to this machine only, as long as nothing encrypts it:
    /// see [`Config::token_in_clear`].
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sends the token also to other machines over connections that are not encrypted, where whoever listens can take it.
    #[must_use]
    pub fn token_in_clear(mut self, allowed: bool) -> Self {
        self.token_in_clear = allowed;
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
        let transport = Transport::new(&address, self.connect_timeout, self.tls.clone())?;
        match &self.token {
            None => Ok(transport),
            Some(token) if self.token_in_clear || !transport.is_overheard() => Ok(transport.showing(token.clone())),
            Some(_) => Err(Error::Config {
                reason: format!(
                    "the token is not sent to {address}: the connection is not encrypted, and others could take it; connect over loopback, or \
                     allow it (`Config::token_in_clear`, `--token-in-clear`)"
                ),
            }),
        }
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
    fn a_token_is_not_sent_where_others_may_listen() {
        let token = Token::new(&format!("fulcrum_00000000000000ff_{}", "0".repeat(64))).unwrap();
        let config = Config::new("").token(token);
        for here in [
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost:1",
            "http://127.8.9.1:1",
        ] {
            assert!(config.transport(here).is_ok(), "{here}");
        }
        for elsewhere in [
            "http://10.0.0.1:1",
            "http://db.example:1",
            "http://localhost.example:1",
            "http://[::2]:1",
        ] {
            let refused = config.transport(elsewhere).unwrap_err().to_string();
            assert!(
                refused.contains("token_in_clear") && refused.contains(elsewhere),
                "{refused}"
            );
            assert!(config.clone().token_in_clear(true).transport(elsewhere).is_ok());
            assert!(
                Config::new("").transport(elsewhere).is_ok(),
                "without a token nothing is at stake"
            );
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
