//! Containers, made by compose.
//!
//! Each member is a container on a machine of its own, which is a container, too (`composition`): processes die, machines and their networks stay.
//! Signals, pauses and starts are the engine's (`engine`); links are cut inside the machines' networks (`network`); a small disk is a volume in memory
//! (`disks`), and a lost disk a volume that was removed. The load runs in this process, outside of all that: it reaches routers by their addresses.
//!
//! What the engine says is held against the world: whoever is paused does not answer, whoever is gone refuses connections, whoever goes on answers again.
//!
//! Everything has a label with the folder of the command. A command ends what it started; what one that was killed has left is removed
//! by the next ([`left`]), which does not start beside it.
//!
//! Left out: delayed links. These kernels have no `netem`, and the proxies of [`super::process`] know who sends by the processes of this machine.

mod composition;
mod disks;
mod engine;
pub mod left;
mod network;

use super::process::folder::{self, Folder};
use super::process::members;
use super::{Ability, Backend, Condition, Link, Member, Offer, Passage, Signal};
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use composition::{container, document, machine};
use engine::on_path;
pub use engine::{DockerError, Engine};
use fulcrum_types::NodeId;
use network::{Network, Place};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const SERVICE_PORT: u16 = 7400;
const METRICS_PORT: u16 = 7500;
/// Whoever runs answers sooner; whoever is paused, never.
const ANSWERS_WITHIN: Duration = Duration::from_millis(200);
const FILE: &str = "compose.json";

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Shard-nodes.
    pub nodes: u64,
    /// Routers.
    pub routers: u64,
    /// The image with the services' programs.
    pub image: String,
    /// That of etcd.
    pub etcd_image: String,
    /// Nodes get small disks, which can be filled.
    pub small_disks: bool,
}

/// A cluster of containers.
pub struct Docker {
    engine: Engine,
    setup: Setup,
    project: String,
    folder: Folder,
    network: Network,
    /// Told to go on, and not yet heard.
    waking: BTreeSet<Member>,
}

fn all(setup: &Setup) -> Vec<Member> {
    super::all(setup.nodes, setup.routers)
}

/// What containers can do on this system.
#[must_use]
pub fn offer() -> Offer {
    offered(network::can_cut())
}

/// The same, by whether links can be cut.
pub(crate) fn offered(cut: Result<(), String>) -> Offer {
    let no_delay =
        "the kernels of containers here have no netem, and proxies know who sends by the processes of this machine";
    Offer::new([
        (Ability::Cut, cut),
        (Ability::Delay, Err(no_delay.to_owned())),
        (Ability::Fill, Ok(())),
        (Ability::Failpoints, Ok(())),
        (Ability::Unheard, Ok(())),
        (Ability::Machines, Err(super::NO_MACHINES.to_owned())),
        (Ability::Rollouts, Err(super::NO_ROLLOUTS.to_owned())),
    ])
}

impl Docker {
    /// Makes machines, network and volumes, and the members' containers; starts no member yet.
    ///
    /// # Errors
    /// What could not be made.
    pub async fn new(engine: Engine, setup: Setup, folder: Folder) -> Result<Self> {
        engine
            .has_image(&setup.image, "`cargo xtask image` builds it, --image names another")
            .await?;
        let etcd = "`cargo xtask compose images` builds one, --etcd-image names another";
        engine.has_image(&setup.etcd_image, etcd).await?;
        let failpoints = folder.failpoints_folder();
        // Nodes have a user of their own.
        std::fs::set_permissions(&failpoints, std::fs::Permissions::from_mode(0o777))
            .with_context(|| format!("open {} to nodes", failpoints.display()))?;
        let mut made = Self {
            project: format!("fulcrum-chaos-{}", std::process::id()),
            engine,
            setup,
            folder,
            network: Network::default(),
            waking: BTreeSet::new(),
        };
        match made.furnish().await {
            Ok(()) => Ok(made),
            Err(error) => {
                // Why it was not made is what matters; what could not be removed, the next command removes.
                let _ = made.end().await;
                Err(error)
            }
        }
    }

