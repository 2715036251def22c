//! The backend on disk, over `fjall`: one journal for all spaces, so that one fsync serves every group.
//!
//! The engine holds its journal lock through an fsync and has no group commit of its own; so all writing is done by one
//! thread, a batch at a time, and readers never wait for it. A write that fails ends the handle's life: every later batch
//! fails with the same error, and nothing is retried.

use super::backend::{Backend, BatchId, Notifier, RangeIter, Reader, Space};
use super::batch::Batch;
use super::directory::{Directory, Identity};
use super::engine::{Engine, FjallOptions, Job, Progress};
use super::error::StorageError;
use bytes::Bytes;
use fjall::{Readable, Snapshot};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// The handle to a data directory.
pub struct FjallBackend {
    engine: Arc<Engine>,
    writer: Option<Writer>,
}

struct Writer {
    jobs: Sender<Job>,
    thread: JoinHandle<Result<Progress, StorageError>>,
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
        let (engine, progress) = Engine::open(directory, options)?;
        let engine = Arc::new(engine);
        let (jobs, inbox) = channel();
        let own = engine.clone();
        let thread = std::thread::Builder::new()
            .name("storage-writer".into())
            .spawn(move || own.write_all(&inbox, &notifier, progress))
            .map_err(|e| engine.broken(e))?;
        let writer = Some(Writer { jobs, thread });
        Ok((FjallBackend { engine, writer }, clean))
    }

    /// Lets the writer finish what it was given and waits for its end.
    fn stop(&mut self) -> Result<Option<Progress>, StorageError> {
        let Some(Writer { jobs, thread }) = self.writer.take() else {
            return Ok(None);
        };
        drop(jobs);
        let ended = thread.join();
        ended
            .unwrap_or_else(|_| Err(self.engine.broken("the writer thread panicked")))
            .map(Some)
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
        match self.stop()? {
            Some(progress) => self.engine.finish(progress),
            None => Ok(()),
        }
    }
}

impl Reader for FjallBackend {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let found = self.engine.spaces[space as usize]
            .get(key)
            .map_err(|e| self.engine.failure(&e))?;
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
            .map_err(|e| self.engine.failure(&e))?
            .map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        let records = self
            .snapshot
            .range::<&[u8], _>(&self.engine.spaces[space as usize], bounds(start, end));
        Box::new(records.map(|guard| self.engine.record(guard)))
    }
}

fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    let upper = match end {
        [] => Bound::Unbounded,
        end => Bound::Excluded(end.max(start)),
    };
    (Bound::Included(start), upper)
}
