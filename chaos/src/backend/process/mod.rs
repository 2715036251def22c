//! Processes of this machine.
//!
//! As root each member lives in a network namespace of its own, and a namespace in their middle routes between them (`namespaces`): a
//! link that is cut loses packets in silence, as a broken switch does. Without root, or for delays, all are on loopback, and what
//! members send each other goes through proxies in this process (`proxies`), which hold bytes back.
//!
//! Nothing outlives the command. As root, everything is inside namespaces of processes, mounts and network that end with
//! their first process, which is this one ([`enclosure`]); on loopback, children are killed when dropped, and one whose parent was killed is
//! found by the ledger in the folder and killed by the next run ([`folder`]).

pub mod datagrams;
pub mod enclosure;
pub mod folder;
pub(in crate::backend) mod members;
mod namespaces;
mod proxies;

use super::{Ability, Backend, Condition, Link, Member, Offer, Passage, Signal};
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use folder::Folder;
use fulcrum_types::NodeId;
use members::Members;
use namespaces::Namespaces;
use proxies::Proxies;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How members reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Through namespaces.
    Namespaces,
    /// On loopback, through proxies.
    Proxies,
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How members reach each other.
    pub links: Links,
    /// Shard-nodes.
    pub nodes: u64,
    /// Routers.
    pub routers: u64,
    /// Where the services' programs are.
    pub programs: PathBuf,
    /// etcd.
    pub etcd: PathBuf,
    /// Nodes get small disks, which can be filled.
    pub small_disks: bool,
}

/// The network between members.
enum Network {
    Namespaces(Namespaces),
    Proxies(Proxies),
}

/// A cluster of processes.
pub struct Processes {
    setup: Setup,
    members: Members,
    network: Network,
    folder: Folder,
}

impl Processes {
    /// Makes the network; starts nothing yet.
    ///
    /// # Errors
    /// What could not be made.
    pub async fn new(setup: Setup, folder: Folder) -> Result<Self> {
        let all: Vec<Member> = all(&setup);
        let network = match setup.links {
            Links::Namespaces => Network::Namespaces(Namespaces::make(&all).await?),
            Links::Proxies => Network::Proxies(Proxies::make(&all).await?),
        };
        let members = Members::new(&setup, &folder);
        let mut made = Self {
            setup,
            members,
            network,
            folder,
        };
        if made.setup.small_disks {
            for node in 1..=made.setup.nodes {
                made.mount_disk(NodeId(node)).await?;
            }
        }
        Ok(made)
    }

    fn data(&self, node: NodeId) -> PathBuf {
        self.folder.data(Member::Node(node))
    }

    /// The directory of a node on a file system of its own.
    async fn mount_disk(&mut self, node: NodeId) -> Result<()> {
        let data = self.data(node);
        std::fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
        let size = format!("size={SMALL_DISK_BYTES}");
        let target = data.display().to_string();
        let mount = ["-t", "tmpfs", "-o", &size, "fulcrum-chaos", &target];
        enclosure::command("mount", &mount).await
    }

    fn filler(&self, node: NodeId) -> PathBuf {
        self.data(node).join(FILLER)
    }
}

fn all(setup: &Setup) -> Vec<Member> {
    super::all(setup.nodes, setup.routers)
}

/// What processes can do whose links are these.
#[must_use]
pub fn offer(links: Links) -> Offer {
    let (delay, fill) = match links {
        Links::Namespaces => (Err("it needs --links proxies or auto".to_owned()), Ok(())),
        Links::Proxies => (Ok(()), Err("it needs root and namespaces".to_owned())),
    };
    Offer::new([
        (Ability::Cut, Ok(())),
        (Ability::Delay, delay),
        (Ability::Fill, fill),
        (Ability::Failpoints, Ok(())),
        (Ability::Unheard, Ok(())),
        (Ability::Machines, Err(super::NO_MACHINES.to_owned())),
        (Ability::Rollouts, Err(super::NO_ROLLOUTS.to_owned())),
    ])
}

/// Enough for the engine's journals and a run's data.
const SMALL_DISK_BYTES: u64 = 256 * 1024 * 1024;
const FILLER: &str = "filler";
/// Written at once when a disk is filled.
const CHUNK: usize = 1024 * 1024;

#[async_trait]
impl Backend for Processes {
    fn name(&self) -> String {
        match self.network {
            Network::Namespaces(_) => "process, namespaces".to_owned(),
            Network::Proxies(_) => "process, loopback and proxies".to_owned(),
        }
    }

