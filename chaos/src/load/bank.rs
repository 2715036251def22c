//! Tellers: money moves between accounts of two keyspaces in transactions, and statements are taken of all accounts at one moment.

use super::{Place, Shared, now};
use bytes::Bytes;
use fulcrum_checker::bank::{Account as Opened, BankLog, Ledger};
use fulcrum_checker::transactions::{TransactionKey, TransactionOutcome as Outcome};
use fulcrum_cli::workload::Rng;
use fulcrum_client::{Client, Error, TransactionOutcome, UnfinishedTransaction};
use fulcrum_types::{ClientId, KeyspaceId, Versioned};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Of one transfer or statement, all attempts together: longer than a failover takes.
const DEADLINE: Duration = Duration::from_secs(4);
/// To be told what became of a transfer whose answer was lost.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(6);
const TRANSFER_EVERY: Duration = Duration::from_millis(100);
/// A statement of all accounts is of one moment only if no transfer ends within it.
const STATEMENT_EVERY: Duration = Duration::from_millis(120);
const LARGEST: u64 = 100;
/// On each account at the beginning.
pub const OPENING: u64 = 1_000;

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
    /// What was not answered as asked, by code: refused, aborted at every attempt, or unknown, though it be told later what became of it.
    pub errors: BTreeMap<&'static str, u64>,
    /// The first of each code, in words.
    pub failed_like: BTreeMap<&'static str, String>,
    /// Transfers committed.
    pub moved: u64,
}

impl BankTold {
    /// Together.
    pub fn join(&mut self, other: BankTold) {
        self.logs.extend(other.logs);
        self.moved += other.moved;
        for (code, words) in other.failed_like {
            self.failed_like.entry(code).or_insert(words);
        }
        for (code, number) in other.errors {
            *self.errors.entry(code).or_default() += number;
        }
    }

    fn failed(&mut self, error: &Error) {
        *self.errors.entry(error.code()).or_default() += 1;
        let words = || format!("of the bank: {error}");
        self.failed_like.entry(error.code()).or_insert_with(words);
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
                told.failed(&error);
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

/// What became of a transfer that was answered with an error.
async fn became(client: &Client, error: &Error) -> Outcome {
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
            told.failed(&error);
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

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_client::Refusal;
    use fulcrum_types::TransactionId;

    #[test]
    fn whatever_was_not_answered_as_asked_is_a_failure() {
        let locked = Refusal::Locked {
            by: TransactionId::default(),
        };
        let mut told = BankTold::default();
        told.failed(&Error::Refused(locked.clone()));
        told.failed(&Error::GaveUp {
            attempts: 9,
            last: locked,
        });
        let mut other = BankTold::default();
        other.failed(&Error::Unreachable {
            reason: "refused".to_owned(),
        });
        told.join(other);
        assert_eq!(told.errors, BTreeMap::from([("LOCKED", 2), ("UNREACHABLE", 1)]));
        assert!(told.failed_like["UNREACHABLE"].starts_with("of the bank: "));
    }
}
