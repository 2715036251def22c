//! The file, and the one thread that writes it: services' threads never wait for this disk.
//!
//! A line is appended and synced before it counts as written. One that failed half-way is ended, so that the next one stands alone. The
//! file is opened anew once its name leads to another one or to none: whoever rotates it renames it, and is done.

use crate::error::StartError;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// Lines that may wait.
const QUEUE: usize = 256;
/// A disk that takes longer counts as one that does not write.
const WITHIN: Duration = Duration::from_secs(5);

struct Job {
    line: String,
    written: Option<oneshot::Sender<io::Result<()>>>,
}

/// The way to the file.
#[derive(Clone)]
pub(super) struct Writer {
    path: Arc<Path>,
    jobs: SyncSender<Job>,
}

impl Writer {
    pub(super) fn start(path: &Path) -> Result<Self, StartError> {
        let cannot = |error| StartError::file("write the audit log", path, error);
        let mut file = Appended::open(path).map_err(cannot)?;
        let (jobs, waiting) = sync_channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("fulcrum-audit".into())
            .spawn(move || {
                for job in waiting {
                    let result = file.append(&job.line);
                    if let Some(written) = job.written {
                        // Whoever asked may have gone.
                        let _ = written.send(result);
                    }
                }
            })
            .map_err(cannot)?;
        Ok(Self {
            path: path.into(),
            jobs,
        })
    }

    pub(super) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Answers once the line is on disk, or why it is not.
    pub(super) async fn write(&self, line: String) -> Result<(), String> {
        let (written, answer) = oneshot::channel();
        self.send(Job {
            line,
            written: Some(written),
        })?;
        match tokio::time::timeout(WITHIN, answer).await {
            Ok(Ok(result)) => result.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err("its thread has ended".to_owned()),
            Err(_) => Err(format!("the disk does not answer within {} s", WITHIN.as_secs())),
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn write_later(&self, line: String) {
        if let Err(reason) = self.send(Job { line, written: None }) {
            tracing::error!(%reason, "a line of the audit log is in this log only");
        }
    }

    fn send(&self, job: Job) -> Result<(), String> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => "too many lines wait for the disk".to_owned(),
            TrySendError::Disconnected(_) => "its thread has ended".to_owned(),
        })
    }
}

/// A file that is only appended to.
struct Appended {
    path: PathBuf,
    file: File,
    /// Which one it is.
    identity: (u64, u64),
    /// The last line may have no end.
    torn: bool,
}

impl Appended {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let about = file.metadata()?;
        Ok(Self {
            path: path.to_owned(),
            file,
            identity: (about.dev(), about.ino()),
            // Whoever wrote last may have died half-way; an empty line does no harm.
            torn: about.len() > 0 && !ends_with_line(path),
        })
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let there = std::fs::metadata(&self.path).map(|about| (about.dev(), about.ino()));
        if there.ok() != Some(self.identity) {
            *self = Self::open(&self.path)?;
        }
        let begin = if self.torn { "\n" } else { "" };
        self.torn = true;
        self.file.write_all(format!("{begin}{line}\n").as_bytes())?;
        self.file.sync_data()?;
        self.torn = false;
        Ok(())
    }
}

/// Whether a file's last byte ends a line; a file that cannot be read is taken for one that does not.
fn ends_with_line(path: &Path) -> bool {
    use std::io::{Read, Seek, SeekFrom};
    let last = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        Ok(byte[0])
    };
    last().is_ok_and(|byte| byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[tokio::test]
    async fn lines_are_appended_and_a_renamed_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("audit"), folder.path().join("audit.1"));
        let writer = Writer::start(&path).unwrap();
        writer.write("a".into()).await.unwrap();
        std::fs::rename(&path, &old).unwrap();
        writer.write("b".into()).await.unwrap();
        assert_eq!(
            (lines(&old), lines(&path)),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        let another = Writer::start(&path).unwrap();
        another.write("c".into()).await.unwrap();
        assert_eq!(lines(&path), ["b", "c"], "a restart appends");
    }

    #[tokio::test]
    async fn a_line_that_was_torn_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        std::fs::write(&path, "{\"half").unwrap();
        let writer = Writer::start(&path).unwrap();
        writer.write("whole".into()).await.unwrap();
        assert_eq!(lines(&path), ["{\"half", "whole"]);
    }

    #[tokio::test]
    async fn a_full_disk_is_told() {
        if !Path::new("/dev/full").exists() {
            return;
        }
        let writer = Writer::start(Path::new("/dev/full")).unwrap();
        writer.write("a".into()).await.unwrap_err();
        assert!(Writer::start(Path::new("/no/such/folder/audit")).is_err());
    }
}
