//! Faults that a node makes itself, where the machine cannot be made to: fsyncs that hang or fail, a wall clock that jumps.
//!
//! Off unless the setting `failpoints` names a file; then a line of the log says so, loudly, for no node that matters may run so. The file is read
//! again all the time, and a line of it is a fault for as long as it stands there:
//!
//! | line | fault |
//! | --- | --- |
//! | `sync stall` | an fsync does not come back until the line is gone |
//! | `sync error` | an fsync fails, which ends the node |
//! | `clock N` | the wall clock is off by so many seconds, ahead or behind |
//!
//! What is in force, and what has met an fsync, is written to the file of the same name with `.seen` behind it (`set sync stall`, `met sync
//! stall`), so that whoever asked for a fault can see that it is there.
//!
//! Faults of an fsync are put between the storage writer and the node: the data may be on disk all the same, as after a real one.

use crate::storage::{BatchDone, Notifier, StorageError};
use fulcrum_common::Clock;
use fulcrum_types::Now;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

const READ_EVERY: Duration = Duration::from_millis(10);

/// What an fsync meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sync {
    #[default]
    Passes,
    Stalls,
    Fails,
}

/// What the file asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    sync: Sync,
    clock_seconds: i64,
}

#[derive(Default)]
struct State {
    asked: Asked,
    /// An fsync has met what is asked.
    met: bool,
}

/// The faults of one node.
pub(crate) struct Failpoints {
    file: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    clock_seconds: AtomicI64,
    /// Lines that make no sense, counted so that each set of them is told once.
    refused: AtomicU64,
}

/// Reads the file until it is dropped; then nothing is in force any more.
pub(crate) struct Reading {
    failpoints: Arc<Failpoints>,
    _task: AbortOnDropHandle<()>,
}

impl Failpoints {
    /// As the setting says. Must be called within a runtime.
    pub(crate) fn of(setting: Option<&Path>) -> Option<(Arc<Self>, Reading)> {
        let file = setting?.to_owned();
        tracing::warn!(file = %file.display(), "FAILPOINTS ARE ON: this node makes faults when the file says so; never use it for data that matters");
        let failpoints = Arc::new(Self {
            file,
            state: Mutex::default(),
            changed: Condvar::new(),
            clock_seconds: AtomicI64::new(0),
            refused: AtomicU64::new(0),
        });
        failpoints.read(true);
        let reader = failpoints.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(READ_EVERY).await;
                reader.read(false);
            }
        });
        let reading = Reading {
            failpoints: failpoints.clone(),
            _task: AbortOnDropHandle::new(task),
        };
        Some((failpoints, reading))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, first: bool) {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let (asked, nonsense) = parse(&text);
        if self.refused.swap(nonsense, Ordering::Relaxed) != nonsense && nonsense > 0 {
            tracing::error!(file = %self.file.display(), lines = nonsense, "these lines are no failpoints: use `sync stall`, `sync error` or `clock SECONDS`");
        }
        let mut state = self.state();
        if state.asked == asked && !first {
            return;
        }
        if state.asked != asked {
            tracing::warn!(?asked, "failpoints");
        }
        *state = State { asked, met: false };
        self.clock_seconds.store(asked.clock_seconds, Ordering::Relaxed);
        self.tell(&state);
        self.changed.notify_all();
    }

    /// Writes down what is in force.
    fn tell(&self, state: &State) {
        let mut text = String::new();
        let sync = match state.asked.sync {
            Sync::Passes => None,
            Sync::Stalls => Some("sync stall"),
            Sync::Fails => Some("sync error"),
        };
        if let Some(sync) = sync {
            // Writing to a string does not fail.
            let _ = writeln!(text, "set {sync}");
            if state.met {
                let _ = writeln!(text, "met {sync}");
            }
        }
        if state.asked.clock_seconds != 0 {
            let _ = writeln!(text, "set clock {}", state.asked.clock_seconds);
        }
        let (seen, draft) = (self.file.with_extension("seen"), self.file.with_extension("seen-new"));
        let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &seen));
        if let Err(error) = written {
            tracing::error!(file = %seen.display(), %error, "cannot write which failpoints are in force");
        }
    }

    /// What the storage writer calls instead, on its own thread.
    pub(crate) fn before(self: &Arc<Self>, notify: Notifier) -> Notifier {
        let failpoints = self.clone();
        Arc::new(move |done: BatchDone| notify(failpoints.meet(done)))
    }

    fn meet(&self, mut done: BatchDone) -> BatchDone {
        if done.sync.is_none() || done.result.is_err() {
            return done;
        }
        let mut state = self.state();
        if state.asked.sync != Sync::Passes && !state.met {
            state.met = true;
            self.tell(&state);
        }
        while state.asked.sync == Sync::Stalls {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.asked.sync == Sync::Fails {
            done.result = Err(StorageError::WriteFailed {
                path: self.file.display().to_string(),
                reason: "a failpoint lets fsync fail".to_owned(),
            });
        }
        done
    }

    /// The clock that the node goes by.
    pub(crate) fn clock(self: &Arc<Self>, clock: Arc<dyn Clock>) -> Arc<dyn Clock> {
        Arc::new(JumpingClock {
            clock,
            failpoints: self.clone(),
        })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // An fsync that hangs must not keep a node from ending.
        self.failpoints.state().asked = Asked::default();
        self.failpoints.changed.notify_all();
    }
}

