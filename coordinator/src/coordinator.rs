//! The way in: what is asked of a coordinator, whoever serves it.

use crate::contents::{Contents, SplitRead, place};
use crate::effects::Effects;
use crate::event::{Asked, Event, Wanted};
use crate::event_loop::EventLoop;
use crate::metrics::Metrics;
use crate::plan::plan;
use fulcrum_common::budget::Budget;
use fulcrum_common::limits::LONGEST_TRANSACTION;
use fulcrum_common::routing::{Groups, RoutingTable};
use fulcrum_common::{Clock, ClusterMap};
use fulcrum_two_phase::{Options, Reply, RequestId, TwoPhase};
use fulcrum_types::{
    AbortCause, CommitRequest, Committed, GroupId, OutcomeRequest, Participant, Refusal, ResolveRequest, SessionToken,
    Told, TraceContext, TransactionId, TransactionOutcome, TransactionRead, TransactionValues,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Requests that wait for their turn in the event loop.
const INBOX: usize = 1024;

/// Questions that may be open for each transaction that may be under way: most transactions have few groups. What is over is asked
/// after a pause.
const QUESTIONS_A_TRANSACTION: usize = 8;

/// Lists of what is in doubt that are put together at a time: each asks all groups.
const LISTS: usize = 4;

/// What a coordinator may take on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests and transactions under way; more are refused as overload.
    pub transactions_max: usize,
    /// Bytes of keys and values of requests under way; more are refused as overload.
    pub bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            transactions_max: 4_000,
            bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// A coordinator at work. Clones are the same one; it ends with the last, and what is under way then is left to the groups.
#[derive(Clone)]
pub struct Coordinator(Arc<Inner>);

struct Inner {
    events: mpsc::Sender<Event>,
    groups: Arc<dyn Groups>,
    table: Arc<RoutingTable>,
    clock: Arc<dyn Clock>,
    budget: Budget,
    lists: Semaphore,
    last: AtomicU64,
    _task: AbortOnDropHandle<()>,
}

/// Tells the event loop that nobody waits for a request any more, unless it was answered.
struct Waiting<'a> {
    events: &'a mpsc::Sender<Event>,
    request: Option<RequestId>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            // Not told, it goes on until its deadline.
            let _ = self.events.try_send(Event::Gone(request));
        }
    }
}

impl Coordinator {
    /// Starts one; must be called within the runtime that it is to live on. Who owns which key is read from the table, which
    /// somebody else keeps fresh.
    #[must_use]
    pub fn start(
        groups: Arc<dyn Groups>,
        table: Arc<RoutingTable>,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
        metrics: Metrics,
    ) -> Self {
        let (events, inbox) = mpsc::channel(INBOX);
        let options = Options {
            open_max: bounds.transactions_max,
            ..Options::default()
        };
        let questions_max = bounds.transactions_max.saturating_mul(QUESTIONS_A_TRANSACTION);
        let effects = Effects::new(groups.clone(), Arc::new(metrics), questions_max);
        let event_loop = EventLoop::new(TwoPhase::new(options), effects, inbox, clock.clone());
        Self(Arc::new(Inner {
            events,
            groups,
            table,
            clock,
            budget: Budget::new(bounds.bytes_max),
            lists: Semaphore::new(LISTS),
            last: AtomicU64::new(0),
            _task: AbortOnDropHandle::new(tokio::spawn(event_loop.run())),
        }))
    }

    /// Values with their versions.
    ///
    /// # Errors
    /// Why there are none; nothing is held anywhere.
    pub async fn read(&self, read: TransactionRead, until: Instant) -> Result<TransactionValues, Refusal> {
        self.read_traced(read, until, None).await
    }

    /// The same on behalf of a span, if the request's trace is recorded.
    pub(crate) async fn read_traced(
        &self,
        read: TransactionRead,
        until: Instant,
        trace: Option<TraceContext>,
    ) -> Result<TransactionValues, Refusal> {
        let map = self.map_for(&read.session, until).await?;
        let (id, consistent) = (read.id, read.consistent);
        let bytes = read.keys.iter().map(|key| key.what.len()).sum();
        let (parts, positions) = SplitRead::new(&map, read)?.into_parts();
        let wanted = Wanted::Read { id, parts, consistent };
        match self.ask(wanted, bytes, until, trace).await? {
            Reply::Values { parts, receipts } => Ok(TransactionValues {
                observed: SplitRead::values(&positions, parts)?,
                receipts,
            }),
            other => Err(unfit(&other)),
        }
    }

