//! Backups of a bank while money moves, by the real binary: each is whole, and restored into a cluster with other groups it has all the
//! money.

mod support;

use fulcrum_client::{Client, Config, Error};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use support::{Dev, text};

const ACCOUNTS: u64 = 40;
const EACH: i64 = 100;
const TELLERS: u64 = 4;
/// Between two backups at least so many transfers are made.
const TRANSFERS: usize = 30;
/// Generous: a loaded machine is no bug.
const TRANSFER_WITHIN: Duration = Duration::from_secs(60);

/// Accounts lie in two keyspaces, by turns.
fn keyspace(account: u64) -> &'static str {
    if account.is_multiple_of(2) { "even" } else { "odd" }
}

fn key(account: u64) -> String {
    format!("account {account:03}")
}

/// Money moves until it is over.
async fn teller(client: Client, number: u64, moved: Sender<()>, over: Arc<AtomicBool>) {
    let mut turn = number;
    while !over.load(Ordering::Relaxed) {
        turn = turn
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (from, to) = ((turn >> 33) % ACCOUNTS, (turn >> 40) % ACCOUNTS);
        if from == to {
            continue;
        }
        let transferred = client
            .transaction(async |t| -> Result<(), Error> {
                let balance = |value: Option<bytes::Bytes>| -> i64 {
                    let value = value.expect("every account is open");
                    std::str::from_utf8(&value).unwrap().parse().unwrap()
                };
                let one = balance(t.get(keyspace(from), key(from)).await?);
                let other = balance(t.get(keyspace(to), key(to)).await?);
                t.put(keyspace(from), key(from), (one - 1).to_string());
                t.put(keyspace(to), key(to), (other + 1).to_string());
                Ok(())
            })
            .await;
        if transferred.is_ok() {
            // Nobody may be left to count.
            let _ = moved.send(());
        }
    }
}

fn total(dev: &Dev, keyspaces: [&str; 2]) -> (usize, i64) {
    let (mut accounts, mut total) = (0, 0);
    for keyspace in keyspaces {
        let rows = dev.json(&["scan", keyspace]);
        for row in rows["rows"].as_array().unwrap_or_else(|| panic!("{rows}")) {
            accounts += 1;
            total += row["value"].as_str().unwrap().parse::<i64>().unwrap();
        }
    }
    (accounts, total)
}

#[test]
fn backups_of_a_bank_have_all_the_money() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("data"));
    dev.ok(&["keyspace", "create", "even", "--groups", "4"]);
    dev.ok(&["keyspace", "create", "odd", "--groups", "3"]);
    dev.ok(&["keyspace", "create", "notes", "--mode", "async", "--groups", "2"]);
    dev.ok(&["put", "notes", "hello", "world", "--ttl", "1h"]);
    for account in 0..ACCOUNTS {
        dev.ok(&["put", keyspace(account), &key(account), &EACH.to_string()]);
    }
    let backups: Vec<_> = (1..=3).map(|n| folder.path().join(format!("backup-{n}"))).collect();
    while_money_moves(&dev, |moved| {
        for backup in &backups {
            moved.try_iter().for_each(drop);
            for _ in 0..TRANSFERS {
                moved.recv_timeout(TRANSFER_WITHIN).expect("money moves");
            }
            let made = dev.json(&["backup", "create", &shown(backup)]);
            assert_eq!(made["keys"], ACCOUNTS + 1, "{made}");
        }
    });
    assert_eq!(
        dev.exit(&["backup", "create", &shown(&backups[0])]),
        Some(1),
        "it is there already"
    );
    for (number, backup) in backups.iter().enumerate() {
        restored(&dev, backup, number);
    }
    a_changed_byte(&dev, &backups[0]);
    dev.kill();
    into_another_cluster(folder.path(), &backups[2]);
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn while_money_moves(dev: &Dev, work: impl FnOnce(&Receiver<()>)) {
    let (told, moved) = channel();
    let over = Arc::new(AtomicBool::new(false));
    let router = dev.router.clone();
    let ended = over.clone();
    let tellers = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let config = Config::new(router).deadline(Duration::from_secs(20));
            let client = Client::connect(config).await.unwrap();
            let all = (0..TELLERS).map(|n| teller(client.clone(), n, told.clone(), ended.clone()));
            futures::future::join_all(all).await;
        });
    });
    work(&moved);
    over.store(true, Ordering::Relaxed);
    tellers.join().unwrap();
}