/// What is asked, and how many lines make no sense.
fn parse(text: &str) -> (Asked, u64) {
    let mut asked = Asked::default();
    let mut nonsense = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match (line, line.strip_prefix("clock ").map(str::parse)) {
            ("sync stall", _) => asked.sync = Sync::Stalls,
            ("sync error", _) => asked.sync = Sync::Fails,
            (_, Some(Ok(seconds))) => asked.clock_seconds = seconds,
            _ => nonsense += 1,
        }
    }
    (asked, nonsense)
}

/// A clock whose wall time is off.
struct JumpingClock {
    clock: Arc<dyn Clock>,
    failpoints: Arc<Failpoints>,
}

impl Clock for JumpingClock {
    fn now(&self) -> Now {
        let now = self.clock.now();
        let off = self
            .failpoints
            .clock_seconds
            .load(Ordering::Relaxed)
            .saturating_mul(1_000);
        Now {
            wall_ms: now.wall_ms.saturating_add_signed(off),
            ..now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::BatchId;
    use fulcrum_common::ManualClock;
    use fulcrum_types::Mono;
    use std::sync::mpsc::channel;
    use tempfile::TempDir;

    fn made() -> (TempDir, PathBuf, Arc<Failpoints>, Reading) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node-1");
        let (failpoints, reading) = Failpoints::of(Some(&file)).unwrap();
        (folder, file, failpoints, reading)
    }

    fn done() -> BatchDone {
        BatchDone {
            id: BatchId(1),
            result: Ok(()),
            write: Duration::ZERO,
            sync: Some(Duration::ZERO),
        }
    }

    fn seen(file: &Path) -> String {
        std::fs::read_to_string(file.with_extension("seen")).unwrap()
    }

    /// Sets what the file says, and has it read.
    fn set(failpoints: &Failpoints, lines: &str) {
        std::fs::write(&failpoints.file, lines).unwrap();
        failpoints.read(false);
    }

    #[tokio::test]
    async fn without_the_setting_there_are_none() {
        assert!(Failpoints::of(None).is_none());
    }

    #[tokio::test]
    async fn an_fsync_hangs_until_the_line_is_gone() {
        let (_folder, file, failpoints, _reading) = made();
        assert_eq!(seen(&file), "");
        set(&failpoints, "sync stall\n");
        assert_eq!(seen(&file), "set sync stall\n");
        let (say, said) = channel();
        let notify = failpoints.before(Arc::new(move |done| say.send(done).unwrap()));
        let writer = std::thread::spawn(move || notify(done()));
        while !seen(&file).contains("met sync stall") {
            std::thread::yield_now();
        }
        assert!(said.try_recv().is_err(), "it has come back");
        set(&failpoints, "");
        assert_eq!(said.recv().unwrap().result, Ok(()));
        writer.join().unwrap();
        assert_eq!(seen(&file), "");
    }

    #[tokio::test]
    async fn a_node_that_ends_does_not_wait_for_an_fsync_that_hangs() {
        let (_folder, file, failpoints, reading) = made();
        set(&failpoints, "sync stall");
        let notify = failpoints.before(Arc::new(|_| {}));
        let writer = std::thread::spawn(move || notify(done()));
        while !seen(&file).contains("met") {
            std::thread::yield_now();
        }
        drop(reading);
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn an_fsync_fails_and_what_is_not_synced_meets_nothing() {
        let (_folder, file, failpoints, _reading) = made();
        set(&failpoints, "sync error");
        let unsynced = BatchDone { sync: None, ..done() };
        assert_eq!(failpoints.meet(unsynced).result, Ok(()));
        assert!(!seen(&file).contains("met"));
        assert!(failpoints.meet(done()).result.is_err());
        assert!(seen(&file).contains("met sync error"));
    }

    #[tokio::test]
    async fn wall_time_jumps_and_the_other_clock_does_not() {
        let (_folder, file, failpoints, _reading) = made();
        let machine = Arc::new(ManualClock::new(Now {
            mono: Mono(7),
            wall_ms: 10_000_000,
        }));
        let clock = failpoints.clock(machine);
        set(&failpoints, "clock -3600\nnonsense");
        assert_eq!(seen(&file), "set clock -3600\n");
        assert_eq!((clock.now().wall_ms, clock.now().mono), (6_400_000, Mono(7)));
        set(&failpoints, "clock 60");
        assert_eq!(clock.now().wall_ms, 10_060_000);
        assert_eq!(failpoints.refused.load(Ordering::Relaxed), 0);
    }
}
