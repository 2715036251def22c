//! The backend on disk, over `fjall`: one journal for all spaces, so that one fsync serves every group.
//!
//! The engine holds its journal lock through an fsync and has no group commit of its own; so all writing is done by one
//! thread, a batch at a time, and readers never wait for it. A write that fails ends the handle's life: every later batch
//! fails with the same error, and nothing is retried.

use super::backend::{Backend, BatchDone, BatchId, Notifier, RangeIter, Reader, Space};
use super::batch::Batch;
use super::directory::{Directory, Identity};
use super::error::StorageError;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use fulcrum_common::clock::{Clock, SystemClock};
use std::error::Error;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// How much memory the engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FjallOptions {
    /// Cached blocks of all spaces, in bytes.
    pub cache_bytes: u64,
    /// Recent writes of the state kept in memory, in bytes; the other spaces take less.
    pub memtable_bytes: u64,
    /// Journals kept until their writes have reached the tables: bounds disk use and the time to replay at a start. At
    /// least 64 MiB.
    pub journal_bytes: u64,
}

impl Default for FjallOptions {
    fn default() -> Self {
        FjallOptions {
            cache_bytes: 48 * MIB,
            memtable_bytes: 16 * MIB,
            journal_bytes: 64 * MIB,
        }
    }
}

/// The handle to a data directory.
pub struct FjallBackend {
    engine: Arc<Engine>,
    writer: Option<Writer>,
}

struct Writer {
    jobs: Sender<Job>,
    thread: JoinHandle<Result<(), StorageError>>,
}

struct Job {
    id: BatchId,
    batch: Arc<Batch>,
    sync: bool,
}

/// Shared with the writer and with snapshots: the directory stays locked while any of them lives.
struct Engine {
    // Dropped in this order: the directory is unlocked once the engine is down.
    spaces: [Keyspace; Space::ALL.len()],
    database: Database,
    directory: Directory,
}

impl FjallBackend {
    /// Opens a data directory, or makes one. Says whether it was left in good order: if not, whatever was not synced is
    /// missing, and with `fsync` other than `always` that may have been acknowledged (rule 5).
    pub fn open(
        path: &Path,
        identity: &Identity,
        options: FjallOptions,
        notifier: Notifier,
    ) -> Result<(Self, bool), StorageError> {
        let (directory, clean) = Directory::open(path, identity)?;
        let shown = directory.shown();
        let engine = Engine::open(directory, options).map_err(|e| opening_error(&shown, &e))?;
        let engine = Arc::new(engine);
        let (jobs, inbox) = channel();
        let own = engine.clone();
        let thread = std::thread::Builder::new()
            .name("storage-writer".into())
            .spawn(move || own.write_all(&inbox, &notifier))
            .map_err(|e| StorageError::Io {
                path: shown,
                reason: e.to_string(),
            })?;
        Ok((
            FjallBackend {
                engine,
                writer: Some(Writer { jobs, thread }),
            },
            clean,
        ))
    }

    /// Lets the writer finish what it was given and waits for its end.
    fn stop(&mut self) -> Result<(), StorageError> {
        let Some(Writer { jobs, thread }) = self.writer.take() else {
            return Ok(());
        };
        drop(jobs);
        thread
            .join()
            .unwrap_or_else(|_| Err(self.engine.write_error("the writer thread panicked")))
    }
}

impl Drop for FjallBackend {
    fn drop(&mut self) {
        // Without order: a batch that the writer holds may still become durable, as in a crash. Its error has been reported.
        let _ = self.stop();
    }
}

impl Backend for FjallBackend {
    fn submit(&mut self, id: BatchId, batch: Arc<Batch>, sync: bool) {
        if let Some(writer) = &self.writer {
            // A store has one batch in flight: the queue does not grow. A writer that is gone has reported why.
            let _ = writer.jobs.send(Job { id, batch, sync });
        }
    }

    fn snapshot(&self) -> Box<dyn Reader + Send> {
        Box::new(View {
            snapshot: self.engine.database.snapshot(),
            engine: self.engine.clone(),
        })
    }

    fn close(mut self: Box<Self>) -> Result<(), StorageError> {
        self.stop()?;
        self.engine
            .database
            .persist(PersistMode::SyncAll)
            .map_err(|e| self.engine.failure(&e))?;
        self.engine.directory.mark_clean()
    }
}

