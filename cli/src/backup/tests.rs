//! What is written reads back, and whatever is changed afterwards is found and named.

use super::check::{self, Problem};
use super::file::Damage;
use super::manifest::{FORMAT, GroupEntry, KeyspaceEntry, MANIFEST, MANIFEST_SUM, Manifest, Settings, checksum};
use super::reader::DataFile;
use super::writer::{GroupWriter, Target};
use super::{Record, file};
use bytes::Bytes;
use fulcrum_common::keyspace::KeyspaceOptions;
use std::fs;
use std::path::{Path, PathBuf};

/// Small, so that a group has several files.
const FILE_BYTES: u64 = 300;

fn record(number: u64) -> Record {
    // Not to be compressed to nothing: a file of one block would have but few bytes to change.
    let value: Vec<u8> = (0..60u64)
        .map(|n| {
            (number
                .wrapping_mul(6_364_136_223_846_793_005)
                .rotate_left((n % 64) as u32)
                >> 7) as u8
        })
        .collect();
    Record {
        key: format!("key {number:04}").into(),
        value: value.into(),
        expires_at_ms: if number.is_multiple_of(3) {
            number * 1_000 + 1
        } else {
            0
        },
    }
}

fn group(folder: &Path, id: u64, keys: std::ops::Range<u64>) -> GroupEntry {
    let mut entry = GroupEntry {
        id,
        epoch: 1,
        index: 7,
        time_ms: 9,
        keys: 0,
        bytes: 0,
        files: Vec::new(),
    };
    let mut writer = GroupWriter::with_blocks(folder, id, FILE_BYTES, 200);
    for number in keys {
        writer.add(&record(number)).unwrap();
    }
    (entry.keys, entry.bytes) = (writer.keys, writer.bytes);
    entry.files = writer.finish().unwrap();
    entry
}

fn manifest(groups: Vec<GroupEntry>) -> Manifest {
    let keyspace = KeyspaceEntry {
        name: "orders".into(),
        id: 1,
        receipt: "one moment".into(),
        settings: Settings::from(&KeyspaceOptions::default()),
        keys: groups.iter().map(|group| group.keys).sum(),
        bytes: groups.iter().map(|group| group.bytes).sum(),
        groups,
    };
    Manifest {
        format: FORMAT,
        fulcrum: "0.1.0".into(),
        cluster_id: "test".into(),
        map_version: 3,
        cut: "cut-1".into(),
        begun_at_ms: 1,
        ended_at_ms: 2,
        keyspaces: vec![keyspace],
    }
}

/// A backup of two groups with several files, and one without any key.
fn backup(parent: &Path) -> (PathBuf, Manifest) {
    let folder = parent.join("backup");
    let target = Target::create(&folder).unwrap();
    let groups = vec![
        group(target.folder(), 4, 0..14),
        group(target.folder(), 5, 14..20),
        group(target.folder(), 6, 0..0),
    ];
    let manifest = manifest(groups);
    target.finish(&manifest).unwrap();
    (folder, manifest)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn check(folder: &Path, seen: impl FnMut(u64)) -> Result<Manifest, Vec<Problem>> {
    let manifest = check::manifest(folder).map_err(|problem| vec![problem])?;
    check::check(folder, manifest, seen)
}

fn problems(folder: &Path) -> Vec<Problem> {
    check(folder, |_| {}).expect_err("it is no whole backup")
}

/// Whether the first thing that is told is about that file. A manifest and its checksum tell on each other.
fn names_it(problems: &[Problem], name: &str) -> bool {
    let name = if name == MANIFEST_SUM { MANIFEST } else { name };
    problems[0].file == name && !problems[0].remedy.is_empty()
}

#[test]
fn what_is_written_reads_back_and_is_whole() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, manifest) = backup(parent.path());
    let mut seen = 0;
    assert_eq!(check(&folder, |keys| seen += keys), Ok(manifest.clone()));
    assert_eq!((seen, manifest.keys()), (20, 20));
    let files: Vec<_> = manifest.files().collect();
    assert!(files.len() >= 4, "{} files", files.len());
    let mut read = Vec::new();
    for (group, number, entry) in files {
        let mut file = DataFile::open(&folder.join(&entry.name), group.id, number).unwrap();
        while let Some(records) = file.next_block().unwrap() {
            read.extend(records);
        }
    }
    assert_eq!(read, (0..20).map(record).collect::<Vec<_>>());
}

#[test]
fn nothing_is_written_over() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, _) = backup(parent.path());
    assert!(
        Target::create(&folder)
            .unwrap_err()
            .to_string()
            .contains("is there already")
    );
    let other = parent.path().join("other");
    let target = Target::create(&other).unwrap();
    assert!(Target::create(&other).is_err(), "somebody else is at it");
    let partial = target.folder().to_owned();
    assert!(problems(&partial)[0].reason.contains("never finished"));
    assert_eq!(target.abandon(), "what was written was removed");
    assert!(!partial.exists() && !other.exists());
}

