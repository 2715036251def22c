//! Encryption as a user has it: certificates by `fulcrum cert dev`, a cluster with them, and what the command line says when something
//! about them is wrong.

use fulcrum_cli::commands::cert::config_of;
use fulcrum_client::{Client, Config, KeyspaceSpec, Tls};
use fulcrum_common::metrics::Metrics;
use fulcrum_common::tls::{ClientCertificates, Tls as Encryption, TlsConfig};
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const FULCRUM: &str = env!("CARGO_BIN_EXE_fulcrum");

fn fulcrum(arguments: &[&str]) -> Output {
    Command::new(FULCRUM).args(arguments).output().unwrap()
}

fn cert_dev(dir: &Path, more: &[&str]) -> Output {
    let dir = dir.display().to_string();
    fulcrum(&[&["cert", "dev", "--dir", &dir], more].concat())
}

/// A `fulcrum dev` with certificates, killed when dropped.
struct Dev {
    child: Child,
    router: String,
    dir: PathBuf,
}

impl Dev {
    fn start(dir: &Path) -> Self {
        let dir_flag = dir.display().to_string();
        let flags = ["dev", "--listen", "127.0.0.1:0", "-o", "json", "--tls", &dir_flag];
        let mut command = Command::new(FULCRUM);
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self {
            child,
            router: told["router"].as_str().unwrap().to_owned(),
            dir: dir.to_owned(),
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn run(&self, flags: &[&str], arguments: &[&str]) -> Output {
        let usual = ["--router", &self.router];
        fulcrum(&[usual.as_slice(), flags, arguments].concat())
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| self.file(name));
        let output = self.run(&["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key], arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, flags: &[&str], exit: i32, words: &[&str]) {
        let put = ["--deadline", "3s", "put", "k", "key", "value"];
        let output = self.run(flags, &put);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{flags:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{flags:?}: '{word}' is not in: {said}");
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn certificates_are_made_with_care() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("certs");
    let made = cert_dev(&dir, &["--host", "db.example", "--host", "10.0.0.7"]);
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(
        said.lines().count(),
        3,
        "what it made, and how to use it in two lines: {said}"
    );
    for word in [
        "db.example",
        "10.0.0.7",
        "fulcrum-service",
        "--tls-ca",
        "FULCRUM_TLS_CA",
    ] {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for name in ["ca", "service", "client"] {
        assert_eq!(mode(&dir.join(format!("{name}.key"))), 0o600, "{name}");
        assert_eq!(mode(&dir.join(format!("{name}.pem"))), 0o644, "{name}");
    }
    let before = std::fs::read(dir.join("ca.pem")).unwrap();
    let again = cert_dev(&dir, &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"), "{again:?}");
    assert_eq!(
        std::fs::read(dir.join("ca.pem")).unwrap(),
        before,
        "nothing is overwritten"
    );
    std::fs::set_permissions(dir.join("ca.key"), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(cert_dev(&dir, &["--force"]).status.success());
    assert_ne!(std::fs::read(dir.join("ca.pem")).unwrap(), before);
    assert_eq!(
        mode(&dir.join("ca.key")),
        0o600,
        "a key that others could read is made anew"
    );
    assert_eq!(cert_dev(&dir, &["--force", "--host", "no name"]).status.code(), Some(2));

    let config = config_of(&dir);
    let metrics = Metrics::new();
    assert!(
        Encryption::open(&config, &metrics).unwrap().is_some(),
        "services take them"
    );
    let until = metrics.registry().gather();
    let until = until
        .iter()
        .find(|family| family.name() == "fulcrum_tls_certificate_expires_seconds");
    assert!(until.unwrap().get_metric()[0].get_gauge().get_value() > 1_700_000_000.0);
}

#[test]
fn a_cluster_is_used_encrypted_and_not_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, other) = (folder.path().join("certs"), folder.path().join("other"));
    assert!(cert_dev(&dir, &[]).status.success() && cert_dev(&other, &[]).status.success());
    let dev = Dev::start(&dir);
    dev.ok(&["keyspace", "create", "k"]);
    dev.ok(&["--deadline", "20s", "put", "k", "key", "value"]);
    assert!(dev.ok(&["get", "k", "key"]).contains("value"));
    dev.ok(&["txn", "run", "-e", "put k a 1", "-e", "put k b 2"]);
    dev.ok(&["status"]);

    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| dev.file(name));
    let of_other = |name: &str| other.join(name).display().to_string();
    let (other_ca, other_cert, other_key) = (of_other("ca.pem"), of_other("client.pem"), of_other("client.key"));
    // Each time nothing was sent, so nothing is in doubt: 6, not 5.
    dev.fails(&["--tls-ca", &ca], 6, &["wants a certificate", "--tls-cert"]);
    dev.fails(
        &["--tls-ca", &ca, "--tls-cert", &other_cert, "--tls-key", &other_key],
        6,
        &["does not know the authority of our certificate"],
    );
    dev.fails(
        &["--tls-ca", &other_ca, "--tls-cert", &cert, "--tls-key", &key],
        6,
        &["not by the authority that was named", "--tls-ca"],
    );
    dev.fails(&[], 6, &["only TLS is spoken there", "--tls-ca"]);
    let named = [
        "--tls-ca",
        &ca,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--tls-server-name",
    ];
    dev.fails(
        &[named.as_slice(), &["elsewhere"]].concat(),
        6,
        &["for other names", "--tls-server-name"],
    );
    let by_role = [named.as_slice(), &["fulcrum-service"]].concat();
    assert!(
        dev.run(&by_role, &["get", "k", "key"]).status.success(),
        "by their role, whatever the address"
    );
    dev.fails(&["--tls-cert", &cert], 2, &["--tls-ca"]);
    dev.fails(&["--tls-ca", &ca, "--tls-cert", &cert], 2, &["go together"]);
    dev.fails(&["--tls-ca", "/no/such.pem"], 2, &["/no/such.pem"]);
    let plain = fulcrum(&["--router", &format!("http://{}", dev.router), "--tls-ca", &ca, "status"]);
    let said = String::from_utf8_lossy(&plain.stderr);
    assert!(
        plain.status.code() == Some(2) && said.contains("only https is spoken here"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_in_as_it_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("certs");
    assert!(cert_dev(&dir, &[]).status.success());
    let nameless = Tls::by(dir.join("ca.pem"));
    let named = nameless
        .clone()
        .certificate(dir.join("client.pem"), dir.join("client.key"));
    let ways = [(false, ClientCertificates::None), (true, ClientCertificates::Optional)];
    for (direct_clients, client_certificates) in ways {
        let tls = TlsConfig {
            direct_clients,
            client_certificates,
            ..config_of(&dir)
        };
        let options = LocalClusterOptions {
            tls,
            ..LocalClusterOptions::default()
        };
        let cluster = LocalCluster::start(options).await.unwrap();
        let to = |tls: &Tls| {
            let config = Config::new(cluster.router_address().to_string()).deadline(Duration::from_secs(20));
            config.tls(tls.clone()).unwrap()
        };
        // Who has no certificate needs a router; who has one may go straight to the nodes, or through a router if it may not.
        let client = Client::connect(to(&nameless)).await.unwrap();
        let made = client.admin().create_keyspace("k", KeyspaceSpec::default()).await;
        assert!(made.is_ok(), "{made:?}");
        let written = client.keyspace("k").put("key", "value").await;
        assert!(written.is_ok(), "{written:?}");
        let smart = Client::connect_smart(to(&named)).await.unwrap();
        let written = smart.keyspace("k").put("key", "other").await;
        assert!(written.is_ok(), "direct: {direct_clients}: {written:?}");
        drop((client, smart));
        assert_eq!(cluster.stop().await, []);
    }
}

#[test]
fn a_client_with_certificates_sends_nothing_to_a_server_in_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("certs");
    assert!(cert_dev(&dir, &[]).status.success());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let (hear, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for mut caller in server.incoming().map_while(Result::ok) {
            let mut first = [0; 2];
            caller.read_exact(&mut first).unwrap();
            // As a server of HTTP/2 in plain text begins.
            caller.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
            let _ = hear.send(first);
        }
    });
    let ca = dir.join("ca.pem").display().to_string();
    let output = fulcrum(&[
        "--router",
        &address,
        "--deadline",
        "1s",
        "--tls-ca",
        &ca,
        "get",
        "k",
        "key",
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("no TLS is spoken there"), "{said}");
    let all: Vec<[u8; 2]> = heard.try_iter().collect();
    assert!(!all.is_empty());
    assert!(
        all.iter().all(|first| *first == [22, 3]),
        "it says nothing but greetings of TLS: {all:?}"
    );
}
