//! What a client may be told.

use crate::error::Error;
use crate::transport::Transport;
use fulcrum_types::TraceContext;
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
}

impl Config {
    /// One router: `http://host:port`, or `host:port`.
    #[must_use]
    pub fn new(router: impl Into<String>) -> Self {
        Self {
            routers: vec![with_scheme(router.into())],
            deadline: DEADLINE,
            connect_timeout: CONNECT_TIMEOUT,
            trace_parent: None,
        }
    }

    /// Another router, for when those before it cannot be reached.
    #[must_use]
    pub fn or(mut self, router: impl Into<String>) -> Self {
        self.routers.push(with_scheme(router.into()));
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

    /// The routers, in the order in which they are tried.
    #[must_use]
    pub fn routers(&self) -> &[String] {
        &self.routers
    }

    pub(crate) fn default_deadline(&self) -> Duration {
        self.deadline
    }

    /// A connection that is made when first needed, and again whenever it breaks.
    pub(crate) fn transport(&self, address: &str) -> Result<Transport, Error> {
        Transport::new(address, self.connect_timeout)
    }
}

pub(crate) fn with_scheme(address: String) -> String {
    if address.contains("://") {
        return address;
    }
    format!("http://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_may_be_left_out() {
        let config = Config::new("127.0.0.1:1").or("http://[::1]:2");
        assert_eq!(config.routers(), ["http://127.0.0.1:1", "http://[::1]:2"]);
    }

    #[test]
    fn nonsense_is_named() {
        for nonsense in ["not an address", "https://127.0.0.1:1", "/path"] {
            let error = Config::new("").transport(nonsense).unwrap_err();
            assert!(error.to_string().contains(nonsense), "{error}");
        }
    }
}
