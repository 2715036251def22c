//! What happens to the cluster while Prometheus looks: every level of reads in both modes, writes, scans, a watch, transactions in each other's way, and a node that
//! is killed and comes back. An `async` keyspace writes much at that moment, so that something is lost; if nothing was, another node is killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Cluster;
use super::prometheus::Prometheus;
use crate::cluster::plan::Role;
use crate::cluster::until;
use crate::process::{self, Background};

const SYNC: &str = "check-sync";
const ASYNC: &str = "check-async";
const BANK: &str = "check-bank";
const RECORDS: &str = "500";
const LASTS: &str = "90s";
const LOST: &str = "fulcrum_shard_node_acknowledged_lost_entries_total";
/// One after the other, until something was lost.
const VICTIMS: [&str; 3] = ["node-2", "node-3", "node-1"];
const ENDS_WITHIN: Duration = Duration::from_secs(180);
/// Prometheus sees the end, too.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// Who puts load on the cluster.
struct Clients<'a> {
    fulcrum: PathBuf,
    router: String,
    logs: &'a Path,
    running: Vec<Background>,
}

pub(super) fn run(cluster: &mut Cluster, prometheus: &Prometheus, logs: &Path) -> Result<()> {
    std::fs::create_dir_all(logs).with_context(|| format!("make {}", logs.display()))?;
    let router = cluster
        .ledger
        .started
        .iter()
        .find(|one| one.role == Role::Router)
        .context("no router")?;
    let mut clients = Clients {
        fulcrum: cluster.programs.join("fulcrum"),
        router: router.address.clone(),
        logs,
        running: Vec::new(),
    };
    clients.prepare()?;
    clients.read_and_write()?;
    clients.transact(40)?;
    for victim in VICTIMS {
        println!("killing {victim}");
        cluster.kill(victim)?;
        clients.be_impatient(victim)?;
        clients.transact(12)?;
        cluster.repair()?;
        clients.transact(12)?;
        if prometheus.sum(LOST)?.is_some_and(|lost| lost > 0.0) {
            break;
        }
        println!("nothing was lost");
    }
    clients.end()?;
    pause(AFTERWARDS);
    Ok(())
}

impl Clients<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.fulcrum);
        command.args(["--router", &self.router]).args(arguments);
        command
    }

    /// Must succeed.
    fn done(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(arguments);
        match process::run(command.stdout(Stdio::null()))? {
            0 => Ok(()),
            code => bail!("{} ended with {code}", process::shown(&command)),
        }
    }

    /// Runs beside the others; what it says goes into a log.
    fn start(&mut self, name: &str, arguments: &[&str]) -> Result<()> {
        let log = File::create(self.logs.join(format!("{name}.log"))).context("make a log")?;
        let mut command = self.command(arguments);
        command.stdout(log.try_clone()?).stderr(log);
        self.running.push(Background::start(&mut command)?);
        Ok(())
    }

    fn prepare(&self) -> Result<()> {
        self.done(&["keyspace", "create", BANK])?;
        for (keyspace, mode) in [(SYNC, "sync"), (ASYNC, "async")] {
            self.done(&[
                "bench",
                keyspace,
                "--mode",
                mode,
                "--records",
                RECORDS,
                "--clients",
                "1",
                "--duration",
                "1s",
            ])?;
        }
        Ok(())
    }

    fn load(&mut self, name: &str, keyspace: &str, workload: &str, more: &[&str]) -> Result<()> {
        let mut arguments = vec![
            "bench",
            keyspace,
            "--workload",
            workload,
            "--skip-load",
            "--records",
            RECORDS,
            "--duration",
            LASTS,
        ];
        arguments.extend(more);
        self.start(name, &arguments)
    }

    fn read_and_write(&mut self) -> Result<()> {
        for level in ["linearizable", "bounded:500ms", "session", "eventual"] {
            self.load(
                &format!("sync-{level}"),
                SYNC,
                "A",
                &["--level", level, "--clients", "1"],
            )?;
        }
        for level in ["bounded:500ms", "session", "eventual"] {
            self.load(
                &format!("async-{level}"),
                ASYNC,
                "A",
                &["--level", level, "--clients", "1"],
            )?;
        }
        self.load("scans", SYNC, "E", &["--clients", "1"])?;
        self.load(
            "weaker",
            ASYNC,
            "C",
            &["--level", "linearizable", "--accept", "session", "--clients", "1"],
        )?;
        self.load(
            "pipelined",
            ASYNC,
            "A",
            &["--level", "eventual", "--clients", "4", "--pipeline", "16"],
        )?;
        self.start("watch", &["watch", SYNC])
    }

    /// Wants answers sooner than a failover takes.
    fn be_impatient(&mut self, victim: &str) -> Result<()> {
        let name = format!("impatient-{victim}");
        let arguments = [
            "bench",
            SYNC,
            "--skip-load",
            "--records",
            RECORDS,
            "--clients",
            "2",
            "--duration",
            "6s",
            "--deadline",
            "200ms",
        ];
        self.start(&name, &arguments)
    }

    /// Transactions over several groups, two at a time and on the same keys. What becomes of them is for Prometheus to tell.
    fn transact(&self, rounds: u32) -> Result<()> {
        for round in 0..rounds {
            let value = format!("put {BANK} alice {round}");
            let scripts: [[&str; 2]; 2] = [
                [&value, "put check-bank bob 1"],
                ["get check-bank bob", "put check-bank carol 1"],
            ];
            let mut pair = Vec::new();
            for [first, second] in scripts {
                let mut command = self.command(&["txn", "run", "--deadline", "3s", "-e", first, "-e", second]);
                command.stdout(Stdio::null()).stderr(Stdio::null());
                pair.push(Background::start(&mut command)?);
            }
            for one in pair {
                one.wait()?;
            }
            pause(Duration::from_millis(200));
            if let Some(code) = process::interrupted() {
                bail!("interrupted ({code})");
            }
        }
        Ok(())
    }

    /// All but the watch end by themselves.
    fn end(mut self) -> Result<()> {
        // It was started last of the first, and is ended by being dropped.
        let all = self.running.len();
        let ended = until(ENDS_WITHIN, || {
            let ended = self
                .running
                .iter_mut()
                .filter_map(|one| one.ended().ok().flatten())
                .count();
            (ended + 1 >= all || process::interrupted().is_some()).then_some(())
        });
        ended.context("the load does not end")
    }
}

fn pause(time: Duration) {
    until(time, || None::<()>);
}
