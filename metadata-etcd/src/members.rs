//! The members of an etcd: who is asked, over which connection, and with which token.
//!
//! One call is one request to one member. It goes to the next one only if it never left this process, and to the same one again
//! only if that refused it because of its token, which it does before it proposes anything. A connection is kept while it is
//! good: HTTP/2 finds its way back by itself. One with certificates is made anew after it broke, from the files as they are then.

use crate::config::EtcdConfig;
use crate::fate::{Fate, explained, fate_of, is_stale_token, of_read, of_write};
use crate::tls;
use etcd_client::{Client, ConnectOptions, Error};
use fulcrum_common::config::{ConfigError, Validate};
use fulcrum_common::metadata::{LeaseId, MetadataError};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// etcd counts a client that pings more often than every 5 s as a nuisance and hangs up.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// All members that the settings name.
pub(crate) struct Members {
    config: EtcdConfig,
    /// One connection for each endpoint, once it was needed.
    connections: Vec<Mutex<Option<Arc<Connection>>>>,
    /// The endpoint that is asked first.
    preferred: AtomicUsize,
}

/// A connection to one member, with the token that it was given if it was asked for a user.
struct Connection {
    client: Client,
    /// How often the token was renewed. Whoever finds it refused renews it, unless somebody else has meanwhile: etcd makes
    /// passwords slow to check.
    renewals: Mutex<u64>,
}

impl Connection {
    /// One request, once more if its token had expired, and then with a new one.
    async fn ask<T, F>(&self, request: &impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let renewals = *self.renewals.lock().await;
        match request(self.client.clone()).await {
            Err(error) if is_stale_token(&error) => {
                self.renew(renewals).await.map_err(Failure::NotSent)?;
                request(self.client.clone()).await.map_err(Failure::of)
            }
            answer => answer.map_err(Failure::of),
        }
    }

    async fn renew(&self, known: u64) -> Result<(), Error> {
        let mut renewals = self.renewals.lock().await;
        if *renewals == known {
            self.client.refresh_token().await?;
            *renewals += 1;
        }
        Ok(())
    }
}

/// Why one member did not answer a request.
enum Failure {
    /// The request never reached anybody, or was refused before this: another member may be asked.
    NotSent(Error),
    Failed(Error),
}

impl Failure {
    fn of(error: Error) -> Self {
        match fate_of(&error) {
            Fate::NotSent => Failure::NotSent(error),
            _ => Failure::Failed(error),
        }
    }
}

impl Members {
    /// Checks the settings, and the files that they name. Does not connect.
    pub(crate) fn new(config: EtcdConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        tls::options(&config)?;
        let connections = config.endpoints.iter().map(|_| Mutex::default()).collect();
        Ok(Self {
            config,
            connections,
            preferred: AtomicUsize::new(0),
        })
    }

    pub(crate) fn config(&self) -> &EtcdConfig {
        &self.config
    }

    /// The connection to an endpoint. With a user, the first call asks etcd for a token, and fails if that cannot be had; the
    /// next one tries again.
    async fn connection(&self, at: usize) -> Result<Arc<Connection>, Error> {
        let mut slot = self.connections[at].lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let connection = Arc::new(Connection {
            client: Client::connect([&self.config.endpoints[at]], Some(self.options()?)).await?,
            renewals: Mutex::new(0),
        });
        *slot = Some(connection.clone());
        Ok(connection)
    }

