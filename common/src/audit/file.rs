//! The file, and the one thread that writes it: services' threads never wait for this disk.
//!
//! A line is appended and synced before it counts as written. One that failed half-way is ended, so that the next one stands alone. The
//! file is opened anew once its name leads to another one or to none: whoever rotates it renames it, and is done.

use crate::error::StartError;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Lines that may wait.
const QUEUE: usize = 256;
/// Of them, lines about what was refused: whoever has any token can ask for those as often as it likes, and must not keep out what operators do.
const REFUSALS: usize = 32;
/// Of a file that is made: who reads logs may read it by its group.
const MODE: u32 = 0o640;
/// A disk that takes longer counts as one that does not write.
const WITHIN: Duration = Duration::from_secs(5);

struct Job {
    line: String,
    written: Option<oneshot::Sender<io::Result<()>>>,
    /// Of a refusal: its place among the few that may wait, whether anybody waits for it or not.
    _place: Option<OwnedSemaphorePermit>,
}

/// The way to the file.
#[derive(Clone)]
pub(super) struct Writer {
    path: Arc<Path>,
    jobs: SyncSender<Job>,
    refusals: Arc<Semaphore>,
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
        Ok(Self::to(path, jobs))
    }

    fn to(path: &Path, jobs: SyncSender<Job>) -> Self {
        Self {
            path: path.into(),
            jobs,
            refusals: Arc::new(Semaphore::new(REFUSALS)),
        }
    }

    pub(super) fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Answers once the line is on disk, or why it is not.
    pub(super) async fn write(&self, line: String) -> Result<(), String> {
        self.write_at(line, None).await
    }

    /// The same for what was refused.
    pub(super) async fn write_refusal(&self, line: String) -> Result<(), String> {
        let place = self.refusals.clone().try_acquire_owned();
        let place = place.map_err(|_| "too many refusals wait for the disk".to_owned())?;
        self.write_at(line, Some(place)).await
    }

    async fn write_at(&self, line: String, place: Option<OwnedSemaphorePermit>) -> Result<(), String> {
        let (written, answer) = oneshot::channel();
        self.send(Job {
            line,
            written: Some(written),
            _place: place,
        })?;
        match tokio::time::timeout(WITHIN, answer).await {
            Ok(Ok(result)) => result.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err("its thread has ended".to_owned()),
            Err(_) => Err(format!("the disk does not answer within {} s", WITHIN.as_secs())),
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn write_later(&self, line: String) {
        let job = Job {
            line,
            written: None,
            _place: None,
        };
        if let Err(reason) = self.send(job) {
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
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
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
    async fn refusals_leave_room_for_what_is_permitted() {
        let (jobs, waiting) = sync_channel(QUEUE);
        let writer = Writer::to(Path::new("audit"), jobs);
        let mut refusals: Vec<_> = (0..2 * QUEUE)
            .map(|_| Box::pin(writer.write_refusal("r".into())))
            .collect();
        let mut told = 0;
        for refusal in &mut refusals {
            told += usize::from(futures::poll!(refusal).is_ready());
        }
        assert_eq!(told, 2 * QUEUE - REFUSALS, "the others are told that there is no room");
        let mut permitted = Box::pin(writer.write("p".into()));
        assert!(futures::poll!(&mut permitted).is_pending(), "it waits for its turn");
        assert_eq!(waiting.try_iter().count(), REFUSALS + 1);
    }

    #[tokio::test]
    async fn the_file_is_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let _writer = Writer::start(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o007, 0);
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
