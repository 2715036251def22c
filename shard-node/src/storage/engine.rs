//! The engine of a data directory: how it is opened, written and read, and what its errors mean to an operator.

use super::backend::{BatchDone, BatchId, Notifier, Space};
use super::batch::Batch;
use super::directory::{Directory, is_full};
use super::error::StorageError;
use super::journal::{self, MARK_KEY, Mark};
use super::layout;
use super::watermark::Watermark;
use bytes::Bytes;
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use fulcrum_common::clock::{Clock, SystemClock};
use std::any::Any;
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// The engine's own name for where marks are kept; not a [`Space`], since it is not the store's business.
const MARKS: &str = "marks";
/// Memtables that may wait to be flushed. The engine stops for good at four if its flushing has failed.
const MEMTABLES_WAITING_MAX: usize = 1;
const FLUSH_POLL: Duration = Duration::from_millis(2);

/// How much memory the engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FjallOptions {
    /// Cached blocks of all spaces, in bytes.
    pub cache_bytes: u64,
    /// Recent writes of the state, and as much of the log, kept in memory, in bytes; the other spaces take less.
    pub memtable_bytes: u64,
    /// Journals kept until their writes have reached the tables: bounds disk use and the time to replay at a start. At
    /// least 64 MiB.
    pub journal_bytes: u64,
}

impl Default for FjallOptions {
    fn default() -> Self {
        FjallOptions {
            cache_bytes: 32 * MIB,
            memtable_bytes: 8 * MIB,
            journal_bytes: 64 * MIB,
        }
    }
}

/// One batch to write.
pub(super) struct Job {
    pub(super) id: BatchId,
    pub(super) batch: Arc<Batch>,
    pub(super) sync: bool,
}

/// How far the journal has come. Owned by whoever writes.
pub(super) struct Progress {
    /// Number of the last batch written.
    last: u64,
    watermark: Watermark,
}

/// Shared by the backend, the writer and snapshots: the directory stays locked while any of them lives.
pub(super) struct Engine {
    // Dropped in this order: the directory is unlocked once the engine is down.
    pub(super) spaces: [Keyspace; Space::ALL.len()],
    marks: Keyspace,
    pub(super) database: Database,
    directory: Directory,
}

impl Engine {
    /// Opens the store of a directory, or makes one. Cuts a torn tail; refuses what lost anything that was synced.
    pub(super) fn open(directory: Directory, options: FjallOptions) -> Result<(Self, Progress), StorageError> {
        let mut watermark = Watermark::open(&directory)?;
        layout::check(&directory, watermark.through())?;
        journal::repair(&directory, &mut watermark)?;
        // The engine panics on some damage. It holds nothing yet that could be left half done.
        let opened = catch_unwind(AssertUnwindSafe(|| start(&directory.engine(), options)));
        let (database, spaces, marks) = opened
            .map_err(|panic| directory.corrupt(&directory.engine(), message(&*panic)))?
            .map_err(|e| failure(&directory, &e))?;
        let engine = Engine {
            spaces,
            marks,
            database,
            directory,
        };
        let found = engine.marks.get(MARK_KEY).map_err(|e| engine.failure(&e))?;
        let found = found.and_then(|record| Mark::decode(&record, engine.directory.tag()));
        let last = Mark::check(found, watermark.through(), &engine.directory)?;
        Ok((engine, Progress { last, watermark }))
    }

    /// The writer thread: until the queue is closed, or a write fails.
    pub(super) fn write_all(
        &self,
        inbox: &Receiver<Job>,
        notifier: &Notifier,
        mut progress: Progress,
    ) -> Result<Progress, StorageError> {
        let mut state = Ok(());
        for job in inbox {
            let mut done = BatchDone {
                id: job.id,
                result: state.clone(),
                write: Duration::ZERO,
                sync: None,
            };
            if state.is_ok() {
                state = self.write(&job, &mut progress, &mut done);
                done.result = state.clone();
            }
            notifier(done);
        }
        state.map(|()| progress)
    }