/// Restored beside the original, with another number of groups.
fn restored(dev: &Dev, backup: &Path, number: usize) {
    let (even, odd) = (format!("even{number}"), format!("odd{number}"));
    let verified = dev.json(&["backup", "verify", &shown(backup)]);
    assert_eq!(verified["keys"], ACCOUNTS + 1, "{verified}");
    let (even_as, odd_as) = (format!("even={even}"), format!("odd={odd}"));
    let backup = shown(backup);
    let mut restore = vec!["backup", "restore", &backup, "--as", &even_as, "--as", &odd_as];
    restore.extend(["--keyspace", "even", "--keyspace", "odd", "--groups", "5"]);
    let told = dev.json(&restore);
    let all: Vec<(u64, u64)> = told["keyspaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["written"].as_u64().unwrap(),
                one["verified"]["same"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(all, [(ACCOUNTS / 2, ACCOUNTS / 2); 2], "{told}");
    assert_eq!(total(dev, [&even, &odd]), (ACCOUNTS as usize, ACCOUNTS as i64 * EACH));

    // It has data now: nothing is written over it unless that is asked for, and then it does no harm.
    let again = dev.run(&restore[..restore.len() - 2]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(text(&again.stderr).contains("has data"), "{again:?}");
    dev.ok(&[&restore[..restore.len() - 2], &["--over-existing"]].concat());
    dev.ok(&["put", &even, "account 000", "0"]);
    dev.ok(&["put", &even, "stranger", "0"]);
    dev.ok(&[&restore[..restore.len() - 2], &["--over-existing"]].concat());
    let values: Value = dev.json(&["get", &even, "account 000"]);
    assert_ne!(values["value"], "0", "{values}");
}

/// The cluster is gone, and another one knows nothing of it; the keyspace with a time to live, too.
fn into_another_cluster(folder: &Path, backup: &Path) {
    let other = Dev::start(&folder.join("other"));
    other.ok(&["backup", "restore", &shown(backup), "--groups", "2"]);
    assert_eq!(
        total(&other, ["even", "odd"]),
        (ACCOUNTS as usize, ACCOUNTS as i64 * EACH)
    );
    let note = other.json(&["get", "notes", "hello", "--level", "session"]);
    assert_eq!(note["value"], "world", "{note}");
    let left = note["expires_at_ms"].as_u64();
    assert!(left.is_some_and(|left| left > 0), "{note}");
    assert_eq!(
        other.exit(&["backup", "restore", &shown(backup), "--as", "gone=new"]),
        Some(2)
    );
}

fn a_changed_byte(dev: &Dev, backup: &Path) {
    let entry = std::fs::read_dir(backup).unwrap().flatten();
    let data = entry
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "data"));
    let data = data.unwrap();
    let mut bytes = std::fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let name = data.file_name().unwrap().to_str().unwrap();
    for command in ["verify", "restore"] {
        let told = dev.run(&["backup", command, &shown(backup)]);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert!(text(&told.stderr).contains(name), "{told:?}");
    }
}

/// A keyspace is read back as it was written, however stale its own reads may be; and one that is there already has to fit.
#[test]
fn reading_back_is_not_stale_and_what_is_there_already_must_fit() {
    const KEYS: usize = 3_000;
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join("data"));
    dev.ok(&["keyspace", "create", "lazy", "--default-level", "eventual"]);
    let lines = folder.path().join("lines.jsonl");
    let line = |number: usize| format!("{{\"key\": \"key {number:05}\", \"value\": \"{number}\"}}\n");
    std::fs::write(&lines, (0..KEYS).map(line).collect::<String>()).unwrap();
    dev.ok(&["import", "lazy", &shown(&lines)]);
    // With a slash, as the shell completes it.
    let backup = format!("{}/", shown(&folder.path().join("backup")));
    dev.ok(&["backup", "create", &backup]);
    for number in 0..5 {
        let told = dev.json(&["backup", "restore", &backup, "--as", &format!("lazy=lazy{number}")]);
        assert_eq!(told["keyspaces"][0]["verified"]["same"], KEYS, "{told}");
    }

    dev.ok(&["keyspace", "create", "other", "--mode", "async"]);
    let unfit = [
        (vec!["--as", "lazy=other"], "async"),
        (vec!["--as", "lazy=lazy0", "--replication-factor", "1"], "3 replicas"),
        (vec!["--as", "lazy=lazy0", "--groups", "3"], "8 groups"),
        (vec!["--as", "lazy=one", "--as", "lazy=two"], "twice"),
    ];
    for (arguments, why) in unfit {
        let refused = dev.run(&[&["backup", "restore", &backup][..], &arguments].concat());
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(text(&refused.stderr).contains(why), "{refused:?}");
    }
    assert!(
        dev.run(&["keyspace", "show", "one"]).status.code() != Some(0),
        "nothing was made"
    );
}
