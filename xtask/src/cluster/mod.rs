//! `cargo xtask cluster`: a cluster of processes on this machine, for trying things out.
//!
//! etcd, shard-nodes, routers and a coordinator, each a process that outlives the command. Logs, data and the ledger of what was
//! started are below `target/cluster`. `up` starts what is missing, so it also repairs what was killed; `status` shows every
//! process; `down` ends what was started here and nothing else: a process is ours only if its number, the moment when it
//! started and its program are those in the ledger ([`ledger`]).
//!
//! Reading order: [`plan`] is who is there and at which port; [`ledger`] what runs; [`probe`] how it is.
//!
//! Left out: other machines, encryption, faults.

mod ledger;
pub(crate) mod patience;
pub(crate) mod plan;
mod probe;
mod running;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::etcd;
use crate::workspace::{self, root};
pub(crate) use ledger::Ledger;
pub(crate) use ledger::Started;
pub(crate) use patience::until;
use plan::{Member, Plan, Role};
pub(crate) use running::Cluster;

/// Generous: a loaded machine is no bug.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// A node hands over what it leads, answers what is under way and syncs.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
const LOG_LINES_SHOWN: usize = 5;

#[derive(Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: Command,
    /// Where logs, data and the ledger are [default: target/cluster of the workspace]
    #[arg(long, global = true, value_name = "DIR")]
    folder: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Start it, or what of it is missing
    Up(UpArgs),
    /// End all that was started; data and logs stay
    Down,
    /// Show every process: whether it runs, whether it is ready, where it serves
    Status,
}

#[derive(Args, Clone, Default)]
pub(crate) struct UpArgs {
    /// Shard-nodes [default: 3, or as many as the cluster that is up has]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(plan::MAX_NODES)), value_name = "N")]
    pub(crate) nodes: Option<u16>,
    /// Routers [default: 1, or as many as the cluster that is up has]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(plan::MAX_ROUTERS)), value_name = "N")]
    pub(crate) routers: Option<u16>,
    /// Port of the first router; the others are up to 200 above it [default: 7400, where `fulcrum` looks]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1024..=60_000), value_name = "PORT")]
    pub(crate) base_port: Option<u16>,
    /// Start on the data of the last time; without it a cluster that is not up starts empty
    #[arg(long)]
    pub(crate) keep_data: bool,
    /// Use an optimised build
    #[arg(long)]
    pub(crate) release: bool,
    /// Take built programs from a folder, and build nothing
    #[arg(long, conflicts_with = "release", value_name = "DIR")]
    pub(crate) programs: Option<PathBuf>,
}

/// Runs one of them.
///
/// # Errors
/// What could not be done, and where to look.
pub(crate) fn run(args: &ClusterArgs) -> Result<u8> {
    let folder = args.folder.clone().unwrap_or_else(|| root().join("target/cluster"));
    match &args.command {
        Command::Up(args) => {
            let (ledger, programs) = up(&folder, args)?;
            println!("\n{}", invitation(&ledger, &programs));
            Ok(0)
        }
        Command::Down => down(&folder),
        Command::Status => status(&folder),
    }
}

/// Starts what is missing. What runs, and where the programs are.
///
/// # Errors
/// What could not be started, and where to look.
pub(crate) fn up(folder: &Path, args: &UpArgs) -> Result<(Ledger, PathBuf)> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let folder = &folder.canonicalize()?;
    let mut ledger = Ledger::load(folder)?;
    let plan = chosen(args, &ledger)?;
    let programs = programs(args)?;
    let etcd = etcd::required(root())?;
    if !ledger.any_running() {
        begin(folder, args.keep_data)?;
        ledger = Ledger::new(folder, plan);
    }
    for member in plan.members() {
        if ledger.running(&member.name).is_some() {
            continue;
        }
        let program = match member.role {
            Role::Etcd => etcd.clone(),
            role => programs.join(role.program()),
        };
        println!("starting {}", member.name);
        ledger.start(&member, &program, &plan)?;
        if member.role == Role::Etcd {
            until_ready(&ledger, &member)?;
        }
    }
    for member in plan.members() {
        until_ready(&ledger, &member)?;
    }
    Ok((ledger, programs))
}

/// The shape that is asked for; that of the cluster that is up, where nothing is said.
fn chosen(args: &UpArgs, ledger: &Ledger) -> Result<Plan> {
    let present = ledger.any_running().then_some(ledger.plan);
    let base = present.unwrap_or_default();
    let plan = Plan {
        nodes: args.nodes.unwrap_or(base.nodes),
        routers: args.routers.unwrap_or(base.routers),
        base_port: args.base_port.unwrap_or(base.base_port),
    };
    match present {
        Some(present) if present != plan => bail!(
            "a cluster of {} nodes and {} routers at port {} is up: `cargo xtask cluster down` first",
            present.nodes,
            present.routers,
            present.base_port
        ),
        _ => Ok(plan),
    }
}

