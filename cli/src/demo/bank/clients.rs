//! The clients: some transfer, some take statements, each one thing after the other, and write down what they were told.

use super::accounts::Accounts;
use crate::demo::load::now;
use crate::exit::Failure;
use crate::workload::Rng;
use bytes::Bytes;
use fulcrum_checker::bank::BankLog;
use fulcrum_checker::transactions::TransactionOutcome as Outcome;
use fulcrum_client::{Client, Error, Transacted, TransactionOutcome, UnfinishedTransaction};
use fulcrum_types::ClientId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of one transfer or statement, all attempts together: longer than a failover takes.
const DEADLINE: Duration = Duration::from_secs(4);
/// To be told what became of a transfer whose answer was lost.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(6);
/// Between two transfers of a client, on average. A statement of all accounts is of one moment only if no transfer ends within it:
/// where there is never a gap none can be taken.
const TRANSFER_EVERY: Duration = Duration::from_millis(80);
/// Between two statements of a client: they read every account.
const STATEMENT_EVERY: Duration = Duration::from_millis(50);
const LARGEST: u64 = 100;

/// What all clients share.
pub(super) struct Shared {
    accounts: Arc<Accounts>,
    seed: u64,
    pub(super) until: u64,
    /// Transfers committed so far.
    pub(super) committed: AtomicU64,
}

/// What clients have to tell.
#[derive(Default)]
pub(super) struct Told {
    pub(super) logs: Vec<BankLog>,
    /// Of the transfers that moved money, in microseconds: all of it, and the commit alone.
    pub(super) transfers: Vec<u64>,
    pub(super) commits: Vec<u64>,
    pub(super) statements: Vec<u64>,
    /// Of each statement.
    pub(super) totals: Vec<u64>,
    /// There was too little on the account.
    pub(super) declined: u64,
    pub(super) attempts: u64,
    /// Why attempts had to be run again, by cause.
    pub(super) retries: BTreeMap<&'static str, u64>,
    /// What was not done at all, by code.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// Transfers of which it had to be asked what became of them.
    pub(super) looked_up: u64,
    /// Of these, those of which nobody could tell.
    pub(super) unknown: u64,
}

impl Told {
    pub(super) fn join(&mut self, other: Told) {
        self.logs.extend(other.logs);
        self.transfers.extend(other.transfers);
        self.commits.extend(other.commits);
        self.statements.extend(other.statements);
        self.totals.extend(other.totals);
        self.declined += other.declined;
        self.attempts += other.attempts;
        self.looked_up += other.looked_up;
        self.unknown += other.unknown;
        for (into, from) in [(&mut self.retries, other.retries), (&mut self.errors, other.errors)] {
            for (name, number) in from {
                *into.entry(name).or_default() += number;
            }
        }
    }

    fn took_part<T>(&mut self, done: &Transacted<T>) {
        self.attempts += u64::from(done.attempts);
        for (cause, number) in &done.retries {
            *self.retries.entry(cause).or_default() += u64::from(*number);
        }
    }

    fn failed(&mut self, error: &Error) {
        *self.errors.entry(error.code()).or_default() += 1;
    }
}

impl Shared {
    pub(super) fn new(accounts: Arc<Accounts>, seed: u64, until: u64) -> Self {
        Self {
            accounts,
            seed,
            until,
            committed: AtomicU64::new(0),
        }
    }

