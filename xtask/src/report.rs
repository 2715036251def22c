//! What a command prints around its steps: a heading before each, its time after it, and a table at the end.
//!
//! A failed step does not stop the next: one run shows all that is wrong. An interruption does.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process;

struct Step {
    name: String,
    took: Duration,
    code: u8,
}

/// The steps of one command.
pub(crate) struct Report {
    command: &'static str,
    steps: Vec<Step>,
}

impl Report {
    pub(crate) fn new(command: &'static str) -> Report {
        Report {
            command,
            steps: Vec::new(),
        }
    }

    /// Runs one step; its exit code is kept, an error counts as exit code 1.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<u8>) -> Result<()> {
        println!("\n=== {}: {name}", self.command);
        let started = now();
        let outcome = work();
        if process::interrupted().is_some() {
            bail!("{} interrupted during: {name}", self.command);
        }
        let code = outcome.unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            1
        });
        let took = started.elapsed();
        println!("=== {}: {name}: {} in {}", self.command, verdict(code), seconds(took));
        self.steps.push(Step {
            name: name.to_owned(),
            took,
            code,
        });
        Ok(())
    }

    /// Prints the table and returns the exit code: that of the first step that failed.
    pub(crate) fn finish(self) -> u8 {
        println!("\n{}", self.table());
        self.steps
            .iter()
            .map(|step| step.code)
            .find(|code| *code != 0)
            .unwrap_or(0)
    }

    fn table(&self) -> String {
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let failed = self.steps.iter().filter(|step| step.code != 0).count();
        let total = self.steps.iter().map(|step| step.took).sum();
        let mut text = String::new();
        for step in &self.steps {
            text += &format!(
                "  {:width$}  {:6}  {:>8}\n",
                step.name,
                verdict(step.code),
                seconds(step.took)
            );
        }
        text += &format!(
            "{}: {} of {} steps passed in {}",
            self.command,
            self.steps.len() - failed,
            self.steps.len(),
            seconds(total)
        );
        text
    }
}

fn verdict(code: u8) -> &'static str {
    if code == 0 { "ok" } else { "FAILED" }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[allow(
    clippy::disallowed_methods,
    reason = "how long a step took is for a reader; nothing is decided by it"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_gives_the_exit_code_and_the_rest_still_run() {
        let mut report = Report::new("verify");
        report.step("format", || Ok(0)).unwrap();
        report.step("clippy", || Ok(101)).unwrap();
        report.step("tidy", || anyhow::bail!("planted")).unwrap();
        assert!(
            report.table().contains("verify: 1 of 3 steps passed"),
            "{}",
            report.table()
        );
        assert_eq!(report.finish(), 101);
    }
}
