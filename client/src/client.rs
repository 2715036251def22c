//! The client: what all its handles share, and how a request is sent until it is answered.

use crate::admin::Admin;
use crate::answer::Outcome;
use crate::backoff::Backoff;
use crate::config::Config;
use crate::error::{Error, UnfinishedWrite};
use crate::identity::{self, Held, Identities, Identity};
use crate::keyspace::Keyspace;
use crate::pipeline::Pipeline;
use crate::retry::{Next, Retries, Verdict};
use crate::routers::Routers;
use crate::rpc::Unary;
use crate::smart::{Direct, Smart};
use crate::transport::Transport;
use fulcrum_common::routing::Failure;
use fulcrum_common::trace::{self, Failed, Kind, Span};
use fulcrum_common::wire::v1;
use fulcrum_types::{ClientId, NodeId, Refusal, TransactionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A client. Cheap to clone; clones share connections and identity. Works on any tokio runtime, also on a
/// `current_thread` one.
///
/// ```no_run
/// use fulcrum_client::{Client, Config};
///
/// # async fn example() -> Result<(), fulcrum_client::Error> {
/// let client = Client::connect(Config::new("http://127.0.0.1:7400")).await?;
/// let orders = client.keyspace("orders");
/// orders.put("order:1", "paid").await?;
/// let got = orders.get("order:1").await?;
/// assert_eq!(got.value.unwrap().value, "paid");
/// println!("answered by {} at index {}", got.receipt.replica, got.receipt.index);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) routers: Arc<Routers>,
    pub(crate) backoff: Backoff,
    pub(crate) identities: Identities,
    pub(crate) smart: Option<Smart>,
}

impl Client {
    /// Connects to a router; every request goes through routers.
    ///
    /// # Errors
    /// An address makes no sense, or no router answers within the connect timeout.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        Self::start(config, false).await
    }

    /// Connects to a router, learns the cluster map from it and keeps it fresh; requests for one key then go straight
    /// to the shard-node that can serve them. Everything else goes through routers.
    ///
    /// # Errors
    /// An address makes no sense, or no router answers within the connect timeout.
    pub async fn connect_smart(config: Config) -> Result<Self, Error> {
        Self::start(config, true).await
    }

    async fn start(config: Config, smart: bool) -> Result<Self, Error> {
        if config.routers().is_empty() {
            return Err(Error::Config {
                reason: "no router is named: use Config::new(\"http://host:port\")".into(),
            });
        }
        let routers = Arc::new(Routers::new(&config)?);
        let until = Instant::now() + config.default_deadline();
        let smart = if smart {
            Some(Smart::start(&config, routers.clone(), until).await?)
        } else {
            None
        };
        let shared = Shared {
            config,
            routers,
            backoff: Backoff::new(),
            identities: Identities::default(),
            smart,
        };
        shared.open_session(until).await?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The keyspace of that name. Whether there is one shows with the first request.
    #[must_use]
    pub fn keyspace(&self, name: impl Into<String>) -> Keyspace {
        Keyspace::new(self.clone(), name.into())
    }

    /// The operators' side: keyspaces, status, failovers.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// A stream for many small requests at once: by far the fastest way. See [`Pipeline`].
    #[must_use]
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::start(self.clone())
    }

    /// What became of a write whose answer was lost.
    ///
    /// # Errors
    /// As for a read.
    pub async fn outcome(&self, write: &UnfinishedWrite) -> Result<Outcome, Error> {
        let request = v1::GetOutcomeRequest {
            keyspace: write.keyspace.clone(),
            key: write.key.clone(),
            idempotency: Some(write.held.key.into()),
        };
        let until = Instant::now() + self.shared.config.default_deadline();
        Outcome::from_wire(
            self.shared
                .call(request, until)
                .await
                .map_err(|verdict| verdict.error())?,
        )
    }
}

impl Shared {
    /// Sends a request by the shortest way, again and again until it is answered, finally refused, or out of time.
    pub(crate) async fn call<Q: Unary>(&self, request: Q, until: Instant) -> Result<Q::Answer, Verdict> {
        let mut span = self.begin(Q::SPAN);
        let result = self.call_in(&mut span, request, until).await;
        end(span, result)
    }

    async fn call_in<Q: Unary>(&self, span: &mut Span, request: Q, until: Instant) -> Result<Q::Answer, Verdict> {
        if let Some(smart) = &self.smart
            && let Some(route) = smart.route(&request)
        {
            match smart.call(route, &request, until, span).await {
                Ok(answer) => return Ok(answer),
                Err(Direct::Final(verdict)) => return Err(verdict),
                // A router may reach the node that we cannot.
                Err(Direct::NoWay(retries)) => return self.call_router_in(span, request, until, retries).await,
            }
        }
        self.call_router_in(span, request, until, Retries::new(Q::WRITE)).await
    }

    pub(crate) async fn call_router<Q: Unary>(
        &self,
        request: Q,
        until: Instant,
        retries: Retries,
    ) -> Result<Q::Answer, Verdict> {
        let mut span = self.begin(Q::SPAN);
        let result = self.call_router_in(&mut span, request, until, retries).await;
        end(span, result)
    }