fn programs(args: &UpArgs) -> Result<PathBuf> {
    if let Some(built) = &args.programs {
        return built
            .canonicalize()
            .with_context(|| format!("look into {}", built.display()));
    }
    workspace::programs(args.release)
}

/// Nothing of it runs: what is left of the last time goes, unless it is to be kept. Logs go in any case.
fn begin(folder: &Path, keep_data: bool) -> Result<()> {
    let old: &[&str] = if keep_data { &["logs"] } else { &["logs", "data"] };
    for name in old {
        let path = folder.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    for name in ["logs", "data"] {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    Ok(())
}

fn until_ready(ledger: &Ledger, member: &Member) -> Result<()> {
    let log = ledger.log(&member.name);
    let mut reason = String::new();
    let settled = until(READY_WITHIN, || match ledger.running(&member.name).map(probe::ready) {
        Some(Err(why)) => {
            reason = why;
            None
        }
        Some(Ok(())) => Some(true),
        None => Some(false),
    });
    match settled {
        Some(true) => Ok(()),
        Some(false) => bail!(
            "{} has ended; {} says:\n{}",
            member.name,
            log.display(),
            last_lines(&log)
        ),
        None => bail!("{} is not ready: {reason}; look into {}", member.name, log.display()),
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

fn invitation(ledger: &Ledger, programs: &Path) -> String {
    let plan = &ledger.plan;
    let members: Vec<Member> = plan.members().collect();
    let routers = members.iter().filter(|member| member.role == Role::Router);
    let routers: Vec<String> = routers.map(Member::address).collect();
    let router = match plan.base_port {
        plan::FULCRUM_LOOKS_AT => String::new(),
        _ => format!(" --router {}", routers[0]),
    };
    let fulcrum = format!("{}{router}", programs.join("fulcrum").display());
    format!(
        "up: {} shard-nodes, routers at {}\n\
         logs and data: {}\n\
         try:\n  \
           {fulcrum} keyspace create orders\n  \
           {fulcrum} put orders order/1001 paid\n  \
           {fulcrum} status\n\
         then: cargo xtask cluster status, cargo xtask cluster down",
        plan.nodes,
        routers.join(", "),
        ledger.folder().display()
    )
}

/// Ends what was started.
///
/// # Errors
/// The ledger cannot be read or written.
pub(crate) fn down(folder: &Path) -> Result<u8> {
    let mut ledger = Ledger::load(folder)?;
    if ledger.started.is_empty() {
        println!("nothing is up");
        return Ok(0);
    }
    // Whoever needs others goes first: etcd is needed to the end.
    for roles in [&[Role::Router, Role::Coordinator][..], &[Role::Node], &[Role::Etcd]] {
        let leaving: Vec<&Started> = ledger.started.iter().filter(|one| roles.contains(&one.role)).collect();
        stop(&leaving);
    }
    ledger.forget()?;
    Ok(0)
}

/// Asks all at once, and gives them time.
fn stop(leaving: &[&Started]) {
    for started in leaving {
        match started.terminate() {
            true => println!("stopping {}", started.name),
            false => println!("{} has ended before", started.name),
        }
    }
    until(STOPPED_WITHIN, || {
        let all_ended = !leaving.iter().any(|started| started.is_running());
        all_ended.then_some(())
    });
    for started in leaving.iter().filter(|started| started.is_running()) {
        println!("{} does not stop: killed", started.name);
        started.kill();
    }
}

fn status(folder: &Path) -> Result<u8> {
    let ledger = Ledger::load(folder)?;
    if ledger.started.is_empty() {
        println!("nothing is up: `cargo xtask cluster up`");
        return Ok(1);
    }
    let mut all_well = true;
    println!(
        "{:<12} {:>8}  {:<22} {:<38} state",
        "process", "pid", "address", "metrics"
    );
    for started in &ledger.started {
        let state = match started.is_running() {
            false => Err("has ended: `cargo xtask cluster up` starts it again".to_owned()),
            true => probe::ready(started),
        };
        all_well &= state.is_ok();
        println!(
            "{:<12} {:>8}  {:<22} {:<38} {}",
            started.name,
            started.pid,
            started.address,
            started.metrics,
            state.err().unwrap_or_else(|| "ready".to_owned())
        );
    }
    println!("logs and data: {}", folder.display());
    Ok(u8::from(!all_well))
}
