//! Holds a restored keyspace against its backup: both are read in the order of their keys, side by side.
//!
//! The backup's groups are merged, since the keyspace's may be others. One block of each group is in memory, and one page of the scan; no
//! file stays open from block to block, for there may be more groups than a process may have files.

use super::restore::files;
use crate::backup::Record;
use crate::backup::manifest::KeyspaceEntry;
use crate::backup::reader::DataFile;
use crate::exit::Failure;
use crate::progress::Progress;
use crate::render::count;
use bytes::Bytes;
use fulcrum_client::{Keyspace, Range, Versioned};
use fulcrum_common::clock::{Clock, SystemClock};
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Differences that are named one by one.
const NAMED: usize = 20;
/// Expiry is set anew, from the time that is left: clocks may differ by this much.
const EXPIRY_WITHIN_MS: u64 = 60_000;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Differences {
    /// Keys that agree.
    pub(super) same: u64,
    /// In the backup alone.
    pub(super) missing: u64,
    /// With another value or expiry.
    pub(super) changed: u64,
    /// In the keyspace alone.
    pub(super) more: u64,
    /// The first of them, for people.
    pub(super) named: Vec<String>,
}

impl Differences {
    /// Whether all is as it should be; keys that are in the keyspace alone may be.
    pub(super) fn agree(&self, may_have_more: bool) -> bool {
        self.missing == 0 && self.changed == 0 && (self.more == 0 || may_have_more)
    }

    pub(super) fn as_json(&self) -> Value {
        json!({"same": self.same, "missing": self.missing, "changed": self.changed, "more": self.more})
    }

    pub(super) fn in_words(&self) -> String {
        if self.agree(false) {
            return format!("read back: all {} keys are as in the backup", count(self.same));
        }
        format!(
            "read back: {} keys as in the backup, {} missing, {} changed, {} that the backup has not",
            count(self.same),
            count(self.missing),
            count(self.changed),
            count(self.more)
        )
    }

    fn name(&mut self, key: &Bytes, what: &str) {
        if self.named.len() < NAMED {
            self.named.push(format!("'{}' {what}", key.escape_ascii()));
        }
    }

    fn only_in_backup(&mut self, record: &Record, now_ms: u64) {
        if !record.is_over(now_ms) {
            self.missing += 1;
            self.name(&record.key, "is missing");
        }
    }

    fn only_in_keyspace(&mut self, key: &Bytes) {
        self.more += 1;
        self.name(key, "is not in the backup");
    }

    fn in_both(&mut self, record: &Record, found: &Versioned) {
        let expiry = match (record.expires_at_ms, found.expires_at_ms) {
            (0, 0) => true,
            (0, _) | (_, 0) => false,
            (one, other) => one.abs_diff(other) <= EXPIRY_WITHIN_MS,
        };
        if record.value == found.value && expiry {
            self.same += 1;
            return;
        }
        self.changed += 1;
        let what = if expiry {
            "has another value"
        } else {
            "expires at another time"
        };
        self.name(&record.key, what);
    }
}

/// Compares. Keys whose time was over when the restore was begun were not written, whatever they say.
pub(super) async fn compare(
    folder: &Path,
    entry: &KeyspaceEntry,
    name: &str,
    keyspace: &Keyspace,
    began_ms: u64,
) -> Result<Differences, Failure> {
    let damaged = |why: String| Failure::file(format!("cannot compare '{name}' with its backup"), why);
    let refused = |error| Failure::client(format!("cannot read '{name}' back"), &error);
    let progress = Progress::start(&format!("read back '{name}'"), Some(entry.keys));
    let mut merged = Merged::open(files(folder, entry)).map_err(damaged)?;
    let mut rows = std::pin::pin!(keyspace.scan(Range::all()).rows());
    let mut differences = Differences::default();
    let mut expected = merged.next().map_err(damaged)?;
    let mut found = rows.try_next().await.map_err(refused)?;
    loop {
        let order = match (&expected, &found) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(record), Some(row)) => record.key.cmp(&row.key),
        };
        match (&expected, &found) {
            (Some(record), _) if order == Ordering::Less => {
                differences.only_in_backup(record, SystemClock.now().wall_ms);
            }
            (_, Some(row)) if order == Ordering::Greater => differences.only_in_keyspace(&row.key),
            (Some(record), Some(row)) if record.is_over(began_ms) => differences.only_in_keyspace(&row.key),
            (Some(record), Some(row)) => differences.in_both(record, &row.value),
            _ => {}
        }
        if order != Ordering::Greater {
            progress.add(1);
            expected = merged.next().map_err(damaged)?;
        }
        if order != Ordering::Less {
            found = rows.try_next().await.map_err(refused)?;
        }
    }
    progress.finish();
    Ok(differences)
}