#[test]
fn a_name_with_a_slash_at_its_end_is_the_name_without() {
    let parent = tempfile::tempdir().unwrap();
    let target = Target::create(&parent.path().join("backup/")).unwrap();
    assert_eq!(target.folder(), parent.path().join("backup.partial"));
    target.finish(&manifest(Vec::new())).unwrap();
    assert!(check(&parent.path().join("backup"), |_| {}).is_ok());
}

#[test]
fn a_name_that_could_not_be_used_at_the_end_is_refused_at_the_beginning() {
    let parent = tempfile::tempdir().unwrap();
    let unfinished = Target::create(&parent.path().join("backup.partial")).unwrap_err();
    assert!(unfinished.to_string().contains("never finished"), "{unfinished}");
    let link = parent.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let taken = Target::create(&link).unwrap_err();
    assert!(taken.to_string().contains("is there already"), "{taken}");
    let above = Target::create(&parent.path().join("none/..")).unwrap_err();
    assert!(above.to_string().contains("has no name"), "{above}");
    assert_eq!(names(parent.path()), ["link"]);
}

#[test]
fn what_cannot_be_finished_is_removed_and_what_only_lacks_its_name_is_kept() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("backup");
    let target = Target::create(&folder).unwrap();
    // As a full disk would: it cannot be written.
    fs::create_dir(target.folder().join(MANIFEST)).unwrap();
    let told = target.finish(&manifest(Vec::new())).unwrap_err().to_string();
    assert!(told.contains(MANIFEST) && told.contains("was removed"), "{told}");
    assert_eq!(names(parent.path()), [""; 0]);

    // A file that was listed is gone, or is another one.
    for spoil in [
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| fs::write(path, "").unwrap(),
    ] {
        let target = Target::create(&folder).unwrap();
        let group = group(target.folder(), 4, 0..14);
        spoil(&target.folder().join(&group.files[1].name));
        let name = group.files[1].name.clone();
        let told = target.finish(&manifest(vec![group])).unwrap_err().to_string();
        assert!(told.contains(&name), "{told}");
        assert_eq!(names(parent.path()), [""; 0]);
    }

    let target = Target::create(&folder).unwrap();
    let partial = target.folder().to_owned();
    fs::create_dir_all(folder.join("of somebody else")).unwrap();
    let told = target.finish(&manifest(Vec::new())).unwrap_err().to_string();
    assert!(told.contains("backup.partial: give it another name"), "{told}");
    fs::rename(partial, parent.path().join("named")).unwrap();
    assert!(check(&parent.path().join("named"), |_| {}).is_ok());
}

#[test]
fn what_lies_elsewhere_is_not_in_the_backup() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, manifest) = backup(parent.path());
    let name = manifest.keyspaces[0].groups[0].files[0].name.clone();
    let (path, aside) = (folder.join(&name), parent.path().join("aside"));
    fs::rename(&path, &aside).unwrap();
    for elsewhere in ["../aside".to_owned(), aside.to_str().unwrap().to_owned()] {
        let mut changed = manifest.clone();
        changed.keyspaces[0].groups[0].files[0].name.clone_from(&elsewhere);
        rewrite(&folder, &changed);
        let found = check(&folder, |_| {}).expect_err(&elsewhere);
        assert!(found[0].reason.contains("names a file"), "{found:?}");
    }
    rewrite(&folder, &manifest);
    std::os::unix::fs::symlink(&aside, &path).unwrap();
    let found = problems(&folder);
    assert!(found[0].file == name && found[0].reason.contains("a link"), "{found:?}");
    // The manifest, too; and what would never end is not opened.
    fs::remove_file(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    fs::rename(folder.join(MANIFEST), &aside).unwrap();
    std::os::unix::fs::symlink(&aside, folder.join(MANIFEST)).unwrap();
    let found = problems(&folder);
    assert!(
        found[0].file == MANIFEST && found[0].reason.contains("a link"),
        "{found:?}"
    );
    fs::remove_file(folder.join(MANIFEST)).unwrap();
    fs::create_dir(folder.join(MANIFEST)).unwrap();
    let found = problems(&folder);
    assert!(
        found[0].file == MANIFEST && found[0].reason.contains("no file"),
        "{found:?}"
    );
}

#[test]
fn what_is_not_there_is_told_apart_from_what_was_never_finished() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("backup");
    assert_eq!(problems(&folder)[0].reason, "there is no such directory");
    let target = Target::create(&folder).unwrap();
    let found = problems(&folder);
    assert!(
        found[0]
            .reason
            .contains("backup.partial: the backup was never finished"),
        "{found:?}"
    );
    drop(target);
}

