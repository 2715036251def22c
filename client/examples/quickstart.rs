//! Writes, reads, a condition, a scan. Start `fulcrum dev`, then `cargo run -p fulcrum-client --example quickstart`.

use fulcrum_client::{Client, Condition, Config, Error, KeyspaceSpec, Range, Refusal};
use futures::TryStreamExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let router = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7400".into());
    let client = Client::connect(Config::new(router)).await?;

    let admin = client.admin();
    match admin.show_keyspace("quickstart").await {
        Err(Error::Refused(Refusal::UnknownKeyspace { .. })) => {
            let made = admin.create_keyspace("quickstart", KeyspaceSpec::default()).await?;
            println!("made keyspace {} with {} shard groups", made.name, made.groups.len());
        }
        known => println!("found keyspace {}", known?.name),
    }

    let fruit = client.keyspace("quickstart");
    let written = fruit.put("fruit:apple", "3").await?;
    println!(
        "written at index {}, durable on {} nodes",
        written.receipt.index,
        written.receipt.acknowledged_by.len()
    );

    let got = fruit.get("fruit:apple").await?;
    if let Some(found) = got.value {
        println!(
            "{} apples, proved {} by {}",
            text(&found.value),
            got.receipt.achieved,
            got.receipt.replica
        );
        let won = fruit.compare_and_set("fruit:apple", found.version, "4").await?;
        println!("one more: {}", won.applied());
    }
    let first = fruit.put("fruit:pear", "1").only_if(Condition::Absent).await?;
    println!("the first pear: {}", first.applied());

    let mut rows = std::pin::pin!(fruit.scan(Range::prefix("fruit:")).rows());
    while let Some(row) = rows.try_next().await? {
        println!("  {} = {}", text(&row.key), text(&row.value.value));
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
