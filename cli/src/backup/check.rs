//! Checks a backup without a cluster: everything that the manifest says, and that nothing else is there.

use super::file::{self, Damage};
use super::manifest::{FORMAT, FileEntry, GroupEntry, MANIFEST, MANIFEST_SUM, Manifest, checksum};
use super::reader::DataFile;
use super::writer::{is_unfinished, unfinished};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What is wrong with a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file that it is about.
    pub file: String,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: &'static str,
}

const ANOTHER_COPY: &str = "take this file from another copy of the backup, or restore from another backup";
const REMOVE: &str = "remove it: it does not belong to this backup";

fn problem(file: &str, reason: impl ToString, remedy: &'static str) -> Problem {
    Problem {
        file: file.to_owned(),
        reason: reason.to_string(),
        remedy,
    }
}

/// Reads the manifest, if it is whole.
///
/// # Errors
/// What is wrong with it.
pub fn manifest(folder: &Path) -> Result<Manifest, Problem> {
    let read = |name: &str| {
        let path = folder.join(name);
        plain_size(&path)
            .and_then(|_| fs::read(path).map_err(cannot_be_read))
            .map_err(|reason| problem(name, reason, ANOTHER_COPY))
    };
    if is_unfinished(folder) {
        let reason = "the backup was never finished: it is no backup";
        return Err(problem(MANIFEST, reason, "remove the directory, and make a backup"));
    }
    if !folder.exists() {
        return Err(nothing_there(folder));
    }
    let text = read(MANIFEST)?;
    let sum = read(MANIFEST_SUM)?;
    if sum != format!("{}\n", checksum(&text)).as_bytes() {
        let reason = format!("it does not match its checksum in {MANIFEST_SUM}: one of the two was changed");
        return Err(problem(MANIFEST, reason, ANOTHER_COPY));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
        problem(
            MANIFEST,
            format!("it cannot be understood: {error}"),
            "use the release of fulcrum that wrote it, or a newer one",
        )
    })?;
    if manifest.format != FORMAT {
        let reason = format!("its format is {}, this program reads {FORMAT}", manifest.format);
        return Err(problem(MANIFEST, reason, "use the release of fulcrum that wrote it"));
    }
    Ok(manifest)
}

/// There is no such directory; perhaps one that nobody finished.
fn nothing_there(folder: &Path) -> Problem {
    let reason = "there is no such directory";
    match unfinished(folder).filter(|partial| partial.exists()) {
        Some(partial) => problem(
            MANIFEST,
            format!("{reason}, only {}: the backup was never finished", partial.display()),
            "remove that one, unless it is being written, and make a backup",
        ),
        None => problem(MANIFEST, reason, "name the directory of a backup"),
    }
}

/// How long a file is. What is no plain file is not opened: it may lead elsewhere, or never end.
fn plain_size(path: &Path) -> Result<u64, String> {
    let found = fs::symlink_metadata(path).map_err(cannot_be_read)?;
    if found.is_symlink() {
        return Err("it is a link to what may lie elsewhere".to_owned());
    }
    if !found.is_file() {
        return Err("it is no file".to_owned());
    }
    Ok(found.len())
}

fn cannot_be_read(error: std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it is missing".to_owned(),
        _ => format!("it cannot be read: {error}"),
    }
}

/// Checks all of a backup with this manifest. `seen` is told of keys that are read.
///
/// # Errors
/// All that is wrong.
pub fn check(folder: &Path, manifest: Manifest, mut seen: impl FnMut(u64)) -> Result<Manifest, Vec<Problem>> {
    let mut problems = sums(&manifest);
    if manifest
        .files()
        .any(|(group, number, entry)| entry.name != file::name(group.id, number))
    {
        // What it leads to is not looked at: it may lie anywhere.
        let reason = "it names a file as no backup does";
        problems.push(problem(MANIFEST, reason, ANOTHER_COPY));
        return Err(problems);
    }
    for group in manifest.keyspaces.iter().flat_map(|keyspace| &keyspace.groups) {
        problems.extend(check_group(folder, group, &mut seen));
    }
    problems.extend(strangers(folder, &manifest));
    if problems.is_empty() {
        Ok(manifest)
    } else {
        Err(problems)
    }
}

