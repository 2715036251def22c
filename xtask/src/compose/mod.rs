//! `cargo xtask compose`: `deploy/compose.yaml` for real, where its images cannot be pulled.
//!
//! `images` builds stand-ins from packages ([`images`]), which `deploy/compose.local.yaml` names; `up` starts all of it and waits until everybody is
//! healthy; `test` uses it as a user would ([`mod@test`]); `down` ends it. Everything goes through the client of docker and compose, the plugin or
//! docker-compose 1.29. No test or check of the workspace needs it.
//!
//! Left out: Grafana, which is in none of the registries that packages come from.

mod images;
mod test;
mod traced;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::cluster::until;
use crate::image::{docker, ensure_docker, succeeds_silently};
use crate::package::{on_path, succeeds};
use crate::process;
use crate::workspace::root;

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask image --binaries target/release   first: the image of Fulcrum itself
  cargo xtask compose up        etcd, 3 shard-nodes, 2 routers, a coordinator, Prometheus and a taker of traces, all healthy
  cargo xtask compose test      writes, reads and transactions by both routers; what Prometheus sees; a trace; restarts; down and up again
  cargo xtask compose down      ends it; data stays. With --volumes it goes, too

Needs docker, and compose as its plugin or docker-compose. Images that stand in for upstream's are built of Debian's packages (and, for traces,
of a wheel: needs python3 with pip) below target/deploy; nothing is installed. Ports are those of deploy/compose.yaml, on loopback.
Grafana is left out: it is in none of these registries.";

const PROJECT: &str = "fulcrum";
/// Generous: a loaded machine is no bug.
const HEALTHY_WITHIN: Duration = Duration::from_secs(180);
const FILES: [&str; 2] = ["deploy/compose.yaml", "deploy/compose.local.yaml"];
const IMAGE: &str = concat!("fulcrum:", env!("CARGO_PKG_VERSION"));
const COLLECTOR: &str = "otel-collector";

#[derive(Args)]
pub(crate) struct ComposeArgs {
    #[command(subcommand)]
    command: ComposeCommand,
}

#[derive(Subcommand)]
enum ComposeCommand {
    /// Build the images that stand in for those that cannot be pulled
    Images,
    /// Start everything, and wait until it is healthy
    Up,
    /// Start everything, use it, restart it piece by piece, end it and start it again: no data is lost, and all is seen by Prometheus
    Test,
    /// End it; data stays
    Down {
        /// Remove the data, too
        #[arg(long)]
        volumes: bool,
    },
}

/// `cargo xtask compose ...`
pub(crate) fn run(args: &ComposeArgs) -> Result<u8> {
    ensure_docker()?;
    match args.command {
        ComposeCommand::Images => images::ensure().map(|_| 0),
        ComposeCommand::Up => up(&Compose::find()?).map(|_| 0),
        ComposeCommand::Test => {
            let compose = Compose::find()?;
            let services = up(&compose)?;
            test::run(&compose, &services)
        }
        ComposeCommand::Down { volumes } => {
            let words: &[&str] = if volumes { &["down", "--volumes"] } else { &["down"] };
            Compose::find()?.run(words).map(|()| 0)
        }
    }
}

/// The images for who runs containers of its own.
pub(crate) fn ensure_images() -> Result<()> {
    ensure_docker()?;
    images::ensure().map(drop)
}

