//! What scenarios share: a cluster, keyspaces, keys and values.

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use fulcrum_client::{Client, Condition, Config, Error, Keyspace, KeyspaceSpec, Mutation, WriteOp};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions, MetricsPorts};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Callers of unary requests.
pub(crate) const CALLERS: usize = 64;
/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 100;
/// Keys of a small keyspace.
pub(crate) const FEW_KEYS: u64 = 10_000;

const BATCH: u64 = 500;
const LOADERS: u64 = 8;
/// For a new keyspace to serve.
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn cluster(nodes: u64) -> Result<LocalCluster> {
    let options = LocalClusterOptions {
        nodes,
        metrics: MetricsPorts::Any,
        ..LocalClusterOptions::default()
    };
    Ok(LocalCluster::start(options).await?)
}

pub(crate) fn config(cluster: &LocalCluster) -> Config {
    Config::new(cluster.router_address().to_string()).deadline(Duration::from_secs(20))
}

pub(crate) fn key(number: u64) -> String {
    format!("user{number:012}")
}

pub(crate) fn value() -> Bytes {
    Bytes::from(vec![b'v'; VALUE_BYTES])
}

/// Makes a `sync` keyspace with fsync `always` and waits until all of it serves.
pub(crate) async fn keyspace(client: &Client, name: &str, replicas: u32, groups: u32) -> Result<Keyspace> {
    let spec = KeyspaceSpec {
        replication_factor: Some(replicas),
        groups: Some(groups),
        ..KeyspaceSpec::default()
    };
    client.admin().create_keyspace(name, spec).await?;
    let until = Instant::now() + READY_WITHIN;
    loop {
        let status = client.admin().status(Some(name)).await?;
        let all_in_sync = |group: &fulcrum_client::GroupStatus| group.ready && group.in_sync.len() == replicas as usize;
        if !status.groups.is_empty() && status.groups.iter().all(all_in_sync) {
            return Ok(client.keyspace(name));
        }
        if Instant::now() > until {
            bail!("keyspace {name} does not serve: {:?}", status.groups);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes keys `0..count`.
pub(crate) async fn fill(keyspace: &Keyspace, count: u64) -> Result<()> {
    let mut loaders = JoinSet::new();
    for loader in 0..LOADERS {
        let keyspace = keyspace.clone();
        loaders.spawn(async move {
            let mut first = loader * BATCH;
            while first < count {
                fill_batch(&keyspace, first..count.min(first + BATCH)).await?;
                first += LOADERS * BATCH;
            }
            anyhow::Ok(())
        });
    }
    while let Some(loaded) = loaders.join_next().await {
        loaded??;
    }
    Ok(())
}

async fn fill_batch(keyspace: &Keyspace, numbers: std::ops::Range<u64>) -> Result<()> {
    let value = value();
    let ops = numbers.map(|number| WriteOp {
        key: key(number).into(),
        condition: Condition::None,
        mutation: Mutation::Put {
            value: value.clone(),
            ttl: None,
        },
    });
    let ops: Vec<WriteOp> = ops.collect();
    let mut attempts = 0;
    loop {
        let written = keyspace.batch_write(ops.clone()).await?;
        let Some(refusal) = written.items.into_iter().find_map(Result::err) else {
            return Ok(());
        };
        attempts += 1;
        ensure!(attempts < 50, "loading is refused: {refusal}");
        tokio::time::sleep(Duration::from_millis(20 * attempts)).await;
    }
}

/// A get that must find a value of the right size.
pub(crate) async fn get(keyspace: &Keyspace, number: u64) -> Result<()> {
    let got = keyspace.get(key(number)).send().await.map_err(annotate)?;
    let found = got.value.map(|value| value.value.len());
    ensure!(found == Some(VALUE_BYTES), "key {number} is missing");
    Ok(())
}

/// A put that must be durable.
pub(crate) async fn put(keyspace: &Keyspace, number: u64, value: Bytes) -> Result<()> {
    let written = keyspace.put(key(number), value).send().await.map_err(annotate)?;
    ensure!(written.receipt.durable, "the write is not durable");
    Ok(())
}

pub(crate) fn annotate(error: Error) -> anyhow::Error {
    anyhow::anyhow!("{}: {error}", error.code())
}
