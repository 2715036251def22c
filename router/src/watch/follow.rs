//! Follows one group's log, step by step, for one watch.
//!
//! A step asks for what lies behind the cursor and waits at the node for it, but not for ever: an answer without changes is
//! the sign that nothing happened, and how fresh that is. A node that cannot be reached or cannot prove that it is fresh is
//! left for another; a group that nobody serves for [`PATIENCE`] ends the watch, which its client may go on with later.

use super::{Responses, order};
use crate::dispatch::Dispatch;
use crate::service::unexpected;
use fulcrum_common::Keyspace;
use fulcrum_common::routing::{Attempts, understood};
use fulcrum_common::wire::types::micros;
use fulcrum_common::wire::v1;
use fulcrum_types::{
    Act, Answer, Answered, Change, ChangesQuery, Cursor, GroupId, Level, Query, Receipt, Refusal, ReplicatedTime,
    Selection, WatchPosition,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How fresh a replica must prove to be before it may say that nothing happened.
pub(super) const FRESH: Level = Level::Bounded(Duration::from_secs(2));
/// How long a step waits for a change: less than the router waits for a node's answer.
const WAIT: Duration = Duration::from_millis(500);
const STEP_BYTES: u32 = 256 * 1024;
/// For one round through the replicas.
const ROUND: Duration = Duration::from_secs(2);
/// How long a group may not be served before the watch ends.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// One group's part of a watch.
pub(super) struct Follower {
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) keyspace: Arc<Keyspace>,
    pub(super) group: GroupId,
    pub(super) selection: Selection,
    pub(super) position: WatchPosition,
    pub(super) responses: Responses,
}

/// What a step found.
pub(super) struct Step {
    pub(super) changes: Vec<Change>,
    pub(super) reached: Cursor,
    time: ReplicatedTime,
    receipt: Receipt,
}

impl Follower {
    /// Follows until that is not possible any more, and says why. Never ends because the client went away: whoever runs it
    /// sees that.
    pub(super) async fn run(mut self) -> Refusal {
        loop {
            let gone_on = match self.position.loading.clone() {
                Some(through) => self.load_page(&through).await,
                None => self.step_on().await,
            };
            if let Err(refusal) = gone_on {
                return refusal;
            }
        }
    }

    async fn step_on(&mut self) -> Result<(), Refusal> {
        let step = self.step(WAIT).await?;
        self.position.cursor = step.reached;
        self.tell(Vec::new(), step.changes, step.time, &step.receipt).await;
        Ok(())
    }

    /// The changes behind the cursor.
    pub(super) async fn step(&self, wait: Duration) -> Result<Step, Refusal> {
        let query = ChangesQuery {
            after: Some(self.position.cursor),
            selection: self.selection.clone(),
            max_bytes: STEP_BYTES,
            wait,
        };
        let answered = self.ask(FRESH, Query::Changes(query)).await?;
        match answered.answer {
            Answer::Changes { changes, reached, time } => Ok(Step {
                changes,
                reached,
                time,
                receipt: answered.receipt,
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks until it is answered or finally refused, or nobody has answered for too long.
    pub(super) async fn ask(&self, level: Level, query: Query) -> Result<Answered, Refusal> {
        let began = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            let started = Instant::now();
            let mut order = order(&self.keyspace, self.group, level, query.clone(), started + ROUND);
            if let (fulcrum_types::Operation::Read(read), true) = (&mut order.operation, self.has_begun()) {
                read.seen = Some(self.position.cursor.position);
            }
            let mut attempts = Attempts::new(self.group, order.kind, 0);
            let next = attempts.next(&self.dispatch.table.view());
            let reply = self
                .dispatch
                .attempt_all(&mut attempts, &order, None, next, started)
                .await;
            let refusal = match reply.and_then(understood) {
                Ok(answered) => return Ok(answered),
                Err(refusal) => refusal,
            };
            if self.dispatch.table.view().map.keyspace(self.keyspace.id).is_none() {
                let keyspace = self.keyspace.name.clone();
                return Err(Refusal::UnknownKeyspace { keyspace });
            }
            let may_pass = matches!(refusal.act(), Act::Retry | Act::Redirect | Act::LookUp);
            if !may_pass || began.elapsed() >= PATIENCE {
                return Err(refusal);
            }
            tracing::debug!(group = %self.group, %refusal, "a step of a watch is tried again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether the watch has a place in the log already.
    pub(super) fn has_begun(&self) -> bool {
        self.position.cursor != Cursor::default()
    }

    /// Tells the client. Waits for it to take what came before: that is what holds the watch to its pace.
    pub(super) async fn tell(
        &self,
        current: Vec<v1::scan_page::Row>,
        changes: Vec<Change>,
        time: ReplicatedTime,
        receipt: &Receipt,
    ) {
        let told = current.len() + changes.len();
        if told > 0 {
            self.dispatch.metrics.watch_told(&self.keyspace.name, told);
        }
        let response = v1::WatchResponse {
            start: None,
            group: self.group.0,
            current,
            changes: changes.into_iter().map(Into::into).collect(),
            position: Some(self.position.clone().into()),
            time_ms: time.0,
            staleness_us: receipt.staleness.map(micros),
            replica: receipt.replica.0,
            map_version: receipt.map_version.0,
        };
        if self.responses.send(Ok(response)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Step {
    pub(super) fn time(&self) -> ReplicatedTime {
        self.time
    }

    pub(super) fn receipt(&self) -> &Receipt {
        &self.receipt
    }
}