    /// Commits everything, or nothing. It goes on if nobody waits for the answer any more: a client whose connection broke asks
    /// again under the same id.
    ///
    /// # Errors
    /// [`Refusal::Aborted`] and all others but [`Refusal::Unknown`] say that nothing was applied.
    pub async fn commit(&self, request: CommitRequest, until: Instant) -> Result<Committed, Refusal> {
        self.commit_traced(request, until, None).await
    }

    /// The same on behalf of a span, if the request's trace is recorded.
    pub(crate) async fn commit_traced(
        &self,
        request: CommitRequest,
        until: Instant,
        trace: Option<TraceContext>,
    ) -> Result<Committed, Refusal> {
        let id = request.id;
        let committed = self.commit_or_not(request, until, trace).await;
        committed.map_err(|refusal| named(id, refusal))
    }

    async fn commit_or_not(
        &self,
        request: CommitRequest,
        until: Instant,
        trace: Option<TraceContext>,
    ) -> Result<Committed, Refusal> {
        let map = self.map_for(&request.session, until).await?;
        let contents = Contents::of(map.clone(), &request);
        let bytes = size(&request);
        let plan = plan(&map, request)?;
        match self.ask(Wanted::Commit(plan), bytes, until, trace).await? {
            Reply::Committed {
                parts,
                receipts,
                rounds,
            } => Ok(Committed {
                outcome: contents.committed(&parts, rounds)?,
                receipts,
            }),
            Reply::ConditionFailed {
                group,
                condition,
                current,
                receipts,
            } => Ok(Committed {
                outcome: contents.failed(group, condition, current)?,
                receipts,
            }),
            other => Err(unfit(&other)),
        }
    }

    /// What became of a transaction.
    ///
    /// # Errors
    /// Why that is not known.
    pub async fn outcome(&self, request: OutcomeRequest, until: Instant) -> Result<Told, Refusal> {
        let map = self.0.table.view().map.clone();
        let id = request.id;
        match (&request.first_written, request.settle) {
            (Some(key), false) => self.look_up(id, vec![place(&map, key)?], None, until).await,
            (Some(key), true) => {
                self.check_not_of_the_future(id)?;
                let home = place(&map, key)?;
                self.look_up(id, vec![home], Some(AbortCause::Client), until).await
            }
            (None, settle) => {
                let told = self
                    .look_up(id, map.transactional_groups().collect(), None, until)
                    .await?;
                match &told.outcome {
                    // A participant has promised, and this is its home group's answer.
                    TransactionOutcome::Undecided if settle => {
                        let home = self.participant(told.receipt.group)?;
                        self.look_up(id, vec![home], Some(AbortCause::Client), until).await
                    }
                    TransactionOutcome::NotSeen if settle => Err(Refusal::Invalid {
                        reason: format!(
                            "no group has heard of transaction {id}, so its home group is not known: to settle it, name the first key that it writes"
                        ),
                    }),
                    _ => Ok(told),
                }
            }
        }
    }

    /// An operator's word: aborted, unless it is decided already.
    ///
    /// # Errors
    /// Why that is not known.
    pub async fn resolve(&self, request: ResolveRequest, until: Instant) -> Result<Told, Refusal> {
        self.check_not_of_the_future(request.id)?;
        let home = self.participant(request.home)?;
        let cause = AbortCause::Operator;
        self.look_up(request.id, vec![home], Some(cause), until).await
    }

