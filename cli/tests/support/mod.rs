//! A cluster of the real binary, and the command line against it.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub const FULCRUM: &str = env!("CARGO_BIN_EXE_fulcrum");
/// Generous: a loaded machine is no bug.
pub const START_WITHIN: Duration = Duration::from_secs(60);

/// A `fulcrum dev`, killed when dropped.
pub struct Dev {
    child: Child,
    /// Where its router listens.
    pub router: String,
    /// All that it said of itself.
    #[allow(dead_code, reason = "not every test asks")]
    pub told: Value,
}

impl Dev {
    pub fn start(data_dir: &Path) -> Self {
        let mut child = Command::new(FULCRUM)
            .args([
                "dev",
                "--listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "127.0.0.1:0",
                "-o",
                "json",
                "--data-dir",
            ])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (said, line) = mpsc::channel();
        std::thread::spawn(move || {
            let mut first = String::new();
            let _ = BufReader::new(output).read_line(&mut first);
            let _ = said.send(first);
        });
        let line = line.recv_timeout(START_WITHIN).expect("the cluster starts in time");
        let told: Value = serde_json::from_str(&line).unwrap();
        let router = told["router"].as_str().unwrap().to_owned();
        Dev { child, router, told }
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        fulcrum(&self.router, arguments, b"")
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn exit(&self, arguments: &[&str]) -> Option<i32> {
        self.run(arguments).status.code()
    }

    /// Has it stand still, say, and go on.
    #[allow(dead_code, reason = "not every test does")]
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// As SIGKILL: nothing is handed over, nothing is flushed.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command line, under way.
pub fn begin(router: &str, arguments: &[&str]) -> Child {
    Command::new(FULCRUM)
        .args(arguments)
        .env("FULCRUM_ROUTER", router)
        .args(["--deadline", "20s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub fn fulcrum(router: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = begin(router, arguments);
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
