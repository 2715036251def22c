//! Processes: how each is started, signalled, seen and ended.

use super::super::{Condition, Member, Signal};
use super::folder::Folder;
use super::{Links, Setup};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const CLUSTER: &str = "chaos";
const PROBE_WITHIN: Duration = Duration::from_secs(1);
const LONGEST_ANSWER: u64 = 64 * 1024;
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Where a member serves, and what it reaches others by.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// Where it listens.
    pub(super) listens: String,
    /// What others connect to: the same, or its proxy.
    pub(super) serves: String,
    /// Where it is asked how it is.
    pub(super) probed: String,
    /// Where it finds etcd.
    pub(super) etcd: String,
    /// Where etcd listens for its peers, of which it has none.
    pub(super) peers: String,
}

/// All processes that were started.
pub(super) struct Members {
    programs: PathBuf,
    etcd: PathBuf,
    folder: Folder,
    /// On loopback nobody else would end what a killed command has left.
    keep_ledger: bool,
    children: BTreeMap<Member, Child>,
}

impl Members {
    pub(super) fn new(setup: &Setup, folder: &Folder) -> Self {
        Self {
            programs: setup.programs.clone(),
            etcd: setup.etcd.clone(),
            folder: folder.clone(),
            keep_ledger: setup.links == Links::Proxies,
            children: BTreeMap::new(),
        }
    }

    /// Starts one; `wrapped` is what its command line begins with.
    pub(super) fn start(&mut self, member: Member, address: &Address, wrapped: Vec<String>) -> Result<()> {
        if self.condition(member)? != Condition::Gone {
            bail!("{member} runs already");
        }
        let program = match member {
            Member::Etcd => self.etcd.clone(),
            Member::Node(_) => self.programs.join("fulcrum-shard-node"),
            Member::Router(_) => self.programs.join("fulcrum-router"),
        };
        let mut line = wrapped;
        line.push(program.display().to_string());
        line.extend(self.arguments(member, address));
        let path = self.folder.log(member);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open {}", path.display()))?;
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for this command, which ends its members itself.
            .process_group(0)
            .kill_on_drop(true);
        if let Member::Node(node) = member {
            command.env("FULCRUM__SHARD_NODE__FAILPOINTS", self.folder.failpoints(node));
        }
        let child = command.spawn().with_context(|| format!("start {}", line[0]))?;
        if let Some(pid) = child.id().filter(|_| self.keep_ledger) {
            self.folder.enter(i32::try_from(pid).unwrap_or(0))?;
        }
        self.children.insert(member, child);
        Ok(())
    }

    fn arguments(&self, member: Member, address: &Address) -> Vec<String> {
        let data = self.folder.data(member).display().to_string();
        if member == Member::Etcd {
            return etcd_arguments(address, data);
        }
        let mut arguments = flags([
            ("--etcd", &address.etcd),
            ("--cluster-id", CLUSTER),
            ("--listen", &address.listens),
            ("--metrics-listen", &address.probed),
        ]);
        arguments.push("--insecure-listen".to_owned());
        if let Member::Node(node) = member {
            let (number, zone) = (node.0.to_string(), format!("zone-{}", node.0));
            arguments.extend(flags([
                ("--node", &number),
                ("--zone", &zone),
                ("--data-dir", &data),
                ("--advertise", &address.serves),
            ]));
        }
        arguments
    }

    pub(super) fn pid(&self, member: Member) -> Result<i32> {
        let pid = self.children.get(&member).and_then(Child::id);
        let pid = pid.with_context(|| format!("{member} does not run"))?;
        i32::try_from(pid).context("a process without a number")
    }

    pub(super) fn signal(&mut self, member: Member, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid(member)?).context("a process without a number")?;
        let number = match signal {
            Signal::Kill => rustix::process::Signal::KILL,
            Signal::Stop => rustix::process::Signal::STOP,
            Signal::Continue => rustix::process::Signal::CONT,
            Signal::Terminate => rustix::process::Signal::TERM,
        };
        kill_process(pid, number).with_context(|| format!("signal {member}"))
    }

    /// As the system tells it.
    pub(super) fn condition(&mut self, member: Member) -> Result<Condition> {
        let Some(child) = self.children.get_mut(&member) else {
            return Ok(Condition::Gone);
        };
        if child
            .try_wait()
            .with_context(|| format!("look after {member}"))?
            .is_some()
        {
            self.children.remove(&member);
            return Ok(Condition::Gone);
        }
        let pid = self.pid(member)?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().next());
        Ok(match state {
            Some("T" | "t") => Condition::Stopped,
            Some("Z" | "X") | None => Condition::Gone,
            Some(_) => Condition::Running,
        })
    }

    /// Kills and reaps all.
    pub(super) async fn end_all(&mut self) {
        for (_, mut child) in std::mem::take(&mut self.children) {
            // One that has ended cannot be killed, which is what is wanted.
            let _ = child.start_kill();
            let _ = tokio::time::timeout(ENDS_WITHIN, child.wait()).await;
        }
    }
}

fn etcd_arguments(address: &Address, data: String) -> Vec<String> {
    let clients = format!("http://{}", address.listens);
    let peers = format!("http://{}", address.peers);
    let cluster = format!("{CLUSTER}={peers}");
    flags([
        ("--name", CLUSTER),
        ("--data-dir", &data),
        ("--initial-cluster", &cluster),
        ("--listen-client-urls", &clients),
        ("--advertise-client-urls", &clients),
        ("--listen-peer-urls", &peers),
        ("--initial-advertise-peer-urls", &peers),
    ])
}

fn flags<const N: usize>(flags: [(&str, &str); N]) -> Vec<String> {
    let both = |(flag, value): (&str, &str)| [flag.to_owned(), value.to_owned()];
    flags.into_iter().flat_map(both).collect()
}

/// Ready, by a member's own answer.
pub(in crate::backend) async fn ready(member: Member, at: &str) -> Result<(), String> {
    let path = match member {
        Member::Etcd => "/health",
        _ => "/readyz",
    };
    let asked = tokio::time::timeout(PROBE_WITHIN, get(at, path)).await;
    let answer = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(format!("does not answer: {error}")),
        Err(_) => return Err("does not answer in time".to_owned()),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") if member != Member::Etcd || body.contains("\"true\"") => Ok(()),
        _ => Err(body.trim().to_owned()),
    }
}

/// Asks for a path; the whole answer.
pub(in crate::backend) async fn get(at: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Writes until nothing more goes in.
pub(super) fn fill(file: &Path, chunk: usize) -> Result<()> {
    let mut filler = File::options().create(true).append(true).open(file)?;
    let bytes = vec![0_u8; chunk];
    let mut piece = chunk;
    // First by large pieces, then to the last byte.
    while piece > 0 {
        match filler.write_all(&bytes[..piece]) {
            Ok(()) => {}
            Err(error) if is_full(&error) => piece /= 8,
            Err(error) => return Err(error).with_context(|| format!("write {}", file.display())),
        }
    }
    Ok(())
}

/// Whether something still goes in.
pub(super) fn takes_data(file: &Path, chunk: usize) -> Result<bool> {
    let attempt = file.with_extension("attempt");
    let written = std::fs::write(&attempt, vec![0_u8; chunk]);
    // What could not be written whole may be there in part.
    let removed = std::fs::remove_file(&attempt);
    match written {
        Ok(()) => removed
            .map(|()| true)
            .with_context(|| format!("remove {}", attempt.display())),
        Err(error) if is_full(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("write {}", attempt.display())),
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::WriteZero
    )
}