impl Reader for FjallBackend {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.engine.spaces[space as usize]
            .get(key)
            .map_err(|e| self.engine.read_error(&e))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        let records = self.engine.spaces[space as usize].range::<&[u8], _>(bounds(start, end));
        Box::new(records.map(|guard| self.engine.record(guard)))
    }
}

struct View {
    snapshot: Snapshot,
    engine: Arc<Engine>,
}

impl Reader for View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.snapshot.get(&self.engine.spaces[space as usize], key);
        Ok(found
            .map_err(|e| self.engine.read_error(&e))?
            .map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        let records = self
            .snapshot
            .range::<&[u8], _>(&self.engine.spaces[space as usize], bounds(start, end));
        Box::new(records.map(|guard| self.engine.record(guard)))
    }
}

impl Engine {
    fn open(directory: Directory, options: FjallOptions) -> Result<Self, fjall::Error> {
        let database = Database::builder(directory.engine())
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes.max(64 * MIB))
            .worker_threads(2)
            .manual_journal_persist(true)
            .open()?;
        let open = |space: Space| {
            let memtable = match space {
                Space::State => options.memtable_bytes,
                Space::Log => options.memtable_bytes / 2,
                Space::Meta | Space::Certificates => MIB,
            };
            database.keyspace(space.name(), || {
                KeyspaceCreateOptions::default().max_memtable_size(memtable)
            })
        };
        let spaces = [
            open(Space::Meta)?,
            open(Space::Log)?,
            open(Space::State)?,
            open(Space::Certificates)?,
        ];
        Ok(Engine {
            spaces,
            database,
            directory,
        })
    }

    /// The writer thread: until the queue is closed, or a write fails.
    fn write_all(&self, inbox: &Receiver<Job>, notifier: &Notifier) -> Result<(), StorageError> {
        let mut state = Ok(());
        for job in inbox {
            let mut done = BatchDone {
                id: job.id,
                result: state.clone(),
                write: Duration::ZERO,
                sync: None,
            };
            if state.is_ok() {
                state = self.write(&job, &mut done);
                done.result = state.clone();
            }
            notifier(done);
        }
        state
    }

    fn write(&self, job: &Job, done: &mut BatchDone) -> Result<(), StorageError> {
        let start = SystemClock.now().mono;
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for (space, key, change) in job.batch.changes() {
            let keyspace = &self.spaces[space as usize];
            match change {
                Some(value) => batch.insert(keyspace, &key[..], &value[..]),
                None => batch.remove(keyspace, &key[..]),
            }
        }
        batch.commit().map_err(|e| self.failure(&e))?;
        done.write = SystemClock.now().mono.since(start);
        if job.sync {
            let start = SystemClock.now().mono;
            self.database
                .persist(PersistMode::SyncData)
                .map_err(|e| self.failure(&e))?;
            done.sync = Some(SystemClock.now().mono.since(start));
        }
        Ok(())
    }

    fn record(&self, guard: fjall::Guard) -> Result<(Bytes, Bytes), StorageError> {
        let (key, value) = guard.into_inner().map_err(|e| self.read_error(&e))?;
        Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
    }

    fn failure(&self, error: &fjall::Error) -> StorageError {
        if is_full(error) {
            return StorageError::Full {
                path: self.directory.shown(),
            };
        }
        self.write_error(error)
    }

    fn write_error(&self, reason: impl ToString) -> StorageError {
        StorageError::WriteFailed {
            path: self.directory.shown(),
            reason: reason.to_string(),
        }
    }

    fn read_error(&self, error: &fjall::Error) -> StorageError {
        StorageError::Io {
            path: self.directory.shown(),
            reason: error.to_string(),
        }
    }
}

fn opening_error(path: &str, error: &fjall::Error) -> StorageError {
    let path = path.to_owned();
    match error {
        fjall::Error::Locked => StorageError::Locked { path },
        error if is_full(error) => StorageError::Full { path },
        error => StorageError::Io {
            path,
            reason: error.to_string(),
        },
    }
}

fn is_full(error: &fjall::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        }
        cause = error.source();
    }
    false
}

fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let upper = match end {
        [] => Bound::Unbounded,
        end => Bound::Excluded(end.max(start)),
    };
    (Bound::Included(start), upper)
}
