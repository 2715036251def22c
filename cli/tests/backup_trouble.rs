//! Backups in trouble, by the real binary: stopped in the middle, a disk that is full, a directory that will not do. Nothing that looks
//! whole is left, nobody is held or pinned, what is told names the file and the next step, and the next backup is made at once.

mod support;

use fulcrum_client::{Client, Config, Range};
use futures::TryStreamExt;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;
use support::{Dev, FULCRUM, begin, text};
use tokio::time::Instant;

/// Generous: a loaded machine is no bug.
const WITHIN: Duration = Duration::from_secs(30);
/// By far less than a pin lasts that nobody lets go of.
const UNPINNED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const KEYS: u64 = 96;
/// So many that a restore takes long enough to be met in its middle.
const MANY: u64 = 600;
const VALUE: usize = 8 * 1024;
/// All of it in so slow a stream takes longer than any test.
const SLOWLY: &str = "10000";

/// What does not get smaller: each value has its own bytes.
fn value(number: u64) -> String {
    let mut state = number + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", state)
    };
    let mut value = String::new();
    while value.len() < VALUE {
        value.push_str(&next());
    }
    value
}

/// A cluster with a keyspace 'orders'.
fn filled(folder: &Path, keys: u64) -> Dev {
    let dev = Dev::start(&folder.join("data"));
    dev.ok(&["keyspace", "create", "orders", "--groups", "3"]);
    let line = |number| format!("{{\"key\": \"order {number:04}\", \"value\": \"{}\"}}\n", value(number));
    let lines = folder.join("lines.jsonl");
    fs::write(&lines, (0..keys).map(line).collect::<String>()).unwrap();
    dev.ok(&["import", "orders", &shown(&lines)]);
    dev
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn partial(backup: &Path) -> PathBuf {
    backup.with_extension("partial")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn pass(time: Duration) {
    runtime().block_on(async { tokio::time::sleep(time).await });
}

/// Whether a process has said what is to be done at that signal.
fn catches(child: &Child, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.expect("Linux tells").trim(), 16).unwrap();
    caught & (1 << (signal.as_raw() - 1)) != 0
}

/// Waits until it is so.
fn until(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !so() {
        assert!(Instant::now() < end, "{what}: not in {within:?}");
        pass(LOOK_EVERY);
    }
}

/// States that are pinned, of all replicas.
fn pins(dev: &Dev) -> f64 {
    let nodes = dev.told["nodes"].as_array().unwrap();
    let of_node = |node: &serde_json::Value| {
        let mut stream = TcpStream::connect(node["metrics"].as_str().unwrap()).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix("fulcrum_shard_node_cut_pins "));
        line.expect("a node counts its pins").parse::<f64>().unwrap()
    };
    nodes.iter().map(of_node).sum()
}

fn is_free(dev: &Dev) {
    dev.ok(&["txn", "run", "-e", "put orders free yes"]);
    until("nothing is pinned", UNPINNED_WITHIN, || pins(dev) == 0.0);
}

fn has_data_file(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .any(|path| path.extension().is_some_and(|end| end == "data"))
}

/// A backup that is being written, and does not end.
fn creating(dev: &Dev, backup: &Path) -> Child {
    let child = begin(&dev.router, &["backup", "create", &shown(backup), "--rate", SLOWLY]);
    until("the backup is under way", WITHIN, || has_data_file(&partial(backup)));
    child
}

fn signalled(child: Child, signal: Signal) -> Output {
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait_with_output().unwrap()
}

/// It ended so, and said all of that.
fn told(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

fn leaves_nothing(backup: &Path) {
    assert!(!backup.exists() && !partial(backup).exists(), "{}", backup.display());
}

/// The next one is made at once, and is whole.
fn the_next_is_made(dev: &Dev, backup: &Path) {
    let made = dev.run(&["backup", "create", &shown(backup)]);
    told(&made, 0, &[]);
    assert!(!text(&made.stderr).contains("begun anew"), "{made:?}");
    dev.ok(&["backup", "verify", &shown(backup)]);
}

#[test]
fn a_backup_that_is_stopped_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let dev = filled(folder.path(), KEYS);
    let backup = folder.path().join("backup");
    for signal in [Signal::INT, Signal::TERM] {
        let stopped = signalled(creating(&dev, &backup), signal);
        told(&stopped, 130, &["interrupted", "was removed"]);
        leaves_nothing(&backup);
        told(
            &dev.run(&["backup", "verify", &shown(&backup)]),
            1,
            &["no such directory"],
        );
        is_free(&dev);
    }
    the_next_is_made(&dev, &backup);
    before_it_is_cut(&dev, &folder.path().join("early"));
    four_at_most(&dev, folder.path());
    killed(&dev, &folder.path().join("killed"));
}

