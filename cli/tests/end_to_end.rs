//! The real binary against a real cluster: what a user types, what scripts rely on, and a kill in between.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use support::{Dev, FULCRUM, START_WITHIN, fulcrum, text};

#[test]
fn a_day_with_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let dev = Dev::start(&data);
    keyspaces_and_keys(&dev);
    levels_and_sessions(&dev, folder.path());
    watches(&dev);
    transactions(&dev);
    let exported = files(&dev, folder.path());
    status_and_failovers(&dev);
    a_small_benchmark(&dev);

    let second = Command::new(FULCRUM)
        .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("in use by another process"), "{second:?}");
    let taken = Command::new(FULCRUM)
        .args(["dev", "--listen", &dev.router])
        .output()
        .unwrap();
    assert_eq!(taken.status.code(), Some(1));
    assert!(
        text(&taken.stderr).contains(&format!("{} is in use", dev.router)),
        "{taken:?}"
    );

    dev.kill();
    let dev = Dev::start(&data);
    assert_eq!(dev.json(&["get", "users", "alice"])["value"], "2");
    let again = folder.path().join("again.tsv");
    dev.ok(&["export", "users", again.to_str().unwrap()]);
    assert_eq!(std::fs::read(&again).unwrap(), exported, "nothing was lost by the kill");
}

fn keyspaces_and_keys(dev: &Dev) {
    dev.ok(&["keyspace", "create", "users"]);
    assert_eq!(dev.json(&["keyspace", "show", "users"])["options"]["mode"], "sync");
    assert_eq!(dev.exit(&["keyspace", "create", "users"]), Some(1), "it exists");
    assert_eq!(
        dev.exit(&["keyspace", "create", "x", "--mode", "raft", "--fsync", "never"]),
        Some(2)
    );
    assert_eq!(dev.exit(&["keyspace", "drop", "users"]), Some(2), "not without --yes");

    let put = dev.json(&["put", "users", "alice", "1"]);
    assert_eq!((&put["applied"], &put["existed"]), (&true.into(), &false.into()));
    assert_eq!(put["receipt"]["durable"], true);
    let got = dev.json(&["get", "users", "alice"]);
    assert_eq!((&got["value"], &got["version"]), (&"1".into(), &put["version"]));
    assert_eq!(got["receipt"]["achieved"], "linearizable");
    assert_eq!(dev.ok(&["get", "users", "alice"]), "1\n");

    assert_eq!(dev.exit(&["get", "users", "nobody"]), Some(3));
    assert_eq!(dev.exit(&["cas", "users", "alice", "2", "--expect", "9"]), Some(4));
    assert_eq!(dev.exit(&["cas", "users", "alice", "2", "--expect", "1"]), Some(0));
    assert_eq!(dev.exit(&["cas", "users", "new", "x", "--expect-absent"]), Some(0));
    assert_eq!(
        dev.exit(&["delete", "users", "new", "--if-version", "1000000"]),
        Some(4)
    );
    assert_eq!(dev.exit(&["delete", "users", "new"]), Some(0));
    assert_eq!(dev.exit(&["get", "users", "new"]), Some(3));

    let binary = fulcrum(&dev.router, &["put", "users", "ff00", "-", "--hex-key"], &[0xff, 0, 1]);
    assert!(binary.status.success(), "{binary:?}");
    assert_eq!(dev.ok(&["get", "users", "ff00", "--hex-key", "--hex"]), "ff0001\n");
    assert_eq!(dev.exit(&["delete", "users", "ff00", "--hex-key"]), Some(0));

    let missing = dev.run(&["get", "nowhere", "k", "-o", "json"]);
    assert_eq!(missing.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&missing.stderr).unwrap();
    assert_eq!(error["error"]["code"], "UNKNOWN_KEYSPACE");
    let long = "k".repeat(5000);
    assert_eq!(dev.exit(&["put", "users", &long, "v"]), Some(1));
    assert_eq!(dev.exit(&["put", "users", "", "v"]), Some(1));
}

