//! Progress of long work: a bar where there is a terminal, now and then a plain line where there is none.

use crate::render::{count, rate};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_types::Mono;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress, shown on standard error.
pub struct Progress {
    label: String,
    bar: Option<ProgressBar>,
    /// The bar counts bytes of a file or parts of the whole, and items stand beside it.
    beside: bool,
    began: Mono,
    state: Mutex<State>,
}

struct State {
    done: u64,
    total: Option<u64>,
    last_line: Mono,
}

impl Progress {
    /// Begins to show progress of `total` items, if that is known.
    #[must_use]
    pub fn start(label: &str, total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{prefix} {bar:40.cyan/dim} {human_pos}/{human_len} {per_sec} {eta}",
            None => "{prefix} {spinner} {human_pos} {per_sec}",
        };
        Self::with(label, template, total, false)
    }

    /// Begins to show progress through so many parts, of whose items nobody knows how many there are.
    #[must_use]
    pub fn of_parts(label: &str, parts: u64) -> Self {
        let template = "{prefix} {bar:40.cyan/dim} {human_pos}/{human_len} {msg} {eta}";
        Self::with(label, template, Some(parts), true)
    }

    /// Begins to show progress of reading a file of so many bytes.
    #[must_use]
    pub fn of_file(label: &str, bytes: Option<u64>) -> Self {
        match bytes {
            Some(_) => Self::with(
                label,
                "{prefix} {bar:40.cyan/dim} {bytes}/{total_bytes} {msg} {eta}",
                bytes,
                true,
            ),
            None => Self::start(label, None),
        }
    }

    fn with(label: &str, template: &str, length: Option<u64>, beside: bool) -> Self {
        let now = SystemClock.now().mono;
        let bar = io::stderr().is_terminal().then(|| bar(label, template, length));
        let total = length.filter(|_| !beside);
        Progress {
            label: label.to_owned(),
            bar,
            beside,
            began: now,
            state: Mutex::new(State {
                done: 0,
                total,
                last_line: now,
            }),
        }
    }

    /// Counts items done.
    pub fn add(&self, items: u64) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.done += items;
        match &self.bar {
            Some(bar) if self.beside => return bar.set_message(format!("{} records", count(state.done))),
            Some(bar) => return bar.set_position(state.done),
            None => {}
        }
        let now = SystemClock.now().mono;
        if now.since(state.last_line) >= LINE_EVERY {
            state.last_line = now;
            let of = state
                .total
                .map_or(String::new(), |total| format!(" of {}", count(total)));
            let speed = rate(state.done, now.since(self.began));
            // Nobody is left to be told if standard error is closed.
            let _ = writeln!(io::stderr(), "{}: {}{of} ({speed}/s)", self.label, count(state.done));
        }
    }

    /// Bytes of the file that are read, or parts that are done.
    pub fn read_so_far(&self, done: u64) {
        if let Some(bar) = self.bar.as_ref().filter(|_| self.beside) {
            bar.set_position(done);
        }
    }

    /// Does something, such as writing a line, while the bar is out of the way.
    pub fn hidden<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }

    /// Ends it; says how long it took.
    pub fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        SystemClock.now().mono.since(self.began)
    }
}

fn bar(label: &str, template: &str, length: Option<u64>) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_prefix(label.to_owned());
    bar
}