#[test]
fn a_changed_bit_is_found_wherever_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, _) = backup(parent.path());
    for name in names(&folder) {
        let path = folder.join(&name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&path, &changed).unwrap();
            let found = problems(&folder);
            assert!(names_it(&found, &name), "{name}, byte {at}: {found:?}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(check(&folder, |_| {}).is_ok());
}

#[test]
fn a_file_that_is_cut_short_or_goes_on_is_found() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, _) = backup(parent.path());
    for name in names(&folder) {
        let path = folder.join(&name);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let found = problems(&folder);
            assert!(names_it(&found, &name), "{name}, cut to {length}: {found:?}");
        }
        fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
        assert!(names_it(&problems(&folder), &name), "{name} goes on");
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_missing_an_extra_and_a_swapped_file_are_found() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, manifest) = backup(parent.path());
    for name in names(&folder) {
        let (path, aside) = (folder.join(&name), parent.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        let found = problems(&folder);
        let named = found[0].file == name || name == MANIFEST_SUM && found[0].file == MANIFEST_SUM;
        assert!(named && found.len() == 1, "{name} is missing: {found:?}");
        fs::rename(&aside, &path).unwrap();
    }
    let extra = folder.join("group-9-00001.data");
    fs::write(&extra, file::head(9, 1)).unwrap();
    let found = problems(&folder);
    assert_eq!((found.len(), found[0].file.as_str()), (1, "group-9-00001.data"));
    fs::remove_file(&extra).unwrap();

    let files: Vec<String> = manifest.files().map(|(_, _, file)| file.name.clone()).collect();
    for (number, one) in files.iter().enumerate() {
        for other in &files[number + 1..] {
            let (one, other) = (folder.join(one), folder.join(other));
            let swap = || {
                let aside = parent.path().join("aside");
                fs::rename(&one, &aside).unwrap();
                fs::rename(&other, &one).unwrap();
                fs::rename(&aside, &other).unwrap();
            };
            swap();
            let found = problems(&folder);
            assert!(found.len() >= 2, "{one:?} and {other:?} are swapped: {found:?}");
            assert!(found[0].reason.contains("another one's place"), "{found:?}");
            swap();
        }
    }
    assert!(check(&folder, |_| {}).is_ok());
}

/// Writes a manifest anew, with its checksum: what is left to find is between it and the files.
fn rewrite(folder: &Path, manifest: &Manifest) {
    let text = serde_json::to_vec(manifest).unwrap();
    fs::write(folder.join(MANIFEST), &text).unwrap();
    fs::write(folder.join(MANIFEST_SUM), format!("{}\n", checksum(&text))).unwrap();
}

#[test]
fn a_manifest_that_does_not_fit_its_files_is_found() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, manifest) = backup(parent.path());
    let wrongs: [fn(&mut Manifest); 8] = [
        |manifest| manifest.format += 1,
        |manifest| manifest.keyspaces[0].keys += 1,
        |manifest| manifest.keyspaces[0].groups[0].keys += 1,
        |manifest| {
            manifest.keyspaces[0].bytes += 1;
            manifest.keyspaces[0].groups[1].bytes += 1;
        },
        |manifest| manifest.keyspaces[0].groups[0].files[0].size += 1,
        |manifest| manifest.keyspaces[0].groups[0].files[0].checksum = "0".repeat(32),
        |manifest| manifest.keyspaces[0].groups[0].files.swap(0, 1),
        |manifest| manifest.keyspaces[0].groups[0].id = 40,
    ];
    for (number, wrong) in wrongs.into_iter().enumerate() {
        let mut changed = manifest.clone();
        wrong(&mut changed);
        rewrite(&folder, &changed);
        assert!(!problems(&folder).is_empty(), "wrong {number}");
    }
    rewrite(&folder, &manifest);
    assert!(check(&folder, |_| {}).is_ok());
}

#[test]
fn keys_out_of_order_are_found() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("backup");
    let target = Target::create(&folder).unwrap();
    let mut writer = GroupWriter::new(target.folder(), 4);
    for number in [1, 3, 2] {
        writer.add(&record(number)).unwrap();
    }
    let (keys, bytes) = (writer.keys, writer.bytes);
    let group = GroupEntry {
        id: 4,
        epoch: 1,
        index: 7,
        time_ms: 9,
        keys,
        bytes,
        files: writer.finish().unwrap(),
    };
    target.finish(&manifest(vec![group])).unwrap();
    assert!(problems(&folder)[0].reason.contains("out of order at 'key 0002'"));
}

#[test]
fn bytes_that_are_no_file_do_no_harm() {
    let whole = file::records(&[0; 64], 3).unwrap();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.to_vec();
            changed[at] ^= 1 << bit;
            assert!(file::read(&mut &changed[..], 1).is_err(), "byte {at}");
        }
    }
    assert_eq!(file::read(&mut &b""[..], 1), Err(Damage::Short));
    let empty = Record {
        key: Bytes::new(),
        value: Bytes::new(),
        expires_at_ms: 0,
    };
    assert_eq!(
        file::read(&mut &file::records(&[0; 16], 1).unwrap()[..], 1),
        Ok(file::Block::Records(vec![empty]))
    );
}
