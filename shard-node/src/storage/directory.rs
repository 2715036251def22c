//! Whose a data directory is, who uses it now, and whether it was left in good order.
//!
//! `identity` says format, cluster and node, for programs and people; it is checked before the engine is touched. `lock` is
//! held while the directory is in use. `clean` is there only after a good end: rule 5 asks.

use super::error::StorageError;
use fulcrum_types::NodeId;
use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Format of the data directory that this program writes, and the newest that it reads.
pub(super) const FORMAT: u64 = 1;

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

    pub(super) fn shown(&self) -> String {
        shown(&self.path)
    }

    /// Marks the directory as left in good order.
    pub(super) fn mark_clean(&self) -> Result<(), StorageError> {
        self.write_file("clean", "").map_err(|e| io_error(&self.path, e))
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
                self.write_file("identity", &text)
                    .map_err(|e| io_error(&self.path, e))?;
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
    fn write_file(&self, name: &str, text: &str) -> io::Result<()> {
        let draft = self.path.join(format!("{name}.new"));
        let mut file = File::create(&draft)?;
        file.write_all(text.as_bytes())?;
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

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn io_error(path: &Path, error: io::Error) -> StorageError {
    let path = shown(path);
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { path },
        _ => StorageError::Io {
            path,
            reason: error.to_string(),
        },
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
        fs::write(path.join("identity"), "format 2\ncluster one\nnode 1\n").unwrap();
        assert!(matches!(
            refusal(path, &identity("one", 1)),
            StorageError::NewerFormat { found: 2, .. }
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
