//! Watches: the changes of a key, a prefix or a keyspace, merged from the groups' logs.
//!
//! **The promise.** What a client is told of a group is its log, from where the watch began or goes on: every change once and
//! in order, over failovers and restarts of nodes, of this router and of the client. Where that cannot be kept (the log is
//! compacted, an `async` failover lost what was told) the stream ends with an error that says so.
//!
//! **The protocol.** One task a group asks for the next step behind its cursor when the one before has been taken by the
//! client ([`follow`]), so a slow client holds up its own watch and fills nothing. Nothing is kept here that the token does
//! not carry: the first message holds a position of every group, each later one moves one group's. Steps go to the primary
//! first, whose news are the newest, and to any other replica when that fails.
//!
//! **Left out.** Moving slots between groups: a change of owner will end a group's part and begin the other's. Sharing one
//! group's log among many watches of one router: each reads for itself. Following more of a watch in traces than its opening.

mod current;
mod follow;

use crate::dispatch::Order;
use crate::metrics::{Metrics, cause};
use crate::service::{KvService, unexpected};
use bytes::Bytes;
use follow::{FRESH, Follower};
use fulcrum_common::Keyspace;
use fulcrum_common::routing::Kind;
use fulcrum_common::wire::{status, v1};
use fulcrum_types::{
    Answer, ChangesQuery, Cursor, GroupId, Level, Mode, Operation, Query, ReadRequest, Refusal, Selection,
    TraceContext, WatchPosition, WatchToken,
};
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Messages that may wait for a client; the groups wait behind them.
const AHEAD: usize = 4;

type Responses = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// All open watches of a router: how many groups they may follow.
#[derive(Clone)]
pub(crate) struct Watches {
    metrics: Arc<Metrics>,
    groups_max: u32,
}

impl Watches {
    pub(crate) fn new(metrics: Arc<Metrics>, groups_max: u32) -> Self {
        Self { metrics, groups_max }
    }

    fn admit(&self, groups: usize) -> Result<Following, Refusal> {
        let groups = i64::try_from(groups).unwrap_or(i64::MAX);
        self.metrics.watched_groups.add(groups);
        let following = Following {
            metrics: self.metrics.clone(),
            groups,
        };
        if self.metrics.watched_groups.get() > i64::from(self.groups_max) {
            return Err(Refusal::Overloaded);
        }
        Ok(following)
    }
}

/// Counts groups as followed until dropped.
struct Following {
    metrics: Arc<Metrics>,
    groups: i64,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.metrics.watched_groups.sub(self.groups);
    }
}

/// Opens a watch: finds where each group begins, then follows them until the client goes away, `ends` comes, or a refusal.
pub(crate) async fn open(
    service: &KvService,
    request: v1::WatchRequest,
    ends: Option<Instant>,
    asked_by: Option<TraceContext>,
) -> Result<ReceiverStream<Result<v1::WatchResponse, Status>>, Refusal> {
    let until = Instant::now() + service.default_deadline;
    let from = request.from.map(WatchToken::from);
    if from.is_some() && request.include_current {
        return Err(Refusal::Invalid {
            reason: "a watch goes on from a token, or begins with the current values, not both".into(),
        });
    }
    if let Some(token) = &from {
        service.catch_up(token.map_version, until).await?;
    }
    let keyspace = service.keyspace(&request.keyspace)?;
    let selection = selection(request.keys);
    let groups = groups(service, &keyspace, &selection);
    let following = service.watches.admit(groups.len())?;
    let positions = match (from, request.include_current) {
        (Some(token), _) => positions_of(token, &groups)?,
        (None, true) => groups.iter().map(|group| (*group, to_load())).collect(),
        (None, false) => positions_now(service, &keyspace, &groups, until, asked_by).await?,
    };
    let (responses, stream) = mpsc::channel(AHEAD);
    let watch = Watch {
        service: service.clone(),
        keyspace,
        selection,
        positions,
        responses,
        _following: following,
    };
    tokio::spawn(watch.run(ends));
    Ok(ReceiverStream::new(stream))
}

fn selection(keys: Option<v1::watch_request::Keys>) -> Selection {
    use v1::watch_request::Keys;
    match keys {
        None => Selection::All,
        Some(Keys::Prefix(prefix)) if prefix.is_empty() => Selection::All,
        Some(Keys::Prefix(prefix)) => Selection::Prefix(prefix),
        Some(Keys::Key(key)) => Selection::Key(key),
    }
}

/// The groups that can hold a change of the selection.
fn groups(service: &KvService, keyspace: &Keyspace, selection: &Selection) -> Vec<GroupId> {
    match selection {
        Selection::Key(key) => vec![keyspace.group_of(key)],
        Selection::All | Selection::Prefix(_) => {
            let view = service.dispatch.table.view();
            view.map.groups_of(keyspace.id).collect()
        }
    }
}

fn to_load() -> WatchPosition {
    WatchPosition {
        cursor: Cursor::default(),
        loading: Some(Bytes::new()),
    }
}