fn levels_and_sessions(dev: &Dev, folder: &Path) {
    dev.ok(&["keyspace", "create", "fast", "--mode", "async"]);
    let illegal = dev.run(&["get", "fast", "k", "--level", "linearizable"]);
    assert_eq!(illegal.status.code(), Some(1));
    assert!(text(&illegal.stderr).contains("async keyspace"), "{illegal:?}");
    let session = folder.join("session");
    let session = session.to_str().unwrap();
    for turn in 0..10 {
        let value = turn.to_string();
        dev.ok(&["put", "fast", "k", &value, "--session", session]);
        let got = dev.json(&["get", "fast", "k", "--level", "session", "--session", session]);
        assert_eq!(
            got["value"],
            value.as_str(),
            "a session reads its own writes, whichever replica answers"
        );
    }
    std::fs::write(session, "garbage").unwrap();
    assert_eq!(dev.exit(&["get", "fast", "k", "--session", session]), Some(2));
}

/// What a watch of a running binary prints, line by line.
struct Watching {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Watching {
    fn start(dev: &Dev, arguments: &[&str]) -> Self {
        let mut child = Command::new(FULCRUM)
            .args(["watch", "users", "-o", "json"])
            .args(arguments)
            .env("FULCRUM_ROUTER", &dev.router)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines() {
                let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Watching { child, lines }
    }

    /// The next line about this event.
    fn next(&self, event: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(START_WITHIN).expect("a line in time");
            if line["event"] == event {
                return line;
            }
        }
    }

