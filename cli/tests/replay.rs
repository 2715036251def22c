//! A failover loses acknowledged writes of an `async` keyspace; `fulcrum failover replay` writes back what nobody wrote since.

use fulcrum_client::{Certificate, Client, Config, Keyspace, KeyspaceSpec};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions};
use fulcrum_types::{GroupId, Level, NodeId};
use std::process::{Command, Output};
use std::time::Duration;

const FULCRUM: &str = env!("CARGO_BIN_EXE_fulcrum");
const POLL: Duration = Duration::from_millis(50);
/// Generous: a loaded machine is no bug.
const TRIES: u32 = 1200;

struct World {
    cluster: LocalCluster,
    client: Client,
    keyspace: Keyspace,
    group: GroupId,
}

impl World {
    async fn new() -> Self {
        let cluster = LocalCluster::start(LocalClusterOptions::default()).await.unwrap();
        let client = Client::connect(Config::new(cluster.router_address().to_string()))
            .await
            .unwrap();
        let spec = KeyspaceSpec {
            mode: Some("async".into()),
            groups: Some(1),
            ..KeyspaceSpec::default()
        };
        let made = client.admin().create_keyspace("carts", spec).await.unwrap();
        let keyspace = client.keyspace("carts").at(Level::Bounded(Duration::from_millis(500)));
        World {
            cluster,
            client,
            keyspace,
            group: made.groups[0],
        }
    }

    async fn put(&self, key: &str, value: &str) {
        let mut tries = 0;
        while let Err(error) = self.keyspace.put(key, value).await {
            tries += 1;
            assert!(tries < 20, "{key}: {error}");
        }
    }

    async fn get(&self, key: &str) -> Option<String> {
        let got = self.keyspace.get(key).await.unwrap().value;
        got.map(|value| String::from_utf8(value.value.to_vec()).unwrap())
    }

    /// Who leads, once somebody else than `not` does.
    async fn leader(&self, not: Option<NodeId>) -> NodeId {
        for _ in 0..TRIES {
            let status = self.client.admin().status(Some("carts")).await;
            let led = status
                .ok()
                .and_then(|status| status.groups.into_iter().find(|group| group.ready));
            if let Some(primary) = led
                .and_then(|group| group.primary)
                .filter(|primary| Some(*primary) != not)
            {
                return primary;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("nobody leads");
    }

    /// The newest certificate, once its extent is known.
    async fn certificate(&self) -> Certificate {
        for _ in 0..TRIES {
            let report = self.client.admin().failover_report(Some(self.group), true).await;
            let certificates = report.map(|report| report.certificates).unwrap_or_default();
            let newest = certificates.into_iter().max_by_key(|certificate| certificate.new_epoch);
            if let Some(newest) = newest.filter(|newest| newest.extent_known) {
                return newest;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("the extent of the loss stays unknown");
    }

    async fn replay(&self, flags: &[&str]) -> Output {
        let mut command = Command::new(FULCRUM);
        command
            .args(["failover", "replay", &self.group.to_string(), "--deadline", "20s"])
            .args(flags)
            .env("FULCRUM_ROUTER", self.cluster.router_address().to_string());
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }

    async fn told(&self, flags: &[&str]) -> serde_json::Value {
        let output = self.replay(&[flags, &["-o", "json"]].concat()).await;
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_wrote_since_is_written_back() {
    let world = World::new().await;
    let output = world.replay(&[]).await;
    assert_eq!(
        output.status.code(),
        Some(3),
        "no failover, nothing to replay: {output:?}"
    );
    for key in ["kept", "taken", "gone", "changed"] {
        world.put(key, "old").await;
    }
    let primary = world.leader(None).await;
    // The others have them, too, before they hear no more of the primary.
    for _ in 0..TRIES {
        let status = world.client.admin().status(Some("carts")).await.unwrap();
        if status.groups[0].in_sync.len() == 3 {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;

    world.cluster.silence_node(primary);
    let lost = async {
        world.keyspace.put("kept", "lost").await?;
        world.keyspace.put("new", "lost").await?;
        world.keyspace.put("taken", "lost").await?;
        world.keyspace.delete("gone").await?;
        world.keyspace.put("new", "lost, and last").await
    };
    lost.await
        .expect("its lease lets the primary acknowledge a little longer");
    world.leader(Some(primary)).await;
    world.put("taken", "newer").await;
    world.cluster.heal_network();
    let certificate = world.certificate().await;
    assert!(certificate.acknowledged_lost >= 5, "{certificate:?}");
    assert_eq!(world.get("kept").await.as_deref(), Some("old"), "it was lost");

    // What is only shown rests on reads, which may miss what is younger than their bound.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let shown = world.told(&[]).await;
    assert_eq!(
        (&shown["done"], &shown["put"], &shown["deleted"]),
        (&false.into(), &2.into(), &1.into()),
        "{shown}"
    );
    assert_eq!(shown["written_since_keys"], serde_json::json!(["taken"]), "{shown}");
    assert_eq!(world.get("kept").await.as_deref(), Some("old"), "it was only shown");

    let done = world.told(&["--yes"]).await;
    assert_eq!(
        (&done["done"], &done["put"], &done["deleted"]),
        (&true.into(), &2.into(), &1.into()),
        "{done}"
    );
    let expected = [
        ("kept", Some("lost")),
        ("new", Some("lost, and last")),
        ("taken", Some("newer")),
        ("gone", None),
        ("changed", Some("old")),
    ];
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        for (key, value) in expected {
            assert_eq!(world.get(key).await.as_deref(), value, "{key}");
        }
        let again = world.told(&["--yes"]).await;
        assert_eq!((&again["put"], &again["deleted"]), (&0.into(), &0.into()), "{again}");
    }
}
