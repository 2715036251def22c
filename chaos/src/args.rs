//! The command line.

use crate::scenario::{ALL, Scenario};
use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use fulcrum_common::config::duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  cargo xtask chaos --list                                   what there is
  cargo xtask chaos --scenario kill-primary --runs 20        20 runs with fresh seeds
  cargo xtask chaos --scenario kill-primary --runs 1 --seed 7  one again
  cargo xtask chaos --scenario drain,rolling-restart         several; `all` is all
  cargo xtask chaos --scenario short-stalls --run-time 10m   one that lasts longer
  cargo xtask chaos --scenario random --runs 50              faults at random
  cargo xtask chaos --release --scenario all --runs 20       with an optimised build
  cargo xtask chaos --backend docker --scenario one-way      in containers, made by compose
  cargo xtask chaos --backend kind --nodes 3 --scenario machine-pause  against a release of the Helm chart

As root every member has a network namespace of its own; else all are on loopback, with proxies that hold back what members
send each other. Reports are in target/chaos: report.md, report.json, and failed/ with the logs, the history and the
command of every run that did not hold. docs/chaos.md says more.

--backend docker needs an engine on this machine and compose, the images of `cargo xtask image` and `cargo xtask compose images`, and
root for cutting links. What a place cannot do is skipped, with the reason. Its reports are in target/chaos/docker.

Exit codes: 0 all held; 1 a promise was broken, a bar missed, or a run invalid; 2 wrong usage; 3 the cluster cannot be had.";

/// Faults in a cluster of real processes, and whether every promise holds.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask chaos", bin_name = "cargo xtask chaos", after_help = EXAMPLES)]
pub struct Options {
    /// One of the two ends of a datagram, for looking at links.
    #[command(subcommand)]
    pub datagram: Option<Datagram>,
    /// Show all scenarios, and what must hold in each
    #[arg(long)]
    pub list: bool,
    /// Which: names with commas between them, or `all`
    #[arg(long, value_name = "S", value_delimiter = ',', default_value = "kill-primary")]
    pub scenario: Vec<String>,
    /// Runs of each
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub runs: u64,
    /// Of the first run; those behind it count on [default: fresh]
    #[arg(long, value_name = "X")]
    pub seed: Option<u64>,
    /// Where the cluster runs
    #[arg(long, value_enum, default_value_t = Place::Process)]
    pub backend: Place,
    /// Of `--backend kind`: the namespace of the release; which cluster is up to kubectl
    #[arg(long, value_name = "NAME", default_value = "fulcrum")]
    pub namespace: String,
    /// Of `--backend kind`: the release of the Helm chart
    #[arg(long, value_name = "NAME", default_value = "fulcrum")]
    pub release_name: String,
    /// How members reach each other
    #[arg(long, value_enum, default_value_t = LinksChoice::Auto)]
    pub links: LinksChoice,
    /// Shard-nodes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=20))]
    pub nodes: u64,
    /// How long clients ask in a run of `short-stalls`, `etcd-down` and `random`
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub run_time: Option<Duration>,
    /// Where the services' programs are
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// etcd
    #[arg(long, value_name = "FILE")]
    pub etcd: Option<PathBuf>,
    /// With the services' programs, for containers
    #[arg(long, value_name = "IMAGE", default_value = concat!("fulcrum:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// With etcd, for containers
    #[arg(long, value_name = "IMAGE", default_value = "fulcrum-etcd:debian")]
    pub etcd_image: String,
    /// Where reports go
    #[arg(long, value_name = "DIR", default_value = "target/chaos")]
    pub output: PathBuf,
}

/// The ends of a datagram.
#[derive(Debug, Subcommand)]
pub enum Datagram {
    /// Awaits one
    #[command(hide = true)]
    Hear {
        /// Where
        at: SocketAddr,
        /// For so long
        #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
        within_ms: u64,
    },
    /// Sends some
    #[command(hide = true)]
    Say {
        /// Where to
        to: SocketAddr,
    },
    /// Connects
    #[command(hide = true)]
    Reach {
        /// To whom
        to: SocketAddr,
    },
}

/// Backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Processes of this machine
    Process,
    /// Pods of a release that is there, on a Kubernetes whose machines are containers of this docker
    Kind,
    /// Containers of a docker engine on this machine
    Docker,
}

impl Place {
    /// What a command says to run there.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Place::Process => "",
            Place::Docker => " --backend docker",
            Place::Kind => " --backend kind",
        }
    }
}

/// How members reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LinksChoice {
    /// Through namespaces where that is possible and the scenario can be done so, else through proxies
    Auto,
    /// Through namespaces: needs root
    Namespaces,
    /// On loopback, through proxies
    Proxies,
}

impl Options {
    /// Where reports of this place go: they are not mixed with those of another.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        match self.backend {
            Place::Process => self.output.clone(),
            Place::Docker => self.output.join("docker"),
            Place::Kind => self.output.join("kind"),
        }
    }

    /// The scenarios asked for.
    ///
    /// # Errors
    /// There is none of a name.
    pub fn scenarios(&self) -> Result<Vec<Scenario>> {
        if self.scenario.iter().any(|name| name == "all") {
            return Ok(ALL.to_vec());
        }
        let mut found = Vec::new();
        for name in &self.scenario {
            match Scenario::named(name) {
                Some(scenario) => found.push(scenario),
                None => bail!("there is no scenario '{name}': --list shows them"),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
        let parsed =
            Options::try_parse_from(["x", "--programs", "p", "--etcd", "e", "--scenario", "drain,random"]).unwrap();
        assert_eq!(parsed.scenarios().unwrap().len(), 2);
        let wrong = Options::try_parse_from(["x", "--list", "--scenario", "nonsense"]).unwrap();
        assert!(wrong.scenarios().is_err());
    }
}