    fn ends(mut self) -> Value {
        let end = self.next("end");
        assert!(self.child.wait().unwrap().success());
        end
    }
}

fn watches(dev: &Dev) {
    let first = Watching::start(dev, &["--prefix", "watched/", "--progress", "--count", "2"]);
    first.next("progress");
    dev.ok(&["put", "users", "elsewhere", "x"]);
    let put = dev.json(&["put", "users", "watched/1", "a"]);
    let told = first.next("put");
    assert_eq!((&told["key"], &told["value"]), (&"watched/1".into(), &"a".into()));
    assert_eq!(
        (&told["version"], &told["index"]),
        (&put["version"], &put["receipt"]["index"])
    );
    dev.ok(&["delete", "users", "watched/1"]);
    assert_eq!(first.next("delete")["key"], "watched/1");
    let token = first.ends()["token"].as_str().unwrap().to_owned();

    dev.ok(&["put", "users", "watched/2", "b"]);
    let second = Watching::start(dev, &["--prefix", "watched/", "--from", &token, "--count", "1"]);
    assert_eq!(
        second.next("put")["key"],
        "watched/2",
        "what happened meanwhile, and nothing again"
    );
    second.ends();
    let current = Watching::start(dev, &["--prefix", "watched/", "--include-current", "--for", "2s"]);
    assert_eq!(current.next("current")["value"], "b");
    current.ends();
    for key in ["watched/2", "elsewhere"] {
        dev.ok(&["delete", "users", key]);
    }
    assert_eq!(dev.exit(&["watch", "users", "k", "--from", "garbage"]), Some(2));
    assert_eq!(dev.exit(&["watch", "nowhere", "--for", "5s"]), Some(1));
    let shown = dev.ok(&["watch", "users", "alice", "--include-current", "--count", "1"]);
    assert!(shown.contains("current") && shown.contains("alice = 2"), "{shown}");
}

fn transactions(dev: &Dev) {
    dev.ok(&["keyspace", "create", "stock"]);
    dev.ok(&["keyspace", "create", "orders"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/order.txn");
    let checked = dev.json(&["txn", "run", script, "--check"]);
    assert_eq!((&checked["reads"], &checked["writes"]), (&2.into(), &2.into()));
    assert_eq!(dev.exit(&["get", "stock", "apples"]), Some(3), "nothing was sent");

    dev.ok(&["txn", "run", "-e", "put stock apples 3"]);
    let done = dev.json(&["txn", "run", script]);
    assert_eq!(done["committed"], true, "{done}");
    assert_eq!(done["versions"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&done["reads"][0]["value"], &done["reads"][1]["value"]),
        (&"3".into(), &"2".into())
    );
    assert_eq!(dev.ok(&["get", "orders", "order 7"]), "1\tapple\n");
    assert_eq!(dev.ok(&["get", "stock", "apples"]), "2\n");

    dev.ok(&["put", "stock", "apples", "3"]);
    let again = dev.run(&["txn", "run", script, "-o", "json"]);
    assert_eq!(again.status.code(), Some(4), "a condition does not hold: {again:?}");
    let told: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(told["condition_failed"]["key"], "order 7");
    assert_eq!(told["condition_failed"]["version"], done["versions"][1]);
    let piped = fulcrum(
        &dev.router,
        &["txn", "run", "-"],
        b"if stock apples = 3\r\ndelete stock apples\r\n",
    );
    assert!(piped.status.success(), "{piped:?}");
    assert_eq!(dev.exit(&["get", "stock", "apples"]), Some(3));

    let wrong = dev.run(&["txn", "run", "-e", "get stock apples", "-e", "put stock apples"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("line 2, column 17: "), "{wrong:?}");
    let fast = dev.run(&["txn", "run", "-e", "put fast k v", "-o", "json"]);
    assert_eq!(
        fast.status.code(),
        Some(1),
        "an async keyspace takes part in none: {fast:?}"
    );
    let error: Value = serde_json::from_slice(&fast.stderr).unwrap();
    assert_eq!(error["error"]["code"], "NO_TRANSACTIONS");

    what_became_of_it(dev, done["id"].as_str().unwrap());
    for keyspace in ["stock", "orders"] {
        dev.ok(&["keyspace", "drop", keyspace, "--yes"]);
    }
}

fn what_became_of_it(dev: &Dev, id: &str) {
    let shown = dev.json(&["txn", "show", id, "--keyspace", "stock", "--key", "apples"]);
    assert_eq!(
        (&shown["state"], &shown["id"]),
        (&"committed".into(), &id.into()),
        "{shown}"
    );
    assert_eq!(
        dev.json(&["txn", "show", id])["parts"],
        shown["parts"],
        "found without the key, too"
    );
    let (begun, _) = id.split_once('-').unwrap();
    let never = format!("{begun}-1-1");
    assert_eq!(dev.exit(&["txn", "show", &never]), Some(3));

    assert_eq!(dev.ok(&["txn", "list"]), "none\n");
    let listed = dev.json(&["txn", "list", "stock", "--state", "all"]);
    assert_eq!(listed["silent_groups"], Value::Array(Vec::new()), "{listed}");
    let home = shown["parts"][0]["group"].to_string();
    assert_eq!(
        dev.exit(&["txn", "resolve", &never, "--abort"]),
        Some(2),
        "not without --yes"
    );
    assert_eq!(
        dev.exit(&["txn", "resolve", &never, "--abort", "--yes"]),
        Some(3),
        "nobody has it in doubt"
    );
    for group in 1..=3 {
        let group = group.to_string();
        let late = dev.run(&["txn", "resolve", id, "--abort", "--yes", "--home", &group, "-o", "json"]);
        let told: Value = serde_json::from_slice(&late.stdout).unwrap_or_else(|error| panic!("{error}: {late:?}"));
        assert_eq!(
            (late.status.code(), &told["state"]),
            (Some(1), &"committed".into()),
            "too late: {late:?}"
        );
    }
    let aborted = dev.json(&["txn", "resolve", &never, "--abort", "--yes", "--home", &home]);
    assert_eq!(
        (&aborted["state"], &aborted["cause"]),
        (&"aborted".into(), &"operator".into())
    );
    assert_eq!(
        dev.json(&["txn", "show", &never])["cause"],
        "operator",
        "it is on record"
    );
}

/// Answers with what was exported, as tab-separated lines.
fn files(dev: &Dev, folder: &Path) -> Vec<u8> {
    let mixed = folder.join("mixed.tsv");
    let mut lines: String = (0..500).map(|n| format!("key/{n:04}\tvalue {n}\n")).collect();
    lines.push_str("broken\n\tempty key\n");
    std::fs::write(&mixed, &lines).unwrap();
    let mixed = mixed.to_str().unwrap();
    assert_eq!(dev.exit(&["import", "users", mixed]), Some(1));
    let kept = dev.run(&["import", "users", mixed, "--keep-going"]);
    assert_eq!(kept.status.code(), Some(7));
    let said = text(&kept.stderr);
    assert!(
        said.contains("line 501: no tab") && said.contains("line 502: the key is empty"),
        "{said}"
    );

    let scanned = dev.json(&["scan", "users", "--prefix", "key/", "--limit", "300"]);
    assert_eq!(scanned["rows"].as_array().map(Vec::len), Some(300));
    let rest = dev.json(&[
        "scan",
        "users",
        "--prefix",
        "key/",
        "--limit",
        "300",
        "--resume",
        scanned["resume"].as_str().unwrap(),
    ]);
    assert_eq!(rest["rows"].as_array().map(Vec::len), Some(200));
    assert_eq!(rest["rows"][0]["key"], "key/0300");

    let (tsv, json) = (folder.join("users.tsv"), folder.join("users.jsonl.gz"));
    dev.ok(&["export", "users", tsv.to_str().unwrap()]);
    dev.ok(&["export", "users", json.to_str().unwrap()]);
    dev.ok(&["keyspace", "create", "copy"]);
    dev.ok(&["import", "copy", json.to_str().unwrap()]);
    let copied = dev.ok(&["export", "copy"]);
    let exported = std::fs::read(&tsv).unwrap();
    assert_eq!(copied.as_bytes(), exported, "through JSON and gzip and back");
    dev.ok(&["keyspace", "drop", "copy", "--yes"]);
    exported
}

fn status_and_failovers(dev: &Dev) {
    let status = dev.json(&["status", "users"]);
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3));
    let groups = status["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 8);
    assert!(groups.iter().all(|group| group["ready"] == true), "{status}");
    assert!(dev.ok(&["status"]).contains("users"));
    assert!(dev.ok(&["failover", "report"]).contains("no loss certificates"));
    assert_eq!(
        dev.exit(&["failover", "force", "g1", "n1"]),
        Some(2),
        "not without --accept-loss"
    );
}

fn a_small_benchmark(dev: &Dev) {
    for extra in [["--workload", "F"], ["--pipeline", "4"], ["--workload", "E"]] {
        let mut arguments = vec!["bench", "--duration", "500ms", "--clients", "4", "--records", "500"];
        arguments.extend(extra);
        let report = dev.json(&arguments);
        assert!(report["operations_per_second"].as_f64().unwrap() > 0.0, "{report}");
        assert_eq!(report["errors"].as_array().map(Vec::len), Some(0), "{report}");
    }
}

#[test]
fn without_a_cluster_commands_say_so() {
    let output = Command::new(FULCRUM)
        .args(["get", "k", "x", "--deadline", "300ms", "--router", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(text(&output.stderr).contains("fulcrum dev"), "{output:?}");
}

#[test]
fn usage_errors_have_a_code_of_their_own() {
    let run = |arguments: &[&str]| Command::new(FULCRUM).args(arguments).output().unwrap();
    assert_eq!(run(&["get"]).status.code(), Some(2));
    assert_eq!(run(&["dev", "--listen", "0.0.0.0:0"]).status.code(), Some(2));
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Exit codes:"));
    let completions = text(&run(&["completions", "bash"]).stdout);
    assert!(
        completions.contains("fulcrum") && completions.contains("resolve"),
        "{completions}"
    );
    let language = text(&run(&["txn", "run", "--help"]).stdout);
    assert!(language.contains("if KEYSPACE KEY version = N"), "{language}");
}
