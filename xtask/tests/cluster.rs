//! A cluster as somebody who tries it out has it: up, used, a node killed, up again, down.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

struct World {
    folder: tempfile::TempDir,
    /// Where `up` builds them, too.
    programs: PathBuf,
    base_port: u16,
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl World {
    fn new() -> Self {
        let programs = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap().to_owned();
        // Far from the default, and from that of another test run at the same time.
        let base_port = 20_000 + u16::try_from(std::process::id() % 190).unwrap() * 200;
        Self {
            folder: tempfile::tempdir().unwrap(),
            programs,
            base_port,
        }
    }

    fn cluster(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["cluster", "--folder"])
            .arg(self.folder.path())
            .args(arguments)
            .output()
            .unwrap()
    }

    fn up(&self, arguments: &[&str]) -> Output {
        let base_port = self.base_port.to_string();
        let own = ["up", "--base-port", &base_port];
        self.cluster(&[&own, arguments].concat())
    }

    fn fulcrum(&self, arguments: &[&str]) -> String {
        let router = format!("127.0.0.1:{}", self.base_port);
        let mut command = Command::new(self.programs.join("fulcrum"));
        succeeds(command.args(["--router", &router, "--deadline", "20s"]).args(arguments))
    }

    fn pid(&self, name: &str) -> u64 {
        let ledger = std::fs::read(self.folder.path().join("processes.json")).unwrap();
        let ledger: Value = serde_json::from_slice(&ledger).unwrap();
        let mut started = ledger["started"].as_array().unwrap().iter();
        started.find(|one| one["name"] == name).unwrap()["pid"]
            .as_u64()
            .unwrap()
    }
}

/// Whatever a failed test leaves behind.
impl Drop for World {
    fn drop(&mut self) {
        self.cluster(&["down"]);
    }
}

fn is_alive(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

fn kill_at_once(pid: u64) {
    succeeds(Command::new("kill").args(["-9", &pid.to_string()]));
    // A process that cannot be saved goes in a moment: whoever waits only yields.
    while is_alive(pid) {
        std::thread::yield_now();
    }
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

#[test]
fn up_used_killed_up_again_and_down() {
    if std::env::var_os("FULCRUM_ETCD").is_some_and(|named| named == "none") {
        return;
    }
    let world = World::new();
    assert_eq!(world.cluster(&["status"]).status.code(), Some(1), "nothing is up");
    let up = world.up(&["--nodes", "3", "--routers", "2"]);
    assert!(up.status.success(), "{}", said(&up));
    assert!(said(&up).contains("keyspace create"), "{}", said(&up));
    let status = world.cluster(&["status"]);
    assert!(status.status.success(), "{}", said(&status));
    for name in ["etcd", "node-3", "router-2", "coordinator", "/metrics"] {
        assert!(said(&status).contains(name), "{}", said(&status));
    }

    world.fulcrum(&["keyspace", "create", "orders", "--groups", "2"]);
    world.fulcrum(&["put", "orders", "a", "1"]);
    assert!(world.fulcrum(&["get", "orders", "a"]).contains('1'));
    world.fulcrum(&[
        "txn",
        "run",
        "-e",
        "if orders a = 1",
        "-e",
        "put orders a 2",
        "-e",
        "put orders b 2",
    ]);
    assert!(world.fulcrum(&["get", "orders", "b"]).contains('2'));

    let (victim, survivor) = (world.pid("node-1"), world.pid("node-2"));
    kill_at_once(victim);
    world.fulcrum(&["put", "orders", "a", "3"]);
    let status = world.cluster(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(said(&status).contains("has ended"), "{}", said(&status));
    let other_shape = world.up(&["--nodes", "5"]);
    assert!(!other_shape.status.success() && said(&other_shape).contains("cluster down"));

    let again = world.up(&[]);
    assert!(again.status.success(), "{}", said(&again));
    assert!(said(&again).contains("starting node-1") && !said(&again).contains("starting node-2"));
    assert_eq!(world.pid("node-2"), survivor);
    assert!(world.fulcrum(&["get", "orders", "a"]).contains('3'));

    let all: Vec<u64> = [
        "etcd",
        "node-1",
        "node-2",
        "node-3",
        "router-1",
        "router-2",
        "coordinator",
    ]
    .map(|name| world.pid(name))
    .to_vec();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let down = world.cluster(&["down"]);
    assert!(down.status.success(), "{}", said(&down));
    assert!(
        !said(&down).contains("killed"),
        "all stop by themselves: {}",
        said(&down)
    );
    assert!(all.iter().all(|pid| !is_alive(*pid)));
    assert!(stranger.try_wait().unwrap().is_none(), "only its own are ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    let kept = world.up(&["--keep-data"]);
    assert!(kept.status.success(), "{}", said(&kept));
    assert!(world.fulcrum(&["get", "orders", "a"]).contains('3'));
}