    async fn look_up(
        &self,
        id: TransactionId,
        places: Vec<Participant>,
        settle: Option<AbortCause>,
        until: Instant,
    ) -> Result<Told, Refusal> {
        if places.is_empty() {
            let reason = "no keyspace of this cluster takes part in transactions".into();
            return Err(Refusal::Invalid { reason });
        }
        let wanted = Wanted::LookUp { id, places, settle };
        match self
            .ask(wanted, 0, until, None)
            .await
            .map_err(|refusal| named(id, refusal))?
        {
            Reply::State { state, receipt } => Ok(Told {
                outcome: state.into(),
                receipt,
            }),
            other => Err(unfit(&other)),
        }
    }

    /// An abort that is recorded for an id of the future would forbid what has not begun, and stay until then.
    fn check_not_of_the_future(&self, id: TransactionId) -> Result<(), Refusal> {
        let horizon = u64::try_from(LONGEST_TRANSACTION.as_millis()).unwrap_or(u64::MAX);
        if id.begun_at_ms > self.0.clock.now().wall_ms.saturating_add(horizon) {
            return Err(Refusal::Invalid {
                reason: format!("transaction {id} has not begun yet by the clock here: its outcome cannot be settled"),
            });
        }
        Ok(())
    }

    /// A group by its number.
    pub(crate) fn participant(&self, group: GroupId) -> Result<Participant, Refusal> {
        let view = self.0.table.view();
        let keyspace = view.map.keyspace_of(group).ok_or_else(|| Refusal::Invalid {
            reason: format!("there is no group {group}: `fulcrum status` lists them"),
        })?;
        Ok(Participant {
            keyspace: keyspace.id,
            group,
        })
    }

    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        self.0.table.view().map.clone()
    }

    pub(crate) fn lists(&self) -> &Semaphore {
        &self.0.lists
    }

    pub(crate) fn groups(&self) -> Arc<dyn Groups> {
        self.0.groups.clone()
    }

    /// The map in force, not older than the session's.
    async fn map_for(&self, session: &SessionToken, until: Instant) -> Result<Arc<ClusterMap>, Refusal> {
        self.0.table.catch_up(session.map_version, until).await?;
        Ok(self.map())
    }

    /// Hands a request to the event loop and waits for its answer.
    async fn ask(
        &self,
        wanted: Wanted,
        bytes: usize,
        until: Instant,
        trace: Option<TraceContext>,
    ) -> Result<Reply, Refusal> {
        if self.0.budget.is_spent() {
            return Err(Refusal::Overloaded);
        }
        let left = until.saturating_duration_since(Instant::now());
        let request = RequestId(self.0.last.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            request,
            wanted,
            deadline: self.0.clock.now().mono + left,
            reply,
            share: self.0.budget.take(bytes),
            trace,
        };
        let sent = self.0.events.try_send(Event::Asked(asked));
        sent.map_err(|_| Refusal::Overloaded)?;
        let mut waiting = Waiting {
            events: &self.0.events,
            request: Some(request),
        };
        let result = answer.await;
        waiting.request = None;
        result.unwrap_or_else(|_| {
            Err(Refusal::Unknown {
                reason: "the coordinator is shutting down".into(),
            })
        })
    }
}

/// About how many bytes a commit holds.
fn size(request: &CommitRequest) -> usize {
    use fulcrum_types::{Condition, Mutation};
    let reads = request.reads.iter().map(|read| read.what.key.len());
    let conditions = request.conditions.iter().map(|one| {
        let value = match &one.what.condition {
            Condition::ValueIs(value) => value.len(),
            _ => 0,
        };
        one.what.key.len() + value
    });
    let writes = request.writes.iter().map(|one| {
        let value = match &one.what.mutation {
            Mutation::Put { value, .. } => value.len(),
            Mutation::Delete => 0,
        };
        one.what.key.len() + value
    });
    reads.chain(conditions).chain(writes).sum()
}

/// What is unknown names the transaction by which it can be looked up, and says how.
fn named(id: TransactionId, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Unknown { reason } => Refusal::Unknown {
            reason: format!("transaction {id}: {reason}; ask what became of it with `fulcrum txn show {id}`"),
        },
        other => other,
    }
}

fn unfit(reply: &Reply) -> Refusal {
    tracing::error!(?reply, "the core's answer does not fit the question");
    Refusal::Unknown {
        reason: "the coordinator's answer does not fit the question".into(),
    }
}
