//! Tellers: money moves between accounts of two keyspaces in transactions, and statements are taken of all accounts at one moment.

use super::{Failures, Place, Shared, now};
use bytes::Bytes;
use fulcrum_checker::bank::{Account as Opened, BankLog, Ledger};
use fulcrum_checker::transactions::{TransactionKey, TransactionOutcome as Outcome};
use fulcrum_cli::workload::Rng;
use fulcrum_client::{Client, Error, TransactionOutcome, UnfinishedTransaction};
use fulcrum_types::{ClientId, KeyspaceId, Versioned};
use std::sync::Arc;
use std::time::Duration;

/// Of one transaction, all attempts together: longer than a failover takes.
pub(super) const DEADLINE: Duration = Duration::from_secs(4);
/// To be told what became of a transaction whose answer was lost.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(6);
const TRANSFER_EVERY: Duration = Duration::from_millis(100);
/// A statement of all accounts is of one moment only if no transfer ends within it.
const STATEMENT_EVERY: Duration = Duration::from_millis(120);
const LARGEST: u64 = 100;
/// On each account at the beginning.
pub const OPENING: u64 = 1_000;

/// In what is told of failures.
const WHOSE: &str = "of the bank";

/// An account.
#[derive(Clone, Debug)]
pub struct Account {
    /// The name of its keyspace.
    pub keyspace: String,
    /// The same, as ids go.
    pub id: KeyspaceId,
    /// Where it is.
    pub place: Place,
}

/// What tellers have to tell.
#[derive(Default)]
pub struct BankTold {
    /// What was asked and told.
    pub logs: Vec<BankLog>,
    /// What was not answered as asked.
    pub failures: Failures,
    /// Transfers committed.
    pub moved: u64,
}

impl BankTold {
    /// Together.
    pub fn join(&mut self, other: BankTold) {
        self.logs.extend(other.logs);
        self.moved += other.moved;
        self.failures.join(other.failures);
    }

    /// All of it, as the checker takes it.
    #[must_use]
    pub fn ledger(&self, accounts: &[Account]) -> Ledger {
        let opened = |account: &Account| Opened {
            key: TransactionKey {
                keyspace: account.id,
                key: account.place.key.clone(),
            },
            opening: i64::try_from(OPENING).unwrap_or(i64::MAX),
        };
        Ledger::merge(accounts.iter().map(opened).collect(), self.logs.clone())
    }
}

fn balance(value: &Bytes) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Moves money until the load is over.
pub async fn transfers(shared: Arc<Shared>, client: Client, accounts: Arc<Vec<Account>>, number: u64) -> BankTold {
    let mut rng = Rng::stream(shared.seed, number);
    let mut log = BankLog::new(ClientId(number));
    let mut told = BankTold::default();
    let all = accounts.len() as u64;
    while !shared.is_over() {
        let from = rng.below(all);
        let to = (from + 1 + rng.below(all - 1)) % all;
        let (from, to) = (usize::try_from(from).unwrap_or(0), usize::try_from(to).unwrap_or(0));
        let amount = 1 + rng.below(LARGEST);
        let ticket = log.begin(now(), from, to, amount);
        let outcome = match transfer(&client, &accounts[from], &accounts[to], amount).await {
            Ok(true) => Outcome::Committed,
            Ok(false) => Outcome::Failed,
            Err(error) => {
                told.failures.note(WHOSE, &error);
                became(&client, &error).await
            }
        };
        log.end(ticket, now(), outcome);
        told.moved += u64::from(outcome == Outcome::Committed);
        tokio::time::sleep(TRANSFER_EVERY.mul_f64(0.5 + rng.unit())).await;
    }
    told.logs.push(log);
    told
}

/// Says whether there was enough to move.
async fn transfer(client: &Client, from: &Account, to: &Account, amount: u64) -> Result<bool, Error> {
    let done = client
        .transactions()
        .within(DEADLINE)
        .run(async |t| -> Result<_, Error> {
            let both = [(&*from.keyspace, &from.place.key), (&*to.keyspace, &to.place.key)];
            let found = t.get_many(both).await?;
            let found: Vec<u64> = found.iter().flatten().filter_map(balance).collect();
            let [had, has] = found[..] else { return Ok(false) };
            let Some(left) = had.checked_sub(amount) else {
                return Ok(false);
            };
            t.put(&from.keyspace, &from.place.key, left.to_string());
            t.put(&to.keyspace, &to.place.key, (has + amount).to_string());
            Ok(true)
        })
        .await?;
    Ok(done.outcome == Ok(true))
}

/// What became of a transaction that was answered with an error.
pub(super) async fn became(client: &Client, error: &Error) -> Outcome {
    match error {
        Error::UnknownTransaction { transaction, .. } => look_up(client, transaction).await,
        error if error.nothing_applied() => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

async fn look_up(client: &Client, transaction: &UnfinishedTransaction) -> Outcome {
    let asked = client.transaction_outcome(transaction).settle().within(LOOK_UP_WITHIN);
    match asked.await {
        Ok(TransactionOutcome::Committed(_)) => Outcome::Committed,
        Ok(TransactionOutcome::Aborted(_)) => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

/// Takes statements until the load is over.
pub async fn statements(shared: Arc<Shared>, client: Client, accounts: Arc<Vec<Account>>, number: u64) -> BankTold {
    let mut log = BankLog::new(ClientId(number));
    let mut told = BankTold::default();
    while !shared.is_over() {
        if let Err(error) = statement(&client, &accounts, &mut log).await {
            told.failures.note(WHOSE, &error);
        }
        tokio::time::sleep(STATEMENT_EVERY).await;
    }
    told.logs.push(log);
    told
}

/// Takes one and writes it down.
///
/// # Errors
/// It was not told in time.
pub async fn statement(client: &Client, accounts: &[Account], log: &mut BankLog) -> Result<(), Error> {
    let began = now();
    let keys = accounts.iter().map(|account| (&*account.keyspace, &account.place.key));
    let seen = client.transactions().within(DEADLINE).snapshot(keys).await?;
    let value = |found: &Option<Versioned>| -> Option<i64> {
        let balance = balance(&found.as_ref()?.value)?;
        i64::try_from(balance).ok()
    };
    log.statement(began, now(), seen.values.iter().map(value).collect());
    Ok(())
}
