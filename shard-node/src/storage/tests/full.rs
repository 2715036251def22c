//! A full disk, on a real and small file system.

use super::crash::prefix;
use super::mirror::identity;
use crate::storage::*;
use bytes::Bytes;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const NAME: &str = "storage::tests::full::a_full_disk_is_named_and_loses_nothing";
/// Set in the process that has the small file system, to where it is.
const PLACE: &str = "FULCRUM_TEST_SMALL_DISK";
const BALLAST_MIB: usize = 12;

/// Runs itself again in a mount namespace of its own, in which it mounts a small file system.
#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    if let Some(place) = std::env::var_os(PLACE) {
        return fill_up(Path::new(&place));
    }
    let place = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=24m none \"$1\" || exit 77; shift; exec \"$@\"";
    let mut child = Command::new("unshare");
    child.args(["-rm", "sh", "-c", script, "sh"]).arg(place.path());
    child.arg(std::env::current_exe().unwrap()).args(["--exact", NAME]);
    let output = match child.env(PLACE, place.path()).output() {
        Ok(output) => output,
        Err(e) => return eprintln!("skipped: no unshare ({e})"),
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !said.contains("running 1 test") {
        return eprintln!("skipped: no small file system here: {said}");
    }
    assert!(output.status.success(), "{said}");
}

fn open(path: &Path) -> Result<(Store, Receiver<BatchDone>), StorageError> {
    let options = FjallOptions {
        memtable_bytes: 1024 * 1024,
        ..FjallOptions::default()
    };
    let (sender, done) = channel();
    let notifier: Notifier = Arc::new(move |d| {
        let _ = sender.send(d);
    });
    let (backend, _) = FjallBackend::open(path, &identity(), options, notifier)?;
    Ok((Store::new(Box::new(backend)), done))
}

/// Batch `n` as [`prefix`] expects it, and large.
fn write(store: &mut Store, done: &Receiver<BatchDone>, n: u64) -> Result<(), StorageError> {
    let key = Bytes::copy_from_slice(&n.to_be_bytes());
    let noise = (0..32 * 1024u64).map(|i| (i.wrapping_mul(n + 77) >> 3) as u8);
    store.put(Space::Log, key.clone(), noise.collect());
    store.put(Space::Meta, Bytes::from_static(b"last"), key);
    let id = store.flush(Durability::Synced).unwrap();
    let done = done
        .recv_timeout(Duration::from_secs(60))
        .expect("a batch ends, well or not");
    done.result?;
    store.persisted(id);
    Ok(())
}

fn fill_up(disk: &Path) {
    let data = disk.join("data");
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; BALLAST_MIB << 20]).unwrap();
    let (mut store, done) = open(&data).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        match write(&mut store, &done, acknowledged + 1) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "the disk never fills");
    };
    let path = data.display().to_string();
    assert_eq!(error, StorageError::Full { path: path.clone() });
    assert!(acknowledged > 10, "{acknowledged}");
    assert_eq!(store.close(), Err(error), "nothing is tried again");
    // A restart without room may serve, or say so; it must not lose anything.
    match open(&data) {
        Ok((store, _)) => assert!(prefix(&store) >= acknowledged),
        Err(error) => assert_eq!(error, StorageError::Full { path }),
    }
    fs::remove_file(&ballast).unwrap();
    let (mut store, done) = open(&data).unwrap();
    let left = prefix(&store);
    assert!((acknowledged..=acknowledged + 1).contains(&left));
    write(&mut store, &done, left + 1).unwrap();
    store.close().unwrap();
    assert_eq!(prefix(&open(&data).unwrap().0), left + 1);
}