    fn write(&self, job: &Job, progress: &mut Progress, done: &mut BatchDone) -> Result<(), StorageError> {
        let start = SystemClock.now().mono;
        self.wait_for_flushes()?;
        let mark = Mark {
            number: progress.last + 1,
            synced: progress.watermark.through(),
            sequence: self.database.seqno(),
        };
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        batch.insert(&self.marks, &MARK_KEY[..], &mark.encode(self.directory.tag())[..]);
        for (space, key, change) in job.batch.changes() {
            let keyspace = &self.spaces[space as usize];
            match change {
                Some(value) => batch.insert(keyspace, &key[..], &value[..]),
                None => batch.remove(keyspace, &key[..]),
            }
        }
        batch.commit().map_err(|e| self.failure(&e))?;
        progress.last = mark.number;
        done.write = SystemClock.now().mono.since(start);
        if job.sync {
            let start = SystemClock.now().mono;
            self.persist(PersistMode::SyncData)?;
            done.sync = Some(SystemClock.now().mono.since(start));
            let raised = progress.watermark.raise(mark.number);
            raised.map_err(|e| self.directory.io_error(e))?;
        }
        Ok(())
    }

    /// The engine waits for its flushes inside a commit, for ever if they have failed. So wait here, and look.
    #[expect(
        clippy::disallowed_methods,
        reason = "on the writer's own thread, which has nothing else to do"
    )]
    fn wait_for_flushes(&self) -> Result<(), StorageError> {
        while self.waiting_memtables() > MEMTABLES_WAITING_MAX {
            self.persist(PersistMode::Buffer)?;
            std::thread::sleep(FLUSH_POLL);
        }
        Ok(())
    }

    fn waiting_memtables(&self) -> usize {
        let keyspaces = self.spaces.iter().chain([&self.marks]);
        keyspaces
            .map(|keyspace| keyspace.tree.sealed_memtable_count())
            .max()
            .unwrap_or_default()
    }

    fn persist(&self, mode: PersistMode) -> Result<(), StorageError> {
        self.database.persist(mode).map_err(|e| self.failure(&e))
    }

    /// Ends in good order.
    pub(super) fn finish(&self, progress: Progress) -> Result<(), StorageError> {
        self.persist(PersistMode::SyncAll)?;
        let Progress { last, mut watermark } = progress;
        watermark.settle(last).map_err(|e| self.directory.io_error(e))?;
        self.directory.mark_clean()
    }

    pub(super) fn record(&self, guard: fjall::Guard) -> Result<(Bytes, Bytes), StorageError> {
        let (key, value) = guard.into_inner().map_err(|e| self.failure(&e))?;
        Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
    }

    pub(super) fn failure(&self, error: &fjall::Error) -> StorageError {
        failure(&self.directory, error)
    }

    pub(super) fn broken(&self, reason: impl ToString) -> StorageError {
        StorageError::WriteFailed {
            path: self.directory.shown(),
            reason: reason.to_string(),
        }
    }
}

type Started = (Database, [Keyspace; Space::ALL.len()], Keyspace);

fn start(store: &Path, options: FjallOptions) -> Result<Started, fjall::Error> {
    let database = Database::builder(store)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes.max(64 * MIB))
        // With two, one spins while the other compacts: it takes the request for a compaction and puts it back, again and again.
        .worker_threads(1)
        .manual_journal_persist(true)
        .open()?;
    let open = |name: &str, memtable: u64| {
        database.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable))
    };
    let small = MIB.min(options.memtable_bytes);
    let spaces = [
        open(Space::Meta.name(), small)?,
        open(Space::Log.name(), options.memtable_bytes)?,
        open(Space::State.name(), options.memtable_bytes)?,
        open(Space::Certificates.name(), small)?,
    ];
    let marks = open(MARKS, small)?;
    Ok((database, spaces, marks))
}

/// What an error of the engine means to an operator.
fn failure(directory: &Directory, error: &fjall::Error) -> StorageError {
    use fjall::Error as E;
    let path = directory.shown();
    match error {
        E::Locked => StorageError::Locked { path },
        // The engine does not say what its own threads failed at.
        E::Poisoned if directory.is_full() => StorageError::Full { path },
        E::Poisoned => StorageError::WriteFailed {
            path,
            reason: "the engine's background work failed".into(),
        },
        error => match io_cause(error) {
            Some(io) if is_full(io) => StorageError::Full { path },
            Some(io) if !is_damage(io) => StorageError::Io {
                path,
                reason: error.to_string(),
            },
            _ => directory.corrupt(&directory.engine(), error.to_string()),
        },
    }
}

fn io_cause(error: &fjall::Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

/// Files that end early, make no sense or are gone: the device answered, but not with what was written.
fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, Other, UnexpectedEof};
    matches!(
        error.kind(),
        UnexpectedEof | InvalidData | InvalidInput | NotFound | Other
    )
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("the engine cannot make sense of it").to_owned()
}