/// Nobody could remove anything: it shows that it is none.
fn killed(dev: &Dev, backup: &Path) {
    let stopped = signalled(creating(dev, backup), Signal::KILL);
    assert_eq!(stopped.status.code(), None, "{stopped:?}");
    told(
        &dev.run(&["backup", "verify", &shown(&partial(backup))]),
        1,
        &["never finished"],
    );
    told(
        &dev.run(&["backup", "verify", &shown(backup)]),
        1,
        &["never finished", "killed.partial"],
    );
    told(
        &dev.run(&["backup", "create", &shown(backup)]),
        1,
        &["killed.partial", "remove it"],
    );
    fs::remove_dir_all(partial(backup)).unwrap();
    // The nodes were not told, and let go by themselves: the next one does not wait for that.
    the_next_is_made(dev, backup);
}

/// The router cuts while nobody waits for it any more.
fn before_it_is_cut(dev: &Dev, backup: &Path) {
    dev.signal(Signal::STOP);
    let child = begin(&dev.router, &["backup", "create", &shown(backup)]);
    until("it is begun", WITHIN, || partial(backup).exists());
    // Its question lies at the router, which does not look.
    pass(Duration::from_millis(300));
    let stopped = signalled(child, Signal::INT);
    dev.signal(Signal::CONT);
    told(&stopped, 130, &["interrupted"]);
    leaves_nothing(backup);
    is_free(dev);
}

/// More backups at once than replicas keep states: the new one is refused, and those under way are not harmed.
fn four_at_most(dev: &Dev, folder: &Path) {
    let backups: Vec<PathBuf> = (0..4).map(|number| folder.join(format!("slow-{number}"))).collect();
    let under_way: Vec<Child> = backups.iter().map(|backup| creating(dev, backup)).collect();
    let fifth = folder.join("fifth");
    told(
        &dev.run(&["backup", "create", &shown(&fifth)]),
        1,
        &["4 backups", "wait"],
    );
    leaves_nothing(&fifth);
    for child in under_way {
        told(&signalled(child, Signal::INT), 130, &["interrupted"]);
    }
    is_free(dev);
    the_next_is_made(dev, &fifth);
}

#[test]
fn a_restore_that_is_stopped_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let dev = filled(folder.path(), MANY);
    let backup = shown(&folder.path().join("backup"));
    dev.ok(&["backup", "create", &backup]);
    let restore = [
        "backup",
        "restore",
        &backup,
        "--as",
        "orders=again",
        "--groups",
        "5",
        "--parallel",
        "1",
    ];
    let child = begin(&dev.router, &restore);
    first_key(&dev, "again");
    let stopped = signalled(child, Signal::INT);
    told(&stopped, 130, &["interrupted", "--over-existing"]);
    dev.ok(&["put", "again", "order 0000", "another"]);
    told(&dev.run(&restore), 1, &["has data", "--over-existing"]);
    let over: Vec<&str> = restore.iter().copied().chain(["--over-existing"]).collect();
    let restored = dev.json(&over);
    assert_eq!(restored["keyspaces"][0]["verified"]["same"], MANY, "{restored}");
    // Nothing was begun yet.
    dev.signal(Signal::STOP);
    let child = begin(&dev.router, &["backup", "restore", &backup, "--as", "orders=third"]);
    until("it listens", WITHIN, || catches(&child, Signal::TERM));
    let stopped = signalled(child, Signal::TERM);
    dev.signal(Signal::CONT);
    told(&stopped, 130, &["interrupted", "nothing was written"]);
}

