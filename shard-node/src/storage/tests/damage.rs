//! Damaged files: what was never synced is cut, what was is never missed without a word.

use super::crash::{prefix, stage};
use super::files;
use super::mirror::{identity, open_fjall};
use crate::storage::directory::Directory;
use crate::storage::journal::repair;
use crate::storage::testing::Random;
use crate::storage::watermark::Watermark;
use crate::storage::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A store that ended without order: batches of these durabilities, and where in the journal each ends.
struct Ended {
    directory: TempDir,
    journal: PathBuf,
    ends: Vec<usize>,
}

fn ended(batches: &[Durability]) -> Ended {
    let directory = tempfile::tempdir().unwrap();
    let (backend, _, done) = open_fjall(directory.path());
    let mut store = Store::new(Box::new(backend));
    let mut ends = Vec::new();
    let journal = files::journal(directory.path());
    for (n, durability) in (1..).zip(batches) {
        let id = stage(&mut store, n, *durability);
        store.close_turn();
        assert_eq!(done.recv().unwrap().result, Ok(()));
        store.persisted(id);
        let bytes = fs::read(&journal).unwrap();
        ends.push(bytes.iter().rposition(|b| *b != 0).unwrap() + 1);
    }
    drop(store);
    files::trim(&journal);
    Ended {
        directory,
        journal,
        ends,
    }
}

impl Ended {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// As after the loss of the whole machine, at worst: nothing of the watermark had reached the disk.
    fn forget_watermark(&self) {
        fs::remove_file(self.path().join("synced")).unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.journal).unwrap()
    }

    fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.bytes();
        change(&mut bytes);
        fs::write(&self.journal, bytes).unwrap();
    }

    fn open(&self) -> Result<u64, StorageError> {
        let (backend, clean) = open(self.path())?;
        assert!(!clean);
        Ok(prefix(&Store::new(Box::new(backend))))
    }

    /// The open is refused, names the journal, changes nothing, and so is the next.
    fn assert_refused(&self, why: &str) {
        let before = self.bytes();
        for _ in 0..2 {
            match self.open() {
                Err(StorageError::CorruptStore { file, .. }) => {
                    assert_eq!(Path::new(&file), self.journal, "{why}");
                }
                other => panic!("{why}: {other:?}"),
            }
        }
        assert!(before == self.bytes(), "{why}");
    }
}

fn open(path: &Path) -> Result<(FjallBackend, bool), StorageError> {
    FjallBackend::open(path, &identity(), small(), Arc::new(|_| {}))
}

/// Memtables so small that there are tables.
fn small() -> FjallOptions {
    FjallOptions {
        memtable_bytes: 64 * 1024,
        ..FjallOptions::default()
    }
}

const UNSYNCED_TAIL: [Durability; 6] = [
    Durability::Synced,
    Durability::Synced,
    Durability::Synced,
    Durability::Synced,
    Durability::Written,
    Durability::Written,
];

#[test]
fn a_torn_tail_is_cut_at_a_batch() {
    for (last, whole) in [(5, 4), (6, 5)] {
        let store = ended(&UNSYNCED_TAIL[..last]);
        let intact = store.bytes();
        for seed in 0..6 {
            let mut random = Random::new(seed);
            let (start, end) = (store.ends[last - 2], store.ends[last - 1]);
            let torn = start + random.below((end - start) as u64) as usize;
            fs::write(&store.journal, &intact[..torn]).unwrap();
            assert_eq!(store.open().unwrap(), whole, "{last} batches, torn at {torn}");
        }
    }
}

#[test]
fn a_hole_in_the_tail_with_its_end_intact_is_cut() {
    let store = ended(&UNSYNCED_TAIL[..5]);
    let (start, end) = (store.ends[3], store.ends[4]);
    store.damage(|bytes| bytes[start + 200..end - 20].fill(0));
    assert_eq!(store.open().unwrap(), 4);
    assert_eq!(store.open().unwrap(), 4);
}

