//! Child processes: their output is ours, their exit codes are ours, and they do not outlive us.
//!
//! Each child leads a process group of its own. A first Ctrl-C, SIGTERM or SIGHUP asks the whole group to stop, a second
//! one kills it, and what is left when its leader ends is killed too; killing `cargo` alone would leave behind the test binary that it started. Spawning and signalling hold
//! one lock, so no child can slip between them. Children get no stdin: nothing here asks questions.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

struct State {
    /// Of the children that run.
    groups: Vec<Pid>,
    signal: Option<i32>,
}

static STATE: Mutex<State> = Mutex::new(State {
    groups: Vec::new(),
    signal: None,
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, signals that ask us to stop reach the whole groups of the running children.
pub(crate) fn forward_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("install the signal handlers")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(on_signal))
        .context("start the signal thread")?;
    Ok(())
}

fn on_signal(number: i32) {
    let mut state = state();
    let again = state.signal.replace(number).is_some();
    if state.groups.is_empty() {
        std::process::exit(i32::from(exit_code_of_signal(number)));
    }
    // Shells start background children deaf to SIGINT, so whatever stopped us, the group is asked with SIGTERM.
    let signal = if again { Signal::KILL } else { Signal::TERM };
    for group in &state.groups {
        // The group may be gone already; then there is nothing left to stop.
        let _ = kill_process_group(*group, signal);
    }
}

/// The exit code that says which signal stopped us, if one did.
pub(crate) fn interrupted() -> Option<u8> {
    state().signal.map(exit_code_of_signal)
}

fn exit_code_of_signal(number: i32) -> u8 {
    128_u8.saturating_add(u8::try_from(number).unwrap_or(0))
}

/// Runs a command to its end and returns its exit code.
pub(crate) fn run(command: &mut Command) -> Result<u8> {
    let mut child = spawn(command)?;
    finish(&mut child)
}

/// As [`run`], and shows every line of its standard output to `observe` after printing it.
pub(crate) fn run_observed(command: &mut Command, mut observe: impl FnMut(&str)) -> Result<u8> {
    let mut child = spawn(command.stdout(Stdio::piped()))?;
    if let Some(stdout) = child.stdout.take() {
        let mut ours = std::io::stdout().lock();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("read the output of a child")?;
            ours.write_all(&line)
                .and_then(|()| ours.write_all(b"\n"))
                .context("pass on the output of a child")?;
            observe(&String::from_utf8_lossy(&line));
        }
    }
    finish(&mut child)
}

/// The standard output of a command that must succeed.
pub(crate) fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let child = spawn(command.stdout(Stdio::piped()))?;
    let group = group_of(&child);
    let output = child.wait_with_output();
    leave_group(group);
    let output = output.with_context(|| format!("read the output of {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed with exit code {}", shown(command), exit_code(output.status));
    }
    Ok(output.stdout)
}

fn spawn(command: &mut Command) -> Result<Child> {
    let mut state = state();
    if state.signal.is_some() {
        bail!("interrupted");
    }
    let child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
    state.groups.extend(group_of(&child));
    Ok(child)
}

fn finish(child: &mut Child) -> Result<u8> {
    let status = child.wait();
    leave_group(group_of(child));
    Ok(exit_code(status.context("wait for a child")?))
}

/// The group's leader has ended. After a signal, the others must not outlive it.
fn leave_group(group: Option<Pid>) {
    let mut state = state();
    state.groups.retain(|one| Some(*one) != group);
    if let Some(group) = group.filter(|_| state.signal.is_some()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// A child leads a group of its own.
fn group_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// A child that runs beside others. It is killed, with its group, when this is dropped.
pub(crate) struct Background {
    child: Child,
}

impl Background {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        spawn(command).map(|child| Self { child })
    }

    /// Whether it has ended; then its exit code.
    pub(crate) fn ended(&mut self) -> Result<Option<u8>> {
        Ok(self.child.try_wait().context("look after a child")?.map(exit_code))
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Result<u8> {
        self.child.wait().context("wait for a child").map(exit_code)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let group = group_of(&self.child);
        if let (Ok(None), Some(group)) = (self.child.try_wait(), group) {
            let _ = kill_process_group(group, Signal::KILL);
            // It is dead, or dies now.
            let _ = self.child.wait();
        }
        leave_group(group);
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => exit_code_of_signal(signal),
        (None, None) => 1,
    }
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_typed() {
        assert_eq!(
            shown(Command::new("/opt/bin/cargo").args(["fmt", "--all"])),
            "cargo fmt --all"
        );
    }

    #[test]
    fn a_child_beside_others_is_waited_for_or_killed() {
        let mut quick = Background::start(Command::new("/bin/sh").args(["-c", "exit 3"])).unwrap();
        while quick.ended().unwrap().is_none() {
            thread::yield_now();
        }
        assert_eq!(quick.wait().unwrap(), 3);
        let slow = Background::start(Command::new("/bin/sleep").arg("60")).unwrap();
        let group = group_of(&slow.child).unwrap();
        assert!(state().groups.contains(&group));
        drop(slow);
        assert!(!state().groups.contains(&group));
        assert!(
            kill_process_group(group, Signal::KILL).is_err(),
            "it outlived its handle"
        );
    }

    #[test]
    fn a_death_by_signal_has_the_shells_exit_code() {
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
    }
}
