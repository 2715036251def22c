//! A cut through a real cluster: read to its end although a node dies meanwhile, and gone once nobody wants it.

use bytes::Bytes;
use fulcrum_client::{Client, Config, Cut, KeyspaceSpec, Refusal};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions};
use fulcrum_types::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const KEYS: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(20);

async fn write_all(client: &Client, value: &'static str) {
    let orders = client.keyspace("orders");
    for number in 0..KEYS {
        orders.put(format!("order {number:04}"), value).await.unwrap();
    }
}

async fn read_all(cut: &Cut) -> Result<BTreeMap<Bytes, Bytes>, fulcrum_client::Error> {
    let mut found = BTreeMap::new();
    for group in &cut.groups {
        let mut pages = cut.pages(group.group, Bytes::new());
        while let Some(rows) = pages.next().await? {
            found.extend(rows.into_iter().map(|row| (row.key, row.value.value)));
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_read_although_a_node_dies_and_is_gone_when_it_is_over() {
    let mut cluster = LocalCluster::start(LocalClusterOptions::default()).await.unwrap();
    let config = Config::new(cluster.router_address().to_string()).deadline(PATIENCE);
    let client = Client::connect(config).await.unwrap();
    let nobody = client.cut(&["orders".to_owned()]).await.map(drop);
    let unknown = nobody.unwrap_err();
    assert!(
        matches!(unknown.refusal(), Some(Refusal::UnknownKeyspace { .. })),
        "{unknown}"
    );
    let spec = KeyspaceSpec {
        groups: Some(4),
        ..KeyspaceSpec::default()
    };
    client.admin().create_keyspace("orders", spec).await.unwrap();
    write_all(&client, "before").await;
    let cut = client.cut(&[]).await.unwrap();
    assert_eq!((cut.keyspaces.len(), cut.groups.len()), (1, 4));
    write_all(&client, "after").await;

    assert!(cluster.crash_node(NodeId(1)).await);
    cut.keep().await.unwrap();
    let found = read_all(&cut).await.unwrap();
    assert_eq!(found.len(), KEYS as usize);
    assert!(found.values().all(|value| value == "before"), "{found:?}");

    cut.end().await.unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        match read_all(&cut).await {
            Err(error) if matches!(error.refusal(), Some(Refusal::CutGone { .. })) => break,
            other => assert!(
                Instant::now() < until,
                "it is still there: {:?}",
                other.map(|found| found.len())
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_is_not_made_is_not_tried_again_behind_the_back_of_who_asked() {
    let mut cluster = LocalCluster::start(LocalClusterOptions::default()).await.unwrap();
    let config = Config::new(cluster.router_address().to_string()).deadline(PATIENCE);
    let client = Client::connect(config).await.unwrap();
    let spec = KeyspaceSpec {
        groups: Some(8),
        replication_factor: Some(1),
        ..KeyspaceSpec::default()
    };
    client.admin().create_keyspace("orders", spec).await.unwrap();
    write_all(&client, "before").await;
    // Some group has no primary from now on, and none is to come.
    assert!(cluster.crash_node(NodeId(1)).await);
    let asked = Instant::now();
    let refused = client.cut(&[]).await.map(drop).unwrap_err();
    assert!(
        matches!(refused.refusal(), Some(Refusal::Unreachable { .. })),
        "{refused}"
    );
    assert!(asked.elapsed() < PATIENCE / 2, "it took {:?}", asked.elapsed());
    cluster.stop().await;
}