    async fn furnish(&mut self) -> Result<()> {
        let document = document(
            &self.setup,
            &self.project,
            self.folder.path(),
            &self.folder.failpoints_folder(),
        );
        let file = self.file();
        std::fs::write(&file, serde_json::to_vec_pretty(&document)?)
            .with_context(|| format!("write {}", file.display()))?;
        let machines: Vec<String> = all(&self.setup).into_iter().map(machine).collect();
        let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
        let up = [&["up", "--detach"][..], &machines].concat();
        self.engine.compose(&self.project, &file, &up).await?;
        self.create(&[]).await?;
        for member in all(&self.setup) {
            let place = self.place(member).await?;
            self.network.add(member, place);
        }
        Ok(())
    }

    /// Makes containers without starting them; all that are missing, or these.
    async fn create(&self, services: &[&str]) -> Result<()> {
        let words = [&["up", "--no-start", "--no-recreate"][..], services].concat();
        self.engine.compose(&self.project, &self.file(), &words).await?;
        Ok(())
    }

    async fn place(&self, member: Member) -> Result<Place> {
        let name = container(&self.project, &machine(member));
        let shown = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let said = self.engine.docker(&["inspect", "--format", shown, &name]).await?;
        let (pid, address) = said
            .trim()
            .split_once(' ')
            .context("the engine does not say where a machine is")?;
        match pid.parse() {
            Ok(pid) if pid > 0 && !address.is_empty() => Ok(Place {
                address: address.to_owned(),
                pid,
            }),
            _ => bail!("the machine of {member} does not run: `docker logs {name}` may say why"),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    fn name_of(&self, member: Member) -> String {
        container(&self.project, &member.to_string())
    }

    /// Where a member is asked how it is.
    fn probed(&self, member: Member) -> Result<String> {
        let port = match member {
            Member::Etcd => SERVICE_PORT,
            Member::Node(_) | Member::Router(_) => METRICS_PORT,
        };
        Ok(format!("{}:{port}", self.network.host(member)?))
    }

    async fn answers(&self, member: Member) -> Result<bool> {
        let at = self.probed(member)?;
        let asked = tokio::time::timeout(ANSWERS_WITHIN, members::get(&at, "/healthz")).await;
        Ok(matches!(asked, Ok(Ok(_))))
    }

    async fn connects(&self, member: Member) -> Result<bool> {
        let at = self.probed(member)?;
        let connecting = tokio::time::timeout(ANSWERS_WITHIN, tokio::net::TcpStream::connect(&at)).await;
        Ok(matches!(connecting, Ok(Ok(_))))
    }

    /// Adds what a member's container has logged to its file.
    async fn save_log(&self, member: Member) -> Result<()> {
        let path = self.folder.log(member);
        let log = std::fs::File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open {}", path.display()))?;
        let saved = tokio::process::Command::new("docker")
            .args(["logs", "--timestamps", &self.name_of(member)])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .status()
            .await
            .context("ask for a log")?;
        match saved.success() {
            true => Ok(()),
            false => bail!(
                "the engine does not tell what {member} has logged: {} says why",
                path.display()
            ),
        }
    }
}

#[async_trait]
impl Backend for Docker {
    fn name(&self) -> String {
        "docker".to_owned()
    }

    fn abilities(&self) -> BTreeSet<Ability> {
        let mut abilities = offer().abilities();
        if !self.setup.small_disks {
            abilities.remove(&Ability::Fill);
        }
        abilities
    }

    fn members(&self) -> Vec<Member> {
        all(&self.setup)
    }

    fn routers(&self) -> Vec<String> {
        let routers = (1..=self.setup.routers).map(Member::Router);
        let host = |member| self.network.host(member).map(|host| format!("{host}:{SERVICE_PORT}"));
        routers.filter_map(|member| host(member).ok()).collect()
    }

    async fn start(&mut self, member: Member) -> Result<()> {
        self.engine.docker(&["start", &self.name_of(member)]).await?;
        Ok(())
    }

    async fn signal(&mut self, member: Member, signal: Signal) -> Result<()> {
        let name = self.name_of(member);
        let words = match signal {
            Signal::Kill => vec!["kill", "--signal", "KILL", &name],
            Signal::Terminate => vec!["kill", "--signal", "TERM", &name],
            Signal::Stop => vec!["pause", &name],
            Signal::Continue => vec!["unpause", &name],
        };
        self.engine.docker(&words).await?;
        match signal {
            Signal::Continue => self.waking.insert(member),
            Signal::Kill | Signal::Stop | Signal::Terminate => self.waking.remove(&member),
        };
        Ok(())
    }

    async fn condition(&mut self, member: Member) -> Result<Condition> {
        let name = self.name_of(member);
        let state = self
            .engine
            .docker(&["inspect", "--format", "{{.State.Status}}", &name])
            .await?;
        Ok(match state.trim() {
            "paused" if self.answers(member).await? => Condition::Running,
            "paused" => Condition::Stopped,
            "running" if self.waking.contains(&member) && !self.answers(member).await? => Condition::Stopped,
            "running" => {
                self.waking.remove(&member);
                Condition::Running
            }
            "created" | "exited" | "dead" if self.connects(member).await? => Condition::Running,
            "created" | "exited" | "dead" => Condition::Gone,
            other => bail!("{member} is {other}, and nobody has made it so"),
        })
    }

    async fn ready(&mut self, member: Member) -> Result<(), String> {
        let at = self.probed(member).map_err(|error| error.to_string())?;
        members::ready(member, &at).await
    }

    async fn cut(&mut self, link: Link) -> Result<()> {
        self.network.cut(link).await
    }

    async fn mend(&mut self, link: Link) -> Result<()> {
        self.network.mend(link).await
    }

    async fn delay(&mut self, _: Link, _: Duration) -> Result<()> {
        bail!("links of containers cannot be delayed")
    }

    async fn passage(&mut self, link: Link) -> Result<Passage> {
        self.network.passage(link).await
    }

    async fn transit(&mut self, _: Link) -> Result<Duration> {
        bail!("links of containers are not delayed: there is nothing to measure")
    }

    async fn wipe(&mut self, node: NodeId) -> Result<()> {
        if self.condition(Member::Node(node)).await? != Condition::Gone {
            bail!("node-{} runs: its data is not taken from under it", node.0);
        }
        self.lose_volume(node).await
    }

    async fn fill(&mut self, node: NodeId) -> Result<()> {
        self.fill_disk(node).await
    }

    async fn takes_data(&mut self, node: NodeId) -> Result<bool> {
        self.disk_takes_data(node).await
    }

    async fn unfill(&mut self, node: NodeId) -> Result<()> {
        self.empty_filler(node).await
    }

    async fn set_failpoints(&mut self, node: NodeId, lines: &str) -> Result<()> {
        self.folder.set_failpoints(node, lines)
    }

    async fn failpoints(&mut self, node: NodeId) -> Result<String> {
        self.folder.seen_failpoints(node)
    }

    async fn cuts(&mut self) -> Result<Vec<Link>> {
        match offer().lacks(&[Ability::Cut]) {
            None => self.network.cuts().await,
            // Who cannot cut has cut nothing.
            Some(_) => Ok(Vec::new()),
        }
    }

    async fn filled(&mut self) -> Result<Vec<NodeId>> {
        let mut filled = Vec::new();
        for node in (1..=self.setup.nodes).map(NodeId) {
            if self.is_filled(node).await? {
                filled.push(node);
            }
        }
        Ok(filled)
    }

    async fn keep_logs(&mut self, into: &Path) -> Result<()> {
        for member in self.members() {
            self.save_log(member).await?;
        }
        self.folder.copy_logs(into)
    }

    async fn end(&mut self) -> Result<()> {
        let down = ["down", "--volumes", "--timeout", "0"];
        self.engine.compose(&self.project, &self.file(), &down).await?;
        self.folder.remove()
    }
}

/// Removes folders, and what the engine still has, of commands that died.
///
/// # Errors
/// Something could not be removed: no cluster is started beside what is not healed.
pub async fn sweep(engine: &Engine, parent: &Path) -> Result<()> {
    left::sweep(engine).await?;
    folder::sweep(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_here_has_a_reason() {
        let without_root = offered(Err("needs root".to_owned()));
        assert_eq!(
            without_root.lacks(&[Ability::Cut]).unwrap(),
            "cutting links: needs root"
        );
        assert!(without_root.lacks(&[Ability::Fill, Ability::Failpoints]).is_none());
        assert!(offered(Ok(())).lacks(&[Ability::Delay]).unwrap().contains("netem"));
        assert_eq!(
            offered(Ok(())).abilities(),
            BTreeSet::from([Ability::Cut, Ability::Fill, Ability::Failpoints, Ability::Unheard])
        );
    }
}
