//! Watches: what changes, each change once, in the order of its group.
//!
//! A stream that breaks is taken up again where it ended; so a caller sees no break, only a pause. Every event moves the
//! [token](WatchEvents::token), with which another process, or this one after a restart, goes on without gap or repetition.
//! What cannot be gone on with (the log is compacted, an `async` failover lost what was told) ends the stream with an error.

use crate::error::Error;
use crate::keyspace::{IntoBytes, Keyspace};
use crate::retry::{Next, Retries, Verdict};
use crate::rpc;
use crate::scan::Row;
use bytes::Bytes;
use fulcrum_common::routing::Failure;
use fulcrum_common::wire::trace::into_metadata;
use fulcrum_common::wire::{Malformed, v1};
use fulcrum_types::{
    Change, Cursor, GroupId, MapVersion, NodeId, ReplicatedTime, Selection, WatchPosition, WatchToken,
};
use futures::stream::{self, BoxStream, Stream};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Streaming};

/// How long a watch is tried to be taken up again before it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Routers say every half second how far they are, unless a group is not served: then they give up before this.
const QUIET_MAX: Duration = Duration::from_secs(45);

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A present value: part of the initial state that was asked for.
    Current {
        /// The group that holds it.
        group: GroupId,
        /// The key and its value.
        row: Row,
    },
    /// A change.
    Change {
        /// The group whose log tells it.
        group: GroupId,
        /// What happened to which key.
        change: Change,
    },
    /// Everything up to here was told, also if that was nothing.
    Progress(Progress),
}

/// How far a watch has come in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The group.
    pub group: GroupId,
    /// How far.
    pub position: WatchPosition,
    /// Replicated time of the last entry looked at; 0: not told.
    pub time: ReplicatedTime,
    /// How far behind the group that may be, if it can be proved.
    pub staleness: Option<Duration>,
    /// Who was asked.
    pub replica: NodeId,
}

/// A watch of a keyspace, to be narrowed and then [opened](Watch::events).
///
/// ```no_run
/// use fulcrum_client::{Client, WatchEvent};
/// use futures::TryStreamExt;
///
/// # async fn example(client: Client) -> Result<(), fulcrum_client::Error> {
/// let mut events = client.keyspace("orders").watch().prefix("order:").events();
/// while let Some(event) = events.try_next().await? {
///     if let WatchEvent::Change { change, .. } = event {
///         println!("{:?}: {:?}", change.key, change.kind);
///     }
///     // Kept somewhere, this is where another process goes on.
///     let token = events.token();
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "a watch begins with its events"]
pub struct Watch {
    keyspace: Keyspace,
    selection: Selection,
    from: Option<WatchToken>,
    include_current: bool,
    patience: Duration,
}

impl Watch {
    pub(crate) fn new(keyspace: Keyspace) -> Self {
        Self {
            keyspace,
            selection: Selection::All,
            from: None,
            include_current: false,
            patience: PATIENCE,
        }
    }

    /// Only this key.
    pub fn key(mut self, key: impl IntoBytes) -> Self {
        self.selection = Selection::Key(key.into_bytes());
        self
    }

    /// Only keys that begin so.
    pub fn prefix(mut self, prefix: impl IntoBytes) -> Self {
        self.selection = Selection::Prefix(prefix.into_bytes());
        self
    }

    /// Goes on from the token of an earlier watch of the same keys.
    pub fn from(mut self, token: WatchToken) -> Self {
        self.from = Some(token);
        self.include_current = false;
        self
    }

    /// The present values first, then what changes them.
    pub fn with_current(mut self) -> Self {
        self.include_current = true;
        self.from = None;
        self
    }

    /// How long a broken watch is tried to be taken up again before it fails; a minute if not said.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Opens the watch when first polled.
    #[must_use]
    pub fn events(self) -> WatchEvents {
        let token = Arc::new(Mutex::new(self.from.clone()));
        let watching = Watching {
            told_at: Instant::now(),
            token: token.clone(),
            watch: self,
            stream: None,
            retries: Retries::new(false),
            ready: VecDeque::new(),
        };
        let events = stream::try_unfold(watching, |mut watching| async move {
            let event = watching.next().await?;
            Ok(Some((event, watching)))
        });
        WatchEvents {
            events: Box::pin(events),
            token,
        }
    }

    fn request(&self, token: Option<WatchToken>) -> v1::WatchRequest {
        use v1::watch_request::Keys;
        v1::WatchRequest {
            keyspace: self.keyspace.name.clone(),
            keys: match &self.selection {
                Selection::All => None,
                Selection::Prefix(prefix) => Some(Keys::Prefix(prefix.clone())),
                Selection::Key(key) => Some(Keys::Key(key.clone())),
            },
            include_current: self.include_current && token.is_none(),
            from: token.map(Into::into),
        }
    }
}

/// The events of a watch: a stream that only an error ends.
pub struct WatchEvents {
    events: BoxStream<'static, Result<WatchEvent, Error>>,
    token: Arc<Mutex<Option<WatchToken>>>,
}

