//! Transactions: read, decide, write, and commit all of it at one moment or nothing at all.
//!
//! ```no_run
//! use fulcrum_client::{Client, Error};
//!
//! # async fn example(client: Client) -> Result<(), Error> {
//! let moved = client
//!     .transaction(async |t| -> Result<_, Error> {
//!         let stock = t.get("stock", "apples").await?;
//!         if stock.as_deref() != Some(b"1") {
//!             return Ok(false);
//!         }
//!         t.delete("stock", "apples");
//!         t.put("orders", "order:7", "apples");
//!         Ok(true)
//!     })
//!     .await?;
//! println!("{:?} at the {}. attempt", moved.outcome, moved.attempts);
//! # Ok(()) }
//! ```
//!
//! A transaction is optimistic. Its closure reads from the groups and keeps its writes to itself (`handle`); nothing is locked and
//! nothing is sent before it returns. Then one commit carries what was read with its versions, the conditions and the writes
//! (`commit`). If it is aborted the closure runs again under a new id, with the first one's age, after a pause (`course`). The
//! closure may therefore run several times: what it does besides must bear that.
//!
//! The closure is any `FnMut(Transaction) -> impl Future`: `async |t| ...`, which may borrow from its surroundings, or
//! `|t| async move ...`. It is not bounded by `AsyncFnMut`, for a future that calls one cannot be spawned today (its calls are not
//! known to be `Send`). So the handle is passed by value, and must be gone when the closure's future ends.
//!
//! Sources: `docs/transactions.md`. Left out: scans in transactions (they are not validated, see there) and savepoints.

mod answer;
mod commit;
mod course;
mod handle;
mod look_up;
mod one_shot;

pub use answer::{ConditionFailed, Snapshot, Took, Transacted};
pub use handle::{Put, Transaction};
pub use look_up::{TransactionLookUp, UnfinishedTransaction};
pub use one_shot::Commit;

use crate::client::Client;
use crate::error::Error;
use crate::keyspace::IntoBytes;
use crate::session::Session;
use commit::Uncommitted;
use course::Course;
use fulcrum_types::{NamedKey, Refusal};
use handle::Closed;
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Attempts of a transaction, if nothing else is said. Under wait-die the oldest always wins: with pauses of up to 200 ms a
/// deadline usually ends a transaction before this does.
const ATTEMPTS: u32 = 32;

/// Runs transactions, with the choices that they start from. From [`Client::transactions`]. Cheap to clone.
#[derive(Clone)]
#[must_use = "it holds choices; what it runs is sent"]
pub struct Transactions {
    client: Client,
    choices: Choices,
}

#[derive(Clone)]
struct Choices {
    session: Option<Session>,
    deadline: Option<Duration>,
    attempts: u32,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            session: None,
            deadline: None,
            attempts: ATTEMPTS,
        }
    }
}

macro_rules! choices {
    () => {
        /// In a session: nothing older is read than it has seen, and it takes in all that was written.
        pub fn in_session(mut self, session: &Session) -> Self {
            self.choices.session = Some(session.clone());
            self
        }

        /// How long it may take, all attempts and pauses together. If not set: the client's deadline.
        pub fn within(mut self, deadline: Duration) -> Self {
            self.choices.deadline = Some(deadline);
            self
        }

        /// How often it is tried at most, the first time included. 32 if not set.
        pub fn attempts(mut self, attempts: u32) -> Self {
            self.choices.attempts = attempts.max(1);
            self
        }
    };
}
use choices;

impl Client {
    /// Runs a transaction: see [`Transactions::run`].
    ///
    /// # Errors
    /// What the closure returns, or why the transaction could not be committed.
    pub async fn transaction<T, E, Fut>(&self, run: impl FnMut(Transaction) -> Fut) -> Result<Transacted<T>, E>
    where
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.transactions().run(run).await
    }

    /// Transactions with choices of their own: a session, a deadline, a number of attempts.
    pub fn transactions(&self) -> Transactions {
        Transactions {
            client: self.clone(),
            choices: Choices::default(),
        }
    }

    /// Writes of any keyspaces, all at one moment or none, perhaps on conditions. See [`Commit`].
    pub fn commit(&self) -> Commit {
        Commit::new(self.clone())
    }
}