/// The records of all groups of a keyspace, in the order of their keys.
struct Merged {
    groups: Vec<GroupRecords>,
    /// The next key of each group.
    heads: BTreeMap<Bytes, usize>,
}

struct GroupRecords {
    files: std::vec::IntoIter<(PathBuf, u64, u32)>,
    open: Option<(PathBuf, DataFile)>,
    block: std::vec::IntoIter<Record>,
    head: Option<Record>,
}

impl GroupRecords {
    fn advance(&mut self) -> Result<(), String> {
        loop {
            self.head = self.block.next();
            if self.head.is_some() {
                return Ok(());
            }
            if let Some((path, file)) = &mut self.open {
                let next = file.next_block();
                file.rest();
                match next.map_err(|damage| format!("{}: {damage}", path.display()))? {
                    Some(records) => self.block = records.into_iter(),
                    None => self.open = None,
                }
                continue;
            }
            let Some((path, group, number)) = self.files.next() else {
                return Ok(());
            };
            let opened = DataFile::open(&path, group, number);
            let mut file = opened.map_err(|damage| format!("{}: {damage}", path.display()))?;
            file.rest();
            self.open = Some((path, file));
        }
    }
}

impl Merged {
    fn open(files: Vec<Vec<(PathBuf, u64, u32)>>) -> Result<Self, String> {
        let mut merged = Merged {
            groups: Vec::new(),
            heads: BTreeMap::new(),
        };
        for (number, files) in files.into_iter().enumerate() {
            merged.groups.push(GroupRecords {
                files: files.into_iter(),
                open: None,
                block: Vec::new().into_iter(),
                head: None,
            });
            merged.advance(number)?;
        }
        Ok(merged)
    }

    fn advance(&mut self, number: usize) -> Result<(), String> {
        let group = &mut self.groups[number];
        group.advance()?;
        let Some(head) = &group.head else { return Ok(()) };
        match self.heads.insert(head.key.clone(), number) {
            None => Ok(()),
            Some(_) => Err(format!(
                "two groups of the backup have the key '{}'",
                head.key.escape_ascii()
            )),
        }
    }

    fn next(&mut self) -> Result<Option<Record>, String> {
        let Some((_, number)) = self.heads.pop_first() else {
            return Ok(None);
        };
        let record = self.groups[number].head.take();
        self.advance(number)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::writer::GroupWriter;

    const GROUPS: u64 = 40;
    const KEYS: u64 = 400;

    /// Files of a directory that this process has open.
    fn open_in(folder: &Path) -> usize {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let leads_there = |path: PathBuf| std::fs::read_link(path).is_ok_and(|file| file.starts_with(folder));
        descriptors.filter(|one| leads_there(one.path())).count()
    }

    #[test]
    fn many_groups_are_merged_without_a_file_of_each_kept_open() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let mut files = Vec::new();
        for group in 0..GROUPS {
            let mut writer = GroupWriter::new(&folder, group);
            for number in (0..KEYS).filter(|number| number % GROUPS == group) {
                let record = Record {
                    key: format!("key {number:04}").into(),
                    // Several blocks a group.
                    value: vec![7; 40_000].into(),
                    expires_at_ms: 0,
                };
                writer.add(&record).unwrap();
            }
            let written = writer.finish().unwrap();
            files.push(
                (1..)
                    .zip(written)
                    .map(|(number, file)| (folder.join(file.name), group, number))
                    .collect(),
            );
        }
        let mut merged = Merged::open(files).unwrap();
        for number in 0..KEYS {
            let record = merged.next().unwrap().expect("all keys come");
            assert_eq!(record.key, format!("key {number:04}"));
            assert!(open_in(&folder) <= 1, "{} files are open", open_in(&folder));
        }
        assert_eq!(merged.next(), Ok(None));
    }
}
