//! Wrong starts and hostile bytes: typed errors that name the thing, and no harm done.

mod support;

use fulcrum_common::sockets::ReservedPort;
use fulcrum_common::wire::internal::peer_batch::Hello;
use fulcrum_common::wire::internal::peer_client::PeerClient;
use fulcrum_common::wire::internal::{PeerBatch, PeerMessage};
use fulcrum_common::{Clock, KeyspaceOptions, StartError, SystemClock};
use fulcrum_shard_node::{ShardNode, ShardNodeConfig};
use fulcrum_types::{Mode, Now};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Cluster, channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn refused(cluster: &Cluster, config: ShardNodeConfig) -> StartError {
    let started = ShardNode::start(config, Arc::new(cluster.metadata.clone()), Arc::new(SystemClock)).await;
    started.err().expect("it must not start")
}

/// Looks, whenever a starting node asks for the time, whether it takes connections already.
struct Knocking {
    at: SocketAddr,
    heard: Mutex<Vec<bool>>,
}

impl Clock for Knocking {
    fn now(&self) -> Now {
        let taken = std::net::TcpStream::connect(self.at).is_ok();
        self.heard.lock().unwrap().push(taken);
        SystemClock.now()
    }
}

/// Opening the data may take a while. Who connected meanwhile would wait where another replica would answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_opens_its_data_takes_no_connections() {
    let mut cluster = Cluster::start(2).await;
    cluster.nodes.remove(&2).unwrap().shutdown().await.unwrap();
    let port = ReservedPort::any().unwrap();
    let clock = Arc::new(Knocking {
        at: port.address().unwrap(),
        heard: Mutex::default(),
    });
    let config = ShardNodeConfig {
        listen: clock.at,
        ..cluster.config(2)
    };
    let node = ShardNode::start(config, Arc::new(cluster.metadata.clone()), clock.clone())
        .await
        .unwrap();
    std::net::TcpStream::connect(clock.at).expect("it serves");
    node.shutdown().await.unwrap();
    let heard = clock.heard.lock().unwrap();
    assert_eq!(heard.first(), Some(&false), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_starts_are_told_apart() {
    let mut cluster = Cluster::start(2).await;
    let taken = cluster.nodes[&1].local_addr();
    let error = refused(
        &cluster,
        ShardNodeConfig {
            listen: taken,
            ..cluster.config(2)
        },
    )
    .await;
    assert!(
        matches!(&error, StartError::PortInUse { address, .. } if *address == taken.to_string()),
        "{error}"
    );

    let error = refused(&cluster, cluster.config(1)).await;
    assert!(matches!(error, StartError::DirectoryLocked { .. }), "{error}");

    cluster.nodes.remove(&1).unwrap().shutdown().await.unwrap();
    let other = ShardNodeConfig {
        cluster_id: "other".into(),
        ..cluster.config(1)
    };
    let error = refused(&cluster, other).await;
    assert!(
        matches!(&error, StartError::OtherCluster { found, .. } if found == "test"),
        "{error}"
    );

    let stranger = ShardNodeConfig {
        node: 9,
        ..cluster.config(1)
    };
    let error = refused(&cluster, stranger).await.to_string();
    assert!(
        error.contains("belongs to node") && error.contains("node id"),
        "{error}"
    );

    let nobody = ShardNodeConfig {
        node: 0,
        ..cluster.config(1)
    };
    let error = refused(&cluster, nobody).await;
    assert!(
        matches!(&error, StartError::Config(reason) if reason.contains("node")),
        "{error}"
    );

    // None of them did any harm.
    cluster.start_node(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_on_the_port_do_no_harm() {
    let cluster = Cluster::start(1).await;
    cluster.create("users", KeyspaceOptions::of(Mode::Sync, 1)).await;
    let address = cluster.nodes[&1].local_addr();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..64 {
        let mut noise: Vec<u8> = Vec::new();
        if round % 2 == 0 {
            noise.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        for _ in 0..round * 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend(state.to_le_bytes());
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The node may hang up in the middle of it.
        let _ = stream.write_all(&noise).await;
        let _ = stream.shutdown().await;
        let _ = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0; 256])).await;
    }
    assert_eq!(cluster.write("users", "k", "v").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_is_refused_unless_it_is_meant_for_this_node_and_makes_sense() {
    let cluster = Cluster::start(1).await;
    cluster.create("users", KeyspaceOptions::of(Mode::Sync, 1)).await;
    let hello = Hello {
        cluster_id: "test".into(),
        from: 2,
        to: 1,
        boot: 5,
    };
    let nonsense = PeerMessage {
        group: 1,
        body: vec![1, 1, 255].into(),
        ..Default::default()
    };
    let cases = [
        (None, Vec::new(), "who sends it"),
        (
            Some(Hello {
                cluster_id: "other".into(),
                ..hello.clone()
            }),
            Vec::new(),
            "of cluster 'test'",
        ),
        (Some(Hello { to: 3, ..hello.clone() }), Vec::new(), "not n3"),
        (
            Some(Hello {
                from: 1,
                ..hello.clone()
            }),
            Vec::new(),
            "two processes",
        ),
        (Some(hello), vec![nonsense], "malformed"),
    ];
    for (hello, messages, why) in cases {
        let mut peer = PeerClient::new(channel(cluster.nodes[&1].local_addr()).await);
        let first = PeerBatch { hello, messages };
        let status = peer.link(futures::stream::iter([first])).await.unwrap_err();
        assert!(status.message().contains(why), "{status}");
    }
    assert_eq!(cluster.write("users", "k", "v").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_of_an_earlier_life_is_closed() {
    let cluster = Cluster::start(1).await;
    let address = cluster.nodes[&1].local_addr();
    let hello = |boot| PeerBatch {
        hello: Some(Hello {
            cluster_id: "test".into(),
            from: 2,
            to: 1,
            boot,
        }),
        messages: Vec::new(),
    };
    let (early, batches) = tokio::sync::mpsc::channel(4);
    early.send(hello(5)).await.unwrap();
    let mut peer = PeerClient::new(channel(address).await);
    let link = tokio::spawn(async move {
        let batches = futures::stream::unfold(batches, |mut batches| async {
            let batch = batches.recv().await?;
            Some((batch, batches))
        });
        peer.link(batches).await
    });
    // The same life may have several links; it ends with the next one.
    for boot in [5, 6] {
        early.send(PeerBatch::default()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!link.is_finished(), "it is closed before life {boot} has begun");
        let mut peer = PeerClient::new(channel(address).await);
        peer.link(futures::stream::iter([hello(boot)])).await.unwrap();
    }
    early.send(PeerBatch::default()).await.unwrap();
    let status = link.await.unwrap().unwrap_err();
    assert!(status.message().contains("earlier life"), "{status}");
}
