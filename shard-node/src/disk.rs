//! Whether the disk keeps up: "no zombies" (DESIGN section 5). A node whose fsync hangs must not renew its lease.
//!
//! Every batch on its way to the storage writer is timed here. While nothing is written a small file in the data directory
//! is written and synced now and then, so that a disk that died in silence is noticed before the next write needs it.

use crate::storage::{Backend, Batch, BatchDone, BatchId, RangeIter, Reader, Space, StorageError};
use bytes::Bytes;
use fulcrum_common::Clock;
use fulcrum_types::Mono;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A disk that was not heard of for so long is probed.
const PROBE_AFTER: Duration = Duration::from_secs(1);
const PROBE_FILE: &str = "probe";

#[derive(Default)]
struct Seen {
    /// Since when a write has been under way, if one is.
    under_way: Option<Mono>,
    probing: Option<Mono>,
    last_done: Mono,
}

/// Times the disk. Shared by the event loop and the storage writer.
pub(crate) struct DiskWatch {
    clock: Arc<dyn Clock>,
    overdue: Duration,
    probe: PathBuf,
    seen: Mutex<Seen>,
    probe_failed: AtomicBool,
    probes: AtomicU64,
}

impl DiskWatch {
    pub(crate) fn new(clock: Arc<dyn Clock>, data_dir: &Path, overdue: Duration) -> Arc<Self> {
        let seen = Seen {
            last_done: clock.now().mono,
            ..Seen::default()
        };
        Arc::new(Self {
            clock,
            overdue,
            probe: data_dir.join(PROBE_FILE),
            seen: Mutex::new(seen),
            probe_failed: AtomicBool::new(false),
            probes: AtomicU64::new(0),
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer has done a batch.
    pub(crate) fn done(&self) {
        let mut seen = self.seen();
        seen.under_way = None;
        seen.last_done = self.clock.now().mono;
    }

    /// Whether nothing is overdue.
    pub(crate) fn is_healthy(&self, now: Mono) -> bool {
        let seen = self.seen();
        let overdue = |since: Option<Mono>| since.is_some_and(|since| now.since(since) > self.overdue);
        !overdue(seen.under_way) && !overdue(seen.probing) && !self.probe_failed.load(Ordering::Relaxed)
    }

    /// Probes the disk if it was not heard of lately. Must be called within a runtime, now and then.
    pub(crate) fn probe_if_idle(self: &Arc<Self>, now: Mono) {
        let mut seen = self.seen();
        if seen.probing.is_some() || seen.under_way.is_some() || now.since(seen.last_done) < PROBE_AFTER {
            return;
        }
        seen.probing = Some(now);
        drop(seen);
        let watch = self.clone();
        tokio::task::spawn_blocking(move || watch.run_probe());
    }

    fn run_probe(&self) {
        let number = self.probes.fetch_add(1, Ordering::Relaxed);
        let result = std::fs::File::create(&self.probe)
            .and_then(|mut file| file.write_all(&number.to_be_bytes()).and_then(|()| file.sync_data()));
        if let Err(error) = &result {
            tracing::error!(file = %self.probe.display(), %error, "the disk does not take a probe: no lease is renewed");
        }
        self.probe_failed.store(result.is_err(), Ordering::Relaxed);
        let mut seen = self.seen();
        seen.probing = None;
        seen.last_done = self.clock.now().mono;
    }
}

/// A backend whose writes are timed.
pub(crate) struct Watched<B> {
    pub(crate) backend: B,
    pub(crate) watch: Arc<DiskWatch>,
}

impl<B: Backend> Backend for Watched<B> {
    fn submit(&mut self, id: BatchId, batch: Arc<Batch>, sync: bool) {
        self.watch.seen().under_way = Some(self.watch.clock.now().mono);
        self.backend.submit(id, batch, sync);
    }

    fn snapshot(&self) -> Box<dyn Reader + Send> {
        self.backend.snapshot()
    }

    fn close(self: Box<Self>) -> Result<(), StorageError> {
        Box::new(self.backend).close()
    }
}

impl<B: Backend> Reader for Watched<B> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.backend.get(space, key)
    }

    fn range<'a>(&'a self, space: Space, start: &[u8], end: &[u8]) -> RangeIter<'a> {
        self.backend.range(space, start, end)
    }
}

/// What the storage writer calls when a batch is done.
pub(crate) fn notifier(
    watch: Arc<DiskWatch>,
    notify: impl Fn(BatchDone) + Send + Sync + 'static,
) -> crate::storage::Notifier {
    Arc::new(move |done| {
        watch.done();
        notify(done);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryDisk;
    use fulcrum_common::ManualClock;
    use fulcrum_types::Now;

    fn watch(clock: &Arc<ManualClock>, directory: &Path) -> Arc<DiskWatch> {
        DiskWatch::new(clock.clone(), directory, Duration::from_millis(500))
    }

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::new(Now {
            mono: Mono(1),
            wall_ms: 0,
        }))
    }

    #[test]
    fn a_write_that_hangs_makes_the_disk_unhealthy_until_it_returns() {
        let clock = clock();
        let directory = tempfile::tempdir().unwrap();
        let watch = watch(&clock, directory.path());
        let disk = MemoryDisk::new();
        let report = notifier(watch.clone(), |_| {});
        let (backend, _) = disk.open(report.clone());
        let mut backend = Watched {
            backend,
            watch: watch.clone(),
        };
        backend.submit(BatchId(1), Arc::new(Batch::default()), true);
        clock.advance(Duration::from_millis(400));
        assert!(watch.is_healthy(clock.now().mono));
        clock.advance(Duration::from_millis(200));
        assert!(!watch.is_healthy(clock.now().mono));
        report(disk.complete().unwrap());
        assert!(watch.is_healthy(clock.now().mono));
    }

    #[tokio::test]
    async fn an_idle_disk_is_probed() {
        let clock = clock();
        let directory = tempfile::tempdir().unwrap();
        let watch = watch(&clock, directory.path());
        watch.probe_if_idle(clock.now().mono);
        assert_eq!(watch.probes.load(Ordering::Relaxed), 0);
        clock.advance(Duration::from_secs(2));
        watch.run_probe();
        assert!(directory.path().join(PROBE_FILE).exists() && watch.is_healthy(clock.now().mono));
        // A directory that is gone takes no probe.
        drop(directory);
        watch.run_probe();
        assert!(!watch.is_healthy(clock.now().mono));
    }
}
