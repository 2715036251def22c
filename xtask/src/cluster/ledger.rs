//! What was started, and whether it still runs.
//!
//! A number of a process says little: it is given again. So the moment when the process started (in ticks since the machine did)
//! and its program are kept with it, and nothing is signalled that differs in one of them. The ledger is written before a
//! command waits for anything, so an interrupted `up` leaves nothing behind that `down` does not know.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::patience::until;
use super::plan::{Member, Plan, Role};

const FILE: &str = "processes.json";
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// What was started in a folder.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    #[serde(skip)]
    folder: PathBuf,
    pub(crate) plan: Plan,
    pub(crate) started: Vec<Started>,
}

/// One process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) pid: i32,
    /// When it started, in ticks since the machine did.
    ticks: u64,
    program: PathBuf,
    pub(crate) address: String,
    pub(crate) metrics: String,
}

impl Ledger {
    pub(crate) fn new(folder: &Path, plan: Plan) -> Self {
        Self {
            folder: folder.to_owned(),
            plan,
            started: Vec::new(),
        }
    }

    /// As it was left; empty if there is none.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        let mut ledger = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "read {}: end what it lists by hand, then remove the file",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        ledger.folder = folder.to_owned();
        Ok(ledger)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    pub(crate) fn any_running(&self) -> bool {
        self.started.iter().any(Started::is_running)
    }

    pub(crate) fn running(&self, name: &str) -> Option<&Started> {
        self.started.iter().find(|one| one.name == name && one.is_running())
    }

    /// Starts a process, and writes down that it was.
    pub(crate) fn start(&mut self, member: &Member, program: &Path, plan: &Plan) -> Result<()> {
        let path = self.log(&member.name);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open {}", path.display()))?;
        let child = Command::new(program)
            .args(member.arguments(plan, &self.folder.join("data")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for whoever types it, not for the cluster.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let pid = i32::try_from(child.id()).context("a process without a number")?;
        let ticks = Seen::settled(pid, program);
        self.started.retain(|one| one.name != member.name);
        self.started.push(Started {
            name: member.name.clone(),
            role: member.role,
            pid,
            ticks,
            program: program.to_owned(),
            address: member.address(),
            metrics: member.metrics(),
        });
        self.save()
    }

    fn save(&self) -> Result<()> {
        let (file, draft) = (self.folder.join(FILE), self.folder.join(format!("{FILE}.new")));
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(&draft, text)
            .and_then(|()| std::fs::rename(&draft, &file))
            .with_context(|| format!("write {}", file.display()))
    }

    /// Nothing of it runs any more.
    pub(crate) fn forget(&mut self) -> Result<()> {
        self.started.clear();
        self.save()
    }
}

impl Started {
    /// Whether it is still the process that was started.
    pub(crate) fn is_running(&self) -> bool {
        Seen::of(self.pid).is_some_and(|seen| {
            !seen.has_ended && seen.ticks == self.ticks && seen.program.as_deref() == Some(self.program.as_path())
        })
    }

    /// Asks it to stop; false if it has ended.
    pub(crate) fn terminate(&self) -> bool {
        self.signal(Signal::TERM)
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) -> bool {
        let pid = Pid::from_raw(self.pid).filter(|_| self.is_running());
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }
}

/// A process as the system tells it.
struct Seen {
    ticks: u64,
    /// It is dead, and its parent has not asked how it died.
    has_ended: bool,
    /// What it was called as.
    program: Option<PathBuf>,
}

impl Seen {
    /// When a process started, once the system shows it under its own name, which takes a moment; 0 if it has ended before.
    fn settled(pid: i32, program: &Path) -> u64 {
        let settled = until(SETTLED_WITHIN, || match Seen::of(pid).filter(|seen| !seen.has_ended) {
            Some(seen) => (seen.program.as_deref() == Some(program)).then_some(seen.ticks),
            None => Some(0),
        });
        settled.unwrap_or(0)
    }

    fn of(pid: i32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // The name in parentheses may have anything in it; state is the first field behind it, the start the twentieth.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let called = std::fs::read(folder.join("cmdline")).ok()?;
        let program = called.split(|byte| *byte == 0).next().filter(|first| !first.is_empty());
        Some(Self {
            ticks: fields.get(19)?.parse().ok()?,
            has_ended: matches!(fields.first(), Some(&("Z" | "X"))),
            program: program.map(|first| PathBuf::from(String::from_utf8_lossy(first).into_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeping() -> (std::process::Child, Started) {
        let program = PathBuf::from("/bin/sleep");
        let child = Command::new(&program).arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let ticks = Seen::settled(pid, &program);
        let started = Started {
            name: "node-1".to_owned(),
            role: Role::Node,
            pid,
            ticks,
            program,
            address: String::new(),
            metrics: String::new(),
        };
        (child, started)
    }

    #[test]
    fn only_the_very_process_that_was_started_is_signalled() {
        let (mut child, started) = sleeping();
        assert!(started.is_running());
        let later = Started {
            ticks: started.ticks + 1,
            ..started.clone()
        };
        let other = Started {
            program: "/bin/cat".into(),
            ..started.clone()
        };
        for foreign in [later, other] {
            assert!(!foreign.is_running());
            assert!(!foreign.terminate());
            foreign.kill();
        }
        assert!(child.try_wait().unwrap().is_none(), "it was not ours, and was killed");
        assert!(started.terminate());
        // A zombie does not run.
        while started.is_running() {
            std::thread::yield_now();
        }
        assert!(!started.terminate());
        child.wait().unwrap();
    }

    #[test]
    fn a_ledger_is_read_back_and_one_that_is_garbage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Ledger::load(folder.path()).unwrap().started.is_empty());
        let (mut child, started) = sleeping();
        let mut ledger = Ledger::new(
            folder.path(),
            Plan {
                nodes: 5,
                ..Plan::default()
            },
        );
        ledger.started.push(started);
        ledger.save().unwrap();
        let mut read = Ledger::load(folder.path()).unwrap();
        assert_eq!((read.plan.nodes, read.any_running()), (5, true));
        assert!(read.running("node-1").is_some() && read.running("node-2").is_none());
        read.forget().unwrap();
        assert!(!Ledger::load(folder.path()).unwrap().any_running());
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Ledger::load(folder.path()).is_err());
    }
}