/// How compose is called here.
struct Compose(Vec<&'static str>);

impl Compose {
    fn find() -> Result<Self> {
        if succeeds_silently(&["compose", "version"])? {
            return Ok(Self(vec!["docker", "compose"]));
        }
        match on_path("docker-compose") {
            Some(_) => Ok(Self(vec!["docker-compose"])),
            None => bail!("there is no compose: install docker's plugin for it, or docker-compose 1.29 or newer"),
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.0[0]);
        command
            .current_dir(root())
            .args(&self.0[1..])
            .args(["--project-name", PROJECT]);
        FILES.iter().for_each(|file| {
            command.args(["--file", file]);
        });
        command.args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        succeeds(&mut self.command(words))
    }

    /// What the containers say of themselves, by service: `healthy`, or what else; `running` for who has no check.
    fn health(&self) -> Result<BTreeMap<String, String>> {
        let label = format!("label=com.docker.compose.project={PROJECT}");
        let ids = process::output_of(&mut docker(&["ps", "--all", "--quiet", "--filter", &label]))?;
        let ids = String::from_utf8_lossy(&ids).into_owned();
        let shown = "{{index .Config.Labels \"com.docker.compose.service\"}} \
                     {{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}";
        let mut inspect = docker(&["inspect", "--format", shown]);
        inspect.args(ids.lines());
        let said = match ids.is_empty() {
            true => Vec::new(),
            false => process::output_of(inspect.stderr(Stdio::inherit()))?,
        };
        let said = String::from_utf8_lossy(&said).into_owned();
        let pairs = said.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs
            .map(|(service, state)| (service.to_owned(), state.to_owned()))
            .collect())
    }

    /// Waits until all of them are healthy, or run if nobody can tell.
    fn until_healthy(&self, services: &[String]) -> Result<()> {
        let mut last = String::new();
        let healthy = until(HEALTHY_WITHIN, || match self.health() {
            Ok(health) => {
                last = ailing(services, &health).join(", ");
                last.is_empty().then_some(())
            }
            Err(error) => {
                last = format!("{error:#}");
                None
            }
        });
        healthy.with_context(|| format!("not healthy after {} s: {last}", HEALTHY_WITHIN.as_secs()))
    }
}

fn ailing(services: &[String], health: &BTreeMap<String, String>) -> Vec<String> {
    let state = |service: &String| health.get(service).map_or("not there", String::as_str).to_owned();
    let all = services.iter().map(|service| (service, state(service)));
    let is_well = |service: &str, state: &str| match service {
        COLLECTOR => state == "running",
        _ => state == "healthy",
    };
    all.filter(|(service, state)| !is_well(service, state))
        .map(|(service, state)| format!("{service} is {state}"))
        .collect()
}

/// Starts everything that can be had; the services.
fn up(compose: &Compose) -> Result<Vec<String>> {
    if !succeeds_silently(&["image", "inspect", IMAGE])? {
        bail!("there is no image {IMAGE}: `cargo xtask image --binaries target/release` builds it");
    }
    let missing = images::ensure()?;
    let listed = process::output_of(&mut compose.command(&["config", "--services"]))?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let services: Vec<String> = listed
        .lines()
        .filter(|service| *service != "grafana" && !missing.contains(service))
        .map(str::to_owned)
        .collect();
    let mut words = vec!["up", "--detach"];
    words.extend(services.iter().map(String::as_str));
    compose.run(&words)?;
    compose.until_healthy(&services)?;
    println!("healthy: {}", services.join(", "));
    println!("not run: grafana, which is in none of the registries that packages come from");
    println!(
        "routers at 127.0.0.1:7400 and 127.0.0.1:7410, Prometheus at http://127.0.0.1:9090; `cargo xtask compose down` ends it"
    );
    Ok(services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_not_healthy_is_named() {
        let services = ["etcd", "router-1", COLLECTOR].map(str::to_owned);
        let health = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let well = health(&[("etcd", "healthy"), ("router-1", "healthy"), (COLLECTOR, "running")]);
        assert!(ailing(&services, &well).is_empty());
        let ill = health(&[("etcd", "running"), ("router-1", "starting")]);
        assert_eq!(
            ailing(&services, &ill),
            ["etcd is running", "router-1 is starting", "otel-collector is not there"]
        );
    }

    #[test]
    fn files_that_are_named_are_there_and_stand_ins_have_the_names_that_they_say() {
        let local = std::fs::read_to_string(root().join(FILES[1])).unwrap();
        assert!(root().join(FILES[0]).is_file());
        for image in images::names() {
            assert!(local.contains(&format!("image: {image}\n")), "{image}");
        }
    }
}
