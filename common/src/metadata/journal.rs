//! The embedded store's file: append-only, checksummed, one fsync for every record.
//!
//! The file begins with a magic word, a format number and the cluster's id. A record is
//! `{marker, length, checksum of the payload, checksum of these three}` and the payload. Only the last record can have been
//! under way when the process died: a bad record with nothing readable after it is a *torn tail*, never acknowledged, and is
//! cut. A bad record with a readable one after it was acknowledged once: the file is *corrupt* and is not opened.
//! Compaction writes a new file that begins with a snapshot, syncs it, and renames it over the old one.

use crate::error::StartError;
use crate::map::ClusterId;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"FULCMETA";
const FORMAT: u32 = 1;
const MARKER: u32 = 0x4652_4543;
const RECORD_HEADER: usize = 16;
const FILE: &str = "metadata.journal";
const FRESH_FILE: &str = "metadata.journal.new";
const LOCK_FILE: &str = "metadata.lock";
const REMEDY: &str = "restore the directory from a backup";

/// Why a record was not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// It surely was not; the journal is as it was.
    NotWritten(String),
    /// It may have been. Nothing more can be appended.
    Unknown(String),
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    cluster_id: ClusterId,
    file: File,
    len: u64,
    /// Why nothing can be appended any more. A failed fsync is not tried again on the same handle (DESIGN section 8).
    failed: Option<String>,
    _lock: File,
}

impl Journal {
    /// Opens the journal in `directory`, or begins one with `first`. Also gives the payloads of its records.
    pub(super) fn open(
        directory: &Path,
        expected: Option<&ClusterId>,
        first: &[u8],
    ) -> Result<(Self, Vec<Vec<u8>>), StartError> {
        std::fs::create_dir_all(directory).map_err(|e| StartError::file("create", directory, e))?;
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        if !path.try_exists().map_err(|e| StartError::file("read", &path, e))? {
            let cluster_id = expected.cloned().unwrap_or_else(ClusterId::random);
            let (file, len) =
                write_fresh(directory, &cluster_id, first).map_err(|e| StartError::file("create", &path, e))?;
            let journal = Self {
                directory: directory.to_owned(),
                cluster_id,
                file,
                len,
                failed: None,
                _lock: lock,
            };
            return Ok((journal, vec![first.to_vec()]));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| StartError::file("open", &path, e))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)
            .map_err(|e| StartError::file("read", &path, e))?;
        let (cluster_id, start) = check_header(&path, &content, expected)?;
        let (payloads, len) = scan(&path, &content, start)?;
        if len < content.len() {
            tracing::warn!(path = %path.display(), cut = content.len() - len, "cut a torn tail that was never acknowledged");
            file.set_len(len as u64)
                .and_then(|()| file.sync_all())
                .map_err(|e| StartError::file("cut", &path, e))?;
        }
        let directory = directory.to_owned();
        Ok((
            Self {
                directory,
                cluster_id,
                file,
                len: len as u64,
                failed: None,
                _lock: lock,
            },
            payloads,
        ))
    }

    pub(super) fn cluster_id(&self) -> &ClusterId {
        &self.cluster_id
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Appends a record and syncs it.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<(), AppendError> {
        if let Some(reason) = &self.failed {
            return Err(AppendError::NotWritten(reason.clone()));
        }
        let record = frame(payload).map_err(|e| AppendError::NotWritten(e.to_string()))?;
        if let Err(error) = self.file.write_all_at(&record, self.len) {
            let reason = format!("{}: {error}", self.path().display());
            // Nothing was synced: if the rest can be taken away, it is as if nothing had been tried.
            if self.file.set_len(self.len).is_err() {
                self.fail(&reason);
            }
            return Err(AppendError::NotWritten(reason));
        }
        if let Err(error) = self.file.sync_data() {
            let reason = format!("fsync of {}: {error}", self.path().display());
            self.fail(&reason);
            return Err(AppendError::Unknown(reason));
        }
        self.len += record.len() as u64;
        Ok(())
    }

    /// Begins anew with a snapshot. After an error the old journal goes on, unless it cannot.
    pub(super) fn rewrite(&mut self, snapshot: &[u8]) -> io::Result<()> {
        let (file, len) = write_fresh_file(&self.directory, &self.cluster_id, snapshot)?;
        std::fs::rename(self.directory.join(FRESH_FILE), self.path())?;
        (self.file, self.len) = (file, len);
        sync_directory(&self.directory).inspect_err(|error| self.fail(&format!("fsync of the directory: {error}")))
    }

    fn fail(&mut self, reason: &str) {
        self.failed = Some(format!(
            "the metadata journal failed earlier, restart the process ({reason})"
        ));
    }
}