#[test]
fn unsynced_batches_may_reach_the_disk_in_any_order() {
    let store = ended(&UNSYNCED_TAIL);
    let start = store.ends[3];
    store.damage(|bytes| bytes[start + 100..start + 200].fill(0));
    assert_eq!(store.open().unwrap(), 4, "the sixth is whole, but the fifth is not");
}

#[test]
fn after_a_cut_batches_go_on() {
    let store = ended(&UNSYNCED_TAIL[..5]);
    let torn = store.ends[4] - 1;
    store.damage(|bytes| bytes.truncate(torn));
    for n in 5..8 {
        let (backend, _, done) = open_fjall(store.path());
        let mut open = Store::new(Box::new(backend));
        stage(&mut open, n, Durability::Synced);
        open.close_turn();
        assert_eq!(done.recv().unwrap().result, Ok(()));
        drop(open);
        assert_eq!(store.open().unwrap(), n);
    }
}

#[test]
fn damage_to_what_was_synced_is_refused() {
    let store = ended(&[Durability::Synced; 5]);
    let (start, end) = (store.ends[1], store.ends[2]);
    store.damage(|bytes| bytes[start..end].fill(0));
    store.assert_refused("a batch in the middle is gone");
    store.forget_watermark();
    store.assert_refused("the batches behind it tell");
}

#[test]
fn synced_batches_missing_at_the_end_are_refused_by_the_watermark() {
    let store = ended(&[Durability::Synced; 5]);
    let start = store.ends[3];
    let kept = store.bytes();
    store.damage(|bytes| bytes[start..].fill(0));
    assert!(matches!(store.open(), Err(StorageError::CorruptStore { .. })));
    store.damage(|bytes| *bytes = kept);
    store.damage(|bytes| bytes[start + 30] ^= 4);
    store.assert_refused("the last batch was synced");
}

/// The engine begins a new journal once one is large: what it has finished was synced as a whole.
#[test]
fn a_finished_journal_has_no_tail() {
    let store = ended(&[Durability::Written; 5]);
    let (whole, middle) = (store.bytes(), store.ends[2]);
    let finished = |bytes: &[u8]| {
        fs::write(&store.journal, bytes).unwrap();
        fs::write(store.journal.with_file_name("1.jnl"), &whole[middle..]).unwrap();
        let (directory, _) = Directory::open(store.path(), &identity()).unwrap();
        repair(&directory, &mut Watermark::open(&directory).unwrap())
    };
    assert!(matches!(
        finished(&whole[..middle - 1]),
        Err(StorageError::CorruptStore { .. })
    ));
    assert_eq!(finished(&[&whole[..middle], &[0; 5000]].concat()), Ok(()));
    assert_eq!(store.open().unwrap(), 5);
}

