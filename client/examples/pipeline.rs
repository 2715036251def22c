//! Ten thousand durable writes on one stream. Run after the quickstart example.

use fulcrum_client::{Client, Config, Error};
use tokio::time::Instant;

const WRITES: usize = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let router = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7400".into());
    let client = Client::connect(Config::new(router)).await?;
    let readings = client.keyspace("quickstart");
    let pipeline = client.pipeline();

    let begun = Instant::now();
    let mut pending = Vec::with_capacity(WRITES);
    for n in 0..WRITES {
        // Waits while the pipeline is full; the answers come later.
        pending.push(
            readings
                .put(format!("reading:{n:05}"), "21.5")
                .submit(&pipeline)
                .await?,
        );
    }
    let mut durable = 0;
    for written in pending {
        durable += usize::from(written.await?.receipt.durable);
    }
    let spent = begun.elapsed().as_secs_f64();
    println!(
        "{durable} durable writes in {spent:.2} s: {:.0} a second",
        WRITES as f64 / spent
    );
    Ok(())
}