impl Transactions {
    choices!();

    /// Runs the closure and commits what it read and wrote; again from its first read if it is aborted, as long as deadline and
    /// attempts allow.
    ///
    /// What the closure returns becomes [`Transacted::outcome`] once it is committed. An error that it returns ends the
    /// transaction with nothing sent. What it decided on is certain only if it commits: two reads of an attempt that will be
    /// aborted may be of different moments. Without writes and conditions it locks nothing, and commits if all reads are of one
    /// moment.
    ///
    /// # Errors
    /// What the closure returns. [`Error::GaveUp`]: every attempt was aborted. [`Error::UnknownTransaction`]: it may be
    /// committed; ask with [`Client::transaction_outcome`]. Others: see [`Error::act`].
    pub async fn run<T, E, Fut>(&self, mut run: impl FnMut(Transaction) -> Fut) -> Result<Transacted<T>, E>
    where
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let mut course = self.course();
        loop {
            let ledger = course.begin(&self.client, &self.choices).await?;
            let begun = Instant::now();
            let ran = timeout_at(course.until, run(Transaction::of(&ledger))).await;
            course.took.running += begun.elapsed();
            let closed = handle::close(ledger)?;
            if let Some(over) = closed.over() {
                course.again(&self.client, over).await?;
                continue;
            }
            let late_again = closed.is_late() && course.was_refused();
            let value = match ran {
                Ok(ran) if !late_again => ran?,
                _ => return Err(course.explained(Error::Refused(Refusal::DeadlineExceeded)).into()),
            };
            match self.commit(&mut course, closed).await {
                Ok(committed) => return Ok(course.transacted(value, committed)?),
                Err(Uncommitted::Again(refusal)) => course.again(&self.client, refusal).await?,
                Err(Uncommitted::TooLate(refusal)) => return Err(course.gave_up(refusal).into()),
                Err(Uncommitted::Final(error)) => return Err(course.explained(error).into()),
            }
        }
    }

    /// Values of many keys of any keyspaces, all of one moment: a read-only transaction in one call.
    ///
    /// # Errors
    /// See [`Error::act`].
    pub async fn snapshot<S: Into<String>, K: IntoBytes>(
        &self,
        keys: impl IntoIterator<Item = (S, K)>,
    ) -> Result<Snapshot, Error> {
        let keys: Vec<NamedKey> = keys.into_iter().map(handle::named).collect();
        let mut course = self.course();
        loop {
            let ledger = course.begin(&self.client, &self.choices).await?;
            match ledger.read(keys.clone(), true).await {
                Ok(values) => return Ok(Snapshot::new(values)),
                Err(Error::Refused(refusal)) if handle::is_over(&refusal) => {
                    course.again(&self.client, refusal).await?
                }
                Err(error) => return Err(course.explained(error)),
            }
        }
    }

    fn course(&self) -> Course {
        Course::new(self.client.shared.until(self.choices.deadline), self.choices.attempts)
    }

    async fn commit(&self, course: &mut Course, closed: Closed) -> Result<fulcrum_types::Committed, Uncommitted> {
        let Some(request) = closed.request(course.priority()) else {
            return closed.nothing_to_ask();
        };
        if let Some(refusal) = closed.past_the_horizon(Instant::now()) {
            return Err(Uncommitted::Again(refusal));
        }
        let begun = Instant::now();
        let in_session = self.choices.session.is_some();
        let answer = self.client.shared.commit(request, course.until, in_session).await;
        course.took.committing += begun.elapsed();
        let committed = answer?;
        if let Some(session) = &self.choices.session {
            committed.receipts.iter().for_each(|receipt| session.observe(receipt));
        }
        Ok(committed)
    }
}