fn lock(directory: &Path) -> Result<File, StartError> {
    let path = directory.join(LOCK_FILE);
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|e| StartError::file("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::DirectoryLocked {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(StartError::file("lock", &path, error)),
    }
}

fn write_fresh(directory: &Path, cluster_id: &ClusterId, first: &[u8]) -> io::Result<(File, u64)> {
    let written = write_fresh_file(directory, cluster_id, first)?;
    std::fs::rename(directory.join(FRESH_FILE), directory.join(FILE))?;
    sync_directory(directory)?;
    Ok(written)
}

fn write_fresh_file(directory: &Path, cluster_id: &ClusterId, first: &[u8]) -> io::Result<(File, u64)> {
    let path = directory.join(FRESH_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)?;
    let mut content = header(cluster_id);
    content.extend_from_slice(&frame(first)?);
    file.write_all_at(&content, 0)?;
    file.sync_all()?;
    Ok((file, content.len() as u64))
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn header(cluster_id: &ClusterId) -> Vec<u8> {
    let id = cluster_id.as_str().as_bytes();
    let mut out = Vec::with_capacity(32 + id.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&(id.len() as u32).to_le_bytes());
    out.extend_from_slice(id);
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// The file's cluster and where its records begin. The format is looked at before anything that depends on it.
fn check_header(path: &Path, content: &[u8], expected: Option<&ClusterId>) -> Result<(ClusterId, usize), StartError> {
    let corrupt = |detail: &str| corrupt(path, 0, detail);
    if !content.starts_with(MAGIC) {
        return Err(corrupt("it is not a metadata journal"));
    }
    let format = number(content, 8).ok_or_else(|| corrupt("it ends within its header"))?;
    if format > FORMAT {
        return Err(StartError::NewerFormat {
            path: path.to_owned(),
            found: format,
            supported: FORMAT,
        });
    }
    let id_len = number(content, 12).ok_or_else(|| corrupt("it ends within its header"))? as usize;
    let end = 16usize.saturating_add(id_len);
    let id = content
        .get(16..end)
        .ok_or_else(|| corrupt("it ends within its header"))?;
    if number(content, end) != Some(crc32fast::hash(&content[..end])) {
        return Err(corrupt("its header does not match its checksum"));
    }
    let found = std::str::from_utf8(id).ok().and_then(|text| ClusterId::new(text).ok());
    let found = found.ok_or_else(|| corrupt("the cluster's id is none"))?;
    match expected {
        Some(expected) if *expected != found => Err(StartError::OtherCluster {
            path: path.to_owned(),
            found: found.to_string(),
            expected: expected.to_string(),
        }),
        _ => Ok((found, end + 4)),
    }
}

/// The payloads of all records, and where the last good one ends.
fn scan(path: &Path, content: &[u8], start: usize) -> Result<(Vec<Vec<u8>>, usize), StartError> {
    let mut payloads = Vec::new();
    let mut at = start;
    while at < content.len() {
        let Some(payload) = record_at(content, at) else { break };
        payloads.push(payload.to_vec());
        at += RECORD_HEADER + payload.len();
    }
    let marker = MARKER.to_le_bytes();
    let mut later = at + 1..content.len();
    if later.any(|offset| content[offset..].starts_with(&marker) && record_at(content, offset).is_some()) {
        return Err(corrupt(
            path,
            at as u64,
            "a record does not match its checksum, and acknowledged ones follow",
        ));
    }
    // The first record was there before the file got its name.
    if payloads.is_empty() {
        return Err(corrupt(path, at as u64, "the first record does not match its checksum"));
    }
    Ok((payloads, at))
}

/// The payload of the record at `at`, if it is whole.
fn record_at(content: &[u8], at: usize) -> Option<&[u8]> {
    let header = content.get(at..at.checked_add(RECORD_HEADER)?)?;
    if number(header, 0)? != MARKER || number(header, 12)? != crc32fast::hash(&header[..12]) {
        return None;
    }
    let begin = at + RECORD_HEADER;
    let payload = content.get(begin..begin.checked_add(number(header, 4)? as usize)?)?;
    (crc32fast::hash(payload) == number(header, 8)?).then_some(payload)
}

fn frame(payload: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(payload.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut out = Vec::with_capacity(RECORD_HEADER + payload.len());
    out.extend_from_slice(&MARKER.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out.extend_from_slice(payload);
    Ok(out)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk::<4>()
        .map(|chunk| u32::from_le_bytes(*chunk))
}

fn corrupt(path: &Path, offset: u64, detail: &str) -> StartError {
    StartError::Corrupt {
        path: path.to_owned(),
        offset,
        detail: detail.to_owned(),
        remedy: REMEDY.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ClusterId {
        ClusterId::new("c1").unwrap()
    }

    /// A journal of the first record and these; its file's content, and where each record ends.
    fn written(directory: &Path, records: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
        let (mut journal, _) = Journal::open(directory, Some(&id()), b"first").unwrap();
        let mut ends = vec![journal.len() as usize];
        for record in records {
            journal.append(record).unwrap();
            ends.push(journal.len() as usize);
        }
        (std::fs::read(journal.path()).unwrap(), ends)
    }

    fn reopened(directory: &Path, content: &[u8]) -> Result<Vec<Vec<u8>>, StartError> {
        std::fs::write(directory.join(FILE), content).unwrap();
        Journal::open(directory, Some(&id()), b"unused").map(|(_, payloads)| payloads)
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), &[b"one", b"", b"three"]);
        let (journal, payloads) = Journal::open(dir.path(), None, b"unused").unwrap();
        assert_eq!(payloads, [&b"first"[..], b"one", b"", b"three"]);
        assert_eq!(*journal.cluster_id(), id());
    }

    #[test]
    fn a_tail_torn_anywhere_is_cut_and_the_rest_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (content, ends) = written(dir.path(), &[b"one", b"two-is-longer"]);
        for len in ends[1]..ends[2] {
            assert_eq!(
                reopened(dir.path(), &content[..len]).unwrap(),
                [&b"first"[..], b"one"],
                "{len}"
            );
            assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().len(), ends[1] as u64);
        }
        // Pages reach the disk in any order: whole in length, but not in content.
        for at in ends[1]..ends[2] {
            let mut torn = content.clone();
            torn[at..].fill(0);
            if torn != content {
                assert_eq!(reopened(dir.path(), &torn).unwrap().len(), 2, "{at}");
            }
        }
    }

    #[test]
    fn after_a_cut_the_journal_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (content, ends) = written(dir.path(), &[b"one", b"two"]);
        reopened(dir.path(), &content[..ends[2] - 1]).unwrap();
        let (mut journal, _) = Journal::open(dir.path(), None, b"unused").unwrap();
        journal.append(b"again").unwrap();
        drop(journal);
        let (_, payloads) = Journal::open(dir.path(), None, b"unused").unwrap();
        assert_eq!(payloads, [&b"first"[..], b"one", b"again"]);
    }

    #[test]
    fn a_corrupt_middle_is_refused_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (content, ends) = written(dir.path(), &[b"one", b"two"]);
        for at in 0..ends[1] {
            let mut bad = content.clone();
            bad[at] ^= 0x40;
            let error = reopened(dir.path(), &bad).unwrap_err();
            let refused = matches!(error, StartError::Corrupt { .. } | StartError::NewerFormat { .. });
            assert!(refused, "byte {at}: {error}");
            assert!(error.to_string().contains(FILE), "{error}");
            // Nothing is cut from a file that is refused.
            assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), bad);
        }
    }

    #[test]
    fn newer_formats_other_clusters_and_second_openers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (content, _) = written(dir.path(), &[b"one"]);
        let mut newer = content.clone();
        newer[8] = 9;
        let error = reopened(dir.path(), &newer).unwrap_err();
        assert!(
            matches!(
                error,
                StartError::NewerFormat {
                    found: 9,
                    supported: 1,
                    ..
                }
            ),
            "{error}"
        );
        std::fs::write(dir.path().join(FILE), &content).unwrap();
        let other = ClusterId::new("c2").unwrap();
        let error = Journal::open(dir.path(), Some(&other), b"").unwrap_err();
        assert!(
            matches!(&error, StartError::OtherCluster { found, .. } if found == "c1"),
            "{error}"
        );
        let _open = Journal::open(dir.path(), None, b"").unwrap();
        let error = Journal::open(dir.path(), None, b"").unwrap_err();
        assert!(matches!(error, StartError::DirectoryLocked { .. }), "{error}");
    }

    #[test]
    fn a_journal_that_cannot_be_written_says_so_and_goes_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), Some(&id()), b"first").unwrap();
        journal.append(b"one").unwrap();
        let read_only = File::open(journal.path()).unwrap();
        let writable = std::mem::replace(&mut journal.file, read_only);
        let AppendError::NotWritten(reason) = journal.append(b"two").unwrap_err() else {
            panic!("it may have been")
        };
        assert!(reason.contains(FILE), "{reason}");
        // Nobody knows what the file holds now: also a handle that works is not trusted again.
        journal.file = writable;
        let AppendError::NotWritten(reason) = journal.append(b"two").unwrap_err() else {
            panic!("it may have been")
        };
        assert!(reason.contains("restart"), "{reason}");
        drop(journal);
        let (_, payloads) = Journal::open(dir.path(), Some(&id()), b"unused").unwrap();
        assert_eq!(payloads, [&b"first"[..], b"one"]);
    }

    /// Opens or is refused, but never panics, and never shows a record that was not written.
    #[test]
    fn random_damage_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let (content, _) = written(dir.path(), &[b"one", b"two", b"three"]);
        let mut seed = 1u64;
        let mut random = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let whole: [&[u8]; 4] = [b"first", b"one", b"two", b"three"];
        for _ in 0..300 {
            let mut damaged = content.clone();
            for _ in 0..=random(4) {
                let at = random(damaged.len());
                damaged[at] = random(256) as u8;
            }
            damaged.truncate(damaged.len() - random(20));
            if let Ok(payloads) = reopened(dir.path(), &damaged) {
                assert!(
                    whole.iter().zip(&payloads).all(|(written, read)| written == read),
                    "{payloads:?}"
                );
            }
        }
    }

    #[test]
    fn rewriting_keeps_only_the_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), Some(&id()), b"first").unwrap();
        journal.append(b"one").unwrap();
        journal.rewrite(b"snapshot").unwrap();
        journal.append(b"two").unwrap();
        drop(journal);
        // As after a crash before the rename.
        std::fs::write(dir.path().join(FRESH_FILE), b"half a file").unwrap();
        let (_, payloads) = Journal::open(dir.path(), Some(&id()), b"unused").unwrap();
        assert_eq!(payloads, [&b"snapshot"[..], b"two"]);
    }
}