    async fn call_router_in<Q: Unary>(
        &self,
        span: &mut Span,
        request: Q,
        until: Instant,
        mut retries: Retries,
    ) -> Result<Q::Answer, Verdict> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(retries.out_of_time());
            }
            let chosen = self.routers.choose();
            let failure = match request.clone().ask(&chosen, left, span.context()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            span.event(|| format!("an attempt failed: {failure:?}").into());
            match retries.after(failure) {
                Next::Again { elsewhere } => {
                    if elsewhere {
                        self.routers.failed(&chosen);
                    }
                    let pause = self.backoff.pause(retries.failed());
                    if Instant::now() + pause >= until {
                        return Err(retries.out_of_time());
                    }
                    tokio::time::sleep(pause).await;
                }
                Next::Fail(verdict) => return Err(verdict),
            }
        }
    }

    /// The span of a call, under what its caller is doing.
    pub(crate) fn begin(&self, name: Option<&'static str>) -> Span {
        match (name, self.config.trace_parent) {
            (Some(name), Some(parent)) => trace::follow(Kind::Client, name, parent()),
            _ => Span::none(),
        }
    }

    /// A write: under a key of its own, the same at every attempt. `keyed` puts the key into the request.
    pub(crate) async fn write<Q: Unary>(
        &self,
        keyspace: &str,
        key: &bytes::Bytes,
        until: Instant,
        keyed: impl Fn(v1::IdempotencyKey) -> Q,
    ) -> Result<(Q::Answer, Arc<Held>), Error> {
        let mut renewed = false;
        loop {
            let held = Arc::new(self.next_key(until).await?);
            match self.call(keyed(held.key.into()), until).await {
                Ok(answer) => return Ok((answer, held)),
                // Nothing was done, and no attempt got lost: our id is too old for this keyspace's retention.
                Err(Verdict::Refused(Refusal::TooOldToTell)) if !renewed => {
                    renewed = true;
                    self.identities.retire(held.key.client);
                }
                Err(Verdict::Unknown(reason)) => {
                    let write = UnfinishedWrite {
                        keyspace: keyspace.to_owned(),
                        key: key.clone(),
                        held,
                    };
                    return Err(Error::Unknown { reason, write });
                }
                Err(verdict) => return Err(verdict.error()),
            }
        }
    }

    /// The next idempotency key, under an id that is renewed from time to time.
    pub(crate) async fn next_key(&self, until: Instant) -> Result<Held, Error> {
        Ok(self.identity(until).await?.next())
    }

    /// The id of a transaction that begins now.
    pub(crate) async fn transaction_id(&self, until: Instant) -> Result<TransactionId, Error> {
        Ok(self.identity(until).await?.begin(identity::now()))
    }

    async fn identity(&self, until: Instant) -> Result<Arc<Identity>, Error> {
        match self.identities.current() {
            Some(identity) if !identity.aged(identity::now()) => return Ok(identity),
            // Somebody else is asking for a new id: the old one does until then.
            Some(identity) if self.identities.opening.try_lock().is_err() => return Ok(identity),
            _ => {}
        }
        self.open_session(until).await
    }

    async fn open_session(&self, until: Instant) -> Result<Arc<Identity>, Error> {
        let _one_at_a_time = self.identities.opening.lock().await;
        if let Some(identity) = self.identities.current()
            && !identity.aged(identity::now())
        {
            return Ok(identity);
        }
        let answer = self
            .call_router(v1::OpenSessionRequest {}, until, Retries::new(false))
            .await
            .map_err(|verdict| verdict.error())?;
        let identity = Identity::new(ClientId(answer.client), answer.issued_at_ms);
        self.identities.set(identity.clone());
        Ok(identity)
    }

    /// A connection to a shard-node.
    pub(crate) fn node_channel(&self, node: NodeId) -> Result<Transport, Failure> {
        match &self.smart {
            Some(smart) => smart.channel(node),
            None => Err(Failure::NotSent("the client knows no shard-nodes".into())),
        }
    }

    pub(crate) fn until(&self, deadline: Option<Duration>) -> Instant {
        Instant::now() + deadline.unwrap_or(self.config.default_deadline())
    }
}

/// A span ends as its call does.
fn end<T>(span: Span, result: Result<T, Verdict>) -> Result<T, Verdict> {
    match &result {
        Ok(_) => span.end(None),
        Err(verdict) => verdict.end(span),
    }
    result
}

impl Verdict {
    /// A span ends so.
    pub(crate) fn end(&self, span: Span) {
        let (code, reason) = match self {
            Verdict::Refused(refusal) => return span.end(Some(refusal)),
            Verdict::Unknown(reason) => ("UNKNOWN", reason),
            Verdict::Unreachable(reason) => ("UNREACHABLE", reason),
        };
        let reason = reason.clone();
        span.end_badly(Failed { code, reason });
    }

    /// For what changes nothing, or brings no key to look it up by.
    pub(crate) fn error(self) -> Error {
        match self {
            Verdict::Refused(refusal) => Error::Refused(refusal),
            Verdict::Unknown(reason) => Error::Refused(Refusal::Unknown { reason }),
            Verdict::Unreachable(reason) => Error::Unreachable { reason },
        }
    }
}