    fn options(&self) -> Result<ConnectOptions, Error> {
        let config = &self.config;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.connect_timeout)
            .with_keep_alive(PING_EVERY, PONG_WITHIN)
            // A member that has lost its leader would keep a watch open and tell nothing.
            .with_require_leader(true);
        if let (Some(user), Some(password)) = (&config.user, &config.password) {
            options = options.with_user(user, password);
        }
        match tls::options(config) {
            Ok(Some(tls)) => options = options.with_tls(tls),
            Ok(None) => {}
            // They were good at the start: somebody is about to renew them, or has made a mistake.
            Err(error) => return Err(Error::InvalidArgs(error.to_string())),
        }
        Ok(options)
    }

    /// The next request connects anew if certificates may be the cause of a failure.
    async fn reconsider(&self, at: usize, connection: &Arc<Connection>) {
        if self.config.ca_file.is_none() {
            return;
        }
        let mut slot = self.connections[at].lock().await;
        if slot.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, connection)) {
            *slot = None;
        }
    }

    /// One request within its time. It goes to the next endpoint only while it never left.
    pub(crate) async fn ask<T, F>(&self, request: impl Fn(Client) -> F) -> Answer<T>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut turn = Turn::of(self);
        let (count, first) = (self.connections.len(), turn.at());
        let asking = async {
            let mut reason = String::new();
            for at in (first..first + count).map(|at| at % count) {
                turn.at.store(at, Ordering::Relaxed);
                match self.ask_one(at, &request).await {
                    Ok(answer) => return Answer::Got(answer),
                    Err(Failure::NotSent(error)) => {
                        reason = format!("{}: {}", self.config.endpoints[at], explained(&error));
                    }
                    Err(Failure::Failed(error)) => return Answer::Failed(error),
                }
            }
            Answer::NotSent(reason)
        };
        let within = self.config.request_timeout;
        let answer = tokio::time::timeout(within, asking).await.unwrap_or_else(|_| {
            let asked = &self.config.endpoints[turn.at()];
            Answer::Late(format!("no answer from {asked} within {} ms", within.as_millis()))
        });
        turn.was_good = !answer.is_a_members_failure();
        answer
    }

    async fn ask_one<T, F>(&self, at: usize, request: &impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        // Only a token was asked for.
        let connection = self.connection(at).await.map_err(Failure::NotSent)?;
        let answer = connection.ask(request).await;
        let is_broken = match &answer {
            Ok(_) => false,
            Err(Failure::NotSent(_)) => true,
            Err(Failure::Failed(error)) => fate_of(error) == Fate::Unknown,
        };
        if is_broken {
            self.reconsider(at, &connection).await;
        }
        answer
    }
}

/// One request's turn through the endpoints. Whoever has not answered as it should by its end is asked last the next time;
/// so, too, if the caller has lost its patience and dropped the request.
struct Turn<'a> {
    members: &'a Members,
    /// Who is asked.
    at: AtomicUsize,
    was_good: bool,
}

impl<'a> Turn<'a> {
    fn of(members: &'a Members) -> Self {
        Self {
            members,
            at: AtomicUsize::new(members.preferred.load(Ordering::Relaxed)),
            was_good: false,
        }
    }

    fn at(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let next = self.at() + usize::from(!self.was_good);
        self.members
            .preferred
            .store(next % self.members.connections.len(), Ordering::Relaxed);
    }
}

/// What became of one request.
pub(crate) enum Answer<T> {
    Got(T),
    Failed(Error),
    /// It never left.
    NotSent(String),
    /// The time was up.
    Late(String),
}

impl<T> Answer<T> {
    /// Another member may do better.
    fn is_a_members_failure(&self) -> bool {
        match self {
            Answer::Got(_) => false,
            Answer::Failed(error) => matches!(fate_of(error), Fate::Unknown | Fate::NotNow),
            Answer::NotSent(_) | Answer::Late(_) => true,
        }
    }

    pub(crate) fn of_read(self) -> Result<T, MetadataError> {
        match self {
            Answer::Got(answer) => Ok(answer),
            Answer::Failed(error) => Err(of_read(&error)),
            Answer::NotSent(reason) | Answer::Late(reason) => Err(MetadataError::Unavailable(reason)),
        }
    }

    /// Of a write that names these leases.
    pub(crate) fn of_write(self, leases: &[LeaseId]) -> Result<T, MetadataError> {
        match (self, leases) {
            (Answer::Got(answer), _) => Ok(answer),
            // Of several leases etcd does not say which.
            (Answer::Failed(error), [lease]) if fate_of(&error) == Fate::NoLease => {
                Err(MetadataError::NoSuchLease { lease: *lease })
            }
            (Answer::Failed(error), _) => Err(of_write(&error)),
            (Answer::NotSent(reason), _) => Err(MetadataError::Unavailable(reason)),
            (Answer::Late(reason), _) => Err(MetadataError::Unknown(reason)),
        }
    }
}