/// The manifest's own arithmetic, and that no file is listed twice.
fn sums(manifest: &Manifest) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut wrong = |what: String| problems.push(problem(MANIFEST, what, ANOTHER_COPY));
    for keyspace in &manifest.keyspaces {
        let keys: u64 = keyspace.groups.iter().map(|group| group.keys).sum();
        let bytes: u64 = keyspace.groups.iter().map(|group| group.bytes).sum();
        if (keys, bytes) != (keyspace.keys, keyspace.bytes) {
            wrong(format!(
                "the groups of '{}' do not add up to what it says of it",
                keyspace.name
            ));
        }
        for group in &keyspace.groups {
            if group.files.iter().map(|file| file.keys).sum::<u64>() != group.keys {
                wrong(format!("the files of group {} do not add up to its keys", group.id));
            }
        }
    }
    let names: Vec<&str> = manifest.files().map(|(_, _, file)| file.name.as_str()).collect();
    if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
        wrong("it lists a file twice".to_owned());
    }
    problems
}

fn check_group(folder: &Path, group: &GroupEntry, seen: &mut impl FnMut(u64)) -> Vec<Problem> {
    let mut problems = Vec::new();
    let (mut last, mut bytes) = (None, 0);
    for (number, entry) in (1..).zip(&group.files) {
        let order = Order {
            last: &mut last,
            bytes: &mut bytes,
        };
        if let Err(reason) = check_file(folder, group.id, number, entry, order, seen) {
            problems.push(problem(&entry.name, reason, ANOTHER_COPY));
        }
    }
    if problems.is_empty() && bytes != group.bytes {
        let reason = format!(
            "group {} has {bytes} bytes of keys and values, not {}",
            group.id, group.bytes
        );
        problems.push(problem(MANIFEST, reason, ANOTHER_COPY));
    }
    problems
}

/// What a group's files have in common.
struct Order<'a> {
    last: &'a mut Option<Bytes>,
    bytes: &'a mut u64,
}

fn check_file(
    folder: &Path,
    group: u64,
    number: u32,
    entry: &FileEntry,
    order: Order<'_>,
    seen: &mut impl FnMut(u64),
) -> Result<(), String> {
    let path = folder.join(&entry.name);
    let size = plain_size(&path)?;
    let damaged = |damage: Damage| match size.cmp(&entry.size) {
        std::cmp::Ordering::Equal => damage.to_string(),
        _ => format!("{damage} (it has {size} bytes, not {})", entry.size),
    };
    let mut file = DataFile::open(&path, group, number).map_err(damaged)?;
    while let Some(records) = file.next_block().map_err(damaged)? {
        for record in &records {
            if order.last.as_ref().is_some_and(|last| *last >= record.key) {
                return Err(format!("its keys are out of order at '{}'", record.key.escape_ascii()));
            }
            *order.last = Some(record.key.clone());
            *order.bytes += record.bytes();
        }
        seen(records.len() as u64);
    }
    if file.keys() != entry.keys {
        return Err(format!("it has {} keys, not {}", file.keys(), entry.keys));
    }
    if size != entry.size || file.checksum() != entry.checksum {
        return Err("it does not match its checksum in the manifest".to_owned());
    }
    Ok(())
}

/// Files that nobody listed.
fn strangers(folder: &Path, manifest: &Manifest) -> Vec<Problem> {
    let listed: BTreeSet<&str> = manifest.files().map(|(_, _, file)| file.name.as_str()).collect();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return vec![problem(".", error, ANOTHER_COPY)],
    };
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut strange: Vec<String> = names
        .filter(|name| ![MANIFEST, MANIFEST_SUM].contains(&name.as_str()) && !listed.contains(name.as_str()))
        .collect();
    strange.sort();
    let told = strange
        .iter()
        .map(|name| problem(name, "the manifest does not list it", REMOVE));
    told.collect()
}