/// Waits until a keyspace has a key.
fn first_key(dev: &Dev, keyspace: &str) {
    runtime().block_on(async {
        let client = Client::connect(Config::new(dev.router.clone())).await.unwrap();
        let end = Instant::now() + WITHIN;
        loop {
            let rows = client.keyspace(keyspace).scan(Range::all()).limit(1).rows();
            // There is no such keyspace at first.
            let found: Result<Vec<_>, _> = rows.try_collect().await;
            if found.is_ok_and(|rows| !rows.is_empty()) {
                return;
            }
            assert!(Instant::now() < end, "'{keyspace}' has no key in {WITHIN:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
}

/// The command in a shell, which sets something up first.
fn in_shell(dev: &Dev, unshared: bool, before: &str, directory: &Path) -> Output {
    let script = format!("{before}\n\"$@\"; code=$?; ls -A \"$ROOM\"; exit $code");
    let mut command = match unshared {
        true => Command::new("unshare"),
        false => Command::new("sh"),
    };
    if unshared {
        command.args(["-Urm", "sh"]);
    }
    command
        .args(["-c", &script, "sh", FULCRUM, "backup", "create"])
        .arg(directory)
        .env("FULCRUM_ROUTER", &dev.router)
        .env("ROOM", directory.parent().unwrap())
        .output()
        .unwrap()
}

#[test]
fn a_disk_that_is_full_is_named_and_no_half_backup_stays() {
    let folder = tempfile::tempdir().unwrap();
    let dev = filled(folder.path(), KEYS);
    let room = folder.path().join("room");
    fs::create_dir(&room).unwrap();
    let backup = room.join("backup");
    // Blocks of 512 bytes or of 1024, by the shell: less than any group has either way. The system's way to say so ends programs that do not listen.
    let full = in_shell(&dev, false, "ulimit -f 32", &backup);
    told(&full, 1, &["group-", ".data", "room", "was removed"]);
    assert_eq!(text(&full.stdout), "", "nothing stays");
    is_free(&dev);

    // No group has as little; the third file finds no room any more.
    for size in ["64k", "300k"] {
        let small = format!("mount -t tmpfs -o size={size} none \"$ROOM\" || exit 77");
        let full = in_shell(&dev, true, &small, &backup);
        if matches!(full.status.code(), None | Some(77)) || text(&full.stderr).contains("unshare:") {
            eprintln!(
                "SKIPPED: a small file system needs `unshare -Urm` and a mount in it: {}",
                text(&full.stderr)
            );
            return the_next_is_made(&dev, &backup);
        }
        told(&full, 1, &["group-", ".data", "No space left", "was removed"]);
        assert_eq!(text(&full.stdout), "", "nothing stays");
        is_free(&dev);
    }
    let read_only = in_shell(&dev, true, "mount -t tmpfs -o ro none \"$ROOM\"", &backup);
    told(&read_only, 1, &["backup.partial", "Read-only"]);
    the_next_is_made(&dev, &backup);
}

/// And one that does not stay.
#[test]
fn directories_that_will_not_do_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (dev, folder) = (filled(folder.path(), KEYS), folder.path());
    let file = folder.join("file");
    fs::write(&file, "precious").unwrap();
    let empty = folder.join("empty");
    fs::create_dir(&empty).unwrap();
    let unfit = [
        (file.clone(), "is there already"),
        (empty.clone(), "is there already"),
        (folder.join("nowhere").join("backup"), "nowhere"),
        (file.join("backup"), "file"),
    ];
    for (directory, why) in unfit {
        let refused = dev.run(&["backup", "create", &shown(&directory)]);
        told(&refused, 1, &["cannot make a backup", why]);
    }
    assert_eq!(dev.exit(&["backup", "verify", &shown(&file)]), Some(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);

    let backup = folder.join("vanishes");
    let child = begin(&dev.router, &["backup", "create", &shown(&backup), "--rate", "400000"]);
    until("the backup is under way", WITHIN, || has_data_file(&partial(&backup)));
    fs::remove_dir_all(partial(&backup)).unwrap();
    told(
        &child.wait_with_output().unwrap(),
        1,
        &["vanishes.partial", "No such file"],
    );
    leaves_nothing(&backup);
    is_free(&dev);
    dev.kill();
}