    fn abilities(&self) -> BTreeSet<Ability> {
        let mut abilities = offer(self.setup.links).abilities();
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
        let address = |member| match &self.network {
            Network::Namespaces(network) => network.address(member).serves,
            Network::Proxies(network) => network.address(member).serves,
        };
        routers.map(address).collect()
    }

    async fn start(&mut self, member: Member) -> Result<()> {
        match &mut self.network {
            Network::Namespaces(network) => {
                let wrapped = network.wrap(member);
                self.members.start(member, &network.address(member), wrapped)
            }
            Network::Proxies(network) => {
                self.members.start(member, &network.address(member), Vec::new())?;
                network.tell(member, self.members.pid(member)?);
                Ok(())
            }
        }
    }

    async fn signal(&mut self, member: Member, signal: Signal) -> Result<()> {
        self.members.signal(member, signal)
    }

    async fn condition(&mut self, member: Member) -> Result<Condition> {
        self.members.condition(member)
    }

    async fn ready(&mut self, member: Member) -> Result<(), String> {
        let at = match &self.network {
            Network::Namespaces(network) => network.address(member).probed,
            Network::Proxies(network) => network.address(member).probed,
        };
        members::ready(member, &at).await
    }

    async fn cut(&mut self, link: Link) -> Result<()> {
        match &mut self.network {
            Network::Namespaces(network) => network.cut(link).await,
            Network::Proxies(network) => {
                network.cut(link);
                Ok(())
            }
        }
    }

    async fn mend(&mut self, link: Link) -> Result<()> {
        match &mut self.network {
            Network::Namespaces(network) => network.mend(link).await,
            Network::Proxies(network) => {
                network.mend(link);
                Ok(())
            }
        }
    }

    async fn delay(&mut self, link: Link, by: Duration) -> Result<()> {
        match &mut self.network {
            Network::Namespaces(_) => bail!("namespaces cannot delay: this needs links through proxies"),
            Network::Proxies(network) => {
                network.delay(link, by);
                Ok(())
            }
        }
    }

    async fn passage(&mut self, link: Link) -> Result<Passage> {
        match &mut self.network {
            Network::Namespaces(network) => network.passage(link).await,
            Network::Proxies(network) => network.passage(link).await,
        }
    }

    async fn transit(&mut self, link: Link) -> Result<Duration> {
        match &mut self.network {
            Network::Namespaces(_) => bail!("namespaces do not delay: there is nothing to measure"),
            Network::Proxies(network) => network.transit(link).await,
        }
    }

    async fn wipe(&mut self, node: NodeId) -> Result<()> {
        if self.members.condition(Member::Node(node))? != Condition::Gone {
            bail!("node-{} runs: its data is not taken from under it", node.0);
        }
        folder::empty(&self.data(node), None)
    }

    async fn fill(&mut self, node: NodeId) -> Result<()> {
        let file = self.filler(node);
        if !self.setup.small_disks {
            bail!(
                "node-{} has no disk of its own: that of this machine is not filled",
                node.0
            );
        }
        members::fill(&file, CHUNK)
    }

    async fn takes_data(&mut self, node: NodeId) -> Result<bool> {
        members::takes_data(&self.filler(node), CHUNK)
    }

    async fn unfill(&mut self, node: NodeId) -> Result<()> {
        let file = self.filler(node);
        std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))
    }

    async fn set_failpoints(&mut self, node: NodeId, lines: &str) -> Result<()> {
        self.folder.set_failpoints(node, lines)
    }

    async fn failpoints(&mut self, node: NodeId) -> Result<String> {
        self.folder.seen_failpoints(node)
    }

    async fn cuts(&mut self) -> Result<Vec<Link>> {
        Ok(match &self.network {
            Network::Namespaces(network) => network.cuts(),
            Network::Proxies(network) => network.cuts(),
        })
    }

    async fn filled(&mut self) -> Result<Vec<NodeId>> {
        let nodes = (1..=self.setup.nodes).map(NodeId);
        Ok(nodes.filter(|node| self.filler(*node).exists()).collect())
    }

    async fn keep_logs(&mut self, into: &Path) -> Result<()> {
        self.folder.copy_logs(into)
    }

    async fn end(&mut self) -> Result<()> {
        self.members.end_all().await;
        if self.setup.small_disks {
            for node in 1..=self.setup.nodes {
                let target = self.data(NodeId(node)).display().to_string();
                enclosure::command("umount", &["--lazy", &target]).await?;
            }
        }
        if let Network::Namespaces(network) = &mut self.network {
            network.remove().await?;
        }
        self.folder.remove()
    }
}