fn positions_of(mut token: WatchToken, groups: &[GroupId]) -> Result<BTreeMap<GroupId, WatchPosition>, Refusal> {
    let known = groups.iter().map(|group| match token.groups.remove(group) {
        Some(position) => Ok((*group, position)),
        None => Err(Refusal::Invalid {
            reason: format!("the token has no position in group {group}: it is of another keyspace or other keys"),
        }),
    });
    known.collect()
}

/// Where each group is now. `sync`: at or behind every write acknowledged before the watch was asked for.
async fn positions_now(
    service: &KvService,
    keyspace: &Arc<Keyspace>,
    groups: &[GroupId],
    until: Instant,
    asked_by: Option<TraceContext>,
) -> Result<BTreeMap<GroupId, WatchPosition>, Refusal> {
    let level = match keyspace.options.mode {
        Mode::Sync => Level::Linearizable,
        Mode::Async => FRESH,
    };
    let asked = groups.iter().map(|group| async move {
        let query = ChangesQuery {
            after: None,
            selection: Selection::All,
            max_bytes: 1,
            wait: Duration::ZERO,
        };
        let order = order(keyspace, *group, level, Query::Changes(query), until);
        let answered = service.dispatch.ask(order, asked_by).await?;
        match answered.answer {
            Answer::Changes { reached: cursor, .. } => Ok((*group, WatchPosition { cursor, loading: None })),
            other => Err(unexpected(&other)),
        }
    });
    Ok(try_join_all(asked).await?.into_iter().collect())
}

/// A read for a watch: of the primary first, whatever level is asked.
fn order(keyspace: &Arc<Keyspace>, group: GroupId, level: Level, query: Query, until: Instant) -> Order {
    Order {
        keyspace: keyspace.clone(),
        group,
        operation: Operation::Read(ReadRequest {
            level,
            acceptable: Vec::new(),
            seen: None,
            query,
        }),
        kind: Kind::Read(Level::Linearizable),
        name: "watch",
        until,
        pass_on: false,
        in_doubt: false,
    }
}

/// A watch under way.
struct Watch {
    service: KvService,
    keyspace: Arc<Keyspace>,
    selection: Selection,
    positions: BTreeMap<GroupId, WatchPosition>,
    responses: Responses,
    _following: Following,
}

impl Watch {
    async fn run(self, ends: Option<Instant>) {
        let metrics = self.service.dispatch.metrics.clone();
        let name = self.keyspace.name.clone();
        metrics.watch_begins(&name);
        let time_up = async {
            match ends {
                Some(ends) => tokio::time::sleep_until(ends).await,
                None => std::future::pending().await,
            }
        };
        let responses = self.responses.clone();
        let (cause, refusal) = tokio::select! {
            refusal = self.follow_all() => (cause(&refusal), Some(refusal)),
            () = time_up => (cause(&Refusal::DeadlineExceeded), Some(Refusal::DeadlineExceeded)),
            () = responses.closed() => ("client", None),
            // The client goes on at another router, from what it was told.
            () = self.service.life.stopped() => ("stopped", None),
        };
        metrics.watch_ended(&name, cause);
        if let Some(refusal) = refusal {
            tracing::debug!(keyspace = name, %refusal, "watch ended");
            // The client may have gone.
            let _ = responses.send(Err(status::refusal_to_status(&refusal))).await;
        }
    }

    /// Follows all groups until one of them cannot be followed any further.
    async fn follow_all(&self) -> Refusal {
        let start = WatchToken {
            map_version: self.service.dispatch.table.view().map.version(),
            groups: self.positions.clone(),
        };
        let first = v1::WatchResponse {
            start: Some(start.into()),
            ..v1::WatchResponse::default()
        };
        if self.responses.send(Ok(first)).await.is_err() {
            return std::future::pending().await;
        }
        let followers = self.positions.iter().map(|(group, position)| {
            let follower = Follower {
                dispatch: self.service.dispatch.clone(),
                keyspace: self.keyspace.clone(),
                group: *group,
                selection: self.selection.clone(),
                position: position.clone(),
                responses: self.responses.clone(),
            };
            follower.run()
        });
        let mut followers: FuturesUnordered<_> = followers.collect();
        match followers.next().await {
            Some(refusal) => refusal,
            None => Refusal::UnknownKeyspace {
                keyspace: self.keyspace.name.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{Epoch, Index, LogPosition};

    #[test]
    fn a_token_must_know_every_group_it_is_used_for() {
        let position = WatchPosition {
            cursor: Cursor::behind(LogPosition {
                epoch: Epoch(1),
                index: Index(5),
            }),
            loading: None,
        };
        let token = WatchToken {
            groups: [(GroupId(1), position.clone()), (GroupId(2), to_load())].into(),
            ..WatchToken::default()
        };
        let one = positions_of(token.clone(), &[GroupId(1)]).unwrap();
        assert_eq!(one, [(GroupId(1), position)].into());
        let refused = positions_of(token, &[GroupId(2), GroupId(3)]).unwrap_err();
        assert!(refused.to_string().contains("group g3"), "{refused}");
    }
}
