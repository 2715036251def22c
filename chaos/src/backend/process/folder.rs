//! Where a cluster keeps its data and logs, and what was left by a command that was killed.
//!
//! A folder is locked while its command lives, and holds a ledger of what was started on loopback. What nobody holds a lock on was left behind: the
//! next command removes it ([`sweep`]) and kills what still runs of its ledger, but only a process that has the number, the
//! moment of its start and the program that are written there. Inside an enclosure the kernel has done so already.

use super::super::Member;
use anyhow::{Context, Result};
use fulcrum_types::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PREFIX: &str = "cluster-";
const LEDGER: &str = "processes.json";
const LOCK: &str = "lock";

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Started {
    pid: i32,
    ticks: u64,
    program: PathBuf,
}

/// A folder of a cluster; another command's as soon as this is dropped.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: Arc<File>,
}

impl Folder {
    /// Makes one below `parent`.
    ///
    /// # Errors
    /// The place cannot be written.
    pub fn make(parent: &Path) -> Result<Self> {
        std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        let (path, lock) = fresh(&parent.canonicalize()?)?;
        for part in ["data", "logs", "failpoints"] {
            let part = path.join(part);
            std::fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
        }
        Ok(Self {
            path,
            _lock: Arc::new(lock),
        })
    }

    pub(super) fn data(&self, member: Member) -> PathBuf {
        self.path.join("data").join(member.to_string())
    }

    pub(in crate::backend) fn log(&self, member: Member) -> PathBuf {
        self.path.join("logs").join(format!("{member}.log"))
    }

    pub(in crate::backend) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::backend) fn failpoints_folder(&self) -> PathBuf {
        self.path.join("failpoints")
    }

    pub(super) fn failpoints(&self, node: NodeId) -> PathBuf {
        self.failpoints_folder().join(Member::Node(node).to_string())
    }

    /// What a node's failpoints shall do; in one piece, for the node reads it all the time.
    pub(in crate::backend) fn set_failpoints(&self, node: NodeId, lines: &str) -> Result<()> {
        let file = self.failpoints(node);
        let draft = file.with_extension("new");
        std::fs::write(&draft, lines)
            .and_then(|()| std::fs::rename(&draft, &file))
            .with_context(|| format!("write {}", file.display()))
    }

    /// What the node says that they do, and have done.
    pub(in crate::backend) fn seen_failpoints(&self, node: NodeId) -> Result<String> {
        let file = self.failpoints(node).with_extension("seen");
        std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }

    /// Writes down that a process was started here.
    pub(super) fn enter(&self, pid: i32) -> Result<()> {
        let mut started = ledger(&self.path)?;
        started.retain(Started::is_running);
        started.extend(Started::seen(pid));
        let (file, draft) = (self.path.join(LEDGER), self.path.join("processes.new"));
        std::fs::write(&draft, serde_json::to_vec_pretty(&started)?)
            .and_then(|()| std::fs::rename(&draft, &file))
            .with_context(|| format!("write {}", file.display()))
    }

    pub(in crate::backend) fn copy_logs(&self, into: &Path) -> Result<()> {
        std::fs::create_dir_all(into).with_context(|| format!("make {}", into.display()))?;
        for entry in std::fs::read_dir(self.path.join("logs"))? {
            let entry = entry?;
            std::fs::copy(entry.path(), into.join(entry.file_name()))?;
        }
        Ok(())
    }

    pub(in crate::backend) fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.path).with_context(|| format!("remove {}", self.path.display()))
    }
}

/// Whether a command has this folder now.
pub(in crate::backend) fn is_alive(folder: &Path) -> bool {
    let lock = File::open(folder.join(LOCK));
    lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Removes what dead commands have left below `parent`, and kills what they have left running.
///
/// # Errors
/// A folder cannot be read or removed.
pub fn sweep(parent: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("list {}", parent.display())),
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = File::open(path.join(LOCK)) else {
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        for left in ledger(&path)?.iter().filter(|left| left.is_running()) {
            left.kill();
        }
        std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

fn ledger(folder: &Path) -> Result<Vec<Started>> {
    let file = folder.join(LEDGER);
    match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("read {}", file.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

/// A folder that nobody else has: the one who gets the lock of a name has it.
fn fresh(parent: &Path) -> Result<(PathBuf, File)> {
    let mut number = 1_u32;
    loop {
        let path = parent.join(format!("{PREFIX}{number}"));
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        let lock = path.join(LOCK);
        let file = File::options().create(true).append(true).open(&lock);
        let file = file.with_context(|| format!("open {}", lock.display()))?;
        match file.try_lock() {
            Ok(()) => {
                empty(&path, Some(LOCK))?;
                return Ok((path, file));
            }
            Err(TryLockError::WouldBlock) => number += 1,
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {}", lock.display())),
        }
    }
}

/// Removes everything in a directory but the directory itself, and one name.
pub(super) fn empty(directory: &Path, but: Option<&str>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry?;
        if but.is_some_and(|but| entry.file_name() == but) {
            continue;
        }
        let path = entry.path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        }
        .with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

impl Started {
    /// A process as the system tells it; none if it has ended.
    fn seen(pid: i32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // The name in parentheses may have anything in it; state is the first field behind it, the start the twentieth.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(fields.first(), Some(&("Z" | "X"))) {
            return None;
        }
        Some(Self {
            pid,
            ticks: fields.get(19)?.parse().ok()?,
            program: std::fs::read_link(folder.join("exe")).ok()?,
        })
    }

    fn is_running(&self) -> bool {
        Started::seen(self.pid).as_ref() == Some(self)
    }

    fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_running()) {
            // It may have ended meanwhile: all the better.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeping() -> Child {
        Command::new("/bin/sleep").arg("60").spawn().unwrap()
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "a test of processes, without an event loop: it waits with a bound"
    )]
    fn only_what_a_dead_command_has_left_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let (alive, dead) = (
            Folder::make(parent.path()).unwrap(),
            Folder::make(parent.path()).unwrap(),
        );
        assert_ne!(alive.path, dead.path);
        let (mut kept, mut left) = (sleeping(), sleeping());
        for (folder, child) in [(&alive, &kept), (&dead, &left)] {
            folder.enter(i32::try_from(child.id()).unwrap()).unwrap();
        }
        let path = dead.path.clone();
        drop(dead);
        // A child that another test begins just now has the lock, too, until it is the program that it is to be.
        for _ in 0..500 {
            sweep(parent.path()).unwrap();
            if !path.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(alive.path.exists() && !path.exists());
        assert!(!left.wait().unwrap().success(), "it was killed");
        assert!(kept.try_wait().unwrap().is_none(), "it was not ours to kill");
        kept.kill().unwrap();
        kept.wait().unwrap();
        alive.remove().unwrap();
        sweep(&parent.path().join("none")).unwrap();
    }

    #[test]
    fn a_process_of_another_program_or_time_is_not_the_one() {
        let mut child = sleeping();
        let seen = Started::seen(i32::try_from(child.id()).unwrap()).unwrap();
        let other = Started {
            program: "/bin/cat".into(),
            ..seen.clone()
        };
        let later = Started {
            ticks: seen.ticks + 1,
            ..seen.clone()
        };
        assert!(seen.is_running() && !other.is_running() && !later.is_running());
        other.kill();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!seen.is_running());
    }
}