#[test]
fn a_batch_missing_between_journals_is_refused() {
    let store = ended(&[Durability::Synced; 5]);
    store.forget_watermark();
    let whole = store.bytes();
    let second = store.journal.with_file_name("1.jnl");
    fs::write(&store.journal, &whole[..store.ends[1]]).unwrap();
    fs::write(&second, &whole[store.ends[2]..]).unwrap();
    match store.open() {
        Err(StorageError::CorruptStore { file, .. }) => assert_eq!(Path::new(&file), second),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_journal_is_refused() {
    let store = ended(&[Durability::Synced; 3]);
    fs::remove_file(&store.journal).unwrap();
    assert!(matches!(store.open(), Err(StorageError::CorruptStore { .. })));
}

/// All bytes, one after the other, of a journal whose last two batches were never synced.
#[test]
fn every_byte_of_a_journal_counts() {
    let store = ended(&UNSYNCED_TAIL);
    let whole = store.bytes();
    let synced = store.ends[3];
    let (directory, _) = Directory::open(store.path(), &identity()).unwrap();
    for at in 0..store.ends[5] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 + (at % 255) as u8;
        fs::write(&store.journal, &bytes).unwrap();
        let mut watermark = Watermark::open(&directory).unwrap();
        let repaired = repair(&directory, &mut watermark);
        let left = store.bytes().len();
        // The engine's own number for the last synced batch may grow: that loses nothing.
        let grown = (store.ends[2] + 5..store.ends[2] + 13).contains(&at);
        match repaired {
            Ok(()) => {
                assert!(at >= synced || grown, "byte {at}");
                let kept = if at < store.ends[4] { synced } else { store.ends[4] };
                assert!(left >= kept, "byte {at}: cut to {left}");
            }
            Err(StorageError::CorruptStore { .. }) => {
                assert!(at < synced, "byte {at} was never synced");
                assert_eq!(left, whole.len(), "byte {at}");
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
}

/// A store with tables and journals, closed in good order, and what it holds.
fn closed(directory: &Path) -> BTreeMap<(Space, Bytes), Bytes> {
    let mut model = BTreeMap::new();
    let mut random = Random::new(11);
    for _ in 0..3 {
        let (sender, done) = std::sync::mpsc::channel();
        let notifier: Notifier = Arc::new(move |d| {
            let _ = sender.send(d);
        });
        let (backend, _) = FjallBackend::open(directory, &identity(), small(), notifier).unwrap();
        let mut store = Store::new(Box::new(backend));
        for _ in 0..40 {
            for _ in 0..25 {
                let space = Space::ALL[random.below(4) as usize];
                let key = Bytes::from(format!("key{:03}", random.below(400)));
                if random.below(4) == 0 {
                    store.delete(space, key.clone());
                    model.remove(&(space, key));
                } else {
                    let value = Bytes::from(vec![random.next() as u8; random.below(300) as usize]);
                    store.put(space, key.clone(), value.clone());
                    model.insert((space, key), value);
                }
            }
            let id = store.flush(Durability::Synced).unwrap();
            assert_eq!(done.recv().unwrap().result, Ok(()));
            store.persisted(id);
        }
        store.close().unwrap();
    }
    for path in files::all(directory) {
        if path.extension().is_some_and(|e| e == "jnl") {
            files::trim(&path);
        }
    }
    model
}

/// Everything that can be read is what was written, or the read is refused with an error that says what to do.
fn check(path: &Path, model: &BTreeMap<(Space, Bytes), Bytes>, how: &str) -> Result<(), StorageError> {
    let (backend, _) = open(path)?;
    for space in Space::ALL {
        let mut expected = model.iter().filter(|((s, _), _)| *s == space);
        for record in backend.range(space, &[], &[]) {
            let record = record?;
            let due = expected.next().map(|((_, key), value)| (key.clone(), value.clone()));
            assert!(Some(record) == due, "{how}: {space:?}");
        }
        assert!(expected.next().is_none(), "{how}: {space:?}");
    }
    for ((space, key), value) in model.iter().step_by(7) {
        assert!(
            backend.get(*space, key)?.as_ref() == Some(value),
            "{how}: {space:?} {key:?}"
        );
    }
    Ok(())
}

#[test]
fn random_damage_to_any_file_is_harmless_or_refused() {
    let intact = tempfile::tempdir().unwrap();
    let model = closed(intact.path());
    let victims: Vec<_> = files::all(intact.path())
        .into_iter()
        .map(|path| path.strip_prefix(intact.path()).unwrap().to_owned())
        .collect();
    let (mut harmless, mut refused) = (0, 0);
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let copy = tempfile::tempdir().unwrap();
        files::copy(intact.path(), copy.path());
        let victim = &victims[random.below(victims.len() as u64) as usize];
        let how = files::damage(&copy.path().join(victim), &mut random);
        let how = format!("seed {seed}: {} {how}", victim.display());
        match check(copy.path(), &model, &how) {
            Ok(()) => harmless += 1,
            Err(StorageError::CorruptStore { .. }) => refused += 1,
            Err(_) if victim == Path::new("identity") => refused += 1,
            Err(other) => panic!("{how}: {other}"),
        }
    }
    assert!(harmless > 0 && refused > 50, "{harmless} harmless, {refused} refused");
}
