//! Who is let in at an encrypted port and who is not: a shard-node in a process of its own, and callers that open connections by hand. What is
//! refused is told in the node's log and counted, and not to the caller.

mod support;

use fulcrum_common::metrics::Metrics;
use fulcrum_common::tls::{Dialer, Tls, TlsConfig};
use fulcrum_common::wire::batch::RequestBatch;
use fulcrum_common::wire::internal::peer_client::PeerClient;
use fulcrum_common::wire::internal::shard_client::ShardClient;
use fulcrum_common::wire::v1;
use fulcrum_common::wire::v1::kv_client::KvClient;
use fulcrum_metadata_etcd::testing::{Authority, Holds, Signed};
use rustls::version::{TLS12, TLS13};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::greeting::{PREFACE, greet, is_hung_up_on, old_greeting};
use support::{PATIENCE, Service, now, probe, tls_flags, until};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Endpoint;

const NODE: &str = env!("CARGO_BIN_EXE_fulcrum-shard-node");
const HERE: &str = "127.0.0.1";
const ROLE: &str = "fulcrum-service";
const INTRUDER: &str = "intruder";

/// A node that serves its port; it waits for an etcd that is nowhere.
struct World {
    folder: TempDir,
    authority: Authority,
    own: Signed,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(&folder.path().join("authority"));
        Self {
            own: authority.sign("node", &[ROLE, HERE], Holds::Now),
            authority,
            folder,
        }
    }

    fn stranger(&self) -> Authority {
        Authority::new(&self.folder.path().join("stranger"))
    }

    fn arguments(&self, own: &Signed) -> Vec<String> {
        let data = self.folder.path().join("data").display().to_string();
        let flags = ["--node", "1", "--data-dir", &data, "--listen", "127.0.0.1:0"];
        let nowhere = ["--metrics-listen", "127.0.0.1:0", "--etcd", "http://127.0.0.1:1"];
        let mut arguments: Vec<String> = flags.into_iter().chain(nowhere).map(str::to_owned).collect();
        arguments.extend(tls_flags(&self.authority.file(), own));
        arguments
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("node.log")
    }

    fn start(&self, settings: &[(&str, &str)]) -> Node {
        let service = Service::spawn(NODE, &self.arguments(&self.own), settings, self.log());
        let (address, probed) = service.addresses();
        Node {
            service,
            address,
            probed: probed.unwrap(),
        }
    }

    /// A node with this certificate does not start, and says why.
    fn does_not_start(&self, own: &Signed, words: &[&str]) {
        let ended = Command::new(NODE).args(self.arguments(own)).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        let last = said.lines().last().unwrap_or_default();
        for word in words {
            assert!(last.contains(word), "'{word}' is not in: {said}");
        }
    }
}

struct Node {
    service: Service,
    address: String,
    probed: String,
}

