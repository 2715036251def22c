//! Whose a data directory is, who uses it now, and whether it was left in good order.
//!
//! `identity` says format, cluster and node, for programs and people; it is checked before the engine is touched. `lock` is
//! held while the directory is in use. `clean` is there only after a good end: rule 5 asks. `synced` is the
//! [watermark](super::watermark), `store` the engine's.

use super::error::StorageError;
use fulcrum_types::NodeId;
use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Format of the data directory that this program writes, and the newest that it reads.
pub(super) const FORMAT: u64 = 4;

/// What the engine needs to go on, at least.
const PROBE_BYTES: usize = 4 * 1024 * 1024;

/// Whose data it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
}

/// A data directory in use.
pub(super) struct Directory {
    path: PathBuf,
    tag: u64,
    /// Unlocked when dropped.
    _lock: File,
}

impl Directory {
    /// Takes a directory into use, makes it if it is missing. Says whether it was left in good order.
    pub(super) fn open(path: &Path, identity: &Identity) -> Result<(Self, bool), StorageError> {
        let failed = |e: io::Error| io_error(path, e);
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::Locked { path: shown(path) }),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let directory = Directory {
            path: path.to_owned(),
            tag: xxh3_64_with_seed(identity.cluster.as_bytes(), identity.node.0),
            _lock: lock,
        };
        let fresh = directory.check_identity(identity)?;
        let clean = fresh || directory.take_clean_mark().map_err(failed)?;
        Ok((directory, clean))
    }

    /// Where the engine keeps its files.
    pub(super) fn engine(&self) -> PathBuf {
        self.path.join("store")
    }

    /// A file of the directory itself.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Binds records to their owner: those of another node do not pass for ours.
    pub(super) fn tag(&self) -> u64 {
        self.tag
    }

    pub(super) fn shown(&self) -> String {
        shown(&self.path)
    }

    /// The error that says that the store cannot be trusted because of `file`.
    pub(super) fn corrupt(&self, file: &Path, reason: String) -> StorageError {
        StorageError::CorruptStore {
            file: shown(file),
            reason,
            directory: self.shown(),
        }
    }

    pub(super) fn io_error(&self, error: io::Error) -> StorageError {
        io_error(&self.path, error)
    }

    /// Whether there is no room for even a small table.
    pub(super) fn is_full(&self) -> bool {
        let probe = self.file("probe");
        let written = File::create(&probe).and_then(|mut file| {
            file.write_all(&vec![1; PROBE_BYTES])?;
            file.sync_all()
        });
        let _ = fs::remove_file(&probe);
        written.is_err_and(|e| is_full(&e))
    }

    /// Marks the directory as left in good order.
    pub(super) fn mark_clean(&self) -> Result<(), StorageError> {
        self.write_file("clean", &[]).map_err(|e| self.io_error(e))
    }

    /// Checks whose the directory is. Returns whether it was empty and has just become ours.
    fn check_identity(&self, wanted: &Identity) -> Result<bool, StorageError> {
        match fs::read_to_string(self.path.join("identity")) {
            Ok(text) => self.compare(&text, wanted).map(|()| false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if self.engine().exists() {
                    return Err(self.damaged("missing"));
                }
                if wanted.cluster.lines().count() != 1 {
                    return Err(self.damaged("a cluster name is one line of text"));
                }
                let text = format!("format {FORMAT}\ncluster {}\nnode {}\n", wanted.cluster, wanted.node.0);
                self.write_file("identity", text.as_bytes())
                    .map_err(|e| self.io_error(e))?;
                Ok(true)
            }
            Err(e) => Err(self.damaged(e)),
        }
    }

    fn compare(&self, text: &str, wanted: &Identity) -> Result<(), StorageError> {
        let path = self.shown();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or_else(|| self.damaged(format!("no {name}")))
        };
        let found: u64 = field("format")?.parse().map_err(|e| self.damaged(e))?;
        if found > FORMAT {
            return Err(StorageError::NewerFormat {
                path,
                found,
                supported: FORMAT,
            });
        }
        if found < FORMAT {
            return Err(StorageError::OlderFormat {
                path,
                found,
                supported: FORMAT,
            });
        }
        let cluster = field("cluster")?;
        if cluster != wanted.cluster {
            return Err(StorageError::OtherCluster {
                path,
                found: cluster.into(),
                expected: wanted.cluster.clone(),
            });
        }
        let node = NodeId(field("node")?.parse().map_err(|e| self.damaged(e))?);
        if node != wanted.node {
            return Err(StorageError::OtherNode {
                path,
                found: node,
                expected: wanted.node,
            });
        }
        Ok(())
    }

    fn take_clean_mark(&self) -> io::Result<bool> {
        match fs::remove_file(self.path.join("clean")) {
            Ok(()) => self.sync().map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Writes a file whole or not at all.
    pub(super) fn write_file(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let draft = self.path.join(format!("{name}.new"));
        let mut file = File::create(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, self.path.join(name))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn damaged(&self, reason: impl Display) -> StorageError {
        StorageError::Identity {
            path: self.shown(),
            reason: reason.to_string(),
        }
    }
}

/// No room is left, or no more is allowed.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn io_error(path: &Path, error: io::Error) -> StorageError {
    let path = shown(path);
    if is_full(&error) {
        return StorageError::Full { path };
    }
    StorageError::Io {
        path,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: &str, node: u64) -> Identity {
        Identity {
            cluster: cluster.into(),
            node: NodeId(node),
        }
    }

    fn refusal(path: &Path, identity: &Identity) -> StorageError {
        Directory::open(path, identity).err().expect("must be refused")
    }

    #[test]
    fn only_its_owner_opens_it_and_one_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path();
        let (held, clean) = Directory::open(path, &identity("one", 1)).unwrap();
        assert!(clean, "nothing can be missing from an empty directory");
        assert!(matches!(
            refusal(path, &identity("one", 1)),
            StorageError::Locked { .. }
        ));
        drop(held);
        assert!(matches!(
            refusal(path, &identity("two", 1)),
            StorageError::OtherCluster { .. }
        ));
        assert!(matches!(
            refusal(path, &identity("one", 2)),
            StorageError::OtherNode { .. }
        ));
        fs::write(path.join("identity"), "format 5\ncluster one\nnode 1\n").unwrap();
        assert!(matches!(
            refusal(path, &identity("one", 1)),
            StorageError::NewerFormat { found: 5, .. }
        ));
        fs::write(path.join("identity"), "format 1\ncluster one\nnode 1\n").unwrap();
        assert!(matches!(
            refusal(path, &identity("one", 1)),
            StorageError::OlderFormat { found: 1, .. }
        ));
        fs::write(path.join("identity"), "nonsense").unwrap();
        assert!(matches!(
            refusal(path, &identity("one", 1)),
            StorageError::Identity { .. }
        ));
    }

    #[test]
    fn only_a_good_end_counts_as_clean() {
        let temporary = tempfile::tempdir().unwrap();
        let open = || Directory::open(temporary.path(), &identity("one", 1)).unwrap();
        drop(open());
        let (directory, clean) = open();
        assert!(!clean);
        directory.mark_clean().unwrap();
        drop(directory);
        assert!(open().1);
        assert!(!open().1, "the mark counts once");
    }
}