    fn log_of(number: u64) -> BankLog {
        BankLog::new(ClientId(number + 1))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn balance(value: &Bytes) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A transfer that is about to be made.
#[derive(Clone, Copy)]
struct Move {
    from: usize,
    to: usize,
    amount: u64,
}

/// Moves money until the load ends.
pub(super) async fn transfers(shared: Arc<Shared>, client: Client, number: u64) -> Told {
    let mut rng = Rng::stream(shared.seed, number);
    let mut log = Shared::log_of(number);
    let mut told = Told::default();
    let accounts = shared.accounts.len() as u64;
    while now() < shared.until {
        let from = rng.below(accounts);
        let one = Move {
            from: from as usize,
            to: ((from + 1 + rng.below(accounts - 1)) % accounts) as usize,
            amount: 1 + rng.below(LARGEST),
        };
        let began = now();
        let ticket = log.begin(began, one.from, one.to, one.amount);
        let outcome = match transfer(&shared.accounts, &client, one).await {
            Ok(done) => {
                let took = Duration::from_nanos(now().saturating_sub(began));
                moved(&mut told, &done, took)
            }
            Err(Error::UnknownTransaction { transaction, .. }) => look_up(&mut told, &client, &transaction).await,
            Err(error) => {
                told.failed(&error);
                match error.nothing_applied() {
                    true => Outcome::Failed,
                    false => Outcome::Unknown,
                }
            }
        };
        log.end(ticket, now(), outcome);
        if outcome == Outcome::Committed {
            shared.committed.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(TRANSFER_EVERY.mul_f64(0.5 + rng.unit())).await;
    }
    told.logs.push(log);
    told
}

/// Answers with whether there was enough to move.
async fn transfer(accounts: &Accounts, client: &Client, one: Move) -> Result<Transacted<bool>, Error> {
    let (from, to) = (accounts.get(one.from), accounts.get(one.to));
    client
        .transactions()
        .within(DEADLINE)
        .run(async |t| {
            let found = t.get_many([(from.keyspace, &from.key), (to.keyspace, &to.key)]).await?;
            let found: Vec<u64> = found.iter().flatten().filter_map(balance).collect();
            let [had, has] = found[..] else { return Ok(false) };
            let Some(left) = had.checked_sub(one.amount) else {
                return Ok(false);
            };
            t.put(from.keyspace, &from.key, left.to_string());
            t.put(to.keyspace, &to.key, (has + one.amount).to_string());
            Ok(true)
        })
        .await
}

fn moved(told: &mut Told, done: &Transacted<bool>, took: Duration) -> Outcome {
    told.took_part(done);
    if done.outcome != Ok(true) {
        told.declined += 1;
        return Outcome::Failed;
    }
    told.transfers.push(micros(took));
    told.commits.push(micros(done.took.committing));
    Outcome::Committed
}

async fn look_up(told: &mut Told, client: &Client, transaction: &UnfinishedTransaction) -> Outcome {
    told.looked_up += 1;
    let asked = client.transaction_outcome(transaction).settle().within(LOOK_UP_WITHIN);
    match asked.await {
        Ok(TransactionOutcome::Committed(_)) => Outcome::Committed,
        Ok(TransactionOutcome::Aborted(_)) => Outcome::Failed,
        _ => {
            told.unknown += 1;
            Outcome::Unknown
        }
    }
}

/// Takes statements until the load ends.
pub(super) async fn statements(shared: Arc<Shared>, client: Client, number: u64) -> Told {
    let mut log = Shared::log_of(number);
    let mut told = Told::default();
    // One reads all accounts in one call; the other in two, of which the commit says whether they are of one moment.
    let in_one_call = number.is_multiple_of(2);
    while now() < shared.until {
        let began = now();
        let answer = match in_one_call {
            true => snapshot(&shared.accounts, &client).await,
            false => validated(&shared.accounts, &client, &mut told).await,
        };
        match answer {
            Ok(seen) => write_down(&mut told, &mut log, began, seen),
            Err(error) => told.failed(&error),
        }
        tokio::time::sleep(STATEMENT_EVERY).await;
    }
    told.logs.push(log);
    told
}

/// The statement of the end, once all is quiet.
pub(super) async fn last_statement(shared: &Shared, client: &Client) -> Result<Told, Failure> {
    let mut told = Told::default();
    let mut log = Shared::log_of(u64::from(u32::MAX));
    let began = now();
    let seen = snapshot(&shared.accounts, client).await;
    let seen = seen.map_err(|error| Failure::client("cannot read the accounts at the end", &error))?;
    write_down(&mut told, &mut log, began, seen);
    told.logs.push(log);
    Ok(told)
}

type Balances = Vec<Option<u64>>;

async fn snapshot(accounts: &Accounts, client: &Client) -> Result<Balances, Error> {
    let keys = accounts.iter().map(|account| (account.keyspace, &account.key));
    let seen = client.transactions().within(DEADLINE).snapshot(keys).await?;
    let value = |found: &Option<fulcrum_types::Versioned>| balance(&found.as_ref()?.value);
    Ok(seen.values.iter().map(value).collect())
}

async fn validated(accounts: &Accounts, client: &Client, told: &mut Told) -> Result<Balances, Error> {
    let all: Vec<_> = accounts
        .iter()
        .map(|account| (account.keyspace, &account.key))
        .collect();
    let (first, second) = all.split_at(all.len() / 2);
    let done = client
        .transactions()
        .within(DEADLINE)
        .run(async |t| -> Result<_, Error> {
            let mut seen = t.get_many(first.iter().copied()).await?;
            seen.extend(t.get_many(second.iter().copied()).await?);
            Ok(seen)
        })
        .await?;
    told.took_part(&done);
    // Without conditions there is none that can fail.
    let seen = done.outcome.unwrap_or_default();
    Ok(seen.iter().map(|value| balance(value.as_ref()?)).collect())
}

fn write_down(told: &mut Told, log: &mut BankLog, began: u64, seen: Balances) {
    let ended = now();
    told.statements.push(ended.saturating_sub(began) / 1_000);
    told.totals.push(seen.iter().flatten().sum());
    let signed = |balance: u64| i64::try_from(balance).unwrap_or(i64::MAX);
    log.statement(began, ended, seen.into_iter().map(|one| one.map(signed)).collect());
}
