//! How long a group takes no writes when its primary crashes without warning.

use crate::report::{Bar, Row, median};
use crate::scenario::{self, annotate};
use anyhow::{Result, bail};
use fulcrum_client::{Client, Keyspace};
use std::time::Duration;
use tokio::time::Instant;

const CRASHES: u32 = 3;
/// For a restarted node to be in sync again.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn run() -> Result<Vec<Row>> {
    let mut cluster = scenario::cluster(3).await?;
    let client = Client::connect(scenario::config(&cluster)).await?;
    let keyspace = scenario::keyspace(&client, "users", 3, 8).await?;
    let mut seconds = Vec::new();
    for _ in 0..CRASHES {
        let primary = keyspace.put("key", "before").await.map_err(annotate)?.receipt.replica;
        cluster.crash_node(primary).await;
        let begun = Instant::now();
        keyspace.put("key", "after").await.map_err(annotate)?;
        seconds.push(begun.elapsed().as_secs_f64());
        cluster.restart_node(primary).await?;
        healed(&client, &keyspace).await?;
    }
    let worst = seconds.iter().copied().fold(0.0, f64::max);
    let detail = format!(
        "worst of {CRASHES} crashes of a primary; median {:.2} s",
        median(seconds)
    );
    Ok(vec![
        Row::new("failover to first acknowledged write", worst, "s", detail).bar(Bar::AtMost(3.0)),
    ])
}

/// Waits until every group has all its replicas in sync.
async fn healed(client: &Client, keyspace: &Keyspace) -> Result<()> {
    let until = Instant::now() + HEALED_WITHIN;
    loop {
        let status = client.admin().status(Some(keyspace.name())).await?;
        let broken = status
            .groups
            .iter()
            .find(|group| !group.ready || group.in_sync.len() < group.replicas.len());
        let Some(broken) = broken else { return Ok(()) };
        if Instant::now() > until {
            bail!("{} has not healed: {broken:?}", broken.id);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
