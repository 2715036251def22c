//! `cargo xtask interop`: a real cluster, used by clients that no one here wrote.
//!
//! Each client is another implementation of gRPC: `grpcio` (C core) and `grpclib` (pure Python) from Python, `@grpc/grpc-js` from Node,
//! and `buf curl`, which knows nothing of Fulcrum and asks for everything by reflection. Their tests are in `tests/interop`; here is what they need
//! around them: tools below `target/interop` ([`tools`]), a cluster of processes that is ended with the command, the code of the guides in
//! `docs/clients` ([`guides`]), and a table of what holds where ([`results`]). The protocol buffers are checked, too ([`protos`]).
//!
//! None of it is needed to build or test Fulcrum: `.ci/run` runs it where its tools are, and says so where they are not.

mod guides;
mod protos;
mod results;
mod secured;
mod tools;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::cluster::plan::{CLUSTER, Role};
use crate::cluster::{Cluster, UpArgs};
use crate::etcd::{self, Etcd};
use crate::process;
use crate::report::Report;
use crate::workspace::root;
use results::Results;
use secured::Secured;
use tools::{Tool, Tools};

const BASE_PORT: u16 = 17_600;
/// A tool is not there.
const MISSING: u8 = 3;

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask interop                 every client, the protocol buffers, the guides
  cargo xtask interop python node     some of them
  cargo xtask interop --programs DIR  with programs that are built already

Needs python3 (3.10 or newer) for python, grpclib and their guide; node (20 or newer) and npm for all the rest; etcd, or apt-get to
fetch one. pip and npm install what tests/interop pins into target/interop, and nowhere else.

Exit codes: 0 all holds, 1 something does not, 3 a tool is missing, or cannot be installed.";

#[derive(Args)]
pub(crate) struct InteropArgs {
    /// What to run [default: all]
    #[arg(value_enum, value_name = "WHAT")]
    what: Vec<Part>,
    /// Use an optimised build
    #[arg(long)]
    release: bool,
    /// Take built programs from a folder, and build nothing
    #[arg(long, conflicts_with = "release", value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Port of the first router; the others are up to 200 above it
    #[arg(long, default_value_t = BASE_PORT, value_parser = clap::value_parser!(u16).range(1024..=60_000), value_name = "PORT")]
    base_port: u16,
    /// What the protocol buffers must be compatible with [default: the newest tag, else where this branch left main]
    #[arg(long, value_name = "REVISION")]
    against: Option<String>,
}

/// A client, or something else that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Python's grpcio: every feature
    Python,
    /// Node's grpc-js: every feature
    Node,
    /// buf curl, by reflection
    Buf,
    /// Python's grpclib: most features, on another HTTP/2
    Grpclib,
    /// Style of the protocol buffers, and compatibility with an earlier revision
    Protos,
    /// The code of the guides in docs/clients
    Guides,
}

impl Part {
    /// Those that fill a column of the table.
    fn is_client(self) -> bool {
        !matches!(self, Part::Protos | Part::Guides)
    }

    fn name(self) -> &'static str {
        match self {
            Part::Python => "python",
            Part::Node => "node",
            Part::Buf => "buf",
            Part::Grpclib => "grpclib",
            Part::Protos => "protos",
            Part::Guides => "guides",
        }
    }

    fn needs(self) -> &'static [Tool] {
        match self {
            Part::Python | Part::Grpclib => &[Tool::Python],
            Part::Node | Part::Buf | Part::Protos => &[Tool::Node],
            Part::Guides => &[Tool::Python, Tool::Node],
        }
    }
}

