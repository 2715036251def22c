//! A cluster of real processes: an etcd, shard-nodes, a router and a coordinator, each in a process of its own, killed when dropped.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod greeting;

use fulcrum_common::sockets::ReservedPort;
use fulcrum_common::{Clock, SystemClock};
use fulcrum_metadata_etcd::testing::{Etcd, Signed};
use fulcrum_types::Mono;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

const NODE: &str = env!("CARGO_BIN_EXE_fulcrum-shard-node");
const ROUTER: &str = env!("CARGO_BIN_EXE_fulcrum-router");
const COORDINATOR: &str = env!("CARGO_BIN_EXE_fulcrum-coordinator");
/// Generous: a loaded machine is no bug.
pub const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn now() -> Mono {
    SystemClock.now().mono
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = now();
    while !so() {
        assert!(now().since(begun) < PATIENCE, "not in time: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a probe is answered: the status, and the reason.
pub fn probe(address: &str, path: &str) -> (u16, String) {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_else(|error| format!("HTTP/1.1 0 {error}"));
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or(0), answer)
}

/// A service in a process of its own.
pub struct Service {
    child: Child,
    /// What it says once it serves.
    said: mpsc::Receiver<String>,
    log: PathBuf,
}

impl Service {
    pub fn spawn(program: &str, arguments: &[String], settings: &[(&str, &str)], log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut child = Command::new(program)
            .args(arguments)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        Self { child, said, log }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn serves(&self) -> Option<Value> {
        self.said
            .try_recv()
            .ok()
            .map(|line| serde_json::from_str(&line).unwrap())
    }

    /// Waits until it serves; its address.
    pub fn address(&self) -> String {
        self.addresses().0
    }

    /// The same, and where it is probed.
    pub fn addresses(&self) -> (String, Option<String>) {
        let line = self.said.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("it does not serve: {}", self.log()));
        let told: Value = serde_json::from_str(&line).unwrap();
        let address = |what: &str| told[what].as_str().map(str::to_owned);
        (address("address").unwrap(), address("metrics"))
    }

    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// It does nothing until it is resumed.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let begun = now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(now().since(begun) < PATIENCE, "it does not end: {}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// As SIGKILL: nothing is handed over, nothing is flushed.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All processes of a cluster, with its data.
pub struct World {
    folder: TempDir,
    pub etcd: Etcd,
    pub nodes: Vec<Service>,
    /// Ports of the nodes, the same in every life.
    listen: Vec<ReservedPort>,
    /// Where the nodes are probed; another place in every life.
    pub probed: Vec<String>,
    pub router: Option<Service>,
    pub router_address: String,
    /// Where the router is probed, even before it serves.
    pub router_probed: String,
    /// The same of a coordinator.
    pub coordinator_probed: String,
    /// They may be started again: they are probed where they were.
    _probed: [ReservedPort; 2],
    /// Zones that nodes are in by turns; 0: each in its own.
    pub zones: usize,
    /// Settings of the nodes, as environment variables.
    pub settings: Vec<(&'static str, &'static str)>,
    /// Where all processes send traces, and which part of those that could begin there.
    pub traces: Option<(String, &'static str)>,
    /// The same of the router and the coordinator.
    pub gate_settings: Vec<(&'static str, &'static str)>,
    /// The certificate of all processes, and of the command line; nothing is encrypted without.
    pub encrypted: Option<Encrypted>,
}

/// Files of certificates.
pub struct Encrypted {
    pub authority: PathBuf,
    pub processes: Signed,
    pub client: Signed,
}

/// The flags that name such files.
pub fn tls_flags(authority: &Path, signed: &Signed) -> Vec<String> {
    let files = [
        ("--tls-ca", authority),
        ("--tls-cert", &signed.certificate),
        ("--tls-key", &signed.key),
    ];
    let flags = files.map(|(flag, file)| [flag.to_owned(), file.display().to_string()]);
    flags.into_iter().flatten().collect()
}

impl World {
    /// Nothing but etcd; none where tests shall do without.
    pub async fn new() -> Option<Self> {
        let probed = [ReservedPort::any().unwrap(), ReservedPort::any().unwrap()];
        let address = |port: &ReservedPort| port.address().unwrap().to_string();
        Some(Self {
            etcd: Etcd::start().await?,
            folder: tempfile::tempdir().unwrap(),
            nodes: Vec::new(),
            listen: Vec::new(),
            probed: Vec::new(),
            router: None,
            router_address: String::new(),
            router_probed: address(&probed[0]),
            coordinator_probed: address(&probed[1]),
            _probed: probed,
            zones: 0,
            settings: Vec::new(),
            traces: None,
            gate_settings: Vec::new(),
            encrypted: None,
        })
    }

    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}"))
    }

    /// Where everything is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn shared(&self, cluster: &str) -> Vec<String> {
        let etcd = self.etcd.endpoint();
        let mut flags = ["--etcd", &etcd, "--cluster-id", cluster].map(str::to_owned).to_vec();
        if let Some(encrypted) = &self.encrypted {
            flags.extend(tls_flags(&encrypted.authority, &encrypted.processes));
        }
        flags
    }

    /// Settings of traces, as environment variables.
    /// What the router and the coordinator are told.
    fn gate_settings(&self) -> Vec<(&str, &str)> {
        let mut settings = self.telemetry();
        settings.extend(&self.gate_settings);
        settings
    }

    fn telemetry(&self) -> Vec<(&str, &str)> {
        match &self.traces {
            Some((endpoint, ratio)) => vec![
                ("FULCRUM__TELEMETRY__OTLP_ENDPOINT", endpoint),
                ("FULCRUM__TELEMETRY__TRACE_RATIO", ratio),
            ],
            None => Vec::new(),
        }
    }

    /// A shard-node; it need not be one of the cluster's.
    pub fn shard_node(&self, node: usize, cluster: &str, data_dir: &Path, listen: &str) -> Service {
        let mut arguments = self.shared(cluster);
        let data_dir = data_dir.display().to_string();
        let zone = if self.zones > 0 {
            (node - 1) % self.zones + 1
        } else {
            node
        };
        let (number, zone) = (node.to_string(), format!("zone-{zone}"));
        let own = [
            "--node",
            &number,
            "--zone",
            &zone,
            "--data-dir",
            &data_dir,
            "--listen",
            listen,
            "--metrics-listen",
            "127.0.0.1:0",
        ];
        arguments.extend(own.map(str::to_owned));
        Service::spawn(
            NODE,
            &arguments,
            &[self.settings.clone(), self.telemetry()].concat(),
            self.log(&format!("node-{node}-{cluster}")),
        )
    }

    /// Starts the next node of the cluster.
    pub fn add_node(&mut self) {
        let node = self.nodes.len() + 1;
        let port = ReservedPort::any().unwrap();
        let listen = port.address().unwrap().to_string();
        let service = self.shard_node(node, "test", &self.data_dir(node), &listen);
        self.listen.push(port);
        self.probed.push(service.addresses().1.unwrap());
        self.nodes.push(service);
    }

    /// Starts a node again that has ended.
    pub fn restart_node(&mut self, node: usize) {
        let listen = self.listen[node - 1].address().unwrap().to_string();
        let service = self.shard_node(node, "test", &self.data_dir(node), &listen);
        self.probed[node - 1] = service.addresses().1.unwrap();
        self.nodes[node - 1] = service;
    }

    /// Another etcd, empty, in place of the one there is: its processes are told nothing.
    pub async fn replace_etcd(&mut self) {
        self.etcd = Etcd::start().await.unwrap();
    }

    pub fn add_router(&mut self) {
        let mut arguments = self.shared("test");
        let probed = self.router_probed.as_str();
        arguments.extend(["--listen", "127.0.0.1:0", "--metrics-listen", probed].map(str::to_owned));
        self.router = Some(Service::spawn(
            ROUTER,
            &arguments,
            &self.gate_settings(),
            self.log("router"),
        ));
    }

    /// A router that is given none of the settings: it asks for nothing, and shows nothing.
    pub fn other_router(&self) -> Service {
        let mut arguments = self.shared("test");
        arguments.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
        Service::spawn(ROUTER, &arguments, &[], self.log("other-router"))
    }

    /// A coordinator on its own.
    pub fn coordinator(&self) -> Service {
        let mut arguments = self.shared("test");
        let own = ["--listen", "127.0.0.1:0", "--metrics-listen", &self.coordinator_probed];
        arguments.extend(own.map(str::to_owned));
        Service::spawn(COORDINATOR, &arguments, &self.gate_settings(), self.log("coordinator"))
    }

    /// Waits until the router serves.
    pub fn wait_for_router(&mut self) {
        self.router_address = self.router.as_ref().unwrap().address();
    }

    /// Whether every node says that the next one may be taken down.
    pub fn all_ready(&self) -> bool {
        self.probed.iter().all(|probed| probe(probed, "/readyz").0 == 200)
    }

    /// The command line, as a user has it.
    pub fn fulcrum(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let services = Path::new(ROUTER).parent().unwrap();
        let program = services.join("examples/fulcrum");
        assert!(
            program.exists(),
            "{} is missing: `cargo test -p fulcrum-services` builds it, `--test` alone does not",
            program.display()
        );
        let mut command = Command::new(program);
        command
            .args(["--router", &self.router_address, "-o", "json"])
            .args(arguments);
        if let Some(encrypted) = &self.encrypted {
            command.args(tls_flags(&encrypted.authority, &encrypted.client));
        }
        command
    }

    /// A command that must succeed; what it prints.
    pub fn ok(&self, arguments: &[&str]) -> Value {
        let output = self.fulcrum(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{}", self.logs());
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The first group, as its nodes tell it.
    pub fn group(&self) -> Value {
        self.ok(&["status"])["groups"][0].clone()
    }

    pub fn primary(&self) -> Option<usize> {
        let primary = self.group()["primary"].as_u64()?;
        usize::try_from(primary).ok()
    }

    pub fn all_in_sync(&self) -> bool {
        let group = self.group();
        group["ready"] == true
            && group["in_sync"]
                .as_array()
                .is_some_and(|in_sync| in_sync.len() == self.nodes.len())
    }

    pub fn logs(&self) -> String {
        let nodes = self.nodes.iter().map(Service::log);
        nodes
            .chain(self.router.iter().map(Service::log))
            .collect::<Vec<_>>()
            .join("\n--\n")
    }
}
