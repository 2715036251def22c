//! An etcd of one's own, for tests: one member on free loopback ports, in a directory that goes with it.
//!
//! Where the program comes from: the environment variable `FULCRUM_ETCD`, else `etcd` on the path, else what
//! `cargo xtask test` has fetched into `target/etcd`. Without any a test that needs it fails and says so; only
//! `FULCRUM_ETCD=none`, which `cargo xtask test` sets (and reports) where etcd cannot be had outside CI, leaves it out.

mod certificates;

pub use certificates::{Authority, Holds, Signed};

use crate::{EtcdConfig, EtcdMetadata};
use fulcrum_common::sockets::ReservedPort;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Generous: a loaded machine is no bug.
const START_LOOKS: u32 = 1500;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Somebody else may take a port between finding it free and using it.
const START_ATTEMPTS: u32 = 3;

/// How an etcd differs from a plain one.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// It serves clients with encryption.
    pub certificate: Option<Signed>,
    /// It wants clients' certificates, by this authority.
    pub clients_authority: Option<PathBuf>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// An etcd of one's own; killed when dropped.
pub struct Etcd {
    program: PathBuf,
    setup: Setup,
    directory: TempDir,
    clients: ReservedPort,
    peers: ReservedPort,
    /// Where it tells how it is, without encryption.
    health: ReservedPort,
    child: Option<Child>,
}

/// The program, if tests shall use one.
///
/// # Panics
/// If there is none, and nobody said that this is all right.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("FULCRUM_ETCD");
    if named.as_deref().is_some_and(|named| named == "none") {
        return None;
    }
    if let Some(named) = named.map(PathBuf::from) {
        assert!(
            named.is_file(),
            "FULCRUM_ETCD names {}, which is no file",
            named.display()
        );
        return Some(named);
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/etcd/usr/bin/etcd");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
    let found = on_path.chain([fetched]).find(|program| program.is_file());
    Some(found.expect("this test needs etcd: run `cargo xtask test`, which fetches it, or name one in FULCRUM_ETCD"))
}

fn at(port: &ReservedPort) -> SocketAddr {
    port.address().unwrap()
}

impl Setup {
    fn own_arguments(&self) -> Vec<String> {
        let mut arguments = self.arguments.clone();
        let files = |flag: &str, file: &Path| [flag.to_owned(), file.display().to_string()];
        if let Some(signed) = &self.certificate {
            arguments.extend(files("--cert-file", &signed.certificate));
            arguments.extend(files("--key-file", &signed.key));
        }
        if let Some(authority) = &self.clients_authority {
            arguments.push("--client-cert-auth".to_owned());
            arguments.extend(files("--trusted-ca-file", authority));
        }
        arguments
    }
}

impl Etcd {
    /// Starts one; none if tests shall do without.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start() -> Option<Self> {
        Self::start_as(Setup::default()).await
    }

    /// The same, set up otherwise.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start_as(setup: Setup) -> Option<Self> {
        let program = program()?;
        for attempt in 1.. {
            let mut etcd = Self {
                program: program.clone(),
                setup: setup.clone(),
                directory: tempfile::tempdir().unwrap(),
                clients: ReservedPort::any().unwrap(),
                peers: ReservedPort::any().unwrap(),
                health: ReservedPort::any().unwrap(),
                child: None,
            };
            if etcd.run().await {
                return Some(etcd);
            }
            assert!(attempt < START_ATTEMPTS, "etcd does not start: {}", etcd.log());
        }
        None
    }

    /// Starts it, at first or again; false if it does not come up.
    async fn run(&mut self) -> bool {
        let (clients, peers) = (self.endpoint(), format!("http://{}", at(&self.peers)));
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let child = Command::new(&self.program)
            .args(["--name", "test", "--initial-cluster", &format!("test={peers}")])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--listen-metrics-urls", &format!("http://{}", at(&self.health))])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(self.setup.own_arguments())
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..START_LOOKS {
            if self
                .child
                .as_mut()
                .is_none_or(|child| child.try_wait().unwrap().is_some())
            {
                return false;
            }
            if self.is_healthy().unwrap_or(false) {
                return true;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        false
    }

    fn is_healthy(&self) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(at(&self.health))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.contains("\"health\":\"true\""))
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where clients connect.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let scheme = self.setup.certificate.as_ref().map_or("http", |_| "https");
        format!("{scheme}://{}", at(&self.clients))
    }

    /// Settings to reach it.
    #[must_use]
    pub fn config(&self) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![self.endpoint()],
            ..EtcdConfig::default()
        }
    }

    /// A new connection to it.
    #[must_use]
    pub fn metadata(&self) -> EtcdMetadata {
        EtcdMetadata::new(self.config()).unwrap()
    }

    /// Kills it; its data stays.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills it and takes its data.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn lose_data(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.directory.path().join("data")).unwrap();
    }

    /// Starts it again, on its data and at the same place.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn start_again(&mut self) {
        assert!(self.run().await, "etcd does not start again: {}", self.log());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}