/// `cargo xtask interop ...`
///
/// # Errors
/// A tool cannot be installed, or no cluster can be had.
pub(crate) fn run(args: &InteropArgs) -> Result<u8> {
    let parts: Vec<Part> = Part::value_variants()
        .iter()
        .copied()
        .filter(|part| args.what.is_empty() || args.what.contains(part))
        .collect();
    // The cluster needs it, if there is to be one.
    if parts.iter().any(|part| *part != Part::Protos)
        && let Etcd::LeftOut(reason) = etcd::ensure(root())?
    {
        eprintln!("error: there is no etcd: {reason}");
        return Ok(MISSING);
    }
    let folder = root().join("target/interop");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let tools = match Tools::ensure(&folder, |tool| parts.iter().any(|part| part.needs().contains(&tool)))? {
        Ok(tools) => tools,
        Err(missing) => {
            eprintln!("error: {missing}");
            return Ok(MISSING);
        }
    };
    let mut report = Report::new("interop");
    if parts.contains(&Part::Protos) {
        protos::check(&mut report, &tools, args.against.as_deref())?;
    }
    let mut results = Results::default();
    if parts.iter().any(|part| *part != Part::Protos) {
        let up = UpArgs {
            routers: Some(2),
            base_port: Some(args.base_port),
            release: args.release,
            programs: args.programs.clone(),
            ..UpArgs::default()
        };
        let cluster = Cluster::start(folder.join("cluster"), up)?;
        let secured = Secured::start(
            folder.join("secured"),
            &cluster.programs,
            &etcd_of(&cluster),
            args.base_port,
        )?;
        let stage = Stage {
            secured,
            cluster,
            folder,
            tools,
        };
        for part in parts.iter().copied().filter(|part| part.is_client()) {
            report.step(part.name(), || stage.client(part, &mut results))?;
        }
        if parts.contains(&Part::Guides) {
            guides::run(&mut report, &stage)?;
        }
    }
    if !results.is_empty() {
        println!("\n{}", results.table());
    }
    Ok(report.finish())
}

/// What clients find.
struct Stage {
    /// Ended before the cluster: it uses its etcd.
    secured: Secured,
    cluster: Cluster,
    folder: PathBuf,
    tools: Tools,
}

impl Stage {
    /// Runs a client's tests; what it says of each goes into the table.
    fn client(&self, part: Part, results: &mut Results) -> Result<u8> {
        let told = self.folder.join(format!("{}.tsv", part.name()));
        let tests = root().join("tests/interop");
        let mut command = match part {
            Part::Node => self.tools.node_tests(&tests.join("node"), &told)?,
            Part::Buf => self.tools.node_tests(&tests.join("buf"), &told)?,
            Part::Grpclib => self.tools.pytest(&tests.join("python"), &["test_grpclib.py"]),
            _ => self.tools.pytest(&tests.join("python"), &["--ignore=test_grpclib.py"]),
        };
        self.describe(&mut command);
        command.env("FULCRUM_RESULTS", &told);
        // What an earlier run has left says nothing of this one.
        std::fs::write(&told, "").with_context(|| format!("write {}", told.display()))?;
        let code = process::run(&mut command)?;
        let text = std::fs::read_to_string(&told).with_context(|| format!("read {}", told.display()))?;
        results.add(part.name(), &text)?;
        Ok(code)
    }

    /// Where everything is.
    fn describe(&self, command: &mut Command) {
        let routers = addresses(&self.cluster, Role::Router);
        self.secured.describe(command);
        command
            .env("FULCRUM_ROUTER", routers.first().map_or("", String::as_str))
            .env("FULCRUM_ROUTERS", routers.join(","))
            .env("FULCRUM_NODES", addresses(&self.cluster, Role::Node).join(","))
            .env("FULCRUM_ETCD_URL", etcd_of(&self.cluster))
            .env("FULCRUM_CLUSTER_ID", CLUSTER)
            .env(
                "FULCRUM_ROUTER_PROGRAM",
                self.cluster.programs.join(Role::Router.program()),
            )
            .env("FULCRUM_PROTOS", root().join("common/proto"))
            .env("FULCRUM_STUBS", self.folder.join("stubs"));
    }
}

fn addresses(cluster: &Cluster, role: Role) -> Vec<String> {
    let members = cluster.ledger.started.iter().filter(|one| one.role == role);
    members.map(|one| one.address.clone()).collect()
}

fn etcd_of(cluster: &Cluster) -> String {
    format!("http://{}", addresses(cluster, Role::Etcd).join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_names_the_tools_that_it_needs() {
        for part in Part::value_variants() {
            assert!(!part.needs().is_empty(), "{part:?}");
        }
        assert!(!Part::Guides.is_client() && Part::Buf.is_client());
    }
}
