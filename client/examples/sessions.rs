//! Reads its own writes on any replica, and hands the session to another client. Run after the quickstart example.

use fulcrum_client::{Client, Config, Error, Level, Session};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let router = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7400".into());
    let writer = Client::connect(Config::new(router.as_str())).await?;
    let session = Session::new();
    let profiles = writer.keyspace("quickstart").in_session(&session).at(Level::Session);
    for version in 1..=3 {
        profiles.put("profile:ann", format!("version {version}")).await?;
        let got = profiles.get("profile:ann").await?;
        println!("read back from {} ({})", got.receipt.replica, got.receipt.role);
    }

    // As a cookie, say: whoever continues with it sees at least what this session has seen.
    let cookie = session.export();
    println!("the session as text: {cookie}");
    let reader = Client::connect(Config::new(router.as_str())).await?;
    read_on(&reader, &cookie).await?;
    Ok(())
}

async fn read_on(client: &Client, cookie: &str) -> Result<(), Box<dyn std::error::Error>> {
    let session = Session::import(cookie)?;
    let profiles = client.keyspace("quickstart").in_session(&session).at(Level::Session);
    match profiles.get("profile:ann").await {
        Ok(got) => println!("the other client sees {:?}", got.value.map(|found| found.value)),
        // An `async` keyspace may have lost in a failover what the session saw: it says so instead of going back.
        Err(error @ Error::Refused(_)) => println!("not served: {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
