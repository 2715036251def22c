//! Transfers between accounts, and a look at all of them at one moment. Start `fulcrum dev`, then
//! `cargo run -p fulcrum-client --example bank`.

use fulcrum_client::{Client, Config, Error, KeyspaceSpec, Refusal, Transacted};
use futures::future::join_all;
use thiserror::Error;

const ACCOUNTS: [&str; 4] = ["anne", "bert", "carla", "dirk"];
const EACH: u64 = 100;

#[derive(Debug, Error)]
enum TransferError {
    #[error("{account} has only {balance}")]
    TooPoor { account: String, balance: u64 },
    #[error("the balance of {0} is no number")]
    NoNumber(String),
    #[error(transparent)]
    Store(#[from] Error),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), TransferError> {
    let router = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7400".into());
    let client = Client::connect(Config::new(router)).await?;
    open_accounts(&client).await?;

    // All at once, so that some meet and one of the two runs again.
    let transfers = (0..12).map(|n| transfer(&client, ACCOUNTS[n % 4], ACCOUNTS[(n + 1) % 4], 10 + n as u64));
    for done in join_all(transfers).await {
        let done = done?;
        println!("moved at the {}. attempt; retries: {:?}", done.attempts, done.retries);
    }

    match transfer(&client, "anne", "bert", 10_000).await {
        Err(TransferError::TooPoor { account, balance }) => println!("refused: {account} has only {balance}"),
        other => println!("not refused: {other:?}"),
    }

    let balances = client
        .transactions()
        .snapshot(ACCOUNTS.map(|name| ("bank", name)))
        .await?;
    let mut total = 0;
    for (name, found) in ACCOUNTS.iter().zip(&balances.values) {
        let balance = number(name, found.as_ref().map(|found| found.value.as_ref()))?;
        println!("  {name}: {balance}");
        total += balance;
    }
    println!("{total} in all, seen at one moment");
    assert_eq!(total, EACH * ACCOUNTS.len() as u64);
    Ok(())
}

/// Runs again by itself if somebody else changes one of the two accounts meanwhile. What it returns as an error is returned
/// by the transaction, and nothing is sent.
async fn transfer(client: &Client, from: &str, to: &str, amount: u64) -> Result<Transacted<()>, TransferError> {
    client
        .transaction(async |t| {
            let found = t.get_many([("bank", from), ("bank", to)]).await?;
            let had = number(from, found[0].as_deref())?;
            let has = number(to, found[1].as_deref())?;
            let Some(left) = had.checked_sub(amount) else {
                let account = from.to_owned();
                return Err(TransferError::TooPoor { account, balance: had });
            };
            t.put("bank", from, left.to_string());
            t.put("bank", to, (has + amount).to_string());
            Ok(())
        })
        .await
}

/// All accounts at once, whatever was in them.
async fn open_accounts(client: &Client) -> Result<(), Error> {
    let admin = client.admin();
    if let Err(Error::Refused(Refusal::UnknownKeyspace { .. })) = admin.show_keyspace("bank").await {
        admin.create_keyspace("bank", KeyspaceSpec::default()).await?;
    }
    let opening = client.commit();
    let opening = ACCOUNTS
        .iter()
        .fold(opening, |opening, name| opening.put("bank", *name, EACH.to_string()));
    opening.await.map(drop)
}

fn number(account: &str, value: Option<&[u8]>) -> Result<u64, TransferError> {
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| TransferError::NoNumber(account.to_owned()))
}
