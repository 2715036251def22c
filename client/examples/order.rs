//! An order that takes from one keyspace and is written to another, both or neither. Start `fulcrum dev`, then
//! `cargo run -p fulcrum-client --example order`.

use fulcrum_client::{Client, Config, Error, KeyspaceSpec, Refusal, Session, Transacted};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let router = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7400".into());
    let client = Client::connect(Config::new(router)).await?;
    for keyspace in ["stock", "orders"] {
        make(&client, keyspace).await?;
    }
    let session = Session::new();
    client
        .commit()
        .put("stock", "apples", "3")
        .delete("orders", "order/1")
        .delete("orders", "order/2")
        .in_session(&session)
        .await?;

    let first = order(&client, &session, "order/1", "apples", 2).await?;
    told("order/1", &first);
    told("order/2", &order(&client, &session, "order/2", "apples", 2).await?);
    told("order/1", &order(&client, &session, "order/1", "apples", 1).await?);

    // Any replica may answer, but none that has not seen the order.
    let orders = client.keyspace("orders").in_session(&session);
    let found = orders.get("order/1").at(fulcrum_client::Level::Session).await?;
    println!(
        "{} answers: {:?}",
        found.receipt.replica,
        found.value.map(|found| found.value)
    );
    Ok(())
}

fn told(order: &str, done: &Transacted<Taken>) {
    match &done.outcome {
        Ok(Taken::Taken { left }) => println!("{order}: taken, {left} are left; versions {:?}", done.versions),
        Ok(Taken::TooFew { there }) => println!("{order}: there are only {there}"),
        Err(failed) => println!("{order}: it is there already, at version {:?}", failed.current),
    }
}

/// Whether there was enough.
enum Taken {
    Taken { left: u64 },
    TooFew { there: u64 },
}

/// A second order of that number is an outcome, `Err(ConditionFailed)`; too few in stock is a value like any other.
async fn order(
    client: &Client,
    session: &Session,
    number: &str,
    what: &str,
    amount: u64,
) -> Result<Transacted<Taken>, Error> {
    client
        .transactions()
        .in_session(session)
        .run(async |t| {
            let there = t.get("stock", what).await?;
            let there = there.and_then(|there| std::str::from_utf8(&there).ok()?.parse().ok());
            let there: u64 = there.unwrap_or(0);
            t.if_absent("orders", number);
            let Some(left) = there.checked_sub(amount) else {
                return Ok(Taken::TooFew { there });
            };
            t.put("orders", number, format!("{amount} {what}"));
            t.put("stock", what, left.to_string());
            Ok(Taken::Taken { left })
        })
        .await
}

async fn make(client: &Client, keyspace: &str) -> Result<(), Error> {
    let admin = client.admin();
    match admin.show_keyspace(keyspace).await {
        Err(Error::Refused(Refusal::UnknownKeyspace { .. })) => {
            admin.create_keyspace(keyspace, KeyspaceSpec::default()).await.map(drop)
        }
        known => known.map(drop),
    }
}
