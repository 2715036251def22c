//! Tells what happens while it happens: on standard output, or on standard error if that is kept for JSON.

use crate::context::note;
use crate::exit::Failure;
use crate::progress::Progress;
use crate::render::Paint;

/// The teller.
#[derive(Clone, Copy)]
pub(super) struct Story {
    json: bool,
    pub(super) paint: Paint,
}

impl Story {
    pub(super) fn new(json: bool) -> Self {
        let paint = if json { Paint::for_stderr() } else { Paint::for_stdout() };
        Story { json, paint }
    }

    /// A chapter: its number, its name, and what it is about.
    pub(super) fn chapter(&self, number: u32, name: &str, about: &str) -> Result<(), Failure> {
        let head = self.paint.bold(&format!("{number}/7 {name}"));
        self.say(&format!("\n{head}  {}", self.paint.dim(about)))
    }

    /// A line.
    pub(super) fn say(&self, text: &str) -> Result<(), Failure> {
        if self.json {
            note(text);
            return Ok(());
        }
        crate::context::print(&format!("{text}\n"))
    }

    /// A line of a chapter, at so many seconds of the load if that is given.
    pub(super) fn line(&self, at: Option<f64>, text: &str) -> Result<(), Failure> {
        match at {
            Some(at) => self.say(&format!("  {} {text}", self.paint.dim(&format!("{at:6.2} s")))),
            None => self.say(&format!("  {text}")),
        }
    }

    /// A line while a progress bar is shown.
    pub(super) fn beside(&self, progress: &Progress, at: Option<f64>, text: &str) -> Result<(), Failure> {
        progress.hidden(|| self.line(at, text))
    }
}