impl WatchEvents {
    /// Where to go on behind the events taken so far; none before the watch has begun. Among [`WatchEvent::Current`]s it
    /// stands before the page of values that is being told: they are told once more.
    #[must_use]
    pub fn token(&self) -> Option<WatchToken> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Stream for WatchEvents {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}

/// An event, and where its group stands once it is told.
type Ready = (WatchEvent, Option<WatchPosition>);

/// A watch under way.
struct Watching {
    watch: Watch,
    token: Arc<Mutex<Option<WatchToken>>>,
    stream: Option<Streaming<v1::WatchResponse>>,
    retries: Retries,
    /// When the servers were last heard.
    told_at: Instant,
    ready: VecDeque<Ready>,
}

impl Watching {
    async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some((event, position)) = self.ready.pop_front() {
                self.move_on(&event, position);
                return Ok(event);
            }
            match self.read().await {
                Ok(response) => {
                    self.told_at = Instant::now();
                    self.retries = Retries::new(false);
                    self.take(response)?;
                }
                Err(failure) => self.recover(failure).await?,
            }
        }
    }

    fn with_token<T>(&self, run: impl FnOnce(&mut Option<WatchToken>) -> T) -> T {
        run(&mut self.token.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn move_on(&self, event: &WatchEvent, position: Option<WatchPosition>) {
        let Some(position) = position else { return };
        let group = event.group();
        self.with_token(|token| {
            if let Some(token) = token {
                token.groups.insert(group, position);
            }
        });
    }

    async fn read(&mut self) -> Result<v1::WatchResponse, Failure> {
        let mut messages = match self.stream.take() {
            Some(messages) => messages,
            None => self.open().await?,
        };
        let message = tokio::time::timeout(QUIET_MAX, messages.message())
            .await
            .map_err(|_| Failure::Lost("nothing was heard of the watch for too long".into()))?;
        let response = message.map_err(|status| rpc::broke(&status))?;
        self.stream = Some(messages);
        response.ok_or_else(|| Failure::Lost("the router ended the watch".into()))
    }

    async fn open(&self) -> Result<Streaming<v1::WatchResponse>, Failure> {
        let shared = &self.watch.keyspace.client.shared;
        // Of the opening: a watch is as long as its caller likes.
        let mut span = shared.begin(Some("fulcrum.v1.Kv/Watch"));
        let mut request = Request::new(self.watch.request(self.with_token(|token| token.clone())));
        into_metadata(span.context(), request.metadata_mut());
        let chosen = shared.routers.choose();
        let mut client = rpc::kv(chosen.channel.clone());
        let deadline = shared.config.default_deadline();
        let opened = match tokio::time::timeout(deadline, client.watch(request)).await {
            Ok(Ok(response)) => {
                span.end(None);
                return Ok(response.into_inner());
            }
            Ok(Err(status)) => rpc::failure(&status),
            Err(_) => Failure::Lost("no answer came in time".into()),
        };
        span.event(|| format!("an attempt failed: {opened:?}").into());
        let verdict = match &opened {
            Failure::Refused(refusal) => Verdict::Refused(refusal.clone()),
            Failure::NotSent(reason) | Failure::Lost(reason) => Verdict::Unreachable(reason.clone()),
        };
        verdict.end(span);
        if !matches!(opened, Failure::Refused(_)) {
            shared.routers.failed(&chosen);
        }
        Err(opened)
    }

    fn take(&mut self, response: v1::WatchResponse) -> Result<(), Error> {
        if let Some(start) = response.start {
            self.with_token(|token| *token = Some(start.into()));
            return Ok(());
        }
        let seen = MapVersion(response.map_version);
        self.with_token(|token| {
            if let Some(token) = token {
                token.map_version = token.map_version.max(seen);
            }
        });
        self.ready = ready(response)?.into();
        Ok(())
    }

    async fn recover(&mut self, failure: Failure) -> Result<(), Error> {
        self.stream = None;
        let shared = &self.watch.keyspace.client.shared;
        match self.retries.after(failure) {
            Next::Fail(verdict) => Err(verdict.error()),
            Next::Again { .. } => {
                let pause = shared.backoff.pause(self.retries.failed());
                if self.told_at.elapsed() + pause >= self.watch.patience {
                    return Err(self.retries.out_of_time().error());
                }
                tokio::time::sleep(pause).await;
                Ok(())
            }
        }
    }
}

impl WatchEvent {
    /// The group that it is about.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            WatchEvent::Current { group, .. } | WatchEvent::Change { group, .. } => *group,
            WatchEvent::Progress(progress) => progress.group,
        }
    }
}

/// The events of one message.
fn ready(response: v1::WatchResponse) -> Result<Vec<Ready>, Malformed> {
    let group = GroupId(response.group);
    let position = response.position.ok_or_else(|| Malformed::missing("watch.position"))?;
    let position: WatchPosition = position.into();
    let loads = !response.current.is_empty();
    let mut events = Vec::with_capacity(response.current.len() + response.changes.len() + 1);
    for row in response.current {
        let value = row.value.ok_or_else(|| Malformed::missing("watch.current.value"))?;
        let row = Row {
            key: row.key,
            value: value.into(),
        };
        events.push((WatchEvent::Current { group, row }, None));
    }
    for change in response.changes {
        let change = Change::try_from(change)?;
        // Where the values of a page are not all told yet, no position says so.
        let behind = (!loads).then(|| behind(&change, position.loading.clone()));
        events.push((WatchEvent::Change { group, change }, behind));
    }
    let progress = Progress {
        group,
        position: position.clone(),
        time: ReplicatedTime(response.time_ms),
        staleness: response.staleness_us.map(Duration::from_micros),
        replica: NodeId(response.replica),
    };
    events.push((WatchEvent::Progress(progress), Some(position)));
    Ok(events)
}

fn behind(change: &Change, loading: Option<Bytes>) -> WatchPosition {
    WatchPosition {
        cursor: Cursor {
            position: change.position,
            part: Some(change.ordinal + 1),
        },
        loading,
    }
}
