//! The real program with a stand-in for cargo: which calls it makes, how failures and signals travel.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

struct Xtask {
    command: Command,
    calls: PathBuf,
    _folder: tempfile::TempDir,
}

impl Xtask {
    fn new(arguments: &[&str]) -> Xtask {
        let folder = tempfile::tempdir().unwrap();
        let calls = folder.path().join("calls");
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(arguments)
            .env("CARGO", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-cargo"))
            .env("FULCRUM_ETCD", "none")
            .env("FAKE_CARGO_CALLS", &calls);
        Xtask {
            command,
            calls,
            _folder: folder,
        }
    }

    fn env(mut self, name: &str, value: &str) -> Xtask {
        self.command.env(name, value);
        self
    }

    fn output(&mut self) -> Output {
        self.command.output().unwrap()
    }

    fn calls(&self) -> Vec<String> {
        std::fs::read_to_string(&self.calls)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn flags_and_exit_codes_pass_through() {
    let mut xtask = Xtask::new(&["sim", "--seeds", "5", "--start", "7"]).env("FAKE_CARGO_EXIT", "7");
    assert_eq!(xtask.output().status.code(), Some(7));
    assert_eq!(
        xtask.calls(),
        ["run --quiet --locked --package fulcrum-tests --bin sim -- --seeds 5 --start 7"]
    );
}

#[test]
fn benchmarks_run_in_a_release_build() {
    let mut xtask = Xtask::new(&["bench", "--json"]);
    assert_eq!(xtask.output().status.code(), Some(0));
    assert!(xtask.calls()[0].contains("--release"), "{:?}", xtask.calls());
    assert!(xtask.calls()[0].ends_with("-- --json"), "{:?}", xtask.calls());
}

#[test]
fn a_failed_step_fails_the_command_and_the_rest_still_runs() {
    let result = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
    let mut xtask = Xtask::new(&["test"])
        .env("FAKE_CARGO_EXIT", "101")
        .env("FAKE_CARGO_OUTPUT", result);
    let output = xtask.output();
    assert_eq!(output.status.code(), Some(101));
    let calls = xtask.calls();
    assert!(calls[0].starts_with("test --workspace"), "{calls:?}");
    assert!(
        calls.iter().any(|call| call.contains("--bin sim -- --seeds 2000")),
        "{calls:?}"
    );
    assert!(calls.iter().any(|call| call.contains("--bin mutants")), "{calls:?}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("NOT RUN: the tests that need etcd"), "{shown}");
    // Of the workspace, and with planted bugs of the cores and of the nodes.
    assert_eq!(shown.lines().last(), Some("9 passed, 3 failed, 6 ignored"), "{shown}");
}

#[test]
fn a_signal_stops_the_grandchildren_too() {
    for (sent, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut xtask = Xtask::new(&["sim"]).env("FAKE_CARGO_HANGS", "yes");
        let mut child = xtask.command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let ready = output.by_ref().lines().map(Result::unwrap).find(|line| line == "ready");
        assert!(ready.is_some());

        signal(&child, sent);
        // The grandchild holds the pipe: its end comes when all are gone.
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(output.read_to_end(&mut Vec::new()).is_ok()));
        assert_eq!(
            receiver.recv_timeout(Duration::from_secs(20)),
            Ok(true),
            "a grandchild outlived {sent:?}"
        );
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn help_names_every_command() {
    let help = Xtask::new(&["--help"]).output().stdout;
    let help = String::from_utf8(help).unwrap();
    for command in [
        "test", "verify", "tidy", "fix", "sim", "mutants", "bench", "cluster", "dataset",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in {help}");
    }
}

#[test]
fn without_python_the_chart_is_not_checked_and_the_exit_code_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = Xtask::new(&["deploy", "check"])
        .env("PATH", &folder.path().to_string_lossy())
        .output();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no python3") && said.contains("install it"), "{said}");
}