impl Node {
    fn refused(&self, reason: &str) -> u64 {
        let metrics = probe(&self.probed, "/metrics").1;
        let wanted = format!("fulcrum_tls_refused_total{{reason=\"{reason}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&wanted));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// The node's log and metric know of a refusal, and say why.
    async fn has_refused(&self, reason: &str, words: &[&str]) {
        until(&format!("a refusal is told: {reason}"), || {
            let log = self.service.log();
            let told = |line: &str| line.contains(reason) && words.iter().all(|word| line.contains(word));
            self.refused(reason) > 0 && log.lines().any(told)
        })
        .await;
    }

    async fn greets(&self, identity: &Signed) -> bool {
        greet(&self.address, Some(identity), &TLS13).await.is_ok()
    }
}

#[tokio::test]
async fn only_the_clusters_own_processes_come_in() {
    let world = World::new();
    let node = world.start(&[]);
    let mut ours = greet(&node.address, Some(&world.own), &TLS13).await.unwrap();
    assert!(ours.lives().await);

    let refusals = [
        (
            world.authority.sign("client", &["somebody"], Holds::Now),
            "wrong_role",
            "tls.direct_clients",
        ),
        (
            world.authority.sign("wild", &["*.fulcrum-service", "*"], Holds::Now),
            "wrong_role",
            "tls.service_name",
        ),
        (
            world.stranger().sign("stranger", &[ROLE], Holds::Now),
            "wrong_authority",
            "tls.ca",
        ),
        (
            world.authority.sign("old", &[ROLE], Holds::Expired),
            "expired",
            "renew it",
        ),
        (
            world.authority.sign("new", &[ROLE], Holds::NotYet),
            "not_yet_valid",
            "clock",
        ),
        (
            world.authority.sign_for_servers("server", &[ROLE], Holds::Now),
            "wrong_purpose",
            "clientAuth",
        ),
    ];
    for (identity, reason, word) in refusals {
        let told = greet(&node.address, Some(&identity), &TLS13).await.err().expect(reason);
        let told = told.to_string();
        assert!(
            told.contains("received fatal alert"),
            "{reason}: the caller is told more: {told}"
        );
        node.has_refused(reason, &[word]).await;
    }
    let told = greet(&node.address, None, &TLS13).await.err().expect("no certificate");
    assert!(told.to_string().contains("CertificateRequired"), "{told}");
    node.has_refused("no_certificate", &["tls.ca"]).await;
    assert!(ours.lives().await, "others are refused, and we go on");
}

#[tokio::test]
async fn nothing_older_and_nothing_plain_is_spoken() {
    let world = World::new();
    let node = world.start(&[]);
    let told = greet(&node.address, Some(&world.own), &TLS12)
        .await
        .err()
        .expect("TLS 1.2");
    assert!(told.to_string().contains("ProtocolVersion"), "{told}");
    node.has_refused("version", &["TLS 1.3"]).await;
    let versions = node.refused("version");
    is_hung_up_on(&node.address, &old_greeting()).await;
    until("TLS 1.1 is refused, too", || node.refused("version") > versions).await;

    for plain in [PREFACE, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        is_hung_up_on(&node.address, plain).await;
    }
    node.has_refused("plain_text", &["--tls-ca"]).await;
    assert!(node.greets(&world.own).await);
    assert_eq!(
        probe(&node.probed, "/healthz").0,
        200,
        "probes are plain unless told otherwise"
    );
}

#[tokio::test]
async fn clients_come_in_where_that_is_allowed_and_metrics_are_encrypted_where_that_is() {
    let mut world = World::new();
    // The last is what the intruder takes for the role, and wants of whom it dials.
    world.own = world.authority.sign("node", &[ROLE, HERE, INTRUDER], Holds::Now);
    let client = world.authority.sign("client", &["somebody"], Holds::Now);
    let settings = [
        ("FULCRUM__TLS__DIRECT_CLIENTS", "true"),
        ("FULCRUM__TLS__METRICS", "true"),
    ];
    let node = world.start(&settings);
    assert!(node.greets(&client).await && node.greets(&world.own).await);
    is_kept_from_what_is_internal(&world, &node).await;
    assert!(
        greet(&node.address, None, &TLS13).await.is_err(),
        "but nobody without a certificate"
    );
    is_hung_up_on(&node.probed, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
}

#[tokio::test]
async fn another_certificate_is_in_force_without_a_restart() {
    let world = World::new();
    let settings = [
        ("FULCRUM__TLS__RELOAD_EVERY", "100ms"),
        ("FULCRUM__TLS__WARN_BEFORE", "99999999h"),
    ];
    let node = world.start(&settings);
    assert!(
        node.service.log().contains("is about to expire"),
        "{}",
        node.service.log()
    );
    let expires = "fulcrum_tls_certificate_expires_seconds 67";
    assert!(
        probe(&node.probed, "/metrics").1.contains(expires),
        "it ends in the year 4096"
    );
    let mut before = greet(&node.address, Some(&world.own), &TLS13).await.unwrap();

    // What makes no sense is told and not taken.
    let good = std::fs::read(&world.own.certificate).unwrap();
    for broken in ["", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"] {
        let said = node.service.log().matches("those before stay in force").count();
        std::fs::write(&world.own.certificate, broken).unwrap();
        until("a broken file is told", || {
            node.service.log().matches("those before stay in force").count() > said
        })
        .await;
        assert!(
            node.greets(&restored(&world, &good)).await,
            "the one before is in force"
        );
    }
    let other_key = world.authority.sign("other", &[ROLE, HERE], Holds::Now);
    std::fs::copy(&other_key.key, &world.own.key).unwrap();
    std::fs::write(&world.own.certificate, &good).unwrap();
    until("a key of another certificate is told", || {
        node.service.log().contains("tls.key: the key is not that")
    })
    .await;

    std::fs::copy(&other_key.certificate, &world.own.certificate).unwrap();
    let begun = now();
    let mut after = loop {
        let greeted = greet(&node.address, Some(&other_key), &TLS13).await.unwrap();
        if greeted.shown() != before.shown() {
            break greeted;
        }
        assert!(
            now().since(begun) < PATIENCE,
            "the new certificate is not taken: {}",
            node.service.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(after.lives().await);
    assert!(before.lives().await, "connections that were there go on");
}

/// A client that is let in finds the client API, and nothing else.
async fn is_kept_from_what_is_internal(world: &World, node: &Node) {
    // Its own idea of the role gives it none here.
    let client = world.authority.sign(INTRUDER, &[INTRUDER], Holds::Now);
    let config = TlsConfig {
        cert: Some(client.certificate),
        key: Some(client.key),
        ca: Some(world.authority.file()),
        service_name: INTRUDER.to_owned(),
        ..TlsConfig::default()
    };
    let tls = Tls::open(&config, &Metrics::new()).unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    let channel = Dialer::of(tls.as_ref()).now(&endpoint).await.unwrap();
    let linked = PeerClient::new(channel.clone()).link(tokio_stream::empty()).await;
    let exchanged = ShardClient::new(channel.clone())
        .exchange(tokio_stream::pending::<RequestBatch>())
        .await;
    for refused in [linked.map(|_| ()), exchanged.map(|_| ())] {
        let status = refused.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "not for clients")
        );
    }
    let asked = KvClient::new(channel).get(v1::GetRequest::default()).await;
    let status = asked.unwrap_err();
    assert_ne!(
        status.code(),
        Code::PermissionDenied,
        "the client API answers: {status}"
    );
}

/// The certificate that was in the file, elsewhere: for a caller.
fn restored(world: &World, certificate: &[u8]) -> Signed {
    let copy = world.folder.path().join("copy.pem");
    std::fs::write(&copy, certificate).unwrap();
    Signed {
        certificate: copy,
        key: world.own.key.clone(),
    }
}

#[tokio::test]
async fn another_authority_takes_the_place_of_the_first_step_by_step() {
    let world = World::new();
    let node = world.start(&[("FULCRUM__TLS__RELOAD_EVERY", "100ms")]);
    let next = world.stranger();
    let of_next = next.sign("node", &[ROLE, HERE], Holds::Now);
    assert!(!node.greets(&of_next).await);
    let both = [world.authority.file(), next.file()].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(world.authority.file(), both.concat()).unwrap();
    until("both authorities are taken", || {
        node.service.log().contains("other certificates are in force")
    })
    .await;
    assert!(node.greets(&of_next).await && node.greets(&world.own).await);
    // Not before its own certificate is by the next one, too.
    std::fs::copy(next.file(), world.authority.file()).unwrap();
    until("it would shut itself out", || {
        node.service.log().contains("not by the authority in tls.ca")
    })
    .await;
    assert!(node.greets(&world.own).await);
}

#[tokio::test]
async fn strangers_who_say_nothing_hold_up_nobody() {
    const STRANGERS: usize = 700;
    let world = World::new();
    let node = world.start(&[]);
    let mut served = greet(&node.address, Some(&world.own), &TLS13).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        strangers.push(TcpStream::connect(&node.address).await.unwrap());
    }
    assert!(served.lives().await);
    assert!(node.greets(&world.own).await, "a newcomer need not wait for them");
    assert!(node.refused("overload") > 0, "the oldest are let go");
    node.has_refused("timeout", &["in time"]).await;
    let last = strangers.last_mut().unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = last.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "a stranger is told nothing");
    assert!(served.lives().await);
    let lines = node.service.log().matches("refused a connection").count();
    assert!(lines < 100, "{lines} lines: strangers must not fill the log");
}

#[test]
fn a_certificate_that_others_would_refuse_is_refused_at_the_start() {
    let world = World::new();
    let sign = |names: &[&str], holds| world.authority.sign("bad", names, holds);
    world.does_not_start(
        &sign(&[ROLE, HERE], Holds::Expired),
        &["tls.cert", "expired", "renew it"],
    );
    world.does_not_start(&sign(&[ROLE, HERE], Holds::NotYet), &["tls.cert", "not valid yet"]);
    world.does_not_start(
        &sign(&[HERE], Holds::Now),
        &["tls.cert", "fulcrum-service", "tls.service_name"],
    );
    let foreign = world.stranger().sign("foreign", &[ROLE, HERE], Holds::Now);
    world.does_not_start(&foreign, &["tls.cert", "not by the authority"]);
    let half = world.authority.sign_for_servers("half", &[ROLE, HERE], Holds::Now);
    world.does_not_start(&half, &["tls.cert", "clientAuth"]);
    let mixed = Signed {
        certificate: world.own.certificate.clone(),
        key: foreign.key,
    };
    world.does_not_start(&mixed, &["tls.key", "not that of the certificate"]);
    let missing = Signed {
        certificate: Path::new("/no/such.pem").to_owned(),
        key: world.own.key.clone(),
    };
    world.does_not_start(&missing, &["tls.cert", "/no/such.pem"]);
}
